"""Writes the data of one fetch: takes over what is there, stages what arrives, verifies, flushes, and publishes.

A file is staged in our epoch's tree. It is whole when its size and checksum are right; it gets its final name after a
flush, in groups, and never before the plan is complete. What was staged outlives a kill: the next run finds it in the
journals of earlier epochs, and takes it up where it is of exactly the same object.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeGuard

from datafetch.errors import DataFetchError, InternalError
from datafetch.ledger import Ledger, kind_of
from datafetch.plan import fold_case, present_bytes
from datafetch.records import Kind, ManifestFile, PlannedFile, StagedFile
from datafetch.sink.archives import Archives
from datafetch.sink.journal import TREE, Journal, recover, staged_path
from datafetch.sink.layout import Layout, Published, is_as_published, new_header
from datafetch.sink.lock import EPOCHS, FencedError, TargetLock
from datafetch.sink.verification import holds_checksum
from datafetch.sink.writer import FileWriter, checksum_text
from datafetch.sources import Checksum

FLUSH_SECONDS = 5.0
_ANY_EPOCH = 1 << 62


class Sink:
    """The target of one fetch, held by its lock until `close`."""

    def __init__(self, layout: Layout, lock: TargetLock, *, verify_fully: bool, anew: bool) -> None:
        self.layout = layout
        self.verify_fully = verify_fully
        self.anew = anew
        self._lock = lock
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._named = 0
        """How far the journal was read: the files that it notes as whole before this have their final names."""
        self._writers: set[FileWriter] = set()
        self._fetched = 0
        self._failure: DataFetchError | None = None
        self.fold: Callable[[str], str] = str
        """What the file system takes for the same name."""
        self.plan_complete = False
        """Set by the engine: only then are final names given."""
        self.archives = Archives(self)
        self.in_use = False
        """Set by the engine where a thread could not be woken and may still write when the sink is closed."""

    @classmethod
    def open(
        cls,
        layout: Layout,
        lock: TargetLock,
        *,
        verify_fully: bool = False,
        anew: bool = False,
        unpacks: bool = False,
    ) -> "Sink":
        """Look at what is there, and begin an epoch of our own. The lock is held.

        `verify_fully` says that data which is there is read again and compared with its checksum before it is used,
        `anew` that what is published is not used at all: it is replaced. `unpacks` says that archives may be unpacked.
        """
        sink = cls(layout, lock, verify_fully=verify_fully, anew=anew)
        try:
            sink._begin()
            if unpacks:
                sink.archives.sweep(lock.epoch)
        except BaseException:
            lock.release()
            layout.close()
            raise
        return sink

    def _begin(self) -> None:
        epoch = self._lock.epoch
        self.ledger = Ledger(self.layout.state.path_of(f"{EPOCHS}/{epoch}"))
        self.layout.begin(self.ledger)
        for home in self.layout.other_homes():
            recover(self.layout.base, _ANY_EPOCH, self.ledger, home)
        recover(self.layout.base, epoch, self.ledger, self.layout.home)
        self.tree = self.layout.state.child(f"{EPOCHS}/{epoch}/{TREE}")
        self.journal = Journal(self.layout.state, epoch)
        self.flushes_files_alone = self.layout.state.flushes_files_alone()
        if self.layout.state.folds_names():
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
        return self.layout.state.free_bytes()

    def is_there(self, file: PlannedFile) -> bool:
        """Take the file over where it is whole already: published before, or staged by an earlier run."""
        published = None if self.anew else self.ledger.published(file.path)
        if published is not None and published.is_of(file) and self._take(published):
            self.ledger.finish_file(file.id, published.size, published.checksum, published.modified)
            return True
        staged = self.ledger.staged(file.path)
        if staged is not None and staged.whole and staged.is_of(file) and self.adopt_whole(file, staged):
            return True
        return self._take_moved(file)

    def _take_moved(self, file: PlannedFile) -> bool:
        """Take over a published file of the same content at another path: a snapshot's changes with its commit."""
        if self.anew or kind_of(file) is Kind.ARCHIVE:
            return False
        found = self.ledger.published_alike(file.checksum, file.size)
        if found is None:
            return False
        in_place = self.layout.publication == "InPlace"
        # There the old name goes with the end of the fetch, and until then both are names of one file.
        if in_place and (not self.plan_complete or self.ledger.is_planned(found.path)):
            return False
        self.tree.remove(file.path)  # a link that a killed run has left
        if not self.layout.take_as(found, self.tree, file.path, full=self.verify_fully):
            return False
        entry = ManifestFile(file.path, found.size, file.identity, found.checksum, found.modified)
        if in_place:
            self.add_whole([(file, entry)])
        else:
            self.ledger.finish_file(file.id, entry.size, entry.checksum, entry.modified)
        return True

    def _take(self, published: ManifestFile) -> bool:
        return self.layout.take(published, self.tree, full=self.verify_fully)

    def adopt_whole(self, file: PlannedFile, staged: StagedFile) -> bool:
        """Take over what an earlier epoch staged whole; False where it is not as it was."""
        status = self.layout.placed(file.path)
        if _is_own(status) and (status.st_size, status.st_mtime_ns) == (staged.size, staged.modified):
            self.ledger.finish_file(file.id, status.st_size, staged.checksum, status.st_mtime_ns)
            return True
        if not self._adopt(file, staged):
            return False
        status = self.tree.stat(file.path)
        if not _is_own(status) or status.st_size != staged.size:
            return False
        entry = ManifestFile(
            file.path, status.st_size, file.identity, staged.checksum, status.st_mtime_ns, file.archive
        )
        if self.verify_fully and not holds_checksum(self.tree, file.path, entry):
            return False
        self.add_whole([(file, entry)])
        return True

    def _adopt(self, file: PlannedFile, staged: StagedFile) -> bool:
        """Move what an earlier epoch staged into ours; False where it is gone."""
        old = staged_path(staged)
        if self.layout.base.stat(old) is None:
            return False
        self.layout.base.rename(old, self.tree, file.path)
        return True

    def take_over(self, file: ManifestFile, places: Iterable[str]) -> bool:
        """Take over a file that others of the same fetch have brought, without asking whether it can be resumed.

        It lies in the staged tree of one of the epochs at `places`, which are below the layout's base, or was published
        before. False where it is at none of them as it was. Staged files are to be handed to `add_whole`.
        """
        for place in places:
            path = f"{place}/{TREE}/{file.path}"
            if is_as_published(self.layout.base, path, file):
                self.layout.base.rename(path, self.tree, file.path)
                return True
        return False

    def take_published(self, file: ManifestFile, file_id: int) -> bool:
        """Take over a file that is exactly what was published at its path; False where it is not."""
        if self.ledger.published(file.path) != file or not self._take(file):
            return False
        self.ledger.finish_file(file_id, file.size, file.checksum, file.modified)
        return True

    def write(self, file: PlannedFile) -> tuple[FileWriter, int]:
        """Return a writer for the file, and how many of its bytes an earlier run has left."""
        staged = self.ledger.staged(file.path)
        self.ledger.forget_staged(file.path)
        if staged is not None and not staged.whole and staged.is_of(file) and self._adopt(file, staged):
            descriptor = self.tree.open_unshared(file.path)
            if descriptor is None:
                return self._begin_writing(file), 0
            for start, end in staged.ranges:
                self.note_range(file, start, end)
            return self._remember(FileWriter(self, file, descriptor, staged.ranges)), present_bytes(staged)
        return self._begin_writing(file), 0

    def _begin_writing(self, file: PlannedFile) -> FileWriter:
        descriptor = self.tree.create(file.path)
        self.tree.share(descriptor)  # who goes on with a part of it opens it; a whole one is only renamed
        return self._remember(FileWriter(self, file, descriptor, []))

    def _remember(self, writer: FileWriter) -> FileWriter:
        with self._mutex:
            self._writers.add(writer)
        return writer

    def forget_writer(self, writer: FileWriter) -> None:
        """Take in that a writer has closed its file."""
        with self._mutex:
            self._writers.discard(writer)

    def note_range(self, file: PlannedFile, start: int, end: int) -> None:
        """Note in the journal that a range of the file is written."""
        if file.identity:
            self.journal.add_range(file, start, end)

    def look_at(self, file: PlannedFile, verified: Checksum | None) -> tuple[PlannedFile, ManifestFile]:
        """Return a file of the staged tree, closed by now, as the manifest will list it."""
        # Only now: a network file system decides on the modification time when a file is closed.
        status = self.tree.stat(file.path)
        if status is None:
            self._lock.check()
            raise InternalError(f"{file.path!r} has gone from the staged tree; somebody else writes there")
        checksum = checksum_text(verified)
        return file, ManifestFile(file.path, status.st_size, file.identity, checksum, status.st_mtime_ns)

    def add_whole(self, files: Sequence[tuple[PlannedFile, ManifestFile]]) -> None:
        """Take verified files into the manifest; they get their final names after the next flush.

        An archive to unpack comes alone, and waits for that instead.
        Raises what the last flush or naming met: nothing more need be fetched then.
        """
        if self._failure is not None:
            raise self._failure
        if len(files) == 1 and kind_of(files[0][0]) is Kind.ARCHIVE:
            archive, entry = files[0]
            self.journal.add_archive(entry)
            self.ledger.note_fetched(archive.id, entry.size, entry.checksum)
            return
        self.journal.add_files(entry for _, entry in files)
        self.ledger.finish_files((entry.size, entry.checksum, entry.modified, file.id) for file, entry in files)
        with self._mutex:
            self._fetched += len(files)

    def discard(self, writer: FileWriter) -> None:
        """Throw away what was written of a file."""
        writer.close_quietly()
        self.journal.drop(writer.file.path)
        self.tree.remove(writer.file.path)

    def settle(self) -> None:
        """Flush what is whole, and give it its final names where the plan is complete."""
        if self._failure is not None:
            raise self._failure
        obsolete = self.archives.obsolete()
        whole = self.journal.length
        if self.flushes_files_alone:
            for writer in list(self._writers):
                writer.flush()
        self.layout.state.flush()
        self._lock.check()
        self.journal.mark_flushed()
        for path in obsolete:
            self.tree.remove(path)
        if not self.plan_complete or self.layout.publication == "Link":
            return
        for path in self.journal.whole_files(self._named, whole):
            self.layout.place(path, self.tree)
        self._named = whole

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
        header = new_header(spec_hash, self.ledger)
        self._lock.check()
        published = self.layout.publish(self._lock.epoch, header, self.ledger, unchanged=self._fetched == 0)
        self.layout.clear(self._lock.epoch)
        return published

    def _stop_flushing(self) -> None:
        self._stop.set()
        self._flusher.join()

    def explain(self, error: BaseException) -> BaseException:
        """Return what is behind an error of the file system or of ours: that another process has taken over."""
        if not isinstance(error, OSError | InternalError):
            return error
        try:
            self._lock.check()
        except (DataFetchError, OSError) as found:
            return found if isinstance(found, FencedError) else error
        return error

    def close(self) -> None:
        """Stop, and give the lock back; what is staged stays for the next run."""
        self._stop_flushing()
        self.journal.close()
        self.ledger.close()
        self._lock.release()
        if self.in_use:
            return  # its descriptors must not become another file's
        for writer in list(self._writers):
            writer.close_quietly()
        self.tree.close()
        self.layout.close()


def _is_own(status: os.stat_result | None) -> TypeGuard[os.stat_result]:
    """Say whether a staged file can be what we wrote: a file of one name. Links lead elsewhere."""
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_nlink == 1
