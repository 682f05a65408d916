"""One object of a source as a file: seekable, read in ranges that are bound to the object's identity.

A read asks for what is wanted and no more, until reads follow each other: then it asks for ever more ahead, up to a
bound, over one connection. What is ahead waits in the kernel's buffer, not in ours. A connection that breaks is asked
for again as in a fetch. Which objects there are is `remote`'s and `sources`' business.
"""

import io
import logging
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from datafetch.errors import DataFetchError, SourceUnavailableError
from datafetch.pace import wait_before_retry
from datafetch.sources import ByteRange, Checksum, Entry, RangeReader, Source

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)
READ_AHEAD_BYTES = 8 << 20
"""Most bytes that are asked for beyond those that are wanted."""
BUFFER_BYTES = 64 << 10
_FIRST_AHEAD = 256 << 10
_IN_SEQUENCE = 2
"""Reads that have to follow each other before any is asked for ahead: who jumps about is not to pay for it."""
_SHORT_SKIP = 256 << 10
"""Bytes of an open answer that are rather read and dropped than asked for anew behind them."""


class ObjectReader(io.RawIOBase):
    """The bytes of one object. Not thread-safe: a file for each thread.

    `closing` ends its waiting, when the source is closed.
    """

    def __init__(
        self,
        source: Source,
        entry: Entry,
        *,
        read_ahead: int = READ_AHEAD_BYTES,
        closing: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self._source = source
        self._entry = entry
        self._most_ahead = max(0, read_ahead)
        self._closing = closing or threading.Event()
        self._position = 0
        self._answer: _Answer | None = None
        self._sequence = 0
        """Reads that have followed each other without a jump."""
        self._expected = 0
        """Where the next read begins, unless somebody jumps."""
        self._ahead = 0
        self.promised: Checksum | None = None
        """The checksum of the whole object, as of the last answer."""

    @property
    def name(self) -> str:
        """The object's path, as files have a name."""
        return self._entry.path.removeprefix("./")

    @property
    def size(self) -> int | None:
        """Bytes of the object; None where its server does not say."""
        return self._entry.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the object's size is known: one without comes from its start to its end."""
        return self._entry.size is not None

    def tell(self) -> int:
        """Return the position in bytes."""
        self._require_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, also beyond the end; nothing is asked for before the next read."""
        self._require_open()
        if self._entry.size is None:
            raise io.UnsupportedOperation("the server does not say how long the object is; it cannot be sought in")
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._entry.size}
        if whence not in bases:
            raise ValueError(f"whence is {whence!r}; it has to be 0, 1 or 2")
        if bases[whence] + offset < 0:
            raise ValueError(f"{bases[whence] + offset} is before the object's start")
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer from its start, and return how many bytes there were: fewer than it holds only at the end.

        Raises SourceChangedError where the object is another one by now, SourceUnavailableError after the retries.
        """
        self._require_open()
        view = memoryview(buffer).cast("B")
        if self._entry.size is not None:
            view = view[: max(0, self._entry.size - self._position)]
        self._note_sequence()
        filled = 0
        while filled < len(view) and (count := self._receive(view[filled:])):
            filled += count
        self._expected = self._position
        return filled

    def readall(self) -> bytes:
        """Return what is left of the object."""
        self._require_open()
        if self._entry.size is None:
            return super().readall()
        content = bytearray(max(0, self._entry.size - self._position))
        self.readinto(content)
        return bytes(content)

    def close(self) -> None:
        """Close the connection, unless its answer was read to the end: then it serves the next request."""
        self._drop()
        super().close()

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")
        if self._closing.is_set():
            raise ValueError("the source of this file is closed")

    def _note_sequence(self) -> None:
        if self._position != self._expected:
            self._sequence = self._ahead = 0
        self._sequence += 1

    def _receive(self, view: memoryview) -> int:
        """Bring some of the bytes from the present position on; 0 at the end of an object of unknown size."""
        tries = 0
        while True:
            try:
                count = self._answer_for(len(view)).readinto(view)
            except SourceUnavailableError as error:
                tries += 1
                self._prepare_retry(error, tries)
            except DataFetchError as error:
                self._drop()
                raise error.at(self._source.name, self._entry.key) from error.__cause__
            else:
                self._position += count
                return count

    def _prepare_retry(self, error: SourceUnavailableError, tries: int) -> None:
        self._drop()
        self._require_open()
        error.at(self._source.name, self._entry.key)
        # What broke off in the middle goes on there only where it is surely the same object.
        wait = wait_before_retry(error, tries) if self._entry.identity or not self._position else None
        if wait is None:
            raise error
        logger.warning("%s; asking again in %.1f s", error, wait)
        if self._closing.wait(wait):
            self._require_open()

    def _answer_for(self, wanted: int) -> "_Answer":
        """Return an answer that stands at the present position, the one that is open or a new one."""
        answer = self._answer
        if answer is not None and answer.left and answer.skip_to(self._position):
            return answer
        self._drop()
        answer = self._answer = _Answer(self._source, self._entry, self._range(wanted))
        self.promised = answer.checksum
        return answer

    def _range(self, wanted: int) -> ByteRange:
        size = self._entry.size
        if size is None:
            return ByteRange(self._position, None)
        if self._sequence > _IN_SEQUENCE:
            self._ahead = min(self._most_ahead, max(_FIRST_AHEAD, 2 * self._ahead))
        return ByteRange(self._position, min(size, self._position + wanted + self._ahead))

    def _drop(self) -> None:
        answer, self._answer = getattr(self, "_answer", None), None
        if answer is not None:
            answer.close()


class _Answer:
    """A range that was asked for, and how far it has been read."""

    def __init__(self, source: Source, entry: Entry, byte_range: ByteRange) -> None:
        self._context: AbstractContextManager[RangeReader] = source.open(entry, byte_range)
        self._reader = self._context.__enter__()
        self.checksum = self._reader.checksum
        self._position = byte_range.start
        self._end = byte_range.end

    @property
    def left(self) -> bool:
        """Whether it may hold more bytes."""
        return self._end is None or self._position < self._end

    def skip_to(self, position: int) -> bool:
        """Go on to a position where that is little to read, and say whether it stands there now."""
        distance = position - self._position
        if not 0 <= distance <= _SHORT_SKIP or (self._end is not None and position >= self._end):
            return False
        scratch = memoryview(bytearray(min(distance, BUFFER_BYTES)))
        while self._position < position:
            if not self.readinto(scratch[: position - self._position]):
                return False
        return True

    def readinto(self, view: memoryview) -> int:
        """Bring some bytes; 0 only at the end of an object of unknown size."""
        room = view if self._end is None else view[: self._end - self._position]
        count = self._reader.readinto(room)
        if not count and self._end is not None:
            raise SourceUnavailableError(f"the connection ended {self._end - self._position} bytes early")
        self._position += count
        return count

    def close(self) -> None:
        self._context.__exit__(None, None, None)


def read_object(source: Source, entry: Entry) -> tuple[bytes, Checksum | None]:
    """Return all of an object, and what its source promises of it. Raises as reading does."""
    with ObjectReader(source, entry) as reader:
        return reader.readall(), reader.promised
