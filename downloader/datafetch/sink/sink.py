"""Writes the data of one fetch: takes over what is there, stages what arrives, verifies, flushes, and publishes.

A file is staged in our epoch's tree. It is whole when its size and checksum are right; it gets its final name after a
flush, in groups, and never before the plan is complete. What was staged outlives a kill: the next run finds it in the
journals of earlier epochs, and takes it up where it is of exactly the same object.
"""

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from datafetch.checksums import Hasher, new_hasher
from datafetch.errors import DataFetchError, IntegrityMismatchError, InternalError
from datafetch.plan import PlannedFile, fold_case, manifest_digest
from datafetch.sink.directory import refusals, write_all
from datafetch.sink.journal import Journal, StagedFile, missing_ranges, recover
from datafetch.sink.layout import TREE, Layout, Published, new_header
from datafetch.sink.lock import EPOCHS, TargetLock
from datafetch.sink.manifest import ManifestFile

FLUSH_SECONDS = 5.0
_READ_BYTES = 1 << 20


class FileWriter:
    """One file that is being written, by one thread or by several, each at its own offsets."""

    def __init__(self, sink: "Sink", file: PlannedFile, descriptor: int, done: list[tuple[int, int]]) -> None:
        self.file = file
        self._sink = sink
        self._descriptor = descriptor
        self._done = done
        self._lock = threading.Lock()
        self._hasher = None if done else _hasher(file)
        self._hashed = 0
        self.checksum_holds = True
        """Cleared by the engine where an answer says that the listed checksum is not one of the content."""
        self.remaining = 0
        """Ranges that are still to come; the engine counts them down by `finish_range`."""

    def missing(self, part_bytes: int) -> list[tuple[int, int]]:
        """Return the ranges that have not arrived yet, each of at most `part_bytes`."""
        ranges = missing_ranges(self.file.size or 0, self._done, part_bytes)
        if len(ranges) > 1:
            self._hasher = None  # they arrive in any order: the file is read again at the end
        self.remaining = len(ranges)
        return ranges

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes where they belong."""
        with refusals(self._sink.tree.full(self.file.path)):
            write_all(self._descriptor, data, offset)
        if self._hasher is not None and offset == self._hashed:
            self._hasher.update(data)
            self._hashed += len(data)

    def note(self, start: int, end: int) -> None:
        """Note in the journal that a range has arrived."""
        if end > start:
            self._sink.note_range(self.file, start, end)

    def finish_range(self) -> bool:
        """Count a range down, and say whether it was the last."""
        with self._lock:
            self.remaining -= 1
            return self.remaining == 0

    def restart(self) -> None:
        """Forget what was written: the server cannot go on where it stopped."""
        with refusals(self._sink.tree.full(self.file.path)):
            os.ftruncate(self._descriptor, 0)
        self._hasher = _hasher(self.file)
        self._hashed = 0

    def finish(self, size: int) -> None:
        """Verify the whole file and hand it to the sink. Raises IntegrityMismatchError, and the file is gone."""
        try:
            with refusals(self._sink.tree.full(self.file.path)):
                found = os.fstat(self._descriptor).st_size
            self._verify(size, found)
        except DataFetchError:
            self._sink.discard(self)
            raise
        self.close()
        # Only now: a network file system decides on the modification time when a file is closed.
        status = self._sink.tree.stat(self.file.path)
        if status is None:
            raise InternalError(f"{self.file.path!r} has gone from the staged tree; somebody else writes there")
        self._sink.add_whole(self.file, status)

    def close(self) -> None:
        """Close the file; what was noted of it stays for the next run."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _verify(self, size: int, found: int) -> None:
        file = self.file
        if found != size:
            raise IntegrityMismatchError(
                f"{file.key!r} has {size} bytes at the source, but {found} arrived; run again",
                source=file.source,
                key=file.key,
            )
        if file.checksum is None or not self.checksum_holds:
            return
        hasher = self._hasher if self._hashed == size else None
        actual = self._hash_again() if hasher is None else hasher.hexdigest()
        if actual is not None and actual != file.checksum.value:
            raise IntegrityMismatchError(
                f"the {file.checksum.algorithm} of {file.key!r} is {actual}, but the source promised "
                f"{file.checksum.value}; what arrived was thrown away, run again",
                source=file.source,
                key=file.key,
            )

    def _hash_again(self) -> str | None:
        hasher = _hasher(self.file)
        if hasher is None:
            return None
        position = 0
        while block := os.pread(self._descriptor, _READ_BYTES, position):
            hasher.update(memoryview(block))
            position += len(block)
        return hasher.hexdigest()


def _hasher(file: PlannedFile) -> Hasher | None:
    if file.checksum is None or file.size is None:
        return None
    return new_hasher(file.checksum.algorithm, file.size)


class Sink:
    """The target of one fetch, held by its lock from `open` to `close`."""

    def __init__(self, layout: Layout, lock: TargetLock) -> None:
        self._layout = layout
        self._lock = lock
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._whole: list[PlannedFile] = []
        """Whole files that have not been flushed and named yet."""
        self._manifest: dict[str, ManifestFile] = {}
        self._fetched = 0
        self._failure: DataFetchError | None = None
        self.fold: Callable[[str], str] = str
        """What the file system takes for the same name."""
        self.plan_complete = False
        """Set by the engine: only then are final names given."""

    @classmethod
    def open(cls, layout: Layout, lock: TargetLock, cancel: threading.Event, waiting: Callable[[str], None]) -> "Sink":
        """Wait for the lock, look at what is there, and begin an epoch of our own."""
        lock.acquire(cancel, waiting)
        sink = cls(layout, lock)
        try:
            sink._begin()
        except BaseException:
            lock.release()
            raise
        return sink

    def _begin(self) -> None:
        epoch = self._lock.epoch
        self._layout.begin()
        self._recovered = recover(self._layout.state, epoch)
        self.tree = self._layout.state.child(f"{EPOCHS}/{epoch}/{TREE}")
        self._journal = Journal(self._layout.state, epoch)
        if self._layout.state.folds_names():
            self.fold = fold_case
        self._flusher = threading.Thread(target=self._flush_often, name="flush", daemon=True)
        self._flusher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def free_bytes(self) -> int:
        """Return the bytes that may still be written to the volume."""
        return self._layout.state.free_bytes()

    def expected_bytes(self, file: PlannedFile) -> int:
        """Return how many of the file's bytes are there already, by what was noted of it: without looking."""
        published = self._layout.published.get(file.path)
        if published is not None and _same(published, file):
            return published.size
        staged = self._recovered.get(file.path)
        if staged is None or not staged.is_of(file.size, file.identity):
            return 0
        return (file.size or 0) if staged.whole else (file.size or 0) - _lacking(file, staged)

    def is_there(self, file: PlannedFile) -> bool:
        """Take the file over where it is whole already: published before, or staged by an earlier run."""
        published = self._layout.published.get(file.path)
        if published is not None and _same(published, file) and self._layout.take(published, self.tree):
            with self._mutex:
                self._manifest[file.path] = published
            return True
        staged = self._recovered.get(file.path)
        if staged is None or not staged.whole or not staged.is_of(file.size, file.identity):
            return False
        return self._adopt_whole(file, staged)

    def _adopt_whole(self, file: PlannedFile, staged: StagedFile) -> bool:
        status = self._layout.placed(file.path)
        if status is not None and (status.st_size, status.st_mtime_ns) == (staged.size, staged.modified):
            self._add_to_manifest(file, status)
            return True
        if not self._adopt(file, staged):
            return False
        status = self.tree.stat(file.path)
        if status is None or status.st_size != staged.size:
            return False
        self.add_whole(file, status)
        return True

    def _adopt(self, file: PlannedFile, staged: StagedFile) -> bool:
        """Move what an earlier epoch staged into ours; False where it is gone."""
        old = f"{EPOCHS}/{staged.epoch}/{TREE}/{file.path}"
        if self._layout.state.stat(old) is None:
            return False
        self._layout.state.rename(old, self.tree, file.path)
        return True

    def write(self, file: PlannedFile) -> tuple[FileWriter, int]:
        """Return a writer for the file, and how many of its bytes an earlier run has left."""
        staged = self._recovered.pop(file.path, None)
        resumable = staged is not None and not staged.whole and staged.is_of(file.size, file.identity)
        if staged is not None and resumable and self._adopt(file, staged):
            with refusals(self.tree.full(file.path)):
                descriptor = self.tree.open_file(file.path)
            for start, end in staged.ranges:
                self.note_range(file, start, end)
            return FileWriter(self, file, descriptor, staged.ranges), (file.size or 0) - _lacking(file, staged)
        return FileWriter(self, file, self.tree.create(file.path), []), 0

    def note_range(self, file: PlannedFile, start: int, end: int) -> None:
        """Note in the journal that a range of the file is written."""
        if file.identity:
            self._journal.add_range(file.path, file.size, file.identity, start, end)

    def add_whole(self, file: PlannedFile, status: os.stat_result) -> None:
        """Take a verified file into the manifest; it gets its final name after the next flush.

        Raises what the last flush or naming met: nothing more need be fetched then.
        """
        if self._failure is not None:
            raise self._failure
        self._add_to_manifest(file, status)
        checksum = _text(file)
        self._journal.add_file(file.path, status.st_size, file.identity, checksum, status.st_mtime_ns)
        with self._mutex:
            self._whole.append(file)
            self._fetched += 1

    def _add_to_manifest(self, file: PlannedFile, status: os.stat_result) -> None:
        entry = ManifestFile(file.path, status.st_size, file.identity, _text(file), status.st_mtime_ns)
        with self._mutex:
            self._manifest[file.path] = entry

    def discard(self, writer: FileWriter) -> None:
        """Throw away what was written of a file."""
        writer.close()
        self._journal.drop(writer.file.path)
        self.tree.remove(writer.file.path)

    def settle(self) -> None:
        """Flush what is whole, and give it its final names where the plan is complete."""
        if self._failure is not None:
            raise self._failure
        with self._mutex:
            whole = self._whole[:]
        self._layout.state.flush()
        self._lock.check()
        self._journal.mark_flushed()
        if not self.plan_complete:
            return
        for file in whole:
            self._layout.place(file.path, self.tree)
        with self._mutex:
            del self._whole[: len(whole)]

    def _flush_often(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                self.settle()
            except DataFetchError as error:
                self._failure = error
                return

    def publish(self, spec_hash: str) -> Published:
        """Make the finished tree visible. Raises FencedError where another process has taken over."""
        if not self.plan_complete:
            raise InternalError("a tree is about to be published before its plan is complete")
        self._stop_flushing()
        self.settle()
        files = [self._manifest[path] for path in sorted(self._manifest, key=str.encode)]
        digest = manifest_digest((file.path, file.size, file.identity) for file in files)
        header = new_header(spec_hash, digest, files)
        self._lock.check()
        published = self._layout.publish(self._lock.epoch, header, files, unchanged=self._fetched == 0)
        self._remove_epochs()
        return published

    def _remove_epochs(self) -> None:
        """Remove what was staged; our own epoch's directory stays, so that no number is given twice."""
        state = self._layout.state
        for name in state.names(EPOCHS):
            if name != str(self._lock.epoch):
                state.remove_tree(f"{EPOCHS}/{name}")
        state.remove_tree(f"{EPOCHS}/{self._lock.epoch}/{TREE}")
        state.remove(self._journal.path)

    def _stop_flushing(self) -> None:
        self._stop.set()
        self._flusher.join()

    def close(self) -> None:
        """Stop, and give the lock back; what is staged stays for the next run."""
        self._stop_flushing()
        self._journal.close()
        self._lock.release()


def _same(published: ManifestFile, file: PlannedFile) -> bool:
    """Whether the published file is of exactly this object; one without identity never is."""
    same_size = file.size is None or published.size == file.size
    return bool(file.identity) and published.identity == file.identity and same_size


def _lacking(file: PlannedFile, staged: StagedFile) -> int:
    return sum(end - start for start, end in missing_ranges(file.size or 0, staged.ranges, 1 << 62))


def _text(file: PlannedFile) -> str | None:
    return f"{file.checksum.algorithm}:{file.checksum.value}" if file.checksum else None
