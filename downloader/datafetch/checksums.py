"""Checksums of whole objects, computed as the bytes come, and CRCs of ranges put together. Pure.

What a provider promises stands in `Entry.checksum`; who compares is the sink.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

from datafetch.sources import ChecksumAlgorithm


class _Crc(NamedTuple):
    """What makes a CRC: the highest bit of its register, and its polynomial, reflected."""

    top: int
    polynomial: int


_CRCS = {
    ChecksumAlgorithm.CRC32: _Crc(1 << 31, 0xEDB88320),
    ChecksumAlgorithm.CRC32C: _Crc(1 << 31, 0x82F63B78),
    ChecksumAlgorithm.CRC64NVME: _Crc(1 << 63, 0x9A6C9329AC4BC9B5),
}


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
            return _crc32()
        case ChecksumAlgorithm.CRC32C:
            return _crc32c()
        case ChecksumAlgorithm.CRC64NVME:
            return _crc64nvme()
        case ChecksumAlgorithm.MD5:
            return hashlib.md5(usedforsecurity=False)
        case ChecksumAlgorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        case ChecksumAlgorithm.SHA256:
            return hashlib.sha256()
        case ChecksumAlgorithm.GIT_BLOB:
            # git hashes the length before the content: without it there is nothing to compute.
            return None if size is None else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def combinable(algorithm: ChecksumAlgorithm) -> bool:
    """Return whether the checksum of a whole can be made of those of its pieces: a CRC's can."""
    return algorithm in _CRCS


def crc_combine(algorithm: ChecksumAlgorithm, first: int, second: int, second_length: int) -> int:
    """Return the CRC of two pieces put together, from the CRC of each and the second one's length in bytes.

    A CRC is linear: what the bytes of the second piece do to the first CRC is a multiplication by x to the number of
    their bits, modulo the CRC's polynomial, as zlib's crc32_combine does it.
    Raises ValueError for an algorithm that is not combinable.
    """
    crc = _CRCS.get(algorithm)
    if crc is None:
        raise ValueError(f"{algorithm} cannot be put together")
    return _multiply(crc, _power_of_x(crc, second_length * 8), first) ^ second


@lru_cache(maxsize=64)
def _power_of_x(crc: _Crc, exponent: int) -> int:
    """Return x to a power. Mostly all pieces but one are equally long: kept."""
    result, square = crc.top, crc.top >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(crc, square, result)
        square = _multiply(crc, square, square)
        exponent >>= 1
    return result


def _multiply(crc: _Crc, first: int, second: int) -> int:
    """Multiply two polynomials modulo the CRC's; the highest bit is the one of x to the power of 0."""
    product = 0
    bit = crc.top
    while first:
        if first & bit:
            product ^= second
            first ^= bit
        bit >>= 1
        second = second >> 1 ^ crc.polynomial if second & 1 else second >> 1
    return product


class _RunningCrc:
    """A CRC that grows. `extend` returns the CRC of bytes that come after those of a CRC."""

    __slots__ = ("_digits", "_extend", "_value")

    def __init__(self, extend: Callable[[memoryview, int], int], digits: int) -> None:
        self._extend = extend
        self._digits = digits
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._extend(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


# The libraries are imported where they are needed: few fetches need both, and each costs start-up time and memory.


def _crc32() -> _RunningCrc:
    from fastcrc import crc32

    return _RunningCrc(crc32.iso_hdlc, 8)


def _crc32c() -> _RunningCrc:
    from fastcrc import crc32

    return _RunningCrc(crc32.iscsi, 8)


def _crc64nvme() -> _RunningCrc:
    import anycrc

    return _RunningCrc(anycrc.Model("CRC64-NVME").calc, 16)
