"""What a finished pod says, in whatever way it says it."""

from dataclasses import replace

import pytest

from datafetch_api.exit_codes import ExitCode
from datafetch_operator.observation import Pod, Termination
from datafetch_operator.outcome import pod_failure, record
from unit.operator.world import START, World, failure_message, success_message

POD = Pod("p", "uid", "job", "Failed", START)


def _ended(code: int, reason: str = "Error", message: str = "") -> Pod:
    return replace(POD, termination=Termination(code, reason, message))


@pytest.mark.parametrize(
    ("pod", "reason", "retryable", "says"),
    [
        (
            _ended(11, message=failure_message(ExitCode.SOURCE_NOT_FOUND, "no bucket b")),
            "SourceNotFound",
            False,
            "no bucket b",
        ),
        (_ended(14), "SourceUnavailable", True, "outlasted"),
        (_ended(13, message="not json"), "InsufficientSpace", False, "too small"),
        (_ended(137, "OOMKilled"), "OOMKilled", True, "spec.job.resources.limits.memory"),
        (_ended(137), "ContainerFailed", True, "killed"),
        (_ended(1, message="Traceback"), "ContainerFailed", True, "Traceback"),
        (_ended(128, "StartError", "exec: datafetch: not found"), "ContainerFailed", True, "not found"),
        (replace(POD, reason="Evicted", message="The node was low on memory."), "Evicted", True, "low on memory"),
        (replace(POD, reason="not a reason"), "ContainerFailed", True, "before the download"),
    ],
)
def test_why_a_pod_failed(pod: Pod, reason: str, retryable: bool, says: str) -> None:
    failure = pod_failure(pod)
    assert failure is not None
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert says in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize("pod", [replace(_ended(143), disrupted=True), replace(POD, phase="Running"), _ended(0)])
def test_what_is_no_failure(pod: Pod) -> None:
    assert pod_failure(replace(pod, phase="Succeeded") if pod.termination else pod) is None


def test_a_forged_reason_does_not_reach_a_condition() -> None:
    message = failure_message(ExitCode.STALLED).replace("Stalled", "Not a reason!")
    failure = pod_failure(_ended(15, message=message))
    assert failure is not None
    assert failure.reason == "Stalled"


def _world() -> World:
    world = World()
    world.settle()
    world.run_pod()
    world.settle()
    return world


def test_the_message_of_the_last_pod_is_kept_of_many() -> None:
    world = _world()
    for said in ("first", "second"):
        world.end_pod(14, failure_message(ExitCode.SOURCE_UNAVAILABLE, said))
        world.run_pod()
    world.end_pod(14, failure_message(ExitCode.SOURCE_UNAVAILABLE, "third"))
    world.end_job("Failed", "BackoffLimitExceeded")
    failure = record(world.see()).last_failure
    assert failure is not None
    assert (failure.message, failure.retryable) == ("third", True)


def test_a_deadline_is_told_as_one() -> None:
    world = _world()
    world.end_pod(143, failure_message(ExitCode.INTERRUPTED))
    world.end_job("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    failure = record(world.see()).last_failure
    assert failure is not None
    assert failure.reason == "DeadlineExceeded"
    assert "activeDeadlineSeconds" in failure.message


def test_a_failed_job_without_pods_says_what_the_job_says() -> None:
    world = _world()
    world.end_job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    world.pods.clear()
    failure = record(world.see()).last_failure
    assert failure is not None
    assert (failure.reason, failure.message) == (
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit",
    )


def test_an_image_that_tells_no_result_is_a_failure_that_says_so() -> None:
    world = _world()
    world.end_pod(0, "hello", "Completed")
    world.end_job("Complete")
    status = record(world.see())
    assert status.artifact is None
    assert status.last_failure is not None
    assert status.last_failure.reason == "ResultMissing"


def test_sources_that_the_spec_does_not_know_are_left_out() -> None:
    world = _world()
    world.end_pod(0, success_message().replace('"weights"', '"Not A Name"'), "Completed")
    world.end_job("Complete")
    status = record(world.see())
    assert status.artifact is not None
    assert status.sources == []


def test_the_job_of_another_attempt_is_not_recorded() -> None:
    world = _world()
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    other = replace(world.job, name="other")
    world.jobs = {"other": other}
    assert record(world.see()) == world.status


def test_reused_bytes_are_told_apart() -> None:
    world = _world()
    world.end_pod(0, success_message(total=1000, reused=900), "Completed")
    world.end_job("Complete")
    progress = record(world.see()).progress
    assert progress is not None
    assert (progress.completed_bytes, progress.reused_bytes) == (1000, 900)
