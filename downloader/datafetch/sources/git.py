"""Files of a git repository at one commit, without history, work tree or anything of the repository being executed.

The git command fetches the commit's trees and then, in one request, the blobs of the files that are selected; files are
read out of its object database. What Git LFS keeps comes over `transport`. With which settings git runs is the business
of `git_access`, running it that of `git_command`, one repository `git_repository`, LFS `git_lfs`, what is selected
`selection`.
"""

import json
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
    UnsafePathError,
)
from datafetch.globs import common_prefix
from datafetch.sources import ByteRange, Entry, HttpAccess, RangeReader
from datafetch.sources.git_access import Access, Remote, submodule_remote
from datafetch.sources.git_command import Runner
from datafetch.sources.git_lfs import (
    LARGEST_POINTER,
    Endpoint,
    LfsServer,
    Pointer,
    endpoint_url,
    parse_pointer,
)
from datafetch.sources.git_lfs import checksum_of as lfs_checksum_of
from datafetch.sources.git_repository import MissingBlobError, Repository, TreeEntry, checksum_of
from datafetch.sources.retries import with_renewal, with_retries
from datafetch.sources.selection import literal_names, object_key, select
from datafetch.transport import Transport
from datafetch_api.config import GitItem

_LINK, _SUBMODULE = "120000", "160000"
_BATCH = 10_000
"""Blobs that one request asks for."""
_MOST_SUBMODULES = 1000
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Mount:
    """A repository at one commit, and the directory where it belongs: empty, or ending at a slash."""

    prefix: str
    repository: Repository
    commit: str
    lfs: LfsServer


class GitSource:
    """One `git` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: GitItem, *, stall_timeout: float) -> None:
        self._item = item
        self._timeout = stall_timeout
        self._secrets = Secrets()
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._closed = threading.Event()
        self._mounts: tuple[_Mount, ...] = ()
        try:
            files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
            self._runner = Runner(self._secrets, stall_timeout)
            self._directory = tempfile.mkdtemp(prefix="datafetch-git-")
            self._finalizer = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            self._access = Access(item, files, self._secrets, self._directory)
        except DataFetchError as error:
            raise error.at(item.name) from None
        self._transport = Transport(stall_timeout=stall_timeout, secrets=self._secrets, ca_file=self._access.ca_file)

    @property
    def name(self) -> str:
        """The item's name."""
        return self._item.name

    @property
    def resolved_revision(self) -> str | None:
        """The commit that the revision stood for, once listed."""
        return self._mounts[0].commit if self._mounts else None

    @property
    def verifies(self) -> str:
        """What is verified of each file beside its size."""
        return "git's SHA-1 of each file, SHA-256 of those that Git LFS keeps"

    @property
    def http(self) -> HttpAccess | None:
        """None: only what Git LFS keeps comes over HTTP requests of ours."""
        return None

    def list(self) -> Iterator[Entry]:
        """Yield the files of the commit that the item selects."""
        selection = self._item.selection
        try:
            root = self._mounted()[0]
            where = f"git repository {root.repository.place} at {root.commit[:12]}"
            missing = literal_names(selection)
            found = select((selection,), where, self._find, self._scan)
            while entries := [*islice(found, _BATCH)]:
                missing.difference_update(entry.key.removeprefix(selection.prefix) for entry in entries)
                yield from self._with_sizes(entries)
            if missing:
                name = selection.prefix + min(missing)
                raise SourceNotFoundError(f"{where} has no file {name!r}; check the name among files", key=name)
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        """Read a range of the file, once more with new credentials where their files were rotated meanwhile."""
        ask = partial(self._open, entry, byte_range)
        return with_renewal(ask, self._reload, source=self.name, key=entry.key)

    def look_up(self, entry: Entry) -> Entry:
        """Return the entry: a file of a commit never changes."""
        return entry

    def close(self) -> None:
        """End git, release connections, and delete the private copy of the repository."""
        self._closed.set()
        self._runner.close()
        self._transport.close()
        for mount in self._mounts:
            mount.repository.close()
        self._finalizer()

    # --- repositories ---

    def _mounted(self) -> tuple[_Mount, ...]:
        """Return the repository, and below it its submodules where they are wanted; fetched once."""
        with self._lock:
            if not self._mounts:
                root = self._mount("", self._access.remote, self._item.revision)
                self._mounts = (root, *(self._submodules(root) if self._item.submodules else ()))
            return self._mounts

    def _mount(self, prefix: str, remote: Remote, revision: str) -> _Mount:
        number = len(os.listdir(self._directory))
        directory = os.path.join(self._directory, f"repository-{number}")
        repository = Repository(remote, directory, self._access, self._runner, self._timeout)
        wanted = self._ask(lambda: repository.resolve(revision))
        commit = self._ask(lambda: repository.fetch(wanted))
        lfs = LfsServer(self._transport, self._secrets, partial(self._lfs_endpoint, remote), repository.place)
        return _Mount(prefix, repository, commit, lfs)

    def _submodules(self, root: _Mount) -> Iterator[_Mount]:
        """Yield the submodules that may hold what is selected, and theirs."""
        selection, pending, count = self._item.selection, [root], 0
        wanted = selection.prefix + common_prefix(selection.patterns)
        if selection.effective_match != "prefix":
            wanted = object_key(selection)
        while pending:
            parent = pending.pop()
            links = [entry for entry in parent.repository.tree(parent.commit) if entry.mode == _SUBMODULE]
            addresses = self._addresses(parent) if links else {}
            for link in links:
                prefix = f"{parent.prefix}{link.path}/"
                if not (prefix.startswith(wanted) or wanted.startswith(prefix) or wanted + "/" == prefix):
                    continue
                count += 1
                if count > _MOST_SUBMODULES:
                    raise InvalidConfigError(f"{root.repository.place} has more than {_MOST_SUBMODULES} submodules")
                if link.path not in addresses:
                    raise SourceNotFoundError(
                        f"submodule {prefix[:-1]!r} has no url in .gitmodules; leave submodules out", key=prefix[:-1]
                    )
                remote = submodule_remote(parent.repository.remote, addresses[link.path], prefix[:-1])
                mount = self._mount(prefix, remote, link.oid)
                pending.append(mount)
                yield mount

    def _addresses(self, mount: _Mount) -> dict[str, str]:
        """Return the submodules' addresses by path, as .gitmodules says."""
        file = mount.repository.at(mount.commit, ".gitmodules")
        if file is None or file.mode in (_LINK, _SUBMODULE):
            return {}
        self._fetch_missing(mount, [file.oid])
        paths: dict[str, str] = {}
        urls: dict[str, str] = {}
        for name, value in mount.repository.git_settings(file.oid):
            section, _, last = name.rpartition(".")
            if section.startswith("submodule."):
                {"path": paths, "url": urls}.get(last, {})[section] = value
        return {path: urls[section] for section, path in paths.items() if section in urls}

    def _mount_of(self, key: str) -> _Mount:
        mounts = self._mounted()
        return max((mount for mount in mounts if key.startswith(mount.prefix)), key=lambda mount: len(mount.prefix))

    # --- listing ---

    def _find(self, path: str) -> Entry | None:
        mount = self._mount_of(path)
        entry = mount.repository.at(mount.commit, path.removeprefix(mount.prefix))
        return None if entry is None or entry.mode == _SUBMODULE else _unsized(mount, entry)

    def _scan(self, prefix: str) -> Iterator[Entry]:
        """Yield what lies below a prefix, still without sizes: those are known once the blobs are here."""
        for mount in self._mounted():
            if not (mount.prefix.startswith(prefix) or prefix.startswith(mount.prefix)):
                continue
            directory = prefix.removeprefix(mount.prefix) if prefix.startswith(mount.prefix) else ""
            for entry in mount.repository.tree(mount.commit, directory[: directory.rfind("/") + 1]):
                if entry.mode != _SUBMODULE and (mount.prefix + entry.path).startswith(prefix):
                    yield _unsized(mount, entry)

    def _with_sizes(self, entries: "Iterable[Entry]") -> Iterator[Entry]:
        """Fetch the blobs of files, and yield the files as they are: those that Git LFS keeps by their pointers."""
        by_mount: dict[str, tuple[_Mount, list[Entry]]] = {}
        for entry in entries:
            _refuse_unsafe(entry)
            mount = self._mount_of(entry.key)
            by_mount.setdefault(mount.prefix, (mount, []))[1].append(entry)
        for mount, found in by_mount.values():
            oids = [*dict.fromkeys(_oid(entry) for entry in found)]
            sizes = self._fetch_missing(mount, oids)
            pointers = self._pointers(mount, [oid for oid in oids if sizes[oid] < LARGEST_POINTER])
            for entry in found:
                oid = _oid(entry)
                yield self._as_file(mount, entry, oid, sizes[oid], pointers.get(oid))

    def _as_file(self, mount: _Mount, entry: Entry, oid: str, size: int, pointer: Pointer | None) -> Entry:
        if pointer is None:
            return replace(entry, size=size, identity=f"oid:{oid}", checksum=checksum_of(oid))
        mount.lfs.expect(pointer)
        checksum = lfs_checksum_of(pointer.sha256)
        return replace(entry, size=pointer.size, identity=f"lfs:{pointer.sha256}", checksum=checksum)

    def _fetch_missing(self, mount: _Mount, oids: "Iterable[str]") -> dict[str, int]:
        """Return the sizes of blobs, fetched where they are not here yet."""
        oids = [*oids]
        sizes = mount.repository.sizes(oids)
        missing = [oid for oid in oids if oid not in sizes]
        if missing:
            self._ask(lambda: mount.repository.fetch_blobs(missing))
            sizes |= mount.repository.sizes(missing)
        if len(sizes) < len(oids):
            absent = next(oid for oid in oids if oid not in sizes)
            raise SourceNotFoundError(f"{mount.repository.place} does not have the object {absent}; check the url")
        return sizes

    def _pointers(self, mount: _Mount, small: "Iterable[str]") -> dict[str, Pointer]:
        if not self._item.lfs:
            return {}
        contents = mount.repository.contents([*small])
        found = ((oid, parse_pointer(content)) for oid, content in contents)
        return {oid: pointer for oid, pointer in found if pointer is not None}

    # --- reading ---

    def _open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        mount = self._mount_of(entry.key)
        kind, _, value = entry.identity.partition(":")
        size = entry.size or 0
        if kind == "lfs":
            return mount.lfs.open(Pointer(value, size), byte_range)
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value):
            raise SourceNotFoundError(f"{mount.repository.place} has no object {value!r}")
        try:
            return mount.repository.open(value, byte_range, size)
        except MissingBlobError:
            self._fetch_missing(mount, [value])
            return mount.repository.open(value, byte_range, size)

    def _lfs_endpoint(self, remote: Remote) -> Endpoint:
        """Return where a repository's LFS server is, by the repository's own address; over ssh that is asked there."""
        if remote.scheme != "ssh":
            return Endpoint(endpoint_url(remote.url), self._access.authorization(remote))
        command = [*self._access.ssh_command(self._timeout), *(("-p", str(remote.port)) if remote.port else ())]
        target = f"{remote.user}@{remote.host}" if remote.user else remote.host
        path = remote.path.lstrip("/") if "://" in remote.url else remote.path
        if not re.fullmatch(r"[\w./~+@-]+", path):
            raise InvalidConfigError(f"the path {path!r} cannot be asked for its LFS server over ssh; use https://")
        command += ["--", target, f"git-lfs-authenticate {path} download"]
        environment = self._access.environment(remote, self._timeout)
        answer = self._runner.ask(command, environment, f"the LFS server of {remote.host}", program="ssh")
        try:
            found = json.loads(answer)
            headers = {str(name): str(value) for name, value in (found.get("header") or {}).items()}
            url = str(found["href"]).rstrip("/")
        except (ValueError, AttributeError, KeyError):
            raise SourceUnavailableError(f"{remote.host} does not say over ssh where its LFS server is") from None
        for value in headers.values():
            self._secrets.add(value)
        return Endpoint(url, headers)

    def _ask(self, ask: Callable[[], _T]) -> _T:
        """Return what git answers; asked again while the server is unavailable, and with new credentials."""
        try:
            return with_retries(ask, self._closed)
        except (CredentialsRejectedError, SourceNotFoundError):
            # To who may not see it, many a server says that a repository is not there.
            if not self._reload():
                raise
            return with_retries(ask, self._closed)

    def _reload(self) -> bool:
        """Read the credentials again where their files have changed; return whether they have."""
        with self._renewing:
            return self._access.reload()


def _unsized(mount: _Mount, entry: TreeEntry) -> Entry:
    return Entry(mount.prefix + entry.path, "", None, f"{entry.mode} {entry.oid}")


def _oid(entry: Entry) -> str:
    return entry.identity.partition(" ")[2]


def _refuse_unsafe(entry: Entry) -> None:
    """Raise UnsafePathError for what git itself would refuse to check out, and for links."""
    key, remedy = entry.key, "leave it out with exclude"
    if entry.identity.startswith(_LINK):
        raise UnsafePathError(f"{key!r} is a symbolic link, which is not fetched; {remedy}", key=key)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UnsafePathError(f"{key!r} is not in UTF-8; {remedy}") from None
    for segment in key.split("/"):
        name = _IGNORED_BY_HFS.sub("", segment).rstrip(". ").lower()
        if name in (".git", "git~1") or name.startswith((".git:", ".git\\")):
            raise UnsafePathError(f"{key!r} would be taken for git's own directory; {remedy}", key=key)


__all__ = ["GitSource"]
