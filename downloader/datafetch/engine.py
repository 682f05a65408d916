"""One fetch from its config to the published tree: lists, plans, transfers, publishes.

One pool of workers serves all sources and files. What to transfer next is the `scheduler`'s, how fast `pace`'s, where
the bytes come from a source's, and everything that is written the `sink`'s.
"""

import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, Protocol

from datafetch.errors import InterruptedByRequestError
from datafetch.memory import buffer_budget, memory_limit
from datafetch.pace import AHEAD_SECONDS, TICK_SECONDS, BandwidthLimiter, Concurrency, Retries
from datafetch.plan import Plan, check_space
from datafetch.scheduler import Scheduler
from datafetch.sink import Complete, FileWriter, InPlaceLayout, Layout, ManagedLayout, Sink, TargetLock
from datafetch.small_files import SMALL_BYTES, SmallFiles
from datafetch.source_digest import digest_sources, tells_manifest
from datafetch.sources import Entry, Source, open_source
from datafetch.transfer import (
    BUFFER_BYTES,
    SLOWEST,
    Counted,
    FetchContext,
    Meter,
    StallWatch,
    TransferObserver,
    Transfers,
)
from datafetch.transport.lane import Lane
from datafetch.unpacking import Unpacking, archives_of
from datafetch_api.config import DownloadConfig, DownloadItem, TransferSettings
from datafetch_api.report import SourceSummary, Stage
from datafetch_api.spec_hash import request_hash

_OPEN_FILES = 4096
LISTING_GRACE_SECONDS = 5.0
"""How long the listing is awaited before the first byte; a longer one overlaps with the transfer."""
_LONGEST_BATCH = 512
_SMALL_EXCHANGE_BYTES = 256 << 10
"""What a small file's connection may hold: the kernel's buffers of sockets count against the cgroup's limit too."""
_FAREWELL_SECONDS = 1.0
"""How long a fetch that ends early waits for its workers."""


Opener = Callable[[DownloadItem, float], Source]
"""Makes the source of a download item; the seconds are how long a connection may stay silent."""


class FetchObserver(TransferObserver, Protocol):
    """Who is told how a fetch goes. Called from many threads; must be cheap."""

    def stage(self, stage: Stage, message: str | None = None) -> None:
        """Say that the fetch has reached a stage, or why it waits in it."""

    def totals(self, files: int, bytes: int) -> None:  # noqa: A002 - the field's name
        """Say what the complete plan holds."""

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
    source_digest: str | None = None
    """Of what the sources listed, where the manifest says more."""


def run_fetch(
    config: DownloadConfig,
    *,
    observer: FetchObserver,
    cancel: threading.Event,
    workers: int | None = None,
    opener: Opener = open_source,
    skip_if_complete: bool = False,
    request: str | None = None,
    anew: bool = False,
    open_layout: Callable[[], Layout] | None = None,
) -> FetchOutcome:
    """Bring everything that the config names, and publish it.

    `workers` is the most requests at a time, within `transfer.max_concurrency` and what the memory limit bears. Where
    the same request is there already, complete and unaltered, `skip_if_complete` ends at once, without asking a source;
    so it does where another process brings it while this one waits for the lock. In place, `request` is what the files
    are noted under in place of what is asked for: the next fetch of that name removes what it does not bring itself.
    `anew` fetches also what is there and unchanged, and replaces it. `open_layout` says where the files go, if that is
    not what the config says.
    Raises DataFetchError; whatever it is, nothing unfinished has a final name, and the next run goes on from there.
    """
    _allow_open_files()
    spec_hash = config.managed.spec_hash if config.managed else request or request_hash(config.download_items)
    full = config.transfer.verify == "Full"

    def look() -> Complete | None:
        return _find_complete(config, spec_hash, full=full) if skip_if_complete else None

    if (found := look()) is not None:
        return _take_as_it_is(found, observer)
    with ExitStack() as stack:
        stall_timeout = float(config.transfer.stall_timeout)
        sources: list[Source] = []
        for item in config.download_items:
            source = opener(item, stall_timeout)
            stack.callback(source.close)
            sources.append(source)
        layout = open_layout() if open_layout else _open_layout(config, spec_hash)
        lock = TargetLock(layout.state)
        if (found := _acquire(lock, observer, cancel, look)) is not None:
            layout.close()
            return _take_as_it_is(found, observer)
        unpacks = archives_of(config.download_items) is not None
        sink = stack.enter_context(Sink.open(layout, lock, verify_fully=full, anew=anew, unpacks=unpacks))
        most = min(config.transfer.max_concurrency, workers or config.transfer.max_concurrency)
        fetch = _Fetch(sources, sink, observer, cancel, most, config)
        summaries = fetch.run()
        observer.stage(Stage.PUBLISHING)
        items = config.download_items
        listed = None if tells_manifest(fetch.plan, items) else digest_sources(fetch.plan, items).value
        published = sink.publish(spec_hash)
        return FetchOutcome(
            files=sink.ledger.count_finished()[0],
            bytes=published.bytes,
            reused_bytes=fetch.reused_bytes,
            manifest_digest=published.manifest_digest,
            revision=published.revision,
            publication=published.publication,
            sources=summaries,
            source_digest=listed,
        )


def _acquire(
    lock: TargetLock, observer: FetchObserver, cancel: threading.Event, look: Callable[[], Complete | None]
) -> Complete | None:
    """Wait for the lock, or until `look` finds that another process has brought everything, and return that."""
    found: Complete | None = None

    def is_complete() -> bool:
        nonlocal found
        found = look()
        return found is not None

    needed = False
    try:
        needed = lock.acquire(cancel, partial(observer.stage, Stage.WAITING), is_complete) and not is_complete()
    finally:
        if not needed:
            lock.release()
    return found


def _find_complete(config: DownloadConfig, spec_hash: str, *, full: bool) -> Complete | None:
    """Return what is published, where nothing is left to do; opened anew at each look, others may have changed it."""
    layout = _open_layout(config, spec_hash)
    try:
        return layout.complete(spec_hash, full=full)
    finally:
        layout.close()


def _take_as_it_is(found: Complete, observer: FetchObserver) -> FetchOutcome:
    """Return the outcome of a fetch that had nothing to do."""
    files, size, published = found.header.files, found.header.bytes, found.published
    observer.totals(files, size)
    observer.reused(files, size)
    return FetchOutcome(files, size, size, published.manifest_digest, published.revision, published.publication, ())


def _allow_open_files() -> None:
    """Raise the soft limit of open files, which is 1,024 in many places, as far as we may and need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_layout(config: DownloadConfig, spec_hash: str) -> Layout:
    if config.managed is not None:
        return ManagedLayout(config.managed)
    return InPlaceLayout(config.download_root or ".", spec_hash)


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
        self._capacity = config.capacity_bytes
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._listing = len(sources)
        self._listed = threading.Event()
        self._summaries: dict[int, SourceSummary] = {}
        self._free = sink.free_bytes()
        is_archive = archives_of(config.download_items)
        self.plan = Plan(sink.ledger, [source.name for source in sources], sink.fold, is_archive)
        self._unpacking = Unpacking(
            config.download_items, self.plan, sink, stop=self._stop, check_space=self._check_space
        )
        budget = buffer_budget(memory_limit())
        self._ranges = _make_pace(min(most, max(1, budget // BUFFER_BYTES)), 2, config.transfer)
        self._small = _make_pace(min(most, max(1, budget // _SMALL_EXCHANGE_BYTES)), 16, config.transfer)
        self._scheduler: Scheduler[FileWriter] = Scheduler(
            self._ranges.concurrency.level,
            self.plan.next_files,
            self._wake_lane,
            small_limit=self._small.concurrency.level,
            most=most,
        )
        stall_timeout = float(config.transfer.stall_timeout)
        limiter = BandwidthLimiter(config.transfer.bandwidth_limit, head_start=AHEAD_SECONDS, sleep=self._stop.wait)
        for source in sources:
            if source.http is not None:
                source.http.transport.limit_receive_buffer(limiter.receive_buffer_bytes)
        self._stalls = StallWatch(stall_timeout)
        context = FetchContext(
            sources=sources, sink=sink, plan=self.plan, scheduler=self._scheduler, observer=observer, limiter=limiter,
            stalls=self._stalls, stall_timeout=stall_timeout, stop=self._stop,
            retries=Retries(config.transfer.max_retries, config.transfer.retry_delay), unpacking=self._unpacking,
        )  # fmt: skip
        self._transfers = Transfers(context, self._ranges.meter)
        self._small_files = SmallFiles(
            context, self._transfers, self._small.meter, lambda: self._lane.active if self._lane else 0
        )
        self._lane_seconds = 0.0
        self._lane_started = False
        self._lane: Lane | None = None
        if any(source.http is not None for source in sources):
            self._lane = Lane(
                self._small_files,
                silence=stall_timeout,
                slowest=SLOWEST,
                most_read=limiter.read_bytes,
                receive_buffer=limiter.receive_buffer_bytes,
            )
        self._workers = 0

    @property
    def reused_bytes(self) -> int:
        """Bytes that were there already."""
        return self._transfers.reused_bytes

    def run(self) -> tuple[SourceSummary, ...]:
        """List and transfer everything; returns when every file is staged."""
        try:
            return self._run()
        finally:
            self._stop.set()
            self._scheduler.close()
            self._unpacking.close()
            for source in self._sources:
                source.close()  # wakes those that wait for bytes that nobody needs any more
            deadline = time.monotonic() + _FAREWELL_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if self._lane is not None and not self._lane_started:
                self._lane.close()
            self._sink.in_use = any(thread.is_alive() for thread in self._threads)

    def _run(self) -> tuple[SourceSummary, ...]:
        self._observer.stage(Stage.LISTING)
        for index, source in enumerate(self._sources):
            self._start(f"list-{source.name}", partial(self._list, index, source))
        self._await_listing()
        self._observer.stage(Stage.FETCHING)
        if self._lane is not None:
            self._lane_started = True
            self._start("small-files", self._lane.run)
        for number in range(self._unpacking.threads(buffer_budget(memory_limit()))):
            self._start(f"unpack-{number}", partial(self._unpacking.work, self._transfers.complete))
        ticked = time.monotonic()
        while True:
            self._employ(self._ranges.concurrency.level)
            if self._scheduler.wait(TICK_SECONDS):
                break
            self._raise_failure()
            self._check_fits()
            self._stalls.check()
            if self.plan.archives:
                self._observer.stage(Stage.FETCHING, self._unpacking.message)
            seconds, ticked = time.monotonic() - ticked, time.monotonic()
            self._tune(seconds)
        self._raise_failure()
        self._check_fits()
        return tuple(self._summaries[index] for index in range(len(self._sources)))

    def _employ(self, count: int) -> None:
        while self._workers < count:
            self._start(f"fetch-{self._workers}", self._transfers.work)
            self._workers += 1

    def _tune(self, seconds: float) -> None:
        """Let the concurrency see what the last seconds brought."""
        limit = self._ranges.tick(seconds, self._scheduler.busy, 0.0)
        small_limit = 0
        if self._lane is not None:
            before, self._lane_seconds = self._lane_seconds, self._small_files.seconds
            busy = self._lane.active + self._small_files.waiting
            small_limit = self._small.tick(seconds, busy, min(1.0, (self._lane_seconds - before) / seconds))
        self._scheduler.set_limits(limit, small_limit)

    def _wake_lane(self) -> None:
        if self._lane is not None:
            self._lane.wake()

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
        error = self._sink.explain(error)
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
        small_bytes = SMALL_BYTES if source.http is not None else -1
        files = size = 0
        for entries in batches(source.list()):
            self._scheduler.add_files(index, self.plan.add(index, entries, small_bytes=small_bytes))
            files += len(entries)
            size += sum(entry.size or 0 for entry in entries)
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
        self._check_space()
        if self.plan.complete and self._unpacking.is_complete:
            self._sink.plan_complete = True

    def _check_space(self) -> None:
        plan = self.plan
        check_space(needed=plan.needed_bytes, free=self._free, total=plan.space_bytes, capacity=self._capacity)


def batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Yield entries in lists, short ones first: the first byte is not to wait for a long list."""
    length = 16
    while batch := list(islice(entries, length)):
        yield batch
        length = min(_LONGEST_BATCH, length * 2)


def _make_pace(most: int, start: int, settings: TransferSettings) -> "_Pace":
    floor = settings.min_concurrency or 1
    concurrency = Concurrency(most, start, growth=4, floor=floor, longest_rest=settings.tuning_interval)
    return _Pace(concurrency, Meter())


@dataclass(frozen=True, slots=True)
class _Pace:
    """How many requests of one kind may be under way, and what that is judged by."""

    concurrency: Concurrency
    meter: Meter

    def tick(self, seconds: float, busy: int, cpu_share: float) -> int:
        """Let the concurrency see what the last seconds brought, and return its level."""
        counted: Counted = self.meter.take()
        return self.concurrency.tick(
            seconds,
            counted.work,
            counted.requests,
            busy=busy,
            throttled=counted.throttled,
            lost=counted.lost,
            cpu_share=cpu_share,
        )
