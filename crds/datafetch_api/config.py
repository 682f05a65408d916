"""The downloader's config: the YAML file of `datafetch run`, and what the operator renders into a ConfigMap.

A superset of the format of the Kaiwo downloader: `download_root` and `download_items`, each with a `type`, a `name` and
what that type needs. `*_file` keys name files that hold one value; `credentials_dir` names a directory with one file
for each key of a mounted Secret. Relative paths are relative to the working directory.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1)]
Match = Literal["object", "prefix", "auto"]


class ConfigModel(BaseModel):
    """A model of the config file: snake_case keys, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Selection(ConfigModel):
    """Which objects to take, and where to put them.

    With `glob`, `include` or `exclude`, an object lands at `target_path` plus its key relative to `path`; without,
    `path` is one object and `target_path` is the file. `path: .` is the root of the bucket.
    """

    path: Text = "."
    """Key of one object, or the prefix that globs are relative to."""
    glob: Text | None = None
    """Glob of the objects to take; `**` crosses slashes and also matches none, `*` does not cross."""
    include: tuple[Text, ...] = ()
    """More globs, any of which takes an object."""
    exclude: tuple[Text, ...] = ()
    """Globs that leave an object out, whatever took it."""
    target_path: Text = "."
    """Where it goes, relative to the root of the download. Where it ends at a slash, one object lands in it under its
    own name."""
    match: Match | None = None
    """What `path` is: one object, a prefix, or `auto`: the object, and if there is none, the prefix.
    Default: a prefix where there are globs or `path` is `.` or ends at a slash, else an object."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The globs that take objects; empty means all."""
        return (*((self.glob,) if self.glob else ()), *self.include)

    @property
    def effective_match(self) -> Match:
        """What `path` is, decided."""
        if self.match is not None:
            return self.match
        if self.patterns or self.exclude or self.path == "." or self.path.endswith("/"):
            return "prefix"
        return "object"

    @property
    def prefix(self) -> str:
        """`path` as a prefix: empty for the root, else ending at a slash."""
        path = "" if self.path == "." else self.path.removeprefix("./")
        return path if not path or path.endswith("/") else path + "/"


class Item(ConfigModel):
    """What every download item has."""

    name: Text
    """Name of the task, for logs, errors and the result."""
    credentials_dir: Text | None = None
    """Directory with one file for each credential, as a mounted Secret has."""


class BucketItems(ConfigModel):
    """Objects of one bucket."""

    bucket: Text
    items: Annotated[tuple[Selection, ...], Field(min_length=1)]


class ContainerItems(ConfigModel):
    """Blobs of one container."""

    container: Text
    items: Annotated[tuple[Selection, ...], Field(min_length=1)]


class S3Item(Item):
    """Objects on S3 or a compatible server. Without keys, the SDK's own credential chain is used."""

    type: Literal["s3"]
    items: Annotated[tuple[BucketItems, ...], Field(min_length=1)]
    endpoint_url: Text | None = None
    endpoint_url_file: Text | None = None
    access_key_id_file: Text | None = None
    secret_key_file: Text | None = None
    session_token_file: Text | None = None
    region: Text | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    anonymous: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "S3Item":
        if self.endpoint_url and self.endpoint_url_file:
            raise ValueError("give endpoint_url or endpoint_url_file, not both")
        if bool(self.access_key_id_file) != bool(self.secret_key_file):
            raise ValueError("access_key_id_file and secret_key_file belong together; give both or neither")
        return self


class GCSItem(Item):
    """Objects on Google Cloud Storage. Without credentials, application default credentials are used."""

    type: Literal["gcs"]
    items: Annotated[tuple[BucketItems, ...], Field(min_length=1)]
    project: Text | None = None
    application_credentials_path: Text | None = None
    """Service account file. (`application_credentials_file` is the same.)"""
    application_credentials_file: Text | None = None
    endpoint_url: Text | None = None
    anonymous: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "GCSItem":
        if self.application_credentials_path and self.application_credentials_file:
            raise ValueError("give application_credentials_path or application_credentials_file, not both")
        return self


class AzureBlobItem(Item):
    """Blobs on Azure Blob Storage."""

    type: Literal["azure-blob"]
    items: Annotated[tuple[ContainerItems, ...], Field(min_length=1)]
    connection_string_file: Text | None = None
    account: Text | None = None
    endpoint_url: Text | None = None
    account_key_file: Text | None = None
    sas_token_file: Text | None = None
    anonymous: bool = False


class HuggingFaceItem(Item):
    """Files of one repository on the Hugging Face Hub, at one commit."""

    type: Literal["hf"]
    repo_id: Text
    repo_type: Literal["model", "dataset", "space"] = "model"
    revision: Text = "main"
    files: tuple[Text, ...] | None = None
    """Files or globs to take. Default: the whole repository."""
    exclude: tuple[Text, ...] = ()
    """Globs to leave out."""
    path: Text = "."
    """Directory, or one file, of the repository that globs are relative to."""
    match: Match | None = None
    target_path: Text | None = None
    """Where it goes, relative to the root of the download. Default: the repo_id."""
    token_file: Text | None = None
    endpoint_url: Text | None = None

    @property
    def selection(self) -> Selection:
        """The same choice in the terms of the object stores."""
        return Selection(
            path=self.path,
            include=self.files or (),
            exclude=self.exclude,
            target_path=self.target_path or self.repo_id,
            match=self.match,
        )


class HttpFile(ConfigModel):
    """One file at a URL."""

    url: Text
    target_path: Text | None = None
    """The file's path. Default, and where it ends at a slash: the last segment of the URL's path."""


class HttpItem(Item):
    """Files at HTTP or HTTPS URLs."""

    type: Literal["http"]
    items: Annotated[tuple[HttpFile, ...], Field(min_length=1)]
    username_file: Text | None = None
    password_file: Text | None = None
    token_file: Text | None = None


DownloadItem = Annotated[S3Item | GCSItem | AzureBlobItem | HuggingFaceItem | HttpItem, Field(discriminator="type")]


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


class TransferSettings(ConfigModel):
    """How the data is brought; limits are of the whole run."""

    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 256
    """Most open requests at a time."""
    bandwidth_limit: Annotated[int, Field(ge=1)] | None = None
    """Most bytes per second."""
    stall_timeout: Annotated[int, Field(ge=1)] = 60
    """Seconds that a connection may stay silent."""
    verify: Literal["Identity", "Full"] = "Identity"
    """What is asked of data that is there already before it is used again. `Identity`: that size and modification time
    are those of the file that was verified when it was fetched, and that the source still has that object. `Full`: that
    its bytes, read again, have the checksum too."""


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
        return self
