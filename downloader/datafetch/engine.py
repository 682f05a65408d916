"""One fetch from its config to the published tree: lists, plans, transfers, publishes.

One pool of workers serves all sources and files. What to transfer next is the `scheduler`'s, how fast `pace`'s, where
the bytes come from a source's, and everything that is written the `sink`'s.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    SourceUnavailableError,
)
from datafetch.memory import buffer_budget, memory_limit
from datafetch.pace import TICK_SECONDS, BandwidthLimiter, Concurrency, wait_before_retry
from datafetch.plan import Plan, PlannedFile, check_space
from datafetch.scheduler import FileTask, RangeTask, Scheduler
from datafetch.sink import FileWriter, InPlaceLayout, Layout, ManagedLayout, Sink, TargetLock
from datafetch.sources import ByteRange, Source, open_source
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.report import SourceSummary, Stage
from datafetch_api.spec_hash import request_hash

PART_BYTES = 32 << 20
"""Big files travel in ranges of this size; a kill costs at most the ranges in flight."""
BUFFER_BYTES = 1 << 20
FILE_WORK = 64 << 10
"""What a whole file counts for in goodput beside its bytes: small ones cost requests, not bandwidth."""
LISTING_GRACE_SECONDS = 5.0
"""How long the listing is awaited before the first byte; a longer one overlaps with the transfer."""
_FAREWELL_SECONDS = 1.0
"""How long a fetch that ends early waits for its workers."""


Opener = Callable[[DownloadItem, float], Source]
"""Makes the source of a download item; the seconds are how long a connection may stay silent."""


class FetchObserver(Protocol):
    """Who is told how a fetch goes. Called from many threads; must be cheap."""

    def stage(self, stage: Stage, message: str | None = None) -> None:
        """Say that the fetch has reached a stage, or why it waits in it."""

    def totals(self, files: int, bytes: int) -> None:  # noqa: A002 - the field's name
        """Say what the complete plan holds."""

    def received(self, count: int) -> None:
        """Say that bytes arrived; negative where some that had were thrown away."""

    def reused(self, files: int, bytes: int) -> None:  # noqa: A002 - the field's name
        """Say that files or parts need not be fetched."""

    def completed_file(self, path: str, size: int) -> None:
        """Say that a file is whole: fetched or reused."""

    def retry(self, message: str) -> None:
        """Say why a range is asked for again."""

    def source_listed(self, summary: SourceSummary) -> None:
        """Say what a source holds."""


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """What a successful fetch left."""

    files: int
    bytes: int
    reused_bytes: int
    manifest_digest: str
    revision: str | None
    publication: Literal["Link", "InPlace"]
    sources: tuple[SourceSummary, ...]


def run_fetch(
    config: DownloadConfig,
    *,
    observer: FetchObserver,
    cancel: threading.Event,
    workers: int | None = None,
    opener: Opener = open_source,
) -> FetchOutcome:
    """Bring everything that the config names, and publish it.

    `workers` is the most requests at a time, within `transfer.max_concurrency` and what the memory limit bears.
    Raises DataFetchError; whatever it is, nothing unfinished has a final name, and the next run goes on from there.
    """
    with ExitStack() as stack:
        stall_timeout = float(config.transfer.stall_timeout)
        sources: list[Source] = []
        for item in config.download_items:
            source = opener(item, stall_timeout)
            stack.callback(source.close)
            sources.append(source)
        spec_hash = config.managed.spec_hash if config.managed else request_hash(config.download_items)
        layout = _open_layout(config, spec_hash)

        def waiting(message: str) -> None:
            observer.stage(Stage.WAITING, message)

        sink = stack.enter_context(Sink.open(layout, TargetLock(layout.state), cancel, waiting))
        affordable = max(1, buffer_budget(memory_limit()) // BUFFER_BYTES)
        most = min(config.transfer.max_concurrency, workers or config.transfer.max_concurrency, affordable)
        fetch = _Fetch(sources, sink, observer, cancel, most, config)
        summaries = fetch.run()
        observer.stage(Stage.PUBLISHING)
        published = sink.publish(spec_hash)
        return FetchOutcome(
            files=len(fetch.plan),
            bytes=published.bytes,
            reused_bytes=fetch.reused_bytes,
            manifest_digest=published.manifest_digest,
            revision=published.revision,
            publication=published.publication,
            sources=summaries,
        )


def _open_layout(config: DownloadConfig, spec_hash: str) -> Layout:
    if config.managed is not None:
        return ManagedLayout(config.managed)
    return InPlaceLayout(config.download_root or ".", spec_hash.partition(":")[2][:16])


class _Fetch:
    """The listing and the transfer of one fetch."""

    def __init__(
        self,
        sources: Sequence[Source],
        sink: Sink,
        observer: FetchObserver,
        cancel: threading.Event,
        most: int,
        config: DownloadConfig,
    ) -> None:
        self._sources = sources
        self._sink = sink
        self._observer = observer
        self._cancel = cancel
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._limiter = BandwidthLimiter(config.transfer.bandwidth_limit, sleep=self._stop.wait)
        self._capacity = config.capacity_bytes
        self._concurrency = Concurrency(most)
        self._scheduler: Scheduler[FileWriter] = Scheduler(self._concurrency.level)
        self._workers = 0
        self._work_done = 0
        self._throttled = False
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._listing = len(sources)
        self._listed = threading.Event()
        self._summaries: dict[int, SourceSummary] = {}
        self._free = sink.free_bytes()
        self._needed = 0
        self.plan = Plan(sink.fold)
        self._fetched_again: set[str] = set()
        self.reused_bytes = 0

    def run(self) -> tuple[SourceSummary, ...]:
        """List and transfer everything; returns when every file is staged."""
        try:
            return self._run()
        finally:
            self._stop.set()
            self._scheduler.close()
            for source in self._sources:
                source.close()  # wakes those that wait for bytes that nobody needs any more
            deadline = time.monotonic() + _FAREWELL_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> tuple[SourceSummary, ...]:
        self._observer.stage(Stage.LISTING)
        for index, source in enumerate(self._sources):
            self._start(f"list-{source.name}", partial(self._list, index, source))
        self._await_listing()
        self._observer.stage(Stage.FETCHING)
        ticked = time.monotonic()
        while True:
            self._employ(self._concurrency.level)
            if self._scheduler.wait(TICK_SECONDS):
                break
            self._raise_failure()
            self._check_fits()
            seconds, ticked = time.monotonic() - ticked, time.monotonic()
            self._tune(seconds)
        self._raise_failure()
        self._check_fits()
        return tuple(self._summaries[index] for index in range(len(self._sources)))

    def _employ(self, count: int) -> None:
        while self._workers < count:
            self._start(f"fetch-{self._workers}", self._work)
            self._workers += 1

    def _tune(self, seconds: float) -> None:
        """Let the concurrency see what the last seconds brought."""
        with self._lock:
            work, self._work_done = self._work_done, 0
            throttled, self._throttled = self._throttled, False
        saturated = self._scheduler.is_saturated()
        self._scheduler.set_limit(self._concurrency.tick(work / seconds, throttled=throttled, saturated=saturated))

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work; whatever it raises ends the fetch."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._stop.set()
        self._listed.set()
        self._scheduler.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._cancel.is_set():
            raise InterruptedByRequestError("stopped by a signal; what was fetched is kept, run it again to go on")

    # --- listing ---

    def _list(self, index: int, source: Source) -> None:
        files = size = 0
        for entry in source.list():
            file = self.plan.add(index, source.name, entry)
            self._scheduler.add_file(file)
            files += 1
            size += file.size or 0
            with self._lock:
                self._needed += (file.size or 0) - self._sink.expected_bytes(file)
            if self._stop.is_set():
                return
        summary = SourceSummary(name=source.name, resolved_revision=source.resolved_revision, files=files, bytes=size)
        self._observer.source_listed(summary)
        with self._lock:
            self._summaries[index] = summary
            self._listing -= 1
            last = self._listing == 0
        if last:
            self._finish_plan()

    def _finish_plan(self) -> None:
        self.plan.complete = True
        self._observer.totals(len(self.plan), self.plan.total_bytes)
        self._listed.set()
        self._scheduler.complete()

    def _await_listing(self) -> None:
        waited = 0.0
        while waited < LISTING_GRACE_SECONDS and not self._listed.wait(0.1):
            self._raise_failure()
            waited += 0.1
        self._raise_failure()
        self._check_fits()

    def _check_fits(self) -> None:
        """End the fetch as soon as what is planned cannot fit; allow final names once the plan is complete and fits."""
        check_space(needed=self._needed, free=self._free, total=self.plan.total_bytes, capacity=self._capacity)
        if self.plan.complete:
            self._sink.plan_complete = True

    # --- transfer ---

    def _work(self) -> None:
        """Do one task after the other until there is none."""
        buffer = memoryview(bytearray(self._limiter.read_bytes or BUFFER_BYTES))[:BUFFER_BYTES]
        while (task := self._scheduler.next()) is not None:
            try:
                if isinstance(task, FileTask):
                    self._begin_file(task.file, buffer)
                else:
                    self._transfer(task, buffer)
            finally:
                self._scheduler.release()

    def _begin_file(self, file: PlannedFile, buffer: memoryview) -> None:
        """Take the file over if it is there; else begin it, keep its first range and hand out the others."""
        if self._sink.is_there(file):
            self._count_reused(1, file.size or 0)
            self._complete(file, file.size or 0)
            return
        writer, present = self._sink.write(file)
        if present:
            self._count_reused(0, present)
        if file.size is None:
            writer.remaining = 1
            self._transfer(RangeTask(writer, 0, None), buffer)
            return
        tasks = [RangeTask(writer, start, end) for start, end in writer.missing(PART_BYTES)]
        if not tasks:
            self._finish(writer, file.size)
            return
        self._scheduler.add_ranges(tasks[1:])
        self._transfer(tasks[0], buffer)

    def _transfer(self, task: RangeTask[FileWriter], buffer: memoryview) -> None:
        """Bring one range, asking again where that may help, and finish the file with its last."""
        cursor = _Cursor(task.start)
        tries = 0
        while True:
            before = cursor.position
            try:
                self._receive(task, cursor, buffer)
                break
            except SourceUnavailableError as error:
                tries = 1 if cursor.position > before else tries + 1
                self._prepare_retry(task, cursor, error, tries)
            finally:
                # A file that arrives in one piece is noted once, when it is whole.
                if (before, cursor.position) != (0, task.writer.file.size):
                    task.writer.note(before, cursor.position)
        if task.writer.finish_range():
            self._finish(task.writer, task.writer.file.size if task.end is not None else cursor.position)

    def _receive(self, task: RangeTask[FileWriter], cursor: "_Cursor", buffer: memoryview) -> None:
        """Bring what is left of a range over one connection."""
        file, end = task.writer.file, task.end
        source = self._sources[file.source_index]
        try:
            with source.open(file.entry, ByteRange(cursor.position, end)) as reader:
                if reader.checksum is None:
                    task.writer.checksum_holds = False
                while end is None or cursor.position < end:
                    room = buffer if end is None else buffer[: end - cursor.position]
                    count = reader.readinto(room)
                    if count == 0:
                        break
                    self._limiter.take(count)
                    task.writer.write(room[:count], cursor.position)
                    cursor.position += count
                    self._count_work(count)
                    if self._stop.is_set():
                        raise InterruptedByRequestError("stopped; what was fetched is kept")
        except DataFetchError as error:
            raise error.at(file.source, file.key) from error.__cause__
        if end is not None and cursor.position < end:
            raise SourceUnavailableError(
                f"the connection ended {end - cursor.position} bytes early", source=file.source, key=file.key
            )

    def _prepare_retry(
        self, task: RangeTask[FileWriter], cursor: "_Cursor", error: SourceUnavailableError, tries: int
    ) -> None:
        """Wait before a range is asked for again, or raise where that is useless by now."""
        wait = wait_before_retry(error, tries)
        if wait is None:
            raise error
        if error.throttled:
            with self._lock:
                self._throttled = True
        if task.end is None:
            # Nobody knows the size, so nobody knows what a range of it would be: from the start.
            self._observer.received(-cursor.position)
            cursor.position = 0
            task.writer.restart()
        self._observer.retry(f"{error}; asking again in {wait:.1f} s")
        if self._stop.wait(wait):
            raise InterruptedByRequestError("stopped; what was fetched is kept")

    def _finish(self, writer: FileWriter, size: int | None) -> None:
        """Verify a file; what does not match is fetched once more."""
        file, size = writer.file, size or 0
        try:
            writer.finish(size)
        except IntegrityMismatchError as error:
            with self._lock:
                if file.path in self._fetched_again:
                    raise
                self._fetched_again.add(file.path)
            self._observer.received(-size)
            self._observer.retry(str(error))
            self._scheduler.put_back(file)
            return
        self._complete(file, size)

    def _count_work(self, count: int) -> None:
        with self._lock:
            self._work_done += count
        self._observer.received(count)

    def _complete(self, file: PlannedFile, size: int) -> None:
        with self._lock:
            self._work_done += FILE_WORK
        self._observer.completed_file(file.path, size)
        self._scheduler.finish_file()

    def _count_reused(self, files: int, size: int) -> None:
        with self._lock:
            self.reused_bytes += size
        self._observer.reused(files, size)


class _Cursor:
    """How far a range has arrived."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position
