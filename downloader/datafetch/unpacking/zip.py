"""Reads zips: the central directory from its start to its end, and each member where it says (APPNOTE 6.3.10).

The standard library's reader holds the whole directory in memory; this one holds one entry. Sizes and offsets are held
against the file, a member's header against the directory, content against its length and CRC.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datafetch.unpacking.formats import Compression
from datafetch.unpacking.members import DamagedError, Member, MemberKind, UnsupportedError
from datafetch.unpacking.streams import Decoder, Deflate, decoding

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_READ_BYTES = 1 << 20
_INPUT_BYTES = 128 << 10
_UNIX = {3, 19}
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF_8 = 0x800
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_DAMAGED_DIRECTORY = "has a directory that is damaged"


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    offset: int
    mode: int
    """As Unix has it; 0 where no Unix made it."""

    @property
    def kind(self) -> MemberKind:
        """What it is."""
        kind = stat.S_IFMT(self.mode)
        if kind == stat.S_IFLNK:
            return MemberKind.SYMBOLIC_LINK
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return MemberKind.DEVICE
        is_directory = self.name.endswith("/") or kind == stat.S_IFDIR
        return MemberKind.DIRECTORY if is_directory else MemberKind.FILE


class _Window:
    """A part of a file that is read in order, a piece of it in memory."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor = descriptor
        self._position = start
        self._end = end
        self._buffer = b""
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at == len(self._buffer) and self._position >= self._end

    def take(self, length: int) -> bytes:
        if self._at + length > len(self._buffer):
            more = os.pread(self._descriptor, min(_READ_BYTES, self._end - self._position), self._position)
            self._position += len(more)
            self._buffer, self._at = self._buffer[self._at :] + more, 0
            if length > len(self._buffer):
                raise DamagedError(_DAMAGED_DIRECTORY)
        taken = self._buffer[self._at : self._at + length]
        self._at += length
        return taken


class ZipReader:
    """The members of a zip."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._count, self._start, self._end = _find_directory(descriptor, size)
        files = total = 0
        for entry in self._entries():
            files += 1
            total += entry.size
        self.promised = (files, total)
        self._content: Iterator[bytes] = iter(())

    def __iter__(self) -> Iterator[Member]:
        """Yield its members."""
        for entry in self._entries():
            if entry.flags & _ENCRYPTED:
                raise UnsupportedError(f"is encrypted ({entry.name!r}), and there is no password to read it with")
            if entry.kind is MemberKind.FILE:
                self._content = self._read(entry)
            yield Member(entry.name, entry.kind, entry.size, executable=bool(entry.mode & 0o100))

    def read(self, most: int) -> bytes:  # noqa: ARG002 - pieces are of bounded size
        """Return the next bytes of the member."""
        return next(self._content, b"")

    def _entries(self) -> Iterator[_Entry]:
        """Read the directory."""
        window = _Window(self._descriptor, self._start, self._end)
        count = 0
        while not window.is_over:
            fields = _ENTRY.unpack(window.take(_ENTRY.size))
            name, extra, _ = (window.take(length) for length in fields[10:13])
            count += 1
            yield _parse(fields, name, extra)
        if count != self._count:
            raise DamagedError(_DAMAGED_DIRECTORY)

    def _read(self, entry: _Entry) -> Iterator[bytes]:
        """Yield the content of a member, verified at its end."""
        start = self._start_of(entry)
        if start + entry.compressed > self._start:
            raise DamagedError(f"has a member that lies outside of it, {entry.name!r}")
        crc = size = 0
        for piece in self._decompress(entry, start):
            size += len(piece)
            if size > entry.size:
                raise DamagedError(f"has a member that is longer than it says, {entry.name!r}")
            crc = zlib.crc32(piece, crc)
            yield piece
        if size != entry.size or crc != entry.crc:
            raise DamagedError(f"has a member whose size or CRC-32 is another one than it says, {entry.name!r}")

    def _start_of(self, entry: _Entry) -> int:
        """Return where a member's data begins; its own header has to name it as the directory does."""
        header = os.pread(self._descriptor, _LOCAL.size + len(entry.raw_name), entry.offset)
        if len(header) == _LOCAL.size + len(entry.raw_name):
            fields = _LOCAL.unpack_from(header)
            if fields[0] == b"PK\3\4" and fields[9] == len(entry.raw_name) and header.endswith(entry.raw_name):
                return entry.offset + len(header) + int(fields[10])
        raise DamagedError(f"has no member where its directory says, {entry.name!r}")

    def _decompress(self, entry: _Entry, start: int) -> Iterator[bytes]:
        pieces = self._stored(start, start + entry.compressed)
        if entry.method == _STORED:
            return pieces
        damages: tuple[type[Exception], ...] = (zlib.error,)
        if entry.method == _DEFLATED:
            decoder: Decoder = Deflate(-15)
        elif entry.method == _BZIP2:
            begin, damages = decoding(Compression.BZIP2)
            decoder = begin()
        else:
            raise UnsupportedError(f"has a member that is compressed by method {entry.method}, {entry.name!r}")
        return _decoded(decoder, pieces, entry.name, damages)

    def _stored(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            piece = os.pread(self._descriptor, min(_INPUT_BYTES, end - start), start)
            if not piece:
                raise DamagedError("ends in the middle")
            start += len(piece)
            yield piece


def _decoded(
    decoder: Decoder, pieces: Iterator[bytes], name: str, damages: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    while not decoder.eof:
        data = next(pieces, b"") if decoder.needs_input else b""
        is_over = decoder.needs_input and not data
        try:
            out = decoder.decompress(data, _READ_BYTES)
        except damages as error:
            raise DamagedError(f"has a member that is damaged, {name!r} ({error})") from None
        if out:
            yield out
        elif is_over and not decoder.eof:
            raise DamagedError(f"has a member that ends in the middle, {name!r}")


def _find_directory(descriptor: int, size: int) -> tuple[int, int, int]:
    """Return how many entries the central directory has, and where it begins and ends."""
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    tail = os.pread(descriptor, size - tail_start, tail_start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise DamagedError("has no directory: it ends in the middle")
    _, disk, first_disk, _, count, length, start, comment = _END.unpack_from(tail, at)
    end = tail_start + at
    if at + _END.size + comment != len(tail):
        raise DamagedError("goes on after its end")
    if disk not in (0, 0xFFFF) or first_disk not in (0, 0xFFFF):
        raise UnsupportedError("is one of several volumes; pack it as one")
    if count == 0xFFFF or length == 0xFFFFFFFF or start == 0xFFFFFFFF:
        found = _find_directory_64(descriptor, end)
        if found is not None:
            count, length, start, end = found
    if start + length != end:
        raise DamagedError(_DAMAGED_DIRECTORY)
    return count, start, end


def _find_directory_64(descriptor: int, end: int) -> tuple[int, int, int, int] | None:
    """Return entries, length, start and end of the directory of a zip64; None where it is none."""
    place = end - _LOCATOR.size
    locator = os.pread(descriptor, _LOCATOR.size, place) if place >= 0 else b""
    if len(locator) < _LOCATOR.size or not locator.startswith(b"PK\6\7"):
        return None
    _, _, offset, _ = _LOCATOR.unpack(locator)
    record = os.pread(descriptor, _END_64.size, offset) if offset < place else b""
    if len(record) < _END_64.size or not record.startswith(b"PK\6\6"):
        raise DamagedError(_DAMAGED_DIRECTORY)
    fields = _END_64.unpack(record)
    return fields[7], fields[8], fields[9], offset


def _parse(fields: tuple[Any, ...], raw_name: bytes, extra: bytes) -> _Entry:
    if fields[0] != b"PK\1\2":
        raise DamagedError(_DAMAGED_DIRECTORY)
    flags, method, crc, compressed, size, offset = fields[3], fields[4], fields[7], fields[8], fields[9], fields[16]
    if 0xFFFFFFFF in (compressed, size, offset):
        compressed, size, offset = _wide(extra, compressed, size, offset)
    mode = fields[15] >> 16 if fields[1] >> 8 in _UNIX else 0
    return _Entry(raw_name, _decode(raw_name, flags), flags, method, crc, compressed, size, offset, mode)


def _wide(extra: bytes, compressed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Return sizes and offset with those that are too large for the entry itself, which stand in its zip64 field."""
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == 1:
            count = min(length, len(extra) - 4) // 8
            numbers = iter(struct.unpack_from(f"<{count}Q", extra, 4))
            try:
                size = next(numbers) if size == 0xFFFFFFFF else size
                compressed = next(numbers) if compressed == 0xFFFFFFFF else compressed
                offset = next(numbers) if offset == 0xFFFFFFFF else offset
            except StopIteration:
                raise DamagedError(_DAMAGED_DIRECTORY) from None
            break
        extra = extra[4 + length :]
    return compressed, size, offset


def _decode(name: bytes, flags: int) -> str:
    """Return a name: UTF-8 where its flag says so, or where it is UTF-8 all the same, as macOS writes; else CP437."""
    try:
        return name.decode("utf-8", "surrogateescape" if flags & _UTF_8 else "strict")
    except UnicodeDecodeError:
        return name.decode("cp437")
