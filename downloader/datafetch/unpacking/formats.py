"""Which files are archives: by the ends of their names. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from datafetch_api.items import Item


class Compression(StrEnum):
    """How a tar is compressed."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Format:
    """What a file with one of the suffixes has to be."""

    name: str
    """As messages call it."""
    compression: Compression | None
    """Of a tar; None for a zip."""
    magics: tuple[bytes, ...]
    """How its bytes begin; none for a plain tar, whose first header has a checksum instead."""


_TAR = Format("tar", Compression.NONE, ())
_GZIP = Format("gzip", Compression.GZIP, (b"\x1f\x8b",))
_BZIP2 = Format("bzip2", Compression.BZIP2, (b"BZh",))
_XZ = Format("xz", Compression.XZ, (b"\xfd7zXZ\0",))
_ZSTD = Format(
    "zstd", Compression.ZSTD, (b"\x28\xb5\x2f\xfd", *(bytes((0x50 | low, 0x2A, 0x4D, 0x18)) for low in range(16)))
)
_ZIP = Format("zip", None, (b"PK\3\4", b"PK\5\6"))
_SUFFIXES = {
    ".tar": _TAR,
    ".tar.gz": _GZIP,
    ".tgz": _GZIP,
    ".tar.bz2": _BZIP2,
    ".tbz2": _BZIP2,
    ".tar.xz": _XZ,
    ".txz": _XZ,
    ".tar.zst": _ZSTD,
    ".tzst": _ZSTD,
    ".zip": _ZIP,
}
MAGIC_BYTES = max(len(magic) for found in _SUFFIXES.values() for magic in (*found.magics, b""))


def archive_format(path: str) -> Format | None:
    """Return what the file at a path has to be by its name; None where that is no archive's."""
    name = path.rpartition("/")[2].lower()
    return next((found for suffix, found in _SUFFIXES.items() if name.endswith(suffix) and name != suffix), None)


def archives_of(items: Sequence[Item]) -> Callable[[int, str], bool] | None:
    """Return what says whether the file of an item, by its number, is to be unpacked; None where no item unpacks."""
    unpack = [item.unpack is not None for item in items]
    if not any(unpack):
        return None

    def is_archive(index: int, path: str) -> bool:
        return unpack[index] and archive_format(path) is not None

    return is_archive
