"""Puts the tables between their markers in docs/performance.md. Writes that file only."""

from pathlib import Path

from .install import REPOSITORY

FILE = REPOSITORY / "docs" / "performance.md"
BEGIN = "<!-- peers: begin, written by `make bench` -->"
END = "<!-- peers: end -->"


def write(tables: str, path: Path = FILE) -> None:
    """Replace what stands between the markers. Raises ValueError where they are missing."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the lines {BEGIN!r} and {END!r}")
    path.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}")
