"""Where a resource's data comes from: one member for each provider, and the source around it.

A field that is added to a model that has been released has no default of its own, but None: the API server would fill
in the default at once, and an operator of the version before knows no such field.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from datafetch_api.fields import (
    ATOMIC,
    PATH_PATTERN,
    ApiModel,
    Bytes,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Glob,
    ObjectKey,
    RelativePath,
    Url,
    default_is,
    require_safe_path,
    rule,
    rules,
)

_KEY_OR_PREFIX = rule("!(has(self.key) && has(self.prefix))", "give either key or prefix, not both")


_VERSION_OR_SNAPSHOT = rule(
    "!(has(self.versionId) && has(self.snapshot))", "give either versionId or snapshot, not both"
)
Version = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", max_length=1024)]


def _one_version(field: str) -> dict[str, str]:
    return rule(f"!has(self.{field}) || has(self.key)", _version_needs_key(field))


def _version_needs_key(field: str) -> str:
    return f"{field} is of one object: it needs key"


def _require_key_or_prefix(key: str | None, prefix: str | None) -> None:
    if key is not None and prefix is not None:
        raise ValueError(_KEY_OR_PREFIX["message"])


def _require_key(field: str, value: object, key: str | None) -> None:
    if value is not None and key is None:
        raise ValueError(_version_needs_key(field))


class SecretRef(ApiModel):
    """A Secret in the namespace of the DataFetch. It is mounted as files and never read by the operator."""

    name: DnsSubdomain
    """Name of the Secret. Its keys are those of docs/reference/credentials.md, among them the SDKs' environment names:
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, key.json, AZURE_STORAGE_CONNECTION_STRING, HF_TOKEN, token."""


class S3Source(ApiModel):
    """Objects of an S3 bucket, on AWS or any compatible server."""

    model_config = ConfigDict(json_schema_extra=rules(_KEY_OR_PREFIX, _one_version("versionId")))

    bucket: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """Name of the bucket."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Everything below this prefix; it ends at a slash. Default: the whole bucket."""
    key: ObjectKey | None = None
    """One object, by its whole key."""
    endpoint: Url | None = None
    """URL of a compatible server, for example https://minio.data.svc. Default: AWS."""
    region: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Region of the bucket. Default: what the SDK finds, else us-east-1."""
    addressing_style: Literal["Auto", "Path", "Virtual"] = "Auto"
    """How the bucket is named in requests. Auto: by path where an endpoint is given, else by host name."""
    anonymous: bool = False
    """Send unsigned requests. Without it, missing credentials are an error."""
    requester_pays: Annotated[bool | None, default_is(False)] = None
    """Agree to be billed for the requests and the transfer, as buckets with requester pays ask. Default: false."""
    version_id: Version | None = None
    """The version of the object that key names. Default: the newest."""
    profile: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Profile of the shared AWS files, which are the keys `config` and `credentials` of the Secret."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        _require_key("versionId", self.version_id, self.key)
        return self


class GCSSource(ApiModel):
    """Objects of a Google Cloud Storage bucket."""

    model_config = ConfigDict(json_schema_extra=rules(_KEY_OR_PREFIX, _one_version("generation")))

    bucket: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    """Name of the bucket."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Everything below this prefix; it ends at a slash. Default: the whole bucket."""
    key: ObjectKey | None = None
    """One object, by its whole name."""
    endpoint: Url | None = None
    """URL of another server with the same API. Default: Google's."""
    anonymous: bool = False
    """Send requests without credentials. Without it, missing credentials are an error."""
    user_project: Annotated[str, StringConstraints(pattern=r"^[a-z0-9:.-]+$", max_length=128)] | None = None
    """Project that is billed for the requests and the transfer, as buckets with requester pays ask."""
    generation: Annotated[int, Field(ge=1)] | None = None
    """The generation of the object that key names. Default: the newest."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        _require_key("generation", self.generation, self.key)
        return self


class AzureBlobSource(ApiModel):
    """Blobs of an Azure Blob Storage container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _KEY_OR_PREFIX, _one_version("versionId"), _one_version("snapshot"), _VERSION_OR_SNAPSHOT
        )
    )

    container: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    """Name of the container."""
    account: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+$", max_length=24)] | None = None
    """Name of the storage account. Not needed where the Secret holds a connection string."""
    endpoint: Url | None = None
    """URL of the account's blob endpoint. Default: the account's own at Azure."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Everything below this prefix; it ends at a slash. Default: the whole container."""
    key: ObjectKey | None = None
    """One blob, by its whole name."""
    anonymous: bool = False
    """Send requests without credentials. Without it, missing credentials are an error."""
    version_id: Version | None = None
    """The version of the blob that key names. Default: the newest."""
    snapshot: Version | None = None
    """The snapshot of the blob that key names, by its time. Default: the blob itself."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        _require_key("versionId", self.version_id, self.key)
        _require_key("snapshot", self.snapshot, self.key)
        if self.version_id is not None and self.snapshot is not None:
            raise ValueError(_VERSION_OR_SNAPSHOT["message"])
        return self


class HuggingFaceSource(ApiModel):
    """Files of a repository on the Hugging Face Hub, always of one commit."""

    model_config = ConfigDict(json_schema_extra=rules(_KEY_OR_PREFIX))

    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=256)]
    """Repository, as ORGANISATION/NAME."""
    repo_type: Literal["Model", "Dataset", "Space"] = "Model"
    """What kind of repository it is."""
    revision: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "main"
    """Branch, tag, commit or refs/pr/N; resolved to a commit, which stands in status.sources."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Only the files below this directory, which ends at a slash. Default: the whole repository."""
    key: ObjectKey | None = None
    """One file, by its path in the repository."""
    endpoint: Url | None = None
    """URL of a mirror. Default: the public Hub."""
    layout: Annotated[Literal["Files", "HubCache"] | None, default_is("Files")] = None
    """How the files are laid out. Files, the default: as in the repository. HubCache: as huggingface_hub's cache, for
    programs that load the repository by its name with HF_HUB_OFFLINE=1 and HF_HUB_CACHE at this directory."""
    formats: Annotated[Literal["All", "Safetensors"] | None, default_is("All")] = None
    """Which formats of weights are taken. Default: All. Safetensors: no pickles and no other framework's copies of the
    weights."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


class LakeFSSource(ApiModel):
    """Objects of a lakeFS repository, always of one commit."""

    model_config = ConfigDict(json_schema_extra=rules(_KEY_OR_PREFIX))

    repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{2,62}$", max_length=63)]
    """Name of the repository."""
    ref: Annotated[str, StringConstraints(pattern=r"^[^\s/]+$", min_length=1, max_length=256)] = "main"
    """Branch, tag or commit, also with ~ or ^; resolved to a commit, which stands in status.sources."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Everything below this prefix; it ends at a slash. Default: the whole repository."""
    key: ObjectKey | None = None
    """One object, by its whole path."""
    endpoint: Url | None = None
    """URL of the lakeFS server. Default: the endpoint in the Secret, else LAKECTL_SERVER_ENDPOINT_URL."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


GIT_URL_PATTERN = r"^(https?://[^/\s@]+/\S+|ssh://([^/\s@:]+@)?[^/\s@]+/\S+|[\w.-]+@[\w.-]+:\S+)$"


class GitSource(ApiModel):
    """Files of a git repository, always of one commit."""

    model_config = ConfigDict(json_schema_extra=rules(_KEY_OR_PREFIX))

    url: Annotated[str, StringConstraints(pattern=GIT_URL_PATTERN, max_length=2048)]
    """URL of the repository: https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH."""
    revision: Annotated[str, StringConstraints(pattern=r"^[^-\s]\S*$", max_length=256)] = "HEAD"
    """Branch, tag or commit; resolved to a commit, which stands in status.sources. Default: the default branch."""
    prefix: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Only the files below this directory, which ends at a slash. Default: the whole repository."""
    key: ObjectKey | None = None
    """One file, by its path in the repository."""
    submodules: bool = False
    """Take the files of submodules too, each at the commit that the repository names."""
    lfs: bool = True
    """Fetch the files that Git LFS keeps. Without it, their pointers are taken."""

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]


class HttpFileSource(ApiModel):
    """One file of several."""

    # No CEL rule on the path: for 16 x 256 of them its cost is beyond what the API server allows for a whole CRD.

    url: Url
    """The URL; without user and password, which belong into the Secret."""
    path: (
        Annotated[
            str,
            StringConstraints(pattern=PATH_PATTERN, min_length=1, max_length=1024),
            AfterValidator(require_safe_path),
        ]
        | None
    ) = None
    """The file's path, relative and without '..'. Default: the name that the server gives, else the last segment of the
    URL's path."""
    sha256: Sha256 | None = None
    """What the file's content must have as its sha256, in lower-case hex."""


class HttpIndex(ApiModel):
    """A file that lists URLs with their checksums."""

    url: Url
    """URL of the index; the URLs in it may be relative to it."""
    format: Literal["Auto", "Sha256Sum", "JsonLines"] = "Auto"
    """Sha256Sum: lines of a checksum and a name, as sha256sum writes them. JsonLines: one object a line with url, and
    perhaps path, size and sha256. Auto: by its first character."""


_HTTP_FORMS = ("url", "files", "index")
_ONE_HTTP_FORM = rule(
    "[" + ", ".join(f"has(self.{form})" for form in _HTTP_FORMS) + "].filter(x, x).size() == 1",
    "exactly one of " + ", ".join(_HTTP_FORMS) + " must be set",
)
_SHA256_OF_URL = rule("!has(self.sha256) || has(self.url)", "sha256 is of one file: it needs url")


class HttpSource(ApiModel):
    """Files at HTTP or HTTPS URLs: one, several, or those that an index lists."""

    model_config = ConfigDict(json_schema_extra=rules(_ONE_HTTP_FORM, _SHA256_OF_URL))

    url: Url | None = None
    """The URL of one file; without user and password, which belong into the Secret."""
    sha256: Sha256 | None = None
    """What the file at url must have as its sha256, in lower-case hex."""
    files: Annotated[list[HttpFileSource], Field(max_length=256, json_schema_extra=ATOMIC)] | None = None
    """Several files, each with its URL."""
    index: HttpIndex | None = None
    """The files that an index lists."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.url, self.files, self.index)) != 1:
            raise ValueError(_ONE_HTTP_FORM["message"])
        if self.sha256 is not None and self.url is None:
            raise ValueError(_SHA256_OF_URL["message"])
        return self


_PROVIDERS = ("s3", "gcs", "azureBlob", "huggingFace", "lakeFS", "git", "http", "uri")
_ONE_PROVIDER = rule(
    "[" + ", ".join(f"has(self.{p})" for p in _PROVIDERS) + "].filter(x, x).size() == 1",
    "exactly one of " + ", ".join(_PROVIDERS) + " must be set",
)
_ONE_FILE = rule(
    "!(has(self.http) && has(self.http.url) || has(self.uri) && self.uri.startsWith('http')) || "
    "!has(self.include) && !has(self.exclude)",
    "one HTTP URL is one file: include and exclude cannot choose from it",
)
_NO_USER_INFO = rule(
    "!self.matches('^[a-z0-9+]+://[^/?#]*@') || self.startsWith('hf://') || self.matches('^git[+]ssh://[^/?#:@]*@')",
    "must not hold a user or password; put them into a Secret and name it in secretRef",
)


def _require_no_user_info(uri: str) -> str:
    # The user of an ssh URL is part of its address, and no secret; a password beside it would be one.
    allowed = uri.startswith("hf://") or re.match(r"git\+ssh://[^/?#:@]*@", uri)
    if re.match(r"[a-z0-9+]+://[^/?#]*@", uri) and not allowed:
        raise ValueError(_NO_USER_INFO["message"])
    return uri


SourceUri = Annotated[
    str,
    StringConstraints(pattern=r"^(s3|gs|az|hf|lakefs|git\+(https?|ssh)|https?)://\S+$", max_length=2048),
    AfterValidator(_require_no_user_info),
    Field(json_schema_extra=rules(_NO_USER_INFO)),
]


class CaBundle(ApiModel):
    """A ConfigMap in the namespace of the DataFetch with certificates of authorities, in PEM."""

    config_map_name: DnsSubdomain
    """Name of the ConfigMap, as trust-manager makes them."""
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = "ca.crt"
    """The key with the certificates."""


class UnpackLimits(ApiModel):
    """What an archive may hold at most; one that holds more fails as UnsafePath."""

    max_bytes: Bytes = "1Ti"
    """Most bytes of all its files."""
    max_files: Annotated[int, Field(ge=1, le=100_000_000)] = 10_000_000
    """Most files."""
    max_ratio: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Most bytes of all its files for each byte of the archive."""


_LIMITS_OF_UNPACK = rule(
    "has(self.unpack) && self.unpack || !has(self.keepArchive) && !has(self.unpackLimits)",
    "keepArchive and unpackLimits need unpack: true",
)


class Source(ApiModel):
    """Where data comes from: exactly one provider member, or a URI."""

    model_config = ConfigDict(json_schema_extra=rules(_ONE_PROVIDER, _ONE_FILE, _LIMITS_OF_UNPACK))

    name: DnsLabel
    """Name of the source, unique in the list; it stands in status, events and errors."""
    path: RelativePath | None = None
    """Directory below the target's path. Default: the target's path itself."""
    include: Annotated[list[Glob], Field(max_length=64, json_schema_extra=ATOMIC)] = []
    """Globs of the files to take, relative to the source's root; ** crosses slashes, * does not. Default: all."""
    exclude: Annotated[list[Glob], Field(max_length=64, json_schema_extra=ATOMIC)] = []
    """Globs of the files to leave out; they win over include."""
    secret_ref: SecretRef | None = None
    """The Secret with this source's credentials. Default: the pod's own identity."""
    ca_bundle: CaBundle | None = None
    """Authorities to trust beside the public ones, for servers with certificates of one's own."""
    manifest: ObjectKey | None = None
    """Path of a file at the source, relative to its root, that lists its files: only those are taken."""
    max_timestamp_spread: Duration | None = None
    """Most time between the oldest and the newest of the files: more says that somebody is still writing them."""
    unpack: Annotated[bool | None, default_is(False)] = None
    """Unpack the archives among the files (.zip; .tar, plain or with .gz, .bz2, .xz, .zst), each where it would lie.
    Default: false."""
    keep_archive: Annotated[bool | None, default_is(False)] = None
    """Whether an archive that is unpacked stays beside its files. Default: it does not."""
    unpack_limits: UnpackLimits | None = None
    """What an archive may hold at most."""
    s3: S3Source | None = None
    gcs: GCSSource | None = None
    azure_blob: AzureBlobSource | None = None
    hugging_face: HuggingFaceSource | None = None
    lake_fs: Annotated[LakeFSSource | None, Field(alias="lakeFS")] = None
    git: GitSource | None = None
    http: HttpSource | None = None
    uri: SourceUri | None = None
    """A source as a URI: s3://BUCKET/PREFIX/, gs://BUCKET/PREFIX/, az://CONTAINER/PREFIX/,
    hf://[datasets/|spaces/]ORG/NAME[@REVISION][/PATH], lakefs://REPOSITORY/REF/PREFIX/,
    git+https://HOST/PATH[@REVISION][#DIRECTORY] or https://HOST/FILE. Without a trailing slash it is that object, and
    if there is none, the prefix."""

    @model_validator(mode="after")
    def _one_provider(self) -> Self:
        objects = (self.s3, self.gcs, self.azure_blob, self.hugging_face, self.lake_fs)
        given = (*objects, self.git, self.http, self.uri)
        if sum(provider is not None for provider in given) != 1:
            raise ValueError(_ONE_PROVIDER["message"])
        one_url = (self.http is not None and self.http.url) or (self.uri or "").startswith("http")
        if one_url and (self.include or self.exclude):
            raise ValueError(_ONE_FILE["message"])
        if not self.unpack and (self.keep_archive is not None or self.unpack_limits is not None):
            raise ValueError(_LIMITS_OF_UNPACK["message"])
        return self
