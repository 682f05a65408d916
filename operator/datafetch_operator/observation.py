"""What the operator saw: the parts of Kubernetes objects that decisions are made from, as frozen values.

Pure: from the API's JSON to values, no I/O and no judgement. What follows from them is decided in `lifecycle`,
`outcome` and `waiting`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from datafetch_api.report import Progress
from datafetch_api.resource import ConsumersStatus, DataFetch
from datafetch_operator.errors import Action
from datafetch_operator.render.labels import (
    ATTEMPT_ANNOTATION,
    CLAIM_CAPACITY_ANNOTATION,
    CLAIM_UID_ANNOTATION,
    COMPLETION_INDEX_LABEL,
    CONTAINER,
    DRIFT_ROLE,
    GENERATION_ANNOTATION,
    HOSTS_ANNOTATION,
    NODE_ANNOTATION,
    PUBLISHES_ANNOTATION,
    ROLE_LABEL,
    SCHEDULED_ANNOTATION,
    SHARDS_ANNOTATION,
    SPEC_HASH_ANNOTATION,
    TRIGGER_ANNOTATION,
    UID_LABEL,
)

Json = Mapping[str, Any]
EPOCH = datetime.fromtimestamp(0, UTC)


class Key(NamedTuple):
    """Which DataFetch."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Claimant:
    """A DataFetch and the directory that it wants on a claim; empty for a recipe."""

    key: Key
    uid: str
    created: str
    """Creation timestamp as the API writes it, which sorts by time."""
    claim: str
    path: str

    @property
    def seniority(self) -> tuple[str, str]:
        """The smaller one came first and keeps the directory."""
        return self.created, self.uid


def read_claimant(metadata: Json, spec: Json) -> Claimant:
    """Return what a DataFetch claims, from JSON that may not have been checked by anybody."""
    target = spec.get("target") or {}
    return Claimant(
        key=Key(metadata.get("namespace", ""), metadata.get("name", "")),
        uid=metadata.get("uid", ""),
        created=metadata.get("creationTimestamp") or "",
        claim=(target.get("persistentVolumeClaim") or {}).get("claimName") or "",
        path=target.get("path") or metadata.get("name", ""),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim."""

    name: str
    uid: str
    phase: str
    """Pending, Bound or Lost."""
    created: datetime
    capacity: str | None = None
    """What it got; None before it is bound."""
    requested: str | None = None
    made_for: str = ""
    """The uid of the DataFetch that it was created for; empty for a user's own."""
    deleting: bool = False
    access_modes: tuple[str, ...] = ()
    """How it can be mounted: what it got once it is bound, what it asks for before."""

    @property
    def shared(self) -> bool:
        """Whether pods on several nodes can mount it at a time."""
        return not {"ReadWriteMany", "ReadOnlyMany"}.isdisjoint(self.access_modes)


@dataclass(frozen=True, slots=True)
class Job:
    """A download Job, with what its annotations say it was made for."""

    name: str
    uid: str
    owner_uid: str
    created: datetime
    attempt: int
    spec_hash: str
    trigger: str | None
    claim_uid: str
    generation: int
    backoff_limit: int
    claim_capacity: str | None = None
    """Capacity that the claim had, or asked for, when the Job was made."""
    node: str | None = None
    """The node that its pods are bound to, because a pod there mounts the claim."""
    scheduled: datetime | None = None
    """The run of the schedule that it is for."""
    hosts: tuple[str, ...] = ()
    """The hosts that it brings data from."""
    is_check: bool = False
    """Whether it is no download, but only looks for drift."""
    shards: int = 1
    """How many pods share the download, each with a part of it."""
    publishes: str = ""
    """The Job whose shards have brought what this one publishes; empty where it fetches itself."""
    deleting: bool = False
    failed_pods: int = 0
    finished: Literal["Complete", "Failed"] | None = None
    finish_reason: str = ""
    finish_message: str = ""
    finish_time: datetime = EPOCH


@dataclass(frozen=True, slots=True)
class Termination:
    """How the download container ended."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a download Job."""

    name: str
    uid: str
    job: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    created: datetime
    node: str | None = None
    deleting: bool = False
    gone_by: datetime = EPOCH
    """When a pod that is being deleted was to be gone at the latest."""
    reason: str = ""
    """Why the pod as a whole failed, for example `Evicted`."""
    message: str = ""
    unschedulable: str | None = None
    """The scheduler's words, where it finds no node."""
    disrupted: bool = False
    """Whether it was evicted, preempted or drained: such a pod does not count as failed."""
    waiting_reason: str = ""
    """Why the container waits, for example `ContainerCreating` or `ImagePullBackOff`."""
    waiting_message: str = ""
    termination: Termination | None = None
    index: int = 0
    """Which shard it is of."""

    @property
    def running(self) -> bool:
        """Whether the download container runs."""
        return self.phase == "Running" and self.termination is None and not self.waiting_reason

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen in it."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Mount:
    """An unfinished pod, of anybody, that mounts a claim or is about to."""

    pod: str
    started: datetime
    node: str | None = None
    """None before it is scheduled: it holds nothing yet."""
    fetch_uid: str = ""
    """The DataFetch that it downloads for, where it is a pod of ours."""
    deleting: bool = False
    tolerations: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fetch stands in the queue, where downloads are limited."""

    position: int
    """1 is next."""
    waiting: int
    """How many wait in all."""
    sentence: str
    """What for, and where it stands."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes event about an object that something waits for."""

    uid: str
    """The object's uid."""
    reason: str
    message: str
    warning: bool
    time: datetime


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that one decision is made from."""

    now: datetime
    """Whole seconds: that is what the API keeps of a time."""
    fetch: DataFetch
    claimants: tuple[Claimant, ...] = ()
    """Everybody who wants something on the same claim, this one included."""
    claim: Claim | None = None
    jobs: tuple[Job, ...] = ()
    """All Jobs of this DataFetch that download."""
    checks: tuple[Job, ...] = ()
    """All its Jobs that look for drift."""
    pods: tuple[Pod, ...] = ()
    """All pods of those Jobs, the oldest first."""
    mounts: tuple[Mount, ...] | None = None
    """Who mounts the claim; None where nobody was asked."""
    consumers: ConsumersStatus | None = None
    """The pods that ask for the data."""
    notices: tuple[Notice, ...] = ()
    """Events, asked for only where something has waited."""
    progress: Progress | None = None
    """News from the running downloader; None means no news, not no progress."""
    place: Place | None = None
    """Where it stands in the queue of those that want to start; None where it may."""
    silence: float = 0.0
    """Seconds for which the log has had no newer progress than this."""
    progress_wait: float | None = None
    """Seconds until the progress may be read; None where nobody has said."""
    refusals: Mapping[Action, str] = field(default_factory=dict)
    """What the API server just refused of the last decision, and in which words."""

    def job(self, name: str | None) -> Job | None:
        """Return the Job of that name."""
        return next((job for job in self.jobs if job.name == name), None)

    def publisher(self, job: Job) -> Job | None:
        """Return the Job that publishes what the shards of a Job have brought."""
        return next((other for other in self.jobs if other.publishes == job.name), None)

    def pods_of(self, job: Job) -> tuple[Pod, ...]:
        """Return the Job's pods, the oldest first."""
        return tuple(pod for pod in self.pods if pod.job == job.name)


def with_work(seen: Observation, jobs: Iterable[Job], pods: tuple[Pod, ...]) -> Observation:
    """Return the observation with these Jobs, by what they do, and their pods, the oldest first."""
    jobs = tuple(jobs)
    downloads = tuple(job for job in jobs if not job.is_check)
    return replace(seen, jobs=downloads, checks=tuple(job for job in jobs if job.is_check), pods=pods)


def read_time(text: str | None) -> datetime:
    """Return a metav1.Time as datetime; the epoch where there is none."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else EPOCH


def read_claim(body: Json) -> Claim:
    """Return a claim from its JSON."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return Claim(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase") or "Pending",
        created=read_time(metadata.get("creationTimestamp")),
        capacity=(status.get("capacity") or {}).get("storage"),
        requested=((spec.get("resources") or {}).get("requests") or {}).get("storage"),
        made_for=(metadata.get("labels") or {}).get(UID_LABEL, ""),
        deleting="deletionTimestamp" in metadata,
        access_modes=tuple(status.get("accessModes") or spec.get("accessModes") or ()),
    )


def read_job(body: Json) -> Job:
    """Return a Job from its JSON."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    annotations = metadata.get("annotations") or {}
    end = _job_end(status)
    return Job(
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=_controller(metadata).get("uid", ""),
        created=read_time(metadata.get("creationTimestamp")),
        attempt=_number(annotations.get(ATTEMPT_ANNOTATION)),
        spec_hash=annotations.get(SPEC_HASH_ANNOTATION, ""),
        trigger=annotations.get(TRIGGER_ANNOTATION),
        claim_uid=annotations.get(CLAIM_UID_ANNOTATION, ""),
        claim_capacity=annotations.get(CLAIM_CAPACITY_ANNOTATION) or None,
        node=annotations.get(NODE_ANNOTATION),
        scheduled=_time(annotations.get(SCHEDULED_ANNOTATION)),
        hosts=tuple(filter(None, annotations.get(HOSTS_ANNOTATION, "").split(","))),
        generation=_number(annotations.get(GENERATION_ANNOTATION)),
        backoff_limit=spec.get("backoffLimitPerIndex", spec.get("backoffLimit", 6)),
        shards=_number(annotations.get(SHARDS_ANNOTATION)) or 1,
        publishes=annotations.get(PUBLISHES_ANNOTATION, ""),
        is_check=(metadata.get("labels") or {}).get(ROLE_LABEL) == DRIFT_ROLE,
        deleting="deletionTimestamp" in metadata,
        failed_pods=status.get("failed") or 0,
        finished=end.get("type"),
        finish_reason=end.get("reason") or "",
        finish_message=end.get("message") or "",
        finish_time=read_time(end.get("lastTransitionTime")),
    )


def read_pod(body: Json) -> Pod:
    """Return a pod from its JSON."""
    metadata, status = body["metadata"], body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    stuck = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    state = _container_state(status)
    waiting = state.get("waiting") or {}
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        job=_controller(metadata).get("name", ""),
        phase=status.get("phase") or "Pending",
        created=read_time(metadata.get("creationTimestamp")),
        node=(body.get("spec") or {}).get("nodeName"),
        deleting="deletionTimestamp" in metadata,
        gone_by=read_time(metadata.get("deletionTimestamp")),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        unschedulable=(scheduled.get("message") or "") if stuck else None,
        disrupted=(conditions.get("DisruptionTarget") or {}).get("status") == "True",
        waiting_reason=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        termination=_termination(state),
        index=_number((metadata.get("labels") or {}).get(COMPLETION_INDEX_LABEL)),
    )


def read_pods(bodies: Iterable[Json]) -> tuple[Pod, ...]:
    """Return the pods, the oldest first."""
    return tuple(sorted(map(read_pod, bodies), key=lambda pod: (pod.created, pod.name)))


def read_notice(body: Json) -> Notice:
    """Return a Kubernetes event from its JSON."""
    seen = (body.get("series") or {}).get("lastObservedTime") or body.get("lastTimestamp") or body.get("eventTime")
    return Notice(
        uid=(body.get("involvedObject") or {}).get("uid", ""),
        reason=body.get("reason") or "",
        message=body.get("message") or "",
        warning=body.get("type") == "Warning",
        time=read_time(seen or body["metadata"].get("creationTimestamp")),
    )


def read_mount(body: Json, claim_name: str) -> Mount | None:
    """Return how the pod mounts the claim; None where it does not, or has ended."""
    metadata, spec, status = body["metadata"], body["spec"], body["status"]
    if status.get("phase") in ("Succeeded", "Failed") or not _mounts(body, claim_name):
        return None
    return Mount(
        pod=metadata["name"],
        started=read_time(status.get("startTime") or metadata.get("creationTimestamp")),
        node=spec.get("nodeName"),
        fetch_uid=(metadata.get("labels") or {}).get(UID_LABEL, ""),
        deleting="deletionTimestamp" in metadata,
        tolerations=tuple(spec.get("tolerations") or ()),
    )


def _mounts(pod: Json, claim_name: str) -> bool:
    volumes = pod["spec"].get("volumes") or ()
    return any((volume.get("persistentVolumeClaim") or {}).get("claimName") == claim_name for volume in volumes)


def _controller(metadata: Json) -> Json:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), {})


def _job_end(status: Json) -> Json:
    ends = (c for c in status.get("conditions") or () if c["type"] in ("Complete", "Failed") and c["status"] == "True")
    return next(ends, {})


def _container_state(status: Json) -> Json:
    containers = status.get("containerStatuses") or ()
    return next((c.get("state") or {} for c in containers if c.get("name") == CONTAINER), {})


def _termination(state: Json) -> Termination | None:
    ended = state.get("terminated")
    if ended is None:
        return None
    return Termination(ended.get("exitCode", 0), ended.get("reason") or "", ended.get("message") or "")


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except ValueError:
        return None  # Changed by hand: it is for no run that we know.


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
