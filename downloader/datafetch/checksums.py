"""Checksums as data arrives: one small interface over zlib, hashlib and google-crc32c. No I/O."""

import hashlib
import zlib
from typing import Protocol

from datafetch.sources import ChecksumAlgorithm


class Hasher(Protocol):
    """A checksum under way."""

    def update(self, data: memoryview) -> None:
        """Take the next bytes in."""

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far, as lower-case hex of the big-endian value."""


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Crc32c:
    def __init__(self) -> None:
        import google_crc32c

        self._extend = google_crc32c.extend
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._extend(self._value, bytes(data))

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def new_hasher(algorithm: ChecksumAlgorithm, size: int) -> Hasher | None:
    """Return a hasher for an object of `size` bytes, or None where the algorithm is not known here."""
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
            blob = hashlib.sha1(usedforsecurity=False)
            blob.update(b"blob %d\0" % size)
            return blob
        case ChecksumAlgorithm.CRC64NVME:
            return None
