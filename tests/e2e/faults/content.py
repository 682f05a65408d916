"""What a faulted fetch is to bring, and how slowly."""

from dataclasses import dataclass

from e2e.conftest import Bucket, random_bytes

FILES = 12
_ODD = 12_345
"""So that sizes are not those of ranges."""


@dataclass(frozen=True)
class Content:
    """The files of a source."""

    digests: dict[str, str]
    size: int
    """Bytes."""


def shards(size: int, seed: int = 0) -> dict[str, bytes]:
    """Return files of about that many bytes in all: a few large ones, and some small and empty ones in folders."""
    large = {f"shard-{n}.bin": random_bytes(size // FILES + n * _ODD, 100 * seed + n) for n in range(FILES)}
    return {**large, "config.json": b"{}", "deep/er/empty": b"", "deep/tokens.txt": random_bytes(999, 100 * seed + 99)}


def put_slow(bucket: Bucket, size: int, seconds: float, seed: int = 0) -> Content:
    """Fill a bucket with what takes about so long behind its proxy."""
    contents = shards(size, seed)
    content = Content(bucket.put(contents), sum(map(len, contents.values())))
    bucket.proxy.pace.rate = content.size / seconds
    return content
