"""Drift checks: whether the sources still hold what is published, looked at beside all else that may happen."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Result, SourceSummary, to_termination_message
from datafetch_api.resource import DataFetch, Phase
from datafetch_operator.observation import Job
from datafetch_operator.reconcile import _count
from datafetch_operator.render.config_map import render_config_map
from datafetch_operator.render.drift_job import Check, _as_attempt, render_check_config_map, render_check_job
from datafetch_operator.render.job import render_job
from datafetch_operator.schedule import next_time, read_schedule
from datafetch_operator.status import events
from unit.operator.test_refresh import OTHER_SOURCES
from unit.operator.test_render import JOB, SOURCES
from unit.operator.world import SETTINGS, START, UID, World, bound_claim, fetch, success_message

HOURLY: dict[str, Any] = {"driftCheck": {"schedule": "0 * * * *"}}


def ready(refresh: dict[str, Any] | None = None, **spec: Any) -> World:
    world = World(fetch(refresh=refresh or HOURLY, **spec))
    world.settle()
    world.succeed()
    world.settle()
    assert world.status.phase == Phase.READY
    return world


def due(world: World) -> World:
    """Let the moment of the next check come, and the operator look."""
    assert world.status.next_drift_check_time is not None
    world.now = world.status.next_drift_check_time
    world.settle()
    return world


def check_job(world: World) -> Job:
    (job,) = [job for job in world.jobs.values() if job.is_check]
    return job


def has_check(world: World) -> bool:
    return any(job.is_check for job in world.jobs.values())


def answer(world: World, message: str | None = None) -> World:
    """Let the check that runs end well, and the operator look."""
    world.pass_time(5)
    world.run_pod()
    world.end_pod(0, success_message(digest=world.digest) if message is None else message, "Completed")
    world.end_job("Complete")
    world.settle()
    return world


def listed(files: int = 3, size: int = 1500, revision: str | None = "def456", **more: Any) -> str:
    sources = (SourceSummary(name="weights", resolved_revision=revision, files=files, bytes=size),)
    digests = more or {"manifest_digest": "sha256:other"}
    return to_termination_message(Result(exit_code=0, total_files=files, total_bytes=size, sources=sources, **digests))


def drifted() -> World:
    return answer(due(ready()), listed())


def condition(world: World) -> tuple[str, str, str]:
    return world.condition("UpToDate")


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_published_fetch_says_when_its_sources_are_looked_at_and_looks_then() -> None:
    world = ready()
    run = next_time(read_schedule("0 * * * *"), START + timedelta(seconds=15), UID)
    assert run is not None
    assert world.status.next_drift_check_time == run
    assert world.decide().requeue_seconds == (run - START).total_seconds()
    world.now = run - timedelta(seconds=1)
    assert world.settle() == 0
    world.now = run
    world.settle()
    assert check_job(world).scheduled == run
    assert (world.status.phase, world.condition("Ready")[0], condition(world)[0]) == (Phase.READY, "True", "True")


def test_the_schedule_is_in_the_time_zone_of_the_refresh() -> None:
    world = ready({"timeZone": "Europe/Helsinki", "driftCheck": {"schedule": "0 3 * * *"}})
    run = world.status.next_drift_check_time
    assert run is not None
    assert run.hour == 1


def test_nothing_is_looked_at_before_anything_is_published() -> None:
    world = World(fetch(refresh={"driftCheck": {"schedule": "* * * * *"}}))
    world.settle()
    world.pass_time(3600)
    world.settle()
    assert not has_check(world)
    assert world.status.next_drift_check_time is None


def test_a_check_that_found_nothing_takes_one_status_write_and_leaves_nothing_behind() -> None:
    world = due(ready())
    before = len(world.writes)
    answer(world)
    assert [write.split()[0] for write in world.writes[before:]] == ["status", "delete"]
    assert not has_check(world)
    drift = world.status.drift
    assert drift is not None
    assert (drift.changed, drift.failed, drift.manifest_digest) == (False, False, "sha256:abc")
    assert drift.check_time == world.now
    assert world.status.next_drift_check_time is not None
    assert world.status.next_drift_check_time > world.now
    assert condition(world)[:2] == ("True", "Current")


def test_checks_that_were_missed_are_one() -> None:
    world = ready()
    world.pass_time(10 * 86_400)
    world.settle()
    answer(world)
    assert world.checks_made == 1
    assert world.status.next_drift_check_time is not None
    assert world.status.next_drift_check_time > world.now


def test_no_check_comes_right_after_a_fetch() -> None:
    world = ready({"driftCheck": {"schedule": "* * * * *"}})
    assert world.status.next_drift_check_time is not None
    assert world.status.next_drift_check_time - START >= timedelta(seconds=15)


def test_no_check_starts_right_before_a_run_of_the_schedule() -> None:
    world = ready({"schedule": "0 3 * * *", **HOURLY})
    assert world.status.next_sync_time is not None
    world.now = world.status.next_sync_time - timedelta(seconds=30)
    world.settle()
    assert not has_check(world)
    world.now = world.status.next_sync_time - timedelta(seconds=90)
    world.settle()
    assert has_check(world)


def test_what_is_suspended_is_not_looked_at_and_a_check_that_runs_ends() -> None:
    world = due(ready())
    world.change(suspend=True)
    world.settle()
    assert not has_check(world)
    world.pass_time(86_400)
    assert world.settle() == 0
    assert world.status.next_drift_check_time is None
    world.change(suspend=False)
    world.settle()
    assert has_check(world)


@pytest.mark.parametrize(
    "change",
    [{"sources": OTHER_SOURCES}, {"refresh": {**HOURLY, "trigger": "now"}}],
    ids=["other sources", "a trigger"],
)
def test_a_fetch_takes_precedence_and_ends_a_check_that_runs(change: dict[str, Any]) -> None:
    world = due(ready())
    name = check_job(world).name
    world.run_pod()
    world.change(**change)
    world.settle()
    assert name not in world.jobs
    assert (world.status.phase, world.status.next_drift_check_time) == (Phase.REFRESHING, None)
    assert len(world.jobs) == 1


def test_a_run_of_the_schedule_ends_a_check_that_runs() -> None:
    world = ready({"schedule": "0 3 * * *", **HOURLY})
    assert world.status.next_sync_time is not None
    world.now = world.status.next_sync_time - timedelta(seconds=90)
    world.settle()
    assert has_check(world)
    world.pass_time(90)
    world.settle()
    assert not has_check(world)
    assert world.status.phase == Phase.REFRESHING


def test_another_spec_ends_a_check_of_the_one_before_and_starts_one_of_its_own() -> None:
    world = due(ready())
    name = check_job(world).name
    world.change(job={"serviceAccountName": "reader"})
    world.settle()
    assert check_job(world).name != name


def test_checks_that_are_no_longer_asked_for_take_their_answer_along() -> None:
    world = drifted()
    world.change(refresh={})
    world.settle()
    assert (world.status.drift, world.status.next_drift_check_time) == (None, None)
    assert condition(world)[:2] == ("True", "Current")


def test_a_restarted_operator_makes_no_second_job() -> None:
    world = ready()
    assert world.status.next_drift_check_time is not None
    world.now = world.status.next_drift_check_time
    world.reconcile(dies_after=1)
    world.settle()
    world.settle()
    assert world.checks_made == 1


def test_a_lost_status_makes_no_second_job_beside_the_first() -> None:
    world = due(ready())
    world.fetch = world.fetch.model_copy(update={"status": fetch().status})
    world.reconcile()
    assert not has_check(world)
    world.settle()
    assert world.status.phase == Phase.READY
    assert check_job(world).uid == "check-2"


def test_an_answer_is_written_before_its_job_goes() -> None:
    world = due(ready())
    world.run_pod()
    world.end_pod(0, listed(), "Completed")
    world.end_job("Complete")
    world.reconcile(dies_after=0)
    assert has_check(world)
    world.reconcile(dies_after=1)
    assert world.status.drift is not None
    assert has_check(world)
    world.settle()
    assert not has_check(world)


def test_a_clock_that_is_behind_ours_makes_no_check_due_again() -> None:
    world = due(ready())
    run = check_job(world).scheduled
    world.run_pod()
    world.end_pod(0, success_message(), "Completed")
    world.pass_time(-3600)
    world.end_job("Complete")
    world.pass_time(3600)
    world.settle()
    assert not has_check(world)
    assert world.status.drift is not None
    assert world.status.drift.check_time == run


def test_a_check_on_its_way_out_is_waited_for() -> None:
    world = due(ready())
    job = check_job(world)
    world.jobs[job.name] = replace(job, deleting=True)
    decision = world.decide()
    assert (decision.check, decision.remove, decision.requeue_seconds) == (None, (), 5)


def test_somebody_elses_job_is_left_alone() -> None:
    world = due(ready())
    job = check_job(world)
    world.jobs["other"] = replace(job, name="other", uid="other", owner_uid="somebody")
    world.settle()
    assert "other" in world.jobs


# --- what it says ----------------------------------------------------------------------------------------------------


def test_a_change_shows_with_what_it_is_and_what_to_do_and_the_data_stays_ready() -> None:
    world = drifted()
    assert (world.status.phase, world.condition("Ready")[0]) == (Phase.READY, "True")
    assert world.status.drift is not None
    assert (world.status.drift.changed, world.status.drift.manifest_digest) == (True, "sha256:other")
    status, reason, message = condition(world)
    assert (status, reason) == ("False", "Drifted")
    assert message == (
        "The sources hold something else than what is published: source 'weights' has 3 files, 1.46 KiB (1500 bytes) "
        "at def456, published are 2 files, 1000 bytes at abc123. To fetch it, set spec.refresh.trigger to a new "
        "value, or give it a spec.refresh.schedule."
    )


def test_a_schedule_is_named_as_what_brings_the_change() -> None:
    world = answer(due(ready({"schedule": "0 3 * * *", **HOURLY})), listed())
    assert "The next run of spec.refresh.schedule fetches it" in condition(world)[2]


def test_other_objects_of_the_same_size_are_told_as_such() -> None:
    world = answer(due(ready()), listed(2, 1000, "abc123"))
    assert "as many files and bytes, but other objects" in condition(world)[2]


def test_where_the_result_does_not_name_what_changed_the_sum_is_told() -> None:
    result = Result(exit_code=0, manifest_digest="sha256:other", total_files=3, total_bytes=5)
    world = answer(due(ready()), to_termination_message(result))
    assert "they have 3 files, 5 bytes in all. To fetch it" in condition(world)[2]


def test_of_many_sources_that_changed_the_first_are_named() -> None:
    sources = [{"name": f"s{number}", "s3": {"bucket": "b", "prefix": f"{number}/"}} for number in range(6)]
    world = World(fetch(refresh=HOURLY, sources=sources))
    world.settle()
    world.run_pod()
    summaries = tuple(SourceSummary(name=f"s{number}", files=1, bytes=1) for number in range(6))
    world.end_pod(0, to_termination_message(Result(exit_code=0, manifest_digest="a", sources=summaries)))
    world.end_job("Complete")
    world.settle()
    more = tuple(summary.model_copy(update={"files": 2}) for summary in summaries)
    world = answer(due(world), to_termination_message(Result(exit_code=0, manifest_digest="b", sources=more)))
    assert "source 's2' has 2 files, 1 byte, published are 1 file, 1 byte, and 3 more sources" in condition(world)[2]


def test_a_change_is_told_by_one_event() -> None:
    world = due(ready())
    before = world.status
    answer(world, listed())
    told = [event for event in events(before, world.status) if event.kind == "Warning"]
    assert [event.reason for event in told] == ["Drifted"]
    before = world.status
    answer(due(world), listed(4))
    assert "has 4 files" in condition(world)[2]
    assert events(before, world.status) == []


def test_a_change_that_was_taken_back_is_no_change() -> None:
    world = answer(due(drifted()))
    assert condition(world)[:2] == ("True", "Current")


def test_a_fetch_of_what_changed_ends_the_drift() -> None:
    world = drifted()
    world.change(refresh={**HOURLY, "trigger": "now"})
    world.settle()
    assert condition(world)[1] == "TriggerPending"
    world.digest = "sha256:other"
    world.pass_time(60)
    world.succeed()
    world.settle()
    assert (world.status.phase, world.status.drift) == (Phase.READY, None)
    assert condition(world)[:2] == ("True", "Current")
    answer(due(world))
    assert condition(world)[:2] == ("True", "Current")


def test_the_drift_shows_until_the_schedule_has_brought_what_changed() -> None:
    world = answer(due(ready({"schedule": "0 3 * * *", **HOURLY})), listed())
    assert world.status.next_sync_time is not None
    world.now = world.status.next_sync_time
    world.settle()
    assert (world.status.phase, condition(world)[1]) == (Phase.REFRESHING, "Drifted")
    world.succeed()
    world.settle()
    assert condition(world)[:2] == ("True", "Current")


def test_objects_that_nothing_identifies_are_said_to_be_unknown() -> None:
    message = listed(2, 1000, manifest_digest="sha256:abc", unidentified_files=1)
    world = answer(due(ready()), message)
    assert condition(world)[:2] == ("True", "Current")
    assert "1 of 2 objects have no ETag, version or time" in condition(world)[2]


def test_what_is_known_only_once_fetched_is_compared_by_what_was_listed() -> None:
    world = World(fetch(refresh=HOURLY))
    world.settle()
    world.run_pod()
    result = Result(exit_code=0, manifest_digest="sha256:whole", source_digest="sha256:listed")
    world.end_pod(0, to_termination_message(result), "Completed")
    world.end_job("Complete")
    world.settle()
    answer(due(world), listed(source_digest="sha256:listed"))
    assert condition(world)[:2] == ("True", "Current")
    answer(due(world), listed(source_digest="sha256:else"))
    assert condition(world)[1] == "Drifted"


def test_what_cannot_be_told_is_not_guessed() -> None:
    world = answer(due(ready()), listed(source_digest="sha256:listed"))
    assert world.status.drift is not None
    assert (world.status.drift.failed, world.status.drift.changed) == (True, False)
    assert "Set spec.refresh.trigger" in condition(world)[2]
    assert condition(world)[0] == "True"


# --- when it cannot look ---------------------------------------------------------------------------------------------


def fail(world: World, code: ExitCode = ExitCode.CREDENTIALS_REJECTED) -> World:
    world.pass_time(5)
    world.fail(code)
    world.settle()
    return world


def test_a_check_that_fails_says_so_and_takes_nothing_back() -> None:
    world = drifted()
    found = condition(world)[2]
    before = world.status
    fail(due(world))
    drift = world.status.drift
    assert drift is not None
    assert (drift.changed, drift.failed, drift.manifest_digest) == (True, True, "sha256:other")
    why = "The drift check failed: CredentialsRejected: source 'weights': it went wrong"
    assert drift.message == why
    assert condition(world) == ("False", "Drifted", f"{found} {why}")
    assert [event.reason for event in events(before, world.status)] == ["DriftCheckFailed"]
    assert (world.status.phase, world.condition("Ready")[0], world.status.last_failure) == (Phase.READY, "True", None)
    before = world.status
    fail(due(world), ExitCode.SOURCE_NOT_FOUND)
    assert condition(world)[2].startswith(found)
    assert condition(world)[2].count("The drift check failed") == 1
    assert events(before, world.status) == []
    answer(due(world))
    assert condition(world)[:2] == ("True", "Current")


def test_a_first_check_that_fails_leaves_the_data_current() -> None:
    world = fail(due(ready()))
    assert condition(world)[:2] == ("True", "Current")
    assert "The drift check failed: CredentialsRejected" in condition(world)[2]
    assert world.status.drift is not None
    assert world.status.drift.manifest_digest is None
    assert world.status.next_drift_check_time is not None
    assert world.status.next_drift_check_time > world.now


def test_a_check_that_takes_too_long_says_how_long_it_had() -> None:
    world = due(ready(job={"activeDeadlineSeconds": 600}))
    world.run_pod()
    world.end_job("Failed", "DeadlineExceeded")
    world.settle()
    assert "longer than 600 s" in condition(world)[2]


def test_a_check_without_a_result_says_so() -> None:
    world = answer(due(ready()), "all went well")
    assert "ended without a result" in condition(world)[2]


def test_a_check_whose_pods_went_unread_failed() -> None:
    world = due(ready())
    world.run_pod()
    world.end_job("Complete")
    world.pods.clear()
    world.settle()
    assert world.status.drift is not None
    assert world.status.drift.failed


def test_a_job_that_the_api_server_refuses_is_told_and_tried_again_at_the_next_run() -> None:
    world = ready()
    world.refuses = "exceeded quota"
    due(world)
    assert "exceeded quota" in condition(world)[2]
    assert world.status.next_drift_check_time is not None
    assert world.status.next_drift_check_time > world.now
    world.refuses = None
    answer(due(world))
    assert world.status.drift is not None
    assert not world.status.drift.failed


def test_a_schedule_that_never_comes_is_refused_with_its_field() -> None:
    world = World(fetch(refresh={"driftCheck": {"schedule": "0 0 30 2 *"}}))
    world.settle()
    assert world.condition("Accepted")[1] == "InvalidSpec"
    assert "spec.refresh.driftCheck.schedule '0 0 30 2 *'" in world.condition("Accepted")[2]


@pytest.mark.parametrize(("message", "result"), [(None, "unchanged"), (listed(), "changed"), ("?", "failed")])
def test_checks_are_counted_by_what_they_found(message: str | None, result: str) -> None:
    from datafetch_operator.metrics import DRIFT_CHECKS

    world = due(ready())
    before, count = world.status, DRIFT_CHECKS.labels(result=result)
    counted = count._value.get()
    answer(world, message)
    _count(before, world.status)
    _count(world.status, world.status)
    assert count._value.get() == counted + 1


# --- its Job ---------------------------------------------------------------------------------------------------------


def check(**spec: Any) -> Check:
    made: DataFetch = fetch(refresh=HOURLY, **spec)
    return Check(made, bound_claim(), START)


def test_a_check_sees_the_sources_as_a_download_does_and_has_nowhere_to_write() -> None:
    made = check(sources=SOURCES, job=JOB)
    job, download = render_check_job(made, SETTINGS), render_job(_as_attempt(made), SETTINGS)
    pod, other = job["spec"]["template"]["spec"], download["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == [
        v["name"] for v in other["volumes"] if v["name"] != "volume"
    ]
    assert "persistentVolumeClaim" not in yaml.safe_dump(job)
    (container,), (theirs,) = pod["containers"], other["containers"]
    assert container["volumeMounts"] == [mount for mount in theirs["volumeMounts"] if mount["name"] != "volume"]
    for field in ("env", "image", "resources", "securityContext"):
        assert container[field] == theirs[field]
    for field in ("nodeSelector", "tolerations", "serviceAccountName", "imagePullSecrets", "securityContext"):
        assert pod[field] == other[field]
    assert pod["automountServiceAccountToken"] is False


def test_a_check_is_told_from_a_download_by_its_role_and_runs_only_what_was_rendered() -> None:
    made = check()
    job, config = render_check_job(made, SETTINGS), render_check_config_map(made)
    assert job["metadata"]["labels"]["datafetch.io/role"] == "drift"
    assert job["spec"]["template"]["metadata"]["labels"]["datafetch.io/role"] == "drift"
    assert job["metadata"]["ownerReferences"][0]["uid"] == UID
    assert job["metadata"]["name"] == config["metadata"]["name"] == made.name
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command, _, what, option, digest, *_ = container["args"]
    assert (command, what, option) == ("plan", "--digest", "--config-digest")
    assert digest == render_job(_as_attempt(made), SETTINGS)["spec"]["template"]["spec"]["containers"][0]["args"][3]
    assert config["data"] == render_config_map(_as_attempt(made))["data"]
    assert config["immutable"] is True


def test_a_check_is_bounded() -> None:
    assert render_check_job(check(), SETTINGS)["spec"]["activeDeadlineSeconds"] == 3600
    short = render_check_job(check(job={"activeDeadlineSeconds": 60, "backoffLimit": 50}), SETTINGS)["spec"]
    assert (short["activeDeadlineSeconds"], short["backoffLimit"]) == (60, 1)


def test_a_check_of_a_fetch_with_shards_is_one_pod() -> None:
    job = render_check_job(check(job={"shards": 4}), SETTINGS)["spec"]
    assert "completions" not in job


def test_a_name_of_a_check_never_changes() -> None:
    # A check in flight would be made a second time by an upgrade.
    assert check().name == "tinyllama-b75b66eb98"
