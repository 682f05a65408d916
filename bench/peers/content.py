"""The trees as a server has them: put there once by a real uploader, kept in the cache for later runs.

boto3 uploads through versitygw with its own defaults (parts of 8 MiB from 8 MiB on, CRC32): ETags, checksums and
metadata are what a user's bucket has. nginx serves the very same files; its list pages are written here, from
versitygw's listing. Writes below the cache directory only.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import boto3
from boto3.s3.transfer import TransferConfig

from storage import install, servers

from .ports import HOST, free_port
from .shapes import PIECE_BYTES, File, Shape

PAGE_KEYS = 1000
"""Keys of one page of ListObjectsV2, S3's own most."""
_FORMAT = 1
"""Counted up when content or keys change: what an earlier version stored is made again."""


@dataclass(frozen=True)
class Stored:
    """An object as the server lists it; the ETag without its quotes."""

    key: str
    size: int
    etag: str

    @property
    def has_md5(self) -> bool:
        """Whether the ETag is the MD5 of the bytes: uploaded in one part."""
        return "-" not in self.etag


@dataclass(frozen=True)
class Library:
    """The directory with all trees."""

    directory: Path

    @property
    def buckets(self) -> Path:
        """The root of versitygw: a directory for each bucket."""
        return self.directory / "s3"

    @property
    def pages(self) -> Path:
        """The list pages of nginx: a directory for each bucket."""
        return self.directory / "pages"

    def stored(self, shape: Shape) -> list[Stored]:
        """Return the shape's objects in the order of the listing."""
        return [Stored(**row) for row in json.loads(self._record(shape).read_text())]

    def has(self, shape: Shape) -> bool:
        """Whether the shape was uploaded completely."""
        return self._record(shape).exists()

    def _record(self, shape: Shape) -> Path:
        return self.directory / f"{shape.name}.json"


def library(shapes: list[Shape], staging: Path) -> Library:
    """Return the trees, uploading first those that are not there. `staging` has room for the largest."""
    made = Library(install.cache_directory().parent / "bench" / f"content-{_FORMAT}")
    made.directory.mkdir(parents=True, exist_ok=True)
    missing = [shape for shape in shapes if not made.has(shape)]
    if missing:
        server = servers.start_versitygw(made.directory, HOST, free_port())
        try:
            for shape in missing:
                print(f"uploading {shape.title} ({shape.size / 2**30:.1f} GiB), once", flush=True)
                _upload(made, shape, server.url, staging)
        finally:
            server.stop()
    return made


def write_tree(files: tuple[File, ...], directory: Path) -> None:
    """Write files below a directory."""
    for file in files:
        path = directory / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            out.writelines(file.content())


def _upload(made: Library, shape: Shape, url: str, staging: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=servers.S3_ACCESS_KEY,
        aws_secret_access_key=servers.S3_SECRET_KEY,
        region_name=servers.S3_REGION,
    )
    shutil.rmtree(made.buckets / shape.name, ignore_errors=True)
    client.create_bucket(Bucket=shape.name)
    with tempfile.TemporaryDirectory(prefix="datafetch-bench-", dir=staging) as directory:
        tree = Path(directory)
        write_tree(shape.files, tree)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda file: _put(client, shape.name, file, tree), shape.files))
    stored = list(_listed(client, shape.name))
    _write_pages(made.pages / shape.name, shape.name, stored)
    rows = [{"key": one.key, "size": one.size, "etag": one.etag} for one in stored]
    (made.directory / f"{shape.name}.json").write_text(json.dumps(rows))


def _put(client: Any, bucket: str, file: File, tree: Path) -> None:  # noqa: ANN401 - boto3 has no types
    # The second level of threads of small files only costs; ETags and parts are the same.
    config = TransferConfig(use_threads=file.size > PIECE_BYTES)
    client.upload_file(str(tree / file.key), bucket, file.key, Config=config)


def _listed(client: Any, bucket: str) -> Iterator[Stored]:  # noqa: ANN401 - boto3 has no types
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page["Contents"]:
            yield Stored(found["Key"], found["Size"], found["ETag"].strip('"'))


def _write_pages(directory: Path, bucket: str, stored: list[Stored]) -> None:
    """Write the pages of ListObjectsV2 of the whole bucket: PAGE_KEYS keys each, tokens are the pages' numbers."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    pages = [tuple(stored[start : start + PAGE_KEYS]) for start in range(0, len(stored), PAGE_KEYS)]
    for number, page in enumerate(pages):
        following = f"{number + 1:06}" if number + 1 < len(pages) else None
        (directory / f"{number:06}.xml").write_text(_page(bucket, page, following))


def _page(bucket: str, page: tuple[Stored, ...], following: str | None) -> str:
    more = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    rows = "".join(
        f"<Contents><Key>{escape(one.key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{one.etag}&quot;</ETag><Size>{one.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for one in page
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><Prefix></Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE_KEYS}</MaxKeys>"
        f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>{more}{rows}</ListBucketResult>"
    )
