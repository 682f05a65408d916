"""From a step in the life of a DataFetch to its status: phase, conditions, progress; and from two statuses to events.

Pure. Conditions follow metav1: `lastTransitionTime` moves only when `status` does. `lifecycle` says which step it is.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from datafetch_api.quantities import format_bytes, parse_bytes
from datafetch_api.report import Progress, SourceProgress, Stage
from datafetch_api.resource import (
    Condition,
    ConditionType,
    DataFetchStatus,
    ObjectMeta,
    Phase,
    ProgressStatus,
    SourceStatus,
    TargetStatus,
)
from datafetch_api.spec_hash import spec_hash
from datafetch_operator import drift, steps, waiting
from datafetch_operator.budget import is_news
from datafetch_operator.observation import Observation
from datafetch_operator.reasons import BLOCKED, Reason

Truth = Literal["True", "False", "Unknown"]
_POSITION = re.compile(r"; position ([0-9]+) of ")


@dataclass(frozen=True, slots=True)
class Saying:
    """What one condition is to say."""

    truth: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A Kubernetes event to post."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def describe(seen: Observation, status: DataFetchStatus, step: steps.Step) -> DataFetchStatus:
    """Return the whole status at this step; equal to what stands there already where nothing is new."""
    sayings = _sayings(seen, status, step)
    return status.model_copy(
        update={
            "observed_generation": seen.fetch.metadata.generation,
            "phase": _phase(step, sayings),
            "reason": _explanation(step, sayings),
            "progress": _progress(seen, status, step),
            "sources": _sources(seen, status, step),
            "next_sync_time": step.next_sync if isinstance(step, steps.Done | steps.Failed) else None,
            "target": _target(seen, status),
            "consumers": seen.consumers,
            "conditions": _conditions(seen, sayings),
        }
    )


def describe_unreadable(fetch: ObjectMeta, status: DataFetchStatus, problem: str, now: datetime) -> DataFetchStatus:
    """Return the status of a resource whose spec this operator cannot read: the CRD and the operator do not fit."""
    known = _by_type(status).get(ConditionType.ACCEPTED)
    condition = Condition(
        type=ConditionType.ACCEPTED,
        status="False",
        observed_generation=fetch.generation,
        last_transition_time=known.last_transition_time if known and known.status == "False" else now,
        reason=Reason.INVALID_SPEC,
        message=problem,
    )
    others = [other for other in status.conditions if other.type != ConditionType.ACCEPTED]
    return status.model_copy(
        update={
            "observed_generation": fetch.generation,
            "phase": Phase.FAILED,
            "reason": Reason.INVALID_SPEC.value,
            "conditions": [condition, *others],
        }
    )


def events(old: DataFetchStatus, new: DataFetchStatus) -> list[EventRecord]:
    """Return what happened between two statuses; nothing where only the progress moved."""
    found: list[EventRecord] = []
    if new.job_ref and (old.job_ref is None or old.job_ref.name != new.job_ref.name):
        found.append(EventRecord("Normal", Reason.FETCH_STARTED, f"Attempt {new.attempts}: Job {new.job_ref.name}."))
    if new.artifact and new.artifact != old.artifact:
        amount = format_bytes(new.artifact.size_bytes)
        found.append(
            EventRecord("Normal", Reason.FETCH_COMPLETED, f"{amount} in {new.artifact.files} files published.")
        )
    if new.reason == Reason.QUEUED and old.reason != Reason.QUEUED:
        found.append(EventRecord("Normal", Reason.QUEUED, _by_type(new)[ConditionType.PROGRESSING].message))
    if new.phase == Phase.SUSPENDED and old.phase != Phase.SUSPENDED:
        found.append(EventRecord("Normal", Reason.SUSPENDED, "Fetching is suspended; parts stay on the volume."))
    if old.phase == Phase.SUSPENDED and new.phase != Phase.SUSPENDED:
        found.append(EventRecord("Normal", Reason.RESUMED, "Fetching goes on."))
    if new.drift and new.drift.failed and not (old.drift and old.drift.failed):
        found.append(EventRecord("Warning", Reason.DRIFT_CHECK_FAILED, new.drift.message))
    return found + _warnings(old, new)


def _warnings(old: DataFetchStatus, new: DataFetchStatus) -> list[EventRecord]:
    before, after = _by_type(old), _by_type(new)
    found: list[EventRecord] = []
    for kind, condition in after.items():
        known = before.get(kind)
        if known is not None and (known.status, known.reason) == (condition.status, condition.reason):
            continue
        if kind == ConditionType.FAILED and condition.status == "True":
            found.append(EventRecord("Warning", Reason.FETCH_FAILED, f"{condition.reason}: {condition.message}"))
        elif kind == ConditionType.PROGRESSING and condition.reason == Reason.RETRYING:
            found.append(EventRecord("Warning", Reason.FETCH_RETRYING, condition.message))
        elif _asks_somebody(condition):
            found.append(EventRecord("Warning", condition.reason, condition.message))
    return found


def _asks_somebody(condition: Condition) -> bool:
    if condition.reason == Reason.CLAIM_NOT_GROWN:
        return True
    if condition.status == "True":
        return False
    asking = {
        ConditionType.ACCEPTED: {Reason.INVALID_SPEC, Reason.TARGET_CONFLICT},
        ConditionType.READY: {Reason.CLAIM_REPLACED},
        ConditionType.UP_TO_DATE: {Reason.DRIFTED},
        ConditionType.TARGET_READY: {Reason.CLAIM_NOT_FOUND, Reason.CLAIM_REJECTED, Reason.CLAIM_LOST},
        ConditionType.PROGRESSING: BLOCKED,
    }
    return condition.reason in asking.get(ConditionType(condition.type), ())


def _by_type(status: DataFetchStatus) -> dict[str, Condition]:
    known = set(ConditionType)
    return {condition.type: condition for condition in status.conditions if condition.type in known}


# --- conditions ------------------------------------------------------------------------------------------------------


def _sayings(seen: Observation, status: DataFetchStatus, step: steps.Step) -> dict[ConditionType, Saying]:
    if isinstance(step, steps.Recipe):
        message = "A recipe: nothing is downloaded until a pod asks for it."
        return {ConditionType.ACCEPTED: Saying(True, Reason.ACCEPTED, message)}
    return {
        ConditionType.ACCEPTED: _accepted(step),
        ConditionType.TARGET_READY: _target_ready(seen),
        ConditionType.READY: _ready(seen, status),
        ConditionType.UP_TO_DATE: _up_to_date(seen, status),
        ConditionType.PROGRESSING: _progressing(seen, step),
        ConditionType.FAILED: _failed(status, step),
    }


def _accepted(step: steps.Step) -> Saying:
    if isinstance(step, steps.Refused):
        return Saying(False, step.reason, step.message)
    return Saying(True, Reason.ACCEPTED, "The spec can be carried out.")


def _target_ready(seen: Observation) -> Saying:
    name = _claim_name(seen)
    claim = seen.claim
    refused = seen.refusals.get("create claim")
    if refused is not None:
        return Saying(False, Reason.CLAIM_REJECTED, f"Claim {name!r} cannot be created: {refused}")
    if claim is None and _creates_claim(seen):
        return Saying(False, Reason.CLAIM_PENDING, f"Claim {name!r} is created when the fetch starts.")
    if claim is None:
        message = f"There is no claim {name!r} in namespace {seen.fetch.metadata.namespace!r}; create it."
        return Saying(False, Reason.CLAIM_NOT_FOUND, message)
    if claim.deleting:
        return Saying(False, Reason.CLAIM_TERMINATING, f"Claim {name!r} is being deleted.")
    if claim.phase == "Lost":
        return Saying(False, Reason.CLAIM_LOST, f"Claim {name!r} has lost its volume.")
    if claim.phase == "Bound":
        return _not_grown(seen) or Saying(True, Reason.CLAIM_BOUND, f"Claim {name!r} is bound.")
    says = waiting.claim_notice(seen)
    return Saying(False, Reason.CLAIM_PENDING, f"Claim {name!r} is not bound yet." + (f" {says}" if says else ""))


def _not_grown(seen: Observation) -> Saying | None:
    """Return what to say of a claim that the API server does not let grow."""
    wanted = wanted_growth(seen)
    if wanted is None:
        return None
    start = f"Claim {_claim_name(seen)!r} cannot grow to {wanted}: "
    refused = seen.refusals.get("grow claim")
    if refused is not None:
        return Saying(True, Reason.CLAIM_NOT_GROWN, start + refused)
    known = _by_type(seen.fetch.status).get(ConditionType.TARGET_READY)
    still = known is not None and known.message.startswith(start)
    return Saying(True, Reason.CLAIM_NOT_GROWN, known.message) if known is not None and still else None


def _ready(seen: Observation, status: DataFetchStatus) -> Saying:
    artifact = status.artifact
    if artifact is None:
        return Saying(False, Reason.NOT_PUBLISHED, "No complete revision is published yet.")
    if seen.claim is None or seen.claim.uid != artifact.claim_uid:
        message = f"The data was on another claim {_claim_name(seen)!r}, which is gone."
        return Saying(False, Reason.CLAIM_REPLACED, message)
    amount = format_bytes(artifact.size_bytes)
    return Saying(True, Reason.PUBLISHED, f"{amount} in {artifact.files} files are published.")


def _up_to_date(seen: Observation, status: DataFetchStatus) -> Saying:
    ready = _ready(seen, status)
    if not ready.truth or status.artifact is None:
        return ready
    if status.artifact.spec_hash != spec_hash(seen.fetch.spec.sources):
        return Saying(False, Reason.SPEC_CHANGED, "The published revision is of other sources than the spec's.")
    trigger = seen.fetch.spec.refresh.trigger
    if trigger and trigger != status.last_handled_trigger:
        return Saying(False, Reason.TRIGGER_PENDING, f"Trigger {trigger!r} has not been handled yet.")
    if status.drift is not None:
        known = _by_type(seen.fetch.status).get(ConditionType.UP_TO_DATE)
        before = known.message if known is not None and known.reason == Reason.DRIFTED else None
        return Saying(*drift.up_to_date(status.drift, before))
    return Saying(True, Reason.CURRENT, "The published revision is of this spec.")


def _progressing(seen: Observation, step: steps.Step) -> Saying:
    match step:
        case steps.Watch(activity=activity):
            return Saying(activity.moving, activity.reason, activity.message)
        case steps.Start(attempt=attempt):
            return _starting(seen, attempt.name)
        case steps.Queued():
            return _queued(seen, step)
        case steps.AwaitUse(pod=pod):
            message = f"Claim {_claim_name(seen)!r} is ReadWriteOncePod and pod {pod!r} uses it; it goes on after that."
            return Saying(False, Reason.CLAIM_IN_USE, message)
        case steps.Adopt(job=job):
            return Saying(True, Reason.STARTING, f"Job {job.name} is taken up again.")
        case steps.AwaitRemoval(job=job):
            return Saying(True, Reason.STARTING, f"The next attempt follows when Job {job.name} is out of the way.")
        case _:
            return _at_rest(step)


def _at_rest(step: steps.Step) -> Saying:
    match step:
        case steps.Done(next_sync=run):
            message = "Nothing is left to fetch." + (f" The schedule looks again at {_at(run)}." if run else "")
            return Saying(False, Reason.COMPLETED, message)
        case steps.Failed(next_sync=run):
            schedule = f", and the schedule at {_at(run)}" if run else ""
            message = f"A change of the spec or a new trigger starts it again{schedule}."
            return Saying(False, Reason.ATTEMPT_FAILED, message)
        case steps.Suspended():
            return Saying(False, Reason.SUSPENDED, "spec.suspend is set; what was fetched stays on the volume.")
        case steps.Refused():
            return Saying(False, Reason.NOT_ACCEPTED, "The spec cannot be carried out.")
        case _:
            return Saying(False, Reason.TARGET_NOT_READY, "It goes on by itself when the claim is there.")


def _at(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def _starting(seen: Observation, name: str) -> Saying:
    refused = seen.refusals.get("start")
    if refused is not None:
        return Saying(False, Reason.JOB_REJECTED, f"The API server does not take Job {name}: {refused}")
    return _still_rejected(seen, name) or Saying(True, Reason.STARTING, f"Job {name} is being created.")


def _still_rejected(seen: Observation, name: str) -> Saying | None:
    """Return what the API server said of the Job: it is asked again and again, and the status is to stand still."""
    known = _by_type(seen.fetch.status).get(ConditionType.PROGRESSING)
    if known is None or known.reason != Reason.JOB_REJECTED or f" {name}:" not in known.message:
        return None
    return Saying(False, known.reason, known.message)


def _queued(seen: Observation, step: steps.Queued) -> Saying:
    """Return where it stands in the queue; what was told holds until it is much nearer, or much further away."""
    rejected = _still_rejected(seen, step.attempt.name)
    if rejected is not None:
        return rejected
    known = _by_type(seen.fetch.status).get(ConditionType.PROGRESSING)
    told = _POSITION.search(known.message) if known is not None and known.reason == Reason.QUEUED else None
    if known is not None and told is not None and not is_news(step.place.position, int(told[1])):
        return Saying(True, Reason.QUEUED, known.message)
    words = step.place.sentence
    return Saying(True, Reason.QUEUED, f"{words[0].upper()}{words[1:]} at {_at(seen.now)}.")


def _failed(status: DataFetchStatus, step: steps.Step) -> Saying:
    if isinstance(step, steps.Failed) and status.last_failure is not None:
        return Saying(True, status.last_failure.reason, status.last_failure.message)
    if isinstance(step, steps.Refused) and step.reason is Reason.INVALID_SPEC:
        return Saying(True, step.reason, step.message)
    return Saying(False, Reason.NOT_FAILED, "The last attempt has not failed for good.")


def _conditions(seen: Observation, sayings: dict[ConditionType, Saying]) -> list[Condition]:
    before = _by_type(seen.fetch.status)
    conditions = []
    for kind, saying in sayings.items():
        truth: Truth = "True" if saying.truth else "False"
        known = before.get(kind)
        since = known.last_transition_time if known is not None and known.status == truth else seen.now
        conditions.append(
            Condition(
                type=kind,
                status=truth,
                observed_generation=seen.fetch.metadata.generation,
                last_transition_time=since,
                reason=saying.reason,
                message=saying.message,
            )
        )
    return conditions


# --- phase, progress, target -----------------------------------------------------------------------------------------


def _phase(step: steps.Step, sayings: dict[ConditionType, Saying]) -> Phase:
    """Return the one of the step's phases that it is in."""
    if isinstance(step, steps.Refused):
        return Phase.FAILED if step.reason is Reason.INVALID_SPEC else Phase.PENDING
    if len(step.phases) == 1:
        return step.phases[0]
    if sayings[ConditionType.READY].truth:
        return Phase.REFRESHING
    if isinstance(step, steps.Start):
        return Phase.FETCHING if step.attempt.publishes else Phase.PENDING
    fetching = isinstance(step, steps.Watch) and step.activity.fetching
    return Phase.FETCHING if fetching else Phase.PENDING


def _explanation(step: steps.Step, sayings: dict[ConditionType, Saying]) -> str:
    return Reason.RECIPE.value if step.explained_by is None else str(sayings[step.explained_by].reason)


def _progress(seen: Observation, status: DataFetchStatus, step: steps.Step) -> ProgressStatus | None:
    if seen.progress is None or not isinstance(step, steps.Watch):
        return status.progress
    news = seen.progress
    return ProgressStatus(
        percent=news.percent,
        total_bytes=news.total_bytes,
        completed_bytes=news.completed_bytes,
        reused_bytes=news.reused_bytes,
        total_files=news.total_files,
        completed_files=news.completed_files,
        bytes_per_second=news.bytes_per_second,
        estimated_completion_time=_estimate(news),
        last_progress_time=news.last_progress_time and news.last_progress_time.replace(microsecond=0),
    )


def _sources(seen: Observation, status: DataFetchStatus, step: steps.Step) -> list[SourceStatus]:
    """Return what is known of each source, and, while a download runs, how far it is."""
    known = {source.name: source for source in status.sources}
    if not isinstance(step, steps.Watch):
        return [source.model_copy(update={"state": None, "completed_bytes": None}) for source in status.sources]
    if seen.progress is None:
        return status.sources
    told = {source.name: source for source in seen.progress.sources}
    return [
        _far(known.get(source.name) or SourceStatus(name=source.name), told.get(source.name), seen.progress.stage)
        for source in seen.fetch.spec.sources
    ]


def _far(known: SourceStatus, told: SourceProgress | None, stage: Stage) -> SourceStatus:
    if told is not None:
        return known.model_copy(update={"state": told.state, "completed_bytes": told.completed_bytes})
    # Nothing is told of a source before its listing brings something.
    state = "Pending" if stage is Stage.WAITING else "Listing"
    return known.model_copy(update={"state": state, "completed_bytes": None})


def _estimate(news: Progress) -> datetime | None:
    if news.total_bytes is None or not news.bytes_per_second:
        return None
    left = max(0, news.total_bytes - news.completed_bytes)
    return news.time.replace(microsecond=0) + timedelta(seconds=-(-left // news.bytes_per_second))


def _target(seen: Observation, status: DataFetchStatus) -> TargetStatus | None:
    target = seen.fetch.spec.target
    if target is None:
        return None
    known = status.target
    return TargetStatus(
        claim_name=target.persistent_volume_claim.claim_name,
        path=target.path or seen.fetch.metadata.name,
        capacity=seen.claim.capacity if seen.claim else None,
        publication=known.publication if known else None,
    )


def wanted_growth(seen: Observation) -> str | None:
    """Return the size that a claim that was created for this DataFetch is to have and has not asked for yet."""
    target, claim = seen.fetch.spec.target, seen.claim
    template = target.persistent_volume_claim.create if target else None
    if template is None or claim is None or claim.deleting or claim.phase != "Bound":
        return None
    if claim.made_for != seen.fetch.metadata.uid or size(template.size) <= size(claim.requested):
        return None
    return template.size


def size(quantity: str | None) -> int:
    """Return the bytes of a quantity; 0 for none, and for one in a form that sizes are not written in."""
    try:
        return parse_bytes(quantity) if quantity else 0
    except ValueError:
        return 0


def _creates_claim(seen: Observation) -> bool:
    target = seen.fetch.spec.target
    return target is not None and target.persistent_volume_claim.create is not None


def _claim_name(seen: Observation) -> str:
    return seen.fetch.spec.target.persistent_volume_claim.claim_name if seen.fetch.spec.target else ""
