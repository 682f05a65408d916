"""The plan that shards share, as it lies on the volume: what there is, and whose it is. Decides little.

Two files: every file, one JSON array a line (its shard first, so that the others' lines are passed over unread), and a
small header that is written last. Who finds the header finds the plan whole. It says for which request it was made.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from datafetch.errors import InternalError
from datafetch.records import PlannedFile
from datafetch.sink.directory import Directory
from datafetch.sink.layout import SHARDS
from datafetch.sources import Checksum, ChecksumAlgorithm, Entry
from datafetch_api.report import SourceSummary

PLANS = f"{SHARDS}/plans"
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Portion:
    """What belongs to one shard."""

    files: int
    bytes: int
    homes: tuple[str, ...] = ()
    """Where earlier attempts have staged something of it."""


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """The header of a plan."""

    plan: str
    request: str
    """The hash of what was asked for."""
    listed: str
    """When, RFC 3339 in UTC."""
    sources: tuple[SourceSummary, ...]
    portions: tuple[Portion, ...]
    epoch: int = 0
    """Of who made it: whoever was taken over meanwhile writes its files elsewhere."""
    source_digest: str | None = None
    """Of what was listed, where the manifest will say more."""

    @property
    def files(self) -> int:
        """Of all shards."""
        return sum(portion.files for portion in self.portions)

    @property
    def bytes(self) -> int:
        """Of all shards, as far as sizes are known."""
        return sum(portion.bytes for portion in self.portions)


def read_plan(base: Directory, plan: str) -> SharedPlan | None:
    """Return the plan of that name; None where there is none yet.

    The directory is opened anew at each look: NFS caches what is not there.
    """
    if plan not in base.names(PLANS):
        return None
    content = base.read(f"{PLANS}/{plan}")
    try:
        header = json.loads(content or b"")
        return SharedPlan(
            plan=header["plan"],
            request=header["request"],
            listed=header["listed"],
            sources=tuple(SourceSummary.model_validate(source) for source in header["sources"]),
            portions=tuple(Portion(one["files"], one["bytes"], tuple(one["homes"])) for one in header["portions"]),
            epoch=header["epoch"],
            source_digest=header["source_digest"],
        )
    except (ValueError, KeyError, TypeError):
        raise InternalError(
            f"the plan {base.full(f'{PLANS}/{plan}')!r} cannot be understood; somebody else writes there"
        ) from None


def write_plan(base: Directory, plan: SharedPlan) -> None:
    """Write the header: from now on the plan is there."""
    content = asdict(plan) | {"sources": [source.model_dump(mode="json", by_alias=True) for source in plan.sources]}
    base.write_atomically(f"{PLANS}/{plan.plan}", iter([json.dumps(content).encode()]))


def write_files(base: Directory, plan: str, epoch: int, files: Iterator[tuple[int, PlannedFile]]) -> None:
    """Write every file with its shard, before the header."""
    base.write_atomically(_files_path(plan, epoch), _lines(files))


def remove_other_plans(base: Directory, plan: SharedPlan) -> None:
    """Remove the plans of earlier attempts."""
    for name in base.names(PLANS):
        if name not in (plan.plan, _files_name(plan.plan, plan.epoch)):
            base.remove(f"{PLANS}/{name}")


def _files_path(plan: str, epoch: int) -> str:
    return f"{PLANS}/{_files_name(plan, epoch)}"


def _files_name(plan: str, epoch: int) -> str:
    return f"{plan}+{epoch}"


def _lines(files: Iterator[tuple[int, PlannedFile]]) -> Iterator[bytes]:
    batch: list[str] = []
    for shard, file in files:
        checksum = None if file.checksum is None else f"{file.checksum.algorithm}:{file.checksum.value}"
        content = [shard, file.source_index, file.key, file.path, file.size, file.identity, checksum]
        batch.append(json.dumps(content, separators=(",", ":")) + "\n")
        if len(batch) >= _BATCH:
            yield "".join(batch).encode()
            batch.clear()
    yield "".join(batch).encode()


def entries_of(base: Directory, plan: str, epoch: int, shard: int, source_index: int) -> Iterator[Entry]:
    """Yield the objects of one source that belong to a shard."""
    mine = f"[{shard},{source_index},".encode()
    with base.lines(_files_path(plan, epoch)) as lines:
        for line in lines:
            if line.startswith(mine):
                yield _entry(json.loads(line))


def _entry(content: Sequence[object]) -> Entry:
    _, _, key, path, size, identity, checksum = content
    algorithm, _, value = str(checksum or "").partition(":")
    return Entry(
        str(key),
        str(path),
        size if isinstance(size, int) else None,
        str(identity),
        Checksum(ChecksumAlgorithm(algorithm), value) if algorithm else None,
    )


def portions_of(sums: Mapping[int, list[int]], homes: Mapping[int, set[str]], count: int) -> tuple[Portion, ...]:
    """Return the portions of shards 0 to `count` - 1 from files and bytes, and homes, by shard."""
    counted = [sums.get(shard, [0, 0]) for shard in range(count)]
    return tuple(
        Portion(files, size, tuple(sorted(homes.get(shard, ())))) for shard, (files, size) in enumerate(counted)
    )
