"""What a Job that has not ended is doing, or what it waits for, in one reason and one sentence. Pure.

Container states and conditions say some of it at once. The rest stands only in events (a missing Secret is a
FailedMount event, a full quota a FailedCreate event): those are asked for once something has waited `PATIENCE`.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from datafetch_api.exit_codes import non_retryable
from datafetch_api.quantities import parse_duration
from datafetch_api.report import Progress, Stage
from datafetch_api.resource import Condition, ProgressStatus, Source
from datafetch_operator.observation import Claim, Job, Notice, Observation, Pod
from datafetch_operator.outcome import last_failure, pod_failure
from datafetch_operator.reasons import RUNNING, Reason

PATIENCE = timedelta(seconds=10)
"""How long something may wait before anybody is asked why."""
_ASK_AGAIN_SECONDS = 10
_RARELY_SECONDS = 300
_FIRST_NEWS_SECONDS = 1
_UNTIL_LISTED_SECONDS = 2
_NEWS_SECONDS = 10

_STAGES = {
    Stage.WAITING: Reason.TARGET_LOCKED,
    Stage.LISTING: Reason.LISTING,
    Stage.FETCHING: Reason.FETCHING,
    Stage.PUBLISHING: Reason.PUBLISHING,
}
_CONTAINER_WAITS = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "RegistryUnavailable": Reason.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG_ERROR,
    "CreateContainerError": Reason.CONTAINER_CONFIG_ERROR,
    "RunContainerError": Reason.CONTAINER_CONFIG_ERROR,
}
_POD_EVENTS = {
    "FailedMount": Reason.VOLUME_MOUNT_FAILED,
    "FailedAttachVolume": Reason.VOLUME_ATTACH_FAILED,
    "FailedMapVolume": Reason.VOLUME_MOUNT_FAILED,
    "FailedCreatePodSandBox": Reason.SANDBOX_FAILED,
    "FailedScheduling": Reason.UNSCHEDULABLE,
}
_JOB_EVENTS = (
    (re.compile(r"exceeded quota|must specify (limits|requests)|LimitRange", re.IGNORECASE), Reason.QUOTA_EXCEEDED),
    (re.compile(r"violates PodSecurity"), Reason.POD_SECURITY_VIOLATION),
    (re.compile(r"service ?account .*not found"), Reason.SERVICE_ACCOUNT_NOT_FOUND),
)
_MISSING_SECRET = re.compile(r'secret "([^"]+)" not found')
_MISSING_CONFIG_MAP = re.compile(r'configmap "([^"]+)" not found')
_MISSING_KEY = re.compile(r'volume "authorities-(\d+)" ?: .*non-existent config key: (\S+)')


@dataclass(frozen=True, slots=True)
class Activity:
    """What an unfinished Job is doing."""

    moving: bool
    """False where somebody has to change something before it goes on."""
    reason: Reason
    message: str
    fetching: bool = False
    """Whether the download runs, or ran and will run again: phase Fetching rather than Pending."""
    look_again_seconds: float | None = None
    """When to look again, where no event will say that something changed."""


def watch(seen: Observation, job: Job) -> Activity:
    """Return what the Job is doing."""
    pods = seen.pods_of(job)
    # A pod's phase follows its container's end by a moment.
    live = [pod for pod in pods if not pod.finished and not pod.deleting and pod.termination is None]
    tries = _tries(job, pods)
    if not live:
        return _without_pod(seen, job, pods, tries)
    pod = live[-1]
    if pod.running:
        return _running(seen, pod, tries)
    return _pending(seen, job, pod, tries, is_first=pod is pods[0])


def to_ask(seen: Observation, job: Job) -> tuple[str, ...]:
    """Return the uids of the objects whose events may say why the Job waits; empty where it has not waited long."""
    pods = [pod for pod in seen.pods_of(job) if not pod.finished]
    if any(pod.running or pod.termination for pod in pods):
        return ()
    waiting: list[Pod | Job] = [pods[-1]] if pods else [job] if not seen.pods_of(job) else []
    uids = [thing.uid for thing in waiting if seen.now - thing.created >= PATIENCE]
    return (*uids, *claim_to_ask(seen.claim, seen.now)) if uids else ()


def claim_to_ask(claim: Claim | None, now: datetime) -> tuple[str, ...]:
    """Return the claim's uid where it has been pending for long."""
    long_pending = claim is not None and claim.phase == "Pending" and now - claim.created >= PATIENCE
    return (claim.uid,) if claim is not None and long_pending else ()


def pod_with_news(seen: Observation, job: Job) -> Pod | None:
    """Return the running pod whose log may hold progress."""
    return next((pod for pod in reversed(seen.pods_of(job)) if pod.running), None)


def ask_again(waited: timedelta, first_seconds: float = _ASK_AGAIN_SECONDS) -> float:
    """Return in how many seconds to ask again: what has waited for long is asked about rarely, hundreds may wait.

    A pod that starts after all says so itself, by its event.
    """
    return min(_RARELY_SECONDS, max(first_seconds, waited.total_seconds() // 6))


def first_news(known: ProgressStatus | Progress | None) -> float | None:
    """Return the pause in seconds between two readings while first lines are awaited; None once the size is known."""
    if known is None:
        return _FIRST_NEWS_SECONDS
    return _UNTIL_LISTED_SECONDS if known.total_bytes is None else None


def is_news(known: ProgressStatus | None, progress: Progress, *, due: bool) -> bool:
    """Return whether progress is worth a write: when it is due, the first, and the first that knows the total."""
    if due or known is None:
        return True
    return known.total_bytes is None and progress.total_bytes is not None


def claim_notice(seen: Observation) -> str | None:
    """Return what the newest event about the claim says."""
    return _newest(seen.notices, seen.claim.uid) if seen.claim else None


def _tries(job: Job, pods: tuple[Pod, ...]) -> str:
    """Return how often it was tried and how the last try ended; empty at the first."""
    found = last_failure(pods)
    if found is None and not job.failed_pods:
        return ""
    end = f"the last ended with {found[1].reason}: {found[1].message}" if found else "the pod of the last was removed."
    return f"Try {_failed(job, pods) + 1} of {job.backoff_limit + 1}: {end}"


def _failed(job: Job, pods: tuple[Pod, ...]) -> int:
    """Return how many pods failed; the Job's own count follows by a moment, and knows of pods that are gone."""
    return max(job.failed_pods, sum(pod_failure(pod) is not None for pod in pods))


def _without_pod(seen: Observation, job: Job, pods: tuple[Pod, ...], tries: str) -> Activity:
    if any(_ends_the_job(pod) for pod in pods) or _failed(job, pods) > job.backoff_limit:
        return Activity(True, Reason.FINISHING, "The download has ended, and its Job is about to.", fetching=True)
    lingering = next((pod for pod in reversed(pods) if pod.deleting and not pod.finished), None)
    if lingering is not None and seen.now - lingering.gone_by >= PATIENCE:
        again = ask_again(seen.now - lingering.gone_by)
        return Activity(False, Reason.POD_NOT_GONE, _not_gone(lingering), fetching=True, look_again_seconds=again)
    if tries:
        return Activity(True, Reason.RETRYING, tries, fetching=True)
    refused = [notice for notice in seen.notices if notice.uid == job.uid and notice.reason == "FailedCreate"]
    if refused and not pods:
        words = max(refused, key=lambda notice: notice.time).message
        message = f"The Job cannot create its pod: {_line(words)}"
        again = ask_again(seen.now - job.created)
        return Activity(False, _creation_reason(words), message, look_again_seconds=again)
    message = f"Job {job.name} was created." if not pods else "The pod is being replaced."
    since = job.created if lingering is None else lingering.gone_by
    return Activity(True, Reason.STARTING, message, bool(pods), _until_patience_ends(seen.now, since))


def _not_gone(pod: Pod) -> str:
    return (
        f"Pod {pod.name} was to be gone by {pod.gone_by:%Y-%m-%d %H:%M:%S} UTC and is not, and only then another one "
        f"starts: node {pod.node!r} does not answer, or its volume cannot be unmounted. Bring the node back; if it is "
        "lost for good, delete it or give it the taint node.kubernetes.io/out-of-service."
    )


def _ends_the_job(pod: Pod) -> bool:
    """Return whether no further pod follows this one: it ended well, or as no retry can mend."""
    ended = pod.termination
    return ended is not None and not pod.disrupted and (ended.exit_code == 0 or ended.exit_code in non_retryable())


def _running(seen: Observation, pod: Pod, tries: str) -> Activity:
    return running_at(seen, f"Pod {pod.name} runs on node {pod.node}." if pod.node else f"Pod {pod.name} runs.", tries)


def running_at(seen: Observation, place: str, tries: str) -> Activity:
    """Return what a running download does, by the last that was heard of it; `place` says where it runs."""
    again = _next_look(seen)
    known = _running_before(seen, place)
    if seen.progress is None and known is not None:
        moving = known.reason != Reason.STALLED
        return Activity(moving, Reason(known.reason), known.message, fetching=True, look_again_seconds=again)
    idle_since = _idle_since(seen)
    if idle_since is not None:
        message = " ".join(part for part in (place, _idle_words(seen, idle_since), tries) if part)
        return Activity(False, Reason.STALLED, message, fetching=True, look_again_seconds=again)
    reason = _STAGES[seen.progress.stage] if seen.progress else Reason.FETCHING
    words = _line(seen.progress.message or "") if seen.progress else ""
    message = " ".join(part for part in (place, words, tries) if part)
    return Activity(True, reason, message, fetching=True, look_again_seconds=again)


def _idle_since(seen: Observation) -> datetime | None:
    """Return since when the download has stood still for longer than it should; None where it has not.

    Its own clock says so, as long as it says anything: clocks may differ. Whether a listing or a verification stands
    still is not known.
    """
    news = seen.progress
    if news is None or news.stage is not Stage.FETCHING or news.last_progress_time is None:
        return None
    if news.total_bytes is None or news.completed_bytes >= news.total_bytes:
        return None
    until = news.time + timedelta(seconds=int(seen.silence))
    patience = timedelta(seconds=max(1, parse_duration(seen.fetch.spec.transfer.stall_timeout)))
    return news.last_progress_time if until - news.last_progress_time >= patience else None


def _idle_words(seen: Observation, since: datetime) -> str:
    return (
        f"Nothing has arrived since {since:%Y-%m-%d %H:%M:%S} UTC, which is longer than spec.transfer.stallTimeout "
        f"({seen.fetch.spec.transfer.stall_timeout}); the download asks again by itself. Look at the source, and at "
        "the network on the way to it."
    )


def _running_before(seen: Observation, place: str) -> Condition | None:
    """Return what was last said of the same running pod: it holds until there is news."""
    for condition in seen.fetch.status.conditions:
        if condition.type == "Progressing" and condition.reason in RUNNING and condition.message.startswith(place):
            return condition
    return None


def _next_look(seen: Observation) -> float:
    if seen.progress_wait is not None:
        return seen.progress_wait
    return first_news(seen.progress or seen.fetch.status.progress) or _NEWS_SECONDS


def _pending(seen: Observation, job: Job, pod: Pod, tries: str, *, is_first: bool) -> Activity:
    blocked = _blocked(seen, pod)
    if blocked is not None:
        reason, message = blocked
        return Activity(False, reason, message, not is_first, ask_again(seen.now - pod.created))
    again = _until_patience_ends(seen.now, pod.created)
    if tries:
        return Activity(True, Reason.RETRYING, tries, not is_first, again)
    message = f"Pod {pod.name} of Job {job.name} is starting."
    return Activity(True, Reason.STARTING, message, not is_first, again)


def _blocked(seen: Observation, pod: Pod) -> tuple[Reason, str] | None:
    reason = _CONTAINER_WAITS.get(pod.waiting_reason)
    if reason is not None:
        return _explained(seen, reason, pod.waiting_message or pod.waiting_reason)
    if seen.now - pod.created < PATIENCE:
        return None
    if pod.unschedulable is not None:
        claim_says = claim_notice(seen)
        because = f" The claim: {claim_says}" if claim_says else ""
        return Reason.UNSCHEDULABLE, f"No node takes the download pod: {_line(pod.unschedulable)}{because}"
    told = [
        notice for notice in seen.notices if notice.uid == pod.uid and notice.warning and notice.reason in _POD_EVENTS
    ]
    if not told:
        return None
    newest = max(told, key=lambda notice: notice.time)
    return _explained(seen, _POD_EVENTS[newest.reason], newest.message)


def _explained(seen: Observation, reason: Reason, words: str) -> tuple[Reason, str]:
    missing = _MISSING_SECRET.search(words)
    if missing is None:
        lacking = _lacking_config_map(seen, words)
        return (Reason.CONFIG_MAP_NOT_FOUND, lacking) if lacking else (reason, _steady(seen, reason, _line(words)))
    name = missing[1]
    users = [source.name for source in seen.fetch.spec.sources if _uses(source, name)]
    source = f" of source {users[0]!r}" if users else ""
    message = (
        f"Secret {name!r}{source} does not exist in namespace {seen.fetch.metadata.namespace!r}; create it, "
        "and the fetch goes on by itself."
    )
    return Reason.SECRET_NOT_FOUND, message


def _lacking_config_map(seen: Observation, words: str) -> str | None:
    """Return what is to be done about a ConfigMap of the user's that is missing, or that lacks a source's key."""
    sources, namespace = seen.fetch.spec.sources, seen.fetch.metadata.namespace
    lacking = _MISSING_KEY.search(words)
    if lacking is not None and int(lacking[1]) < len(sources):
        source = sources[int(lacking[1])]
        name = source.ca_bundle.config_map_name if source.ca_bundle else ""
        return (
            f"ConfigMap {name!r} of source {source.name!r} in namespace {namespace!r} has no key {lacking[2]!r}; add "
            "it, or name another one in caBundle.key"
        )
    missing = _MISSING_CONFIG_MAP.search(words)
    if missing is None:
        return None
    users = [source.name for source in sources if source.ca_bundle and source.ca_bundle.config_map_name == missing[1]]
    if not users:
        return None
    return (
        f"ConfigMap {missing[1]!r} of source {users[0]!r} does not exist in namespace {namespace!r}; create it, and "
        "the fetch goes on by itself."
    )


def _uses(source: Source, secret: str) -> bool:
    return source.secret_ref is not None and source.secret_ref.name == secret


def _steady(seen: Observation, reason: Reason, message: str) -> str:
    """Return the message that already stands for an image that cannot be pulled: kubelet alternates between two."""
    known = (c.message for c in seen.fetch.status.conditions if c.type == "Progressing" and c.reason == reason)
    return next(known, message) if reason is Reason.IMAGE_PULL_FAILED else message


def _creation_reason(message: str) -> Reason:
    return next((reason for pattern, reason in _JOB_EVENTS if pattern.search(message)), Reason.POD_CREATION_FAILED)


def _until_patience_ends(now: datetime, since: datetime) -> float:
    left = (since + PATIENCE - now).total_seconds()
    return left if left > 0 else ask_again(now - since)


def _newest(notices: tuple[Notice, ...], uid: str) -> str | None:
    about = [notice for notice in notices if notice.uid == uid]
    return _line(max(about, key=lambda notice: notice.time).message) if about else None


def _line(text: str) -> str:
    return " ".join(text.split())[:2048]
