"""Limits of downloads in the real loop: fetches, an API server in memory, a watcher that lags, and restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

from datafetch_api.resource import DataFetchStatus, ObjectMeta
from datafetch_operator.cluster import Cluster
from datafetch_operator.errors import RefusedError
from datafetch_operator.observation import Claim, Job, Key, Pod, Termination, read_job
from datafetch_operator.reconcile import Reconciler
from datafetch_operator.render.labels import UID_LABEL
from datafetch_operator.settings import Settings
from datafetch_operator.status import EventRecord
from unit.operator.world import START, bound_claim, resource, success_message

Json = dict[str, Any]


class CrowdedCluster:
    """An API server with many DataFetches, whose watcher shows Jobs only when `show` is called."""

    def __init__(self) -> None:
        self.bodies: dict[Key, Json] = {}
        self.jobs: dict[str, Job] = {}
        self.owners: dict[str, str] = {}
        """The uid of each Job's DataFetch."""
        self.pods: dict[str, list[Pod]] = {}
        self.shown: dict[str, list[Job]] = {}
        self.shown_pods: dict[str, list[Pod]] = {}
        self.keys: dict[str, list[Key]] = {}
        self.started: list[Key] = []
        self.most_at_a_time = 0
        self.status_writes: dict[Key, int] = {}
        self.events: list[str] = []
        self.refuses: set[Key] = set()

    def add(self, namespace: str, name: str, **spec: Any) -> Key:
        key, uid = Key(namespace, name), f"uid-{namespace}-{name}"
        body = resource(name, **spec)
        body["metadata"] |= {"namespace": namespace, "uid": uid}
        self.bodies[key], self.keys[uid] = body, [key]
        return key

    def show(self) -> None:
        """Let the watcher see the Jobs as they are."""
        for uid in self.keys:
            self.shown[uid] = [job for name, job in self.jobs.items() if self.owners[name] == uid]
            self.shown_pods[uid] = list(self.pods.get(uid, ()))

    def unfinished(self) -> list[Key]:
        return [self.keys[self.owners[name]][0] for name, job in self.jobs.items() if job.finished is None]

    def finish(self, key: Key) -> None:
        """Let the fetch's Job end well."""
        uid = self.bodies[key]["metadata"]["uid"]
        (name,) = [name for name, job in self.jobs.items() if self.owners[name] == uid and job.finished is None]
        self.jobs[name] = replace(self.jobs[name], finished="Complete", finish_time=START)
        ended = Termination(0, "Completed", success_message())
        self.pods[uid] = [Pod(f"{name}-0", f"pod-{name}", name, "Succeeded", START, termination=ended)]

    def reason(self, key: Key) -> str:
        return str(self.bodies[key].get("status", {}).get("reason"))

    def said(self, key: Key) -> str:
        conditions = self.bodies[key]["status"]["conditions"]
        return str(next(c["message"] for c in conditions if c["type"] == "Progressing"))

    # --- what the reconciler calls ---

    async def read_fetch(self, key: Key) -> Json | None:
        await asyncio.sleep(0)
        return self.bodies.get(key)

    async def read_claim(self, *_: str) -> Claim:
        await asyncio.sleep(0)
        return bound_claim()

    async def list_jobs(self, _: str, uid: str) -> tuple[Job, ...]:
        await asyncio.sleep(0)
        return tuple(job for name, job in self.jobs.items() if self.owners[name] == uid)

    async def list_pods(self, _: str, uid: str) -> tuple[Pod, ...]:
        return tuple(self.pods.get(uid, ()))

    async def list_notices(self, *_: str) -> tuple[()]:
        return ()

    async def list_mounts(self, *_: str) -> tuple[()]:
        return ()

    async def apply_status(self, metadata: ObjectMeta, status: DataFetchStatus) -> str:
        await asyncio.sleep(0)
        key = Key(metadata.namespace, metadata.name)
        body = self.bodies[key]
        version = str(int(body["metadata"]["resourceVersion"]) + 1)
        body["metadata"]["resourceVersion"] = version
        body["status"] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.status_writes[key] = self.status_writes.get(key, 0) + 1
        return version

    async def create_config_map(self, _: Json) -> None:
        await asyncio.sleep(0)

    async def create_job(self, manifest: Json) -> None:
        await asyncio.sleep(0)
        uid, name = manifest["metadata"]["labels"][UID_LABEL], manifest["metadata"]["name"]
        (key,) = self.keys[uid]
        if key in self.refuses:
            raise RefusedError(403, "Forbidden", "exceeded quota")
        created = {"uid": f"job-{name}", "creationTimestamp": START.isoformat()}
        self.jobs[name] = read_job({**manifest, "metadata": manifest["metadata"] | created})
        self.owners[name] = uid
        self.started.append(key)
        self.most_at_a_time = max(self.most_at_a_time, len(self.unfinished()))

    async def delete_job(self, _: str, name: str, __: str) -> None:
        self.jobs.pop(name, None)

    async def delete_config_map(self, *_: str) -> None:
        await asyncio.sleep(0)

    async def post_event(self, metadata: ObjectMeta, event: EventRecord) -> None:
        self.events.append(f"{metadata.name} {event.reason}")


@contextlib.asynccontextmanager
async def operator(
    cluster: CrowdedCluster, most: int | None = None, per_host: int | None = None
) -> AsyncIterator[Reconciler]:
    """Run an operator until the block ends; like kopf, it hears of everything that is there."""
    settings = Settings(downloader_image="example.org/d:1", most_active=most, most_active_per_host=per_host)
    reconciler = Reconciler(cast("Cluster", cluster), settings)
    cluster.show()
    reconciler.use_indices({}, {})
    reconciler.use_work(cluster.shown, cluster.shown_pods, cluster.keys)
    task = asyncio.create_task(reconciler.run())
    for key in cluster.bodies:
        reconciler.notice(key)
    try:
        yield reconciler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is a state of the fake, not an event
            await asyncio.sleep(0.002)


def _queued(cluster: CrowdedCluster) -> set[Key]:
    return {key for key in cluster.bodies if cluster.reason(key) == "Queued"}


def test_no_more_run_than_may_across_a_restart_and_a_lower_limit_and_all_get_there() -> None:
    cluster = CrowdedCluster()
    for number in range(9):
        cluster.add("greedy", f"g{number}")
    cluster.add("modest", "m")

    async def play() -> None:
        async with operator(cluster, most=4):
            await until(lambda: len(cluster.unfinished()) == 4 and len(_queued(cluster)) == 6)
            assert Key("modest", "m") not in cluster.started or len(cluster.started) == 4
        async with operator(cluster, most=2) as reconciler:
            await asyncio.sleep(0.05)
            assert len(cluster.unfinished()) == 4, "what runs is never stopped"
            while len(cluster.unfinished()) > 2:
                await _end_one(cluster, reconciler)
            assert len(cluster.started) == 4, "two of four ended, and two may run"
            cluster.most_at_a_time = 0
            while cluster.unfinished():
                await _end_one(cluster, reconciler)
                await until(lambda: len(cluster.unfinished()) == 2 or len(cluster.started) == 10)
        assert cluster.most_at_a_time == 2

    asyncio.run(play())
    assert {cluster.reason(key) for key in cluster.bodies} == {"Published"}
    assert len(cluster.started) == len(set(cluster.started)) == 10
    assert cluster.started.index(Key("modest", "m")) <= 4, "the namespace with the fewest goes first"
    assert max(cluster.status_writes.values()) <= 8
    assert cluster.events.count("g8 Queued") == 1


async def _end_one(cluster: CrowdedCluster, reconciler: Reconciler) -> None:
    """Let the oldest download end; the watcher tells it, and the look that follows has to bring the next."""
    key = cluster.unfinished()[0]
    cluster.finish(key)
    cluster.show()
    reconciler.notice(key)
    await until(lambda: cluster.reason(key) == "Published")
    await asyncio.sleep(0.01)


def test_who_waits_is_pending_and_told_its_place_and_a_refresh_stays_ready() -> None:
    cluster = CrowdedCluster()
    first, second = cluster.add("team", "first"), cluster.add("team", "second")
    cluster.add("team", "third")

    async def play() -> None:
        async with operator(cluster, per_host=1) as reconciler:
            await until(lambda: len(_queued(cluster)) == 2 and cluster.unfinished() == [first])
            status = cluster.bodies[second]["status"]
            assert status["phase"] == "Pending"
            assert not status.get("attempts"), "nothing has been attempted"
            assert cluster.said(second).startswith(
                "Waits for a free download from s3.amazonaws.com: 1 of 1 are active; position 1 of "
            )
            await _end_one(cluster, reconciler)
            await until(lambda: len(cluster.unfinished()) == 1)
            cluster.bodies[first]["spec"]["refresh"] = {"trigger": "again"}
            reconciler.notice(first)
            await until(lambda: cluster.reason(first) == "Queued")
            status = cluster.bodies[first]["status"]
            ready = next(c["status"] for c in status["conditions"] if c["type"] == "Ready")
            assert (status["phase"], ready) == ("Refreshing", "True")

    asyncio.run(play())


def test_who_is_suspended_or_deleted_leaves_the_queue_and_who_is_refused_gives_its_place_away() -> None:
    cluster = CrowdedCluster()
    runs, gone, asleep, refused, last = (
        cluster.add("team", name) for name in ("a-runs", "b-gone", "c-asleep", "d-refused", "e-last")
    )
    cluster.refuses.add(refused)

    async def play() -> None:
        async with operator(cluster, most=1) as reconciler:
            await until(lambda: len(_queued(cluster)) == 4 and cluster.unfinished() == [runs])
            del cluster.bodies[gone]
            cluster.bodies[asleep]["spec"]["suspend"] = True
            reconciler.notice(gone)
            reconciler.notice(asleep)
            await until(lambda: cluster.reason(asleep) == "Suspended")
            cluster.finish(runs)
            cluster.show()
            reconciler.notice(runs)
            await until(lambda: cluster.unfinished() == [last])
            assert cluster.reason(refused) == "JobRejected"
            assert cluster.started == [runs, last]

    asyncio.run(play())
