"""Progress bars on a terminal, on stderr. The only module that imports rich, and only when bars are shown."""

import threading
from typing import TYPE_CHECKING

from datafetch.progress import ProgressTracker
from datafetch_api.quantities import format_bytes
from datafetch_api.report import Progress, Stage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_FRAME_SECONDS = 0.2
_LABELS = {
    Stage.WAITING: "Waiting",
    Stage.LISTING: "Listing",
    Stage.FETCHING: "Fetching",
    Stage.PUBLISHING: "Publishing",
}


class ProgressBars:
    """One bar over all bytes with files, speed and time left, drawn from the tracker's state until closed.

    `label` stands before it in place of the tracker's stage, once that is more than listing.
    """

    def __init__(self, tracker: ProgressTracker, console: "Console | None" = None, label: str | None = None) -> None:
        self._labels = _LABELS | ({Stage.FETCHING: label} if label else {})
        self._tracker = tracker
        self._closing = threading.Event()
        self._bars = _make_bars(console)
        self._task: TaskID = self._bars.add_task("Listing", total=None, amount="")
        self._thread = threading.Thread(target=self._run, name="progress-bars", daemon=True)

    def start(self) -> None:
        """Show the bars."""
        self._bars.start()
        self._thread.start()

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        self._closing.set()
        self._thread.join(timeout=1)
        self._draw(self._tracker.snapshot())
        self._bars.stop()

    def _run(self) -> None:
        while not self._closing.wait(_FRAME_SECONDS):
            self._draw(self._tracker.snapshot())

    def _draw(self, progress: Progress) -> None:
        label = self._labels[progress.stage]
        self._bars.update(
            self._task,
            description=f"{label}: {progress.message}" if progress.message else label,
            completed=progress.completed_bytes,
            total=progress.total_bytes,
            amount=_amount(progress),
        )


def _amount(progress: Progress) -> str:
    """Return bytes, files and speed, as far as they are known."""
    parts = []
    if progress.total_bytes is not None:
        parts.append(f"{format_bytes(progress.completed_bytes)} of {format_bytes(progress.total_bytes)}")
        parts.append(f"{progress.completed_files:,}/{progress.total_files:,} files")
    elif progress.completed_bytes:
        parts.append(f"{format_bytes(progress.completed_bytes)}, {progress.completed_files:,} files")
    if progress.bytes_per_second:
        parts.append(f"{format_bytes(progress.bytes_per_second)}/s")
    return "  ".join(parts)


def _make_bars(console: "Console | None") -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        refresh_per_second=int(1 / _FRAME_SECONDS),
        redirect_stdout=False,
    )
