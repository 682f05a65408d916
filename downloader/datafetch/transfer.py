"""How the bytes of planned files come: whole files taken over, ranges asked for, asked for again, and verified.

Each worker thread runs `Transfers.work` until nothing is left. What comes next is the scheduler's, what is written the
sink's; small files have a way of their own (`lane`), and come here when something about them is unusual.
"""

import mmap
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    SourceChangedError,
    SourceUnavailableError,
    StalledError,
)
from datafetch.ledger import kind_of
from datafetch.pace import BandwidthLimiter, Retries, wait_before_retry
from datafetch.plan import Plan
from datafetch.records import Kind, PlannedFile
from datafetch.scheduler import FileTask, RangeTask, Scheduler
from datafetch.sink import FileWriter, Sink
from datafetch.sources import ByteRange, Source
from datafetch.unpacking import Unpacking

PART_BYTES = 32 << 20
"""Big files travel in ranges of this size; a kill costs at most the ranges in flight."""
BUFFER_BYTES = 1 << 20
FILE_WORK = 64 << 10
"""What a whole file counts for in goodput beside its bytes: small ones cost requests, not bandwidth."""
SLOWEST = 1024
"""Bytes per second; a connection that brings less for the stall timeout is given up, and its range asked for again."""
_MOST_CHANGES = 3
"""How often an object may change while it is fetched before the fetch ends."""


class TransferObserver(Protocol):
    """Who is told how a transfer goes. Called from many threads; must be cheap."""

    def received(self, count: int, source: str) -> None:
        """Say that bytes of a source arrived; negative where some that had were thrown away."""

    def reused(self, files: int, bytes: int, source: str | None = None) -> None:  # noqa: A002 - the field's name
        """Say that files or parts need not be fetched; without a source, of all."""

    def completed_files(self, count: int) -> None:
        """Say that files are whole: fetched or reused."""

    def retry(self, message: str) -> None:
        """Say why a range is asked for again."""


class Meter:
    """What was done since somebody last looked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = Counted()

    def count(self, work: int, requests: int = 0) -> None:
        """Count work (bytes, and what a request is worth) and requests that ended well."""
        with self._lock:
            self._counted.work += work
            self._counted.requests += requests

    def count_refused(self, *, throttled: bool) -> None:
        """Count a request that the source throttled, or that broke."""
        with self._lock:
            if throttled:
                self._counted.throttled += 1
            else:
                self._counted.lost += 1

    def take(self) -> "Counted":
        """Return what was counted since the last call."""
        with self._lock:
            taken, self._counted = self._counted, Counted()
        return taken


@dataclass(slots=True)
class Counted:
    """What a meter counts."""

    work: int = 0
    requests: int = 0
    throttled: int = 0
    lost: int = 0


class StallWatch:
    """When the whole fetch has stalled: connections stall, and nothing worth a name has come for long. Thread-safe."""

    def __init__(self, stall_timeout: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._enough = SLOWEST * stall_timeout
        self._patience = 3 * stall_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._bytes = 0
        self._stalled: StalledError | None = None

    def received(self, count: int) -> None:
        """Take in that bytes arrived."""
        with self._lock:
            self._bytes += count
            if self._bytes >= self._enough:
                self._restart()

    def progress(self, wait: float = 0.0) -> None:
        """Take in that a file is whole, or that the source asked to be left alone for some seconds."""
        with self._lock:
            self._restart(wait)

    def stalled(self, error: StalledError) -> None:
        """Take in that a connection was given up."""
        with self._lock:
            self._stalled = error

    def _restart(self, wait: float = 0.0) -> None:
        self._since, self._bytes, self._stalled = self._clock() + wait, 0, None

    def check(self) -> None:
        """Raise StalledError where three stall timeouts have passed in vain."""
        with self._lock:
            waited, error = self._clock() - self._since, self._stalled
        if error is not None and waited >= self._patience:
            raise StalledError(
                f"{error}; asked again, nothing has come for {waited:.0f} s; what was fetched is kept, run it again",
                source=error.source,
                key=error.key,
            )


@dataclass(frozen=True)
class FetchContext:
    """What the parts of one fetch share."""

    sources: Sequence[Source]
    sink: Sink
    plan: Plan
    scheduler: Scheduler[FileWriter]
    observer: TransferObserver
    limiter: BandwidthLimiter
    stalls: StallWatch
    stall_timeout: float
    retries: Retries
    unpacking: Unpacking
    stop: threading.Event
    """Set once nothing more is to be done."""

    def retry_delay(self, error: SourceUnavailableError, tries: int, meter: Meter) -> float | None:
        """Return the seconds before asking again after an error, None where that is useless by now; take note of it."""
        wait = wait_before_retry(error, tries, retries=self.retries)
        if wait is None:
            return None
        meter.count_refused(throttled=error.throttled)
        if isinstance(error, StalledError):
            self.stalls.stalled(error)
        else:
            self.stalls.progress(wait)
        self.observer.retry(f"{error}; asking again in {wait:.1f} s")
        return wait


class _SlowWatch:
    """Whether one connection brings too little. The time that it is not read from does not count."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seconds = 0.0
        self._bytes = 0

    def note(self, count: int, seconds: float) -> None:
        self._seconds += seconds
        self._bytes += count
        if self._seconds < self._patience:
            return
        if self._bytes < SLOWEST * self._seconds:
            raise StalledError(f"the connection brought {self._bytes} bytes in {self._seconds:.0f} s and was given up")
        self._seconds, self._bytes = 0.0, 0


class Transfers:
    """The transfer of files and ranges, by as many threads as call `work`."""

    def __init__(self, context: FetchContext, meter: Meter) -> None:
        self._context = context
        self._meter = meter
        self._lock = threading.Lock()
        self._fetched_again: set[str] = set()
        self._changes: Counter[str] = Counter()
        self.reused_bytes = 0

    def work(self) -> None:
        """Do one task after the other until there is none."""
        size = min(self._context.limiter.read_bytes or BUFFER_BYTES, BUFFER_BYTES)
        # Pages that no bytes have come into yet take no memory, other than those of a bytearray.
        buffer = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        scheduler = self._context.scheduler
        while (task := scheduler.next()) is not None:
            try:
                if isinstance(task, FileTask):
                    self._begin_file(task.file, buffer)
                else:
                    self._transfer(task, buffer)
            finally:
                scheduler.release()

    def _begin_file(self, file: PlannedFile, buffer: memoryview) -> None:
        """Take the file over if it is there; else begin it, keep its first range and hand out the others."""
        sink = self._context.sink
        is_archive = kind_of(file) is Kind.ARCHIVE
        if is_archive and (unpacked := self._context.unpacking.take(file)) is not None:
            self._count_reused(1, file.size or 0, file.source, published=unpacked)
            self.complete()
            return
        if sink.is_there(file):
            self._count_reused(1, file.size or 0, file.source, published=0 if is_archive else None)
            self._pass_on(file)
            return
        writer, present = sink.write(file)
        if present:
            self._count_reused(0, present, file.source, published=0 if is_archive else None)
        if file.size is None:
            writer.remaining = 1
            self._transfer(RangeTask(writer, 0, None), buffer)
            return
        tasks = [RangeTask(writer, start, end) for start, end in writer.missing(PART_BYTES)]
        if not tasks:
            self._finish(writer, file.size)
            return
        self._context.scheduler.add_ranges(file.source_index, tasks[1:])
        self._transfer(tasks[0], buffer)

    def _transfer(self, task: RangeTask[FileWriter], buffer: memoryview) -> None:
        """Bring one range, and finish the file with its last; begin the file again where its object has changed."""
        writer = task.writer
        if not writer.enter():
            return
        cursor = _Cursor(task.start)
        try:
            self._bring(task, cursor, buffer)
        except SourceChangedError as error:
            writer.abandon(error)
        finally:
            left = writer.leave(cursor.position - task.start)
        if left is not None:
            self._begin_again(writer, left)
        elif not writer.abandoned:
            self._meter.count(0, 1)
            if writer.finish_range():
                self._finish(writer, writer.file.size if task.end is not None else cursor.position)

    def _bring(self, task: RangeTask[FileWriter], cursor: "_Cursor", buffer: memoryview) -> None:
        """Bring one range, asking again where that may help."""
        tries = 0
        while not task.writer.abandoned:
            before = cursor.position
            try:
                if self._receive(task, cursor, buffer):
                    return
            except SourceUnavailableError as error:
                # A connection that drips makes progress, and yet is none to go on with.
                progress = cursor.position > before and not isinstance(error, StalledError)
                tries = 1 if progress else tries + 1
                self._prepare_retry(task, cursor, error, tries)
            finally:
                # A file that arrives in one piece is noted once, when it is whole.
                if (before, cursor.position) != (0, task.writer.file.size):
                    task.writer.note(before, cursor.position)

    def _receive(self, task: RangeTask[FileWriter], cursor: "_Cursor", buffer: memoryview) -> bool:
        """Bring what is left of a range over one connection; False where the rest is not wanted any more."""
        writer, file, end = task.writer, task.writer.file, task.end
        context = self._context
        source = context.sources[file.source_index]
        watch = _SlowWatch(context.stall_timeout)
        try:
            with source.open(file.entry, ByteRange(cursor.position, end)) as reader:
                writer.expect(reader.checksum)
                while end is None or cursor.position < end:
                    room = buffer if end is None else buffer[: end - cursor.position]
                    asked = time.monotonic()
                    count = reader.readinto(room)
                    if count == 0:
                        break
                    watch.note(count, time.monotonic() - asked)
                    context.limiter.take(count)
                    writer.write(room[:count], cursor.position)
                    cursor.position += count
                    self._count_received(count, file.source)
                    if context.stop.is_set():
                        raise InterruptedByRequestError("stopped; what was fetched is kept")
                    if writer.abandoned:
                        return False
        except DataFetchError as error:
            raise error.at(file.source, file.key) from error.__cause__
        if end is not None and cursor.position < end:
            raise SourceUnavailableError(
                f"the connection ended {end - cursor.position} bytes early", source=file.source, key=file.key
            )
        return True

    def _prepare_retry(
        self, task: RangeTask[FileWriter], cursor: "_Cursor", error: SourceUnavailableError, tries: int
    ) -> None:
        """Wait before a range is asked for again, or raise where that is useless by now."""
        wait = self._context.retry_delay(error, tries, self._meter)
        if wait is None:
            raise error
        if task.end is None:
            # Nobody knows the size, so nobody knows what a range of it would be: from the start.
            self._context.observer.received(-cursor.position, task.writer.file.source)
            cursor.position = 0
            task.writer.restart()
        if self._context.stop.wait(wait):
            raise InterruptedByRequestError("stopped; what was fetched is kept")

    def _begin_again(self, writer: FileWriter, error: SourceChangedError) -> None:
        """Throw away what came of an object that is another one by now, and fetch what it is now."""
        context, old = self._context, writer.file
        with self._lock:
            self._changes[old.path] += 1
            changes = self._changes[old.path]
        context.sink.discard(writer)
        context.observer.received(-writer.received, old.source)
        if changes > _MOST_CHANGES:
            raise SourceChangedError(
                f"{old.key!r} has changed {changes} times while it was fetched; wait until nobody writes it, "
                "and run again",
                source=old.source,
                key=old.key,
            ) from error
        try:
            entry = context.sources[old.source_index].look_up(old.entry)
        except DataFetchError as refused:
            raise refused.at(old.source, old.key) from None
        context.observer.retry(f"{error}; it is fetched again from its start")
        context.scheduler.put_back(context.plan.replace(old, entry))

    def _finish(self, writer: FileWriter, size: int | None) -> None:
        """Verify a file; what does not match is fetched once more."""
        try:
            writer.finish(size or 0)
        except IntegrityMismatchError as error:
            self.fetch_again(writer.file, size or 0, error)
            return
        self._pass_on(writer.file)

    def _pass_on(self, file: PlannedFile) -> None:
        """Take note of a whole file; an archive is complete once it is unpacked."""
        if kind_of(file) is Kind.ARCHIVE:
            self._context.stalls.progress()
            self._context.unpacking.add(file)
        else:
            self.complete()

    def fetch_again(self, file: PlannedFile, received: int, error: IntegrityMismatchError) -> None:
        """Put a file back that is not what its source promised; raises the error where that was so before."""
        with self._lock:
            if file.path in self._fetched_again:
                raise error
            self._fetched_again.add(file.path)
        self._context.observer.received(-received, file.source)
        self._context.observer.retry(str(error))
        self._context.scheduler.put_back(file)

    def _count_received(self, count: int, source: str) -> None:
        self._meter.count(count)
        self._context.stalls.received(count)
        self._context.observer.received(count, source)

    def complete(self) -> None:
        """Take note of a file of which nothing is left to do."""
        self._meter.count(FILE_WORK)
        self._context.stalls.progress()
        self._context.observer.completed_files(1)
        self._context.scheduler.finish_files()

    def _count_reused(self, files: int, size: int, source: str, *, published: int | None = None) -> None:
        """Count bytes that need not be fetched; `published` are those of the finished tree, where these are others."""
        with self._lock:
            self.reused_bytes += size if published is None else published
        self._context.observer.reused(files, size, source)


class _Cursor:
    """How far a range has arrived."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position
