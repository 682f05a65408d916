"""Checksums against the libraries' own, whole and in pieces."""

import hashlib
import zlib

import anycrc
import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch.checksums import combinable, crc_combine, new_hasher
from datafetch.sources import ChecksumAlgorithm

CONTENT = bytes(range(256)) * 2000
crc64nvme = anycrc.Model("CRC64-NVME").calc
CRCS = (
    (ChecksumAlgorithm.CRC32, zlib.crc32),
    (ChecksumAlgorithm.CRC32C, google_crc32c.value),
    (ChecksumAlgorithm.CRC64NVME, crc64nvme),
)
EXPECTED = {
    ChecksumAlgorithm.CRC32: f"{zlib.crc32(CONTENT):08x}",
    ChecksumAlgorithm.CRC32C: f"{google_crc32c.value(CONTENT):08x}",
    ChecksumAlgorithm.CRC64NVME: f"{crc64nvme(CONTENT):016x}",
    ChecksumAlgorithm.MD5: hashlib.md5(CONTENT).hexdigest(),
    ChecksumAlgorithm.SHA1: hashlib.sha1(CONTENT).hexdigest(),
    ChecksumAlgorithm.SHA256: hashlib.sha256(CONTENT).hexdigest(),
    # What `git hash-object` prints.
    ChecksumAlgorithm.GIT_BLOB: hashlib.sha1(b"blob 512000\0" + CONTENT).hexdigest(),
}


@pytest.mark.parametrize("algorithm", EXPECTED)
def test_a_checksum_grows_with_the_bytes(algorithm: ChecksumAlgorithm) -> None:
    hasher = new_hasher(algorithm, len(CONTENT))
    assert hasher is not None
    buffer = memoryview(bytearray(CONTENT))
    for start, end in ((0, 1), (1, 200_001), (200_001, len(CONTENT))):
        hasher.update(buffer[start:end])
    assert hasher.hexdigest() == EXPECTED[algorithm]


def test_known_values() -> None:
    # https://reveng.sourceforge.io/crc-catalogue/ and git's empty blob.
    for algorithm, content, value in (
        (ChecksumAlgorithm.CRC32, b"123456789", "cbf43926"),
        (ChecksumAlgorithm.CRC32C, b"123456789", "e3069283"),
        (ChecksumAlgorithm.CRC64NVME, b"123456789", "ae8b14860a799888"),
        (ChecksumAlgorithm.GIT_BLOB, b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
    ):
        hasher = new_hasher(algorithm, len(content))
        assert hasher is not None
        hasher.update(memoryview(content))
        assert hasher.hexdigest() == value


def test_what_cannot_be_computed_has_no_hasher() -> None:
    assert new_hasher(ChecksumAlgorithm.GIT_BLOB, None) is None


@given(st.lists(st.binary(max_size=3000), max_size=4))
def test_a_crc_is_the_same_however_its_bytes_come(pieces: list[bytes]) -> None:
    for algorithm, crc in CRCS:
        hasher = new_hasher(algorithm, None)
        assert hasher is not None
        for piece in pieces:
            hasher.update(memoryview(bytearray(piece)))
        assert int(hasher.hexdigest(), 16) == crc(b"".join(pieces))


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_crcs_of_pieces_make_the_crc_of_the_whole(first: bytes, second: bytes) -> None:
    for algorithm, crc in CRCS:
        assert combinable(algorithm)
        assert crc_combine(algorithm, crc(first), crc(second), len(second)) == crc(first + second)


def test_a_crc_of_a_long_piece_is_put_together() -> None:
    second = bytes(5_000_000)
    whole = zlib.crc32(second, zlib.crc32(b"x"))
    assert crc_combine(ChecksumAlgorithm.CRC32, zlib.crc32(b"x"), zlib.crc32(second), len(second)) == whole


@pytest.mark.parametrize("algorithm", [found for found in ChecksumAlgorithm if not found.startswith("crc")])
def test_other_checksums_are_not_put_together(algorithm: ChecksumAlgorithm) -> None:
    assert not combinable(algorithm)
    with pytest.raises(ValueError, match="cannot be put together"):
        crc_combine(algorithm, 1, 2, 3)
