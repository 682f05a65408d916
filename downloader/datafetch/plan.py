"""What will be fetched: safe names, collisions, space, and the digest of the whole. Decides; writes nothing.

Listings feed the plan while they run; nothing is published, or gets a final name in place, before it is complete.
"""

import hashlib
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from datafetch.errors import InsufficientSpaceError, UnsafePathError
from datafetch.sources import Checksum, Entry
from datafetch_api.quantities import format_bytes

STATE_DIRECTORY = ".datafetch"
_SEGMENT_BYTES = 255
_PATH_BYTES = 3800
"""PATH_MAX is 4,096 and counts our own directories before the path."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file that the finished tree will hold."""

    source_index: int
    source: str
    key: str
    path: str
    size: int | None
    identity: str
    checksum: Checksum | None

    @property
    def entry(self) -> Entry:
        """The file in the source's own terms."""
        return Entry(self.key, self.path, self.size, self.identity, self.checksum)


def safe_path(path: str) -> str:
    """Return the path that an object may have below the target, in normal form.

    Raises ValueError with the reason where there is none: object keys come from outside and must not leave the target.
    """
    path = path.removeprefix("./")
    segments = path.split("/")
    for segment in segments:
        reason = _unsafe(segment)
        if reason:
            raise ValueError(reason)
    if segments[0] == STATE_DIRECTORY:
        raise ValueError(f"{STATE_DIRECTORY} is the name of our own directory")
    if len(path.encode()) > _PATH_BYTES:
        raise ValueError(f"its path is longer than {_PATH_BYTES} bytes")
    return path


def _unsafe(segment: str) -> str | None:
    if segment == "":
        return "it has an empty path segment"
    if segment in (".", ".."):
        return f"it has the path segment {segment!r}"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in segment):
        return "it has a control character"
    try:
        encoded = segment.encode()
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    if len(encoded) > _SEGMENT_BYTES:
        return f"it has a path segment of more than {_SEGMENT_BYTES} bytes"
    return None


def fold_case(path: str) -> str:
    """Return what a case-folding, normalising file system takes for the same name."""
    return unicodedata.normalize("NFC", path).casefold()


class Plan:
    """The files of a fetch, gathered from the listings of all sources. Thread-safe."""

    def __init__(self, fold: Callable[[str], str] = str) -> None:
        self._fold = fold
        self._lock = threading.Lock()
        self._files: dict[str, PlannedFile] = {}
        self._directories: dict[str, str] = {}
        self._bytes = 0
        self.complete = False
        """Whether every listing has ended."""

    def add(self, source_index: int, source: str, entry: Entry) -> PlannedFile:
        """Take an object into the plan and return the file it becomes.

        Raises UnsafePathError where its key cannot be a path below the target, or collides with another object's.
        """
        try:
            path = safe_path(entry.path)
        except ValueError as error:
            raise UnsafePathError(
                f"the key {entry.key!r} cannot become a file: {error}; rename the object or exclude it",
                source=source,
                key=entry.key,
            ) from None
        file = PlannedFile(source_index, source, entry.key, path, entry.size, entry.identity, entry.checksum)
        with self._lock:
            self._refuse_collisions(file)
            self._files[self._fold(path)] = file
            self._bytes += entry.size or 0
        return file

    def _refuse_collisions(self, file: PlannedFile) -> None:
        folded = self._fold(file.path)
        other = self._files.get(folded)
        if other is not None:
            raise _collision(file, other, "both would be written to", file.path)
        below = self._directories.get(folded)
        if below is not None:
            raise _collision(file, self._files[below], "one would be a file and the other a directory at", file.path)
        parent = folded
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in self._directories:
                return
            other = self._files.get(parent)
            if other is not None:
                where = "one would be a file and the other a directory at"
                raise _collision(file, other, where, other.path)
            self._directories[parent] = folded

    @property
    def total_bytes(self) -> int:
        """Bytes of all files so far whose size is known."""
        return self._bytes

    def __len__(self) -> int:
        """Files so far."""
        return len(self._files)

    def __iter__(self) -> Iterator[PlannedFile]:
        """Iterate over the files of a complete plan."""
        return iter(self._files.values())


def _collision(file: PlannedFile, other: PlannedFile, how: str, path: str) -> UnsafePathError:
    same = f"source {file.source!r}" if file.source == other.source else f"sources {other.source!r} and {file.source!r}"
    return UnsafePathError(
        f"{other.key!r} and {file.key!r} of {same} collide: {how} {path!r}; give one of them another path, "
        "or exclude it",
        source=file.source,
        key=file.key,
    )


def manifest_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Return `sha256:` and the digest over the sorted (path, size, source identity) of all files."""
    digest = hashlib.sha256()
    for path, size, identity in sorted(files, key=lambda file: file[0].encode()):
        digest.update(f"{path}\0{size}\0{identity}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def check_space(*, needed: int, free: int, total: int, capacity: int | None) -> None:
    """Raise InsufficientSpaceError where `needed` more bytes do not fit into the `free` ones.

    `total` is what the whole revision takes; `capacity` the claim's, where the file system below it shows more.
    """
    if needed > free:
        raise InsufficientSpaceError(
            f"{format_bytes(needed)} ({needed} bytes) are still to be written, but the volume has only "
            f"{format_bytes(free)} ({free} bytes) free; free some space, grow the volume, or take less with "
            "include and exclude"
        )
    if capacity is not None and total > capacity:
        raise InsufficientSpaceError(
            f"the data takes {format_bytes(total)} ({total} bytes), but the claim holds only "
            f"{format_bytes(capacity)} ({capacity} bytes); grow the claim, or take less with include and exclude"
        )
