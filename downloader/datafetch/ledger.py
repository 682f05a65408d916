"""Every file of a fetch, however many: planned, published, staged, done. Memory stays flat at millions of keys.

A scratch database that lives as long as the process: SQLite keeps a few MiB of it in memory and the rest in a file that
has no name any more, so that a kill leaves nothing behind. What must outlive a kill is the journal's. Decides nothing.
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from datafetch.errors import InsufficientSpaceError, InternalError
from datafetch.records import ArchiveState, Kind, ManifestFile, PlannedFile, StagedFile, UnpackedArchive
from datafetch.sources import Checksum, ChecksumAlgorithm

_CACHE_KIB = 4096
_STREAM_BITS = 40
"""An id is the file's stream (source and kind) and its number in it: a stream is read in the order of its ids."""
_BATCH = 512
_PAGE_BYTES = 4096
_KINDS = len(Kind)
_CONTENT_NAMES = frozenset({ChecksumAlgorithm.SHA256, ChecksumAlgorithm.GIT_BLOB})
"""Checksums that are the same for the same bytes alone. Shorter ones are not, and an ETag is one object's."""
_SCHEMA = """
CREATE TABLE files (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, path TEXT, key TEXT NOT NULL, size INTEGER, identity TEXT NOT NULL,
  algorithm TEXT, checksum TEXT, archive TEXT, source_size INTEGER, final_size INTEGER, final_checksum TEXT,
  modified INTEGER
);
CREATE UNIQUE INDEX files_by_name ON files (name);
CREATE TABLE directories (path TEXT PRIMARY KEY, file INTEGER NOT NULL);
CREATE TABLE published (
  path TEXT PRIMARY KEY, size INTEGER NOT NULL, identity TEXT NOT NULL, checksum TEXT, modified INTEGER NOT NULL,
  archive TEXT
) WITHOUT ROWID;
CREATE TABLE staged (
  path TEXT PRIMARY KEY, size INTEGER, identity TEXT NOT NULL, epoch INTEGER NOT NULL, whole INTEGER NOT NULL,
  checksum TEXT, modified INTEGER NOT NULL, home TEXT NOT NULL, archive TEXT
) WITHOUT ROWID;
CREATE TABLE archives (
  state TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, identity TEXT NOT NULL, checksum TEXT,
  files INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (state, path)
) WITHOUT ROWID;
CREATE TABLE ranges (path TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL);
CREATE INDEX ranges_by_path ON ranges (path);
"""
_FILE_COLUMNS = "id, coalesce(path, name), key, size, identity, algorithm, checksum"
_ARCHIVE_COLUMNS = "path, size, identity, checksum, files, bytes"


class CollisionError(Exception):
    """Two files of the plan cannot both be: `first` and `second` are (source index, key, path)."""

    def __init__(self, first: tuple[int, str, str], second: tuple[int, str, str], *, nested: bool) -> None:
        super().__init__(first[2], second[2])
        self.first = first
        self.second = second
        self.nested = nested
        """One would be a file and the other a directory."""


class Ledger:
    """The database of one fetch. Thread-safe. `directory` is where it may spill to; None keeps it in memory."""

    def __init__(self, directory: str | None = None) -> None:
        self._lock = threading.RLock()
        self._directory = directory
        with self._refusals():
            self._database = _open(directory)
        self._next: dict[tuple[int, Kind], int] = {}
        self._directory_cache: set[str] = set()
        self._knows_published = False
        self._knows_staged = False
        self._finished: list[tuple[int, str | None, int, int]] = []

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._database.close()

    # --- what the volume holds ---

    def load_published(self, files: Iterable[ManifestFile]) -> None:
        """Take in the files of the published tree."""
        rows = ((file.path, file.size, file.identity, file.checksum, file.modified, file.archive) for file in files)
        with self._refusals(), self._lock:
            self._database.executemany("INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._knows_published = self._database.execute("SELECT 1 FROM published LIMIT 1").fetchone() is not None

    def forget_published(self) -> None:
        """Take nothing as published: its manifest turned out to be damaged."""
        with self._refusals(), self._lock:
            self._database.execute("DELETE FROM published")
            self._database.execute("DELETE FROM archives WHERE state = ?", (ArchiveState.PUBLISHED,))
            self._knows_published = False

    def published(self, path: str) -> ManifestFile | None:
        """Return the published file at a path."""
        if not self._knows_published:
            return None
        with self._refusals(), self._lock:
            row = self._database.execute("SELECT * FROM published WHERE path = ?", (path,)).fetchone()
        return None if row is None else ManifestFile(*row)

    def published_alike(self, checksum: Checksum | None, size: int | None) -> ManifestFile | None:
        """Return a published file of that content, whatever its path; None where the checksum names no content."""
        if not self._knows_published or checksum is None or checksum.algorithm not in _CONTENT_NAMES:
            return None
        query = "SELECT * FROM published WHERE checksum = ? AND size = coalesce(?, size) LIMIT 1"
        with self._refusals(), self._lock:
            # Only refreshes whose files have moved ask; others need no second index of a million files.
            self._database.execute("CREATE INDEX IF NOT EXISTS published_by_checksum ON published (checksum)")
            row = self._database.execute(query, (f"{checksum.algorithm}:{checksum.value}", size)).fetchone()
        return None if row is None else ManifestFile(*row)

    def is_planned(self, path: str) -> bool:
        """Return whether the new tree holds a file at that path."""
        return bool(self._all(f"SELECT 1 FROM files WHERE {self._path_column()} = ?", (path,)))  # noqa: S608 - constants

    def published_but_not_planned(self) -> Iterator[ManifestFile]:
        """Yield the published files that the new tree does not hold."""
        column = self._path_column().replace("path", "files.path")
        query = (
            "SELECT * FROM published WHERE path > ? AND NOT EXISTS "  # noqa: S608 - constants
            f"(SELECT 1 FROM files WHERE {column} = published.path) ORDER BY path LIMIT ?"
        )
        after = ""
        while rows := self._all(query, (after, _BATCH)):
            for row in rows:
                yield ManifestFile(*row)
            after = rows[-1][0]

    def note_staged(self, staged: StagedFile) -> None:
        """Take in that an earlier epoch staged a file; what was noted of the path before no longer counts."""
        with self._refusals(), self._lock:
            self._forget_staged(staged.path)
            row = (
                staged.path, staged.size, staged.identity, staged.epoch, staged.whole, staged.checksum, staged.modified,
                staged.home, staged.archive,
            )  # fmt: skip
            self._database.execute("INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            rows = ((staged.path, start, end) for start, end in staged.ranges)
            self._database.executemany("INSERT INTO ranges VALUES (?, ?, ?)", rows)
            self._knows_staged = True

    def note_staged_range(self, path: str, start: int, end: int) -> None:
        """Take in that a range of a staged file had arrived."""
        with self._refusals(), self._lock:
            self._database.execute("INSERT INTO ranges VALUES (?, ?, ?)", (path, start, end))

    def forget_staged(self, path: str) -> None:
        """Take in that what was staged of a path no longer counts."""
        if not self._knows_staged:
            return
        with self._refusals(), self._lock:
            self._forget_staged(path)

    def _forget_staged(self, path: str) -> None:
        self._database.execute("DELETE FROM staged WHERE path = ?", (path,))
        self._database.execute("DELETE FROM ranges WHERE path = ?", (path,))

    def staged(self, path: str, *, with_ranges: bool = True) -> StagedFile | None:
        """Return what an earlier epoch staged of a path."""
        if not self._knows_staged:
            return None
        with self._refusals(), self._lock:
            row = self._database.execute("SELECT * FROM staged WHERE path = ?", (path,)).fetchone()
            if row is None:
                return None
            staged = _staged(row)
            if with_ranges:
                query = 'SELECT start, "end" FROM ranges WHERE path = ?'
                staged.ranges = self._database.execute(query, (path,)).fetchall()
            return staged

    def staged_paths(self) -> set[str]:
        """Return the paths of all that is staged: for tests and messages, not for many."""
        return {path for (path,) in self._all("SELECT path FROM staged", ())}

    # --- the plan ---

    def add_files(self, files: Sequence[tuple[PlannedFile, Kind]], names: Sequence[str]) -> list[int]:
        """Take files into the plan and return their ids; `names` are what the file system takes their paths for.

        Raises CollisionError.
        """
        with self._refusals(), self._lock:
            rows = [
                (self._take_id(file.source_index, kind), name, file.path if file.path != name else None, file.key,
                 file.size, file.identity, *_checksum_columns(file.checksum), file.archive)
                for (file, kind), name in zip(files, names, strict=True)
            ]  # fmt: skip
            insert = "INSERT INTO files (id, name, path, key, size, identity, algorithm, checksum, archive) VALUES "
            try:
                self._database.executemany(insert + "(?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            except sqlite3.IntegrityError:
                raise self._explain_collision(rows) from None
            self._refuse_nesting(rows)
            return [row[0] for row in rows]

    def replace_file(self, file: PlannedFile) -> None:
        """Put another state of the same object in a planned file's place."""
        with self._refusals(), self._lock:
            row = (file.size, file.identity, *_checksum_columns(file.checksum), file.id)
            query = "UPDATE files SET size = ?, identity = ?, algorithm = ?, checksum = ? WHERE id = ?"
            self._database.execute(query, row)

    def _take_id(self, source_index: int, kind: Kind) -> int:
        stream = (source_index, kind)
        number = self._next.get(stream, _first_id(source_index, kind))
        self._next[stream] = number + 1
        return number

    def _explain_collision(self, rows: Sequence[tuple[object, ...]]) -> CollisionError:
        """Find which of the rows that were being added met another of the same name."""
        seen: dict[object, tuple[object, ...]] = {}
        for row in rows:
            other = seen.get(row[1])
            if other is not None:
                return CollisionError(_named(other), _named(row), nested=False)
            seen[row[1]] = row
            query = "SELECT id, name, path, key FROM files WHERE name = ? AND id <> ?"
            found = self._database.execute(query, (row[1], row[0])).fetchone()
            if found is not None:
                return CollisionError(_named(found), _named(row), nested=False)
        raise InternalError("a name was refused that no other file has")

    def _refuse_nesting(self, rows: Sequence[tuple[object, ...]]) -> None:
        """Refuse a file whose path is a directory of another one's, whichever came first."""
        new: list[tuple[str, object]] = []
        for row in rows:
            parent = str(row[1]).rpartition("/")[0]
            while parent and parent not in self._directory_cache:
                self._directory_cache.add(parent)
                new.append((parent, row[0]))
                parent = parent.rpartition("/")[0]
        if len(self._directory_cache) > _BATCH * 8:
            self._directory_cache.clear()
        last = self._database.execute("SELECT coalesce(max(rowid), 0) FROM directories").fetchone()[0]
        self._database.executemany("INSERT OR IGNORE INTO directories VALUES (?, ?)", new)
        pair = "SELECT f.id, f.name, f.path, f.key, o.id, o.name, o.path, o.key "
        below_old = pair + "FROM directories d JOIN files f ON f.name = d.path JOIN files o ON o.id = d.file "
        found = self._database.execute(below_old + "WHERE d.rowid > ? LIMIT 1", (last,)).fetchone()
        if found is None and last:
            found = self._is_directory(rows)
        if found is not None:
            first, second = sorted((found[:4], found[4:]))
            raise CollisionError(_named(first), _named(second), nested=True)

    def _is_directory(self, rows: Sequence[tuple[object, ...]]) -> tuple[object, ...] | None:
        """Return the first of the files whose name is a directory, and the file that lies below it."""
        query = "SELECT o.id, o.name, o.path, o.key FROM directories d JOIN files o ON o.id = d.file WHERE d.path = ?"
        for row in rows:
            found = self._database.execute(query, (row[1],)).fetchone()
            if found is not None:
                return (*row[:4], *found)
        return None

    def next_files(self, source_index: int, source: str, kind: Kind, after: int, limit: int) -> list[PlannedFile]:
        """Return the files of a stream that follow an id; 0 begins it."""
        first = _first_id(source_index, kind)
        end = first + (1 << _STREAM_BITS)
        query = f"SELECT {_FILE_COLUMNS} FROM files WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"  # noqa: S608 - constants
        rows = self._all(query, (max(after + 1, first), end, limit))
        return [_planned(source_index, source, row) for row in rows]

    def planned_files(self, sources: Sequence[str]) -> Iterator[PlannedFile]:
        """Yield every file of the plan, in the order of their names."""
        query = f"SELECT {_FILE_COLUMNS}, name FROM files WHERE name > ? ORDER BY name LIMIT ?"  # noqa: S608 - constants
        after = ""
        while rows := self._all(query, (after, _BATCH)):
            for row in rows:
                source_index = (row[0] >> _STREAM_BITS) // _KINDS
                yield _planned(source_index, sources[source_index], row[:-1])
            after = rows[-1][-1]

    def listed_files(self) -> Iterator[tuple[str, int | None, str]]:
        """Yield path, size and identity of what the sources listed, by their paths in byte order."""
        column = self._path_column()
        query = f"SELECT {column} AS path, size, identity, id FROM files WHERE {column} > ? ORDER BY {column} LIMIT ?"  # noqa: S608 - constants
        after = ""
        while rows := self._all(query, (after, _BATCH)):
            for path, size, identity, number in rows:
                if (number >> _STREAM_BITS) % _KINDS != Kind.MEMBER:
                    yield path, size, identity
            after = rows[-1][0]

    def finish_file(self, file_id: int, size: int, checksum: str | None, modified: int) -> None:
        """Take in that a file is whole: its size, verified checksum and mtime in nanoseconds."""
        self.finish_files([(size, checksum, modified, file_id)])

    def finish_files(self, files: Iterable[tuple[int, str | None, int, int]]) -> None:
        """Take in that files are whole: size, verified checksum, mtime in nanoseconds and id of each."""
        with self._lock:
            self._finished.extend(files)
            if len(self._finished) < _BATCH:
                return
            self._write_finished()

    def _write_finished(self) -> None:
        query = "UPDATE files SET final_size = ?, final_checksum = ?, modified = ? WHERE id = ?"
        with self._refusals():
            self._database.executemany(query, self._finished)
        self._finished.clear()

    def count_finished(self) -> tuple[int, int]:
        """Return the number and the bytes of the files that are whole."""
        with self._lock:
            self._write_finished()
        query = "SELECT count(*), coalesce(sum(final_size), 0) FROM files WHERE final_size IS NOT NULL"
        files, size = self._all(query, ())[0]
        return int(files), int(size)

    def finished_files(self) -> Iterator[ManifestFile]:
        """Yield the files that are whole, by their paths in byte order: what the manifest lists."""
        with self._lock:
            self._write_finished()
        column = self._path_column()
        query = (
            f"SELECT {column} AS final, final_size, identity, final_checksum, modified, archive FROM files "  # noqa: S608 - constants
            f"WHERE final_size IS NOT NULL AND {column} > ? ORDER BY {column} LIMIT ?"
        )
        after = ""
        while rows := self._all(query, (after, _BATCH)):
            for row in rows:
                yield ManifestFile(*row)
            after = rows[-1][0]

    # --- archives ---

    def note_archive(self, state: ArchiveState, archive: UnpackedArchive) -> None:
        """Take in that an archive was unpacked; what was noted of the path before no longer counts."""
        row = (state, archive.path, archive.size, archive.identity, archive.checksum, archive.files, archive.bytes)
        self._all("INSERT OR REPLACE INTO archives VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def archive(self, state: ArchiveState, path: str) -> UnpackedArchive | None:
        """Return what is known of the archive at a path."""
        query = f"SELECT {_ARCHIVE_COLUMNS} FROM archives WHERE state = ? AND path = ?"  # noqa: S608 - constants
        rows = self._all(query, (state, path))
        return UnpackedArchive(*rows[0]) if rows else None

    def archives(self, state: ArchiveState) -> Iterator[UnpackedArchive]:
        """Yield the archives of which the same is known, by their paths."""
        query = f"SELECT {_ARCHIVE_COLUMNS} FROM archives WHERE state = ? AND path > ? ORDER BY path LIMIT ?"  # noqa: S608 - constants
        after = ""
        while rows := self._all(query, (state, after, _BATCH)):
            yield from (UnpackedArchive(*row) for row in rows)
            after = rows[-1][0]

    def published_members(self, archive: str) -> Iterator[ManifestFile]:
        """Yield the published files that came out of an archive, by their paths."""
        yield from (ManifestFile(*row) for row in self._members("published", archive))

    def staged_members(self, archive: str) -> Iterator[StagedFile]:
        """Yield the files that an earlier run has unpacked out of an archive, by their paths."""
        yield from (_staged(row) for row in self._members("staged", archive))

    def _members(self, table: str, archive: str) -> Iterator[Any]:
        self._all(f"CREATE INDEX IF NOT EXISTS {table}_by_archive ON {table} (archive, path)", ())
        query = f"SELECT * FROM {table} WHERE archive = ? AND path > ? ORDER BY path LIMIT ?"  # noqa: S608 - constants
        after = ""
        while rows := self._all(query, (archive, after, _BATCH)):
            yield from rows
            after = rows[-1][0]

    def planned_members(self, archive: str) -> Iterator[str]:
        """Yield the paths of the files of the plan that come out of an archive."""
        self._all("CREATE INDEX IF NOT EXISTS files_by_archive ON files (archive, id)", ())
        query = "SELECT coalesce(path, name), id FROM files WHERE archive = ? AND id > ? ORDER BY id LIMIT ?"
        after = 0
        while rows := self._all(query, (archive, after, _BATCH)):
            yield from (row[0] for row in rows)
            after = rows[-1][1]

    def is_member(self, archive: str, name: str) -> bool:
        """Return whether the file of that name in the plan came out of the archive."""
        return bool(self._all("SELECT 1 FROM files WHERE name = ? AND archive = ?", (name, archive)))

    def note_fetched(self, file_id: int, size: int, checksum: str | None) -> None:
        """Take in what an archive has at its source, as it was verified; by that alone it is no file of the tree."""
        self._all("UPDATE files SET source_size = ?, final_checksum = ? WHERE id = ?", (size, checksum, file_id))

    def fetched(self, file_id: int) -> tuple[int, str | None]:
        """Return size and verified checksum of an archive that is whole."""
        with self._lock:
            self._write_finished()
        query = "SELECT coalesce(source_size, final_size, 0), final_checksum FROM files WHERE id = ?"
        size, checksum = self._all(query, (file_id,))[0]
        return int(size), checksum

    def leave_out(self, file_id: int) -> None:
        """Take in that the finished tree does not hold a file: an archive that is not kept."""
        with self._lock:
            self._write_finished()
        query = "UPDATE files SET source_size = coalesce(source_size, final_size), final_size = NULL WHERE id = ?"
        self._all(query, (file_id,))

    def source_objects(self) -> Iterator[ManifestFile]:
        """Yield what the sources have of the finished tree, by path: archives in the place of what came out of them."""
        with self._lock:
            self._write_finished()
        column = self._path_column()
        size = "coalesce(source_size, final_size)"
        query = (
            f"SELECT {column} AS final, {size}, identity FROM files "  # noqa: S608 - constants
            f"WHERE {size} IS NOT NULL AND archive IS NULL AND {column} > ? ORDER BY {column} LIMIT ?"
        )
        after = ""
        while rows := self._all(query, (after, _BATCH)):
            yield from (ManifestFile(*row) for row in rows)
            after = rows[-1][0]

    def _path_column(self) -> str:
        """Return the expression for a planned file's path that an index serves."""
        if not self._all("SELECT 1 FROM files WHERE path IS NOT NULL LIMIT 1", ()):
            return "name"
        self._all("CREATE INDEX IF NOT EXISTS files_by_path ON files (coalesce(path, name))", ())
        return "coalesce(path, name)"

    def _all(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._refusals(), self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            if "full" in str(error) or _is_full(self._directory, error):
                raise InsufficientSpaceError(
                    "the volume is full: there is no room for the list of files; grow the volume or free some space, "
                    "and run again: what was fetched is kept"
                ) from error
            raise InternalError(f"the list of files cannot be kept: {error}; the volume may be faulty") from error


def _open(directory: str | None) -> sqlite3.Connection:
    name = ":memory:"
    if directory is not None:
        path = os.path.join(directory, f"ledger.{os.urandom(6).hex()}")
        # No locks: nobody else sees the file, and network file systems lie about them.
        name = f"file:{quote(path)}?nolock=1&mode=rw"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY"):
        database.execute(f"PRAGMA {pragma}")
    database.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    # One transaction that never ends: pages are written where the cache is too small for them, and only there.
    database.execute("BEGIN IMMEDIATE")
    if directory is not None:
        os.unlink(path)
    for statement in _SCHEMA.split(";"):
        database.execute(statement)
    return database


def _is_full(directory: str | None, error: Exception) -> bool:
    """Say whether there is no room for an error's reason; SQLite mostly tells that something failed, not why."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if directory is None:
        return False
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0" * _PAGE_BYTES)
    except OSError as refused:
        return refused.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def kind_of(file: PlannedFile) -> Kind:
    """Return the kind of a file of the plan."""
    return Kind((file.id >> _STREAM_BITS) % _KINDS)


def _staged(row: Sequence[Any]) -> StagedFile:
    return StagedFile(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6], home=row[7], archive=row[8])


def _first_id(source_index: int, kind: Kind) -> int:
    return ((source_index * _KINDS + kind) << _STREAM_BITS) + 1


def _checksum_columns(checksum: Checksum | None) -> tuple[str | None, str | None]:
    return (None, None) if checksum is None else (checksum.algorithm.value, checksum.value)


def _named(row: Sequence[object]) -> tuple[int, str, str]:
    """Return source index, key and path of the columns id, name, path, key."""
    identifier, name, path, key = row[:4]
    return (int(str(identifier)) >> _STREAM_BITS) // _KINDS, str(key), str(path or name)


def _planned(source_index: int, source: str, row: Sequence[Any]) -> PlannedFile:
    identifier, path, key, size, identity, algorithm, checksum = row
    promised = None if algorithm is None else Checksum(ChecksumAlgorithm(algorithm), checksum)
    return PlannedFile(source_index, source, key, path, size, identity, promised, identifier)
