"""What will be fetched: safe names, collisions, space, and the digest of the whole. Decides; writes nothing.

Listings feed the plan while they run; nothing is published, or gets a final name in place, before it is complete. The
files themselves are the ledger's.
"""

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from datafetch.errors import InsufficientSpaceError, UnsafePathError
from datafetch.ledger import CollisionError, Ledger
from datafetch.marker import STATE_DIRECTORY
from datafetch.records import ArchiveState, Kind, ManifestFile, PlannedFile, StagedFile
from datafetch.sources import Entry
from datafetch_api.quantities import format_bytes

_OURS = f"{STATE_DIRECTORY} is the name of our own directory"
_SEGMENT_BYTES = 255
_PATH_BYTES = 3800
"""PATH_MAX is 4,096 and counts our own directories before the path."""
_PLAIN = re.compile(r"(?=.{1,255}\Z)[\w+=@,-][\w.+=@, -]*(?:/[\w+=@,-][\w.+=@, -]*)*", re.ASCII)
"""What most keys look like; there is nothing to refuse about them."""


def safe_path(path: str, fold: Callable[[str], str] = str) -> str:
    """Return the path that an object may have below the target, in normal form.

    Raises ValueError with the reason where there is none: object keys come from outside and must not leave the target.
    """
    if _PLAIN.fullmatch(path):
        return path
    path = path.removeprefix("./")
    segments = path.split("/")
    for segment in segments:
        reason = _unsafe(segment)
        if reason:
            raise ValueError(reason)
    if fold(segments[0]) == STATE_DIRECTORY:
        raise ValueError(_OURS)
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
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


IsArchive = Callable[[int, str], bool]
"""Says whether the file of a source, by its number, at a path is an archive to unpack."""


class Plan:
    """The files of a fetch, gathered from the listings of all sources into the ledger. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        sources: Sequence[str],
        fold: Callable[[str], str] = str,
        is_archive: IsArchive | None = None,
    ) -> None:
        self._ledger = ledger
        self._sources = sources
        self._fold = fold
        self._is_archive = is_archive
        self.archives = 0
        """Files so far that are archives to unpack; what comes out of them is counted nowhere here."""
        self._lock = threading.Lock()
        self._files = 0
        self._bytes = 0
        self._present = 0
        self._unpacked = 0
        self._unsized = 0
        self.complete = False
        """Whether every listing has ended."""

    def add(self, source_index: int, entries: Sequence[Entry], *, small_bytes: int = 0) -> Counter[Kind]:
        """Take objects into the plan and return how many became files of each kind.

        Objects of at most `small_bytes` are small. Raises UnsafePathError where a key cannot be a path below the
        target, or collides with another object's.
        """
        files = [self._file(source_index, entry) for entry in entries]
        kinds = [self._kind(file, small_bytes) for file in files]
        names = [self._fold(file.path) for file in files]
        with self._lock:
            try:
                self._ledger.add_files(list(zip(files, kinds, strict=True)), names)
            except CollisionError as error:
                raise self._refuse(error) from None
            self._files += len(files)
            self._bytes += sum(file.size or 0 for file in files)
            self._unsized += sum(file.size is None for file in files)
            found = Counter(kinds)
            self.archives += found[Kind.ARCHIVE]
        return found

    def add_members(self, archive: PlannedFile, names: Sequence[str]) -> list[PlannedFile]:
        """Take members of an archive into the plan, by their names in it, and return them as files.

        They lie where the archive does. Raises UnsafePathError where a name cannot be a path there, or collides.
        """
        return self._add_members(archive, [(name, self.member_path(archive, name)) for name in names])

    def add_unpacked(self, archive: PlannedFile, paths: Sequence[str]) -> list[PlannedFile]:
        """Take members into the plan that were unpacked before, by the paths that they had then."""
        return self._add_members(archive, [(path, path) for path in paths])

    def _add_members(self, archive: PlannedFile, members: Sequence[tuple[str, str]]) -> list[PlannedFile]:
        index, source, identity = archive.source_index, archive.source, archive.identity
        files = [
            PlannedFile(index, source, f"{archive.key}!/{name}", path, archive.size, identity, None, 0, archive.path)
            for name, path in members
        ]
        rows = [(file, Kind.MEMBER) for file in files]
        try:
            ids = self._ledger.add_files(rows, [self._fold(file.path) for file in files])
        except CollisionError as error:
            raise self._refuse(error) from None
        return [replace(file, id=number) for file, number in zip(files, ids, strict=True)]

    def member_path(self, archive: PlannedFile, name: str) -> str:
        """Return where a member of an archive goes, by its name in it. Raises UnsafePathError."""
        directory = archive.path.rpartition("/")[0]
        plain = name.removeprefix("./")
        try:
            # With the directory before it, an absolute path has an empty segment.
            return safe_path(f"{directory}/{plain}" if directory else plain, self._fold)
        except ValueError as error:
            raise UnsafePathError(
                f"the member {name!r} of the archive {archive.key!r} cannot become a file: {error}; pack the archive "
                "without it, or fetch it as it is, without unpack",
                source=archive.source,
                key=archive.key,
            ) from None

    def is_member(self, archive: PlannedFile, path: str) -> bool:
        """Return whether a file at that path came out of the archive."""
        return self._ledger.is_member(archive.path, self._fold(path))

    def reserve(self, size: int, *, present: bool = False) -> None:
        """Take account of bytes that come out of archives, or negative, that go again; `present` are there already."""
        with self._lock:
            self._unpacked += size
            self._present += size if present else 0

    def replace(self, file: PlannedFile, entry: Entry) -> PlannedFile:
        """Put the present state of a file's object in the place of the one that was listed."""
        new = replace(file, size=entry.size, identity=entry.identity, checksum=entry.checksum)
        with self._lock:
            self._ledger.replace_file(new)
            self._bytes += (new.size or 0) - (file.size or 0)
            self._unsized += (new.size is None) - (file.size is None)
        return new

    def next_files(self, source_index: int, kind: Kind, after: int, limit: int) -> list[PlannedFile]:
        """Return files of one source and kind in the order of the listing, those behind the id `after`."""
        return self._ledger.next_files(source_index, self._sources[source_index], kind, after, limit)

    def __iter__(self) -> Iterator[PlannedFile]:
        """Iterate over the files, ordered by their paths."""
        return self._ledger.planned_files(self._sources)

    def listed(self) -> Iterator[tuple[str, int | None, str]]:
        """Iterate over path, size and identity of what the sources listed, ordered by the paths' bytes."""
        return self._ledger.listed_files()

    def _file(self, source_index: int, entry: Entry) -> PlannedFile:
        source = self._sources[source_index]
        try:
            path = safe_path(entry.path, self._fold)
            entry.key.encode()
        except ValueError as error:
            reason = "it is not valid UTF-8" if isinstance(error, UnicodeEncodeError) else error
            raise UnsafePathError(
                f"the key {entry.key!r} cannot become a file: {reason}; rename the object or exclude it",
                source=source,
                key=entry.key,
            ) from None
        return PlannedFile(source_index, source, entry.key, path, entry.size, entry.identity, entry.checksum)

    def _kind(self, file: PlannedFile, small_bytes: int) -> Kind:
        is_archive = self._is_archive is not None and self._is_archive(file.source_index, file.path)
        present = self._count_present_archive(file) if is_archive else self._count_present(file)
        if present is not None:
            with self._lock:
                self._present += present
        if is_archive:
            return Kind.ARCHIVE
        if present is not None:
            return Kind.KNOWN
        return Kind.SMALL if file.size is not None and file.size <= small_bytes else Kind.LARGE

    def _count_present(self, file: PlannedFile) -> int | None:
        """Return how many of the file's bytes are there by what was noted of it; None where nothing is."""
        published = self._ledger.published(file.path)
        if published is not None and published.is_of(file):
            return published.size
        staged = self._ledger.staged(file.path)
        if staged is not None and staged.is_of(file):
            return present_bytes(staged)
        moved = self._ledger.published_alike(file.checksum, file.size)
        return None if moved is None else moved.size

    def _count_present_archive(self, file: PlannedFile) -> int | None:
        """Return the same of an archive: one that was unpacked need not be there itself."""
        for state in (ArchiveState.PUBLISHED, ArchiveState.STAGED):
            unpacked = self._ledger.archive(state, file.path)
            if unpacked is not None and unpacked.is_of(file):
                return unpacked.size
        return self._count_present(file)

    def _refuse(self, collision: CollisionError) -> UnsafePathError:
        (first_index, first, path), (second_index, second, other_path) = collision.first, collision.second
        names = [self._sources[first_index], self._sources[second_index]]
        where = f"source {names[0]!r}" if first_index == second_index else f"sources {names[0]!r} and {names[1]!r}"
        how = "one would be a file and the other a directory at" if collision.nested else "both would be written to"
        shown = min(path, other_path, key=len)
        return UnsafePathError(
            f"{first!r} and {second!r} of {where} collide: {how} {shown!r}; give one of them another path, "
            "or exclude it",
            source=names[1],
            key=second,
        )

    @property
    def total_bytes(self) -> int:
        """Bytes of all files so far whose size is known."""
        return self._bytes

    @property
    def tells_sizes(self) -> bool:
        """Whether the size of every file so far is known before it is fetched."""
        return self._unsized == 0

    @property
    def space_bytes(self) -> int:
        """Bytes that the volume has to hold for them, as far as that is known: with what comes out of archives."""
        return self._bytes + self._unpacked

    @property
    def needed_bytes(self) -> int:
        """Bytes of all files so far that the volume did not hold at the start, by what was noted of them."""
        return self._bytes + self._unpacked - self._present

    def __len__(self) -> int:
        """Files so far."""
        return self._files


def present_bytes(staged: StagedFile) -> int:
    """Return how many bytes of a staged file have arrived."""
    size = staged.size or 0
    if staged.whole:
        return size
    return size - sum(end - start for start, end in missing_ranges(size, staged.ranges))


def missing_ranges(size: int, ranges: list[tuple[int, int]], part_bytes: int = 1 << 62) -> list[tuple[int, int]]:
    """Return what a file of that size lacks, in pieces of at most `part_bytes`, ascending."""
    missing: list[tuple[int, int]] = []
    position = 0
    for start, end in [*sorted(ranges), (size, size)]:
        while position < start:
            piece = min(position + part_bytes, start)
            missing.append((position, piece))
            position = piece
        position = max(position, end)
    return missing


def manifest_digest(files: Iterable[ManifestFile]) -> str:
    """Return `sha256:` and the digest over path, size and source identity of all files, sorted by path already."""
    return digest_lines((file.path, file.size, file.identity) for file in files)


def digest_lines(files: Iterable[tuple[str, int | None, str]]) -> str:
    """Return the same of files as (path, size, identity); a size that nobody knows is empty."""
    digest = hashlib.sha256()
    for path, size, identity in files:
        digest.update(f"{path}\0{'' if size is None else size}\0{identity}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def check_space(*, needed: int, free: int, total: int, capacity: int | None) -> None:
    """Raise InsufficientSpaceError where `needed` more bytes do not fit into the `free` ones.

    `total` is what the whole revision takes; `capacity` the claim's or emptyDir's, where the file system shows more.
    """
    if needed > free:
        raise InsufficientSpaceError(
            f"{format_bytes(needed)} ({needed} bytes) are still to be written, but the volume has only "
            f"{format_bytes(free)} ({free} bytes) free; free some space, grow the volume, or take less with "
            "include and exclude"
        )
    if capacity is not None and total > capacity:
        raise InsufficientSpaceError(
            f"the data takes {format_bytes(total)} ({total} bytes), but the volume holds only "
            f"{format_bytes(capacity)} ({capacity} bytes); grow the claim (a pod's own volume: annotation "
            "datafetch.io/size), or take less with include and exclude"
        )
