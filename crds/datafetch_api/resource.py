"""The `DataFetch` resource, `datafetch.io/v1alpha1`: spec and status, as pydantic models.

The CRD is generated from these models (`make generate`): docstrings become the descriptions that `kubectl explain`
shows, `x-kubernetes-*` entries in `json_schema_extra` become list types and CEL rules. Rules about an optional field
that must not change stand on its parent: a rule on the field itself does not see its removal. What a rule says about
one object without its past, the models check too: `datafetch run` reads resources that no API server has seen.
"""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    computed_field,
    model_validator,
)
from pydantic.alias_generators import to_camel

from datafetch_api.quantities import BYTES_PATTERN, DURATION_PATTERN, format_bytes, parse_bytes, parse_duration
from datafetch_api.report import Count


def _rule(rule: str, message: str, **more: str) -> dict[str, str]:
    return {"rule": rule, "message": message, **more}


def _rules(*rules: dict[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schema values
    return {"x-kubernetes-validations": list(rules), **more}


_SAFE_PATH = _rule(
    "!self.startsWith('/') && self.split('/').all(s, s != '' && s != '.' && s != '..' && s != '.datafetch')",
    "must be a relative path without empty, '.', '..' or '.datafetch' segments",
)
_SOME_BYTES = _rule("quantity(string(self)).isGreaterThan(quantity('0'))", "must be more than 0")
_SOME_TIME = _rule("duration(self) > duration('0s')", "must be longer than 0s")


def _require_safe_path(path: str) -> str:
    if any(segment in ("", ".", "..", ".datafetch") for segment in path.split("/")):
        raise ValueError(_SAFE_PATH["message"])
    return path


def _require_some_bytes(text: str) -> str:
    if parse_bytes(text) == 0:
        raise ValueError(_SOME_BYTES["message"])
    return text


def _require_some_time(text: str) -> str:
    if parse_duration(text) == 0:
        raise ValueError(_SOME_TIME["message"])
    return text


def _from_number(value: object) -> object:
    """Return a plain number as a string: it is a quantity too, and YAML reads it as an integer."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_ATOMIC = {"x-kubernetes-list-type": "atomic"}

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DnsLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]
DnsSubdomain = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
PATH_PATTERN = r"^[^\x00-\x1f\x7f]+$"
RelativePath = Annotated[
    str,
    StringConstraints(pattern=PATH_PATTERN, min_length=1, max_length=1024),
    AfterValidator(_require_safe_path),
    Field(json_schema_extra=_rules(_SAFE_PATH)),
]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Bytes = Annotated[
    str,
    StringConstraints(pattern=BYTES_PATTERN, max_length=32),
    BeforeValidator(_from_number),
    AfterValidator(_require_some_bytes),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "pattern": BYTES_PATTERN, "maxLength": 32, **_rules(_SOME_BYTES)}
    ),
]
Duration = Annotated[
    str,
    StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=16),
    AfterValidator(_require_some_time),
    Field(json_schema_extra=_rules(_SOME_TIME)),
]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s@]+(/\S*)?$", max_length=2048)]
ObjectKey = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
OpenObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class ApiModel(BaseModel):
    """A model in the Kubernetes style: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


# --- sources ---------------------------------------------------------------------------------------------------------

_KEY_OR_PREFIX = _rule("!(has(self.key) && has(self.prefix))", "give either key or prefix, not both")


def _require_key_or_prefix(key: str | None, prefix: str | None) -> None:
    if key is not None and prefix is not None:
        raise ValueError(_KEY_OR_PREFIX["message"])


class SecretRef(ApiModel):
    """A Secret in the namespace of the DataFetch. It is mounted as files and never read by the operator."""

    name: DnsSubdomain
    """Name of the Secret. Its keys are those of docs/reference/credentials.md, among them the SDKs' environment names:
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, key.json, AZURE_STORAGE_CONNECTION_STRING, HF_TOKEN, token."""


class S3Source(ApiModel):
    """Objects of an S3 bucket, on AWS or any compatible server."""

    model_config = ConfigDict(json_schema_extra=_rules(_KEY_OR_PREFIX))

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

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


class GCSSource(ApiModel):
    """Objects of a Google Cloud Storage bucket."""

    model_config = ConfigDict(json_schema_extra=_rules(_KEY_OR_PREFIX))

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

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


class AzureBlobSource(ApiModel):
    """Blobs of an Azure Blob Storage container."""

    model_config = ConfigDict(json_schema_extra=_rules(_KEY_OR_PREFIX))

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

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


class HuggingFaceSource(ApiModel):
    """Files of a repository on the Hugging Face Hub, always of one commit."""

    model_config = ConfigDict(json_schema_extra=_rules(_KEY_OR_PREFIX))

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

    @model_validator(mode="after")
    def _key_or_prefix(self) -> Self:
        _require_key_or_prefix(self.key, self.prefix)
        return self


class HttpSource(ApiModel):
    """One file at an HTTP or HTTPS URL."""

    url: Url
    """The URL; without user and password, which belong into the Secret."""


_PROVIDERS = ("s3", "gcs", "azureBlob", "huggingFace", "http", "uri")
_ONE_PROVIDER = _rule(
    "[" + ", ".join(f"has(self.{p})" for p in _PROVIDERS) + "].filter(x, x).size() == 1",
    "exactly one of " + ", ".join(_PROVIDERS) + " must be set",
)
_ONE_FILE = _rule(
    "!(has(self.http) || has(self.uri) && self.uri.startsWith('http')) || !has(self.include) && !has(self.exclude)",
    "an HTTP source is one file: include and exclude cannot choose from it",
)
_NO_USER_INFO = _rule(
    "!self.matches('^[a-z0-9]+://[^/?#]*@') || self.startsWith('hf://')",
    "must not hold a user or password; put them into a Secret and name it in secretRef",
)


def _require_no_user_info(uri: str) -> str:
    if re.match(r"[a-z0-9]+://[^/?#]*@", uri) and not uri.startswith("hf://"):
        raise ValueError(_NO_USER_INFO["message"])
    return uri


SourceUri = Annotated[
    str,
    StringConstraints(pattern=r"^(s3|gs|az|hf|https?)://\S+$", max_length=2048),
    AfterValidator(_require_no_user_info),
    Field(json_schema_extra=_rules(_NO_USER_INFO)),
]


class Source(ApiModel):
    """Where data comes from: exactly one provider member, or a URI."""

    model_config = ConfigDict(json_schema_extra=_rules(_ONE_PROVIDER, _ONE_FILE))

    name: DnsLabel
    """Name of the source, unique in the list; it stands in status, events and errors."""
    path: RelativePath | None = None
    """Directory below the target's path. Default: the target's path itself."""
    include: Annotated[list[Glob], Field(max_length=64, json_schema_extra=_ATOMIC)] = []
    """Globs of the files to take, relative to the source's root; ** crosses slashes, * does not. Default: all."""
    exclude: Annotated[list[Glob], Field(max_length=64, json_schema_extra=_ATOMIC)] = []
    """Globs of the files to leave out; they win over include."""
    secret_ref: SecretRef | None = None
    """The Secret with this source's credentials. Default: the pod's own identity."""
    s3: S3Source | None = None
    gcs: GCSSource | None = None
    azure_blob: AzureBlobSource | None = None
    hugging_face: HuggingFaceSource | None = None
    http: HttpSource | None = None
    uri: SourceUri | None = None
    """A source as a URI: s3://BUCKET/PREFIX/, gs://BUCKET/PREFIX/, az://CONTAINER/PREFIX/,
    hf://[datasets/|spaces/]ORG/NAME[@REVISION][/PATH] or https://HOST/FILE. Without a trailing slash it is that
    object, and if there is none, the prefix."""

    @model_validator(mode="after")
    def _one_provider(self) -> Self:
        given = (self.s3, self.gcs, self.azure_blob, self.hugging_face, self.http, self.uri)
        if sum(provider is not None for provider in given) != 1:
            raise ValueError(_ONE_PROVIDER["message"])
        if (self.http or (self.uri or "").startswith("http")) and (self.include or self.exclude):
            raise ValueError(_ONE_FILE["message"])
        return self


# --- target ----------------------------------------------------------------------------------------------------------

AccessMode = Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]


def _same(field: str) -> str:
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


class ClaimTemplate(ApiModel):
    """The claim to create where none of that name exists. A claim that exists is used as it is."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            _rule(_same("storageClassName"), "storageClassName cannot be changed", fieldPath=".storageClassName"),
            _rule("self.accessModes == oldSelf.accessModes", "accessModes cannot be changed"),
            _rule("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0", "size may only grow"),
        )
    )

    size: Bytes
    """Size to ask for, for example 200Gi. It may grow later, where the storage class allows it."""
    storage_class_name: DnsSubdomain | None = None
    """Storage class. Default: the cluster's default class."""
    access_modes: Annotated[list[AccessMode], Field(min_length=1, max_length=4, json_schema_extra=_ATOMIC)] = [
        "ReadWriteOnce"
    ]
    """How the volume can be mounted. ReadWriteMany lets pods on every node use it."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """Delete: the created claim goes when the DataFetch goes. Retain: it stays."""


class PersistentVolumeClaimTarget(ApiModel):
    """The claim that the data is written to."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            _rule("self.claimName == oldSelf.claimName", "claimName cannot be changed"),
            _rule("has(self.create) == has(oldSelf.create)", "create cannot be added or removed"),
        )
    )

    claim_name: DnsSubdomain
    """Name of a PersistentVolumeClaim in the namespace of the DataFetch."""
    create: ClaimTemplate | None = None
    """Create the claim if it does not exist."""


class Target(ApiModel):
    """The volume and the directory on it that the data goes to."""

    model_config = ConfigDict(
        json_schema_extra=_rules(_rule(_same("path"), "path cannot be changed", fieldPath=".path"))
    )

    persistent_volume_claim: PersistentVolumeClaimTarget
    """The claim that the data is written to."""
    path: RelativePath | None = None
    """Directory on the volume. It belongs to this fetch. Default: the name of the DataFetch."""
    keep_revisions: Annotated[int, Field(ge=0, le=100)] = 1
    """How many replaced revisions stay on the volume after a newer one is published."""


# --- transfer, job, refresh ------------------------------------------------------------------------------------------


class Transfer(ApiModel):
    """How the data is brought."""

    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 256
    """Most requests that are open at a time."""
    bandwidth_limit: Bytes | None = None
    """Most bytes per second of the whole fetch, for example 200Mi. Default: no limit."""
    stall_timeout: Duration = "60s"
    """How long a connection may stay silent before the range is requested again."""
    verify: Literal["Identity", "Full"] = "Identity"
    """What is asked of data that is there already before it is used again. Identity: that it has not been touched since
    it was verified, and is still what the source has. Full: that its bytes, read again, have the checksum too."""


class EnvVar(ApiModel):
    """An environment variable of the download container."""

    name: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$", max_length=256)]
    """Name of the variable. Credentials belong into a Secret named by secretRef."""
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value."""
    value_from: OpenObject | None = None
    """Where its value comes from, as in a pod: configMapKeyRef, secretKeyRef, fieldRef or resourceFieldRef."""


class Toleration(ApiModel):
    """A toleration of the download pod, as in a pod."""

    key: Annotated[str, StringConstraints(max_length=316)] | None = None
    """Taint key to tolerate. Default, with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """How the value is compared. Default: Equal."""
    value: Annotated[str, StringConstraints(max_length=63)] | None = None
    """Taint value to tolerate, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect to tolerate. Default: all."""
    toleration_seconds: int | None = None
    """Seconds that the pod stays on a node with a NoExecute taint. Default: for ever."""


_QUANTITY = {"x-kubernetes-int-or-string": True}
Quantity = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[0-9.]+([mkMGTPE]|[KMGTPE]i)?$", max_length=32)] | int,
    Field(json_schema_extra=_QUANTITY),
]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]


class Resources(ApiModel):
    """Requests and limits of the download container."""

    requests: Quantities = {}
    """What the container is given, for example {cpu: 500m, memory: 256Mi}."""
    limits: Quantities = {}
    """What the container may use at most."""


class ImagePullSecret(ApiModel):
    """A Secret with credentials of an image registry, in the namespace of the DataFetch."""

    name: DnsSubdomain
    """Name of the Secret, of type kubernetes.io/dockerconfigjson."""


_NOT_OURS = _rule("self.all(k, !k.startsWith('datafetch.io/'))", "keys under datafetch.io/ are reserved")
Metadata = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=4096)]],
    Field(max_length=32, json_schema_extra=_rules(_NOT_OURS)),
]


class JobTemplate(ApiModel):
    """What the download Job and its pods look like."""

    resources: Resources | None = None
    """Requests and limits of the download container. Default: the chart's."""
    node_selector: Annotated[dict[str, Annotated[str, StringConstraints(max_length=63)]], Field(max_length=32)] = {}
    """Labels of the nodes to run on."""
    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=_ATOMIC)] = []
    """Taints to tolerate."""
    affinity: OpenObject | None = None
    """Affinity of the pod, as in a pod."""
    service_account_name: DnsSubdomain | None = None
    """Service account of the pod: its cloud identity is used where a source has no secretRef."""
    priority_class_name: DnsSubdomain | None = None
    """Priority class of the pod."""
    pod_security_context: OpenObject | None = None
    """Replaces the pod's security context (uid, gid and fsGroup 65532)."""
    image_pull_secrets: Annotated[list[ImagePullSecret], Field(max_length=16, json_schema_extra=_ATOMIC)] = []
    """Secrets for pulling the downloader's image."""
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []
    """Environment variables of the download container, for example proxies."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 6
    """Retries after failures that a retry can mend. Other failures end the fetch at once."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    """Most seconds that one attempt may take. Default: no limit."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_592_000)] | None = None
    """Seconds after which a finished Job is removed. Default: it stays until the next attempt."""
    labels: Metadata = {}
    """Labels for the Job and its pods."""
    annotations: Metadata = {}
    """Annotations for the Job and its pods."""


_CRON_FIELD = "[0-9A-Za-z*/,#-]+"
_SCHEDULE_PATTERN = f"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|{_CRON_FIELD}( +{_CRON_FIELD}){{4}})$"
_SCHEDULE = _rule(
    f"self.matches('{_SCHEDULE_PATTERN}')",
    "must be minute, hour, day of month, month and day of week, for example '0 3 * * *', or @hourly, @daily, @weekly, "
    "@monthly or @yearly",
)
_ZONE_OF_SCHEDULE = _rule("!has(self.timeZone) || has(self.schedule)", "timeZone needs a schedule")


def _require_schedule(text: str) -> str:
    if re.fullmatch(_SCHEDULE_PATTERN, text) is None:
        raise ValueError(_SCHEDULE["message"])
    return text


class Refresh(ApiModel):
    """When a published fetch is fetched again."""

    model_config = ConfigDict(json_schema_extra=_rules(_ZONE_OF_SCHEDULE))

    schedule: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=128),
            AfterValidator(_require_schedule),
            Field(json_schema_extra=_rules(_SCHEDULE)),
        ]
        | None
    ) = None
    """When to look for changes, in cron's five fields or as @daily: what has changed is fetched, also after a failure.
    Each resource comes up to ten minutes later than that, at its own moment. Runs that were missed are one run."""
    time_zone: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", max_length=64)] | None
    ) = None
    """Time zone of the schedule, by its IANA name, for example Europe/Helsinki. Default: UTC."""
    trigger: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Any string, for example a date: each new value starts a fetch, also after a failure."""

    @model_validator(mode="after")
    def _zone_of_schedule(self) -> Self:
        if self.time_zone is not None and self.schedule is None:
            raise ValueError(_ZONE_OF_SCHEDULE["message"])
        return self


# --- the resource ----------------------------------------------------------------------------------------------------


class DataFetchSpec(ApiModel):
    """What to bring, and where to."""

    model_config = ConfigDict(
        json_schema_extra=_rules(_rule("has(self.target) == has(oldSelf.target)", "target cannot be added or removed"))
    )

    sources: Annotated[
        list[Source],
        Field(
            min_length=1,
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]
    """Where the data comes from."""
    target: Target | None = None
    """Where the data goes. Without a target the resource is a recipe: nothing is downloaded."""
    transfer: Transfer = Transfer()
    """How the data is brought: concurrency, bandwidth, patience. A change does not fetch again."""
    refresh: Refresh = Refresh()
    """When a published fetch is fetched again."""
    job: JobTemplate = JobTemplate()
    """What the download Job and its pods look like. A change does not fetch again."""
    suspend: bool = False
    """Stop fetching; what was fetched stays, and the fetch goes on from there when this is false again."""

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [source.name for source in self.sources]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two sources are named {twice[0]!r}; give each a name of its own")
        return self


class Phase(StrEnum):
    """Where a fetch is in its life."""

    PENDING = "Pending"
    FETCHING = "Fetching"
    READY = "Ready"
    REFRESHING = "Refreshing"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    RECIPE = "Recipe"


class ConditionType(StrEnum):
    """The types of `status.conditions`."""

    READY = "Ready"
    """A complete revision of this resource is published."""
    ACCEPTED = "Accepted"
    """The spec can be carried out."""
    TARGET_READY = "TargetReady"
    """The claim is there and can be used."""
    PROGRESSING = "Progressing"
    """Data is being brought, or is about to be."""
    UP_TO_DATE = "UpToDate"
    """The published revision is of the newest spec."""
    FAILED = "Failed"
    """The last attempt ended and will not be repeated by itself."""


class StatusModel(ApiModel):
    """A part of the status: what an older or newer operator wrote beside it is passed over."""

    model_config = ConfigDict(extra="ignore")


class ProgressStatus(StatusModel):
    """How far the fetch is. Totals and percent are absent until the listing has ended."""

    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Whole percent of the bytes in place; 100 only when all are."""
    total_bytes: Count | None = None
    """Bytes of all files."""
    completed_bytes: Count = 0
    """Bytes in place: fetched now or before, and reused."""
    reused_bytes: Count = 0
    """Bytes that did not have to be fetched: resumed parts and unchanged files."""
    total_files: Count | None = None
    """Number of all files."""
    completed_files: Count = 0
    """Number of files in place."""
    bytes_per_second: Count = 0
    """Bytes that arrive in a second, averaged over the last seconds."""
    estimated_completion_time: datetime | None = None
    """When the last byte will be there, at this speed."""
    last_progress_time: datetime | None = None
    """When a byte arrived last."""

    @computed_field  # type: ignore[prop-decorator] # mypy knows no decorated properties, pydantic does
    @property
    def display(self) -> str:
        """The progress as text, for `kubectl get`: 42%, or the bytes so far where the total is not known yet."""
        return format_bytes(self.completed_bytes) if self.percent is None else f"{self.percent}%"

    @computed_field  # type: ignore[prop-decorator] # as above
    @property
    def speed(self) -> str | None:
        """The speed as text, for `kubectl get -o wide`: 87.2 MiB/s. Absent while nothing arrives."""
        return f"{format_bytes(self.bytes_per_second)}/s" if self.bytes_per_second else None


class SourceStatus(StatusModel):
    """One source, as it was found."""

    name: DnsLabel
    """Name of the source in spec.sources."""
    resolved_revision: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The commit or version that the source's branch or tag stood for."""
    files: Count = 0
    """Number of files that were taken from it."""
    bytes: Count = 0
    """Bytes that were taken from it."""


class TargetStatus(StatusModel):
    """The volume that the data is on."""

    claim_name: str
    """Name of the claim."""
    path: str
    """Directory on the volume."""
    capacity: str | None = None
    """Capacity of the claim."""
    publication: Literal["Link", "InPlace"] | None = None
    """How the data got its name. Link: a symbolic link to a revision, replaced at once. InPlace: file by file."""


class ArtifactStatus(StatusModel):
    """The published revision."""

    spec_hash: str
    """Hash of the sources that were fetched; see spec.sources."""
    manifest_digest: str
    """Digest over path, size and source identity of every file."""
    claim_uid: Annotated[str, Field(alias="claimUID")]
    """The claim that holds it: another claim of the same name holds nothing."""
    size_bytes: Count
    """Bytes of all files."""
    files: Count
    """Number of files."""
    completion_time: datetime
    """When it was published."""


class FailureStatus(StatusModel):
    """The last failure, of this or an earlier attempt."""

    reason: str
    """Reason in CamelCase: one of the exit codes' or the container's."""
    message: str
    """One sentence that says what happened, to which source and key, and what to do."""
    exit_code: int | None = None
    """Exit code of the download container, where it ran."""
    source: str | None = None
    """Name of the source it happened to, where it was one."""
    pod_name: str | None = None
    """The pod it happened in."""
    retryable: bool
    """Whether the same fetch may succeed later without anybody changing anything."""
    attempt: Count = 0
    """Number of the attempt that failed."""
    spec_hash: str
    """Hash of the sources that failed."""
    generation: Count
    """Generation of the spec that failed."""
    trigger: str | None = None
    """The trigger that was being handled."""
    scheduled: datetime | None = None
    """The run of the schedule that was being handled."""
    claim_capacity: str | None = None
    """Capacity of the claim that the attempt reckoned with: after InsufficientSpace, a larger one starts it again."""
    time: datetime
    """When it happened."""


class JobRef(StatusModel):
    """The Job of the current attempt."""

    name: str
    """Name of the Job."""
    uid: str | None = None
    """Its uid, once it exists."""


class ConsumerPhase(StrEnum):
    """What became of a pod's request for data."""

    GATED = "Gated"
    """It is not scheduled before the data is there."""
    PENDING = "Pending"
    """None of its containers that bring the data has started, or it has none and has not started itself."""
    WAITING = "Waiting"
    """It waits in an init container for the data to be published."""
    FETCHING = "Fetching"
    """It downloads the data in an init container."""
    FAILED = "Failed"
    """The init container ended with an error; kubelet tries it again."""
    STARTED = "Started"
    """The data is there, and the pod goes on."""


class ConsumerStatus(StatusModel):
    """A pod that asks for the data."""

    name: str
    """Name of the pod."""
    phase: ConsumerPhase
    """Gated, Pending, Waiting, Fetching, Failed, or Started once the pod has its data."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Whole percent of the bytes in place, where the pod downloads them itself."""


class ConsumersStatus(StatusModel):
    """The pods that ask for the data."""

    count: Count
    """Number of unfinished pods that ask for it."""
    pods: Annotated[
        list[ConsumerStatus],
        Field(
            max_length=20,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []
    """Up to 20 of them, those first that failed or wait."""


class Condition(StatusModel):
    """A condition with the semantics of metav1.Condition."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """Ready, Accepted, TargetReady, Progressing, UpToDate or Failed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: Count
    """Generation of the spec that it was said of."""
    last_transition_time: datetime
    """When status changed last."""
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """Why, in one CamelCase word for programs."""
    message: Annotated[str, StringConstraints(max_length=32768)]
    """Why, in a sentence for people."""


class DataFetchStatus(StatusModel):
    """What became of it."""

    observed_generation: Count | None = None
    """Generation of the spec that this status is of."""
    phase: Phase | None = None
    """Where the fetch is in its life: Pending, Fetching, Ready, Refreshing, Failed, Suspended, or Recipe without a
    target."""
    reason: str | None = None
    """Why it is in this phase: the reason of the condition that explains it."""
    progress: ProgressStatus | None = None
    """How far the current attempt is, or the last one came."""
    sources: Annotated[
        list[SourceStatus],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []
    """The sources, as they were found."""
    target: TargetStatus | None = None
    """The volume that the data is on."""
    artifact: ArtifactStatus | None = None
    """The published revision: it is whole. Absent until there is one."""
    attempts: Count = 0
    """Attempts for the current content, trigger, run of the schedule and claim; each has a Job of its own."""
    last_failure: FailureStatus | None = None
    """The last failure, of this or an earlier attempt."""
    job_ref: JobRef | None = None
    """The Job of the current attempt."""
    consumers: ConsumersStatus | None = None
    """The pods that ask for it by annotation. Absent where none does."""
    last_sync_time: datetime | None = None
    """When the data was last found complete and current."""
    next_sync_time: datetime | None = None
    """When the schedule fetches again. Absent where it does not, or something else has to come first."""
    last_schedule_time: datetime | None = None
    """The run of the schedule that was handled last."""
    last_handled_trigger: str | None = None
    """The value of spec.refresh.trigger that was handled last."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    """What holds of it: Ready, Accepted, TargetReady, Progressing, UpToDate, Failed."""

    @computed_field  # type: ignore[prop-decorator] # mypy knows no decorated properties, pydantic does
    @property
    def size(self) -> str | None:
        """Bytes of all files as text, for `kubectl get`: 1.37 GiB. Absent until known."""
        if self.progress is not None and self.progress.total_bytes is not None:
            return format_bytes(self.progress.total_bytes)
        return format_bytes(self.artifact.size_bytes) if self.artifact else None


class ObjectMeta(StatusModel):
    """The part of an object's metadata that is used here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class DataFetch(ApiModel):
    """A DataFetch brings data from its sources to a volume, completely or not at all."""

    api_version: Literal["datafetch.io/v1alpha1"] = "datafetch.io/v1alpha1"
    kind: Literal["DataFetch"] = "DataFetch"
    metadata: ObjectMeta = ObjectMeta()
    spec: DataFetchSpec
    """What to bring, and where to."""
    status: DataFetchStatus = DataFetchStatus()
    """What became of it; written by the operator."""
