"""Data sets by name: fetched into a directory of their own, up to date or fetched again, returned as paths.

The shape is that of mleko's ingesters; what they do is the engine's. `S3Ingester` takes the parameters of mleko's, and
`Ingester` any URI.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datafetch.api import item_for
from datafetch.errors import InvalidConfigError, ObjectNotFoundError, SourceNotFoundError
from datafetch.sources import Source
from datafetch.sources.membership import Membership, MembershipSource
from datafetch.task import FetchTask
from datafetch.verification import find_tree
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.uris import redact_uri

_SECONDS_PER_HOUR = 3600


class Ingester:
    """A data set at a URI, in a directory of its own below `destination_directory`.

    `file_pattern` is one pattern or several, as `fnmatch` has them, of paths relative to the URI: `*` crosses slashes.
    `dataset_id` names the directory; without it, it is a fingerprint of what is asked for. Whoever gives two data sets
    one id has the second replace the first. `manifest_file_name` is a file at the URI that lists what belongs to the
    data set, where there is one; None takes everything. `timestamp_tolerance` is the most hours between the oldest and
    the newest file, -1 for any. `max_workers` is the most requests at a time, `options` are those of
    `datafetch.source`.
    """

    def __init__(
        self,
        uri: str,
        *,
        file_pattern: str | Sequence[str] = "*",
        dataset_id: str | None = None,
        destination_directory: str | os.PathLike[str] = "data/ingester",
        manifest_file_name: str | None = "manifest",
        timestamp_tolerance: float = -1,
        max_workers: int | None = None,
        **options: Any,  # noqa: ANN401 - the keys of a config
    ) -> None:
        self._uri = uri
        self._item = item_for(uri, **options)
        patterns = [file_pattern] if isinstance(file_pattern, str) else list(file_pattern)
        if not patterns:
            raise InvalidConfigError('file_pattern is empty, so no file could match; give patterns, or "*" for all')
        name = dataset_id if dataset_id is not None else self._fingerprint()
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidConfigError(f"dataset_id is {name!r}; it names a directory, without slashes and dots alone")
        self._directory = Path(destination_directory) / name
        expressions = [re.compile(fnmatch.translate(os.path.normcase(pattern))) for pattern in patterns]
        self._membership = Membership(
            manifest=None if self._item.type == "http" else manifest_file_name,
            manifest_may_lack=True,
            max_spread=timestamp_tolerance * _SECONDS_PER_HOUR if timestamp_tolerance >= 0 else None,
            takes=lambda path: any(expression.match(path) for expression in expressions),
            wanted=" or ".join(map(repr, patterns)),
        )
        self._max_workers = max_workers

    @property
    def directory(self) -> Path:
        """Where the data set lies."""
        return self._directory

    def fetch_data(self, force_recompute: bool = False) -> list[Path]:
        """Bring the data set up to date, and return the paths of its files, sorted.

        Files that are there and unchanged, here and at the source, are not fetched again, unless `force_recompute`
        asks for it: then all of them are, and replace those that are there once they have come. Files that no longer
        belong to the data set are removed.

        Raises ObjectNotFoundError, which is a FileNotFoundError, where no file matches; TimestampSpreadError; and what
        a fetch ends with beside.
        """
        request = f"dataset:{hashlib.sha256(self._directory.name.encode()).hexdigest()}"
        config = DownloadConfig(download_root=os.fspath(self._directory), download_items=(self._item,))
        task = FetchTask(
            config,
            redact_uri(self._uri),
            max_workers=self._max_workers,
            opener=self._open,
            request=request,
            anew=force_recompute,
        )
        try:
            task.run()
        except SourceNotFoundError as error:
            raise ObjectNotFoundError(error.message, source=error.source, key=error.key) from None
        tree = find_tree(os.fspath(self._directory))
        (manifest,) = (manifest for manifest in tree.manifests if manifest.header.spec_hash == request)
        return [self._directory / file.path for file in manifest.files()]

    def _open(self, item: DownloadItem, stall_timeout: float) -> Source:
        return MembershipSource(item, self._membership, stall_timeout)

    def _fingerprint(self) -> str:
        return _md5(self._uri)

    def __repr__(self) -> str:
        return f"<datafetch.ingest.{type(self).__name__} {redact_uri(self._uri)!r} in {os.fspath(self._directory)!r}>"


class S3Ingester(Ingester):
    """A data set in an S3 bucket: the parameters, defaults and meanings of mleko's `S3Ingester`.

    The product of `max_concurrent_files` and `workers_per_file` is the most requests at a time; how they are shared
    out between files and parts of files is found by measuring. The endpoint and the credentials are those of the
    AWS SDK: its environment, its files, the machine's role.
    """

    def __init__(
        self,
        s3_bucket_name: str,
        s3_key_prefix: str,
        file_pattern: str | list[str] = "*",
        dataset_id: str | None = None,
        destination_directory: str | Path = "data/s3-ingester",
        aws_profile_name: str | None = None,
        aws_region_name: str = "eu-west-1",
        max_concurrent_files: int = 64,
        workers_per_file: int = 1,
        manifest_file_name: str | None = "manifest",
        s3_timestamp_tolerance: int = -1,
    ) -> None:
        self._of_the_fingerprint = s3_bucket_name + s3_key_prefix + aws_region_name
        super().__init__(
            f"s3://{s3_bucket_name}/{s3_key_prefix}",
            file_pattern=file_pattern,
            dataset_id=dataset_id,
            destination_directory=destination_directory,
            manifest_file_name=manifest_file_name,
            timestamp_tolerance=s3_timestamp_tolerance,
            max_workers=max(1, max_concurrent_files * workers_per_file),
            region=aws_region_name,
            profile=aws_profile_name,
        )

    def _fingerprint(self) -> str:
        return _md5(self._of_the_fingerprint)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


__all__ = ["Ingester", "S3Ingester"]
