"""The downloader's config: the YAML file of `datafetch run`, and what the operator renders into a ConfigMap.

A superset of the format of the Kaiwo downloader: `download_root` and `download_items`, each with a `type`, a `name` and
what that type needs. `*_file` keys name files that hold one value; `credentials_dir` names a directory with one file
for each key of a mounted Secret. Relative paths are relative to the working directory.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from datafetch_api.items import (
    AzureBlobItem,
    BucketItems,
    ConfigModel,
    ContainerItems,
    DownloadItem,
    GCSItem,
    GitItem,
    HttpFile,
    HttpIndex,
    HttpItem,
    HuggingFaceItem,
    Item,
    LakeFSItem,
    Match,
    S3Item,
    Selection,
    Text,
    Unpack,
)


class Shards(ConfigModel):
    """A fetch that several processes share, each with a part of the files: which one it is says `--shard`."""

    count: Annotated[int, Field(ge=1, le=64)]
    """How many there are; the first one, 0, lists for all."""
    plan: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,98}[a-z0-9])?$")]
    """What names the list of files that they share on the volume: another name is another listing."""


class Managed(ConfigModel):
    """The managed layout: revisions below `.datafetch`, published by one symbolic link."""

    volume: Text
    """Where the volume's root is mounted."""
    path: Text
    """The link's path on the volume."""
    namespace: str
    name: str
    uid: str
    """Whose data it is; written into the manifest."""
    spec_hash: str
    keep_revisions: Annotated[int, Field(ge=0)] = 1
    prune_replaced_before: datetime | None = None
    """Old revisions that were replaced before this time may go: no running pod can still use them."""
    shards: Shards | None = None
    """Where several processes share the fetch. A last run with `--publish-shards` publishes what they have brought."""


class TransferSettings(ConfigModel):
    """How the data is brought; limits are of the whole run."""

    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 256
    """Most open requests at a time."""
    min_concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Fewest requests of one kind (ranges of large files, small files) that may be open at a time, also where the
    source refuses some. Default: what pays is found by measuring, down to one."""
    tuning_interval: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] | None = None
    """Most seconds until another number of requests is tried, once a good one has been found. Default: 8."""
    bandwidth_limit: Annotated[int, Field(ge=1)] | None = None
    """Most bytes per second."""
    stall_timeout: Annotated[int, Field(ge=1)] = 60
    """Seconds that a connection may stay silent."""
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None
    """How often one range of an object is asked for again without a byte of progress, whatever the reason. Default:
    29 times where the source asks for fewer requests, 4 times where a connection stalls, else 7 times."""
    retry_delay: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] | None = None
    """Fewest seconds before a range is asked for again the first time; each further time twice as many, up to 30.
    Default: half a second, less after silence."""
    verify: Literal["Identity", "Full"] = "Identity"
    """What is asked of data that is there already before it is used again. `Identity`: that size and modification time
    are those of the file that was verified when it was fetched, and that the source still has that object. `Full`: that
    its bytes, read again, have the checksum too."""

    @model_validator(mode="after")
    def _consistent(self) -> "TransferSettings":
        if self.min_concurrency is not None and self.min_concurrency > self.max_concurrency:
            raise ValueError(
                f"at least {self.min_concurrency} requests at a time (min_concurrency) and at most "
                f"{self.max_concurrency} (max_concurrency) cannot be; change one of them"
            )
        return self


class DownloadConfig(ConfigModel):
    """A whole config file."""

    download_root: Text | None = None
    """Directory that everything lands in (in-place layout)."""
    managed: Managed | None = None
    """Publish by link instead; written by the operator."""
    download_items: Annotated[tuple[DownloadItem, ...], Field(min_length=1)]
    transfer: TransferSettings = TransferSettings()
    capacity_bytes: Annotated[int, Field(ge=0)] | None = None
    """Capacity of the claim, where the file system shows more than the claim may use."""

    @model_validator(mode="after")
    def _one_root(self) -> "DownloadConfig":
        if (self.download_root is None) == (self.managed is None):
            raise ValueError("give exactly one of download_root and managed")
        names = [item.name for item in self.download_items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two download_items are named {twice[0]!r}; give each a name of its own")
        if self.managed is not None and self.managed.shards is not None:
            self._refuse_unpacking_by_shards()
        return self

    def _refuse_unpacking_by_shards(self) -> None:
        """Raise where a shard would unpack archives: none of them sees what the others' archives hold."""
        unpacks = next((item.name for item in self.download_items if item.unpack is not None), None)
        if unpacks is not None:
            raise ValueError(f"{unpacks!r} unpacks archives, which several shards cannot; take out shards or unpack")


__all__ = [
    "AzureBlobItem",
    "BucketItems",
    "ConfigModel",
    "ContainerItems",
    "DownloadConfig",
    "DownloadItem",
    "GCSItem",
    "GitItem",
    "HttpFile",
    "HttpIndex",
    "HttpItem",
    "HuggingFaceItem",
    "Item",
    "LakeFSItem",
    "Managed",
    "Match",
    "S3Item",
    "Selection",
    "Shards",
    "TransferSettings",
    "Unpack",
]
