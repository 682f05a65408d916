"""Observe, decide, apply: in which order the API is called, and what happens when a call fails."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import aiohttp
import pytest

from datafetch_api.report import to_line
from datafetch_api.resource import ConsumerPhase, DataFetchStatus, ObjectMeta
from datafetch_operator.cluster import Cluster
from datafetch_operator.consumers import Consumer
from datafetch_operator.errors import ApiError, ConflictError, NotFoundError, RefusedError
from datafetch_operator.observation import Claim, Job, Key, Mount, Notice, Pod, read_claim, read_job
from datafetch_operator.pacing import Pace
from datafetch_operator.reconcile import Reconciler
from datafetch_operator.status import EventRecord
from unit.operator.world import (
    NAMESPACE,
    SETTINGS,
    START,
    UID,
    bound_claim,
    made_claim,
    one_node_claim,
    resource,
    some_progress,
)

KEY = Key(NAMESPACE, "tinyllama")
CREATE = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "10Gi"}}}


class FakeCluster:
    """The API server's part, in memory: what `Cluster` offers, with every call written down."""

    def __init__(self, body: dict[str, Any], claim: Claim | None = None) -> None:
        self.body: dict[str, Any] | None = body
        self.claim = claim
        self.jobs: dict[str, Job] = {}
        self.pods: tuple[Pod, ...] = ()
        self.manifests: dict[str, dict[str, Any]] = {}
        self.notices: tuple[Notice, ...] = ()
        self.log = ""
        self.calls: list[str] = []
        self.events: list[str] = []
        self.failing: dict[str, list[BaseException]] = {}
        self.mounts: tuple[Mount, ...] = ()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failing.get(name):
            raise self.failing[name].pop(0)

    @property
    def writes(self) -> list[str]:
        return [call for call in self.calls if call.split("_")[0] in ("apply", "create", "delete", "grow")]

    async def read_fetch(self, _: Key) -> dict[str, Any] | None:
        self._call("read_fetch")
        return self.body

    async def read_claim(self, _: str, __: str) -> Claim | None:
        return self.claim

    async def list_jobs(self, _: str, __: str) -> tuple[Job, ...]:
        self._call("list_jobs")
        return tuple(self.jobs.values())

    async def list_pods(self, _: str, __: str) -> tuple[Pod, ...]:
        return self.pods

    async def list_notices(self, _: str, uid: str) -> tuple[Notice, ...]:
        self._call(f"notices {uid}")
        return tuple(notice for notice in self.notices if notice.uid == uid)

    async def read_log_tail(self, _: str, pod: str, container: str = "datafetch") -> str:
        self._call("read_log" if container == "datafetch" else f"read_log {pod} {container}")
        return self.log

    async def list_mounts(self, _: str, __: str) -> tuple[Mount, ...]:
        self._call("list_mounts")
        return self.mounts

    async def apply_status(self, metadata: ObjectMeta, status: DataFetchStatus) -> str:
        self._call("apply_status")
        assert self.body is not None
        assert metadata.resource_version == self.body["metadata"]["resourceVersion"]
        version = str(int(metadata.resource_version) + 1)
        self.body["metadata"]["resourceVersion"] = version
        self.body["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        return version

    async def create_claim(self, manifest: dict[str, Any]) -> bool:
        self._call("create_claim")
        metadata = manifest["metadata"] | {"uid": "claim-1", "creationTimestamp": START.isoformat()}
        self.claim = read_claim({**manifest, "metadata": metadata})
        return True

    async def grow_claim(self, _: str, __: str, requested: str) -> None:
        self._call("grow_claim")
        assert self.claim is not None
        self.claim = replace(self.claim, requested=requested)

    async def create_config_map(self, manifest: dict[str, Any]) -> None:
        self._call("create_config_map")
        self.manifests[manifest["metadata"]["name"]] = manifest

    async def create_job(self, manifest: dict[str, Any]) -> None:
        self._call("create_job")
        metadata = manifest["metadata"] | {"uid": "job-1", "creationTimestamp": START.isoformat()}
        self.jobs[metadata["name"]] = read_job({**manifest, "metadata": metadata})

    async def delete_job(self, _: str, name: str, uid: str) -> None:
        self._call("delete_job")
        assert self.jobs.pop(name).uid == uid

    async def delete_config_map(self, _: str, __: str) -> None:
        self._call("delete_config_map")

    async def post_event(self, _: ObjectMeta, event: EventRecord) -> None:
        self._call("post_event")
        self.events.append(str(event.reason))


def _play(cluster: FakeCluster, until: Callable[[], bool], *, notices: int = 1) -> Reconciler:
    """Let a reconciler work on the key until something holds, and end it."""

    async def run() -> Reconciler:
        reconciler = Reconciler(cast("Cluster", cluster), SETTINGS)
        task = asyncio.create_task(reconciler.run())
        for _ in range(notices):
            reconciler.notice(KEY)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            while not until():  # noqa: ASYNC110 - what is waited for is a state of the fake, not an event
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return reconciler

    return asyncio.run(run())


def test_the_status_counts_the_attempt_then_comes_the_config_map_then_the_job() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    assert cluster.writes == ["apply_status", "create_config_map", "create_job"]
    assert cluster.events == ["FetchStarted"]


def test_a_claim_is_made_first_and_told() -> None:
    cluster = FakeCluster(resource(target=CREATE))
    _play(cluster, lambda: bool(cluster.jobs))
    assert cluster.writes == ["create_claim", "apply_status", "create_config_map", "create_job"]
    assert cluster.events == ["ClaimCreated", "FetchStarted"]


def test_a_world_at_rest_is_looked_at_and_not_written() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs), notices=3)
    cluster.calls.clear()
    _play(cluster, lambda: cluster.calls.count("read_fetch") >= 3, notices=3)
    assert cluster.writes == []


@pytest.mark.parametrize("died_in", ["apply_status", "create_config_map", "create_job", "post_event"])
def test_whatever_call_fails_the_next_look_goes_on_from_there(died_in: str) -> None:
    cluster = FakeCluster(resource(), bound_claim())
    cluster.failing = {died_in: [ApiError(500, "InternalError", "etcdserver: request timed out")]}
    _play(cluster, lambda: bool(cluster.jobs))
    assert len(cluster.jobs) == 1
    assert cluster.body is not None
    assert cluster.body["status"]["attempts"] == 1


@pytest.mark.parametrize(
    "error",
    [
        ConflictError(409, "Conflict", "the object has been modified"),
        NotFoundError(404, "NotFound", "gone"),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        KeyError("a defect"),
    ],
)
def test_an_error_of_any_kind_means_again_later(error: BaseException) -> None:
    cluster = FakeCluster(resource(), bound_claim())
    cluster.failing = {"apply_status": [error]}
    _play(cluster, lambda: bool(cluster.jobs))
    assert cluster.calls.count("read_fetch") >= 2, "it is read again before it is written again"


def test_what_the_api_server_refuses_stands_in_the_status() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    refused = [RefusedError(403, "Forbidden", "exceeded quota: count/jobs.batch=1") for _ in range(2)]
    cluster.failing = {"create_job": list(refused)}
    _play(cluster, lambda: cluster.writes.count("apply_status") == 2)
    assert cluster.body is not None
    assert cluster.body["status"]["reason"] == "JobRejected"
    (said,) = [c["message"] for c in cluster.body["status"]["conditions"] if c["type"] == "Progressing"]
    assert "exceeded quota: count/jobs.batch=1" in said
    assert cluster.events == ["FetchStarted", "JobRejected"]


def test_a_claim_of_ours_is_grown_and_told() -> None:
    target = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "20Gi"}}}
    cluster = FakeCluster(resource(target=target), made_claim())
    _play(cluster, lambda: "ClaimGrown" in cluster.events)
    assert cluster.writes == ["apply_status", "create_config_map", "create_job", "grow_claim"]


def test_two_refusals_stand_in_the_status_side_by_side() -> None:
    target = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "20Gi"}}}
    cluster = FakeCluster(resource(target=target), made_claim())
    cluster.failing = {
        "create_job": [RefusedError(403, "Forbidden", "no jobs") for _ in range(2)],
        "grow_claim": [RefusedError(403, "Forbidden", "no growth") for _ in range(2)],
    }
    _play(cluster, lambda: "grow_claim" in cluster.calls and cluster.writes[-1] == "apply_status")
    assert cluster.body is not None
    said = {c["type"]: c["message"] for c in cluster.body["status"]["conditions"]}
    assert "no jobs" in said["Progressing"]
    assert "no growth" in said["TargetReady"]


def test_a_resource_that_is_gone_is_forgotten() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    cluster.body = None
    _play(cluster, lambda: "read_fetch" in cluster.calls)
    assert cluster.writes == []


def test_a_spec_of_another_version_is_refused_in_words_and_nothing_is_made() -> None:
    cluster = FakeCluster(resource(novelty=True), bound_claim())
    _play(cluster, lambda: "apply_status" in cluster.calls, notices=2)
    assert cluster.writes == ["apply_status"]
    assert cluster.body is not None
    (accepted,) = cluster.body["status"]["conditions"]
    assert (accepted["reason"], accepted["status"]) == ("InvalidSpec", "False")
    assert "novelty" in accepted["message"]


def test_a_status_that_cannot_be_read_is_made_anew() -> None:
    cluster = FakeCluster(resource() | {"status": {"attempts": "many"}}, bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    assert cluster.body is not None
    assert cluster.body["status"]["attempts"] == 1


def test_our_own_write_is_no_news() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    reconciler = _play(cluster, lambda: bool(cluster.jobs))
    assert cluster.body is not None
    version = cluster.body["metadata"]["resourceVersion"]

    async def looked_at(version: str) -> bool:
        reconciler.notice(KEY, version)
        return len(reconciler._loop) > 0

    assert not asyncio.run(looked_at(version))
    assert asyncio.run(looked_at("999"))


def test_progress_is_read_from_the_running_pod_and_then_left_alone_until_it_is_due() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    (name,) = cluster.jobs
    cluster.pods = (Pod("p", "u", name, "Running", START),)
    cluster.log = "noise\n" + to_line(some_progress(completed=400)) + "\n"
    _play(cluster, lambda: cluster.calls.count("read_log") > 0, notices=4)
    assert cluster.body is not None
    assert cluster.body["status"]["progress"]["completedBytes"] == 400
    assert cluster.calls.count("read_log") == 1


def test_events_are_asked_for_only_where_something_waits() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    _play(cluster, lambda: "notices job-1" in cluster.calls)  # START is long ago
    (name,) = cluster.jobs
    cluster.pods = (Pod("p", "pod-1", name, "Running", START),)
    cluster.calls.clear()
    _play(cluster, lambda: "read_log" in cluster.calls)
    assert not [call for call in cluster.calls if call.startswith("notices")]


def test_a_refresh_knows_what_may_be_pruned() -> None:
    cluster = FakeCluster(resource(refresh={"trigger": "t"}), bound_claim())
    artifact = {
        "specHash": "v1:old",
        "manifestDigest": "sha256:a",
        "claimUID": "claim-1",
        "sizeBytes": 1,
        "files": 1,
        "completionTime": "2026-01-30T00:00:00Z",
    }
    assert cluster.body is not None
    cluster.body["status"] = {"artifact": artifact}
    cluster.mounts = (Mount("p", START - timedelta(hours=2)), Mount("q", START))
    _play(cluster, lambda: bool(cluster.jobs))
    (manifest,) = cluster.manifests.values()
    assert "prune_replaced_before: '2026-01-31T10:00:00Z'" in manifest["data"]["config.yaml"]


def test_a_first_fetch_asks_nobody_about_pruning() -> None:
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    assert "list_mounts" not in cluster.calls


# --- the pods that ask for the data ----------------------------------------------------------------------------------


def _running_download() -> FakeCluster:
    """Return a cluster with a download that runs, whose progress is known and in whose log there is more."""
    cluster = FakeCluster(resource(), bound_claim())
    _play(cluster, lambda: bool(cluster.jobs))
    (name,) = cluster.jobs
    cluster.pods = (Pod("p", "u", name, "Running", START),)
    _play(cluster, lambda: "read_log" in cluster.calls)
    cluster.calls.clear()
    cluster.log = to_line(some_progress(completed=400)) + "\n"
    return cluster


def _indexed(cluster: FakeCluster, jobs: tuple[Job, ...], pods: tuple[Pod, ...], until: Callable[[], bool]) -> None:
    """Let a reconciler look at the key with what the watcher knows of the work."""

    async def play(reconciler: Reconciler) -> None:
        reconciler.use_indices({}, {})
        reconciler.use_work({UID: jobs}, {UID: pods})
        reconciler.notice(KEY)
        await _until(until)

    _play_pods(cluster, play)


def test_what_the_watcher_knows_is_not_listed_again_where_nothing_but_progress_is_new() -> None:
    cluster = _running_download()
    _indexed(cluster, tuple(cluster.jobs.values()), cluster.pods, lambda: "apply_status" in cluster.calls)
    assert "list_jobs" not in cluster.calls
    assert cluster.writes == ["apply_status"]


def test_a_watcher_that_is_behind_causes_a_look_and_no_action() -> None:
    cluster = _running_download()
    _indexed(cluster, (), (), lambda: "list_jobs" in cluster.calls)
    assert "create_job" not in cluster.writes


def _recipe() -> dict[str, Any]:
    body = resource("tinyllama")
    del body["spec"]["target"]
    return body


def _pods(phase: ConsumerPhase, *names: str) -> dict[Key, list[Consumer]]:
    return {KEY: [Consumer(name, f"uid-{name}", phase) for name in names]}


def _play_pods(cluster: FakeCluster, play: Callable[[Reconciler], Awaitable[None]]) -> None:
    """Let a reconciler work while the test plays with its pods."""

    async def run() -> None:
        reconciler = Reconciler(cast("Cluster", cluster), SETTINGS)
        task = asyncio.create_task(reconciler.run())
        try:
            await play(reconciler)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is waited for is a state of the fake, not an event
            await asyncio.sleep(0.005)


def _consumers(cluster: FakeCluster) -> Any:
    assert cluster.body is not None
    return cluster.body["status"].get("consumers")


def test_the_pods_that_ask_for_a_recipe_stand_in_its_status_and_how_far_each_is() -> None:
    cluster = FakeCluster(_recipe())
    cluster.log = to_line(some_progress(420))

    async def play(reconciler: Reconciler) -> None:
        pods = _pods(ConsumerPhase.FETCHING, "app-0")[KEY] + _pods(ConsumerPhase.STARTED, "app-1")[KEY]
        reconciler.use_indices({}, {KEY: pods})
        reconciler.notice(KEY)
        await _until(lambda: bool(cluster.writes))

    _play_pods(cluster, play)
    assert _consumers(cluster) == {
        "count": 2,
        "pods": [{"name": "app-0", "phase": "Fetching", "percent": 42}, {"name": "app-1", "phase": "Started"}],
    }
    assert cluster.body is not None
    assert cluster.body["status"]["phase"] == "Recipe"
    assert [call for call in cluster.calls if "log" in call] == ["read_log app-0 datafetch-get-tinyllama"]


def test_of_a_fetch_with_a_target_no_pod_is_asked_how_far_it_is() -> None:
    cluster = FakeCluster(resource(), bound_claim())

    async def play(reconciler: Reconciler) -> None:
        reconciler.use_indices({}, _pods(ConsumerPhase.WAITING, "app-0"))
        reconciler.notice(KEY)
        await _until(lambda: bool(cluster.jobs))

    _play_pods(cluster, play)
    assert _consumers(cluster) == {"count": 1, "pods": [{"name": "app-0", "phase": "Waiting"}]}
    assert not [call for call in cluster.calls if "log" in call]
    assert cluster.writes.count("apply_status") == 1, "the first count goes with what is written anyway"


def test_a_thousand_pods_that_start_are_two_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datafetch_operator.reconcile._GATHER_SECONDS", 0.01)
    cluster = FakeCluster(_recipe())

    async def play(reconciler: Reconciler) -> None:
        now = 0.0
        reconciler._pace = Pace(lambda: now)
        for number in range(1000):
            reconciler.use_indices({}, _pods(ConsumerPhase.STARTED, *[f"app-{each}" for each in range(number + 1)]))
            reconciler.notice_consumers(KEY)
            if number % 100 == 0:
                reconciler.notice(KEY)  # An event of its own brings it to a look, not to a write.
                await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        assert cluster.writes == ["apply_status"]
        assert cluster.calls.count("read_fetch") < 20, "a thousand events are few looks"
        now = 10.0
        reconciler._soon.pop(KEY).cancel()
        reconciler.notice_consumers(KEY)
        await _until(lambda: len(cluster.writes) == 2)

    _play_pods(cluster, play)
    assert _consumers(cluster)["count"] == 1000


def test_what_is_held_back_is_written_when_it_is_due() -> None:
    cluster = FakeCluster(_recipe())

    async def play(reconciler: Reconciler) -> None:
        reconciler._pace.note_consumers_write(KEY)
        reconciler.use_indices({}, _pods(ConsumerPhase.STARTED, "app-0"))
        cluster.body = _recipe() | {"status": {"observedGeneration": 1}}
        reconciler.notice(KEY)  # The first look settles all but the pods: they go along.
        await _until(lambda: len(cluster.writes) == 1)
        reconciler.use_indices({}, _pods(ConsumerPhase.STARTED, "app-0", "app-1"))
        reconciler.notice(KEY)
        await _until(lambda: KEY in reconciler._soon)
        assert len(cluster.writes) == 1

    _play_pods(cluster, play)


def test_pods_at_rest_are_looked_at_and_nothing_is_written() -> None:
    cluster = FakeCluster(_recipe())
    cluster.log = to_line(some_progress(420))

    async def play(reconciler: Reconciler) -> None:
        reconciler.use_indices({}, _pods(ConsumerPhase.FETCHING, "app-0"))
        now = 0.0
        reconciler._pace = Pace(lambda: now)
        for looks in range(1, 4):
            reconciler.notice(KEY)
            await _until(lambda: cluster.calls.count("read_fetch") >= looks)  # noqa: B023 - it is over before the next
            await asyncio.sleep(0.01)
            now += 20
        reconciler.use_indices({}, {})
        reconciler.notice(KEY)
        await _until(lambda: len(cluster.writes) == 2)

    _play_pods(cluster, play)
    assert cluster.writes == ["apply_status"] * 2
    assert _consumers(cluster) is None, "when nobody asks any more, nothing stands there"


def test_who_mounts_a_claim_of_one_node_is_asked_before_its_job_is_made() -> None:
    cluster = FakeCluster(resource(), one_node_claim())
    cluster.mounts = (Mount("trainer-0", START, "node7"),)
    _play(cluster, lambda: bool(cluster.jobs))
    (job,) = cluster.jobs.values()
    assert job.node == "node7"
    assert cluster.calls.count("list_mounts") == 1


def test_a_claim_of_one_pod_that_is_in_use_is_told_once() -> None:
    cluster = FakeCluster(resource(), one_node_claim("ReadWriteOncePod"))
    cluster.mounts = (Mount("trainer-0", START, "node7"),)
    _play(cluster, lambda: cluster.calls.count("list_mounts") == 3, notices=3)
    assert cluster.events == ["ClaimInUse"]
    assert cluster.writes == ["apply_status"]
