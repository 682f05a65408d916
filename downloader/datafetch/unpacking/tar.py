"""Reads tars: ustar, GNU and pax, from a stream, one member after the other.

The standard library's reader believes what a header says of its own size, and remembers every member; this one holds
one header, of bounded size. What it does not know it refuses: a member that is left out silently is worse.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from datafetch.unpacking.members import DamagedError, Member, MemberKind, UnsupportedError
from datafetch.unpacking.streams import Stream

_BLOCK = tarfile.BLOCKSIZE
_READ_BYTES = 1 << 20
_MOST_HEADER_BYTES = 1 << 20
"""Of a long name, or of the attributes of one member."""
_MOST_HEADERS = 16
"""Headers of headers before one member."""
_MOST_PADDING = 64 << 20
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_KINDS = {
    tarfile.DIRTYPE: MemberKind.DIRECTORY,
    tarfile.LNKTYPE: MemberKind.SAME,
    tarfile.SYMTYPE: MemberKind.SYMBOLIC_LINK,
    tarfile.CHRTYPE: MemberKind.DEVICE,
    tarfile.BLKTYPE: MemberKind.DEVICE,
    tarfile.FIFOTYPE: MemberKind.DEVICE,
}
_HEADERS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}
_VOLUME_LABEL = b"V"


@dataclass(slots=True)
class _Extended:
    """What headers before a member's own say of it."""

    path: str | None = None
    target: str | None = None
    size: int | None = None


class TarReader:
    """The members of a tar."""

    promised = None

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = memoryview(b"")
        self._left = 0
        """Bytes of the present member that were not read."""
        self._padding = 0
        self._global = _Extended()

    def __iter__(self) -> Iterator[Member]:
        """Yield its members."""
        extended, headers = _Extended(), 0
        is_first = True
        while (header := self._next_header(is_first=is_first)) is not None:
            is_first = False
            if self._extend(header, extended):
                headers += 1
                if headers > _MOST_HEADERS:
                    raise DamagedError(f"has more than {_MOST_HEADERS} headers before one member")
                continue
            if header.type != _VOLUME_LABEL:
                yield self._member(header, extended)
            extended, headers = _Extended(), 0
        self._verify_end()

    def read(self, most: int) -> memoryview:
        """Return the next bytes of the member."""
        piece = self._some(min(most, self._left))
        if self._left and not piece:
            raise DamagedError("ends in the middle of a member")
        self._left -= len(piece)
        return piece

    def _next_header(self, *, is_first: bool) -> tarfile.TarInfo | None:
        """Return the next header; None at the end, also where the marker of the end is missing."""
        while self._left:
            self.read(_READ_BYTES)
        self._exact(self._padding)
        self._padding = 0
        block = self._exact(_BLOCK, may_end=not is_first)
        if not block:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            if block == bytes(_BLOCK):
                return None
            raise DamagedError("is no tar" if is_first else "has a header that is damaged") from None

    def _extend(self, header: tarfile.TarInfo, extended: _Extended) -> bool:
        """Take in a header of headers; False where it is a member's own."""
        if header.type not in _HEADERS:
            return False
        if not 0 <= header.size <= _MOST_HEADER_BYTES:
            raise DamagedError(f"has a header of {header.size} bytes")
        content = self._exact(header.size)
        self._exact(-header.size % _BLOCK)
        match header.type:
            case tarfile.GNUTYPE_LONGNAME:
                extended.path = _text(content.rstrip(b"\0"))
            case tarfile.GNUTYPE_LONGLINK:
                extended.target = _text(content.rstrip(b"\0"))
            case tarfile.XGLTYPE:
                _parse_attributes(content, self._global)
            case _:
                _parse_attributes(content, extended)
        return True

    def _member(self, header: tarfile.TarInfo, extended: _Extended) -> Member:
        both = (extended, self._global)
        name = next((one.path for one in both if one.path is not None), header.name)
        target = next((one.target for one in both if one.target is not None), header.linkname)
        size = next((one.size for one in both if one.size is not None), header.size)
        if size < 0:
            raise DamagedError(f"has a member of {size} bytes")
        if header.type in _FILES and not name.endswith("/"):
            self._left, self._padding = size, -size % _BLOCK
            return Member(name, MemberKind.FILE, size, executable=bool(header.mode & 0o100))
        kind = MemberKind.DIRECTORY if header.type in _FILES else _KINDS.get(header.type)
        if kind is None:
            what = "a sparse file" if header.type == tarfile.GNUTYPE_SPARSE else f"a member of type {header.type!r}"
            raise UnsupportedError(f"holds {what}, {name!r}; pack it again without (tar: not --sparse)")
        return Member(name, kind, target=target)

    def _verify_end(self) -> None:
        """Read to the end, with its trailer. Archives that were put together with cat would lose all but the first."""
        padding = 0
        while piece := self._some(_READ_BYTES):
            if any(piece[:1]) or piece.tobytes().count(0) != len(piece):
                raise DamagedError("goes on after its end: archives were put together; pack them as one")
            padding += len(piece)
            if padding > _MOST_PADDING:
                raise DamagedError(f"goes on for more than {_MOST_PADDING >> 20} MiB after its end")

    def _some(self, most: int) -> memoryview:
        if not self._buffer and most:
            self._buffer = memoryview(self._stream.read(_READ_BYTES))
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    def _exact(self, count: int, *, may_end: bool = False) -> bytes:
        content = b""
        while len(content) < count:
            piece = self._some(count - len(content))
            if not piece:
                if may_end and not content:
                    return b""
                raise DamagedError("ends in the middle")
            content += piece
        return content


def _parse_attributes(content: bytes, into: _Extended) -> None:
    """Take in the records of a pax header that say which file it is (POSIX.1-2001, pax: extended header)."""
    while content.strip(b"\0"):
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or len(length) > 8 or not 0 < int(length) <= len(content):
            raise DamagedError("has attributes that are damaged")
        keyword, equals, value = content[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise DamagedError("has attributes that are damaged")
        _take_attribute(keyword, value[:-1], into)
        content = content[int(length) :]


def _take_attribute(keyword: bytes, value: bytes, into: _Extended) -> None:
    if keyword.startswith(b"GNU.sparse."):
        raise UnsupportedError("holds a sparse file; pack it again without --sparse")
    match keyword:
        case b"path":
            into.path = _text(value)
        case b"linkpath":
            into.target = _text(value)
        case b"size":
            if not value.isdigit() or len(value) > 20:
                raise DamagedError("has a size that is no number")
            into.size = int(value)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
