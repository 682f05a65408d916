"""The four trees that are downloaded: names and sizes of their files, and their content. Pure.

The content is pseudo-random, so that nothing compresses, and made by copying: a block of random bytes, read from
another place for each piece of each file.
"""

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE_BYTES = MIB
_BLOCK_BYTES = 64 * MIB
_STRIDE = 7_919_003
"""A prime: pieces of a file begin at different places of the block."""


@dataclass(frozen=True)
class File:
    """A file of a tree: its key and its size in bytes."""

    key: str
    size: int

    def piece(self, index: int) -> memoryview:
        """Return the bytes from `index * PIECE_BYTES` on, at most PIECE_BYTES."""
        start = (zlib.crc32(self.key.encode()) + index * _STRIDE) % (_BLOCK_BYTES - PIECE_BYTES)
        return _block()[start : start + min(PIECE_BYTES, self.size - index * PIECE_BYTES)]

    @property
    def pieces(self) -> int:
        """How many pieces the file has."""
        return math.ceil(self.size / PIECE_BYTES)

    def content(self) -> Iterator[memoryview]:
        """Yield the file's bytes, piece by piece."""
        return (self.piece(index) for index in range(self.pieces))


@dataclass(frozen=True)
class Shape:
    """A tree of files. Its name is its bucket's too."""

    name: str
    title: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


def _numbered(pattern: str, count: int, size: int) -> tuple[File, ...]:
    return tuple(File(pattern.format(number), size) for number in range(count))


def _small() -> tuple[File, ...]:
    return tuple(File(f"shard-{number // 200:03}/{number:05}.bin", 16 * KIB) for number in range(20_000))


def _model_repository() -> tuple[File, ...]:
    """Three shards of a GiB, and 300 files from 1 KiB to 5 MiB: as many of each order of magnitude."""
    shards = tuple(File(f"model-{number:05}-of-00003.safetensors", GIB) for number in (1, 2, 3))
    dice = random.Random(2026)  # noqa: S311 - the same sizes in every run, nothing secret
    span = math.log(5 * MIB / KIB)
    sizes = [int(KIB * math.exp(dice.uniform(0, span))) for _ in range(300)]
    return shards + tuple(File(f"parts-{number % 10}/{number:03}.json", size) for number, size in enumerate(sizes))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("large", "1 x 4 GiB", _numbered("large-{:02}.bin", 1, 4 * GIB)),
        Shape("medium", "128 x 16 MiB", _numbered("part-{:03}.bin", 128, 16 * MIB)),
        Shape("small", "20,000 x 16 KiB", _small()),
        Shape("mixed", "model repository: 3 x 1 GiB and 300 files of 1 KiB to 5 MiB", _model_repository()),
    )
}


@cache
def _block() -> memoryview:
    return memoryview(random.Random(1).randbytes(_BLOCK_BYTES))  # noqa: S311 - test content
