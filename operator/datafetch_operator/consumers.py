"""Pods that ask for data by annotation: whether a gate goes, what a pod's owner is told, and its row in a status. Pure.

`read_consumer` and `read_fetch_state` take the API's JSON as it is: users edit annotations, an older operator wrote the
status, a DataFetch may be gone or another of the same name. `consumer_reconcile` carries decisions out.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from datafetch_api.annotations import PodAnnotation, parse_fetches
from datafetch_api.report import parse_result
from datafetch_api.resource import ConsumerPhase, ConsumersStatus, ConsumerStatus, Phase
from datafetch_operator.observation import Json, Key, Termination, read_time
from datafetch_operator.outcome import container_failure
from datafetch_operator.reasons import BLOCKED, Reason
from datafetch_operator.render.init_container import WAIT_CONTAINER, derived_name, marker
from datafetch_operator.render.labels import CONSUMER_ROLE, FETCH_LABEL_PREFIX, GATE, ROLE_LABEL, fetch_label
from datafetch_operator.status import EventRecord
from datafetch_operator.waiting import PATIENCE

MOST_PODS = 20
"""Pods that stand in `status.consumers` by name."""

_LAST_WORDS = timedelta(minutes=10)
"""How long a pod that failed is still spoken of. It must be less than what the API server keeps events for: an hour."""
_MEMORY_REMEDY = "raise the pod's annotation datafetch.io/memory-limit"
_SENTENCE_LENGTH = 700
_FIRST_SHOWN = (
    ConsumerPhase.FAILED,
    ConsumerPhase.GATED,
    ConsumerPhase.WAITING,
    ConsumerPhase.FETCHING,
    ConsumerPhase.PENDING,
    ConsumerPhase.STARTED,
)
UNSETTLED = frozenset({ConsumerPhase.GATED, ConsumerPhase.WAITING, ConsumerPhase.FAILED})
"""Phases of pods that are told something, or let go, when a DataFetch changes."""


class PodKey(NamedTuple):
    """Which pod."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class InitContainer:
    """One of our init containers in a pod."""

    name: str
    state: Literal["Waiting", "Running", "Done", "Failed"]
    """Waiting for its turn or its image; Failed until kubelet starts it again."""
    started: datetime | None = None
    """When it was started, while it runs."""
    failure: Termination | None = None
    """How it ended last, where that was an error."""
    failed: datetime | None = None
    """When that was."""
    awaited: frozenset[str] = frozenset()
    """The DataFetches that it waits for."""
    result: str = ""
    """Its termination message, where it ended well."""

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.state == "Running"


@dataclass(frozen=True, slots=True)
class ConsumerPod:
    """A pod that asks for data."""

    key: PodKey
    uid: str
    resource_version: str
    fetches: tuple[str, ...]
    """Names of the DataFetches that it asks for."""
    gated: bool
    """Whether it has our scheduling gate."""
    over: bool
    """Whether it has ended or is being deleted: nothing more is done for it."""
    failed: bool
    """Whether it has ended as failed, and is not being deleted: its owner may want to know why."""
    initialized: bool
    """Whether all its init containers have ended well."""
    containers: tuple[InitContainer, ...] = ()
    """Our init containers in it."""

    @property
    def phase(self) -> ConsumerPhase:
        """What became of all its requests together."""
        if self.gated:
            return ConsumerPhase.GATED
        if self.initialized:
            return ConsumerPhase.STARTED
        phases = [_container_phase(container) for container in self.containers]
        return min(phases, key=_FIRST_SHOWN.index, default=ConsumerPhase.PENDING)

    def phase_of(self, fetch: str) -> ConsumerPhase:
        """Return what became of its request for this DataFetch."""
        if self.gated or self.initialized:
            return self.phase
        name = derived_name("get", fetch)
        container = next((c for c in self.containers if c.name == name or fetch in c.awaited), None)
        return ConsumerPhase.PENDING if container is None else _container_phase(container)

    def downloads(self, fetch: str) -> bool:
        """Whether the pod downloads this itself, and carries all it needs for that."""
        return any(container.name == derived_name("get", fetch) for container in self.containers)

    @property
    def done(self) -> frozenset[str]:
        """Names of our containers that ended well."""
        return frozenset(container.name for container in self.containers if container.state == "Done")

    def fetched_bytes(self, containers: frozenset[str]) -> int:
        """Return how many bytes these containers brought, by their own words."""
        results = [parse_result(container.result) for container in self.containers if container.name in containers]
        return sum(max(0, result.completed_bytes - result.reused_bytes) for result in results if result is not None)

    def last_words(self, now: datetime) -> tuple[InitContainer, ...]:
        """Return our containers that it failed by a short while ago; what is older was told when it was new."""
        failures = [c for c in self.containers if self.failed and c.failed is not None and now - c.failed < _LAST_WORDS]
        return tuple(failures)

    def wants_a_look(self, now: datetime) -> bool:
        """Whether there may be something to do for it, or to tell its owner."""
        if self.over:
            return bool(self.last_words(now))
        waits = (c.failure is not None or (c.running and c.awaited) for c in self.containers)
        return self.gated or (not self.initialized and any(waits))


@dataclass(frozen=True, slots=True)
class Consumer:
    """A pod that asks for one DataFetch: all that is kept in memory of it."""

    name: str
    uid: str
    phase: ConsumerPhase


@dataclass(frozen=True, slots=True)
class FetchState:
    """What a pod has to know of a DataFetch."""

    name: str
    ready: bool
    """Whether the data is there; also of a recipe, which each pod downloads for itself."""
    reason: Reason = Reason.WAITING_FOR_DATA
    sentence: str = ""
    """Why the data is not there, without a full stop where something follows."""
    since: str = ""
    """When that began: what is said again later is told again."""


@dataclass(frozen=True, slots=True)
class Telling:
    """An event for the pod's owner."""

    event: EventRecord
    since: str = ""
    failure: str = ""
    """Why a download failed, where that is told."""

    def name(self, pod: ConsumerPod) -> str:
        """Return the event's name: the same for what was told before, also by an operator before this one."""
        text = json.dumps([pod.uid, self.event.reason, self.event.message, self.since])
        return f"{pod.key.name[:200].rstrip('.-')}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class PodDecision:
    """What is to be done for a pod."""

    tell: tuple[Telling, ...] = ()
    open_gate: bool = False
    look_again_seconds: float | None = None
    """When to look again, where no event will say that something changed."""


# --- from the API's JSON ---------------------------------------------------------------------------------------------


def read_consumer(body: Json) -> ConsumerPod | None:
    """Return what the pod's JSON says; None where it is no pod that we were asked to bring data to."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = metadata.get("labels") or {}
    if labels.get(ROLE_LABEL) != CONSUMER_ROLE:
        return None
    phase = status.get("phase") or "Pending"
    states = {each.get("name"): each for each in status.get("initContainerStatuses") or ()}
    ours = [container for container in spec.get("initContainers") or () if marker(container) is not None]
    return ConsumerPod(
        key=PodKey(metadata.get("namespace", ""), metadata["name"]),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        fetches=_fetches(metadata.get("annotations") or {}, labels),
        gated=any(gate.get("name") == GATE for gate in spec.get("schedulingGates") or ()),
        over=phase in ("Succeeded", "Failed") or "deletionTimestamp" in metadata,
        failed=phase == "Failed" and "deletionTimestamp" not in metadata,
        initialized=phase == "Running",
        containers=tuple(_read_container(container, states.get(container["name"]) or {}) for container in ours),
    )


def read_fetch_state(key: Key, body: Json | None) -> FetchState:
    """Return what a pod has to know of the DataFetch; None is one that does not exist."""
    if body is None or "deletionTimestamp" in body["metadata"]:
        sentence = f"There is no DataFetch {key.name!r} in namespace {key.namespace!r}; create it"
        return FetchState(key.name, False, Reason.DATA_NOT_COMING, sentence)
    if not (body.get("spec") or {}).get("target"):
        return FetchState(key.name, True)
    status = body.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    if _truth(conditions, "Ready") == "True":
        return FetchState(key.name, True)
    since = str((conditions.get("Progressing") or {}).get("lastTransitionTime", ""))
    reason, sentence = _why_not_ready(key.name, str(status.get("phase") or ""), conditions)
    return FetchState(key.name, False, reason, sentence[:_SENTENCE_LENGTH], since)


def _fetches(annotations: Mapping[str, str], labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the DataFetches that the pod was admitted for: the labels count, and the annotation knows whole names."""
    keys = [key for key in labels if key.startswith(FETCH_LABEL_PREFIX)]
    try:
        named = [request.name for request in parse_fetches(annotations.get(PodAnnotation.FETCH, ""))] if keys else []
    except ValueError:
        named = []  # Edited since: a label's key is the name, unless that is very long.
    names = {fetch_label(name): name for name in named}
    return tuple(sorted(names.get(key, key.removeprefix(FETCH_LABEL_PREFIX)) for key in keys))


def _read_container(container: Json, status: Json) -> InitContainer:
    name, awaited = container["name"], frozenset[str]()
    if name == WAIT_CONTAINER:
        # Each argument after the command is a directory, "=", and the namespace, name and uid of what has to be there.
        targets = (str(arg).rpartition("=")[2] for arg in (container.get("args") or ())[1:])
        awaited = frozenset(target.partition("@")[0].rpartition("/")[2] for target in targets)
    state, last = status.get("state") or {}, status.get("lastState") or {}
    ended, before = state.get("terminated"), last.get("terminated")
    running = state.get("running")
    if ended is not None and not ended.get("exitCode"):
        return InitContainer(name, "Done", awaited=awaited, result=ended.get("message") or "")
    end = next((end for end in (ended, before) if end and end.get("exitCode")), None)
    found = InitContainer(name, "Failed" if end else "Waiting", awaited=awaited)
    if running is not None:
        found = replace(found, state="Running", started=read_time(running.get("startedAt")))
    if end is None:
        return found
    failure = Termination(end["exitCode"], end.get("reason") or "", end.get("message") or "")
    return replace(found, failure=failure, failed=read_time(end.get("finishedAt")))


def _truth(conditions: Mapping[Any, Json], kind: str) -> str:
    return str((conditions.get(kind) or {}).get("status", ""))


def _why_not_ready(name: str, phase: str, conditions: Mapping[Any, Json]) -> tuple[Reason, str]:
    """Return the reason and sentence for a pod's owner. No numbers: each new sentence is an event on every pod."""
    if _truth(conditions, "Accepted") == "False":
        return Reason.DATA_NOT_COMING, f"DataFetch {name!r} is refused: {_said(conditions, 'Accepted')}"
    if phase == Phase.SUSPENDED:
        return Reason.DATA_NOT_COMING, f"DataFetch {name!r} is suspended; set its spec.suspend to false"
    if phase == Phase.FAILED:
        remedy = "Correct it, or set a new spec.refresh.trigger"
        return Reason.DATA_NOT_COMING, f"DataFetch {name!r} has failed: {_said(conditions, 'Failed')} {remedy}"
    if (conditions.get("Progressing") or {}).get("reason") in BLOCKED:
        return Reason.WAITING_FOR_DATA, f"DataFetch {name!r} waits: {_said(conditions, 'Progressing')}"
    if _truth(conditions, "TargetReady") == "False" and _truth(conditions, "Progressing") == "False":
        return Reason.WAITING_FOR_DATA, f"DataFetch {name!r} waits: {_said(conditions, 'TargetReady')}"
    if not phase:
        return Reason.WAITING_FOR_DATA, f"DataFetch {name!r} is new"
    return Reason.WAITING_FOR_DATA, f"DataFetch {name!r} is {phase}; kubectl get datafetch {name} shows how far it is"


def _said(conditions: Mapping[Any, Json], kind: str) -> str:
    condition = conditions.get(kind) or {}
    return f"{condition.get('reason', '')}: {condition.get('message', '')}"


# --- what follows ----------------------------------------------------------------------------------------------------


def decide_pod(pod: ConsumerPod, fetches: Mapping[str, FetchState], now: datetime) -> PodDecision:
    """Return what is to be done for the pod, given the state of every DataFetch that it asks for."""
    if pod.over:
        return PodDecision(_tell_failures(pod.last_words(now)))
    if pod.gated:
        return _decide_gated(pod, [fetches[name] for name in pod.fetches if not pod.downloads(name)])
    if pod.initialized:
        return PodDecision()
    waits, left = _tell_waits(pod, fetches, now)
    return PodDecision((*_tell_failures(pod.containers), *waits), look_again_seconds=left)


def _decide_gated(pod: ConsumerPod, fetches: list[FetchState]) -> PodDecision:
    missing = [fetch for fetch in fetches if not fetch.ready]
    if missing:
        return PodDecision(tuple(_tell_missing(fetch, "the pod is then scheduled by itself") for fetch in missing))
    if not pod.fetches:
        message = (
            f"The pod has scheduling gate {GATE} and no label that names a DataFetch; remove the gate, or create the "
            f"pod anew with annotation {PodAnnotation.FETCH}."
        )
        return PodDecision((Telling(EventRecord("Warning", Reason.DATA_NOT_COMING, message)),))
    names = ", ".join(repr(name) for name in pod.fetches)
    message = f"What the pod asks for is there ({names}); scheduling gate {GATE} is removed."
    return PodDecision((Telling(EventRecord("Normal", Reason.DATA_READY, message)),), open_gate=True)


def _tell_waits(
    pod: ConsumerPod, fetches: Mapping[str, FetchState], now: datetime
) -> tuple[tuple[Telling, ...], float | None]:
    """Return what to tell of a container that waits, and in how many seconds it has waited long enough for that."""
    container = next((c for c in pod.containers if c.running and c.awaited), None)
    if container is None or container.started is None:
        return (), None
    left = (container.started + PATIENCE - now).total_seconds()
    if left > 0:
        return (), left
    missing = [fetch for name, fetch in fetches.items() if name in container.awaited and not fetch.ready]
    return tuple(_tell_missing(fetch, "the pod then goes on by itself") for fetch in missing), None


def _tell_missing(fetch: FetchState, remark: str) -> Telling:
    kind: Literal["Normal", "Warning"] = "Normal" if fetch.reason is Reason.WAITING_FOR_DATA else "Warning"
    return Telling(EventRecord(kind, fetch.reason, f"{fetch.sentence.rstrip('.')}; {remark}."), fetch.since)


def _tell_failures(containers: Iterable[InitContainer]) -> tuple[Telling, ...]:
    return tuple(_tell_failure(each.name, each.failure) for each in containers if each.failure is not None)


def _tell_failure(container: str, ended: Termination) -> Telling:
    failure = container_failure(ended, memory_remedy=_MEMORY_REMEDY)
    message = f"Init container {container!r} ended with code {ended.exit_code}, {failure.reason}: {failure.message}"
    return Telling(EventRecord("Warning", Reason.DOWNLOAD_FAILED, message), failure=failure.reason)


def _container_phase(container: InitContainer) -> ConsumerPhase:
    match container.state:
        case "Done":
            return ConsumerPhase.STARTED
        case "Failed":
            return ConsumerPhase.FAILED
        case "Running":
            return ConsumerPhase.WAITING if container.awaited else ConsumerPhase.FETCHING
    return ConsumerPhase.PENDING


# --- status.consumers ------------------------------------------------------------------------------------------------


def index_entries(pod: ConsumerPod | None) -> dict[Key, Consumer]:
    """Return what is kept in memory of a pod, by DataFetch; by no name what became of all its requests together."""
    if pod is None or pod.over:
        return {}
    phases = {"": pod.phase, **{name: pod.phase_of(name) for name in pod.fetches}}
    return {Key(pod.key.namespace, name): Consumer(pod.key.name, pod.uid, phase) for name, phase in phases.items()}


def summarize(consumers: Iterable[Consumer], percents: Mapping[str, int | None]) -> ConsumersStatus | None:
    """Return `status.consumers`; None where no pod asks. `percents` are the known ones, by pod."""
    pods = {consumer.name: consumer for consumer in consumers}
    if not pods:
        return None
    shown = heapq.nsmallest(MOST_PODS, pods.values(), key=lambda pod: (_FIRST_SHOWN.index(pod.phase), pod.name))
    return ConsumersStatus(count=len(pods), pods=[_row(pod, percents.get(pod.name)) for pod in shown])


def _row(consumer: Consumer, percent: int | None) -> ConsumerStatus:
    fetching = consumer.phase in (ConsumerPhase.FETCHING, ConsumerPhase.FAILED)
    return ConsumerStatus(name=consumer.name, phase=consumer.phase, percent=percent if fetching else None)
