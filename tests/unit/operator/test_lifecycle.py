"""What follows from what was seen: the life of a DataFetch, case by case, on values."""

from dataclasses import replace
from datetime import timedelta

import pytest

from datafetch_api.exit_codes import ExitCode
from datafetch_api.resource import Phase
from datafetch_operator.lifecycle import Removal
from datafetch_operator.observation import Claim, Mount, Notice
from unit.operator.world import (
    START,
    UID,
    World,
    bound_claim,
    claimant,
    failure_message,
    fetch,
    hash_of,
    made_claim,
    one_node_claim,
    pending_claim,
    some_progress,
    success_message,
)

CREATE = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "10Gi"}}}
OTHER_SOURCES = [{"name": "weights", "s3": {"bucket": "models", "prefix": "mistral/"}}]


def started() -> World:
    world = World()
    world.settle()
    return world


def running() -> World:
    world = started()
    world.run_pod()
    world.settle()
    return world


def ready() -> World:
    world = running()
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    world.settle()
    return world


def failed(code: ExitCode = ExitCode.SOURCE_NOT_FOUND) -> World:
    world = started()
    world.fail(code)
    world.settle()
    return world


# --- the straight way ----------------------------------------------------------------------------------------------


def test_the_attempt_is_counted_before_its_job_is_made() -> None:
    world = World()
    world.reconcile()
    assert [write.split()[0] for write in world.writes] == ["status", "create"]
    assert (world.status.attempts, world.status.phase, world.status.reason) == (1, Phase.PENDING, "Starting")


def test_a_running_pod_means_fetching_and_its_progress_is_shown() -> None:
    world = running()
    world.reconcile(some_progress(completed=250, total=1000, rate=100))
    assert world.status.phase == Phase.FETCHING
    assert world.status.progress is not None
    assert (world.status.progress.percent, world.status.progress.bytes_per_second) == (25, 100)
    assert world.status.progress.estimated_completion_time == START.replace(second=8)
    assert world.condition("Progressing")[:2] == ("True", "Fetching")


def test_no_news_keeps_the_last_progress() -> None:
    world = running()
    world.reconcile(some_progress())
    assert world.decide().status == world.status


def test_a_complete_job_means_ready_and_its_result_is_kept() -> None:
    world = ready()
    artifact = world.status.artifact
    assert world.status.phase == Phase.READY
    assert artifact is not None
    assert (artifact.spec_hash, artifact.manifest_digest, artifact.claim_uid, artifact.size_bytes, artifact.files) == (
        hash_of(world),
        "sha256:abc",
        "claim-1",
        1000,
        2,
    )
    assert world.status.sources[0].resolved_revision == "abc123"
    assert world.status.progress is not None
    assert world.status.progress.percent == 100
    assert world.status.target is not None
    assert world.status.target.publication == "Link"
    assert [world.condition(kind)[0] for kind in ("Ready", "UpToDate", "Accepted", "TargetReady")] == ["True"] * 4
    assert [world.condition(kind)[0] for kind in ("Progressing", "Failed")] == ["False"] * 2


def test_ready_does_not_need_the_job_any_more() -> None:
    world = ready()
    world.jobs.clear()
    world.pods.clear()
    assert world.settle() == 0
    assert world.status.phase == Phase.READY


def test_a_finished_job_stays_for_its_time_to_live_and_then_goes() -> None:
    world = World(fetch(job={"ttlSecondsAfterFinished": 60}))
    world.settle()
    world.succeed()
    world.settle()
    name = world.job.name
    assert world.decide().requeue_seconds == 60
    world.pass_time(60)
    assert world.decide().remove == (Removal(name, "job-1"),)
    world.settle()
    assert world.jobs == {}
    assert world.status.phase == Phase.READY


# --- what starts it again, and what does not -----------------------------------------------------------------------


def test_new_content_fetches_again_and_the_old_data_stays_ready() -> None:
    world = ready()
    first = world.job.name
    world.change(sources=OTHER_SOURCES)
    world.settle()
    assert first not in world.jobs
    assert (world.status.phase, world.status.attempts) == (Phase.REFRESHING, 1)
    assert world.condition("Ready")[0] == "True"
    assert world.condition("UpToDate")[:2] == ("False", "SpecChanged")
    world.succeed()
    world.settle()
    assert world.condition("UpToDate")[0] == "True"


@pytest.mark.parametrize(
    "spec",
    [
        {"job": {"backoffLimit": 1}},
        {"transfer": {"maxConcurrency": 8}},
        {"sources": [{"name": "weights", "secretRef": {"name": "s"}, "s3": {"bucket": "models", "prefix": "llama/"}}]},
    ],
)
def test_a_change_of_anything_else_fetches_nothing(spec: dict[str, object]) -> None:
    world = ready()
    world.change(**spec)
    world.settle()
    assert world.jobs_made == 1
    assert world.status.observed_generation == 2
    assert all(condition.observed_generation == 2 for condition in world.status.conditions)


def test_a_change_of_anything_else_leaves_a_running_job_alone() -> None:
    world = running()
    world.change(transfer={"maxConcurrency": 8})
    world.settle()
    assert world.jobs_made == 1


def test_new_content_replaces_a_running_job() -> None:
    world = running()
    old = world.job
    world.change(sources=OTHER_SOURCES)
    decision = world.reconcile()
    assert decision.remove == (Removal(old.name, old.uid),)
    assert world.job.spec_hash == hash_of(world)


def test_a_new_trigger_fetches_again_once() -> None:
    world = ready()
    world.change(refresh={"trigger": "monday"})
    world.settle()
    assert world.status.phase == Phase.REFRESHING
    assert world.condition("UpToDate")[:2] == ("False", "TriggerPending")
    world.succeed()
    world.settle()
    assert (world.status.phase, world.status.last_handled_trigger, world.jobs_made) == (Phase.READY, "monday", 2)


def test_the_trigger_that_it_is_born_with_is_handled_by_its_first_fetch() -> None:
    world = World(fetch(refresh={"trigger": "born"}))
    world.settle()
    world.succeed()
    world.settle()
    assert (world.status.phase, world.status.last_handled_trigger, world.jobs_made) == (Phase.READY, "born", 1)


def test_a_trigger_that_is_taken_away_fetches_nothing() -> None:
    world = World(fetch(refresh={"trigger": "born"}))
    world.settle()
    world.succeed()
    world.settle()
    world.change(refresh={})
    world.settle()
    assert (world.status.phase, world.jobs_made) == (Phase.READY, 1)


# --- failure -------------------------------------------------------------------------------------------------------


def test_a_failed_job_means_failed_with_the_whole_story() -> None:
    world = failed()
    failure = world.status.last_failure
    assert failure is not None
    assert (failure.reason, failure.exit_code, failure.source, failure.retryable) == (
        "SourceNotFound",
        11,
        "weights",
        False,
    )
    assert failure.pod_name == world.pods[-1].name
    assert world.condition("Failed") == ("True", "SourceNotFound", "source 'weights': it went wrong")
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "SourceNotFound")


def test_failed_stays_failed_without_its_job_and_pods() -> None:
    world = failed()
    before = world.status
    world.pods.clear()
    assert world.settle() == 0
    world.jobs.clear()
    world.pass_time(3600)
    assert world.settle() == 0
    assert world.status == before


@pytest.mark.parametrize(
    "spec", [{"sources": OTHER_SOURCES}, {"refresh": {"trigger": "again"}}, {"transfer": {"maxConcurrency": 2}}]
)
def test_any_change_of_the_spec_ends_failed(spec: dict[str, object]) -> None:
    world = failed()
    world.change(**spec)
    world.settle()
    assert world.status.phase == Phase.PENDING
    assert world.jobs_made == 2
    assert world.condition("Failed")[0] == "False"
    assert world.status.last_failure is not None, "what happened last is told until it ends well"
    world.succeed()
    world.settle()
    assert world.status.last_failure is None


def test_a_failed_refresh_keeps_the_old_data_ready() -> None:
    world = ready()
    world.change(refresh={"trigger": "again"})
    world.settle()
    world.fail()
    world.settle()
    assert world.status.phase == Phase.FAILED
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Failed")[:2] == ("True", "SourceNotFound")
    assert world.status.last_handled_trigger is None


def test_a_grown_claim_starts_it_again_after_insufficient_space_only() -> None:
    for code, jobs in ((ExitCode.INSUFFICIENT_SPACE, 2), (ExitCode.SOURCE_NOT_FOUND, 1)):
        world = failed(code)
        world.claim = bound_claim(capacity="20Gi")
        world.settle()
        assert world.jobs_made == jobs, code
        assert world.status.attempts == jobs
        assert (world.status.phase == Phase.PENDING) == (code is ExitCode.INSUFFICIENT_SPACE)


def test_the_attempt_after_a_grown_claim_has_a_life_of_its_own() -> None:
    world = failed(ExitCode.INSUFFICIENT_SPACE)
    world.claim = bound_claim(capacity="20Gi")
    world.settle()
    world.jobs.clear()
    world.settle()
    assert (world.status.phase, world.status.attempts) == (Phase.PENDING, 3)
    world.fail(ExitCode.INSUFFICIENT_SPACE)
    world.settle()
    assert world.status.phase == Phase.FAILED
    assert world.status.last_failure is not None
    assert world.status.last_failure.attempt == 3
    world.claim = bound_claim(capacity="30Gi")
    world.settle()
    world.succeed()
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_a_claim_that_grew_while_the_attempt_ran_starts_it_again() -> None:
    world = running()
    world.claim = bound_claim(capacity="20Gi")
    world.settle()
    world.fail(ExitCode.INSUFFICIENT_SPACE)
    world.settle()
    assert (world.status.phase, world.status.attempts) == (Phase.PENDING, 2)


def test_a_failure_of_an_older_spec_does_not_hold_back_the_newer_one() -> None:
    world = running()
    world.change(transfer={"maxConcurrency": 2})
    world.end_pod(ExitCode.SOURCE_NOT_FOUND, failure_message(ExitCode.SOURCE_NOT_FOUND))
    world.end_job("Failed", "PodFailurePolicy")
    world.settle()
    assert (world.status.phase, world.status.attempts, world.jobs_made) == (Phase.PENDING, 2, 2)


# --- claims --------------------------------------------------------------------------------------------------------


def test_a_missing_claim_is_made_where_the_target_says_so() -> None:
    world = World(fetch(target=CREATE), claim=None)
    world.settle()
    assert world.writes[0] == "create claim"
    assert world.jobs_made == 1
    assert world.condition("TargetReady")[:2] == ("False", "ClaimPending")


def test_a_missing_claim_is_waited_for_where_nobody_said_to_make_it() -> None:
    world = World(claim=None)
    world.settle()
    assert (world.status.phase, world.status.reason, world.jobs_made) == (Phase.PENDING, "ClaimNotFound", 0)
    world.claim = bound_claim()
    world.settle()
    assert world.jobs_made == 1


def test_a_pending_claim_gets_its_job_which_may_be_its_first_consumer() -> None:
    world = World(claim=pending_claim())
    world.settle()
    assert world.jobs_made == 1


def test_a_claim_that_is_being_deleted_gets_no_job_and_loses_the_one_it_has() -> None:
    world = running()
    world.claim = replace(bound_claim(), deleting=True)
    world.settle()
    assert world.jobs == {}
    assert world.status.reason == "ClaimTerminating"


@pytest.mark.parametrize("claim", [None, bound_claim("claim-2")])
def test_a_replaced_claim_is_not_ready_and_is_filled_again(claim: object) -> None:
    world = ready()
    world.fetch = world.fetch.model_copy(update={"spec": fetch(target=CREATE).spec})
    world.claim = claim  # type: ignore[assignment] # parametrized
    world.settle()
    assert world.condition("Ready")[:2] == ("False", "ClaimReplaced")
    assert world.condition("UpToDate")[:2] == ("False", "ClaimReplaced")
    assert world.status.phase == Phase.PENDING
    world.succeed()
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.jobs_made == 2


def test_a_refused_claim_is_told_once_and_asked_for_again() -> None:
    world = World(fetch(target=CREATE), claim=None, refuses="exceeded quota")
    world.settle()
    assert world.condition("TargetReady")[:2] == ("False", "ClaimRejected")
    assert "exceeded quota" in world.condition("TargetReady")[2]
    assert world.decide().create_claim
    world.refuses = None
    world.settle()
    assert world.jobs_made == 1


def test_a_refused_job_is_told_once_and_tried_again() -> None:
    world = World(refuses="strict decoding error")
    world.settle()
    assert world.condition("Progressing")[:2] == ("False", "JobRejected")
    assert "strict decoding error" in world.condition("Progressing")[2]
    assert world.decide(refusals={"start": "strict decoding error"}).requeue_seconds == 30
    world.pass_time(600)
    assert world.decide(refusals={"start": "strict decoding error"}).requeue_seconds == 100
    assert world.writes == ["status", "status"]
    world.refuses = None
    world.settle()
    assert world.condition("Progressing")[:2] == ("True", "Starting")


def test_a_claim_that_was_made_for_it_grows_with_its_size() -> None:
    world = World(fetch(target=CREATE), claim=made_claim())
    world.settle()
    assert "grow claim" not in world.writes
    world.change(target={"persistentVolumeClaim": {"claimName": "data", "create": {"size": "20Gi"}}})
    world.settle()
    assert world.claim is not None
    assert world.claim.requested == "20Gi"
    assert world.jobs_made == 1


@pytest.mark.parametrize("claim", [bound_claim(), replace(made_claim(), made_for="another"), pending_claim()])
def test_a_claim_of_somebody_else_is_used_as_it_is(claim: Claim) -> None:
    target = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "20Gi"}}}
    world = World(fetch(target=target), claim=claim)
    world.settle()
    assert world.claim == claim


def test_a_claim_that_may_not_grow_says_so_and_the_fetch_goes_on() -> None:
    target = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "20Gi"}}}
    world = World(fetch(target=target), claim=made_claim(), refuses="only dynamically provisioned pvc can be resized")
    world.settle()
    assert world.condition("TargetReady")[:2] == ("True", "ClaimNotGrown")
    assert "dynamically provisioned" in world.condition("TargetReady")[2]
    world.refuses = None
    world.settle()
    assert world.condition("TargetReady")[1] == "ClaimBound"
    assert world.jobs_made == 1


# --- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["tinyllama", "tinyllama/sub", "."])
def test_the_older_of_two_with_overlapping_paths_wins(path: str) -> None:
    mine = "tinyllama" if path != "." else "a/b"
    other = path if path != "." else "a"
    world = World(fetch(target={"persistentVolumeClaim": {"claimName": "data"}, "path": mine}))
    world.rivals = (claimant("elder", other, "2026-01-30T00:00:00Z", "0"),)
    world.settle()
    assert world.condition("Accepted")[:2] == ("False", "TargetConflict")
    assert "'elder'" in world.condition("Accepted")[2]
    assert (world.status.phase, world.jobs_made) == (Phase.PENDING, 0)
    world.rivals = ()
    world.settle()
    assert world.jobs_made == 1


@pytest.mark.parametrize(
    ("path", "created", "uid"),
    [
        ("tinyllama", "2026-02-01T00:00:00Z", "0"),  # younger
        ("tinyllama", "2026-01-31T12:00:00Z", "9"),  # as old, and the larger uid
        ("tinyllama-2", "2026-01-30T00:00:00Z", "0"),  # elsewhere: a common beginning is no common directory
    ],
)
def test_others_on_the_same_claim_do_not_disturb(path: str, created: str, uid: str) -> None:
    world = World(rivals=(claimant("other", path, created, uid),))
    world.settle()
    assert world.jobs_made == 1


def test_a_resource_without_target_is_a_recipe() -> None:
    recipe = fetch().model_copy(update={"spec": fetch().spec.model_copy(update={"target": None})})
    world = World(recipe, claim=None)
    world.settle()
    assert world.status.phase == Phase.RECIPE
    assert [condition.type for condition in world.status.conditions] == ["Accepted"]


def test_a_resource_that_is_being_deleted_is_left_to_its_owner_references() -> None:
    world = running()
    gone = world.fetch.metadata.model_copy(update={"deletion_timestamp": START})
    world.fetch = world.fetch.model_copy(update={"metadata": gone})
    assert world.settle() == 0


# --- suspend ---------------------------------------------------------------------------------------------------------


def test_suspend_stops_the_job_and_resume_goes_on_with_the_next_attempt() -> None:
    world = running()
    world.change(suspend=True)
    world.settle()
    assert (world.status.phase, world.jobs) == (Phase.SUSPENDED, {})
    world.change(suspend=False)
    world.settle()
    assert (world.status.attempts, world.jobs_made) == (2, 2)


def test_a_claim_that_would_be_created_is_not_asked_for_while_suspended() -> None:
    world = World(fetch(target=CREATE, suspend=True), claim=None)
    world.settle()
    assert world.claim is None
    truth, reason, message = world.condition("TargetReady")
    assert (truth, reason) == ("False", "ClaimPending")
    assert "is created when the fetch starts" in message


def test_a_result_that_comes_while_suspended_is_kept() -> None:
    world = started()
    world.succeed()
    world.change(suspend=True)
    world.settle()
    assert world.status.phase == Phase.SUSPENDED
    assert world.condition("Ready")[0] == "True"


# --- what gets lost --------------------------------------------------------------------------------------------------


def test_a_job_that_somebody_deletes_is_followed_by_the_next_attempt() -> None:
    world = running()
    world.jobs.clear()
    world.settle()
    assert (world.status.attempts, world.jobs_made) == (2, 2)


def test_a_job_that_was_counted_but_never_made_is_made() -> None:
    world = World()
    world.reconcile(dies_after=1)
    assert (world.status.attempts, world.jobs_made) == (1, 0)
    world.settle()
    assert (world.status.attempts, world.jobs_made) == (1, 1)


def test_a_lost_status_is_read_again_from_the_job() -> None:
    world = ready()
    before = world.status
    world.fetch = fetch()
    world.settle()
    assert world.jobs_made == 1
    assert world.status.artifact == before.artifact


def test_a_lost_status_without_its_job_costs_one_job() -> None:
    world = ready()
    world.fetch = fetch()
    world.jobs.clear()
    world.pods.clear()
    world.settle()
    assert world.jobs_made == 2
    world.succeed()
    world.settle()
    assert world.status.phase == Phase.READY


def test_a_result_that_went_with_its_pod_costs_one_job_after_a_pause() -> None:
    world = started()
    world.succeed()
    world.pods.clear()
    world.reconcile()
    assert world.jobs_made == 1
    assert world.decide().requeue_seconds == 10
    world.pass_time(10)
    world.settle()
    assert (world.status.attempts, world.jobs_made) == (2, 2)


def test_a_job_on_its_way_out_is_waited_for() -> None:
    world = running()
    name = world.job.name
    world.jobs[name] = replace(world.jobs[name], deleting=True)
    world.settle()
    assert world.jobs_made == 1
    del world.jobs[name]
    world.settle()
    assert world.jobs_made == 2


def test_jobs_of_somebody_else_are_never_touched() -> None:
    world = ready()
    foreign = replace(world.job, name="foreign", uid="x", owner_uid="somebody", finished=None)
    world.jobs["foreign"] = foreign
    world.change(sources=OTHER_SOURCES)
    world.settle()
    assert world.jobs["foreign"] == foreign


def test_a_leftover_job_is_removed() -> None:
    world = ready()
    world.jobs["leftover"] = replace(world.job, name="leftover", uid="x", finished=None)
    world.settle()
    assert "leftover" not in world.jobs


# --- what it waits for -----------------------------------------------------------------------------------------------


def test_a_missing_secret_is_named_and_the_fetch_goes_on_when_it_is_there() -> None:
    spec = [{"name": "weights", "secretRef": {"name": "hf"}, "s3": {"bucket": "models", "prefix": "llama/"}}]
    world = World(fetch(sources=spec))
    world.settle()
    pod = world.run_pod(phase="Pending", waiting_reason="ContainerCreating")
    world.pass_time(10)
    told = 'MountVolume.SetUp failed for volume "secret-0" : secret "hf" not found'
    world.notices = (Notice(pod.uid, "FailedMount", told, True, world.now),)
    world.settle()
    assert (world.status.phase, world.status.reason) == (Phase.PENDING, "SecretNotFound")
    assert "'hf'" in world.condition("Progressing")[2]
    assert "'weights'" in world.condition("Progressing")[2]
    world.pods[-1] = replace(pod, phase="Running", waiting_reason="")
    world.settle()
    assert world.status.phase == Phase.FETCHING


def test_retries_are_counted_and_the_last_reason_is_visible() -> None:
    world = running()
    world.end_pod(ExitCode.SOURCE_UNAVAILABLE, failure_message(ExitCode.SOURCE_UNAVAILABLE, "answered 503"))
    world.settle()
    assert (world.status.phase, world.status.reason) == (Phase.FETCHING, "Retrying")
    assert world.condition("Progressing")[2] == "Try 2 of 7: the last ended with SourceUnavailable: answered 503"
    world.run_pod()
    world.settle()
    assert world.status.phase == Phase.FETCHING
    assert "Try 2 of 7" in world.condition("Progressing")[2]


def test_times_of_conditions_move_only_with_their_status() -> None:
    world = started()
    world.pass_time(5)
    world.run_pod()
    world.settle()
    since = {condition.type: condition.last_transition_time for condition in world.status.conditions}
    assert since["Progressing"] == START
    world.pass_time(5)
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    world.settle()
    since = {condition.type: condition.last_transition_time for condition in world.status.conditions}
    assert since["Accepted"] == START
    assert since["Ready"] == world.now


# --- a claim that only one node, or one pod, can mount ---------------------------------------------------------------

TRAINER = Mount("trainer-0", START, "node7", tolerations=({"key": "gpu"},))


def test_a_job_goes_to_the_node_that_has_the_volume() -> None:
    younger = replace(TRAINER, pod="other", started=START + timedelta(seconds=1), node="node8")
    world = World(claim=one_node_claim(), mounts=(younger, TRAINER))
    decision = world.decide()
    assert decision.start is not None
    assert decision.start.beside == TRAINER
    world.settle()
    assert world.job.node == "node7"


@pytest.mark.parametrize(
    "mount",
    [
        replace(TRAINER, node=None),
        replace(TRAINER, deleting=True),
        replace(TRAINER, fetch_uid=UID),
    ],
    ids=["not scheduled yet", "on its way out", "our own, which makes way"],
)
def test_a_pod_that_does_not_keep_the_volume_binds_nobody(mount: Mount) -> None:
    world = World(claim=one_node_claim(), mounts=(mount,))
    decision = world.decide()
    assert decision.start is not None
    assert decision.start.beside is None


def test_a_claim_that_every_node_can_mount_binds_nobody_and_nobody_is_asked() -> None:
    world = World(mounts=(TRAINER,))
    assert world.see().mounts is None
    decision = world.decide()
    assert decision.start is not None
    assert decision.start.beside is None


def test_a_refresh_of_a_claim_that_every_node_can_mount_is_bound_to_none() -> None:
    world = ready()
    world.mounts = (TRAINER,)
    world.change(refresh={"trigger": "now"})
    decision = world.decide()
    assert decision.start is not None
    assert (decision.start.beside, decision.start.prune_replaced_before) == (None, START)


def test_a_claim_of_one_pod_that_is_in_use_is_waited_for_and_the_fetch_then_goes_on_by_itself() -> None:
    world = World(claim=one_node_claim("ReadWriteOncePod"), mounts=(TRAINER,))
    decision = world.reconcile()
    assert decision.requeue_seconds == 30
    assert world.status.phase == Phase.PENDING
    status, reason, message = world.condition("Progressing")
    assert (status, reason) == ("False", "ClaimInUse")
    assert "'trainer-0'" in message
    assert world.status.attempts == 0
    world.settle()
    world.mounts = ()
    world.settle()
    assert world.jobs_made == 1


def test_a_refresh_waits_for_the_claim_and_the_data_stays_ready() -> None:
    world = World(claim=one_node_claim("ReadWriteOncePod"))
    world.settle()
    world.succeed()
    world.settle()
    world.mounts = (TRAINER,)
    world.change(refresh={"trigger": "now"})
    world.settle()
    assert world.status.phase == Phase.REFRESHING
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Progressing")[:2] == ("False", "ClaimInUse")
    assert world.jobs_made == 1


@pytest.mark.parametrize("mount", [replace(TRAINER, node=None), replace(TRAINER, fetch_uid=UID)])
def test_a_pod_that_holds_no_volume_yet_is_not_waited_for(mount: Mount) -> None:
    world = World(claim=one_node_claim("ReadWriteOncePod"), mounts=(mount,))
    world.settle()
    assert world.jobs_made == 1


def _bound() -> World:
    world = World(claim=one_node_claim(), mounts=(TRAINER,))
    world.settle()
    world.run_pod(phase="Pending", node=None, unschedulable="0/3 nodes are available")
    world.pass_time(10)
    return world


def test_a_job_whose_node_is_full_waits_there_as_long_as_the_volume_does() -> None:
    world = _bound()
    world.settle()
    assert world.jobs_made == 1
    assert world.condition("Progressing")[1] == "Unschedulable"


@pytest.mark.parametrize("mounts", [(), (replace(TRAINER, deleting=True),), (replace(TRAINER, node="node9"),)])
def test_a_job_whose_node_is_lost_is_followed_by_one_where_the_volume_is_now(mounts: tuple[Mount, ...]) -> None:
    world = _bound()
    world.mounts = mounts
    world.settle()
    assert (world.jobs_made, len(world.jobs)) == (2, 1)
    assert world.job.node == (mounts[0].node if mounts and not mounts[0].deleting else None)
    assert world.status.attempts == 2


def test_a_claim_that_waits_for_its_first_consumer_is_waited_for_by_nobody() -> None:
    world = World(claim=replace(pending_claim(), access_modes=("ReadWriteOnce",)))
    world.settle()
    assert world.jobs_made == 1, "the download pod is the first consumer: pods that wait by gate are not scheduled"
