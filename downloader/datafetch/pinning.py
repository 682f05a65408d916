"""The lock file: which objects a request stood for, each with its identity, and sources that serve exactly these.

One JSON document, one object a line, sorted: the same objects make the same file, byte for byte, and a difference reads
well in a review. It holds names, sizes, identities, checksums and resolved revisions; no credentials, no signed URLs.
A source that is locked lists nothing: what the file says is asked for with the identity that it had, so that the server
tells who comes too late.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from datafetch.comparison import Comparison, Difference, Identified
from datafetch.errors import DataFetchError, InvalidConfigError, SourceChangedError, SourceNotFoundError
from datafetch.plan import Plan, manifest_digest
from datafetch.records import ManifestFile, PlannedFile
from datafetch.report import CommandReport, count_files
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess, RangeReader, Source
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.quantities import format_bytes
from datafetch_api.report import SourceSummary
from datafetch_api.spec_hash import request_hash

if TYPE_CHECKING:
    from datafetch.engine import Opener

VERSION = "lock/v1"
_MOST_NAMED = 10
"""Objects that one sentence names."""


@dataclass(frozen=True, slots=True)
class LockedSection:
    """One source of a lock: what it was resolved to, and where its lines stand in the file."""

    name: str
    revision: str | None
    files: int
    bytes: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file that has been read and checked; its entries stay in the file."""

    path: str
    request: str
    manifest_digest: str
    sections: tuple[LockedSection, ...]

    @property
    def files(self) -> int:
        """How many objects it pins."""
        return sum(section.files for section in self.sections)

    @property
    def bytes(self) -> int:
        """How many bytes they have, as far as that is known."""
        return sum(section.bytes for section in self.sections)

    def entries(self, section: LockedSection) -> Iterator[Entry]:
        """Yield a section's objects from the file."""
        with open(self.path, "rb") as file:
            file.seek(section.offset)
            for _ in range(section.files):
                yield _entry(json.loads(file.readline().rstrip(b",\n")))


class LockReport(CommandReport):
    """What `datafetch lock` has to say."""

    lock_file: str
    request: str
    manifest_digest: str
    files: int
    bytes: int
    sources: tuple[SourceSummary, ...]

    @classmethod
    def of(cls, lock: Lock) -> "LockReport":
        """Return the report on a lock file that was just written."""
        return cls(
            lock_file=lock.path,
            request=lock.request,
            manifest_digest=lock.manifest_digest,
            files=lock.files,
            bytes=lock.bytes,
            sources=tuple(
                SourceSummary(name=one.name, resolved_revision=one.revision, files=one.files, bytes=one.bytes)
                for one in lock.sections
            ),
        )

    def lines(self) -> Iterator[str]:
        """Yield what each source had, and the whole."""
        for source in self.sources:
            revision = f" at {source.resolved_revision}" if source.resolved_revision else ""
            yield f"{source.name}: {count_files(source.files)}, {format_bytes(source.bytes)}{revision}"
        yield f"{count_files(self.files)}, {format_bytes(self.bytes)}, pinned in {self.lock_file}"


# --- writing ---------------------------------------------------------------------------------------------------------


def write_lock(path: str, config: DownloadConfig, plan: Plan, summaries: Sequence[SourceSummary]) -> Lock:
    """Write what a complete plan holds to a file, whole or not at all, and return it as it reads.

    Raises InvalidConfigError where an object has no identity to pin, or the file cannot be written.
    """
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    try:
        with open(temporary, "wb") as file:
            _write(file, config, plan, summaries)
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidConfigError(f"cannot write the lock file {path!r}: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return read_lock(path)


def _write(file: IO[bytes], config: DownloadConfig, plan: Plan, summaries: Sequence[SourceSummary]) -> None:
    header = {
        "datafetch": VERSION,
        "request": request_hash(config.download_items),
        "manifestDigest": manifest_digest(ManifestFile(file.path, file.size or 0, file.identity) for file in plan),
        "sources": [
            {"name": source.name, "revision": source.resolved_revision, "files": source.files, "bytes": source.bytes}
            for source in summaries
        ],
    }
    file.write(json.dumps(header)[:-1].encode() + b', "entries": [\n')
    separator = b""
    # Once through the plan for each source: sorting it here would hold it in memory.
    for index in range(len(summaries)):
        for planned in plan:
            if planned.source_index == index:
                file.write(separator + _line(planned))
                separator = b",\n"
    file.write(b"\n]}\n")


def _line(file: PlannedFile) -> bytes:
    if not file.identity:
        raise InvalidConfigError(
            "its server gives nothing that identifies the content (an ETag, a version, a time), so it cannot be "
            "locked; exclude it, or take it from another source",
            source=file.source,
            key=file.key,
        )
    content = {
        "source": file.source,
        "key": file.key,
        "path": file.path,
        "size": file.size,
        "identity": file.identity,
        "checksum": f"{file.checksum.algorithm}:{file.checksum.value}" if file.checksum else None,
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


# --- reading ---------------------------------------------------------------------------------------------------------


def read_lock(path: str) -> Lock:
    """Read and check a lock file. Raises InvalidConfigError that names the line where it is none."""
    try:
        with open(path, "rb") as file:
            lock = _read_header(file, path)
            return replace(lock, sections=tuple(_find_sections(file, lock)))
    except FileNotFoundError:
        raise InvalidConfigError(f"there is no lock file {path!r}; make it with 'datafetch lock'") from None
    except OSError as error:
        raise InvalidConfigError(f"cannot read the lock file {path!r}: {error.strerror}") from None


def _read_header(file: IO[bytes], path: str) -> Lock:
    try:
        header = json.loads(file.readline().removesuffix(b', "entries": [\n') + b"}")
        version = header["datafetch"]
        sections = tuple(
            LockedSection(source["name"], source["revision"], int(source["files"]), int(source["bytes"]))
            for source in header["sources"]
        )
        lock = Lock(path, header["request"], header["manifestDigest"], sections)
    except (ValueError, KeyError, TypeError):
        raise _no_lock(path, 1) from None
    if version != VERSION:
        raise InvalidConfigError(f"{path}:1: this lock file is {version!r}, and only {VERSION!r} can be read here")
    return lock


def _find_sections(file: IO[bytes], lock: Lock) -> Iterator[LockedSection]:
    """Yield the sections with the places of their first lines; every line is checked on the way."""
    number = 1
    for section in lock.sections:
        yield replace(section, offset=file.tell())
        for _ in range(section.files):
            number += 1
            try:
                content = json.loads(file.readline().rstrip(b",\n"))
                _entry(content)
            except (ValueError, KeyError, TypeError):
                raise _no_lock(lock.path, number) from None
            if content["source"] != section.name:
                raise _no_lock(lock.path, number)
    if file.readline().strip() != b"]}":
        raise _no_lock(lock.path, number + 1)


def _no_lock(path: str, line: int) -> InvalidConfigError:
    return InvalidConfigError(f"{path}:{line}: not as 'datafetch lock' writes it; make it again")


def _entry(content: dict[str, Any]) -> Entry:
    algorithm, _, value = (content["checksum"] or "").partition(":")
    checksum = Checksum(ChecksumAlgorithm(algorithm), value) if algorithm else None
    key, path, size, identity = (content[name] for name in ("key", "path", "size", "identity"))
    if not (isinstance(key, str) and isinstance(path, str) and isinstance(identity, str) and identity):
        raise ValueError(content)
    return Entry(key, path, None if size is None else int(size), identity, checksum)


# --- replaying -------------------------------------------------------------------------------------------------------


def check_request(lock: Lock, config: DownloadConfig) -> None:
    """Raise InvalidConfigError where the lock was made for something else than the config asks for."""
    asked = request_hash(config.download_items)
    if asked == lock.request and [item.name for item in config.download_items] == [s.name for s in lock.sections]:
        return
    raise InvalidConfigError(
        f"{lock.path} was made for another request ({_short(lock.request)}) than this one ({_short(asked)}); "
        "fetch what it was made for, or make it again with 'datafetch lock'"
    )


def _short(request: str) -> str:
    return request[: len("v1:") + 12]


def locked_opener(lock: Lock, opener: "Opener") -> "Opener":
    """Return an opener whose sources serve what the lock lists, and nothing else."""
    sections = {section.name: section for section in lock.sections}

    def open_locked(item: DownloadItem, stall_timeout: float) -> Source:
        section = sections[item.name]
        return LockedSource(opener(at_revision(item, section.revision), stall_timeout), lock, section)

    return open_locked


def at_revision(item: DownloadItem, revision: str | None) -> DownloadItem:
    """Return the item with the commit that was listed in place of a branch, where its provider knows such."""
    known = type(item).model_fields
    name = next((name for name in ("revision", "ref") if name in known), None)
    return item if revision is None or name is None else item.model_copy(update={name: revision})


class LockedSource:
    """A source that has exactly the objects of a lock: it lists nothing, and opens them by the identity they had."""

    def __init__(self, source: Source, lock: Lock, section: LockedSection) -> None:
        self._source = source
        self._lock = lock
        self._section = section

    @property
    def name(self) -> str:
        """The item's name."""
        return self._source.name

    @property
    def resolved_revision(self) -> str | None:
        """The revision that was locked."""
        return self._section.revision

    @property
    def verifies(self) -> str:
        """What is verified of each object beside its size."""
        return self._source.verifies

    @property
    def http(self) -> HttpAccess | None:
        """How the bytes come by plain HTTP requests; their conditions are made of the locked identities."""
        return self._source.http

    def list(self) -> Iterator[Entry]:
        """Yield what was locked."""
        return self._lock.entries(self._section)

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        """Ask for a range of exactly the object that was locked."""
        return self._source.open(entry, byte_range)

    def look_up(self, entry: Entry) -> Entry:
        """Raise SourceChangedError: another state of the object is not what was locked."""
        raise SourceChangedError(
            f"{entry.key!r} is not what {self._lock.path!r} pins any more; lock it again, or bring the old one back",
            source=self.name,
            key=entry.key,
        )

    def close(self) -> None:
        """Release connections."""
        self._source.close()


def explain_drift(lock: Lock, config: DownloadConfig, error: DataFetchError, opener: "Opener") -> DataFetchError:
    """Return the error that a locked fetch ends with: where an object is not what it was, one that names all of them.

    Asks the source of the error once more what it has; where that fails too, the error at hand says enough.
    """
    item = next((item for item in config.download_items if item.name == error.source), None)
    if item is None or not isinstance(error, SourceChangedError | SourceNotFoundError):
        return error
    section = next(section for section in lock.sections if section.name == item.name)
    found = _drifted(lock, section, item, opener, float(config.transfer.stall_timeout))
    if not found and error.key is not None:
        found = [Difference("gone" if isinstance(error, SourceNotFoundError) else "changed", error.key)]
    names = [f"{drift.name!r} is {'gone' if drift.kind == 'gone' else 'another object now'}" for drift in found]
    names = names or [error.message]
    more = f" (and {len(names) - _MOST_NAMED} more)" if len(names) > _MOST_NAMED else ""
    return SourceChangedError(
        f"what {lock.path} pins is not there any more: {', '.join(names[:_MOST_NAMED])}{more}; "
        "lock again to take what is there now",
        source=item.name,
    )


def _drifted(
    lock: Lock, section: LockedSection, item: DownloadItem, opener: "Opener", stall_timeout: float
) -> list[Difference]:
    with Comparison() as comparison:
        comparison.expect(Identified(entry.key, entry.identity, entry.size) for entry in lock.entries(section))
        try:
            source = opener(item, stall_timeout)
            try:
                comparison.find(Identified(entry.key, entry.identity, entry.size) for entry in source.list())
            finally:
                source.close()
        except DataFetchError:
            return []  # what was not listed need not be gone
        return list(comparison.differences(new=False))


__all__ = [
    "Lock",
    "LockedSource",
    "at_revision",
    "check_request",
    "explain_drift",
    "locked_opener",
    "read_lock",
    "write_lock",
]
