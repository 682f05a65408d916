"""Drift checks in the real loop: what is called in which order, beside a watcher that lags and limits of downloads."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from datafetch_operator.observation import Job, Pod, Termination
from unit.operator.test_budget_loop import CrowdedCluster, operator
from unit.operator.test_drift import HOURLY, ready
from unit.operator.test_reconcile import FakeCluster, _indexed, _play, _until
from unit.operator.world import bound_claim, resource, success_message


def overdue() -> FakeCluster:
    """Return a cluster whose DataFetch has been published long ago, and never looked at since."""
    status = ready().status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return FakeCluster(resource(refresh=HOURLY) | {"status": status}, bound_claim())


def checking() -> FakeCluster:
    cluster = overdue()
    _play(cluster, lambda: bool(cluster.jobs))
    return cluster


def answered() -> FakeCluster:
    cluster = checking()
    (job,) = cluster.jobs.values()
    time = datetime.now(UTC).replace(microsecond=0)
    cluster.jobs[job.name] = replace(job, finished="Complete", finish_time=time)
    ended = Termination(0, "Completed", success_message())
    cluster.pods = (Pod(f"{job.name}-0", "pod-0", job.name, "Succeeded", time, termination=ended),)
    cluster.calls.clear()
    return cluster


def drift(cluster: FakeCluster) -> Any:
    assert cluster.body is not None
    return cluster.body["status"].get("drift")


def test_a_check_is_a_config_map_then_a_job_and_no_status() -> None:
    cluster = checking()
    assert cluster.writes == ["create_config_map", "create_job"]
    (job,) = cluster.jobs.values()
    assert job.is_check
    assert cluster.manifests[job.name]["immutable"] is True


def test_an_answer_is_one_status_and_then_both_go() -> None:
    cluster = answered()
    _play(cluster, lambda: not cluster.jobs)
    assert cluster.writes == ["apply_status", "delete_config_map", "delete_job"]
    assert cluster.events == []
    assert drift(cluster)["changed"] is False


def test_while_a_check_runs_nothing_is_written() -> None:
    cluster = checking()
    cluster.calls.clear()
    _play(cluster, lambda: cluster.calls.count("read_fetch") >= 3, notices=3)
    assert cluster.writes == []


def test_a_watcher_that_has_not_seen_the_check_makes_no_second_one() -> None:
    cluster = checking()
    cluster.calls.clear()
    _indexed(cluster, (), (), lambda: "list_jobs" in cluster.calls)
    assert cluster.writes == []


def test_a_watcher_that_still_shows_the_check_writes_its_answer_once() -> None:
    cluster = answered()
    stale: tuple[Job, ...] = tuple(cluster.jobs.values())
    pods = cluster.pods
    _play(cluster, lambda: not cluster.jobs)
    before, cluster.pods = drift(cluster), ()
    cluster.calls.clear()
    _indexed(cluster, stale, pods, lambda: "list_jobs" in cluster.calls)
    assert cluster.writes == []
    assert drift(cluster) == before


def test_a_check_takes_nobodys_turn() -> None:
    cluster = CrowdedCluster()
    checked, other = cluster.add("a", "checked", refresh=HOURLY), cluster.add("b", "other")
    status = ready().status.model_dump(mode="json", by_alias=True, exclude_none=True)
    other_body = cluster.bodies.pop(other)
    cluster.bodies[checked] |= {"status": status}

    async def run() -> None:
        async with operator(cluster, most=1) as reconciler:
            await _until(lambda: checked in cluster.started)
            cluster.bodies[other] = other_body
            reconciler.notice(other)
            await _until(lambda: other in cluster.started)
        # A restarted operator counts what runs from what the watcher shows.
        name = next(name for name, job in cluster.jobs.items() if not job.is_check)
        del cluster.jobs[name]
        cluster.started.clear()
        async with operator(cluster, most=1):
            await _until(lambda: other in cluster.started)

    asyncio.run(run())
    assert any(job.is_check for job in cluster.jobs.values())
