"""What `make chaos-cluster` leaves in the page of reliability; the rows are those of tests/chaos."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from chaos.record import Row

BEGIN = "<!-- written by make chaos-cluster: begin -->"
END = "<!-- written by make chaos-cluster: end -->"
_TESTED = (":/operator", ":/downloader", ":/crds", ":/helm", ":/hack", ":/tests")


def write(page: Path, rows: Mapping[str, Row], *, seed: int, passed: bool) -> None:
    """Replace what the last run wrote into the page. Raises ValueError where the page has no place for it."""
    head, begin, rest = page.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r}; put them where the table belongs")
    lines = [
        f"- Result: {'passed' if passed else '**failed**'}",
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- Commit: {_commit(page.parent)}",
        f"- Seed: {seed} (`make chaos-cluster SEED={seed}`)",
        f"- Time: {sum(row.seconds for row in rows.values()) / 60:.0f} minutes of tests",
        "",
        "| fault | rounds | result | what happened in all rounds |",
        "|---|---|---|---|",
        *(rows[name].to_markdown(name) for name in sorted(rows)),
    ]
    page.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail)


def _commit(directory: Path) -> str:
    number = _git(directory, "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = _git(directory, "status", "--porcelain", "--", *_TESTED)
    return f"{number} and changes that are not committed" if changed else number


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    return done.stdout.strip()
