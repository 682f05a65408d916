"""A download that several pods share: what is made for it, how it goes on, and what its status says."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from datafetch_api.config import DownloadConfig
from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Progress, Result, SourceProgress, SourceSummary, Stage, to_line, to_termination_message
from datafetch_api.resource import Phase
from datafetch_api.spec_hash import spec_hash
from datafetch_operator import sharding, steps
from datafetch_operator.observation import Pod, read_job, read_pod
from datafetch_operator.render.config_map import Attempt, render_config, render_config_map
from datafetch_operator.render.job import render_job
from datafetch_operator.render.labels import Wanted
from unit.operator.test_reconcile import FakeCluster, _play
from unit.operator.world import (
    SETTINGS,
    START,
    World,
    bound_claim,
    failure_message,
    fetch,
    one_node_claim,
    resource,
    success_message,
)

GOLDEN = Path(__file__).parent / "golden"
SECRET = [{"name": "weights", "secretRef": {"name": "minio"}, "s3": {"bucket": "models", "prefix": "llama/"}}]


def attempt(shards: int | None, publishes: int = 0, **spec: Any) -> Attempt:
    job = {} if shards is None else {"shards": shards}
    made = fetch(job={"backoffLimit": 2, **job}, sources=SECRET, **spec)
    return Attempt(made, Wanted(spec_hash(made.spec.sources), None, "claim-1"), 1, bound_claim(), publishes=publishes)


def shared(shards: int = 3, **job: object) -> World:
    """Return a world in which the shards' Job has just been made."""
    world = World(fetch(job={"shards": shards, **job}))
    world.settle()
    return world


def part(total: int = 100, reused: int = 0) -> str:
    result = Result(
        exit_code=0,
        total_bytes=total,
        completed_bytes=total,
        reused_bytes=reused,
        total_files=1,
        completed_files=1,
        sources=(SourceSummary(name="weights", files=1, bytes=total),),
    )
    return to_termination_message(result)


def end_all(world: World) -> None:
    """Let every shard bring its part."""
    for _ in range(3):
        world.run_pod()
        world.end_pod(0, part(), "Completed")
    world.end_job("Complete")


def line(completed: int, total: int | None = 100, **more: object) -> Progress:
    content = {"stage": Stage.FETCHING, "time": START, "plan_bytes": 300, "plan_files": 3, "bytes_per_second": 5}
    return Progress.model_validate({**content, "total_bytes": total, "completed_bytes": completed, **more})


# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("sharded-job", render_job(attempt(4), SETTINGS)),
        ("sharded-config-map", render_config_map(attempt(4, transfer={"bandwidthLimit": "200Mi"}))),
        ("publishing-job", render_job(attempt(4, publishes=4), SETTINGS)),
    ],
)
def test_what_is_made_is_what_the_golden_file_says(name: str, made: dict[str, object]) -> None:
    text = yaml.safe_dump(made, sort_keys=False, width=120)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_one_pod_is_what_there_always_was() -> None:
    unset, one = attempt(None), attempt(1)
    assert render_job(unset, SETTINGS) == render_job(one, SETTINGS)
    assert render_config_map(unset) == render_config_map(one)
    assert "shards" not in render_config(one)


def test_shards_share_the_bandwidth_and_the_plan() -> None:
    config = DownloadConfig.model_validate(
        yaml.safe_load(render_config(attempt(4, transfer={"bandwidthLimit": "200Mi"})))
    )
    assert config.transfer.bandwidth_limit == 50 << 20
    assert config.managed is not None
    assert config.managed.shards is not None
    assert (config.managed.shards.count, config.managed.shards.plan) == (4, attempt(4).name)


def test_the_job_that_publishes_has_a_name_of_its_own_and_the_shards_plan() -> None:
    publisher, shards = attempt(4, publishes=4), attempt(4)
    assert publisher.name != shards.name
    assert publisher.plan == shards.name
    assert len({attempt(4, publishes=4).name, replace(publisher, number=2).name}) == 2


def test_a_job_is_read_as_it_was_made() -> None:
    manifest = render_job(attempt(4), SETTINGS)
    manifest["metadata"]["uid"] = "job-1"
    job = read_job(manifest)
    assert (job.shards, job.publishes, job.backoff_limit) == (4, "", 2)
    manifest = render_job(attempt(4, publishes=4), SETTINGS)
    manifest["metadata"]["uid"] = "job-2"
    assert (read_job(manifest).shards, read_job(manifest).publishes) == (1, job.name)


def test_a_pod_says_which_shard_it_is_of() -> None:
    labels = {"batch.kubernetes.io/job-completion-index": "2"}
    assert read_pod({"metadata": {"name": "p", "uid": "u", "labels": labels}}).index == 2
    assert read_pod({"metadata": {"name": "p", "uid": "u"}}).index == 0


# --- how it goes on --------------------------------------------------------------------------------------------------


def test_it_is_done_when_what_the_shards_have_brought_is_published() -> None:
    world = shared()
    end_all(world)
    world.settle()
    assert world.status.artifact is None, "nothing is published yet"
    shards, publisher = world.jobs.values()
    assert world.status.job_ref is not None
    assert publisher.publishes == shards.name == world.status.job_ref.name
    world.run_pod()
    world.settle()
    assert (world.status.phase, world.condition("Progressing")[1]) == (Phase.FETCHING, "Publishing")
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    world.settle()
    assert world.settle() == 0
    assert str(world.status.phase) == "Ready"
    assert world.status.attempts == 1
    assert world.status.artifact is not None
    assert world.status.artifact.size_bytes == 1000


def test_the_phase_does_not_go_back_between_the_two_jobs() -> None:
    world = shared()
    world.run_pod()
    world.settle()
    assert world.status.phase == Phase.FETCHING
    world.pods.clear()
    end_all(world)
    decision = world.decide()
    assert isinstance(decision.step, steps.Start)
    assert decision.status is not None
    assert decision.status.phase == Phase.FETCHING


def test_a_publication_that_was_removed_is_made_again() -> None:
    world = shared()
    end_all(world)
    world.settle()
    shards, publisher = world.jobs.values()
    del world.jobs[publisher.name]
    world.settle()
    assert list(world.jobs) == [shards.name, publisher.name]
    assert world.status.attempts == 1


def test_a_publication_that_fails_is_the_attempts_failure() -> None:
    world = shared()
    end_all(world)
    world.settle()
    world.fail(ExitCode.INTERNAL_ERROR)
    world.settle()
    assert world.status.phase == Phase.FAILED
    assert world.status.last_failure is not None
    assert world.status.last_failure.reason == "InternalError"
    world.change(refresh={"trigger": "again"})
    world.settle()
    (job,) = world.jobs.values()
    assert (job.attempt, job.shards) == (1, 3)


def test_the_shards_job_stays_until_it_is_published_whatever_its_time_to_live() -> None:
    world = shared(ttlSecondsAfterFinished=0)
    end_all(world)
    world.pass_time(60)
    world.settle()
    assert len(world.jobs) == 2
    world.succeed()
    world.settle()
    assert world.status.phase == Phase.READY
    assert not world.jobs


def test_suspended_between_the_two_it_publishes_when_it_goes_on() -> None:
    world = shared()
    end_all(world)
    world.settle()
    world.change(suspend=True, job={"shards": 3})
    world.settle()
    assert [job.shards for job in world.jobs.values()] == [3]
    world.change(suspend=False, job={"shards": 3})
    world.settle()
    assert [job.shards for job in world.jobs.values()] == [3, 1]
    world.succeed()
    world.settle()
    assert (world.status.phase, world.status.attempts) == (Phase.READY, 1)


def test_another_number_of_shards_is_for_the_next_attempt() -> None:
    world = shared(3)
    before = dict(world.jobs)
    world.run_pod()
    world.change(job={"shards": 5})
    world.settle()
    assert world.jobs.keys() == before.keys()
    world.pods.clear()
    end_all(world)
    world.settle()
    world.succeed()
    world.settle()
    assert world.status.phase == Phase.READY
    world.change(job={"shards": 5}, refresh={"trigger": "now"})
    world.settle()
    assert [job.shards for job in world.jobs.values()] == [5]


@pytest.mark.parametrize("creates", [False, True])
def test_a_claim_that_only_one_node_can_mount_is_refused(creates: bool) -> None:
    claim = {"claimName": "data", **({"create": {"size": "1Gi"}} if creates else {})}
    made = fetch(job={"shards": 2}, target={"persistentVolumeClaim": claim})
    world = World(made, claim=None if creates else one_node_claim())
    world.settle()
    truth, reason, message = world.condition("Accepted")
    assert (truth, reason, world.status.phase) == ("False", "InvalidSpec", Phase.FAILED)
    assert message == (
        "spec.job.shards is 2, and claim 'data' is ReadWriteOnce: only ReadWriteMany can be written by several pods. "
        "Use such a claim, or set spec.job.shards to 1."
    )
    assert not world.jobs
    assert world.claims_made == 0
    world.change(job={"shards": 1})
    world.settle()
    assert world.claim is not None


def test_what_runs_by_itself_is_not_refused_for_shards_that_are_wanted_later() -> None:
    world = World(claim=one_node_claim())
    world.settle()
    world.change(job={"shards": 2})
    world.settle()
    assert (len(world.jobs), world.condition("Accepted")[0]) == (1, "True")
    world.succeed()
    world.settle()
    assert world.condition("Accepted")[0] == "False"
    assert world.condition("Ready")[0] == "True", "what is published stays"


def test_archives_are_for_one_pod() -> None:
    source = {"name": "weights", "unpack": True, "s3": {"bucket": "models", "prefix": "llama/"}}
    world = World(fetch(job={"shards": 2}, sources=[source]))
    world.settle()
    assert world.condition("Accepted")[:2] == ("False", "InvalidSpec")
    assert "'weights' unpacks" in world.condition("Accepted")[2]


# --- what its status says --------------------------------------------------------------------------------------------


def test_a_shard_that_fails_is_named_and_those_it_took_along_are_not() -> None:
    world = shared()
    world.run_pod(index=0)
    world.end_pod(ExitCode.INTERRUPTED, failure_message(ExitCode.INTERRUPTED))
    world.run_pod(index=2)
    world.end_pod(ExitCode.CREDENTIALS_REJECTED, failure_message(ExitCode.CREDENTIALS_REJECTED, "refused"))
    world.run_pod(index=1)
    world.end_pod(ExitCode.INTERRUPTED, failure_message(ExitCode.INTERRUPTED))
    world.end_job("Failed", "PodFailurePolicy")
    world.settle()
    failure = world.status.last_failure
    assert failure is not None
    assert (failure.reason, failure.message) == ("CredentialsRejected", "Shard 2 of 3: refused")
    assert failure.pod_name == world.pods[1].name


def test_of_retryable_failures_the_shard_that_was_tried_most_is_named() -> None:
    world = shared()
    for index in (1, 1, 0):
        world.run_pod(index=index)
        world.end_pod(ExitCode.SOURCE_UNAVAILABLE, failure_message(ExitCode.SOURCE_UNAVAILABLE, f"of {index}"))
    world.end_job("Failed", "MaxFailedIndexesExceeded")
    world.settle()
    assert world.status.last_failure is not None
    assert world.status.last_failure.message == "Shard 1 of 3: of 1"


def test_what_runs_and_what_is_tried_again_stands_in_one_sentence() -> None:
    world = shared()
    world.run_pod(index=0)
    world.run_pod(index=1)
    world.end_pod(ExitCode.SOURCE_UNAVAILABLE, failure_message(ExitCode.SOURCE_UNAVAILABLE, "no answer"))
    world.run_pod(index=1)
    world.run_pod(index=2)
    world.end_pod(0, part(), "Completed")
    world.settle()
    assert world.condition("Progressing") == (
        "True",
        "Fetching",
        "2 of 3 shards run, 1 is done. Shard 1: try 2, the last ended with SourceUnavailable: no answer",
    )
    assert world.status.phase == Phase.FETCHING


def test_where_no_shard_runs_the_one_that_is_blocked_is_named() -> None:
    world = shared()
    for index in range(3):
        stuck = "0/1 nodes are available: 1 Insufficient cpu." if index == 1 else None
        world.run_pod(index=index, phase="Pending", node=None, unschedulable=stuck)
    world.pass_time(11)
    world.settle()
    truth, reason, message = world.condition("Progressing")
    assert (truth, reason) == ("False", "Unschedulable")
    assert message.startswith("Shard 1 of 3: No node takes the download pod: 0/1 nodes")


def news(world: World, *lines: Progress | None) -> Progress | None:
    running = [pod for pod in world.pods if pod.running]
    told = {pod.uid: told for pod, told in zip(running, lines, strict=True) if told is not None}
    return sharding.total(world.see(), next(iter(world.jobs.values())), told)


def test_progress_is_the_sum_of_the_shards() -> None:
    world = shared()
    world.run_pod(index=0)
    world.end_pod(0, part(100, reused=30), "Completed")
    world.run_pod(index=1)
    world.run_pod(index=2)
    source = SourceProgress(name="weights", state="Fetching", completed_bytes=20, total_bytes=100)
    late = START + timedelta(seconds=3)
    total = news(
        world,
        line(20, sources=(source,), last_progress_time=START),
        line(50, reused_bytes=5, sources=(source,), last_progress_time=late),
    )
    assert total is not None
    assert (total.total_bytes, total.completed_bytes, total.reused_bytes) == (300, 170, 35)
    assert (total.total_files, total.completed_files, total.percent) == (3, 1, 56)
    assert (total.bytes_per_second, total.last_progress_time) == (10, late)
    assert total.sources == (SourceProgress(name="weights", state="Fetching", completed_bytes=140, total_bytes=300),)


def test_until_the_plan_is_there_no_total_is_known() -> None:
    world = shared()
    world.run_pod(index=0)
    world.run_pod(index=1)
    listing = line(0, None, stage=Stage.LISTING, plan_bytes=None, plan_files=None)
    total = news(world, listing, None)
    assert total is not None
    assert (total.stage, total.total_bytes, total.percent) == (Stage.LISTING, None, None)


def test_a_shard_that_has_not_started_counts_as_not_done() -> None:
    world = shared()
    world.run_pod(index=1)
    total = news(world, line(100))
    assert total is not None
    assert total.percent == 33


def test_without_news_there_is_no_progress() -> None:
    world = shared()
    world.run_pod(index=1)
    assert news(world, None) is None


def test_the_log_of_each_shards_running_pod_is_read() -> None:
    world = shared()
    world.run_pod(index=0)
    world.end_pod(ExitCode.SOURCE_UNAVAILABLE, failure_message(ExitCode.SOURCE_UNAVAILABLE))
    again = world.run_pod(index=0)
    other = world.run_pod(index=2)
    (job,) = world.jobs.values()
    assert sharding.pods_with_news(world.see(), job) == (again, other)


def test_of_waiting_shards_the_first_ones_events_are_asked_for() -> None:
    world = shared()
    pods: list[Pod] = [world.run_pod(index=index, phase="Pending") for index in range(3)]
    (job,) = world.jobs.values()
    assert sharding.to_ask(world.see(), job) == ()
    world.pass_time(11)
    assert sharding.to_ask(world.see(), job) == (pods[0].uid,)


# --- what is asked of the API server ---------------------------------------------------------------------------------


def test_the_logs_of_all_shards_make_one_progress_and_one_write() -> None:
    cluster = FakeCluster(resource(job={"shards": 3}), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    (job,) = cluster.jobs.values()
    cluster.pods = tuple(
        Pod(f"p{shard}", f"u{shard}", job.name, "Running", START, node="node0", index=shard) for shard in range(3)
    )
    cluster.log = to_line(line(40)) + "\n"
    cluster.calls.clear()
    _play(cluster, lambda: cluster.body is not None and "progress" in cluster.body["status"])
    assert cluster.body is not None
    assert cluster.body["status"]["progress"]["completedBytes"] == 120
    assert cluster.body["status"]["progress"]["percent"] == 40
    assert cluster.calls.count("read_log") == 3
    assert cluster.calls.count("apply_status") == 1
