"""How far a fetch is: counters that many threads feed, and the JSON lines that say so on stdout.

`ProgressTracker` is what the engine reports to; `LineEmitter` reads it and writes lines at the pace that the operator
relies on. Bars on a terminal are drawn by `terminal`, the last word is `report`'s.
"""

import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

from datafetch.redaction import redacted
from datafetch_api.printable import single_line
from datafetch_api.quantities import format_bytes
from datafetch_api.report import Progress, SourceProgress, SourceSummary, Stage, to_line

logger = logging.getLogger(__name__)
SHORTEST_PAUSE = 1.0
"""Seconds between two progress lines, at least."""
LONGEST_PAUSE = 10.0
"""Seconds after which a line is due although nothing has changed."""
RATE_WINDOW = 10.0
"""Seconds that the speed is averaged over."""
_SAMPLE_PAUSE = 0.2
_MOST_SOURCES = 16
"""Of how many sources a line tells how far each is; of more, only of all together."""


class _Rate:
    """Bytes per second over the last `RATE_WINDOW` seconds. Not thread-safe."""

    def __init__(self, now: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def measure(self, now: float, received: int) -> int:
        """Take a sample of the bytes received so far, and return the speed."""
        if now - self._samples[-1][0] >= _SAMPLE_PAUSE:
            self._samples.append((now, received))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_WINDOW:
            self._samples.popleft()
        start, before = self._samples[0]
        return max(0, int((received - before) / (now - start))) if now > start else 0


class ProgressTracker:
    """The counters of one run. Every method may be called from any thread and is cheap.

    It is the `FetchObserver` that the engine reports to.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._started = clock()
        self._rate = _Rate(self._started)
        self._stage = Stage.LISTING
        self._message: str | None = None
        self._plan: tuple[int, int] | None = None
        self._total_files: int | None = None
        self._total_bytes: int | None = None
        self._received = 0
        self._reused_bytes = 0
        self._files = 0
        self._retries = 0
        self._last_retry_logged: float | None = None
        self._last_progress: float | None = None
        self._sources: dict[str, SourceSummary] = {}
        self._arrived: Counter[str] = Counter()
        """Bytes of each source that are in place."""

    def stage(self, stage: Stage, message: str | None = None) -> None:
        """Say what the run is doing now, and why where it waits."""
        message = single_line(redacted(message)) if message else None
        with self._lock:
            if (stage, message) == (self._stage, self._message):
                return
            if stage is Stage.FETCHING and self._stage is not stage:
                self._note_progress()  # It is idle from now on, if nothing comes.
            self._stage, self._message = stage, message
        self._changed.set()

    def totals(self, files: int, bytes: int) -> None:  # noqa: A002 - the observer's interface
        """Take in the size of the whole plan; every listing has ended."""
        with self._lock:
            self._total_files, self._total_bytes = files, bytes
        self._changed.set()

    def whole_plan(self, files: int, bytes: int) -> None:  # noqa: A002 - the observer's interface
        """Take in what all shards bring together, of which this run is one."""
        with self._lock:
            self._plan = files, bytes
        self._changed.set()

    def received(self, count: int, source: str | None = None) -> None:
        """Count bytes of a source that arrived now; negative for bytes that are discarded and will come again."""
        with self._lock:
            self._received += count
            if source is not None:
                self._arrived[source] += count
            if count > 0:
                self._note_progress()

    def reused(self, files: int, bytes: int, source: str | None = None) -> None:  # noqa: A002, ARG002 - the observer's
        """Count the bytes that were already there: files of the last revision, and parts of a run before."""
        with self._lock:
            self._reused_bytes += bytes
            self._note_progress()
            if source is not None:
                self._arrived[source] += bytes

    def completed_files(self, count: int) -> None:
        """Count files that are whole, fetched or reused; their bytes were counted before."""
        with self._lock:
            self._files += count
            self._note_progress()

    def retry(self, message: str) -> None:
        """Log why a request is sent again, at most once a second: throttling makes many of them."""
        with self._lock:
            now = self._clock()
            self._retries += 1
            if self._last_retry_logged is not None and now - self._last_retry_logged < SHORTEST_PAUSE:
                return
            count, self._retries, self._last_retry_logged = self._retries, 0, now
        logger.warning("%s%s", message, f" (and {count - 1} more like it)" if count > 1 else "")

    def source_listed(self, summary: SourceSummary) -> None:
        """Take in a source whose listing has ended."""
        with self._lock:
            self._sources[summary.name] = summary
        revision = f" at {summary.resolved_revision}" if summary.resolved_revision else ""
        files = "1 file" if summary.files == 1 else f"{summary.files:,} files"
        logger.info("source %r%s: %s, %s", summary.name, revision, files, format_bytes(summary.bytes))

    @property
    def sources(self) -> tuple[SourceSummary, ...]:
        """The sources whose listings have ended."""
        with self._lock:
            return tuple(self._sources.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._started

    def snapshot(self) -> Progress:
        """Return how far the run is now."""
        with self._lock:
            completed = max(0, self._received) + self._reused_bytes
            if self._total_bytes is not None:
                completed = min(completed, self._total_bytes)
            return Progress(
                stage=self._stage,
                message=self._message,
                time=_instant(self._wall_clock()),
                total_bytes=self._total_bytes,
                completed_bytes=completed,
                reused_bytes=self._reused_bytes,
                total_files=self._total_files,
                completed_files=self._files,
                bytes_per_second=self._rate.measure(self._clock(), self._received),
                last_progress_time=None if self._last_progress is None else _instant(self._last_progress),
                sources=self._of_each_source(),
                plan_files=self._plan and self._plan[0],
                plan_bytes=self._plan and self._plan[1],
            )

    def _note_progress(self) -> None:
        self._last_progress = self._wall_clock()

    def _of_each_source(self) -> tuple[SourceProgress, ...]:
        """Return how far each source is that anything is known of."""
        names = [*self._sources, *(name for name in self._arrived if name not in self._sources)]
        if len(names) > _MOST_SOURCES:
            return ()
        return tuple(_how_far(name, self._sources.get(name), max(0, self._arrived[name])) for name in sorted(names))

    def wake(self) -> None:
        """End a `wait_for_stage` now."""
        self._changed.set()

    def wait_for_stage(self, timeout: float) -> bool:
        """Wait until the stage or the totals change, at most `timeout` seconds; say whether they did."""
        changed = self._changed.wait(timeout)
        self._changed.clear()
        return changed


def _how_far(name: str, listed: SourceSummary | None, arrived: int) -> SourceProgress:
    if listed is None:
        return SourceProgress(name=name, state="Listing", completed_bytes=arrived)
    # A listing that gives no sizes leaves the total behind what arrives.
    total = max(listed.bytes, arrived)
    state: Literal["Fetching", "Complete"] = "Complete" if arrived >= total else "Fetching"
    return SourceProgress(name=name, state=state, completed_bytes=arrived, total_bytes=total)


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


class Pace:
    """When a line is due: at once where something changed, never two within a second, one every ten at least."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._counters: tuple[object, ...] = ()

    def is_due(self, now: float, progress: Progress) -> bool:
        """Say whether this state is to be written now, and take note of it if so."""
        counters = (
            progress.stage,
            progress.message,
            progress.total_bytes,
            progress.completed_bytes,
            progress.completed_files,
        )
        if self._last is not None:
            pause = now - self._last
            if pause < SHORTEST_PAUSE or (counters == self._counters and pause < LONGEST_PAUSE - SHORTEST_PAUSE):
                return False
        self._last, self._counters = now, counters
        return True

    def pause(self, now: float) -> float:
        """Return the seconds until a line may be written again."""
        return 0.0 if self._last is None else max(0.0, self._last + SHORTEST_PAUSE - now)


class LineEmitter:
    """Writes the tracker's state as JSON lines, from a thread of its own, between `start` and `close`."""

    def __init__(self, tracker: ProgressTracker, stream: TextIO | None = None) -> None:
        self._tracker = tracker
        self._stream = stream or sys.stdout
        self._pace = Pace()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress-lines", daemon=True)

    def start(self) -> None:
        """Write the first line and go on until closed."""
        self._thread.start()

    def close(self) -> None:
        """Write the last state, where a line is due, and end."""
        self._closing.set()
        self._tracker.wake()
        self._thread.join(timeout=SHORTEST_PAUSE)

    def _run(self) -> None:
        while self._write_if_due() and not self._closing.is_set():
            self._tracker.wait_for_stage(SHORTEST_PAUSE)
            self._closing.wait(self._pace.pause(time.monotonic()))

    def _write_if_due(self) -> bool:
        """Write a line where one is due; return False once nobody reads them any more: the download goes on."""
        progress = self._tracker.snapshot()
        if not self._pace.is_due(time.monotonic(), progress):
            return True
        try:
            self._stream.write(to_line(progress) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True
