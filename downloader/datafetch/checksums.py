"""Checksums of whole objects, computed as the bytes come, and CRCs of ranges put together. Pure.

What a provider promises stands in `Entry.checksum`; who compares is the sink.
"""

import hashlib
import zlib
from typing import Protocol

from datafetch.sources import ChecksumAlgorithm

_POLYNOMIALS = {ChecksumAlgorithm.CRC32: 0xEDB88320, ChecksumAlgorithm.CRC32C: 0x82F63B78}
"""Reflected."""
_COPY_BYTES = 128 * 1024
_IDENTITY = tuple(1 << bit for bit in range(32))


class Hasher(Protocol):
    """A checksum that grows with the bytes."""

    def update(self, data: memoryview, /) -> object:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the checksum of the bytes so far, as it stands in `Checksum.value`."""


def new_hasher(algorithm: ChecksumAlgorithm, size: int | None) -> Hasher | None:
    """Return a hasher for an object of `size` bytes, or None where the algorithm cannot be computed here."""
    match algorithm:
        case ChecksumAlgorithm.CRC32:
            return _Crc32()
        case ChecksumAlgorithm.CRC32C:
            return _Crc32c()
        case ChecksumAlgorithm.MD5:
            return hashlib.md5(usedforsecurity=False)
        case ChecksumAlgorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        case ChecksumAlgorithm.SHA256:
            return hashlib.sha256()
        case ChecksumAlgorithm.GIT_BLOB:
            # git hashes the length before the content: without it there is nothing to compute.
            return None if size is None else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        case ChecksumAlgorithm.CRC64NVME:
            return None


def crc_combine(algorithm: ChecksumAlgorithm, first: int, second: int, second_length: int) -> int:
    """Return the CRC of two pieces put together, from the CRC of each and the second one's length in bytes.

    For CRC32 and CRC32C; zlib's crc32_combine: a CRC is linear, so that what the second piece's length does to the
    first CRC is a 32 x 32 matrix over GF(2).
    Raises ValueError for another algorithm.
    """
    polynomial = _POLYNOMIALS.get(algorithm)
    if polynomial is None:
        raise ValueError(f"{algorithm} cannot be put together")
    one_bit = (polynomial, *_IDENTITY[:31])
    # Three squarings turn one zero bit into one zero byte.
    power = _square(_square(_square(one_bit)))
    while second_length:
        if second_length & 1:
            first = _apply(power, first)
        second_length >>= 1
        if second_length:
            power = _square(power)
    return first ^ second


def _apply(matrix: tuple[int, ...], vector: int) -> int:
    total = 0
    index = 0
    while vector:
        if vector & 1:
            total ^= matrix[index]
        vector >>= 1
        index += 1
    return total


def _square(matrix: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_apply(matrix, column) for column in matrix)


class _Crc32:
    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc32c:
    __slots__ = ("_extend", "_value")

    def __init__(self) -> None:
        import google_crc32c

        self._extend = google_crc32c.extend
        self._value = 0

    def update(self, data: memoryview) -> None:
        # The extension takes nothing but bytes objects: copied by pieces that stay in the processor's cache.
        for start in range(0, len(data), _COPY_BYTES):
            self._value = self._extend(self._value, bytes(data[start : start + _COPY_BYTES]))

    def hexdigest(self) -> str:
        return f"{self._value:08x}"
