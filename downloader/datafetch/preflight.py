"""What a fetch would do: what the sources have, what the volume holds of it, and whether the rest fits.

The same plan, journal, manifest and sums as the engine's, without its lock: nothing is written, and nothing is made
where it is missing. What another process does to the target meanwhile is not seen.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from datafetch.engine import FetchObserver, Opener
from datafetch.errors import InsufficientSpaceError, TargetNotWritableError, TargetOccupiedError
from datafetch.ledger import Ledger, kind_of
from datafetch.listing import list_sources, scratch_ledger
from datafetch.marker import MANIFESTS, REVISIONS, STATE_DIRECTORY, linked_revision
from datafetch.plan import Plan, check_space, fold_case, present_bytes
from datafetch.records import ArchiveState, Kind, ManifestFile, PlannedFile
from datafetch.sink.directory import Directory
from datafetch.sink.journal import recover
from datafetch.sink.layout import SHARDS, is_as_published, load_manifest, manifest_name
from datafetch.sink.manifest import read_header, read_manifest
from datafetch.sources import open_source
from datafetch_api.config import DownloadConfig, Managed
from datafetch_api.report import SourceSummary
from datafetch_api.spec_hash import request_hash

_NEWEST_EPOCH = 1 << 62


class Fate(StrEnum):
    """What becomes of one file."""

    UNCHANGED = "unchanged"
    """It is there as it was published, and the source still has that object."""
    NEW = "new"
    CHANGED = "changed"
    """Another state of it was published, or somebody has touched it."""
    PARTLY = "partly there"
    """An earlier run has brought it, or some of it, and was interrupted."""
    REMOVE = "remove"
    """It was published, and no source has it any more."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file, and what becomes of it."""

    path: str
    size: int | None
    fate: Fate
    present: int = 0
    """Bytes of it that need not be fetched."""


@dataclass(slots=True)
class Sum:
    """Files of one fate."""

    files: int = 0
    bytes: int = 0
    present: int = 0


@dataclass(frozen=True)
class Preflight:
    """The complete plan of a fetch beside what is there."""

    directory: str
    plan: Plan
    summaries: tuple[SourceSummary, ...]
    free_bytes: int
    capacity_bytes: int | None
    _target: "_Target"
    sums: dict[Fate, Sum] = field(default_factory=dict)

    @property
    def fetch_bytes(self) -> int:
        """Bytes that have to come over the network, as far as sizes are known."""
        sums = (self.sums[fate] for fate in (Fate.NEW, Fate.CHANGED, Fate.PARTLY))
        return sum(one.bytes - one.present for one in sums)

    @property
    def shortage(self) -> InsufficientSpaceError | None:
        """Why it does not fit, where it does not."""
        needed, total = self.plan.needed_bytes, self.plan.total_bytes
        try:
            check_space(needed=needed, free=self.free_bytes, total=total, capacity=self.capacity_bytes)
        except InsufficientSpaceError as error:
            return error
        return None

    def files(self) -> Iterator[FilePlan]:
        """Yield every file by its path, then those that will go."""
        for file in self.plan:
            yield self._target.compare(file)
        for gone in self._target.ledger.published_but_not_planned():
            # What a new archive holds is known only once it is here.
            if gone.archive is None or not self._target.ledger.is_planned(gone.archive):
                yield FilePlan(gone.path, gone.size, Fate.REMOVE)


def look_ahead(
    config: DownloadConfig, *, observer: FetchObserver, cancel: threading.Event, opener: Opener = open_source
) -> Preflight:
    """Find out what a fetch of the config would do.

    Raises what the fetch would end with before its first byte, but for a lack of space, which `shortage` tells.
    """
    target = _managed_target(config.managed) if config.managed else _target_in_place(config)
    listing = list_sources(
        config, observer=observer, cancel=cancel, opener=opener, ledger=target.ledger, fold=_fold(target.existing)
    )
    status = os.statvfs(target.existing)
    sums = {fate: Sum() for fate in Fate}
    free = status.f_bavail * status.f_frsize
    found = Preflight(target.directory, listing.plan, listing.summaries, free, config.capacity_bytes, target, sums)
    for file in found.files():
        total = sums[file.fate]
        total.files += 1
        total.bytes += file.size or 0
        total.present += file.present
    return found


# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """What the volume holds, read once."""

    directory: str
    """Where the data goes, for messages."""
    existing: str
    """The nearest directory to it that is there."""
    ledger: Ledger
    published: Directory | None
    """The tree that was published last."""
    in_place: bool

    def compare(self, file: PlannedFile) -> FilePlan:
        """Return what becomes of a planned file."""
        if kind_of(file) is Kind.ARCHIVE and (found := self._compare_unpacked(file)) is not None:
            return found
        published = self.ledger.published(file.path)
        if published is not None and published.is_of(file) and self._is_as_published(published):
            return FilePlan(file.path, published.size, Fate.UNCHANGED, published.size)
        if self.in_place:
            self._refuse_directory(file)
        staged = self.ledger.staged(file.path)
        if staged is not None and staged.is_of(file):
            return FilePlan(file.path, file.size, Fate.PARTLY, present_bytes(staged))
        present = self._count_moved(file)
        return FilePlan(file.path, file.size, Fate.NEW if published is None else Fate.CHANGED, present)

    def _count_moved(self, file: PlannedFile) -> int:
        """Return the bytes of a file that was published at another path, and is taken over from there."""
        moved = self.ledger.published_alike(file.checksum, file.size)
        if moved is None or not self._is_as_published(moved) or (self.in_place and self.ledger.is_planned(moved.path)):
            return 0
        return moved.size

    def _compare_unpacked(self, file: PlannedFile) -> FilePlan | None:
        """Return what becomes of an archive that was unpacked before; None where it was not."""
        unpacked = self.ledger.archive(ArchiveState.PUBLISHED, file.path)
        if unpacked is not None and unpacked.is_of(file):
            if all(map(self._is_as_published, self.ledger.published_members(file.path))):
                return FilePlan(file.path, unpacked.size, Fate.UNCHANGED, unpacked.size)
            return FilePlan(file.path, file.size, Fate.CHANGED)
        staged = self.ledger.archive(ArchiveState.STAGED, file.path)
        if staged is not None and staged.is_of(file):
            return FilePlan(file.path, staged.size, Fate.PARTLY, staged.size)
        return None if unpacked is None else FilePlan(file.path, file.size, Fate.CHANGED)

    def _is_as_published(self, file: ManifestFile) -> bool:
        return self.published is not None and is_as_published(self.published, file.path, file)

    def _refuse_directory(self, file: PlannedFile) -> None:
        found = self.published.stat(file.path) if self.published is not None else None
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise TargetOccupiedError(
                f"a directory lies where the file {os.path.join(self.directory, file.path)!r} belongs; move it away, "
                "or choose another target",
                source=file.source,
                key=file.key,
            )


def _target_in_place(config: DownloadConfig) -> _Target:
    root = config.download_root or "."
    existing = _nearest(root)
    if os.path.lexists(root) and not os.path.isdir(root):
        raise TargetOccupiedError(f"{root!r} is not a directory; move it away, or choose another target")
    _refuse_unwritable(existing)
    ledger = _read_state(os.path.join(root, STATE_DIRECTORY), manifest_name(request_hash(config.download_items)))
    published = Directory.open(root) if os.path.isdir(root) else None
    return _Target(root, existing, ledger, published, in_place=True)


def _managed_target(managed: Managed) -> _Target:
    if not os.path.isdir(managed.volume):
        raise TargetNotWritableError(f"the volume {managed.volume!r} is not there; mount it")
    link = os.path.join(managed.volume, managed.path)
    state = os.path.join(os.path.dirname(link), STATE_DIRECTORY, os.path.basename(link))
    existing = _nearest(os.path.dirname(link))
    _refuse_unwritable(existing)
    revision = _published_revision(link, managed)
    ledger = _read_state(state, f"{revision}.json" if revision else None)
    tree = os.path.join(state, REVISIONS, revision or "")
    published = Directory.open(tree) if revision is not None and os.path.isdir(tree) else None
    return _Target(link, existing, ledger, published, in_place=False)


def _published_revision(link: str, managed: Managed) -> str | None:
    """Return the revision that the link names; raise TargetOccupiedError where it is not ours."""
    state = f"{STATE_DIRECTORY}/{os.path.basename(link)}"
    occupied = TargetOccupiedError(
        f"the target path {managed.path!r} holds something that is not ours; move it away, or choose another "
        "target.path"
    )
    if not os.path.islink(link):
        if not os.path.lexists(link) or (os.path.isdir(link) and not os.listdir(link)):
            return None
        raise occupied
    revision = linked_revision(os.path.basename(link), os.readlink(link))
    if revision is None:
        raise occupied
    directory = Directory.open(os.path.dirname(link))
    try:
        header = read_header(directory, f"{state}/{MANIFESTS}/{revision}.json")
    finally:
        directory.close()
    if header is not None and (header.namespace, header.name) != (managed.namespace, managed.name):
        raise TargetOccupiedError(
            f"the target path {managed.path!r} holds the data of DataFetch {header.namespace}/{header.name}; "
            "choose another target.path, or remove that data first"
        )
    return revision


def _read_state(path: str, manifest: str | None) -> Ledger:
    """Return a ledger of what was published, and of what interrupted runs have left."""
    ledger = scratch_ledger()
    if not os.path.isdir(path):
        return ledger
    state = Directory.open(path)
    try:
        if manifest is not None:
            _load_manifest(state, manifest, ledger)
        for name in state.names(SHARDS):
            recover(state, _NEWEST_EPOCH, ledger, f"{SHARDS}/{name}/")
        recover(state, _NEWEST_EPOCH, ledger)
    finally:
        state.close()
    return ledger


def _load_manifest(state: Directory, name: str, ledger: Ledger) -> None:
    with read_manifest(state, f"{MANIFESTS}/{name}") as manifest:
        if manifest is None:
            return
        load_manifest(state, f"{MANIFESTS}/{name}", ledger, manifest[1])


def _nearest(path: str) -> str:
    """Return the nearest directory that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _refuse_unwritable(directory: str) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise TargetNotWritableError(
            f"cannot write in {directory!r} as {os.geteuid()}:{os.getegid()}; make it writable, or choose another "
            "target"
        )


def _fold(directory: str) -> Callable[[str], str]:
    """Return what the file system takes for the same name, by the first name with letters on the way up to its root."""
    while directory != "/":
        head, name = os.path.split(directory)
        other = os.path.join(head, name.swapcase())
        if name != name.swapcase():
            same = os.path.exists(other) and os.path.samefile(directory, other)
            return fold_case if same else str
        directory = head
    return str
