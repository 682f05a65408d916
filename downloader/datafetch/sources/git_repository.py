"""One repository at one commit, in a private bare copy without history: its tree, and the blobs that are wanted of it.

The copy is two directories with the same objects: one that fetches, and one that knows of no server, so that what reads
objects never asks for missing ones, one request each. No work tree is ever made: that is what hooks, filters and
attributes would act upon. Which files are wanted, and where they go, is the business of `git`.
"""

import contextlib
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from subprocess import DEVNULL, PIPE, Popen
from types import TracebackType
from typing import IO, Self

from datafetch.errors import InvalidConfigError, SourceNotFoundError, SourceUnavailableError
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm
from datafetch.sources.git_access import Access, Remote
from datafetch.sources.git_command import Runner, UnadvertisedError, pipe_of
from datafetch_api.uris import redact_uri

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_NOT_IN_REFS = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^[-/.]|[/.]$|//")
"""git-check-ref-format(1), as far as it matters here."""
_DIRECT_BYTES = 8 << 20
"""A larger blob is written to a file first: its ranges are asked for one by one, and git reads from the start."""
_MOST_WRITTEN = 4
_MOST_IDLE = 8
_WAIT_SECONDS = 1.0
_SHA1_LENGTH = 40


class MissingBlobError(Exception):
    """A blob has not been fetched."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """What a commit has at a path."""

    mode: str
    oid: str
    path: str


class Repository:
    """The private copy of one repository, below `directory`. Thread-safe."""

    def __init__(self, remote: Remote, directory: str, access: Access, runner: Runner, stall_timeout: float) -> None:
        self.remote = remote
        self.place = redact_uri(remote.url)
        self._directory = directory
        self._access = access
        self._runner = runner
        self._timeout = stall_timeout
        self._fetching = threading.Lock()
        self._filtered = True
        self._wanted = ""
        self._readers = _Readers(self._start_reader, runner.end)
        self._written = _Written()

    def resolve(self, revision: str) -> str:
        """Return the object that a branch or tag points to at the server; a whole commit id is taken as it is."""
        if _COMMIT.fullmatch(revision):
            return revision
        if _NOT_IN_REFS.search(revision):
            raise InvalidConfigError(f"revision {revision!r} cannot be; name a branch, a tag or a whole commit id")
        names = [revision] if revision == "HEAD" or revision.startswith("refs/") else [
            f"refs/heads/{revision}", f"refs/tags/{revision}"
        ]  # fmt: skip
        environment = self._access.environment(self.remote, self._timeout)
        answer = self._runner.ask(("ls-remote", "--quiet", "origin", *names), environment, self.place)
        found = dict(_refs(answer))
        for name in names:
            if name in found:
                return found[name]
        if revision == "HEAD":
            raise SourceNotFoundError(f"{self.place} has no default branch; is it empty? Name a revision")
        remedy = "give the whole commit id" if _SHORT_COMMIT.fullmatch(revision) else "name a branch, tag or commit"
        raise SourceNotFoundError(f"{self.place} has no branch or tag {revision!r}; {remedy}")

    def fetch(self, wanted: str) -> str:
        """Fetch the trees of what `resolve` returned, and return its commit."""
        self._prepare("sha256" if len(wanted) > _SHA1_LENGTH else "sha1")
        self._wanted = wanted
        with self._fetching:
            try:
                self._fetch(("--depth=1", "--filter=blob:none"), [wanted])
            except UnadvertisedError:
                # Everything that the server does give; the commit may be in there.
                self._filtered = False
                self._fetch(("--refetch", "--no-filter"), ["+refs/*:refs/remotes/origin/*"])
        commit = self._rev_parse(f"{wanted}^{{commit}}")
        if commit is None:
            raise SourceNotFoundError(
                f"{self.place} has no commit {wanted} on any branch or tag, and gives out no others; check the revision"
            )
        return commit

    def tree(self, commit: str, directory: str = "") -> Iterator[TreeEntry]:
        """Yield everything below a directory of the commit, which ends at a slash or is empty; links too."""
        tree = self._tree_at(commit, directory.rstrip("/"))
        if tree is None:
            return
        rest = b""
        for chunk in self._runner.stream(("ls-tree", "-r", "-z", "--full-tree", tree), self._offline(), DEVNULL):
            *lines, rest = (rest + chunk).split(b"\0")
            for line in lines:
                head, _, path = line.partition(b"\t")
                mode, _, oid = head.decode().split(" ")
                yield TreeEntry(mode, oid, directory + path.decode("utf-8", "surrogateescape"))

    def at(self, commit: str, path: str) -> TreeEntry | None:
        """Return what the commit has at exactly this path; None where that is nothing, or a directory."""
        directory, _, name = path.rpartition("/")
        tree = self._tree_at(commit, directory) if name and "\0" not in path else None
        if tree is None:
            return None
        arguments = ("ls-tree", "-z", "--full-tree", tree)
        answer = b"".join(self._runner.stream(arguments, self._offline(), DEVNULL))
        for line in answer.split(b"\0"):
            head, _, found = line.partition(b"\t")
            if found.decode("utf-8", "surrogateescape") == name:
                mode, _, oid = head.decode().split(" ")
                return None if mode == "040000" else TreeEntry(mode, oid, path)
        return None

    def sizes(self, oids: Sequence[str]) -> dict[str, int]:
        """Return the bytes of the blobs that have been fetched; the others are left out."""
        return {oid: size for oid, kind, size in self._here(oids) if kind == "blob"}

    def fetch_blobs(self, oids: Sequence[str]) -> None:
        """Fetch blobs, all in one request."""
        with self._fetching:
            try:
                if self._filtered:
                    self._fetch(("--filter=blob:none",), oids)
                    return
            except UnadvertisedError:
                self._filtered = False
            self._fetch(("--refetch", "--no-filter", "--depth=1"), [self._wanted])

    def contents(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield blobs that have been fetched, whole: for small ones."""
        with self._listed(oids) as stdin:
            chunks = self._runner.stream(("cat-file", "--batch", "--buffer"), self._offline(), stdin)
            text = _Text(chunks)
            for oid in oids:
                size = int(text.line().rpartition(b" ")[2])
                yield oid, text.take(size)
                text.take(1)

    def git_settings(self, oid: str) -> list[tuple[str, str]]:
        """Return names and values of a blob in git's configuration format, which is read and never obeyed."""
        arguments = ("config", "--no-includes", "-z", "--list", "--blob", oid)
        answer = b"".join(self._runner.stream(arguments, self._offline(), DEVNULL)).decode("utf-8", "replace")
        pairs = (line.partition("\n") for line in answer.split("\0") if line)
        return [(name, value) for name, _, value in pairs]

    def open(self, oid: str, byte_range: ByteRange, size: int) -> "BlobReader | FileReader":
        """Return a range of a blob. Raises MissingBlobError where it has not been fetched."""
        checksum = checksum_of(oid)
        end = size if byte_range.end is None else byte_range.end
        if size > _DIRECT_BYTES:
            return FileReader(self._written.get(oid, partial(self._write_out, oid)), byte_range.start, end, checksum)
        process = self._readers.take()
        try:
            found = _ask_for(process, oid)
            if found is None:
                self._readers.give_back(process)
                raise MissingBlobError(oid)
            return BlobReader(self._readers, process, found, byte_range.start, min(end, found), checksum)
        except (OSError, ValueError):
            self._readers.discard(process)
            raise SourceUnavailableError(f"{self.place}: git broke off while it was reading a file") from None

    def close(self) -> None:
        """Close files and end processes that nobody uses."""
        self._readers.close()
        self._written.close()

    def _here(self, oids: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """Yield kind and bytes of the objects that have been fetched."""
        with self._listed(oids) as stdin:
            arguments = ("cat-file", "--batch-check", "--buffer")
            answer = b"".join(self._runner.stream(arguments, self._offline(), stdin))
        for line in answer.decode().splitlines():
            oid, kind, *size = line.split(" ")
            if size:
                yield oid, kind, int(size[0])

    def _tree_at(self, commit: str, directory: str) -> str | None:
        """Return the tree of a directory; None where there is none, or another repository's begins."""
        tree = self._rev_parse(f"{commit}:{directory}")
        return tree if tree and any(kind == "tree" for _, kind, _ in self._here([tree])) else None

    def _write_out(self, oid: str) -> IO[bytes]:
        if not self.sizes([oid]):
            raise MissingBlobError(oid)
        file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - it stays open for other ranges
        try:
            for chunk in self._runner.stream(("cat-file", "blob", oid), self._offline(), DEVNULL):
                file.write(chunk)
            file.flush()
        except BaseException:
            file.close()
            raise
        return file

    def _start_reader(self) -> Popen[bytes]:
        return self._runner.start(("cat-file", "--batch"), self._offline(), PIPE, DEVNULL)

    def _prepare(self, object_format: str) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        for name in ("fetching", "reading"):
            path = os.path.join(self._directory, name)
            if not os.path.isdir(path):
                arguments = ("init", "--quiet", "--bare", "--template=", f"--object-format={object_format}", path)
                self._runner.ask(arguments, self._access.environment(None, self._timeout), self.place)

    def _fetch(self, options: Iterable[str], wanted: Iterable[str]) -> None:
        arguments = ("fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
                     "--no-auto-maintenance", *options, "--stdin", "origin")  # fmt: skip
        self._runner.ask(arguments, self._network(), self.place, wanted)

    def _rev_parse(self, name: str) -> str | None:
        arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        with contextlib.suppress(SourceUnavailableError):
            return b"".join(self._runner.stream(arguments, self._offline(), DEVNULL)).decode().strip()
        return None

    def _network(self) -> dict[str, str]:
        environment = self._access.environment(self.remote, self._timeout)
        return environment | {"GIT_DIR": os.path.join(self._directory, "fetching")}

    def _offline(self) -> dict[str, str]:
        return self._access.environment(None, self._timeout) | {
            "GIT_DIR": os.path.join(self._directory, "reading"),
            "GIT_OBJECT_DIRECTORY": os.path.join(self._directory, "fetching", "objects"),
        }

    @contextlib.contextmanager
    def _listed(self, oids: Iterable[str]) -> Iterator[IO[bytes]]:
        with tempfile.TemporaryFile(dir=self._directory) as file:
            file.writelines(oid.encode() + b"\n" for oid in oids)
            file.seek(0)
            yield file


def checksum_of(oid: str) -> Checksum | None:
    """Return what a blob's name promises; of a repository of SHA-256, git alone has checked it."""
    return Checksum(ChecksumAlgorithm.GIT_BLOB, oid) if len(oid) == _SHA1_LENGTH else None


def _refs(answer: bytes) -> Iterator[tuple[str, str]]:
    for line in answer.decode("utf-8", "replace").splitlines():
        oid, _, name = line.partition("\t")
        if _COMMIT.fullmatch(oid):
            yield name, oid


class _Text:
    """Lines and blocks out of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def line(self) -> bytes:
        while b"\n" not in self._rest:
            self._rest += self._next()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._next()
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _next(self) -> bytes:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise SourceUnavailableError("git broke off while it was reading files")
        return chunk


def _ask_for(process: Popen[bytes], oid: str) -> int | None:
    """Ask a reader for a blob; return its bytes, which follow, or None where it is missing."""
    questions, answers = pipe_of(process.stdin), pipe_of(process.stdout)
    questions.write(oid.encode() + b"\n")
    questions.flush()
    fields = answers.readline().split()
    if fields[1:] == [b"missing"]:
        return None
    if len(fields) != 3:
        raise ValueError("not an answer")
    return int(fields[2])


class _Readers:
    """Processes that read blobs, kept for the next one. Thread-safe."""

    def __init__(self, start: Callable[[], Popen[bytes]], end: Callable[[Popen[bytes]], None]) -> None:
        self._start = start
        self._end = end
        self._changed = threading.Condition()
        self._idle: list[Popen[bytes]] = []
        self._busy = 0
        self._closed = False

    def take(self) -> Popen[bytes]:
        """Return a process; where many are busy, after a short wait for one of them.

        Who reads many files at a time in one thread would wait for ever.
        """
        with self._changed:
            if not self._idle and self._busy >= _MOST_IDLE:
                self._changed.wait(_WAIT_SECONDS)
            self._busy += 1
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                self._end(process)
        try:
            return self._start()
        except BaseException:
            with self._changed:
                self._busy -= 1
            raise

    def give_back(self, process: Popen[bytes]) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify()
            if len(self._idle) < _MOST_IDLE and not self._closed:
                self._idle.append(process)
                return
        self._end(process)

    def discard(self, process: Popen[bytes]) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify()
        self._end(process)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            self._end(process)


class BlobReader:
    """A range of a blob, as a git process reads it."""

    def __init__(
        self, readers: _Readers, process: Popen[bytes], size: int, start: int, end: int, checksum: Checksum | None
    ) -> None:
        self._readers = readers
        self._process = process
        self._skip = start
        self._left = max(0, end - start)
        self._rest = size - start - self._left + 1
        """Bytes after the range; git ends each answer with a newline."""
        self.checksum = checksum

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes there were."""
        self._drop(self._skip)
        self._skip = 0
        count = self._read(buffer[: min(len(buffer), self._left)])
        self._left -= count
        return count

    def _read(self, buffer: memoryview) -> int:
        stream = pipe_of(self._process.stdout)
        count = stream.readinto(buffer) if len(buffer) else 0  # type: ignore[attr-defined]  # IO has no readinto
        if len(buffer) and not count:
            raise SourceUnavailableError("git broke off while it was reading a file")
        return int(count)

    def _drop(self, count: int) -> None:
        scratch = memoryview(bytearray(min(count, 1 << 18)))
        while count:
            count -= self._read(scratch[: min(count, len(scratch))])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Keep the process where its answer was read to the end."""
        if error is not None:
            self._readers.discard(self._process)
            return
        try:
            self._drop(self._skip + self._left + self._rest)
        except (SourceUnavailableError, OSError, ValueError):
            self._readers.discard(self._process)
        else:
            self._readers.give_back(self._process)


class FileReader:
    """A range of a blob that was written to a file."""

    def __init__(self, handle: int, start: int, end: int, checksum: Checksum | None) -> None:
        self._handle = handle
        self._position = start
        self._end = end
        self.checksum = checksum

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes there were."""
        count = os.preadv(self._handle, [buffer[: max(0, self._end - self._position)]], self._position)
        self._position += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._handle)


class _Written:
    """Large blobs in files without a name, the latest few. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, IO[bytes]] = OrderedDict()

    def get(self, oid: str, write: Callable[[], IO[bytes]]) -> int:
        """Return a descriptor of a blob's file, for the caller to close; write it where it is not there."""
        with self._lock:
            if oid not in self._files:
                self._files[oid] = write()
                if len(self._files) > _MOST_WRITTEN:
                    self._files.popitem(last=False)[1].close()
            self._files.move_to_end(oid)
            return os.dup(self._files[oid].fileno())

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


__all__ = ["MissingBlobError", "Repository", "TreeEntry", "checksum_of"]
