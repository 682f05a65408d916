"""What `make chaos` and `make chaos-cluster` leave: rows of a table, and the page that they are written into."""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

_MOST = "at most: "


class Record:
    """The facts of one test."""

    def __init__(self, note: Callable[[str, object], None]) -> None:
        self._note = note

    def add(self, name: str, amount: float) -> None:
        """Note an amount; the report sums it over the rounds."""
        self._note(name, amount)

    def most(self, name: str, amount: float) -> None:
        """Note an amount of which the report gives the greatest."""
        self._note(_MOST + name, amount)


@dataclass
class Row:
    """What came of all rounds of one scenario."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)

    def take(self, facts: Mapping[str, object], report: pytest.TestReport) -> None:
        """Take in the report of one phase of a test; what was noted stands in the last."""
        self.seconds += report.duration
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])
        if report.when != "teardown":
            return
        self.passed += 1
        for name, amount in facts.items():
            if isinstance(amount, int | float):
                before = self.facts.get(name, 0.0)
                self.facts[name] = max(before, amount) if name.startswith(_MOST) else before + amount

    def to_markdown(self, name: str) -> str:
        """Return the row as a line of a table."""
        rounds = f"{self.passed}"
        result = "passed" if not self.failed else "**failed**: " + ", ".join(sorted(set(self.failed)))
        return f"| {name} | {rounds} | {result} | {'; '.join(map(_fact, self.facts.items()))} |"


def _fact(item: tuple[str, float]) -> str:
    name, amount = item
    number = f"{amount:,.0f}" if amount >= 10 or amount == int(amount) else f"{amount:.1f}"
    if name.startswith(_MOST):
        return f"{name.removeprefix(_MOST)}: at most {number}"
    return f"{name}: {number}"


@dataclass(frozen=True)
class Command:
    """Who writes a table, and what it says of itself."""

    name: str
    """As it is typed."""
    noun: str
    """What a row is."""
    tested: tuple[str, ...]
    """What of the tree the tests are of."""
    workers: str = ""
    """How many tests ran at a time, in words."""


def write(page: Path, command: Command, rows: Mapping[str, Row], *, seed: int, passed: bool) -> None:
    """Replace what the last run wrote into the page. Raises ValueError where the page has no place for it."""
    begin, end = (f"<!-- written by {command.name}: {edge} -->" for edge in ("begin", "end"))
    head, begun, rest = page.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"{page} has no lines {begin!r} and {end!r}; put them where the table belongs")
    minutes = f"{sum(row.seconds for row in rows.values()) / 60:.0f} minutes of tests"
    lines = [
        f"- Result: {'passed' if passed else '**failed**'}",
        f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- Commit: {_commit(page.parent, command.tested)}",
        f"- Seed: {seed} (`{command.name} SEED={seed}`)",
        f"- Time: {minutes}{f', {command.workers}' if command.workers else ''}",
        "",
        f"| {command.noun} | rounds | result | what happened in all rounds |",
        "|---|---|---|---|",
        *(rows[name].to_markdown(name) for name in sorted(rows)),
    ]
    page.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + tail)


def _commit(directory: Path, tested: tuple[str, ...]) -> str:
    number = _git(directory, "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = _git(directory, "status", "--porcelain", "--", *(f":/{folder}" for folder in tested))
    return f"{number} and changes that are not committed" if changed else number


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    return done.stdout.strip()
