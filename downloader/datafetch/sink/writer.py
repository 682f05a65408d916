"""One file of the staged tree while it is written: by one thread, or by several, each at its own offsets."""

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from datafetch.errors import DataFetchError, IntegrityMismatchError, SourceChangedError
from datafetch.plan import missing_ranges
from datafetch.records import PlannedFile
from datafetch.sink.directory import refusals, write_all
from datafetch.sink.verification import Verification
from datafetch.sources import Checksum

if TYPE_CHECKING:
    from datafetch.sink.sink import Sink


class FileWriter:
    """A file that comes in ranges. Made by the sink."""

    def __init__(self, sink: "Sink", file: PlannedFile, descriptor: int, done: list[tuple[int, int]]) -> None:
        self.file = file
        self._sink = sink
        self._descriptor = descriptor
        self._done = done
        self._lock = threading.Lock()
        self._verification = Verification(descriptor, file.size, file.checksum)
        self.remaining = 0
        """Ranges that are still to come; counted down by `finish_range`."""
        self.received = 0
        """Bytes that came of it in this run."""
        self._present = 0
        self._changed: SourceChangedError | None = None

    @property
    def abandoned(self) -> bool:
        """Whether the rest of it is not wanted any more: its object is another one by now."""
        return self._changed is not None

    def enter(self) -> bool:
        """Say that a thread is about to bring a range; False where none is wanted any more. Call `leave` after it."""
        with self._lock:
            if self._changed is not None:
                return False
            self._present += 1
            return True

    def abandon(self, error: SourceChangedError) -> None:
        """Say that its object is another one by now."""
        with self._lock:
            self._changed = self._changed or error

    def leave(self, received: int) -> SourceChangedError | None:
        """Say that a thread has ended with its range; returns why the file was abandoned to the last that leaves it."""
        with self._lock:
            self._present -= 1
            self.received += received
            return self._changed if self._present == 0 else None

    def missing(self, part_bytes: int) -> list[tuple[int, int]]:
        """Return the ranges that have not arrived yet, each of at most `part_bytes`."""
        ranges = missing_ranges(self.file.size or 0, self._done, part_bytes)
        self.remaining = len(ranges)
        return ranges

    def expect(self, checksum: Checksum | None) -> None:
        """Take in what an answer promises of the whole file, before its first byte is written."""
        self._verification.expect(checksum)

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes where they belong."""
        with refusals(self._sink.tree.full(self.file.path)):
            write_all(self._descriptor, data, offset)
        self._verification.update(data, offset)

    def note(self, start: int, end: int) -> None:
        """Note in the journal that a range has arrived."""
        if end > start:
            self._sink.note_range(self.file, start, end)

    def finish_range(self) -> bool:
        """Count a range down, and say whether it was the last."""
        with self._lock:
            self.remaining -= 1
            last = self.remaining == 0
        if not last:
            self._verification.follow()
        return last

    def restart(self) -> None:
        """Forget what was written: the server cannot go on where it stopped."""
        with refusals(self._sink.tree.full(self.file.path)):
            os.ftruncate(self._descriptor, 0)
        self._verification.restart()

    def finish(self, size: int) -> None:
        """Verify the whole file and hand it to the sink. Raises IntegrityMismatchError, and the file is gone."""
        try:
            with refusals(self._sink.tree.full(self.file.path)):
                found = os.fstat(self._descriptor).st_size
                actual = self._verification.actual(size) if found == size else None
            verify(self.file, size, found, self._verification.promised, actual)
        except DataFetchError:
            self._sink.discard(self)
            raise
        with refusals(self._sink.tree.full(self.file.path)):
            if self._sink.flushes_files_alone:
                os.fsync(self._descriptor)
            self.close()  # a network file system may say only now that the data did not arrive
        promised = self._verification.promised if actual is not None else None
        self._sink.add_whole([self._sink.look_at(self.file, promised)])

    def close(self) -> None:
        """Close the file; what was noted of it stays for the next run."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        self._sink.forget_writer(self)
        if descriptor >= 0:
            os.close(descriptor)

    def flush(self) -> None:
        """Bring to the disk what was written so far."""
        with self._lock:
            if self._descriptor >= 0:
                with refusals(self._sink.tree.full(self.file.path)):
                    os.fsync(self._descriptor)

    def close_quietly(self) -> None:
        """Close a file that does not count."""
        with contextlib.suppress(OSError):
            self.close()


def verify(file: PlannedFile, size: int, found: int, promised: Checksum | None, actual: str | None) -> None:
    """Raise IntegrityMismatchError unless what arrived is what the source promised.

    `size` are the bytes that the source has, `found` those that arrived; `actual` is None where there is nothing to
    compare.
    """
    if found != size:
        raise IntegrityMismatchError(
            f"{file.key!r} has {size} bytes at the source, but {found} arrived; run again",
            source=file.source,
            key=file.key,
        )
    if promised is not None and actual is not None and actual != promised.value:
        raise IntegrityMismatchError(
            f"the {promised.algorithm} of {file.key!r} is {actual}, but the source promised {promised.value}; "
            "what arrived was thrown away, run again",
            source=file.source,
            key=file.key,
        )


def checksum_text(checksum: Checksum | None) -> str | None:
    """Return a checksum as manifests have it."""
    return None if checksum is None else f"{checksum.algorithm}:{checksum.value}"
