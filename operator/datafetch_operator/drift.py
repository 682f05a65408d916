"""Drift checks: whether the sources still hold what is published, looked at on a schedule of its own. Pure.

A Job without the claim lists the sources and reports a digest, which is compared with that of the artifact. A check is
due only where nothing else is: whatever starts a fetch removes one that runs, and what a fetch publishes outdates what
was found before. Nothing here touches Ready, or what is wanted; checks wait for nobody's turn, and take none.
`lifecycle` asks `look` at every decision; `render.drift_job` makes the Job.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from datafetch_api.quantities import format_bytes
from datafetch_api.report import Result, parse_result
from datafetch_api.resource import ArtifactStatus, DataFetch, DataFetchStatus, DriftStatus
from datafetch_operator import outcome, steps
from datafetch_operator.observation import Job, Observation
from datafetch_operator.reasons import Reason
from datafetch_operator.render.drift_job import Check
from datafetch_operator.schedule import Schedule, next_time, read_schedule

_AFTER_SYNC = timedelta(seconds=15)
"""No check is due so soon after a fetch: there would be nothing to tell."""
_BEFORE_SYNC = timedelta(seconds=60)
"""No check starts so soon before a run of the schedule, which would remove it."""
_JOB_GOES_SECONDS = 5
_MOST_SOURCES = 3
"""Of how many sources a sentence tells what differs."""
_SMALL = 1024
_MESSAGE_LENGTH = 4096
_DIGEST_LENGTH = 256
_FAILED = "The drift check failed: "
_FIELD = "spec.refresh.driftCheck.schedule"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at the drift checks of a fetch says."""

    status: DataFetchStatus
    """With what is known of drift, and when the next check is due."""
    start: Check | None = None
    """The check whose ConfigMap and Job are to be made."""
    remove: tuple[tuple[str, str | None], ...] = ()
    """Names of Jobs and ConfigMaps that are to go, with the Job's uid where there is one."""
    look_again_seconds: float | None = None


def look(seen: Observation, status: DataFetchStatus, step: steps.Step) -> Finding:
    """Return what follows for the drift checks from what was seen; `status` knows of the last fetch already."""
    status = status.model_copy(update={"drift": _still_true(seen.fetch, status), "next_drift_check_time": None})
    jobs = [job for job in seen.checks if job.owner_uid == seen.fetch.metadata.uid and not job.deleting]
    if not isinstance(step, steps.Done) or seen.claim is None:
        return Finding(status, remove=_names(jobs))
    run = next_run(seen.fetch, status)
    if run is None:
        return Finding(status, remove=_names(jobs))
    status = status.model_copy(update={"next_drift_check_time": run})
    if run > seen.now:
        return Finding(status, remove=_names(jobs), look_again_seconds=(run - seen.now).total_seconds())
    check = Check(seen.fetch, seen.claim, run)
    found = _due(seen, status, step, check)
    others = [job for job in jobs if job.name != check.name]
    return Finding(found.status, found.start, (*found.remove, *_names(others)), found.look_again_seconds)


def _due(seen: Observation, status: DataFetchStatus, step: steps.Done, check: Check) -> Finding:
    """Return how the check that is due goes on."""
    job = next((job for job in seen.checks if job.name == check.name), None)
    refused = seen.refusals.get("check")
    if refused is not None:
        new = _failed(status, seen.now, f"the API server does not take Job {check.name}: {refused}")
        return _recorded(seen, status, new, remove=((check.name, None),))
    if job is None and step.next_sync is not None and step.next_sync - seen.now < _BEFORE_SYNC:
        return Finding(status)
    if job is None:
        return Finding(status, start=check)
    if job.deleting:
        return Finding(status, look_again_seconds=_JOB_GOES_SECONDS)
    if job.finished is None:
        return Finding(status)
    # Its Job goes with the next look, when this stands in the status: until then the answer is nowhere else.
    return _recorded(seen, status, _read(seen, status, job, check))


def _recorded(
    seen: Observation, status: DataFetchStatus, new: DriftStatus, remove: tuple[tuple[str, str | None], ...] = ()
) -> Finding:
    status = status.model_copy(update={"drift": new})
    status = status.model_copy(update={"next_drift_check_time": next_run(seen.fetch, status)})
    return Finding(status, remove=remove, look_again_seconds=0)


def next_run(fetch: DataFetch, status: DataFetchStatus) -> datetime | None:
    """Return the first run of the checks' schedule since the last check or fetch ended; None where there is none.

    Runs that were missed since then are one, because it is the first of them that counts until it is handled.
    """
    schedule, synced = schedule_of(fetch), status.last_sync_time
    if schedule is None or status.artifact is None:
        return None
    since = (synced or status.artifact.completion_time) + _AFTER_SYNC
    if status.drift is not None:
        since = max(since, status.drift.check_time)
    return next_time(schedule, since, fetch.metadata.uid)


def schedule_of(fetch: DataFetch) -> Schedule | None:
    """Return the schedule, if there is one. Raises ValueError with a sentence where it cannot be carried out."""
    refresh = fetch.spec.refresh
    return read_schedule(refresh.drift_check.schedule, refresh.time_zone, _FIELD) if refresh.drift_check else None


def _still_true(fetch: DataFetch, status: DataFetchStatus) -> DriftStatus | None:
    """Return what was found, unless it was before the last fetch, or nobody asks any more."""
    drift = status.drift
    if drift is None or status.artifact is None or fetch.spec.refresh.drift_check is None:
        return None
    synced = status.last_sync_time or status.artifact.completion_time
    return drift if drift.check_time >= synced else None


def _names(jobs: list[Job]) -> tuple[tuple[str, str | None], ...]:
    return tuple((job.name, job.uid) for job in jobs)


# --- what a check says -----------------------------------------------------------------------------------------------


def _read(seen: Observation, status: DataFetchStatus, job: Job, check: Check) -> DriftStatus:
    """Return what the end of a check's Job says."""
    # The clock that ended the Job may be behind ours; what has been looked at is not to be due again for that.
    time = max(job.finish_time, check.run)
    if job.finished == "Failed":
        return _failed(status, time, _why(seen, job, check))
    ends = [pod.termination for pod in seen.pods_of(job) if pod.termination is not None]
    result = next((parse_result(end.message) for end in reversed(ends) if end.exit_code == 0), None)
    if result is None or not (result.manifest_digest or result.source_digest):
        return _failed(status, time, "it ended without a result; use a downloader image of the operator's version.")
    return _compare(seen.fetch, status, time, result)


def _compare(fetch: DataFetch, status: DataFetchStatus, time: datetime, result: Result) -> DriftStatus:
    found = result.manifest_digest or result.source_digest
    published = _published(status.artifact, result)
    if published is None:
        return _failed(status, time, _untold(fetch))
    changed = found != published
    message = _difference(fetch, status, result) if changed else _sameness(result)
    digest = found and found[:_DIGEST_LENGTH]
    return DriftStatus(check_time=time, changed=changed, manifest_digest=digest, message=message[:_MESSAGE_LENGTH])


def _published(artifact: ArtifactStatus | None, result: Result) -> str | None:
    """Return the digest of the artifact that the check's can be compared with; None where there is none."""
    if artifact is None:
        return None
    if result.manifest_digest is None:
        return artifact.source_digest
    return artifact.source_digest or artifact.manifest_digest or None


def _untold(fetch: DataFetch) -> str:
    """Return why nothing can be compared: the listing lacks what only a fetch finds out, and was not kept."""
    why = "sizes, or what archives hold, are known only once they are fetched, and what was listed then was not noted"
    if (fetch.spec.job.shards or 1) > 1:
        return f"{why}: shards do not. Set spec.job.shards to 1, or fetch on a schedule instead."
    return f"{why}. Set spec.refresh.trigger to a new value to fetch again; from then on it can be told."


def _sameness(result: Result) -> str:
    if not result.unidentified_files:
        return "The sources hold nothing else."
    count = result.unidentified_files
    return (
        f"The sources list nothing else; {count} of {result.total_files} objects have no ETag, version or time, so "
        "that nothing tells whether their content has changed."
    )


def _difference(fetch: DataFetch, status: DataFetchStatus, result: Result) -> str:
    known = {source.name: source for source in status.sources}
    parts = []
    for now in result.sources:
        before = known.get(now.name)
        if before is None:
            continue
        amounts = [_amount(one.files, one.bytes, one.resolved_revision) for one in (now, before)]
        if amounts[0] != amounts[1]:
            parts.append(f"source {now.name!r} has {amounts[0]}, published are {amounts[1]}")
    more = f", and {len(parts) - _MOST_SOURCES} more sources" if len(parts) > _MOST_SOURCES else ""
    what = "; ".join(parts[:_MOST_SOURCES]) + more
    if not parts and {source.name for source in result.sources} == set(known):
        what = "as many files and bytes, but other objects"
    elif not parts:  # Of many sources a result names only the first: those are as they were.
        what = f"they have {_amount(result.total_files or 0, result.total_bytes or 0, None)} in all"
    return f"The sources hold something else than what is published: {what}. {_remedy(fetch)}"


def _amount(files: int, size: int, revision: str | None) -> str:
    at = f" at {' '.join(revision.split())[:64]}" if revision else ""
    exact = f"{size} {'byte' if size == 1 else 'bytes'}"
    shown = exact if size < _SMALL else f"{format_bytes(size)} ({exact})"
    return f"{files} {'file' if files == 1 else 'files'}, {shown}{at}"


def _remedy(fetch: DataFetch) -> str:
    if fetch.spec.refresh.schedule is not None:
        return "The next run of spec.refresh.schedule fetches it; a new value of spec.refresh.trigger does so at once."
    return "To fetch it, set spec.refresh.trigger to a new value, or give it a spec.refresh.schedule."


def _failed(status: DataFetchStatus, time: datetime, why: str) -> DriftStatus:
    """Return what is known where a check could not look: the answer of the one before, and why."""
    last = status.drift or DriftStatus(check_time=time)
    message = (_FAILED + " ".join(why.split()))[:_MESSAGE_LENGTH]
    return last.model_copy(update={"check_time": time, "failed": True, "message": message})


def _why(seen: Observation, job: Job, check: Check) -> str:
    if job.finish_reason == Reason.DEADLINE_EXCEEDED:
        return f"it took longer than {check.most_seconds} s, or its pod could not start in that time."
    found = outcome.last_failure(seen.pods_of(job))
    if found is None:
        return job.finish_message or "its Job failed, and its pods are gone."
    return f"{found[1].reason}: {found[1].message}"


def up_to_date(drift: DriftStatus, before: str | None) -> tuple[bool, Reason, str]:
    """Return status, reason and message of the condition UpToDate, where nothing but drift could make it false.

    `before` is the message that the condition had, where that was of drift: a check that fails takes nothing back.
    """
    if not drift.changed:
        return True, Reason.CURRENT, f"The published revision is of this spec. {drift.message}"
    if not drift.failed:
        return False, Reason.DRIFTED, drift.message
    found = (before or "").partition(_FAILED)[0].strip()
    found = found or "The sources hold something else than what is published, as an earlier check has found."
    return False, Reason.DRIFTED, f"{found} {drift.message}"
