"""What an unfinished Job does or waits for: a reason, a sentence, and when to look again."""

from dataclasses import replace
from datetime import timedelta

import pytest

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Progress, Stage
from datafetch_api.resource import ProgressStatus
from datafetch_operator.observation import Notice, Observation
from datafetch_operator.waiting import Activity, ask_again, claim_to_ask, is_news, to_ask, watch
from unit.operator.world import START, World, fetch, pending_claim, some_progress


def _world() -> World:
    world = World()
    world.settle()
    return world


def _activity(world: World, progress: Progress | None = None) -> Activity:
    return watch(world.see(progress), world.job)


def _notice(world: World, uid: str, reason: str, message: str, *, warning: bool = True) -> None:
    world.notices = (*world.notices, Notice(uid, reason, message, warning, world.now))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: small, requested: pods=1', "QuotaExceeded"),
        ('pods "x" is forbidden: failed quota: q: must specify limits.memory', "QuotaExceeded"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "PodSecurityViolation"),
        ('error looking up service account a/b: serviceaccount "b" not found', "ServiceAccountNotFound"),
        ('admission webhook "policy" denied the request', "PodCreationFailed"),
    ],
)
def test_a_job_that_cannot_make_its_pod(words: str, reason: str) -> None:
    world = _world()
    world.pass_time(10)
    _notice(world, world.job.uid, "FailedCreate", f"Error creating: {words}")
    activity = _activity(world)
    assert (activity.moving, activity.reason) == (False, reason)
    assert words in activity.message
    assert activity.look_again_seconds == 10


@pytest.mark.parametrize(
    ("event", "words", "reason"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "v": rpc error', "VolumeMountFailed"),
        ("FailedAttachVolume", "Multi-Attach error for volume", "VolumeAttachFailed"),
        ("FailedCreatePodSandBox", "network plugin is not ready", "SandboxFailed"),
    ],
)
def test_a_pod_that_cannot_start(event: str, words: str, reason: str) -> None:
    world = _world()
    pod = world.run_pod(phase="Pending", waiting_reason="ContainerCreating")
    world.pass_time(10)
    _notice(world, pod.uid, event, words)
    _notice(world, pod.uid, "Scheduled", "assigned", warning=False)
    activity = _activity(world)
    assert (activity.moving, activity.reason, activity.message) == (False, reason, words)


def test_nobody_is_asked_before_ten_seconds_have_passed() -> None:
    world = _world()
    world.pass_time(9)
    assert to_ask(world.see(), world.job) == ()
    assert _activity(world).look_again_seconds == 1
    world.pass_time(1)
    assert to_ask(world.see(), world.job) == (world.job.uid,)
    pod = world.run_pod(phase="Pending")
    assert to_ask(world.see(), world.job) == ()
    world.pass_time(10)
    assert to_ask(world.see(), world.job) == (pod.uid,)
    world.pods[-1] = replace(pod, phase="Running")
    assert to_ask(world.see(), world.job) == ()


def test_the_claim_is_asked_too_while_it_is_pending() -> None:
    world = _world()
    world.claim = pending_claim()
    pod = world.run_pod(phase="Pending")
    world.pass_time(10)
    assert to_ask(world.see(), world.job) == (pod.uid, "claim-1")
    assert claim_to_ask(None, world.now) == ()


def test_a_pod_without_a_node_says_so_in_the_schedulers_words_and_the_claims() -> None:
    world = _world()
    world.claim = pending_claim()
    world.run_pod(phase="Pending", unschedulable="0/1 nodes are available: 1 Insufficient cpu.")
    assert _activity(world).moving, "it may be over in a moment"
    world.pass_time(10)
    _notice(world, "claim-1", "ProvisioningFailed", "no such class")
    activity = _activity(world)
    assert (activity.moving, activity.reason) == (False, "Unschedulable")
    assert "Insufficient cpu" in activity.message
    assert "no such class" in activity.message


def test_an_image_that_cannot_be_pulled_is_told_at_once_and_in_steady_words() -> None:
    world = _world()
    pod = world.run_pod(phase="Pending", waiting_reason="ErrImagePull", waiting_message="not found: example.org/df")
    world.settle()
    assert world.condition("Progressing")[1:] == ("ImagePullFailed", "not found: example.org/df")
    world.pods[-1] = replace(pod, waiting_reason="ImagePullBackOff", waiting_message="Back-off pulling image")
    assert world.settle() == 0


def test_a_secret_that_only_the_environment_wants_is_named_too() -> None:
    world = _world()
    world.run_pod(
        phase="Pending", waiting_reason="CreateContainerConfigError", waiting_message='secret "env" not found'
    )
    activity = _activity(world)
    assert activity.reason == "SecretNotFound"
    assert "'env'" in activity.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('configmap "corp-ca" not found', "create it"),
        ("configmap references non-existent config key: ca.crt", "has no key 'ca.crt'"),
    ],
)
def test_certificates_that_are_not_there_are_named_as_a_secret_is(words: str, said: str) -> None:
    source = {"name": "corpus", "caBundle": {"configMapName": "corp-ca"}, "s3": {"bucket": "training"}}
    world = World(fetch(sources=[source]))
    world.settle()
    pod = world.run_pod(phase="Pending", waiting_reason="ContainerCreating")
    world.pass_time(10)
    _notice(world, pod.uid, "FailedMount", f'MountVolume.SetUp failed for volume "authorities-0" : {words}')
    activity = _activity(world)
    assert (activity.moving, activity.reason) == (False, "ConfigMapNotFound")
    assert "ConfigMap 'corp-ca' of source 'corpus'" in activity.message
    assert said in activity.message


def test_a_config_map_of_nobodys_source_is_told_as_kubelet_says_it() -> None:
    world = _world()
    pod = world.run_pod(phase="Pending", waiting_reason="ContainerCreating")
    world.pass_time(10)
    _notice(world, pod.uid, "FailedMount", 'MountVolume.SetUp failed for volume "config" : configmap "x-1" not found')
    activity = _activity(world)
    assert activity.reason == "VolumeMountFailed"
    assert "create it" not in activity.message


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (Stage.WAITING, "TargetLocked"),
        (Stage.LISTING, "Listing"),
        (Stage.FETCHING, "Fetching"),
        (Stage.PUBLISHING, "Publishing"),
    ],
)
def test_what_a_running_download_does(stage: Stage, reason: str) -> None:
    world = _world()
    world.run_pod()
    progress = some_progress().model_copy(update={"stage": stage, "message": "another pod holds it"})
    world.reconcile(progress)
    assert world.status.reason == reason
    assert world.condition("Progressing")[2].endswith("runs on node node0. another pod holds it")
    assert world.settle() == 0, "no news takes nothing back"


def test_the_first_news_is_looked_for_often_and_the_rest_at_the_pace_of_all() -> None:
    world = _world()
    world.run_pod()
    world.settle()
    assert _activity(world).look_again_seconds == 1
    world.reconcile(some_progress(total=None))
    assert _activity(world).look_again_seconds == 2
    world.reconcile(some_progress())
    assert _activity(world).look_again_seconds == 10
    crowded: Observation = replace(world.see(), progress_wait=25)
    assert watch(crowded, world.job).look_again_seconds == 25


def test_news_is_what_is_due_first_or_first_with_a_total() -> None:
    with_total, without = some_progress(), some_progress(total=None)
    listed, listing = ProgressStatus(total_bytes=1000), ProgressStatus()
    assert is_news(None, without, due=False)
    assert is_news(listing, with_total, due=False)
    assert is_news(listed, with_total, due=True)
    assert not is_news(listing, without, due=False)
    assert not is_news(listed, with_total, due=False)


def test_an_evicted_pod_that_is_replaced_is_no_step_back() -> None:
    world = _world()
    pod = world.run_pod()
    world.pods[-1] = replace(pod, phase="Failed", disrupted=True)
    activity = _activity(world)
    assert (activity.moving, activity.reason, activity.fetching) == (True, "Starting", True)


@pytest.mark.parametrize("phase", ["Running", "Failed", "Succeeded"])
@pytest.mark.parametrize("code", [0, ExitCode.INSUFFICIENT_SPACE])
def test_an_end_that_no_try_follows_is_no_retry(code: int, phase: str) -> None:
    world = _world()
    world.run_pod()
    world.end_pod(code)
    world.pods[-1] = replace(world.pods[-1], phase=phase)
    assert (_activity(world).reason, _activity(world).fetching) == ("Finishing", True)


def test_the_last_try_is_followed_by_none() -> None:
    world = World(fetch(job={"backoffLimit": 0}))
    world.settle()
    world.run_pod()
    world.end_pod(ExitCode.SOURCE_UNAVAILABLE)
    world.jobs[world.job.name] = replace(world.job, failed_pods=0)  # the Job has not counted it yet
    assert _activity(world).reason == "Finishing"


def test_a_pod_that_was_removed_counts_as_a_try() -> None:
    world = _world()
    world.jobs[world.job.name] = replace(world.job, failed_pods=1)
    activity = _activity(world)
    assert (activity.reason, activity.fetching) == ("Retrying", True)
    assert activity.message == "Try 2 of 7: the pod of the last was removed."


@pytest.mark.parametrize(("waited", "again"), [(0, 10), (60, 10), (600, 100), (86_400, 300)])
def test_what_has_waited_for_long_is_asked_about_rarely(waited: int, again: int) -> None:
    assert ask_again(timedelta(seconds=waited)) == again


def test_times_are_the_pods_own() -> None:
    world = _world()
    world.pass_time(3600)
    pod = world.run_pod(phase="Pending", waiting_reason="ContainerCreating")
    assert pod.created > START
    assert _activity(world).reason == "Starting"


def test_a_pod_on_a_node_that_is_lost_is_named_with_what_to_do() -> None:
    world = _world()
    world.run_pod(deleting=True, gone_by=START + timedelta(seconds=30))
    world.pass_time(39)
    activity = _activity(world)
    assert (activity.moving, activity.reason, activity.look_again_seconds) == (True, "Starting", 1)
    world.pass_time(1)
    activity = _activity(world)
    assert (activity.moving, activity.reason, activity.fetching) == (False, "PodNotGone", True)
    assert "by 2026-01-31 12:00:30 UTC" in activity.message
    assert "node 'node0'" in activity.message
    assert "out-of-service" in activity.message
    world.run_pod()
    assert _activity(world).reason == "Fetching"
