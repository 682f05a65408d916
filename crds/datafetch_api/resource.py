"""The `DataFetch` resource, `datafetch.io/v1alpha1`: spec and status, as pydantic models.

The CRD is generated from these models (`make generate`): docstrings become the descriptions that `kubectl explain`
shows, `x-kubernetes-*` entries in `json_schema_extra` become list types and CEL rules. Rules about an optional field
that must not change stand on its parent: a rule on the field itself does not see its removal. What a rule says about
one object without its past, the models check too: `datafetch run` reads resources that no API server has seen.
"""

import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from datafetch_api.fields import (
    ATOMIC,
    DNS_LABEL_PATTERN,
    DNS_SUBDOMAIN_PATTERN,
    PATH_PATTERN,
    ApiModel,
    Bytes,
    DnsSubdomain,
    Duration,
    OpenObject,
    RelativePath,
    rule,
    rules,
)
from datafetch_api.sources import (
    AzureBlobSource,
    CaBundle,
    GCSSource,
    GitSource,
    HttpFileSource,
    HttpIndex,
    HttpSource,
    HuggingFaceSource,
    LakeFSSource,
    S3Source,
    SecretRef,
    Source,
    UnpackLimits,
)
from datafetch_api.status import (
    ArtifactStatus,
    Condition,
    ConditionType,
    ConsumerPhase,
    ConsumersStatus,
    ConsumerStatus,
    DataFetchStatus,
    DriftStatus,
    FailureStatus,
    JobRef,
    Phase,
    ProgressStatus,
    SourceStatus,
    StatusModel,
    TargetStatus,
)

# --- target ----------------------------------------------------------------------------------------------------------

AccessMode = Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]


def _same(field: str) -> str:
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


class ClaimTemplate(ApiModel):
    """The claim to create where none of that name exists. A claim that exists is used as it is."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(_same("storageClassName"), "storageClassName cannot be changed", fieldPath=".storageClassName"),
            rule("self.accessModes == oldSelf.accessModes", "accessModes cannot be changed"),
            rule("quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0", "size may only grow"),
        )
    )

    size: Bytes
    """Size to ask for, for example 200Gi. It may grow later, where the storage class allows it."""
    storage_class_name: DnsSubdomain | None = None
    """Storage class. Default: the cluster's default class."""
    access_modes: Annotated[list[AccessMode], Field(min_length=1, max_length=4, json_schema_extra=ATOMIC)] = [
        "ReadWriteOnce"
    ]
    """How the volume can be mounted. ReadWriteMany lets pods on every node use it."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """Delete: the created claim goes when the DataFetch goes. Retain: it stays."""


class PersistentVolumeClaimTarget(ApiModel):
    """The claim that the data is written to."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("self.claimName == oldSelf.claimName", "claimName cannot be changed"),
            rule("has(self.create) == has(oldSelf.create)", "create cannot be added or removed"),
        )
    )

    claim_name: DnsSubdomain
    """Name of a PersistentVolumeClaim in the namespace of the DataFetch."""
    create: ClaimTemplate | None = None
    """Create the claim if it does not exist."""


class Target(ApiModel):
    """The volume and the directory on it that the data goes to."""

    model_config = ConfigDict(json_schema_extra=rules(rule(_same("path"), "path cannot be changed", fieldPath=".path")))

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


_NOT_OURS = rule("self.all(k, !k.startsWith('datafetch.io/'))", "keys under datafetch.io/ are reserved")
Metadata = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=4096)]],
    Field(max_length=32, json_schema_extra=rules(_NOT_OURS)),
]


class JobTemplate(ApiModel):
    """What the download Job and its pods look like."""

    resources: Resources | None = None
    """Requests and limits of the download container. Default: the chart's."""
    node_selector: Annotated[dict[str, Annotated[str, StringConstraints(max_length=63)]], Field(max_length=32)] = {}
    """Labels of the nodes to run on."""
    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=ATOMIC)] = []
    """Taints to tolerate."""
    affinity: OpenObject | None = None
    """Affinity of the pod, as in a pod."""
    service_account_name: DnsSubdomain | None = None
    """Service account of the pod: its cloud identity is used where a source has no secretRef."""
    priority_class_name: DnsSubdomain | None = None
    """Priority class of the pod."""
    pod_security_context: OpenObject | None = None
    """Replaces the pod's security context (uid, gid and fsGroup 65532)."""
    image_pull_secrets: Annotated[list[ImagePullSecret], Field(max_length=16, json_schema_extra=ATOMIC)] = []
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
    shards: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many pods share the files of one fetch among them. Default: 1. More need a claim that is ReadWriteMany."""
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
_SCHEDULE = rule(
    f"self.matches('{_SCHEDULE_PATTERN}')",
    "must be minute, hour, day of month, month and day of week, for example '0 3 * * *', or @hourly, @daily, @weekly, "
    "@monthly or @yearly",
)
_ZONE_OF_SCHEDULE = rule(
    "!has(self.timeZone) || has(self.schedule) || has(self.driftCheck)", "timeZone needs a schedule or a driftCheck"
)


def _require_schedule(text: str) -> str:
    if re.fullmatch(_SCHEDULE_PATTERN, text) is None:
        raise ValueError(_SCHEDULE["message"])
    return text


CronSchedule = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(_require_schedule),
    Field(json_schema_extra=rules(_SCHEDULE)),
]


class DriftCheck(ApiModel):
    """When the sources are listed, without fetching anything: whether what is published is still what they hold."""

    schedule: CronSchedule
    """When to look, in cron's five fields or as @daily, in the time zone of the refresh. What was found stands in
    status.drift and in the condition UpToDate."""


class Refresh(ApiModel):
    """When a published fetch is fetched again."""

    model_config = ConfigDict(json_schema_extra=rules(_ZONE_OF_SCHEDULE))

    schedule: CronSchedule | None = None
    """When to look for changes, in cron's five fields or as @daily: what has changed is fetched, also after a failure.
    Each resource comes up to ten minutes later than that, at its own moment. Runs that were missed are one run."""
    time_zone: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", max_length=64)] | None
    ) = None
    """Time zone of the schedule, by its IANA name, for example Europe/Helsinki. Default: UTC."""
    trigger: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Any string, for example a date: each new value starts a fetch, also after a failure."""
    drift_check: DriftCheck | None = None
    """Look whether the sources have changed, on a schedule of its own, and say so in the status."""

    @model_validator(mode="after")
    def _zone_of_schedule(self) -> Self:
        if self.time_zone is not None and self.schedule is None and self.drift_check is None:
            raise ValueError(_ZONE_OF_SCHEDULE["message"])
        return self


# --- the resource ----------------------------------------------------------------------------------------------------


class DataFetchSpec(ApiModel):
    """What to bring, and where to."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.target) == has(oldSelf.target)", "target cannot be added or removed"))
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


__all__ = [
    "DNS_LABEL_PATTERN",
    "DNS_SUBDOMAIN_PATTERN",
    "PATH_PATTERN",
    "AccessMode",
    "ArtifactStatus",
    "AzureBlobSource",
    "CaBundle",
    "ClaimTemplate",
    "Condition",
    "ConditionType",
    "ConsumerPhase",
    "ConsumerStatus",
    "ConsumersStatus",
    "DataFetch",
    "DataFetchSpec",
    "DataFetchStatus",
    "DriftCheck",
    "DriftStatus",
    "EnvVar",
    "FailureStatus",
    "GCSSource",
    "GitSource",
    "HttpFileSource",
    "HttpIndex",
    "HttpSource",
    "HuggingFaceSource",
    "ImagePullSecret",
    "JobRef",
    "JobTemplate",
    "LakeFSSource",
    "ObjectMeta",
    "PersistentVolumeClaimTarget",
    "Phase",
    "ProgressStatus",
    "Refresh",
    "Resources",
    "S3Source",
    "SecretRef",
    "Source",
    "SourceStatus",
    "StatusModel",
    "Target",
    "TargetStatus",
    "Toleration",
    "Transfer",
    "UnpackLimits",
]
