"""One shard of a fetch: gets the plan, by listing (shard 0) or by waiting for it, and brings what of it is its own."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from datafetch.engine import FetchObserver, FetchOutcome, Opener, run_fetch
from datafetch.errors import InterruptedByRequestError, InvalidConfigError
from datafetch.ledger import Ledger
from datafetch.listing import Listing, list_sources
from datafetch.pinning import at_revision
from datafetch.plan import check_space, fold_case, present_bytes
from datafetch.records import PlannedFile
from datafetch.sharding.assignment import assign, cost
from datafetch.sharding.layout import ShardLayout, ShardRecord, home_of, read_record
from datafetch.sharding.plan_file import (
    SharedPlan,
    entries_of,
    portions_of,
    read_plan,
    remove_other_plans,
    write_files,
    write_plan,
)
from datafetch.sink import ManagedLayout, TargetLock
from datafetch.sink.directory import Directory
from datafetch.sink.journal import recover
from datafetch.sink.layout import homes_of_shards
from datafetch.sink.lock import EPOCHS
from datafetch.sink.manifest import now
from datafetch.source_digest import digest_sources, tells_manifest
from datafetch.sources import ByteRange, Entry, HttpAccess, RangeReader, Source
from datafetch_api.config import DownloadConfig, DownloadItem, Managed, Shards
from datafetch_api.report import SourceSummary, Stage
from datafetch_api.spec_hash import request_hash

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
_LOOK_SECONDS = 1.0
"""Between two looks for the plan."""


class ShardObserver(FetchObserver, Protocol):
    """Who is told how a shard goes."""

    def whole_plan(self, files: int, bytes: int) -> None:  # noqa: A002 - the field's name
        """Say what all shards bring together."""


def run_shard(
    config: DownloadConfig,
    shard: int,
    *,
    observer: ShardObserver,
    cancel: threading.Event,
    opener: Opener,
    workers: int | None = None,
) -> FetchOutcome:
    """Bring this shard's part of what the config names; nothing is published.

    A shard that has ended before has nothing to do. Raises DataFetchError; whatever it is, the next run goes on from
    there, with the plan that is there.
    """
    managed, shards = settings(config)
    if not 0 <= shard < shards.count:
        raise InvalidConfigError(f"there is no shard {shard}: there are {shards.count}, and the first one is 0")
    target = ManagedLayout(managed)
    try:
        plan = _obtain_plan(config, shard, target, observer, cancel, opener)
        observer.whole_plan(plan.files, plan.bytes)
        record = read_record(target.base, shard, plan.plan)
        if record is not None:
            return _take_as_it_is(record, plan, observer)
        tally = _Tally(observer)

        def open_layout() -> ShardLayout:
            return ShardLayout(managed, shard, plan.plan, plan.portions[shard].homes, lambda: tally.reused_bytes)

        planned = planned_opener(plan, shard, target.base, opener)
        return run_fetch(
            config, observer=tally, cancel=cancel, workers=workers, opener=planned, open_layout=open_layout
        )
    finally:
        target.close()


def settings(config: DownloadConfig) -> tuple[Managed, Shards]:
    """Return what a config says of shards. Raises InvalidConfigError where it says nothing."""
    if config.managed is None or config.managed.shards is None:
        raise InvalidConfigError("the config has no managed.shards, so there is one process for all of it")
    unpacked = next((item.name for item in config.download_items if item.unpack is not None), None)
    if unpacked is not None:
        raise InvalidConfigError(
            f"source {unpacked!r} unpacks archives, which one process has to do: leave out managed.shards, or unpack"
        )
    return config.managed, config.managed.shards


def _take_as_it_is(record: ShardRecord, plan: SharedPlan, observer: FetchObserver) -> FetchOutcome:
    observer.totals(record.files, record.bytes)
    observer.reused(record.files, record.bytes)
    observer.completed_files(record.files)
    return FetchOutcome(
        record.files, record.bytes, record.reused_bytes, record.manifest_digest, None, "Link", plan.sources
    )


# --- the plan --------------------------------------------------------------------------------------------------------


def _obtain_plan(
    config: DownloadConfig,
    shard: int,
    target: ManagedLayout,
    observer: FetchObserver,
    cancel: threading.Event,
    opener: Opener,
) -> SharedPlan:
    _, shards = settings(config)
    observer.stage(Stage.LISTING, None if shard == 0 else "waiting for the plan that shard 0 makes")
    plan = read_plan(target.base, shards.plan)
    if plan is None and shard == 0:
        plan = _make_plan(config, target, observer, cancel, opener)
    while plan is None:
        if cancel.wait(_LOOK_SECONDS):
            raise InterruptedByRequestError("stopped while waiting for the plan that shard 0 makes")
        plan = read_plan(target.base, shards.plan)
    if (plan.request, len(plan.portions)) != (request_hash(config.download_items), shards.count):
        raise InvalidConfigError(
            f"the plan {plan.plan!r} on the volume was made for another request, or for {len(plan.portions)} shards "
            f"and not {shards.count}; name another one in managed.shards.plan"
        )
    return plan


def _make_plan(
    config: DownloadConfig, target: ManagedLayout, observer: FetchObserver, cancel: threading.Event, opener: Opener
) -> SharedPlan:
    """List everything, once, and write down whose it is. Under the lock of shard 0: of two pods of it, one lists."""
    _, shards = settings(config)
    state = target.base.child(home_of(0).rstrip("/"))
    lock = TargetLock(state)
    with ExitStack() as stack:
        stack.callback(state.close)
        stack.callback(lock.release)
        lock.acquire(cancel, lambda message: observer.stage(Stage.WAITING, message))
        plan = read_plan(target.base, shards.plan)
        if plan is not None:
            return plan
        observer.stage(Stage.LISTING)
        ledger = Ledger(state.path_of(f"{EPOCHS}/{lock.epoch}"))
        stack.callback(ledger.close)
        target.look(ledger)
        for home in (*homes_of_shards(target.base), target.home):
            recover(target.base, lock.epoch if home == home_of(0) else 1 << 62, ledger, home)
        listing = list_sources(
            config,
            observer=_Quiet(observer),
            cancel=cancel,
            opener=opener,
            ledger=ledger,
            fold=fold_case if state.folds_names() else str,
        )
        planned = listing.plan
        check_space(
            needed=planned.needed_bytes,
            free=state.free_bytes(),
            total=planned.total_bytes,
            capacity=config.capacity_bytes,
        )
        plan = _write(config, target.base, ledger, listing, lock.epoch)
        lock.check()
        write_plan(target.base, plan)
        remove_other_plans(target.base, plan)
        return plan


def _write(config: DownloadConfig, base: Directory, ledger: Ledger, listing: Listing, epoch: int) -> SharedPlan:
    """Write down every file with its shard, and return the header that is to be written after it."""
    _, shards = settings(config)
    items = config.download_items
    sums: dict[int, list[int]] = {}
    homes: dict[int, set[str]] = {}

    def assigned() -> Iterator[tuple[int, PlannedFile]]:
        costs = ((file.id, _cost(ledger, file)) for file in listing.plan)
        files = ((file.id, _cost(ledger, file), file) for file in listing.plan)
        for shard, file in assign(costs, files, shards.count):
            total = sums.setdefault(shard, [0, 0])
            total[0] += 1
            total[1] += file.size or 0
            staged = ledger.staged(file.path, with_ranges=False)
            if staged is not None:
                homes.setdefault(shard, set()).add(staged.home)
            yield shard, file

    write_files(base, shards.plan, epoch, assigned())
    return SharedPlan(
        plan=shards.plan,
        request=request_hash(items),
        listed=now(),
        sources=listing.summaries,
        portions=portions_of(sums, homes, shards.count),
        epoch=epoch,
        source_digest=None if tells_manifest(listing.plan, items) else digest_sources(listing.plan, items).value,
    )


def _cost(ledger: Ledger, file: PlannedFile) -> int:
    """Return what a file costs: what of it is there already need not be fetched."""
    size = file.size or 0
    published = ledger.published(file.path)
    if published is not None and published.is_of(file):
        return cost(0)
    staged = ledger.staged(file.path)
    return cost(size - present_bytes(staged) if staged is not None and staged.is_of(file) else size)


# --- its sources -----------------------------------------------------------------------------------------------------


def planned_opener(plan: SharedPlan, shard: int, base: Directory, opener: Opener) -> Opener:
    """Return an opener whose sources list what the plan gives to a shard."""
    indices = {source.name: index for index, source in enumerate(plan.sources)}

    def open_planned(item: DownloadItem, stall_timeout: float) -> Source:
        index = indices[item.name]
        revision = plan.sources[index].resolved_revision
        return PlannedSource(opener(at_revision(item, revision), stall_timeout), revision, plan, shard, index, base)

    return open_planned


class PlannedSource:
    """A source whose listing was made by another process."""

    def __init__(
        self, source: Source, revision: str | None, plan: SharedPlan, shard: int, index: int, base: Directory
    ) -> None:
        self._source = source
        self._plan = plan
        self._shard = shard
        self._index = index
        self._base = base
        self.resolved_revision = revision
        """The revision that was listed."""

    @property
    def name(self) -> str:
        """The item's name."""
        return self._source.name

    @property
    def verifies(self) -> str:
        """What is verified of each object beside its size."""
        return self._source.verifies

    @property
    def http(self) -> HttpAccess | None:
        """How the bytes come by plain HTTP requests."""
        return self._source.http

    def list(self) -> Iterator[Entry]:
        """Yield what of the plan is this shard's."""
        return entries_of(self._base, self._plan.plan, self._plan.epoch, self._shard, self._index)

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        """Ask for a range of exactly the object that was listed."""
        return self._source.open(entry, byte_range)

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        return self._source.look_up(entry)

    def close(self) -> None:
        """Release connections."""
        self._source.close()


# --- who is told -----------------------------------------------------------------------------------------------------


class _Quiet:
    """Passes on nothing of a listing but its stage: a shard's numbers are those of its own part."""

    def __init__(self, observer: FetchObserver) -> None:
        self._observer = observer
        self.received = observer.received
        self.reused = observer.reused
        self.completed_files = observer.completed_files
        self.retry = observer.retry

    def stage(self, stage: Stage, message: str | None = None) -> None:
        """Pass it on."""
        self._observer.stage(stage, message)

    def totals(self, files: int, bytes: int) -> None:  # noqa: A002 - the protocol's
        """Keep it."""

    def source_listed(self, summary: SourceSummary) -> None:
        """Keep it."""


class _Tally:
    """Passes everything on, and keeps count of what was there already."""

    def __init__(self, observer: FetchObserver) -> None:
        self._lock = threading.Lock()
        self.reused_bytes = 0
        self._reused = observer.reused
        self.received = observer.received
        self.completed_files = observer.completed_files
        self.retry = observer.retry
        self.stage = observer.stage
        self.totals = observer.totals
        self.source_listed = observer.source_listed

    def reused(self, files: int, bytes: int, source: str | None = None) -> None:  # noqa: A002 - the protocol's
        """Count, and pass it on."""
        with self._lock:
            self.reused_bytes += bytes
        self._reused(files, bytes, source)


def shard_from(environment: Mapping[str, str]) -> int:
    """Return the index that Kubernetes gives to each pod of an Indexed Job. Raises InvalidConfigError without one."""
    text = environment.get(INDEX_VARIABLE, "")
    if not text.isdecimal():
        raise InvalidConfigError(
            f"the config has managed.shards, and nobody says which shard this is: give --shard, or set {INDEX_VARIABLE}"
        )
    return int(text)
