"""Decompression of one file, in pieces of bounded size, with every trailer verified. Reads; writes nothing.

However much a few bytes expand to: no more of it is held than is asked for, plus the format's own window.
"""

import os
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from datafetch.unpacking.formats import Compression
from datafetch.unpacking.members import DamagedError, UnsupportedError

_INPUT_BYTES = 128 << 10
WINDOW_BYTES = 128 << 20
"""Most memory that a format may ask for: what `zstd --ultra -22` and `xz -9` need, without `--long`."""
_ENDS_EARLY = "ends in the middle"


class Stream(Protocol):
    """Bytes in order."""

    def read(self, most: int) -> bytes:
        """Return the next bytes, at most so many; none at the end. Raises DamagedError, UnsupportedError."""


class Decoder(Protocol):
    """What the standard library's decompressors have in common: one compressed stream."""

    @property
    def eof(self) -> bool:
        """Whether the stream's end, and what verifies it, were read."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more input."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take input, and return at most so much output."""


class Deflate:
    """zlib's decompressor with the interface of the others. `window` as in zlib: 31 for gzip, -15 for bare deflate."""

    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)

    @property
    def eof(self) -> bool:
        """Whether the end was read."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """Whether all input was used."""
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take input, and return at most so much output."""
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def open_stream(descriptor: int, compression: Compression) -> Stream:
    """Return the content of a file that is open for reading, at its start."""
    match compression:
        case Compression.NONE:
            return _Plain(descriptor)
        case _:
            return _Decoded(descriptor, *decoding(compression))


def decoding(compression: Compression) -> tuple[Callable[[], Decoder], tuple[type[Exception], ...]]:
    """Return what makes a decoder of a format, and what it raises where the data is damaged."""
    match compression:
        case Compression.GZIP:
            return lambda: Deflate(31), (zlib.error,)
        case Compression.BZIP2:
            import bz2

            return bz2.BZ2Decompressor, (OSError, EOFError)
        case Compression.XZ:
            import lzma

            return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW_BYTES), (lzma.LZMAError, EOFError)
        case Compression.ZSTD:
            return _zstd_decoding()
        case Compression.NONE:
            raise ValueError(compression)


def _zstd_decoding() -> tuple[Callable[[], Decoder], tuple[type[Exception], ...]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_BYTES.bit_length() - 1}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)


class _Plain:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, most: int) -> bytes:
        return os.read(self._descriptor, most)


class _Decoded:
    """One compressed stream after the other, as gzip, bzip2 and xz allow; zeros may pad the end."""

    def __init__(self, descriptor: int, begin: Callable[[], Decoder], damages: tuple[type[Exception], ...]) -> None:
        self._descriptor = descriptor
        self._begin = begin
        self._damages = damages
        self._decoder: Decoder | None = begin()
        self._rest = b""

    def read(self, most: int) -> bytes:
        while self._decoder is not None or self._begin_next():
            decoder = self._decoder
            if decoder is None:
                break
            data = self._input() if decoder.needs_input else b""
            is_over = decoder.needs_input and not data
            out = self._decode(decoder, data, most)
            if decoder.eof:
                self._rest, self._decoder = decoder.unused_data, None
            if out:
                return out
            if is_over and not decoder.eof:
                raise DamagedError(_ENDS_EARLY)
        return b""

    def _decode(self, decoder: Decoder, data: bytes, most: int) -> bytes:
        try:
            return decoder.decompress(data, most)
        except self._damages as error:
            if "limit" in str(error) or "memory" in str(error):
                raise UnsupportedError(
                    f"needs more than {WINDOW_BYTES >> 20} MiB of memory to decompress; compress it with a smaller "
                    "window (zstd: without --long)"
                ) from None
            raise DamagedError(f"is damaged ({error})") from None

    def _input(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return os.read(self._descriptor, _INPUT_BYTES)

    def _begin_next(self) -> bool:
        data = self._input().lstrip(b"\0")
        while not data:
            more = os.read(self._descriptor, _INPUT_BYTES)
            if not more:
                return False
            data = more.lstrip(b"\0")
        self._rest, self._decoder = data, self._begin()
        return True
