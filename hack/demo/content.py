"""What the storage servers hold: real files of this machine, and where examples/datafetch.yaml brings each of them.

The rules of include and exclude are written down here once more, in Python: that is what the result is checked against.
"""

import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import paths
from cluster.errors import ClusterError
from storage import fill
from storage.servers import Addresses

_UPLOADS_AT_ONCE = 8
_NOT_THE_LIBRARY = frozenset({"__pycache__", "site-packages", "dist-packages"})
_LARGE_FILES = ("kube-apiserver", "kubectl")
"""The cluster's programs, the largest first; which of them were built depends on the kind of cluster."""

StoreName = Literal["S3", "GCS", "Azure"]


@dataclass(frozen=True)
class Item:
    """A file, the object it becomes, and where that arrives."""

    store: StoreName
    bucket: str
    key: str
    file: Path
    arrives_at: str | None
    """Path below the target's, or None where the sources leave it out."""


def items() -> list[Item]:
    """Return everything to store: Python's standard library, parts of it, and one large program."""
    return [*_corpus(), _weights(), *_tables(), *_letters()]


def upload(everything: list[Item], addresses: Addresses) -> int:
    """Store all items; return their bytes. Raises FillError with a server's refusal."""
    stores: dict[StoreName, fill.Store] = {
        "S3": fill.S3(addresses.s3),
        "GCS": fill.Gcs(addresses.gcs),
        "Azure": fill.Azure(addresses.azure),
    }
    for store, bucket in {(item.store, item.bucket) for item in everything}:
        stores[store].create(bucket)
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        # list() so that the first refusal is raised here.
        list(pool.map(lambda item: stores[item.store].put(item.bucket, item.key, item.file), everything))
    return sum(item.file.stat().st_size for item in everything)


def _corpus() -> Iterator[Item]:
    for path, file in _library():
        wanted = path.endswith(".py") and not path.startswith("test/")
        yield Item("S3", "training", f"python/{path}", file, f"corpus/{path}" if wanted else None)


def _weights() -> Item:
    for name in _LARGE_FILES:
        program = paths.tools() / name
        if program.exists():
            return Item("S3", "training", "weights/model.bin", program.resolve(), "model/model.bin")
    raise ClusterError("None of the cluster's programs is built: run `make cluster-up` first.")


def _tables() -> Iterator[Item]:
    for path, file in _library("encodings"):
        yield Item("GCS", "tables", f"encodings/{path}", file, f"tables/{path}")


def _letters() -> Iterator[Item]:
    for path, file in _library("email"):
        yield Item("Azure", "letters", path, file, f"letters/{path}")


def _library(part: str = "") -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib")) / part
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root)
        if file.is_file() and not file.is_symlink() and not _NOT_THE_LIBRARY.intersection(path.parts):
            yield path.as_posix(), file
