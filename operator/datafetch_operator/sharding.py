"""A download that several pods share: what its Indexed Job and the Job that publishes are doing, and how far they are.

Pure. Each shard is looked at like a download of its own, by `waiting`; here their words become one sentence, and their
counters one sum. What follows is decided in `lifecycle`; what failed, in `outcome`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from datafetch_api.report import Progress, Result, SourceProgress, Stage, parse_result
from datafetch_operator import waiting
from datafetch_operator.observation import Job, Observation, Pod
from datafetch_operator.outcome import pod_failure
from datafetch_operator.reasons import RUNNING, Reason
from datafetch_operator.waiting import Activity

_ORDER = [Stage.LISTING, Stage.WAITING, Stage.FETCHING, Stage.PUBLISHING]
"""A fetch is as far as the last of its shards."""
_STATES = ["Pending", "Listing", "Fetching", "Complete"]
_MOST_NAMED = 3
"""Shards that one sentence names."""


def at_work(seen: Observation, job: Job) -> Job:
    """Return the Job whose pods do something now: the one that publishes, once it is there."""
    return (seen.publisher(job) if job.shards > 1 else None) or job


def is_awaited(seen: Observation, job: Job) -> bool:
    """Return whether what the shards have brought is still to be published: until then their Job has to stay."""
    if job.shards == 1 or job.finished != "Complete":
        return False
    publisher = seen.publisher(job)
    return publisher is None or publisher.finished is None


def refuse(seen: Observation) -> str | None:
    """Return why several pods cannot share the download, where they cannot; what runs already may end."""
    template, target, claim = seen.fetch.spec.job, seen.fetch.spec.target, seen.claim
    if template.shards in (None, 1) or target is None or any(job.finished is None for job in seen.jobs):
        return None
    unpacked = next((source.name for source in seen.fetch.spec.sources if source.unpack), None)
    if unpacked is not None:
        return f"Source {unpacked!r} unpacks archives, which one pod has to do; set spec.job.shards to 1."
    create = target.persistent_volume_claim.create
    modes: Sequence[str] = claim.access_modes if claim is not None else create.access_modes if create else ()
    if not modes or "ReadWriteMany" in modes:
        return None
    name = target.persistent_volume_claim.claim_name
    return (
        f"spec.job.shards is {template.shards}, and claim {name!r} is {', '.join(modes)}: only ReadWriteMany can "
        "be written by several pods. Use such a claim, or set spec.job.shards to 1."
    )


# --- what they do ----------------------------------------------------------------------------------------------------


def watch(seen: Observation, job: Job) -> Activity:
    """Return what the Job is doing, or the one that publishes for it."""
    working = at_work(seen, job)
    if working is not job:
        activity = waiting.watch(replace(seen, progress=None, silence=0), working)
        is_running = activity.reason in RUNNING
        return replace(activity, fetching=True, reason=Reason.PUBLISHING if is_running else activity.reason)
    if job.shards == 1:
        return waiting.watch(seen, job)
    pods = by_shard(seen, job)
    running = [shard for shard, of_shard in pods.items() if any(pod.running for pod in of_shard)]
    if running:
        return _running(seen, job, pods, len(running))
    activities = {
        shard: waiting.watch(_alone(seen, job, of_shard), _alone_job(job, of_shard))
        for shard, of_shard in pods.items()
        if not has_ended_well(of_shard)
    }
    if not activities:
        return waiting.watch(seen, job)
    # Who is blocked first: that is what somebody has to do something about.
    shard, activity = min(activities.items(), key=lambda item: (item[1].moving, not item[1].fetching, item[0]))
    again = min((a.look_again_seconds for a in activities.values() if a.look_again_seconds is not None), default=None)
    return replace(
        activity,
        message=f"Shard {shard} of {job.shards}: {activity.message}",
        fetching=any(one.fetching for one in activities.values()) or len(activities) < len(pods),
        look_again_seconds=again,
    )


def _running(seen: Observation, job: Job, pods: Mapping[int, tuple[Pod, ...]], running: int) -> Activity:
    ended = sum(has_ended_well(of_shard) for of_shard in pods.values())
    done = f", {ended} {'is' if ended == 1 else 'are'} done." if ended else "."
    place = f"{running} of {job.shards} shards run{done}"
    tries = [
        f"Shard {shard}: {pod_failure_words(of_shard)}"
        for shard, of_shard in pods.items()
        if not has_ended_well(of_shard) and pod_failure_words(of_shard)
    ]
    return waiting.running_at(seen, place, " ".join(tries[:_MOST_NAMED]))


def pod_failure_words(pods: tuple[Pod, ...]) -> str:
    """Return how the last try of a shard ended; empty where none has failed."""
    failures = [failure for pod in pods if (failure := pod_failure(pod)) is not None]
    return (
        f"try {len(failures) + 1}, the last ended with {failures[-1].reason}: {failures[-1].message}"
        if failures
        else ""
    )


def _alone(seen: Observation, job: Job, pods: tuple[Pod, ...]) -> Observation:
    """Return what is seen as if there were only these pods of the Job."""
    others = tuple(pod for pod in seen.pods if pod.job != job.name)
    return replace(seen, pods=(*others, *pods))


def _alone_job(job: Job, pods: tuple[Pod, ...]) -> Job:
    return replace(job, shards=1, failed_pods=sum(pod_failure(pod) is not None for pod in pods))


def by_shard(seen: Observation, job: Job) -> dict[int, tuple[Pod, ...]]:
    """Return each shard's pods, the oldest first; none where a shard has none."""
    pods = seen.pods_of(job)
    return {shard: tuple(pod for pod in pods if pod.index == shard) for shard in range(job.shards)}


def has_ended_well(pods: Iterable[Pod]) -> bool:
    """Return whether one of a shard's pods has brought its part."""
    return any(pod.termination is not None and pod.termination.exit_code == 0 for pod in pods)


def to_ask(seen: Observation, job: Job) -> tuple[str, ...]:
    """Return the uids of the objects whose events may say why the Job waits: of several pods that wait, the first's."""
    working = at_work(seen, job)
    if working.shards == 1:
        return waiting.to_ask(seen, working)
    pods = by_shard(seen, working)
    if any(pod.running for of_shard in pods.values() for pod in of_shard):
        return ()
    for of_shard in pods.values():
        asked = () if has_ended_well(of_shard) else waiting.to_ask(_alone(seen, working, of_shard), working)
        if asked:
            return asked
    return ()


# --- how far they are ------------------------------------------------------------------------------------------------


def pods_with_news(seen: Observation, job: Job) -> tuple[Pod, ...]:
    """Return the running pods whose logs may hold progress: one of each shard. Who publishes tells nothing new."""
    if at_work(seen, job) is not job:
        return ()
    if job.shards == 1:
        pod = waiting.pod_with_news(seen, job)
        return () if pod is None else (pod,)
    newest = (next((pod for pod in reversed(pods) if pod.running), None) for pods in by_shard(seen, job).values())
    return tuple(pod for pod in newest if pod is not None)


def total(seen: Observation, job: Job, news: Mapping[str, Progress]) -> Progress | None:
    """Return how far all shards are together, from the last line of each running pod by its uid, and from ends.

    None where no shard has any news. Of a shard that nothing is known of nothing counts as done.
    """
    parts: list[Progress | Result] = []
    running: list[Progress] = []
    for pods in by_shard(seen, job).values():
        lines = [news[pod.uid] for pod in pods if pod.uid in news and pod.running]
        results = [result for pod in pods if (result := _result(pod)) is not None]
        running += lines[-1:]
        parts += lines[-1:] or results[-1:]
    if not running:
        return None
    whole_bytes = next((line.plan_bytes for line in running if line.plan_bytes is not None), None)
    whole_files = next((line.plan_files for line in running if line.plan_files is not None), None)
    messages = {line.message for line in running if line.message}
    return Progress(
        stage=min((line.stage for line in running), key=_ORDER.index),
        time=max(line.time for line in running),
        message=messages.pop() if len(messages) == 1 else None,
        total_bytes=whole_bytes,
        completed_bytes=_capped(sum(part.completed_bytes for part in parts), whole_bytes),
        reused_bytes=_capped(sum(part.reused_bytes for part in parts), whole_bytes),
        total_files=whole_files,
        completed_files=_capped(sum(part.completed_files for part in parts), whole_files),
        bytes_per_second=sum(line.bytes_per_second for line in running),
        last_progress_time=max((line.last_progress_time for line in running if line.last_progress_time), default=None),
        sources=_sources(parts),
    )


def _result(pod: Pod) -> Result | None:
    ended = pod.termination
    return parse_result(ended.message) if ended is not None and ended.exit_code == 0 else None


def _capped(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


def _sources(parts: Sequence[Progress | Result]) -> tuple[SourceProgress, ...]:
    told = [source for part in parts for source in _told(part)]
    names = sorted({source.name for source in told})
    return tuple(_source(name, [source for source in told if source.name == name]) for name in names)


def _told(part: Progress | Result) -> tuple[SourceProgress, ...]:
    if isinstance(part, Progress):
        return part.sources
    return tuple(
        SourceProgress(name=source.name, state="Complete", completed_bytes=source.bytes, total_bytes=source.bytes)
        for source in part.sources
    )


def _source(name: str, parts: Sequence[SourceProgress]) -> SourceProgress:
    totals = [part.total_bytes for part in parts]
    return SourceProgress(
        name=name,
        state=min((part.state for part in parts), key=_STATES.index),
        completed_bytes=sum(part.completed_bytes for part in parts),
        total_bytes=None if None in totals else sum(size or 0 for size in totals),
    )
