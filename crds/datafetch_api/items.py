"""The items of the downloader's config: one model for each type of source, and what to take from it. Pure."""

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
    version_id: Text | None = None
    """s3 and azure-blob: the version of the one object. Default: the newest."""
    generation: Annotated[int, Field(ge=1)] | None = None
    """gcs: the generation of the one object. Default: the newest."""
    snapshot: Text | None = None
    """azure-blob: the snapshot of the one blob. Default: the blob itself."""

    @model_validator(mode="after")
    def _versions_are_of_objects(self) -> "Selection":
        for name in ("version_id", "generation", "snapshot"):
            if getattr(self, name) is not None and self.effective_match != "object":
                raise ValueError(f"{name} is of one object: path has to be its whole key, without globs")
        if self.version_id is not None and self.snapshot is not None:
            raise ValueError("give either version_id or snapshot, not both")
        return self

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


class Unpack(ConfigModel):
    """That archives are unpacked, and what one may hold at most."""

    max_bytes: Annotated[int, Field(ge=1)] = 1 << 40
    """Most bytes of all its files."""
    max_files: Annotated[int, Field(ge=1)] = 10_000_000
    """Most files."""
    max_ratio: Annotated[int, Field(ge=1)] = 1000
    """Most bytes of all its files for each byte of the archive."""
    keep_archive: bool = False
    """Whether the archive stays beside its files."""


class Item(ConfigModel):
    """What every download item has."""

    name: Text
    """Name of the task, for logs, errors and the result."""
    credentials_dir: Text | None = None
    """Directory with one file for each credential, as a mounted Secret has."""
    ca_bundle_file: Text | None = None
    """File with certificates of authorities, in PEM, to trust beside the public ones."""
    manifest: Text | None = None
    """Path of a file at the source, relative to its root, that lists its files: only those are taken."""
    max_timestamp_spread: Annotated[int, Field(ge=1)] | None = None
    """Most seconds between the oldest and the newest of the files."""
    unpack: Unpack | None = None
    """Unpack the archives among the files (.zip; .tar, plain or with .gz, .bz2, .xz, .zst), each where it would lie."""


class BucketItems(ConfigModel):
    """Objects of one bucket."""

    bucket: Text
    items: Annotated[tuple[Selection, ...], Field(min_length=1)]


class ContainerItems(ConfigModel):
    """Blobs of one container."""

    container: Text
    items: Annotated[tuple[Selection, ...], Field(min_length=1)]


def _refuse_versions(groups: tuple[BucketItems | ContainerItems, ...], provider: str, *names: str) -> None:
    for name in names:
        if any(getattr(selection, name) is not None for group in groups for selection in group.items):
            raise ValueError(f"{name} means nothing to {provider}; take it out")


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
    requester_pays: bool = False
    """Agree to be billed for the requests and the transfer."""
    profile: Text | None = None
    """Profile of the shared AWS files: those of `credentials_dir` (`config`, `credentials`), else of ~/.aws."""

    @model_validator(mode="after")
    def _consistent(self) -> "S3Item":
        if self.endpoint_url and self.endpoint_url_file:
            raise ValueError("give endpoint_url or endpoint_url_file, not both")
        if bool(self.access_key_id_file) != bool(self.secret_key_file):
            raise ValueError("access_key_id_file and secret_key_file belong together; give both or neither")
        if self.profile and self.access_key_id_file:
            raise ValueError("give profile or access_key_id_file, not both")
        _refuse_versions(self.items, "s3", "generation", "snapshot")
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
    user_project: Text | None = None
    """Project that is billed for the requests and the transfer, as buckets with requester pays ask."""

    @model_validator(mode="after")
    def _consistent(self) -> "GCSItem":
        if self.application_credentials_path and self.application_credentials_file:
            raise ValueError("give application_credentials_path or application_credentials_file, not both")
        _refuse_versions(self.items, "gcs", "version_id", "snapshot")
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

    @model_validator(mode="after")
    def _consistent(self) -> "AzureBlobItem":
        _refuse_versions(self.items, "azure-blob", "generation")
        return self


class RepositoryItem(Item):
    """Files of one repository, at one commit."""

    path: Text = "."
    """Directory, or one file, of the repository that globs are relative to."""
    match: Match | None = None
    files: tuple[Text, ...] | None = None
    """Files or globs to take. Default: the whole repository."""
    exclude: tuple[Text, ...] = ()
    """Globs to leave out."""
    target_path: Text | None = None
    """Where it goes, relative to the root of the download."""

    def select(self, default_target: str) -> Selection:
        """Return the same choice in the terms of the object stores."""
        return Selection(
            path=self.path,
            include=self.files or (),
            exclude=self.exclude,
            target_path=self.target_path or default_target,
            match=self.match,
        )


class HuggingFaceItem(RepositoryItem):
    """Files of one repository on the Hugging Face Hub, at one commit. `target_path` defaults to the repo_id."""

    type: Literal["hf"]
    repo_id: Text
    repo_type: Literal["model", "dataset", "space"] = "model"
    revision: Text = "main"
    token_file: Text | None = None
    endpoint_url: Text | None = None
    layout: Literal["files", "hub-cache"] = "files"
    """How the files are laid out: as in the repository, or as huggingface_hub's cache is, for programs that load the
    repository by its name with HF_HUB_OFFLINE=1 and HF_HUB_CACHE at the directory."""
    formats: Literal["all", "safetensors"] = "all"
    """Which formats of weights are taken: with `safetensors` no pickles and no other framework's copies."""

    @property
    def selection(self) -> Selection:
        """The same choice in the terms of the object stores."""
        return self.select("." if self.layout == "hub-cache" else self.repo_id)


class LakeFSItem(RepositoryItem):
    """Objects of one lakeFS repository. Without credentials, those of lakectl: the environment, ~/.lakectl.yaml."""

    type: Literal["lakefs"]
    repository: Text
    ref: Text = "main"
    """Branch, tag or commit; resolved to a commit before anything is listed."""
    endpoint_url: Text | None = None
    access_key_id_file: Text | None = None
    secret_key_file: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LakeFSItem":
        if bool(self.access_key_id_file) != bool(self.secret_key_file):
            raise ValueError("access_key_id_file and secret_key_file belong together; give both or neither")
        return self

    @property
    def selection(self) -> Selection:
        """The same choice in the terms of the object stores."""
        return self.select(".")


class GitItem(RepositoryItem):
    """Files of one git repository."""

    type: Literal["git"]
    url: Text
    """https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH."""
    revision: Text = "HEAD"
    """Branch, tag or commit; HEAD is the default branch."""
    submodules: bool = False
    """Take the files of submodules too."""
    lfs: bool = True
    """Fetch the files that Git LFS keeps; without it, their pointers are taken."""
    username_file: Text | None = None
    password_file: Text | None = None
    token_file: Text | None = None
    ssh_key_file: Text | None = None
    known_hosts_file: Text | None = None

    @property
    def selection(self) -> Selection:
        """The same choice in the terms of the object stores."""
        return self.select(".")


class HttpFile(ConfigModel):
    """One file at a URL."""

    url: Text
    target_path: Text | None = None
    """The file's path. Default, and where it ends at a slash: the name that the server gives, else the last segment of
    the URL's path."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """What the file's content must have as its sha256."""


class HttpIndex(ConfigModel):
    """A file that lists URLs with their checksums."""

    url: Text
    """The URLs in it may be relative to it."""
    format: Literal["auto", "sha256sum", "json-lines"] = "auto"
    """`sha256sum`: lines of a checksum and a name. `json-lines`: one object a line with `url`, and perhaps `path`,
    `size` and `sha256`. `auto`: by its first character."""
    target_path: Text = "."
    """Directory that the paths in it are relative to."""


class HttpItem(Item):
    """Files at HTTP or HTTPS URLs."""

    type: Literal["http"]
    items: tuple[HttpFile, ...] = ()
    index: HttpIndex | None = None
    include: tuple[Text, ...] = ()
    """Globs of the files to take, by their paths. Default: all."""
    exclude: tuple[Text, ...] = ()
    """Globs of the files to leave out."""
    username_file: Text | None = None
    password_file: Text | None = None
    token_file: Text | None = None
    headers_file: Text | None = None
    """Lines of NAME: VALUE that go with every request to the host of the URL, as some servers ask."""

    @model_validator(mode="after")
    def _consistent(self) -> "HttpItem":
        if bool(self.items) == (self.index is not None):
            raise ValueError("give exactly one of items and index")
        return self


DownloadItem = Annotated[
    S3Item | GCSItem | AzureBlobItem | HuggingFaceItem | LakeFSItem | GitItem | HttpItem,
    Field(discriminator="type"),
]
