"""What a finished Job or pod says: from termination messages and container states to the status. Pure.

Recording is idempotent: the same Job and pods give the same status, and pods that are gone take nothing away.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Result, SourceSummary, parse_result
from datafetch_api.resource import (
    ArtifactStatus,
    DataFetchStatus,
    FailureStatus,
    ProgressStatus,
    SourceStatus,
    TargetStatus,
)
from datafetch_operator.observation import Job, Observation, Pod, Termination
from datafetch_operator.reasons import Reason

_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_MESSAGE_LENGTH = 4096
_REVISION_LENGTH = 256
_KEY_LENGTH = 1024
_KILLED = 137


@dataclass(frozen=True, slots=True)
class PodFailure:
    """Why one pod failed."""

    reason: str
    message: str
    retryable: bool
    exit_code: int | None = None
    source: str | None = None
    key: str | None = None


def record(seen: Observation) -> DataFetchStatus:
    """Return the status with what the current Job's end says, if it has ended and is not recorded yet."""
    status = seen.fetch.status
    job = seen.job(status.job_ref.name if status.job_ref else None)
    if job is not None and job.shards > 1 and job.finished == "Complete":
        job = seen.publisher(job)  # what the shards have brought counts once it is published
    if job is None or job.finished is None or job.owner_uid != seen.fetch.metadata.uid:
        return status
    if job.finished == "Failed":
        return _record_failure(seen, status, job)
    return _record_success(seen, status, job)


def is_recorded(status: DataFetchStatus, job: Job) -> bool:
    """Return whether this end of this Job stands in the status."""
    artifact, failure = status.artifact, status.last_failure
    as_success = (
        artifact is not None
        and (artifact.completion_time, artifact.spec_hash, artifact.claim_uid)
        == (job.finish_time, job.spec_hash, job.claim_uid)
        and job.trigger in (None, status.last_handled_trigger)
    )
    as_failure = failure is not None and (
        (failure.time, failure.attempt, failure.generation, failure.spec_hash, failure.trigger, failure.scheduled)
        == (job.finish_time, job.attempt, job.generation, job.spec_hash, job.trigger, job.scheduled)
    )
    return as_success or as_failure


def pod_failure(pod: Pod) -> PodFailure | None:
    """Return why a pod failed; None where it did not, or was evicted by a disruption that does not count."""
    if pod.disrupted:
        return None
    if pod.termination is not None and pod.termination.exit_code != 0:
        return container_failure(pod.termination)
    if pod.phase != "Failed":
        return None
    reason = pod.reason if _REASON.fullmatch(pod.reason) else Reason.CONTAINER_FAILED
    return PodFailure(reason, _sentence(pod.message or "The pod failed before the download could start."), True)


def last_failure(pods: tuple[Pod, ...]) -> tuple[Pod, PodFailure] | None:
    """Return the newest pod that failed, and why."""
    for pod in reversed(pods):
        failure = pod_failure(pod)
        if failure is not None:
            return pod, failure
    return None


def shard_failure(pods: tuple[Pod, ...], job: Job) -> tuple[Pod, PodFailure] | None:
    """Return the pod that a Job of several shards failed by, and why, with the shard named.

    The others are told to end then, and say so: their words come last in time, and count least.
    """
    failures = [(pod, failure) for pod in pods if (failure := pod_failure(pod)) is not None]
    if not failures:
        return None
    tries = Counter(pod.index for pod, _ in failures)

    def weight(found: tuple[Pod, PodFailure]) -> tuple[bool, bool, int, datetime]:
        pod, failure = found
        told = failure.exit_code == ExitCode.INTERRUPTED
        return not failure.retryable, not told, tries[pod.index], pod.created

    pod, failure = max(failures, key=weight)
    return pod, replace(failure, message=f"Shard {pod.index} of {job.shards}: {failure.message}")


def _record_success(seen: Observation, status: DataFetchStatus, job: Job) -> DataFetchStatus:
    ended = [pod for pod in seen.pods_of(job) if pod.termination is not None and pod.termination.exit_code == 0]
    if is_recorded(status, job) or not ended or ended[-1].termination is None:
        return status
    result = parse_result(ended[-1].termination.message)
    if result is None:
        failure = PodFailure(
            Reason.RESULT_MISSING,
            "The download ended without a result. Use a downloader image of the operator's version.",
            retryable=False,
            exit_code=0,
        )
        return _with_failure(status, job, failure, ended[-1].name)
    return _with_result(seen, status, job, result)


def _with_result(seen: Observation, status: DataFetchStatus, job: Job, result: Result) -> DataFetchStatus:
    size = result.completed_bytes if result.total_bytes is None else result.total_bytes
    files = result.completed_files if result.total_files is None else result.total_files
    artifact = ArtifactStatus(
        spec_hash=job.spec_hash,
        manifest_digest=result.manifest_digest or "",
        source_digest=result.source_digest,
        claim_uid=job.claim_uid,
        size_bytes=size,
        files=files,
        completion_time=job.finish_time,
    )
    progress = ProgressStatus(
        percent=100,
        total_bytes=size,
        completed_bytes=size,
        reused_bytes=result.reused_bytes,
        total_files=files,
        completed_files=files,
        last_progress_time=job.finish_time,
    )
    return status.model_copy(
        update={
            "artifact": artifact,
            "progress": progress,
            "sources": _sources(seen, result.sources),
            "target": _publication(status.target, result.publication),
            "last_failure": None,
            "last_sync_time": job.finish_time,
            "last_schedule_time": job.scheduled or status.last_schedule_time,
            "last_handled_trigger": job.trigger or status.last_handled_trigger,
        }
    )


def _publication(target: TargetStatus | None, publication: Literal["Link", "InPlace"] | None) -> TargetStatus | None:
    return target and target.model_copy(update={"publication": publication})


def _sources(seen: Observation, summaries: tuple[SourceSummary, ...]) -> list[SourceStatus]:
    """Return the sources that the spec knows: the rest of a termination message is anybody's."""
    known = {source.name for source in seen.fetch.spec.sources}
    return [
        SourceStatus(
            name=summary.name,
            resolved_revision=summary.resolved_revision and summary.resolved_revision[:_REVISION_LENGTH],
            files=summary.files,
            bytes=summary.bytes,
        )
        for summary in {summary.name: summary for summary in summaries}.values()
        if summary.name in known
    ]


def _record_failure(seen: Observation, status: DataFetchStatus, job: Job) -> DataFetchStatus:
    if is_recorded(status, job):
        return status
    found = last_failure(seen.pods_of(job)) if job.shards == 1 else shard_failure(seen.pods_of(job), job)
    if job.finish_reason == Reason.DEADLINE_EXCEEDED:
        message = "The attempt took longer than spec.job.activeDeadlineSeconds; give it more time, or a faster source."
        return _with_failure(status, job, PodFailure(Reason.DEADLINE_EXCEEDED, message, retryable=True), None)
    if found is None:
        reason = job.finish_reason if _REASON.fullmatch(job.finish_reason) else Reason.CONTAINER_FAILED
        failure = PodFailure(reason, _sentence(job.finish_message or "The Job failed, and its pods are gone."), True)
        return _with_failure(status, job, failure, None)
    pod, failure = found
    return _with_failure(status, job, failure, pod.name)


def _with_failure(status: DataFetchStatus, job: Job, failure: PodFailure, pod_name: str | None) -> DataFetchStatus:
    return status.model_copy(
        update={
            "last_failure": FailureStatus(
                reason=failure.reason,
                message=failure.message,
                exit_code=failure.exit_code,
                source=failure.source,
                key=failure.key and failure.key[:_KEY_LENGTH],
                pod_name=pod_name,
                retryable=failure.retryable,
                attempt=job.attempt,
                spec_hash=job.spec_hash,
                generation=job.generation,
                trigger=job.trigger,
                scheduled=job.scheduled,
                claim_capacity=job.claim_capacity,
                time=job.finish_time,
            )
        }
    )


def container_failure(
    ended: Termination, *, memory_remedy: str = "raise spec.job.resources.limits.memory"
) -> PodFailure:
    """Return why a download container failed: in its own words, or in those of its exit code."""
    result = parse_result(ended.message)
    code = _known(ended.exit_code)
    if result is not None and result.failure is not None and _REASON.fullmatch(result.failure.reason):
        said = result.failure
        words = _sentence(said.message)
        return PodFailure(said.reason, words, said.retryable, ended.exit_code, said.source, said.key)
    if ended.reason == Reason.OUT_OF_MEMORY:
        message = f"The download ran out of memory; {memory_remedy}."
        return PodFailure(Reason.OUT_OF_MEMORY, message, True, ended.exit_code)
    if code is not None:
        message = code.meaning if code.retryable else f"{code.meaning} The pod's log says more."
        return PodFailure(code.reason, message, code.retryable, ended.exit_code)
    killed = " It was killed." if ended.exit_code == _KILLED else ""
    words = f"The download container ended with exit code {ended.exit_code}.{killed} {ended.message}"
    return PodFailure(Reason.CONTAINER_FAILED, _sentence(words), True, ended.exit_code)


def _known(exit_code: int) -> ExitCode | None:
    return ExitCode(exit_code) if exit_code in set(ExitCode) else None


def _sentence(text: str) -> str:
    """Return text from outside as one line of bounded length."""
    return " ".join(text.split())[:_MESSAGE_LENGTH]
