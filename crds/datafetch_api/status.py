"""What the operator says of a resource: phases, conditions, progress."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, computed_field

from datafetch_api.fields import ApiModel, DnsLabel
from datafetch_api.quantities import format_bytes
from datafetch_api.report import Count


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
    """When a byte arrived last, a file was whole or found to be there, or the fetching began."""

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
    state: Literal["Pending", "Listing", "Fetching", "Complete"] | None = None
    """How far it is, while a download runs."""
    completed_bytes: Count | None = None
    """Bytes of it that are in place, while a download runs."""


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
    source_digest: str | None = None
    """The same of what the sources listed, where that is not all that the manifest says: sizes that came only with the
    bytes, files out of archives. Absent where a listing tells it all."""
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
    key: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """The object of that source it happened to, where it was one."""
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


class DriftStatus(StatusModel):
    """What the last drift check found."""

    check_time: datetime
    """When that was: when the sources had been listed, or could not be."""
    changed: bool = False
    """Whether the sources hold something else than what is published."""
    manifest_digest: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Digest of what the sources hold; see status.artifact, where it is sourceDigest, if there is one, or else
    manifestDigest. Absent where no check could look yet."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """What differs, or why the check failed, in a sentence."""
    failed: bool = False
    """Whether the check could not look: then changed and manifestDigest are of the last one that could."""


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
    drift: DriftStatus | None = None
    """What the last drift check found. Absent where none has run since the data was published."""
    next_drift_check_time: datetime | None = None
    """When the sources are looked at again. Absent where they are not."""
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
