"""A fetch as an object: started, waited for, awaited, watched and cancelled. The fetch itself is the engine's.

task = datafetch.fetch("s3://bucket/corpus/", "data/corpus")
task.start()                        # does not block
outcome = task.wait(timeout=600)    # blocks, and raises what the fetch ended with
outcome = await task                # the same for asyncio; cancelling that cancels the fetch
"""

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from html import escape
from typing import Any, Self

from datafetch.engine import FetchOutcome, Opener, run_fetch
from datafetch.errors import (
    DataFetchError,
    InternalError,
    InterruptedByRequestError,
    InvalidConfigError,
    StillRunningError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import open_source
from datafetch_api.config import DownloadConfig
from datafetch_api.quantities import format_bytes
from datafetch_api.report import Progress, Stage

POLL_SECONDS = 2.0
_FAREWELL_SECONDS = 3.0
"""How long a program that ends waits for its fetches to note what they have."""
_running: "set[FetchTask]" = set()


class FetchStatus(StrEnum):
    """Where a task stands."""

    PENDING = "Pending"
    """Not started yet."""
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    """What was fetched is kept; started again, it goes on from there."""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is, at one moment."""

    stage: Stage
    """Waiting for another fetch into the same directory, Listing, Fetching, Publishing."""
    bytes: int
    """Bytes that are in place: those that came, and those that were there."""
    total_bytes: int | None
    """None until everything has been listed."""
    files: int
    total_files: int | None
    percent: int | None
    """Whole percent of the bytes, 100 only when all are in place; None until everything has been listed."""
    rate: int
    """Bytes per second over the last ten seconds."""
    message: str | None = None
    """Why it waits, where it does."""

    @classmethod
    def of(cls, progress: Progress) -> Self:
        """Return the engine's progress in the words of the Python API."""
        return cls(
            stage=progress.stage,
            bytes=progress.completed_bytes,
            total_bytes=progress.total_bytes,
            files=progress.completed_files,
            total_files=progress.total_files,
            percent=progress.percent,
            rate=progress.bytes_per_second,
            message=progress.message,
        )

    def __str__(self) -> str:
        """Return it in one line for people."""
        parts = [f"{self.stage} {self.percent}%" if self.percent is not None else str(self.stage)]
        total = "" if self.total_bytes is None else f" of {format_bytes(self.total_bytes)}"
        parts.append(f"{format_bytes(self.bytes)}{total}")
        parts.append(
            f"{self.files:,} files" if self.total_files is None else f"{self.files:,}/{self.total_files:,} files"
        )
        if self.rate:
            parts.append(f"{format_bytes(self.rate)}/s")
        return ", ".join(parts) + (f" ({self.message})" if self.message else "")

    def _repr_html_(self) -> str:
        value = "" if self.percent is None else f' value="{self.percent}"'
        return f'<progress max="100"{value}></progress> <span>{escape(str(self))}</span>'


class FetchTask:
    """One fetch. Thread-safe; runs in a thread of its own, and ends when the program ends.

    One that has ended may be started again: it brings what is missing, or has changed.
    """

    def __init__(
        self,
        config: DownloadConfig,
        what: str,
        *,
        max_workers: int | None = None,
        opener: Opener = open_source,
        request: str | None = None,
        anew: bool = False,
    ) -> None:
        self._config = config
        self._what = what
        self._max_workers = max_workers
        self._opener = opener
        self._request = request
        self._anew = anew
        self._lock = threading.Lock()
        self._status = FetchStatus.PENDING
        self._outcome: FetchOutcome | None = None
        self._error: DataFetchError | None = None
        self._tracker = ProgressTracker()
        self._cancel = threading.Event()
        self._ended = threading.Event()
        self._when_ended: list[Callable[[], object]] = []

    @property
    def directory(self) -> str:
        """Where the data goes."""
        return self._config.download_root or "."

    @property
    def status(self) -> FetchStatus:
        """Where the task stands."""
        return self._status

    @property
    def progress(self) -> FetchProgress:
        """How far it is at this moment."""
        return FetchProgress.of(self._tracker.snapshot())

    @property
    def result(self) -> FetchOutcome | None:
        """What the fetch left; None unless it has completed."""
        return self._outcome

    @property
    def error(self) -> DataFetchError | None:
        """What the fetch ended with, where it failed or was cancelled."""
        return self._error

    def start(self) -> Self:
        """Begin the fetch in the background, unless it runs already, and return the task."""
        with self._lock:
            if self._status is FetchStatus.RUNNING:
                return self
            self._status = FetchStatus.RUNNING
            self._outcome = self._error = None
            self._tracker, self._cancel, self._ended = ProgressTracker(), threading.Event(), threading.Event()
            thread = threading.Thread(target=self._run, args=(self._tracker, self._cancel), name="fetch", daemon=True)
            _running.add(self)
            thread.start()
        return self

    def wait(
        self,
        poll_interval: float | timedelta = POLL_SECONDS,
        timeout: float | timedelta | None = None,
        *,
        on_progress: Callable[[FetchProgress], object] | None = None,
    ) -> FetchOutcome:
        """Wait for the end of a fetch that was started, and return what it left.

        `on_progress` is called every `poll_interval` seconds and at the end. Raises what the fetch ended with, and
        StillRunningError (a TimeoutError) after `timeout` seconds; the fetch goes on then.
        """
        if self._status is FetchStatus.PENDING:
            raise InvalidConfigError("the fetch was not started; call start() before wait(), or run()")
        ended = self._ended
        pause = max(0.01, _seconds(poll_interval))
        deadline = None if timeout is None else time.monotonic() + _seconds(timeout)
        while not ended.wait(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic()))):
            if on_progress is not None:
                on_progress(self.progress)
            if deadline is not None and time.monotonic() >= deadline and not ended.is_set():
                raise StillRunningError(
                    f"the fetch of {self._what} has not ended within {_seconds(timeout or 0):g} s ({self.progress}); "
                    "it goes on: wait again, or cancel() it"
                )
        if on_progress is not None:
            on_progress(self.progress)
        return self._settle()

    def run(self, *, progress: bool = False, timeout: float | timedelta | None = None) -> FetchOutcome:
        """Start the fetch and wait for its end; whatever ends the waiting ends the fetch too.

        With `progress`, a bar shows how it goes: in a notebook below the cell, else on standard error. Raises what the
        fetch ended with, and StillRunningError after `timeout` seconds; what came is kept.
        """
        self.start()
        with _bar(self) if progress else contextlib.nullcontext():
            try:
                return self.wait(timeout=timeout)
            except BaseException as error:
                self.cancel()
                self._ended.wait(POLL_SECONDS)
                if not isinstance(error, StillRunningError):
                    raise
                raise StillRunningError(
                    f"the fetch of {self._what} has not ended within {_seconds(timeout or 0):g} s and was cancelled; "
                    "what came is kept: run it again to go on"
                ) from None

    def cancel(self) -> None:
        """Have the fetch end as soon as it can; does not wait for that. What came is kept for the next start."""
        self._cancel.set()

    def __await__(self) -> Generator[Any, None, FetchOutcome]:
        """Start the fetch unless it runs, and wait for its end; cancelling the waiting cancels the fetch."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> FetchOutcome:
        self.start()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._call_when_ended(lambda: loop.call_soon_threadsafe(ended.set))
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self.cancel()
            # Whoever goes on finds the directory free.
            await ended.wait()
            raise
        return self._settle()

    def _call_when_ended(self, call: Callable[[], object]) -> None:
        with self._lock:
            if self._status is FetchStatus.RUNNING:
                self._when_ended.append(call)
                return
        call()

    def _run(self, tracker: ProgressTracker, cancel: threading.Event) -> None:
        outcome: FetchOutcome | None = None
        error: DataFetchError | None = None
        try:
            outcome = run_fetch(
                self._config,
                observer=tracker,
                cancel=cancel,
                workers=self._max_workers,
                opener=self._opener,
                request=self._request,
                anew=self._anew,
            )
        except BaseException as raised:  # noqa: BLE001 - handed to who waits
            error = _as_ours(raised, cancelled=cancel.is_set())
        with self._lock:
            self._outcome, self._error = outcome, error
            self._status = _status(error)
            calls, self._when_ended = self._when_ended, []
            _running.discard(self)
            self._ended.set()
        for call in calls:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and nobody waits there any more
                call()

    def _settle(self) -> FetchOutcome:
        with self._lock:
            outcome, error = self._outcome, self._error
        if error is not None:
            raise error
        if outcome is None:  # started again meanwhile, by another thread
            raise StillRunningError(f"the fetch of {self._what} was started again; wait for it anew")
        return outcome

    def __repr__(self) -> str:
        return f"<datafetch.FetchTask {self._what!r} to {self.directory!r}: {self._status}, {self.progress}>"

    def _repr_html_(self) -> str:
        failure = (
            "" if self._error is None else f"<div>{escape(self._error.code.reason)}: {escape(str(self._error))}</div>"
        )
        place = f"<div><code>{escape(self._what)}</code> to <code>{escape(self.directory)}</code>: {self._status}</div>"
        return f"{place}<div>{self.progress._repr_html_()}</div>{failure}"


@atexit.register
def _end_running() -> None:
    """End the fetches of a program that ends: what they have is noted, and their directories are free."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    tasks = list(_running)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(DataFetchError):
            task.wait(timeout=max(0.0, deadline - time.monotonic()))


os.register_at_fork(after_in_child=_running.clear)  # their threads are not there


def _bar(task: FetchTask) -> "contextlib.AbstractContextManager[object]":
    from datafetch import notebook

    if notebook.is_notebook():
        return notebook.shown(task)
    from datafetch.terminal import ProgressBars

    return _drawn(ProgressBars(task._tracker))  # noqa: SLF001 - the task's own


@contextlib.contextmanager
def _drawn(bars: "Any") -> Generator[None, None, None]:  # noqa: ANN401
    bars.start()
    try:
        yield
    finally:
        bars.close()


def _status(error: DataFetchError | None) -> FetchStatus:
    if error is None:
        return FetchStatus.COMPLETED
    return FetchStatus.CANCELLED if isinstance(error, InterruptedByRequestError) else FetchStatus.FAILED


def _as_ours(error: BaseException, *, cancelled: bool) -> DataFetchError:
    """Return the error of the tree that says it; what comes of being cancelled is no failure of its own."""
    if cancelled and (not isinstance(error, DataFetchError) or error.retryable):
        return InterruptedByRequestError("cancelled; what was fetched is kept, start it again to go on")
    if isinstance(error, DataFetchError):
        return error
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        ours = InternalError(f"the Python package {error.name!r} is missing; install datafetch[downloader]")
    else:
        ours = InternalError(f"a defect in datafetch ({what}); please report it with its traceback")
    ours.__cause__ = error
    return ours


def _seconds(span: float | timedelta) -> float:
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
