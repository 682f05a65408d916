"""What the sink does about archives: their files in the staged tree, and those that are there from before.

A member is staged like any other file, and noted in the journal with the archive that it came out of. Once all are
noted, the archive is noted as unpacked: only then do its members count for a later run, and only when that note is on
the disk does the archive itself go, where it is not kept. Reading archives is `datafetch.unpacking`'s.
"""

import os
import stat
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from datafetch.errors import SourceChangedError
from datafetch.plan import Plan
from datafetch.records import ArchiveState, ManifestFile, PlannedFile, StagedFile, UnpackedArchive
from datafetch.sink.directory import Directory, make_executable, refusals
from datafetch.sink.journal import TREE, staged_path
from datafetch.sink.lock import EPOCHS
from datafetch.sink.verification import holds_checksum

if TYPE_CHECKING:
    from datafetch.sink.sink import Sink

_BATCH = 256
T = TypeVar("T")


class Archives:
    """The archives of one fetch, as the sink sees them. Thread-safe; each archive is one thread's."""

    def __init__(self, sink: "Sink") -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._obsolete: list[str] = []

    # --- what is there from before ---

    def take(self, archive: PlannedFile, plan: Plan, *, keep: bool) -> UnpackedArchive | None:
        """Take over the files of an archive that was unpacked before, by the last fetch or by one that was killed.

        All of them or none; `keep` asks for the archive itself too. Returns None where it has to be unpacked.
        """
        return self._take_published(archive, plan, keep=keep) or self._adopt(archive, plan, keep=keep)

    def _take_published(self, archive: PlannedFile, plan: Plan, *, keep: bool) -> UnpackedArchive | None:
        sink, ledger, layout = self._sink, self._sink.ledger, self._sink.layout
        found = None if sink.anew else ledger.archive(ArchiveState.PUBLISHED, archive.path)
        if found is None or not found.is_of(archive):
            return None
        own = ledger.published(archive.path)
        if keep and (own is None or not own.is_of(archive) or not layout.holds(own, full=sink.verify_fully)):
            return None
        holds = (layout.holds(file, full=sink.verify_fully) for file in ledger.published_members(archive.path))
        if _count_true(holds) != found.files:
            return None
        for batch in _batches(ledger.published_members(archive.path)):
            planned = plan.add_unpacked(archive, [file.path for file in batch])
            for file in batch:
                if not layout.take(file, sink.tree):
                    raise _altered(archive, file.path)
            ledger.finish_files(
                (file.size, file.checksum, file.modified, member.id)
                for file, member in zip(batch, planned, strict=True)
            )
        if keep and own is not None:
            layout.take(own, sink.tree)
            ledger.finish_file(archive.id, own.size, own.checksum, own.modified)
        return self._note(archive, found)

    def _adopt(self, archive: PlannedFile, plan: Plan, *, keep: bool) -> UnpackedArchive | None:
        sink, ledger = self._sink, self._sink.ledger
        found = ledger.archive(ArchiveState.STAGED, archive.path)
        if found is None or not found.is_of(archive):
            return None
        if _count_true(self._is_staged(archive, file) for file in ledger.staged_members(archive.path)) != found.files:
            return None
        if keep and not sink.is_there(archive):
            return None
        for batch in _batches(ledger.staged_members(archive.path)):
            planned = plan.add_unpacked(archive, [file.path for file in batch])
            for member, staged in zip(planned, batch, strict=True):
                if not sink.adopt_whole(member, staged):
                    raise _altered(archive, staged.path)
        self._keep_or_remove(archive, keep=keep)
        return self._note(archive, found)

    def _is_staged(self, archive: PlannedFile, staged: StagedFile) -> bool:
        """Say whether a member is where a killed run has left it."""
        if not staged.whole or staged.identity != archive.identity:
            return False
        layout = self._sink.layout
        status = layout.placed(staged.path)
        if status is not None and (status.st_size, status.st_mtime_ns) == (staged.size, staged.modified):
            return True
        path = staged_path(staged)
        status = layout.base.stat(path)
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != staged.size:
            return False
        entry = ManifestFile(staged.path, status.st_size, staged.identity, staged.checksum)
        return not self._sink.verify_fully or holds_checksum(layout.base, path, entry)

    def _note(self, archive: PlannedFile, found: UnpackedArchive) -> UnpackedArchive:
        ledger = self._sink.ledger
        ledger.note_fetched(archive.id, found.size, found.checksum)
        ledger.note_archive(ArchiveState.UNPACKED, found)
        return found

    # --- what is unpacked now ---

    def open(self, archive: PlannedFile) -> int:
        """Open an archive that is whole for reading, and return its descriptor."""
        try:
            return self._sink.tree.open_file(archive.path, writable=False)
        except FileNotFoundError:
            return self._sink.layout.open_placed(archive.path)

    def create(self, member: PlannedFile) -> int:
        """Create the file of a member and return its descriptor."""
        return self._sink.tree.create(member.path)

    def full(self, member: PlannedFile) -> str:
        """Return where a member is staged, for messages."""
        return self._sink.tree.full(member.path)

    def read(self, path: str) -> int:
        """Open a member that is whole by its path, for another one that is the same file."""
        return self._sink.tree.open_file(path, writable=False)

    def close(self, member: PlannedFile, descriptor: int, *, executable: bool) -> None:
        """Close the file of a member that is whole."""
        with refusals(self._sink.tree.full(member.path)):
            try:
                if executable:
                    make_executable(descriptor)
                if self._sink.flushes_files_alone:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def add(self, members: Iterable[tuple[PlannedFile, str | None]]) -> int:
        """Take in members that are whole, with their checksums, and return their bytes."""
        files = []
        for member, checksum in members:
            _, entry = self._sink.look_at(member, None)
            entry.checksum, entry.archive = checksum, member.archive
            files.append((member, entry))
        self._sink.add_whole(files)
        return sum(entry.size for _, entry in files)

    def finish(self, archive: PlannedFile, files: int, size: int, *, keep: bool) -> UnpackedArchive:
        """Take in that every member was added: the archive is unpacked, and goes unless it is kept."""
        archive_size, checksum = self._sink.ledger.fetched(archive.id)
        found = UnpackedArchive(archive.path, archive_size, archive.identity, checksum, files, size)
        self._sink.journal.add_unpacked(found)
        self._keep_or_remove(archive, keep=keep)
        return self._note(archive, found)

    def _keep_or_remove(self, archive: PlannedFile, *, keep: bool) -> None:
        ledger = self._sink.ledger
        if not keep:
            ledger.leave_out(archive.id)
            with self._lock:
                self._obsolete.append(archive.path)
            return
        size, checksum = ledger.fetched(archive.id)
        status = self._sink.tree.stat(archive.path)
        if status is None:
            status = self._sink.layout.placed(archive.path)
            modified = 0 if status is None else status.st_mtime_ns
        else:
            modified = status.st_mtime_ns
            self._sink.journal.add_files([ManifestFile(archive.path, size, archive.identity, checksum, modified)])
        ledger.finish_file(archive.id, size, checksum, modified)

    def discard(self, archive: PlannedFile, *, too: bool) -> None:
        """Remove what came out of an archive that cannot be unpacked; `too` says that it goes itself."""
        tree = self._sink.tree
        for path in self._sink.ledger.planned_members(archive.path):
            status = tree.stat(path)
            # A member that was refused, because a directory has its name, is among the planned ones too.
            if status is None or not stat.S_ISDIR(status.st_mode):
                tree.remove(path)
        if too:
            self._sink.journal.drop(archive.path)
            tree.remove(archive.path)

    def obsolete(self) -> list[str]:
        """Return the archives that may go once everything that is noted by now is on the disk."""
        with self._lock:
            found, self._obsolete = self._obsolete, []
        return found

    def sweep(self, epoch: int) -> None:
        """Remove what earlier epochs have staged and no run can use: the members of half an archive above all."""
        state = self._sink.layout.state
        for name in state.names(EPOCHS):
            if name.isdigit() and int(name) < epoch:
                self._sweep(state, int(name))

    def _sweep(self, state: Directory, epoch: int) -> None:
        root = f"{EPOCHS}/{epoch}/{TREE}"
        waiting = [""]
        while waiting:
            below = waiting.pop()
            for name in state.names(f"{root}/{below}" if below else root):
                path = f"{below}/{name}" if below else name
                status = state.stat(f"{root}/{path}")
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
                elif not self._is_of_use(path, epoch):
                    state.remove(f"{root}/{path}")

    def _is_of_use(self, path: str, epoch: int) -> bool:
        staged = self._sink.ledger.staged(path, with_ranges=False)
        if staged is None or (staged.home, staged.epoch) != (self._sink.layout.home, epoch):
            return False
        if staged.archive is None:
            return True
        archive = self._sink.ledger.archive(ArchiveState.STAGED, staged.archive)
        return archive is not None and archive.identity == staged.identity


def _altered(archive: PlannedFile, path: str) -> SourceChangedError:
    return SourceChangedError(
        f"{path!r}, which came out of {archive.key!r}, was altered while this fetch took it over; run again",
        source=archive.source,
        key=archive.key,
    )


def _count_true(answers: Iterable[bool]) -> int:
    """Return how many answers there are, all of them true; -1 where one is not."""
    count = 0
    for answer in answers:
        if not answer:
            return -1
        count += 1
    return count


def _batches(items: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(items, _BATCH)):
        yield batch
