"""The last run of a fetch by shards: what all of them have brought becomes one revision, and visible by one link.

It asks no source. Files are renamed out of the shards' trees, and linked where they were published before; what is not
exactly as its shard recorded it ends the run. Killed at any moment, the next run finds the rest, and what is already
published it leaves as it is.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice

from datafetch.engine import FetchObserver, FetchOutcome
from datafetch.errors import InternalError, InterruptedByRequestError, UnsafePathError
from datafetch.ledger import CollisionError
from datafetch.plan import manifest_digest
from datafetch.records import Kind, ManifestFile, PlannedFile
from datafetch.sharding.fetching import settings
from datafetch.sharding.layout import FILES, ShardRecord, epoch_place, home_of, read_record
from datafetch.sharding.plan_file import SharedPlan, read_plan
from datafetch.sink import ManagedLayout, Published, Sink, TargetLock
from datafetch.sink.directory import Directory
from datafetch.sink.layout import SHARDS
from datafetch.sink.lock import EPOCHS
from datafetch.sink.manifest import DamagedManifestError, read_manifest
from datafetch_api.config import DownloadConfig
from datafetch_api.report import SourceSummary, Stage

PUBLISHED = f"{SHARDS}/published"
_BATCH = 512
_AT_A_TIME = 16
"""Files that are renamed at a time: on a network file system each waits for its server."""


@dataclass(frozen=True, slots=True)
class _Note:
    """What stays of a plan that is published."""

    plan: str
    revision: str
    manifest_digest: str
    files: int
    bytes: int
    reused_bytes: int
    sources: tuple[SourceSummary, ...]
    source_digest: str | None

    def outcome(self) -> FetchOutcome:
        return FetchOutcome(
            files=self.files,
            bytes=self.bytes,
            reused_bytes=self.reused_bytes,
            manifest_digest=self.manifest_digest,
            revision=self.revision,
            publication="Link",
            sources=self.sources,
            source_digest=self.source_digest,
        )


def publish_shards(config: DownloadConfig, *, observer: FetchObserver, cancel: threading.Event) -> FetchOutcome:
    """Publish what the shards of the config's plan have brought, as one revision.

    Raises InternalError where a shard has not ended, or what it brought is not there any more.
    """
    managed, shards = settings(config)
    layout = ManagedLayout(managed)
    lock = TargetLock(layout.state)
    try:
        lock.acquire(cancel, lambda message: observer.stage(Stage.WAITING, message))
    except BaseException:
        layout.close()
        raise
    observer.stage(Stage.PUBLISHING)
    with Sink.open(layout, lock) as sink:
        note = _read_note(layout, shards.plan)
        if note is not None:
            observer.totals(note.files, note.bytes)
            _clear(layout)
            return note.outcome()
        plan, records = _read_records(layout.base, shards.plan, shards.count)
        files, size = sum(record.files for record in records), sum(record.bytes for record in records)
        observer.totals(files, size)
        for shard, record in enumerate(records):
            _Taking(sink, layout.base, lock.epoch, observer, cancel).take(shard, record)
        if sink.ledger.count_finished() != (files, size):
            raise InternalError("not every file that the shards have brought came into the revision")
        sink.plan_complete = True
        published = sink.publish(managed.spec_hash)
        reused = sum(record.reused_bytes for record in records)
        note = _note_of(plan, published, files, reused)
        layout.base.write_atomically(PUBLISHED, iter([_dump(note)]))
        _clear(layout)
        return note.outcome()


# --- what the shards say ---------------------------------------------------------------------------------------------


def _read_records(base: Directory, name: str, count: int) -> tuple[SharedPlan, list[ShardRecord]]:
    plan = read_plan(base, name)
    if plan is None or len(plan.portions) != count:
        raise InternalError(f"there is no plan {name!r} for {count} shards on the volume; run the shards again")
    records = [read_record(base, shard, name) for shard in range(count)]
    missing = [str(shard) for shard, record in enumerate(records) if record is None]
    if missing:
        raise InternalError(
            f"of {count} shards these have not brought their part of plan {name!r}: {', '.join(missing)}; "
            "run them again"
        )
    return plan, [record for record in records if record is not None]


class _Taking:
    """Takes the files of one shard after the other into the revision."""

    def __init__(
        self, sink: Sink, base: Directory, epoch: int, observer: FetchObserver, cancel: threading.Event
    ) -> None:
        self._sink = sink
        self._base = base
        self._observer = observer
        self._cancel = cancel
        epochs = (int(name) for name in base.names(EPOCHS) if name.isdigit())
        # Where a publication that was killed has moved them.
        self._before = tuple(f"{EPOCHS}/{earlier}" for earlier in sorted(epochs) if earlier != epoch)

    def take(self, shard: int, record: ShardRecord) -> None:
        """Take what the shard recorded. Raises InternalError where it is not there, UnsafePathError for a collision."""
        places = (epoch_place(shard, record), *self._before)
        with (
            read_manifest(self._base, f"{home_of(shard)}{FILES}") as manifest,
            ThreadPoolExecutor(_AT_A_TIME, "take") as pool,
        ):
            if manifest is None or manifest[0].manifest_digest != record.manifest_digest:
                raise _damaged(shard)
            digested = manifest_digest(self._take_all(manifest[1], shard, places, pool))
        if digested != record.manifest_digest:
            raise _damaged(shard)

    def _take_all(
        self, files: Iterator[ManifestFile], shard: int, places: Sequence[str], pool: ThreadPoolExecutor
    ) -> Iterator[ManifestFile]:
        """Take the files, batch by batch, and yield them."""
        try:
            while batch := list(islice(files, _BATCH)):
                self._take_batch(batch, shard, places, pool)
                yield from batch
        except DamagedManifestError:
            raise _damaged(shard) from None

    def _take_batch(
        self, batch: Sequence[ManifestFile], shard: int, places: Sequence[str], pool: ThreadPoolExecutor
    ) -> None:
        if self._cancel.is_set():
            raise InterruptedByRequestError("stopped by a signal; run it again to go on")
        planned = [PlannedFile(shard, f"shard {shard}", file.path, file.path, file.size, file.identity, None)
                   for file in batch]  # fmt: skip
        try:
            ids = self._sink.ledger.add_files(
                [(file, Kind.KNOWN) for file in planned], [self._sink.fold(file.path) for file in batch]
            )
        except CollisionError as error:
            raise UnsafePathError(
                f"two shards have brought {error.first[2]!r} and {error.second[2]!r}, which cannot both be; "
                "give one of them another path, or exclude it"
            ) from None
        whole: list[tuple[PlannedFile, ManifestFile]] = []
        found = pool.map(lambda file: self._sink.take_over(file, places), batch)
        for file, entry, file_id, is_staged in zip(planned, batch, ids, found, strict=True):
            if is_staged:
                file.id = file_id
                whole.append((file, entry))
            elif not self._sink.take_published(entry, file_id):
                raise InternalError(
                    f"{entry.path!r} is not on the volume any more as shard {shard} has brought it; run it again",
                    key=entry.path,
                )
        self._sink.add_whole(whole)
        self._observer.completed_files(len(batch))
        self._observer.reused(len(batch), sum(file.size for file in batch))


def _damaged(shard: int) -> InternalError:
    return InternalError(f"what shard {shard} has recorded of its part cannot be understood; run it again")


# --- what stays ------------------------------------------------------------------------------------------------------


def _note_of(plan: SharedPlan, published: Published, files: int, reused: int) -> _Note:
    return _Note(
        plan=plan.plan,
        revision=published.revision or "",
        manifest_digest=published.manifest_digest,
        files=files,
        bytes=published.bytes,
        reused_bytes=reused,
        sources=plan.sources,
        source_digest=plan.source_digest,
    )


def _dump(note: _Note) -> bytes:
    content = asdict(note) | {"sources": [source.model_dump(mode="json", by_alias=True) for source in note.sources]}
    return json.dumps(content).encode()


def _read_note(layout: ManagedLayout, plan: str) -> _Note | None:
    """Return what a run published of the plan whose end nobody heard of; None where that is not what is there."""
    try:
        content = json.loads(layout.base.read(PUBLISHED) or b"")
        sources = tuple(SourceSummary.model_validate(source) for source in content["sources"])
        note = _Note(**{**content, "sources": sources})
    except (ValueError, TypeError, KeyError):
        return None
    return note if (note.plan, note.revision) == (plan, layout.revision()) else None


def _clear(layout: ManagedLayout) -> None:
    """Remove what the shards have left; the note stays, for who asks again."""
    for name in layout.base.names(SHARDS):
        if f"{SHARDS}/{name}" != PUBLISHED:
            layout.base.remove_tree(f"{SHARDS}/{name}")
