"""A published tree against its manifest: what is missing, what is altered, and what nobody published.

Reads only, also where the volume is mounted read-only, and takes no lock. The manifest and the tree are both walked in
the order of their paths' bytes, so that neither is held in memory, however many files there are; several threads read
and hash the files. Links are not followed.
"""

import errno
import heapq
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, repeat
from types import TracebackType
from typing import Literal, Self

from datafetch.checksums import Hasher, new_hasher
from datafetch.errors import IntegrityMismatchError, InterruptedByRequestError, InvalidConfigError
from datafetch.marker import MANIFESTS, REVISIONS, STATE_DIRECTORY, ManifestHeader
from datafetch.records import ManifestFile
from datafetch.sink.directory import Directory
from datafetch.sink.manifest import DamagedManifestError, read_archives, read_header, read_manifest
from datafetch.sources import ChecksumAlgorithm

_READ_BYTES = 1 << 20
_QUEUED_FILES = 16
"""Files that wait for each thread."""
_MOST_FINDINGS = 100_000
"""Findings that are kept to be named; the rest is counted."""

Kind = Literal["missing", "altered", "extra"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One path that is not as it was published."""

    kind: Kind
    path: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest on the disk; its files stay there."""

    state: str
    """The directory of ours that it lies in."""
    name: str
    header: ManifestHeader

    def files(self) -> Iterator[ManifestFile]:
        """Yield its files in the order of their paths' bytes.

        Raises IntegrityMismatchError where it is not as we write it.
        """
        with closing(Directory.open(self.state)) as state, read_manifest(state, f"{MANIFESTS}/{self.name}") as manifest:
            if manifest is None:
                raise _damaged(self.state, self.name)
            try:
                yield from _in_order(manifest[1])
            except DamagedManifestError:
                raise _damaged(self.state, self.name) from None

    def objects(self) -> Iterator[ManifestFile]:
        """Yield what its source had, in no order: in the place of what came out of an archive that one, maybe twice."""
        yield from (file for file in self.files() if file.archive is None)
        with closing(Directory.open(self.state)) as state:
            try:
                for archive in read_archives(state, f"{MANIFESTS}/{self.name}"):
                    yield ManifestFile(archive.path, archive.size, archive.identity)
            except DamagedManifestError:
                raise _damaged(self.state, self.name) from None


def _in_order(files: Iterable[ManifestFile]) -> Iterator[ManifestFile]:
    previous = b""
    for file in files:
        if file.path.encode() <= previous:
            raise DamagedManifestError(file.path)
        previous = file.path.encode()
        yield file


def _damaged(state: str, name: str) -> IntegrityMismatchError:
    path = os.path.join(state, MANIFESTS, name)
    return IntegrityMismatchError(f"the manifest {path!r} is damaged; fetch again, and it is written anew")


@dataclass(frozen=True, slots=True)
class PublishedTree:
    """A tree, and the manifests that say what belongs there: the newest first."""

    directory: str
    publication: Literal["Link", "InPlace"]
    manifests: tuple[Manifest, ...]

    def files(self) -> Iterator[ManifestFile]:
        """Yield what belongs there, by path; where two requests brought the same path, what the newer one did."""
        streams = [zip(manifest.files(), repeat(rank), strict=False) for rank, manifest in enumerate(self.manifests)]
        merged = heapq.merge(*streams, key=lambda pair: (pair[0].path.encode(), pair[1]))
        for _, pairs in groupby(merged, key=lambda pair: pair[0].path):
            yield next(pairs)[0]


# --- finding the tree ------------------------------------------------------------------------------------------------


def find_tree(directory: str) -> PublishedTree:
    """Return the published tree at a path: a managed link or the revision behind it, or a directory filled in place.

    Raises InvalidConfigError where nothing was published there.
    """
    real = os.path.realpath(directory)
    if not os.path.isdir(real):
        raise InvalidConfigError(f"there is no directory {directory!r}; name the one that the data was fetched to")
    above, revision = os.path.split(real)
    state = os.path.dirname(above)
    if os.path.basename(above) == REVISIONS and os.path.basename(os.path.dirname(state)) == STATE_DIRECTORY:
        manifests = _manifests(state, [f"{revision}.json"])
        if manifests:
            return PublishedTree(real, "Link", manifests)
        raise InvalidConfigError(
            f"{directory!r} is a revision without its manifest ({os.path.join(state, MANIFESTS, revision)}.json), so "
            "nothing says what belongs there; fetch it again"
        )
    state = os.path.join(real, STATE_DIRECTORY)
    manifests = _manifests(state, _names(os.path.join(state, MANIFESTS)))
    if not manifests:
        raise InvalidConfigError(_explain_absence(directory, state))
    return PublishedTree(real, "InPlace", manifests)


def _manifests(state: str, names: Iterable[str]) -> tuple[Manifest, ...]:
    """Return the manifests of these names that are there, the newest first."""
    found = []
    for name in names:
        if not name.endswith(".json") or not os.path.lexists(os.path.join(state, MANIFESTS, name)):
            continue
        with closing(Directory.open(state)) as directory:
            header = read_header(directory, f"{MANIFESTS}/{name}")
        if header is None:
            raise _damaged(state, name)
        found.append(Manifest(state, name, header))
    return tuple(sorted(found, key=lambda manifest: manifest.header.time, reverse=True))


def _open(path: str) -> io.BufferedReader:
    """Open a regular file; what somebody put in its place is neither followed nor waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(descriptor, "rb")  # noqa: SIM115 - the caller's to close
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", path)
    return file


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InvalidConfigError(f"cannot read {directory!r}: {error.strerror}") from None


def _explain_absence(directory: str, state: str) -> str:
    """Say why there is no manifest, as far as that can be seen."""
    names = _names(state)
    targets = [name for name in names if os.path.isdir(os.path.join(state, name, MANIFESTS))]
    if targets:
        return (
            f"{directory!r} holds targets of DataFetches, but none itself; name one of them: "
            f"{os.path.join(directory, targets[0])}"
        )
    if names:
        return f"no fetch into {directory!r} has ever ended, so there is no manifest; run it to its end first"
    return (
        f"there is no manifest in {directory!r} ({STATE_DIRECTORY}/{MANIFESTS}): nothing was fetched to it, or it is "
        "mounted by subPath, which hides the manifest; then mount the claim's root and name the path below it"
    )


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What a verification has seen so far. Thread-safe."""

    intact: int = 0
    without_checksum: int = 0
    """Intact by their size only: nobody promised a checksum, or it cannot be computed here."""
    missing: int = 0
    altered: int = 0
    extra: int = 0
    named: list[Finding] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, finding: Finding) -> None:
        """Count a path that is not as it was published."""
        with self._lock:
            setattr(self, finding.kind, getattr(self, finding.kind) + 1)
            if len(self.named) < _MOST_FINDINGS:
                self.named.append(finding)

    def add_intact(self, *, by_checksum: bool) -> None:
        """Count a file that is as it was published."""
        with self._lock:
            self.intact += 1
            self.without_checksum += not by_checksum

    @property
    def damaged(self) -> int:
        """Files that are not as they were published."""
        return self.missing + self.altered


def verify_tree(
    tree: PublishedTree,
    *,
    sizes_only: bool,
    threads: int,
    cancel: threading.Event,
    received: Callable[[int], None],
    completed: Callable[[str, int], None],
) -> Findings:
    """Compare every file with what its manifest says: there, its size, and its checksum unless `sizes_only`.

    `received` is told of the bytes that were read, `completed` of each file. Raises IntegrityMismatchError where the
    manifest itself is damaged, InterruptedByRequestError.
    """
    findings = Findings()
    with _Readers(tree.directory, findings, threads, cancel, received, completed) as readers:
        for file, there in _side_by_side(tree.files(), _walk(tree)):
            if cancel.is_set():
                break
            if file is None:
                findings.add(Finding("extra", there.path if there else ""))
            elif there is None:
                findings.add(Finding("missing", file.path))
            elif detail := _unlike(file, there):
                findings.add(Finding("altered", file.path, detail))
            elif sizes_only or (hasher := _hasher(file)) is None:
                findings.add_intact(by_checksum=False)
                completed(file.path, file.size)
            else:
                readers.check(file, hasher)
    if cancel.is_set():
        raise InterruptedByRequestError("stopped by a signal; nothing was changed")
    findings.named.sort(key=lambda finding: os.fsencode(finding.path))
    return findings


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """Anything below the tree's directory that is no directory."""

    path: str
    size: int | None
    """None where it is no regular file."""


def _walk(tree: PublishedTree) -> Iterator[_OnDisk]:
    """Yield what lies in a tree in the order of the paths' bytes, our own directory left out."""
    waiting = [_scan(tree.directory, "")]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        elif not found[1]:
            yield _OnDisk(found[0], found[2])
        elif found[0] != STATE_DIRECTORY or tree.publication == "Link":
            waiting.append(_scan(tree.directory, found[0] + "/"))


def _scan(root: str, below: str) -> Iterator[tuple[str, bool, int | None]]:
    """Return path, whether it is a directory, and size of what lies directly below, in the order of a whole walk."""
    directory = os.path.join(root, below)
    try:
        with os.scandir(directory) as entries:
            found = [(below + entry.name, entry.is_dir(follow_symlinks=False), _size(entry)) for entry in entries]
    except OSError as error:
        raise InvalidConfigError(f"cannot read {directory!r}: {error.strerror}; run as a user who may") from None
    # A directory counts as its name with a slash: that is how the paths below it begin.
    return iter(sorted(found, key=lambda one: os.fsencode(one[0] + "/" * one[1])))


def _size(entry: os.DirEntry[str]) -> int | None:
    return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else None


def _side_by_side(
    files: Iterator[ManifestFile], on_disk: Iterator[_OnDisk]
) -> Iterator[tuple[ManifestFile | None, _OnDisk | None]]:
    """Yield the two sides path by path, None where one of them lacks it."""
    file, there = next(files, None), next(on_disk, None)
    while file is not None or there is not None:
        here = os.fsencode(file.path) if file is not None else None
        found = os.fsencode(there.path) if there is not None else None
        if found is None or (here is not None and here < found):
            yield file, None
            file = next(files, None)
        elif here is None or found < here:
            yield None, there
            there = next(on_disk, None)
        else:
            yield file, there
            file, there = next(files, None), next(on_disk, None)


def _unlike(file: ManifestFile, there: _OnDisk) -> str:
    """Return in what a file differs that need not be read for that; empty for nothing."""
    if there.size is None:
        return "is no regular file"
    return f"has {there.size} bytes, not {file.size}" if there.size != file.size else ""


def _hasher(file: ManifestFile) -> Hasher | None:
    algorithm = (file.checksum or "").partition(":")[0]
    return new_hasher(ChecksumAlgorithm(algorithm), file.size) if algorithm in set(ChecksumAlgorithm) else None


class _Readers:
    """Threads that read files and compare their checksums. A few files wait for each, no more."""

    def __init__(
        self,
        directory: str,
        findings: Findings,
        threads: int,
        cancel: threading.Event,
        received: Callable[[int], None],
        completed: Callable[[str, int], None],
    ) -> None:
        self._directory = directory
        self._findings = findings
        self._cancel = cancel
        self._received = received
        self._completed = completed
        self._room = threading.BoundedSemaphore(threads * _QUEUED_FILES)
        self._pool = ThreadPoolExecutor(threads, "hash")
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)
        if self._failure is not None and error is None:
            raise self._failure

    def check(self, file: ManifestFile, hasher: Hasher) -> None:
        """Read a file soon; waits where many are waiting already."""
        self._room.acquire()
        self._pool.submit(self._check, file, hasher)

    def _check(self, file: ManifestFile, hasher: Hasher) -> None:
        try:
            self._compare(file, hasher)
        except OSError as error:
            self._findings.add(Finding("altered", file.path, f"cannot be read: {error.strerror}"))
        except Exception as error:  # noqa: BLE001 - raised by the main thread at the end
            self._failure = self._failure or error
        finally:
            self._room.release()

    def _compare(self, file: ManifestFile, hasher: Hasher) -> None:
        path = os.path.join(self._directory, file.path)
        with _open(path) as content:
            buffer = memoryview(bytearray(min(_READ_BYTES, file.size + 1)))
            while (count := content.raw.readinto(buffer) or 0) and not self._cancel.is_set():
                hasher.update(buffer[:count])
                self._received(count)
        algorithm, _, promised = (file.checksum or "").partition(":")
        actual = hasher.hexdigest()
        if actual == promised:
            self._findings.add_intact(by_checksum=True)
            self._completed(file.path, file.size)
        elif not self._cancel.is_set():
            self._findings.add(Finding("altered", file.path, f"its {algorithm} is {actual}, not {promised}"))
