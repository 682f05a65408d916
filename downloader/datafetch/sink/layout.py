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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from datafetch.errors import TargetNotWritableError, TargetOccupiedError
from datafetch.plan import STATE_DIRECTORY
from datafetch.sink.directory import Directory, refusals
from datafetch.sink.lock import EPOCHS
from datafetch.sink.manifest import ManifestFile, ManifestHeader, now, read_header, read_manifest, write_manifest
from datafetch_api.config import Managed

TREE = "tree"
MANIFESTS = "manifests"
REVISIONS = "revisions"


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
    publication: Literal["Link", "InPlace"]

    def begin(self) -> None:
        """Look at what is published. Raises TargetOccupiedError where something that is not ours is in the way."""

    @property
    def published(self) -> dict[str, ManifestFile]:
        """The files of the published tree, by path."""

    def take(self, file: ManifestFile, tree: Directory) -> bool:
        """Take a published file over into the staged tree, or leave it where it is; False where it is not as it was."""

    def place(self, path: str, tree: Directory) -> None:
        """Give a file that is whole, verified and flushed its final name; nothing where the tree is renamed as one."""

    def placed(self, path: str) -> os.stat_result | None:
        """Return what lies at a final name that this fetch gave before it was killed."""

    def publish(
        self, epoch: int, header: ManifestHeader, files: Sequence[ManifestFile], *, unchanged: bool
    ) -> Published:
        """Make the finished tree visible, at once or by its marker, and remove what is obsolete.

        `unchanged` says that every file was taken over from the published tree.
        """


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
        self.state = self._parent.child(f"{STATE_DIRECTORY}/{self._link}")
        self.published: dict[str, ManifestFile] = {}
        self._header: ManifestHeader | None = None

    def begin(self) -> None:
        """Read the published revision, and refuse what is not ours in the link's place."""
        revision = self._published_revision()
        if revision is None:
            return
        manifest = read_manifest(self.state, f"{MANIFESTS}/{revision}.json")
        if manifest is None:
            return
        self._refuse_foreign(manifest[0])
        self._header = manifest[0]
        self.published = {file.path: file for file in manifest[1]}

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
        prefix = f"{STATE_DIRECTORY}/{self._link}/{REVISIONS}/"
        if target is not None and target.startswith(prefix) and "/" not in target.removeprefix(prefix):
            return target.removeprefix(prefix)
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

    def take(self, file: ManifestFile, tree: Directory) -> bool:
        """Link an unchanged file of the published revision into the new one; copy it where links are refused."""
        if self._header is None:
            return False
        path = f"{REVISIONS}/{self._header.revision}/{file.path}"
        status = self.state.stat(path)
        if status is None or status.st_size != file.size or status.st_mtime_ns != file.modified:
            return False
        if not self.state.link(path, tree, file.path):
            self.state.copy(path, tree, file.path)
        return True

    def place(self, path: str, tree: Directory) -> None:
        """Do nothing: the tree becomes visible as one."""

    def placed(self, path: str) -> os.stat_result | None:  # noqa: ARG002 - the protocol's
        """Return None: no file has a final name before all have."""
        return None

    def publish(
        self, epoch: int, header: ManifestHeader, files: Sequence[ManifestFile], *, unchanged: bool
    ) -> Published:
        """Rename the tree to a revision, write its manifest, and flip the link."""
        managed = self._managed
        header = replace(header, namespace=managed.namespace, name=managed.name, uid=managed.uid)
        old = self._header
        if old is not None and unchanged and old.manifest_digest == header.manifest_digest:
            return self._keep(old, header, files)
        self.state.make(REVISIONS)
        self.state.rename(f"{EPOCHS}/{epoch}/{TREE}", self.state, f"{REVISIONS}/{header.revision}")
        write_manifest(self.state, f"{MANIFESTS}/{header.revision}.json", header, files)
        self.state.flush()
        self._flip(header.revision)
        self._prune(header)
        return Published(header.revision, "Link", header.manifest_digest, header.bytes)

    def _keep(self, old: ManifestHeader, new: ManifestHeader, files: Sequence[ManifestFile]) -> Published:
        """Leave the published revision where it is: it holds the same. Its manifest says whose it is now."""
        kept = replace(old, uid=new.uid, spec_hash=new.spec_hash)
        if kept != old:
            write_manifest(self.state, f"{MANIFESTS}/{old.revision}.json", kept, files)
        return Published(old.revision, "Link", old.manifest_digest, old.bytes)

    def _flip(self, revision: str) -> None:
        self._published_revision()  # somebody may have put something in the link's place meanwhile
        temporary = f"link.{os.urandom(6).hex()}"
        self.state.symlink(f"{STATE_DIRECTORY}/{self._link}/{REVISIONS}/{revision}", temporary)
        if os.path.isdir(self._path) and not os.path.islink(self._path):
            with refusals(self._path):
                os.rmdir(self._link, dir_fd=self._parent.descriptor)
        self.state.rename(temporary, self._parent, self._link)
        with refusals(self._path):
            os.fsync(self._parent.descriptor)

    def _prune(self, current: ManifestHeader) -> None:
        """Remove old revisions that nobody can be using: the rule stands in `prunable`."""
        headers = [
            header
            for name in self.state.names(MANIFESTS)
            if (header := read_header(self.state, f"{MANIFESTS}/{name}")) is not None
        ]
        limit = self._managed.prune_replaced_before
        for revision in prunable(headers, current, keep=self._managed.keep_revisions, replaced_before=limit):
            self.state.remove_tree(f"{REVISIONS}/{revision}")
            self.state.remove(f"{MANIFESTS}/{revision}.json")


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

    def __init__(self, root: str, request: str) -> None:
        try:
            with refusals(root):
                os.makedirs(root, exist_ok=True)
        except FileNotFoundError:
            raise TargetNotWritableError(f"{root!r} cannot be made here; choose another target") from None
        except FileExistsError:
            raise TargetOccupiedError(f"{root!r} is not a directory; move it away, or choose another target") from None
        self._root = Directory.open(root)
        self.state = self._root.child(STATE_DIRECTORY)
        self._manifest = f"{MANIFESTS}/{request}.json"
        self.published: dict[str, ManifestFile] = {}

    def begin(self) -> None:
        """Read the manifest of the same request, if it was here before."""
        manifest = read_manifest(self.state, self._manifest)
        if manifest is not None:
            self.published = {file.path: file for file in manifest[1]}

    def take(self, file: ManifestFile, tree: Directory) -> bool:  # noqa: ARG002 - the protocol's
        """Leave an unchanged file where it is."""
        status = self._root.stat(file.path)
        return status is not None and (status.st_size, status.st_mtime_ns) == (file.size, file.modified)

    def place(self, path: str, tree: Directory) -> None:
        """Rename a file to its final name, over an older one."""
        tree.rename(path, self._root, path)

    def placed(self, path: str) -> os.stat_result | None:
        """Return what lies at the final name."""
        return self._root.stat(path)

    def publish(
        self,
        epoch: int,  # noqa: ARG002 - the protocol's
        header: ManifestHeader,
        files: Sequence[ManifestFile],
        *,
        unchanged: bool,  # noqa: ARG002 - the protocol's
    ) -> Published:
        """Write the manifest, then remove the files that only the last one listed."""
        self.state.flush()
        write_manifest(self.state, self._manifest, header, files)
        gone = self.published.keys() - {file.path for file in files}
        for path in gone:
            if self.take(self.published[path], self._root):
                self._root.remove(path)
                self._root.remove_empty_parents(path)
        return Published(None, "InPlace", header.manifest_digest, header.bytes)


def new_header(spec_hash: str, digest: str, files: Sequence[ManifestFile]) -> ManifestHeader:
    """Return the header of a tree that is about to be published."""
    time = now()
    stamp = time.translate({ord(character): None for character in "-:."}).replace("+0000", "Z")
    revision = f"{stamp}-{digest.removeprefix('sha256:')[:8]}-{os.urandom(2).hex()}"
    return ManifestHeader(revision, spec_hash, digest, len(files), sum(file.size for file in files), time)
