"""The loop of the pods that ask for data: what the API server is asked and told, and what happens when it refuses."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import aiohttp
import pytest

from datafetch_api.report import Result, to_termination_message
from datafetch_api.resource import ConsumerPhase
from datafetch_operator import metrics
from datafetch_operator.cluster import Cluster
from datafetch_operator.consumer_reconcile import ConsumerReconciler
from datafetch_operator.consumers import Consumer, PodKey, index_entries, read_consumer, read_fetch_state
from datafetch_operator.errors import ApiError, ConflictError, RefusedError
from datafetch_operator.observation import Key
from unit.operator.consumer_pods import (
    OTHER_GATE,
    Json,
    PodCluster,
    backing_off,
    condition,
    consumer,
    ended,
    fetch_body,
    gated,
    init_container,
    ready,
    running,
    waiting,
)
from unit.operator.world import NAMESPACE, SETTINGS

POD = PodKey(NAMESPACE, "app-0")
FORBIDDEN = 'pods "app-0" is forbidden: User "operator" cannot patch resource "pods".'


def _reconciler(cluster: PodCluster, clock: Callable[[], float] = lambda: 0.0) -> ConsumerReconciler:
    reconciler = ConsumerReconciler(cast("Cluster", cluster), SETTINGS, clock)
    index: dict[Key, list[Consumer]] = {}
    for body in cluster.pods.values():
        for key, entry in index_entries(read_consumer(body)).items():
            index.setdefault(key, []).append(entry)
    reconciler.use_index(index)
    return reconciler


def _notice(reconciler: ConsumerReconciler, body: Json, *, deleted: bool = False) -> tuple[Key, ...]:
    pod = read_consumer(body)
    assert pod is not None
    return reconciler.notice_pod(pod, deleted=deleted)


async def _run(reconciler: ConsumerReconciler) -> None:
    async with asyncio.TaskGroup() as tasks:
        reconciler.start(tasks)


def _play(cluster: PodCluster, until: Callable[[], bool], reconciler: ConsumerReconciler | None = None) -> None:
    """Let a reconciler work on the pods until something holds, and end it."""

    async def run() -> None:
        worker = reconciler or _reconciler(cluster)
        task = asyncio.create_task(_run(worker))
        for body in list(cluster.pods.values()):
            _notice(worker, body)
        async with asyncio.timeout(5):
            while not until():  # noqa: ASYNC110 - what is waited for is a state of the fake, not an event
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def _look(cluster: PodCluster, reconciler: ConsumerReconciler | None = None) -> float | None:
    return asyncio.run((reconciler or _reconciler(cluster))._look(POD))


def test_a_gate_goes_and_it_is_told_before() -> None:
    cluster = PodCluster()
    cluster.put(consumer("a", gates=[OTHER_GATE, "datafetch.io/data"]))
    cluster.fetches["a"] = ready("a")
    before = metrics.GATES_REMOVED._value.get()
    _play(cluster, lambda: bool(cluster.opened))
    assert cluster.writes == ["post_pod_event", "remove_gate"]
    assert cluster.told() == ["DataReady"]
    assert cluster.pods["app-0"]["spec"]["schedulingGates"] == [{"name": OTHER_GATE}]
    assert metrics.GATES_REMOVED._value.get() == before + 1


def test_a_pod_waits_on_and_is_told_once() -> None:
    cluster = PodCluster()
    cluster.put(gated("a"))
    reconciler = _reconciler(cluster)
    for _ in range(3):
        _look(cluster, reconciler)
    assert cluster.writes == ["post_pod_event"]
    assert cluster.told() == ["DataNotComing"]


def test_after_a_restart_what_was_told_is_not_told_again() -> None:
    cluster = PodCluster()
    cluster.put(gated("a"))
    _look(cluster)
    _look(cluster)
    assert cluster.writes == ["post_pod_event"] * 2, "the API server knows the name"
    assert cluster.told() == ["DataNotComing"]


def test_what_still_holds_is_told_again_when_the_api_server_has_forgotten_it() -> None:
    cluster, now = PodCluster(), [0.0]
    cluster.put(gated("a"))
    reconciler = _reconciler(cluster, lambda: now[0])
    _look(cluster, reconciler)
    cluster.events.clear()
    now[0] = 3599
    _look(cluster, reconciler)
    assert cluster.told() == []
    now[0] = 3600
    _look(cluster, reconciler)
    assert cluster.told() == ["DataNotComing"]


def test_a_missing_right_is_named_and_not_asked_for_without_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cluster = PodCluster()
    cluster.put(gated("a"))
    cluster.fetches["a"] = ready("a")
    cluster.failing["remove_gate"] = [RefusedError(403, "Forbidden", FORBIDDEN) for _ in range(9)]
    reconciler = _reconciler(cluster)
    _play(cluster, lambda: "GateNotRemoved" in cluster.told(), reconciler)
    assert cluster.calls.count("remove_gate") == 1
    (message,) = [words for _, reason, words in cluster.events.values() if reason == "GateNotRemoved"]
    assert FORBIDDEN in message
    assert "injection.gates.enabled" in message
    assert _look(cluster, reconciler) == 300
    assert len([record for record in caplog.records if "the right to patch pods" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("read_pod", ApiError(500, "InternalError", "etcdserver: request timed out")),
        ("read_fetch", aiohttp.ServerDisconnectedError()),
        ("post_pod_event", TimeoutError()),
        ("post_pod_event", RefusedError(403, "Forbidden", "no events")),
        ("remove_gate", ConflictError(409, "Conflict", "the object has been modified")),
        ("remove_gate", KeyError("a defect")),
    ],
)
def test_an_error_of_any_kind_means_again_later(call: str, error: BaseException) -> None:
    cluster = PodCluster()
    cluster.put(gated("a"))
    cluster.fetches["a"] = ready("a")
    cluster.failing[call] = [error]
    _play(cluster, lambda: bool(cluster.opened))


def test_a_pod_that_is_gone_is_forgotten() -> None:
    cluster = PodCluster()
    cluster.put(gated("a"))
    reconciler = _reconciler(cluster)
    _look(cluster, reconciler)
    cluster.pods.clear()
    _look(cluster, reconciler)
    assert reconciler._told == {}


def _kept(reconciler: ConsumerReconciler) -> int:
    return len(reconciler._loop)


def test_only_pods_that_wait_are_looked_at() -> None:
    async def count(body: Json) -> int:
        reconciler = _reconciler(PodCluster())
        _notice(reconciler, body)
        return _kept(reconciler)

    assert asyncio.run(count(gated("a"))) == 1
    assert asyncio.run(count(waiting("a"))) == 1
    assert asyncio.run(count(consumer("a"))) == 0
    assert asyncio.run(count(consumer("a", phase="Running"))) == 0


def test_a_fetch_is_told_of_its_pods_only_where_something_changed() -> None:
    async def play() -> None:
        reconciler = _reconciler(PodCluster())
        keys = (Key(NAMESPACE, "a"), Key(NAMESPACE, "b"))
        assert _notice(reconciler, gated("a", "b")) == keys
        assert _notice(reconciler, gated("a", "b")) == ()
        assert _notice(reconciler, consumer("a", "b", phase="Running")) == keys
        assert _notice(reconciler, consumer("a", "b", phase="Running")) == ()
        assert _notice(reconciler, consumer("a", "b", phase="Succeeded")) == keys
        assert _notice(reconciler, consumer("a", "b", phase="Succeeded"), deleted=True) == ()
        assert reconciler._noticed == {}

    asyncio.run(play())


def test_progress_of_a_fetch_wakes_none_of_the_pods_that_wait_for_it() -> None:
    async def play() -> None:
        cluster = PodCluster()
        cluster.put(gated("a"))
        cluster.put(consumer("a", name="app-1", uid="pod-2", phase="Running"))
        reconciler, key = _reconciler(cluster), Key(NAMESPACE, "a")
        fetching = read_fetch_state(key, fetch_body("a", "Fetching"))
        for state, waits in ((fetching, 1), (fetching, 0), (read_fetch_state(key, ready("a")), 1)):
            reconciler.notice_fetch(key, state, deleted=False)
            assert _kept(reconciler) == waits
            if waits:
                assert await reconciler._loop._queue.get() == POD
                reconciler._loop._queue.done(POD)
        reconciler.notice_fetch(key, read_fetch_state(key, None), deleted=True)
        assert _kept(reconciler) == 1
        assert reconciler._states == {}

    asyncio.run(play())


def test_what_events_did_not_say_the_resync_finds() -> None:
    cluster = PodCluster()
    cluster.put(gated("a"))
    settings = replace(SETTINGS, resync_seconds=0)
    reconciler = ConsumerReconciler(cast("Cluster", cluster), settings)
    body = cluster.pods["app-0"]
    entries = {key: [entry] for key, entry in index_entries(read_consumer(body)).items()}
    lost = Consumer("app-9", "its deletion was missed", ConsumerPhase.GATED)
    reconciler.use_index({key: [*found, lost] for key, found in entries.items()})
    cluster.fetches["a"] = ready("a")
    cluster.failing["list_consumer_uids"] = [TimeoutError()]

    async def run() -> None:
        task = asyncio.create_task(_run(reconciler))
        async with asyncio.timeout(5):
            while not cluster.opened or cluster.calls.count("list_consumer_uids") < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [pod.name for pod in reconciler.consumers_of(Key(NAMESPACE, "a"))] == ["app-0"]


def test_pods_are_counted_by_phase_each_once() -> None:
    cluster = PodCluster()
    cluster.put(gated("a", "b"))
    cluster.put(waiting("a", name="app-1", uid="pod-2"))
    cluster.put(consumer("a", name="app-2", uid="pod-3", phase="Succeeded"))
    cluster.fetches = {"a": fetch_body("a", "Fetching", condition("Progressing", "True")), "b": ready("b")}
    _play(cluster, lambda: bool(cluster.told()))
    phases = {phase: metrics.CONSUMERS.labels(phase=phase)._value.get() for phase in ("Gated", "Waiting", "Started")}
    assert phases == {"Gated": 1, "Waiting": 1, "Started": 0}


def test_what_pods_download_is_counted_once_and_how_they_fail() -> None:
    cluster = PodCluster()
    get, words = [init_container("datafetch-inline")], to_termination_message(Result(exit_code=0, completed_bytes=700))
    body = consumer(containers=get, statuses={"datafetch-inline": ended(0, words)})

    async def play() -> None:
        reconciler, before = _reconciler(cluster), metrics.CONSUMER_BYTES._value.get()
        _notice(reconciler, body)
        assert metrics.CONSUMER_BYTES._value.get() == before, "it ended before this operator came"
        reconciler = _reconciler(cluster)
        _notice(reconciler, consumer(containers=get, statuses={"datafetch-inline": running()}))
        for _ in range(2):
            _notice(reconciler, body)
            assert metrics.CONSUMER_BYTES._value.get() == before + 700

    asyncio.run(play())
    failures = metrics.CONSUMER_FAILURES.labels(reason="Stalled")
    before = failures._value.get()
    cluster.put(consumer(containers=get, statuses={"datafetch-inline": backing_off(15)}))
    reconciler = _reconciler(cluster)
    _look(cluster, reconciler)
    _look(cluster, reconciler)
    assert failures._value.get() == before + 1


def test_a_pod_whose_patience_is_not_over_is_looked_at_again() -> None:
    cluster = PodCluster()
    body = waiting("a")
    body["status"]["initContainerStatuses"] = [{"name": "datafetch-wait", **running("2126-01-31T12:00:00Z")}]
    cluster.put(body)
    assert (_look(cluster) or 0) > 0
    assert cluster.told() == []
