"""The life of a DataFetch as one pure function: `decide`, from what was seen to what is to be done.

Done is decided from `status.artifact`, failed from `status.lastFailure`, never from a Job's presence. Which attempt is
under way says `status.jobRef`: its name is derived from all that the attempt is for, so that a name that fits says
that the attempt does. `reconcile` carries decisions out; `docs/operator.md` draws them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from datafetch_api.exit_codes import ExitCode
from datafetch_api.resource import ConditionType, DataFetch, DataFetchStatus, JobRef
from datafetch_operator import drift, outcome, sharding, steps, waiting
from datafetch_operator.observation import Claim, Job, Mount, Observation
from datafetch_operator.reasons import Reason
from datafetch_operator.render.config_map import Attempt, download_items
from datafetch_operator.render.drift_job import Check
from datafetch_operator.render.labels import Wanted
from datafetch_operator.status import describe, size, wanted_growth
from datafetch_operator.wanted import current_attempt, is_done, is_failed, next_run, schedule_of, wanted_now

_REFUSED_AGAIN_SECONDS = 30
_JOB_GOES_SECONDS = 5
_IN_USE_SECONDS = 30
_LOST_RESULT_MOST_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Removal:
    """A Job and its ConfigMap that are to go."""

    name: str
    job_uid: str | None = None
    """None where the Job is gone already."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, in this order."""

    remove: tuple[Removal, ...] = ()
    create_claim: bool = False
    status: DataFetchStatus | None = None
    """The whole new status; equal to the old one where nothing is to be written."""
    start: Attempt | None = None
    """The attempt whose ConfigMap and Job are to be made. Its number stands in the status before."""
    check: Check | None = None
    """The drift check whose ConfigMap and Job are to be made."""
    step: steps.Step | None = None
    """What all this follows from; None where the resource is being deleted."""
    grow_claim: str | None = None
    """The size that the claim is to ask for."""
    requeue_seconds: float | None = None
    """When to look again, where no event will say that something changed."""


def decide(seen: Observation) -> Decision:
    """Return what follows from what was seen."""
    if seen.fetch.metadata.deletion_timestamp is not None:
        return Decision()  # Owner references take Job and ConfigMap along, whether we look or not.
    recorded = outcome.record(seen)
    step = _next_step(seen, recorded)
    drifted = drift.look(seen, recorded, step)
    new = describe(seen, _count(drifted.status, step), step)
    removals, expires = _removals(seen, new, step)
    creates = isinstance(step, steps.CreateClaim) and "create claim" not in seen.refusals
    return Decision(
        remove=(*removals, *(Removal(name, uid) for name, uid in drifted.remove)),
        create_claim=creates,
        status=None if creates else new,
        step=step,
        start=step.attempt if isinstance(step, steps.Start) and "start" not in seen.refusals else None,
        check=drifted.start,
        grow_claim=None if "grow claim" in seen.refusals else wanted_growth(seen),
        requeue_seconds=sooner(
            sooner(_after_refusal(seen) if seen.refusals else step.look_again_seconds, expires),
            drifted.look_again_seconds,
        ),
    )


def needs_mounts(seen: Observation, decision: Decision) -> bool:
    """Return whether, before this is done, it has to be known who mounts the claim: that lists a namespace's pods."""
    if seen.mounts is not None or seen.claim is None:
        return False
    if decision.start is not None:
        return seen.fetch.status.artifact is not None or not seen.claim.shared
    job = seen.job(seen.fetch.status.job_ref.name) if seen.fetch.status.job_ref else None
    return job is not None and _is_unschedulable(seen, job)


def _next_step(seen: Observation, status: DataFetchStatus) -> steps.Step:
    """Return the answer to the first question that has one; the last has always."""
    case = Case(seen, status)
    answers = (question.ask(case) for question in QUESTIONS)
    return next(answer for answer in answers if answer is not None)


# --- the questions ---------------------------------------------------------------------------------------------------


class Case:
    """What a question is asked of. What follows from the claim is for those that come after it is known to be there."""

    def __init__(self, seen: Observation, status: DataFetchStatus) -> None:
        self.seen = seen
        self.status = status

    @property
    def fetch(self) -> DataFetch:
        """The resource."""
        return self.seen.fetch

    @cached_property
    def claim(self) -> Claim:
        """The claim. Raises LookupError where there is none: whoever asks has to ask for that first."""
        if self.seen.claim is None:
            raise LookupError("no claim: this is asked too early")
        return self.seen.claim

    @cached_property
    def wanted(self) -> Wanted:
        """What is wanted of the fetch now."""
        return wanted_now(self.fetch, self.status, self.claim.uid, self.seen.now)

    @cached_property
    def number(self) -> int:
        """The number of the current attempt; 0 where there is none."""
        return current_attempt(self.fetch, self.status, self.wanted)

    @cached_property
    def attempt(self) -> Attempt:
        """The current attempt, or the first."""
        return Attempt(self.fetch, self.wanted, max(self.number, 1), self.claim)

    @property
    def following(self) -> Attempt:
        """The attempt after it."""
        return Attempt(self.fetch, self.wanted, self.attempt.number + 1, self.claim)

    @cached_property
    def job(self) -> Job | None:
        """The attempt's Job."""
        return self.seen.job(self.attempt.name)


def _has_no_target(case: Case) -> steps.Step | None:
    return steps.Recipe() if case.fetch.spec.target is None else None


def _cannot_be_carried_out(case: Case) -> steps.Step | None:
    problem = _problem(case.seen)
    return None if problem is None else steps.Refused(Reason.INVALID_SPEC, problem)


def _has_an_elder(case: Case) -> steps.Step | None:
    conflict = _conflict(case.seen)
    return None if conflict is None else steps.Refused(Reason.TARGET_CONFLICT, conflict)


def _is_suspended(case: Case) -> steps.Step | None:
    return steps.Suspended() if case.fetch.spec.suspend else None


def _needs_a_claim(case: Case) -> steps.Step | None:
    target = case.fetch.spec.target
    creates = target is not None and target.persistent_volume_claim.create is not None
    return steps.CreateClaim() if creates and case.seen.claim is None else None


def _has_no_claim(case: Case) -> steps.Step | None:
    claim = case.seen.claim
    return steps.AwaitClaim() if claim is None or claim.deleting or claim.phase == "Lost" else None


def _is_published(case: Case) -> steps.Step | None:
    done = is_done(case.status, case.wanted)
    return steps.Done(*_next_sync(case.seen, case.status)) if done else None


def _has_failed(case: Case) -> steps.Step | None:
    failed = case.number and is_failed(case.fetch, case.status, case.wanted)
    over = failed and not _has_grown(case.status, case.claim)
    return steps.Failed(*_next_sync(case.seen, case.status)) if over else None


def _is_on_its_way_out(case: Case) -> steps.Step | None:
    job = case.job
    return steps.AwaitRemoval(job, _JOB_GOES_SECONDS) if job is not None and job.deleting else None


def _has_not_begun(case: Case) -> steps.Step | None:
    if case.number:
        return None
    return _start(case.seen, case.attempt, is_new=True) if case.job is None else steps.Adopt(case.job)


def _was_never_made(case: Case) -> steps.Step | None:
    known = case.status.job_ref is not None and case.status.job_ref.uid is not None
    return None if case.job is not None or known else _start(case.seen, case.attempt, is_new=False)


def _is_lost(case: Case) -> steps.Step | None:
    job = case.job
    if job is not None and job.finished != "Failed" and not _is_stranded(case.seen, job):
        return None
    return _start(case.seen, case.following, is_new=True)


def _has_brought_all_shards(case: Case) -> steps.Step | None:
    job = case.job
    if job is None or job.finished != "Complete" or job.shards == 1:
        return None
    return _publication(case.seen, job, replace(case.attempt, publishes=job.shards), case.following)


def _went_unread(case: Case) -> steps.Step | None:
    job = case.job
    unread = job is not None and job.finished == "Complete"
    return _after_lost_result(case.seen, job, case.following) if job is not None and unread else None


def _is_at_work(case: Case) -> steps.Step | None:
    return None if case.job is None else steps.Watch(case.job, sharding.watch(case.seen, case.job))


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is asked of a fetch at every look. `docs/operator.md` shows all of them, from this table."""

    asks: str
    does: str
    """What is done where the answer is yes."""
    answers: tuple[type[steps.Step], ...]
    """The steps that it may find the fetch at."""
    ask: Callable[[Case], steps.Step | None]


_BEGINS = (steps.Start, steps.AwaitUse, steps.Queued)
QUESTIONS: tuple[Question, ...] = (
    Question("No target?", "nothing: pods that ask download it themselves", (steps.Recipe,), _has_no_target),
    Question(
        "A source, a schedule or shards that cannot be carried out?",
        "Accepted=False, InvalidSpec",
        (steps.Refused,),
        _cannot_be_carried_out,
    ),
    Question(
        "An older DataFetch has the same or a nested path on the claim?",
        "Accepted=False, TargetConflict; its Job goes",
        (steps.Refused,),
        _has_an_elder,
    ),
    Question("`suspend`?", "its Job goes; parts stay on the volume", (steps.Suspended,), _is_suspended),
    Question("No claim, and `create`?", "the claim is created", (steps.CreateClaim,), _needs_a_claim),
    Question(
        "No claim, one on its way out, or one that lost its volume?",
        "wait; the Job goes",
        (steps.AwaitClaim,),
        _has_no_claim,
    ),
    Question(
        "`status.artifact` is of these sources and this claim, no trigger is pending and no scheduled run is due?",
        "nothing until the next run, but perhaps a drift check",
        (steps.Done,),
        _is_published,
    ),
    Question(
        "`status.lastFailure` is of this attempt and generation, and the claim has not grown after InsufficientSpace?",
        "wait for a change, or the next run",
        (steps.Failed,),
        _has_failed,
    ),
    Question(
        "The attempt's Job is on its way out?", "wait until it is gone", (steps.AwaitRemoval,), _is_on_its_way_out
    ),
    Question(
        "No attempt yet for these sources, trigger, run and claim?",
        "count attempt 1, then make its ConfigMap and Job; where a Job is there, the status was lost: take it up",
        (*_BEGINS, steps.Adopt),
        _has_not_begun,
    ),
    Question("The attempt's Job is missing, and never was?", "make it", _BEGINS, _was_never_made),
    Question(
        "The Job vanished, failed at an older generation, or is bound to a node that cannot take its pod and where "
        "no pod mounts the claim any more?",
        "the next attempt",
        _BEGINS,
        _is_lost,
    ),
    Question(
        "All shards are complete?",
        "make the Job that publishes them, and see it to its end",
        (steps.Watch, *_BEGINS, steps.AwaitRemoval),
        _has_brought_all_shards,
    ),
    Question(
        "The Job is complete, but its pods went unread?",
        "the next attempt, after a pause: it finds everything there",
        (steps.AwaitRemoval, *_BEGINS),
        _went_unread,
    ),
    Question("The Job is at work?", "tell what it does or waits for", (steps.Watch,), _is_at_work),
)
"""Asked in this order; the first that is answered with a step decides."""


# --- what the answers need -------------------------------------------------------------------------------------------


def _next_sync(seen: Observation, status: DataFetchStatus) -> tuple[datetime | None, float | None]:
    """Return when the schedule wants the fetch again, and in how many seconds that is."""
    run = next_run(seen.fetch, status)
    return run, None if run is None else (run - seen.now).total_seconds()


def _publication(seen: Observation, job: Job, attempt: Attempt, following: Attempt) -> steps.Step:
    """Return how the Job goes on that publishes what the shards have brought; where there is none, it is made."""
    publisher = seen.publisher(job)
    if publisher is None:
        return _start(seen, attempt, is_new=False)
    if publisher.deleting:
        return steps.AwaitRemoval(publisher, _JOB_GOES_SECONDS)
    if publisher.finished == "Failed":
        return _start(seen, following, is_new=True)
    if publisher.finished == "Complete":
        return _after_lost_result(seen, publisher, following)
    return steps.Watch(job, sharding.watch(seen, job))


def _start(seen: Observation, attempt: Attempt, *, is_new: bool) -> steps.Start | steps.AwaitUse | steps.Queued:
    """Return the start of an attempt: beside the pods that mount the claim, where only one node can have it.

    All attempts start here, and so all that have to wait for their turn wait here.
    """
    holders = _holders(seen, attempt.fetch)
    if holders and "ReadWriteOncePod" in attempt.claim.access_modes:
        return steps.AwaitUse(holders[0].pod, _IN_USE_SECONDS)
    if seen.place is not None and not attempt.publishes:
        return steps.Queued(attempt, seen.place)
    beside = None if attempt.claim.shared else next((holder for holder in holders if not holder.deleting), None)
    oldest = None
    if attempt.fetch.status.artifact is not None:
        # Old revisions may be pruned as far as no running pod can still have them mounted.
        oldest = min((mount.started for mount in seen.mounts or ()), default=seen.now)
    return steps.Start(replace(attempt, prune_replaced_before=oldest, beside=beside), is_new)


def _holders(seen: Observation, fetch: DataFetch) -> list[Mount]:
    """Return the pods that have the claim's volume on their node, the oldest first; our own makes way for the next."""
    mounts = (mount for mount in seen.mounts or () if mount.node and mount.fetch_uid != fetch.metadata.uid)
    return sorted(mounts, key=lambda mount: (mount.started, mount.pod))


def _is_stranded(seen: Observation, job: Job) -> bool:
    """Return whether the Job is bound to a node that cannot take its pod, and that no pod holds the volume on."""
    if seen.mounts is None or not _is_unschedulable(seen, job):
        return False
    return all(holder.deleting or holder.node != job.node for holder in _holders(seen, seen.fetch))


def _is_unschedulable(seen: Observation, job: Job) -> bool:
    """Return whether the Job is bound to a node, and its pod has waited for one for long."""
    pods = [pod for pod in seen.pods_of(job) if not pod.finished and not pod.deleting]
    waited = pods and pods[-1].unschedulable is not None and seen.now - pods[-1].created >= waiting.PATIENCE
    return job.node is not None and job.finished is None and bool(waited)


def _after_lost_result(seen: Observation, job: Job, following: Attempt) -> steps.Step:
    """Return the next attempt, after a pause: the pods went unread, and a further Job finds everything there."""
    pause = timedelta(seconds=min(_LOST_RESULT_MOST_SECONDS, 5 * 2**job.attempt))
    left = (job.finish_time + pause - seen.now).total_seconds()
    return steps.AwaitRemoval(job, left) if left > 0 else _start(seen, following, is_new=True)


def _problem(seen: Observation) -> str | None:
    """Return why the spec cannot be carried out, where it cannot."""
    try:
        download_items(seen.fetch.spec.sources)
        schedule_of(seen.fetch)
        drift.schedule_of(seen.fetch)
    except ValueError as error:
        return " ".join(str(error).split())
    return sharding.refuse(seen)


def _conflict(seen: Observation) -> str | None:
    """Return which older DataFetch has the directory, where one has."""
    this = next((c for c in seen.claimants if c.uid == seen.fetch.metadata.uid), None)
    if this is None:
        return None
    elders = [c for c in seen.claimants if c.seniority < this.seniority and _overlap(c.path, this.path)]
    if not elders:
        return None
    elder = min(elders, key=lambda claimant: claimant.seniority)
    return (
        f"DataFetch {elder.key.name!r} already has path {elder.path!r} on claim {this.claim!r}; "
        f"choose a path that neither contains it nor lies in it, or delete that DataFetch."
    )


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _has_grown(status: DataFetchStatus, claim: Claim) -> bool:
    """Return whether the claim that was too small is larger now."""
    failure = status.last_failure
    if failure is None or failure.reason != ExitCode.INSUFFICIENT_SPACE.reason:
        return False
    return size(claim.capacity) > size(failure.claim_capacity) > 0


def _count(status: DataFetchStatus, step: steps.Step) -> DataFetchStatus:
    """Return the status with the attempt that the step is at."""
    if isinstance(step, steps.Start) and step.is_new:
        attempt = step.attempt
        return status.model_copy(
            update={"attempts": attempt.number, "job_ref": JobRef(name=attempt.name), "progress": None}
        )
    if isinstance(step, steps.Adopt):
        job = step.job
        return status.model_copy(update={"attempts": job.attempt, "job_ref": JobRef(name=job.name, uid=job.uid)})
    if isinstance(step, steps.Watch):
        return status.model_copy(update={"job_ref": JobRef(name=step.job.name, uid=step.job.uid)})
    return status


def _removals(seen: Observation, new: DataFetchStatus, step: steps.Step) -> tuple[tuple[Removal, ...], float | None]:
    """Return what is no longer needed, and in how many seconds the next finished Job is to go."""
    removals: list[Removal] = []
    expires: float | None = None
    current = new.job_ref.name if new.job_ref else None
    for job in seen.jobs:
        if job.owner_uid != seen.fetch.metadata.uid or job.deleting:
            continue
        left = _seconds_to_live(seen, job) if current in (job.name, job.publishes) else 0
        needed = job.finished is not None or isinstance(step, steps.Watch | steps.Adopt)
        if not needed or left <= 0:
            removals.append(Removal(job.name, job.uid))
        elif left < float("inf"):
            expires = sooner(expires, left)
    before = seen.fetch.status.job_ref
    if before is not None and before.name != current and seen.job(before.name) is None:
        removals.append(Removal(before.name))
    return tuple(removals), expires


def _seconds_to_live(seen: Observation, job: Job) -> float:
    """Return how long the current Job may stay: for ever while it runs, its time to live once it has ended."""
    time_to_live = seen.fetch.spec.job.ttl_seconds_after_finished
    if time_to_live is None or job.finished is None or sharding.is_awaited(seen, job):
        return float("inf")
    return (job.finish_time + timedelta(seconds=time_to_live) - seen.now).total_seconds()


def _after_refusal(seen: Observation) -> float:
    """Return in how many seconds to ask the API server again for what it has refused, perhaps for long."""
    kinds = (ConditionType.PROGRESSING, ConditionType.TARGET_READY)
    since = (c.last_transition_time for c in seen.fetch.status.conditions if c.type in kinds and c.status == "False")
    return waiting.ask_again(seen.now - max(since, default=seen.now), _REFUSED_AGAIN_SECONDS)


def sooner(one: float | None, other: float | None) -> float | None:
    """Return the smaller of two numbers of seconds; None is never."""
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)
