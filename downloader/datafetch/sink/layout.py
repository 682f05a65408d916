"""Where things lie on a volume, and how a finished tree becomes visible: the two layouts.

Managed (the target of a DataFetch), for a fetch at `team/llama`:

    team/llama -> .datafetch/llama/revisions/ID     the link: replaced by one rename(2), it is the completion marker
    team/.datafetch/llama/lock                      who may write
    team/.datafetch/llama/epochs/N/                 one for each holder of the lock: journal and staged tree
    team/.datafetch/llama/revisions/ID/             finished trees, nothing of ours inside
    team/.datafetch/llama/manifests/ID.json         whose each is, and every file in it

In place (`download_root`): the files at their names, and beside them

    .datafetch/{lock,epochs/}                       as above
    .datafetch/manifests/REQUEST.json               written last; one for each request (set of sources) that came here
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from datafetch.errors import TargetNotWritableError, TargetOccupiedError
from datafetch.ledger import Ledger
from datafetch.marker import (
    MANIFESTS,
    REVISIONS,
    STATE_DIRECTORY,
    ManifestHeader,
    is_revision,
    link_text,
    linked_revision,
)
from datafetch.plan import manifest_digest
from datafetch.records import ArchiveState, ManifestFile
from datafetch.sink.directory import Directory, make_directories, refusals
from datafetch.sink.journal import JOURNAL, TREE
from datafetch.sink.lock import EPOCHS
from datafetch.sink.manifest import (
    DamagedManifestError,
    now,
    read_archives,
    read_header,
    read_manifest,
    write_manifest,
)
from datafetch.sink.verification import holds_checksum
from datafetch_api.config import Managed

PUBLISHING = "publishing"
"""In an epoch's directory: the revision that it is about to publish."""
SHARDS = "shards"
"""Where those work of which each brings a part of a fetch: `SHARDS/I/` has a lock and epochs of its own."""


@dataclass(frozen=True, slots=True)
class Complete:
    """A published tree that was looked through."""

    header: ManifestHeader
    published: "Published"


@dataclass(frozen=True, slots=True)
class Published:
    """A finished tree that is visible."""

    revision: str | None
    publication: Literal["Link", "InPlace"]
    manifest_digest: str
    bytes: int


class Layout(Protocol):
    """What differs between the layouts. The state directory is open; the lock is held from `begin` on."""

    state: Directory
    """Where the lock and the epochs are."""
    base: Directory
    """What all homes of staged files lie below: `state`, or where each of several has a state of its own."""
    home: str
    """Where the state lies below it, with a slash; empty where it is the same."""
    publication: Literal["Link", "InPlace"]

    def other_homes(self) -> tuple[str, ...]:
        """Return where others may have staged files of this fetch, at another time."""

    def complete(self, spec_hash: str, *, full: bool = False) -> "Complete | None":
        """Return what is published, where it is all of what that request asks for and every file is as it was.

        Full: the bytes of each are read again too. Needs no lock: it only looks.
        """

    def begin(self, ledger: Ledger) -> None:
        """Take what is published into the ledger.

        Raises TargetOccupiedError where something that is not ours is in the way.
        """

    def take(self, file: ManifestFile, tree: Directory, *, full: bool = False) -> bool:
        """Take a published file over into the staged tree, or leave it where it is; False where it is not as it was.

        Full: its bytes are read again too.
        """

    def holds(self, file: ManifestFile, *, full: bool = False) -> bool:
        """Say whether a published file is as it was; where `full`, by its bytes too."""

    def take_as(self, file: ManifestFile, tree: Directory, path: str, *, full: bool = False) -> bool:
        """Give a published file another name, in the staged tree; False where it cannot be had like this."""

    def close(self) -> None:
        """Close the directories."""

    def place(self, path: str, tree: Directory) -> None:
        """Give a file that is whole, verified and flushed its final name; nothing where the tree is renamed as one."""

    def placed(self, path: str) -> os.stat_result | None:
        """Return what lies at a final name that this fetch gave before it was killed."""

    def open_placed(self, path: str) -> int:
        """Open what lies at a final name for reading, and return its descriptor. Raises FileNotFoundError."""

    def publish(self, epoch: int, header: ManifestHeader, ledger: Ledger, *, unchanged: bool) -> Published:
        """Make the finished tree visible, at once or by its marker, and remove what is obsolete.

        The ledger holds its files; `unchanged` says that every one was taken over from the published tree.
        """

    def clear(self, epoch: int) -> None:
        """Remove what was staged, once it is published; the epoch's directory stays: no number is given twice."""


class ManagedLayout:
    """Revisions behind one link."""

    publication: Literal["Link", "InPlace"] = "Link"

    def __init__(self, managed: Managed) -> None:
        self._managed = managed
        parent, _, self._link = managed.path.rpartition("/")
        try:
            volume = Directory.open(managed.volume)
        except FileNotFoundError:
            raise TargetNotWritableError(f"the volume {managed.volume!r} is not there; mount it") from None
        self._parent = volume.child(parent) if parent else volume
        self.base = self.state = self._parent.child(f"{STATE_DIRECTORY}/{self._link}")
        self.home = ""
        self._volume = volume
        self._header: ManifestHeader | None = None
        """Of the revision that files are taken over from."""
        self._unpublished: str | None = None
        """That revision, where a kill came between its completion and the flip."""

    def complete(self, spec_hash: str, *, full: bool = False) -> Complete | None:
        """Look through the revision that the link names."""
        revision = self._published_revision()
        if revision is None:
            return None
        header = _look_through(
            self.state, f"{MANIFESTS}/{revision}.json", spec_hash, self.state, f"{REVISIONS}/{revision}/", full=full
        )
        if header is None:
            return None
        self._refuse_foreign(header)
        return Complete(header, Published(revision, "Link", header.manifest_digest, header.bytes))

    def close(self) -> None:
        """Close the directories."""
        for directory in {self._volume, self._parent, self.state}:
            directory.close()

    def other_homes(self) -> tuple[str, ...]:
        """Return those of the shards that an attempt with several pods has left; their records name what counts now."""
        return () if self._managed.shards is not None else homes_of_shards(self.state)

    def begin(self, ledger: Ledger) -> None:
        """Read the published revision, and refuse what is not ours in the link's place."""
        published = self.revision()
        self._unpublished = self._take_up_unpublished(published)
        self._load(self._unpublished or published, ledger)

    def look(self, ledger: Ledger) -> None:
        """Read the same without the lock, for one of several that fetch at a time: nothing is removed or noted."""
        published = self.revision()
        unpublished = (revision for _, revision in self._announced() if self._is_whole(revision))
        self._load(next(unpublished, published), ledger)

    def revision(self) -> str | None:
        """Return the id of the published revision. Raises TargetOccupiedError where what is there is not ours."""
        published = self._published_revision()
        if published is not None:
            header = read_header(self.state, f"{MANIFESTS}/{published}.json")
            if header is not None:
                self._refuse_foreign(header)
        return published

    def _load(self, revision: str | None, ledger: Ledger) -> None:
        if revision is None:
            return
        path = f"{MANIFESTS}/{revision}.json"
        with read_manifest(self.state, path) as manifest:
            if manifest is not None and load_manifest(self.state, path, ledger, manifest[1]):
                self._header = manifest[0]

    def _take_up_unpublished(self, published: str | None) -> str | None:
        """Return the last revision that was complete when a kill kept it from being published; remove others of them.

        Only what an epoch says that it was about to publish is looked at: an old revision may be in use by pods.
        """
        found: str | None = None
        for note, revision in list(self._announced()):
            if published is not None and revision == published:
                self._note_visible(published, note)
            if not is_revision(revision) or revision in (published, found):
                continue
            if found is None and self._is_whole(revision):
                found = revision
            else:
                self._remove_revision(revision)
        return found

    def _announced(self) -> Iterator[tuple[str, str]]:
        """Yield, the newest epoch first, the note and the revision that each epoch says it was about to publish."""
        for epoch in sorted((int(name) for name in self.state.names(EPOCHS) if name.isdigit()), reverse=True):
            note = f"{EPOCHS}/{epoch}/{PUBLISHING}"
            yield note, (self.state.read(note) or b"").decode(errors="replace")

    def _is_whole(self, revision: str) -> bool:
        if not is_revision(revision) or self.state.stat(f"{REVISIONS}/{revision}") is None:
            return False
        return read_header(self.state, f"{MANIFESTS}/{revision}.json") is not None

    def _note_visible(self, revision: str, note: str) -> None:
        """Note that a revision is visible from now on, at the latest.

        Its manifest's mtime says since when: until then pods have started with the one before. The note that it is
        about to be published must not be read once another one is.
        """
        self.state.touch(f"{MANIFESTS}/{revision}.json")
        self.state.remove(note)

    def _remove_revision(self, revision: str) -> None:
        self.state.remove_tree(f"{REVISIONS}/{revision}")
        self.state.remove(f"{MANIFESTS}/{revision}.json")

    def _refuse_foreign(self, header: ManifestHeader) -> None:
        mine = (self._managed.namespace, self._managed.name)
        if (header.namespace, header.name) == mine:
            return
        raise TargetOccupiedError(
            f"the target path {self._managed.path!r} holds the data of DataFetch {header.namespace}/{header.name}; "
            "choose another target.path, or remove that data first"
        )

    def _published_revision(self) -> str | None:
        """Return the id of the revision that the link names; None where nothing, or an empty directory, is there."""
        target = self._parent.read_link(self._link)
        revision = None if target is None else linked_revision(self._link, target)
        if revision is not None:
            return revision
        if target is None:
            status = self._parent.stat(self._link)
            if status is None or (os.path.isdir(self._path) and not self._parent.names(self._link)):
                return None
        raise TargetOccupiedError(
            f"the target path {self._managed.path!r} holds something that is not ours; move it away, or choose another "
            "target.path"
        )

    @property
    def _path(self) -> str:
        return os.path.join(self._parent.path, self._link)

    def take(self, file: ManifestFile, tree: Directory, *, full: bool = False) -> bool:
        """Link an unchanged file of the published revision into the new one; copy it where links are refused."""
        return self.take_as(file, tree, file.path, full=full)

    def holds(self, file: ManifestFile, *, full: bool = False) -> bool:
        """Say whether a published file is as it was; where `full`, by its bytes too."""
        if self._header is None:
            return False
        return is_as_published(self.state, f"{REVISIONS}/{self._header.revision}/{file.path}", file, full=full)

    def take_as(self, file: ManifestFile, tree: Directory, path: str, *, full: bool = False) -> bool:
        """Link it at another path, likewise."""
        if self._header is None or not self.holds(file, full=full):
            return False
        old = f"{REVISIONS}/{self._header.revision}/{file.path}"
        if not self.state.link(old, tree, path):
            self.state.copy(old, tree, path)
        return True

    def place(self, path: str, tree: Directory) -> None:
        """Do nothing: the tree becomes visible as one."""

    def placed(self, path: str) -> os.stat_result | None:  # noqa: ARG002 - the protocol's
        """Return None: no file has a final name before all have."""
        return None

    def open_placed(self, path: str) -> int:
        """Raise FileNotFoundError: no file has a final name before all have."""
        raise FileNotFoundError(path)

    def publish(self, epoch: int, header: ManifestHeader, ledger: Ledger, *, unchanged: bool) -> Published:
        """Rename the tree to a revision, write its manifest, and flip the link."""
        managed = self._managed
        header = replace(header, namespace=managed.namespace, name=managed.name, uid=managed.uid)
        old = self._header
        if (
            old is not None
            and self._unpublished is None
            and unchanged
            and old.manifest_digest == header.manifest_digest
            and old.files == header.files  # an archive need not be kept any more
        ):
            return self._keep(old, header, ledger)
        self.state.make(REVISIONS)
        # After a kill the next run takes the revision up by these two, unpublished as it is.
        self.state.replace(f"{EPOCHS}/{epoch}/{PUBLISHING}", header.revision.encode())
        _write(self.state, f"{MANIFESTS}/{header.revision}.json", header, ledger)
        self.state.rename(f"{EPOCHS}/{epoch}/{TREE}", self.state, f"{REVISIONS}/{header.revision}")
        self.state.flush()
        self._flip(header.revision)
        self._note_visible(header.revision, f"{EPOCHS}/{epoch}/{PUBLISHING}")
        if self._unpublished is not None:
            self._remove_revision(self._unpublished)
        self._prune(header)
        return Published(header.revision, "Link", header.manifest_digest, header.bytes)

    def clear(self, epoch: int) -> None:
        """Remove the epochs, and what shards have left."""
        clear_epochs(self.state, epoch)
        if self._managed.shards is None:
            self.state.remove_tree(SHARDS)

    def _keep(self, old: ManifestHeader, new: ManifestHeader, ledger: Ledger) -> Published:
        """Leave the published revision where it is: it holds the same. Its manifest says whose it is now."""
        kept = replace(old, uid=new.uid, spec_hash=new.spec_hash)
        if kept != old:
            _write(self.state, f"{MANIFESTS}/{old.revision}.json", kept, ledger)
        return Published(old.revision, "Link", old.manifest_digest, old.bytes)

    def _flip(self, revision: str) -> None:
        self._published_revision()  # somebody may have put something in the link's place meanwhile
        temporary = f"link.{os.urandom(6).hex()}"
        self.state.symlink(link_text(self._link, revision), temporary)
        if os.path.isdir(self._path) and not os.path.islink(self._path):
            with refusals(self._path):
                os.rmdir(self._link, dir_fd=self._parent.descriptor)
        self.state.rename(temporary, self._parent, self._link)
        with refusals(self._path):
            os.fsync(self._parent.descriptor)

    def _dated(self, name: str) -> ManifestHeader | None:
        """Return the header of a manifest's file with the time when its revision became visible."""
        header = read_header(self.state, f"{MANIFESTS}/{name}")
        status = self.state.stat(f"{MANIFESTS}/{name}")
        if header is None or status is None or f"{header.revision}.json" != name:
            return None  # not one of ours: nothing is removed by what it says
        seen = datetime.fromtimestamp(status.st_mtime, UTC)
        return replace(header, time=max(header.published, seen).isoformat())

    def _prune(self, current: ManifestHeader) -> None:
        """Remove old revisions that nobody can be using: the rule stands in `prunable`."""
        headers = [header for name in self.state.names(MANIFESTS) if (header := self._dated(name)) is not None]
        limit = self._managed.prune_replaced_before
        for revision in prunable(headers, current, keep=self._managed.keep_revisions, replaced_before=limit):
            self._remove_revision(revision)


def prunable(
    headers: Iterable[ManifestHeader], current: ManifestHeader, *, keep: int, replaced_before: datetime | None
) -> list[str]:
    """Return the revisions that may go: `keep` newer old ones exist, and it was replaced before the given time.

    No running pod that mounts the claim started before that time: a pod keeps the revision that it started with.
    Without a time nothing goes.
    """
    if replaced_before is None:
        return []
    ordered = sorted((header for header in headers if header.revision != current.revision), key=lambda old: old.time)
    successors = [*ordered, current][1:]
    candidates = list(zip(ordered, successors, strict=True))[: max(0, len(ordered) - keep)]
    return [old.revision for old, successor in candidates if successor.published < replaced_before]


class InPlaceLayout:
    """Files at their own names, one by one; the manifest last."""

    publication: Literal["Link", "InPlace"] = "InPlace"

    def __init__(self, root: str, spec_hash: str) -> None:
        try:
            with refusals(root):
                make_directories(root)
        except FileNotFoundError:
            raise TargetNotWritableError(f"{root!r} cannot be made here; choose another target") from None
        except FileExistsError:
            raise TargetOccupiedError(f"{root!r} is not a directory; move it away, or choose another target") from None
        self._root = Directory.open(root)
        self.base = self.state = self._root.child(STATE_DIRECTORY)
        self.home = ""
        self._manifest = f"{MANIFESTS}/{manifest_name(spec_hash)}"

    def complete(self, spec_hash: str, *, full: bool = False) -> Complete | None:
        """Look through the files of the same request."""
        header = _look_through(self.state, self._manifest, spec_hash, self._root, "", full=full)
        if header is None:
            return None
        return Complete(header, Published(None, "InPlace", header.manifest_digest, header.bytes))

    def close(self) -> None:
        """Close the directories."""
        self._root.close()
        self.state.close()

    def other_homes(self) -> tuple[str, ...]:
        """Return none: one process at a time."""
        return ()

    def begin(self, ledger: Ledger) -> None:
        """Read the manifest of the same request, if it was here before."""
        with read_manifest(self.state, self._manifest) as manifest:
            if manifest is not None:
                load_manifest(self.state, self._manifest, ledger, manifest[1])

    def take(self, file: ManifestFile, tree: Directory, *, full: bool = False) -> bool:  # noqa: ARG002 - the protocol's
        """Leave an unchanged file where it is."""
        return self.holds(file, full=full)

    def holds(self, file: ManifestFile, *, full: bool = False) -> bool:
        """Say whether a published file is as it was."""
        return is_as_published(self._root, file.path, file, full=full)

    def take_as(self, file: ManifestFile, tree: Directory, path: str, *, full: bool = False) -> bool:
        """Link an unchanged file into the staged tree; its old name goes when the fetch is complete."""
        return is_as_published(self._root, file.path, file, full=full) and self._root.link(file.path, tree, path)

    def place(self, path: str, tree: Directory) -> None:
        """Rename a file to its final name, over an older one."""
        tree.rename(path, self._root, path)

    def placed(self, path: str) -> os.stat_result | None:
        """Return what lies at the final name."""
        return self._root.stat(path)

    def open_placed(self, path: str) -> int:
        """Open what lies at the final name."""
        return self._root.open_file(path, writable=False)

    def publish(
        self,
        epoch: int,  # noqa: ARG002 - the protocol's
        header: ManifestHeader,
        ledger: Ledger,
        *,
        unchanged: bool,  # noqa: ARG002 - the protocol's
    ) -> Published:
        """Remove the files that only the last manifest listed, then write the new one.

        In this order: after a kill the next run still knows of them.
        """
        for file in ledger.published_but_not_planned():
            if self.take(file, self._root):
                self._root.remove(file.path)
                self._root.remove_empty_parents(file.path)
        self.state.flush()
        _write(self.state, self._manifest, header, ledger)
        return Published(None, "InPlace", header.manifest_digest, header.bytes)

    def clear(self, epoch: int) -> None:
        """Remove the epochs."""
        clear_epochs(self.state, epoch)


def homes_of_shards(state: Directory) -> tuple[str, ...]:
    """Return where shards have worked."""
    return tuple(f"{SHARDS}/{name}/" for name in state.names(SHARDS) if name.isdigit())


def clear_epochs(state: Directory, epoch: int) -> None:
    """Remove what was staged; the epoch's directory stays."""
    for name in state.names(EPOCHS):
        if name != str(epoch):
            state.remove_tree(f"{EPOCHS}/{name}")
    state.remove_tree(f"{EPOCHS}/{epoch}/{TREE}")
    state.remove(f"{EPOCHS}/{epoch}/{JOURNAL}")


def _look_through(
    state: Directory, manifest_path: str, spec_hash: str, directory: Directory, prefix: str, *, full: bool
) -> ManifestHeader | None:
    """Return a manifest's header, where it is of that request and each of its files is as it was published."""
    with read_manifest(state, manifest_path) as manifest:
        if manifest is None or manifest[0].spec_hash != spec_hash:
            return None
        header, files = manifest
        try:
            whole = all(is_as_published(directory, prefix + file.path, file, full=full) for file in files)
        except DamagedManifestError:
            return None
    return header if whole else None


def is_as_published(directory: Directory, path: str, file: ManifestFile, *, full: bool = False) -> bool:
    """Say whether a file has the size and mtime that its manifest lists; where `full`, the checksum too."""
    status = directory.stat(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    if (status.st_size, status.st_mtime_ns) != (file.size, file.modified):
        return False
    return not full or holds_checksum(directory, path, file)


def manifest_name(spec_hash: str) -> str:
    """Return what the manifest of a request is called in place."""
    return f"{spec_hash.partition(':')[2][:16]}.json"


def _write(state: Directory, path: str, header: ManifestHeader, ledger: Ledger) -> None:
    """Write the manifest of the ledger's finished files."""
    write_manifest(state, path, header, ledger.finished_files(), ledger.archives(ArchiveState.UNPACKED))


def load_manifest(state: Directory, path: str, ledger: Ledger, files: Iterable[ManifestFile]) -> bool:
    """Take a manifest's files and archives into the ledger; False, and none of them, where it is damaged."""
    try:
        ledger.load_published(files)
        for archive in read_archives(state, path):
            ledger.note_archive(ArchiveState.PUBLISHED, archive)
    except DamagedManifestError:
        ledger.forget_published()
        return False
    return True


def new_header(spec_hash: str, ledger: Ledger) -> ManifestHeader:
    """Return the header of the tree that is about to be published: the finished files of the ledger."""
    digest = manifest_digest(ledger.source_objects())
    files, size = ledger.count_finished()
    time = now()
    stamp = time.translate({ord(character): None for character in "-:."}).replace("+0000", "Z")
    revision = f"{stamp}-{digest.removeprefix('sha256:')[:8]}-{os.urandom(2).hex()}"
    return ManifestHeader(revision, spec_hash, digest, files, size, time)
