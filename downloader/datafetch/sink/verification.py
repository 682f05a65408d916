"""The checksum of a file that arrives in ranges, from many threads, in any order. Reads the file, writes nothing.

A CRC is computed for each range as it comes, and put together at the end. Any other checksum wants the bytes in order:
it follows behind what has arrived, over the page cache, while the rest is still under way.
"""

import os
import threading

from datafetch.checksums import Hasher, combinable, crc_combine, new_hasher
from datafetch.records import ManifestFile
from datafetch.sink.directory import Directory
from datafetch.sources import Checksum, ChecksumAlgorithm

_READ_BYTES = 1 << 20


def holds_checksum(directory: Directory, path: str, file: ManifestFile) -> bool:
    """Read a file and say whether it has the checksum that its manifest lists; true where that lists none."""
    algorithm, _, value = (file.checksum or "").partition(":")
    if not algorithm:
        return True
    descriptor = directory.open_file(path, writable=False)
    try:
        actual = Verification(descriptor, file.size, Checksum(ChecksumAlgorithm(algorithm), value)).actual(file.size)
    finally:
        os.close(descriptor)
    return actual in (None, value)


class Verification:
    """What a file promises, and what of it has been computed. Thread-safe; `descriptor` is open until `actual`."""

    def __init__(self, descriptor: int, size: int | None, promised: Checksum | None) -> None:
        self._descriptor = descriptor
        self._size = size
        self._lock = threading.Lock()
        self._following = threading.Lock()
        self._decided = False
        self._begin(promised)

    def _begin(self, promised: Checksum | None) -> None:
        self.promised = promised
        self._combines = promised is not None and combinable(promised.algorithm)
        self._hasher = None if promised is None or self._combines else new_hasher(promised.algorithm, self._size)
        self._hashed = 0
        self._extents: dict[int, int] = {}
        """Ranges that have arrived, by their end, with their start."""
        self._pieces: dict[int, tuple[int, Hasher]] = {}
        """The same for a CRC, with what was computed of them."""

    def expect(self, promised: Checksum | None) -> None:
        """Take in what an answer promises: the first one decides, its bytes have not been seen yet."""
        with self._lock:
            if self._decided:
                return
            self._decided = True
            if promised != self.promised and not self._extents and not self._pieces:
                self._begin(promised)
            elif promised is None:
                self.promised = None

    def restart(self) -> None:
        """Forget what was computed: the file comes again from its start."""
        with self._lock:
            self._begin(self.promised)

    def update(self, data: memoryview, offset: int) -> None:
        """Take in bytes that were written at an offset; of each range in order."""
        if self._combines:
            self._update_piece(data, offset)
        elif self._hasher is not None:
            self._update_in_order(self._hasher, data, offset)

    def _update_piece(self, data: memoryview, offset: int) -> None:
        with self._lock:
            piece = self._pieces.pop(offset, None)
        if piece is None:
            hasher = new_hasher(self.promised.algorithm, self._size) if self.promised else None
            if hasher is None:
                return
            piece = (offset, hasher)
        piece[1].update(data)
        with self._lock:
            self._pieces[offset + len(data)] = piece

    def _update_in_order(self, hasher: Hasher, data: memoryview, offset: int) -> None:
        if offset == self._hashed and self._following.acquire(blocking=False):
            try:
                if offset == self._hashed:
                    hasher.update(data)
                    self._hashed += len(data)
            finally:
                self._following.release()
        self._note_extent(offset, offset + len(data))

    def _note_extent(self, start: int, end: int) -> None:
        with self._lock:
            self._extents[end] = self._extents.pop(start, start)

    def follow(self) -> None:
        """Compute over what has arrived since; nothing where another thread does that already."""
        if self._hasher is None or not self._following.acquire(blocking=False):
            return
        try:
            while (end := self._end_of_next()) is not None:
                self._read_through(self._hasher, end)
        finally:
            self._following.release()

    def _end_of_next(self) -> int | None:
        with self._lock:
            ends = [end for end, start in self._extents.items() if start <= self._hashed < end]
            self._extents = {end: start for end, start in self._extents.items() if end > self._hashed}
        return max(ends, default=None)

    def _read_through(self, hasher: Hasher, end: int) -> None:
        while self._hashed < end:
            block = os.pread(self._descriptor, min(_READ_BYTES, end - self._hashed), self._hashed)
            if not block:
                return
            hasher.update(memoryview(block))
            self._hashed += len(block)

    def actual(self, size: int) -> str | None:
        """Return the checksum of the whole file, None where it promises none that can be computed.

        Reads what no range of this run has brought.
        """
        if self.promised is None:
            return None
        combined = self._combine(size) if self._combines else None
        if combined is not None:
            return combined
        hasher = self._hasher
        if hasher is None:
            hasher = new_hasher(self.promised.algorithm, self._size)
            self._hashed = 0
        if hasher is None:
            return None
        with self._following:
            self._read_through(hasher, size)
        return hasher.hexdigest() if self._hashed == size else None

    def _combine(self, size: int) -> str | None:
        """Return the CRC of all ranges together; None where some came with an earlier run."""
        if self.promised is None:
            return None
        total, position, text = 0, 0, None
        for end, (start, hasher) in sorted(self._pieces.items()):
            if start != position:
                return None
            text = hasher.hexdigest()
            total = crc_combine(self.promised.algorithm, total, int(text, 16), end - start)
            position = end
        return f"{total:0{len(text)}x}" if text is not None and position == size else None
