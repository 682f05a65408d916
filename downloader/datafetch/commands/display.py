"""Progress on standard error, of fetches and of the commands that only look."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datafetch.progress import ProgressTracker


class Display(Protocol):
    """Shows progress between `start` and `close`."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """Show the last state and end."""


class _Silence:
    def start(self) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


@contextmanager
def fetch_display(how: str, tracker: "ProgressTracker") -> Iterator[None]:
    """Show how a fetch goes: `bar`, `json`, `none`, or `auto` for what the streams are."""
    if how == "auto":
        how = "bar" if sys.stdout.isatty() and sys.stderr.isatty() else "json"
    with _shown(_display(how, tracker)):
        yield


@contextmanager
def watch_display(tracker: "ProgressTracker", label: str) -> Iterator[None]:
    """Show on a terminal how a command goes that only looks; standard output is its answer's."""
    with _shown(_display("bar" if sys.stderr.isatty() else "none", tracker, label)):
        yield


@contextmanager
def _shown(display: Display) -> Iterator[None]:
    display.start()
    try:
        yield
    finally:
        display.close()


def _display(how: str, tracker: "ProgressTracker", label: str | None = None) -> Display:
    if how == "bar":
        from datafetch.terminal import ProgressBars

        return ProgressBars(tracker, label=label)
    if how == "json":
        from datafetch.progress import LineEmitter

        return LineEmitter(tracker)
    return _Silence()
