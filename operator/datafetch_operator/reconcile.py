"""The life of a DataFetch on one screen: a key comes from the queue, and `_reconcile` observes, decides, applies.

Level-triggered: an event only names the key. The operator may be killed between any two calls; what it did not finish,
the next look finishes. What to do is decided in `lifecycle`, purely; how the API is spoken to, in `cluster`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
from pydantic import ValidationError

from datafetch_api.report import last_progress
from datafetch_api.resource import DataFetch, DataFetchStatus, ObjectMeta, Phase
from datafetch_operator import metrics, waiting
from datafetch_operator.cluster import Cluster
from datafetch_operator.errors import Action, ActionRefusedError, ApiError, ConflictError, NotFoundError, RefusedError
from datafetch_operator.lifecycle import Decision, decide
from datafetch_operator.observation import Claimant, Key, Observation
from datafetch_operator.pacing import Pace
from datafetch_operator.reasons import Reason
from datafetch_operator.render.claim import render_claim
from datafetch_operator.render.config_map import Attempt, render_config_map
from datafetch_operator.render.job import render_job
from datafetch_operator.settings import Settings
from datafetch_operator.status import EventRecord, describe_unreadable, events
from datafetch_operator.workqueue import WorkQueue

Claimants = Mapping[tuple[str, str], Iterable[Claimant]]
"""Who wants what, by namespace and claim; kept up to date by `handlers`."""

_NONE: Mapping[Action, str] = {}
logger = logging.getLogger(__name__)


class Reconciler:
    """Brings what is closer to what is wanted, one key at a time."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._queue: WorkQueue[Key] = WorkQueue()
        self._pace = Pace()
        self._claimants: Claimants = {}
        self._own_writes: dict[Key, str] = {}

    # --- the queue ---

    def notice(self, key: Key, resource_version: str | None = None) -> None:
        """Have the key reconciled: something of it changed. Our own write of its status is no news."""
        if resource_version is None or self._own_writes.get(key) != resource_version:
            self._queue.add(key)

    def use_claimants(self, claimants: Claimants) -> None:
        """Take the index of who wants what; the watcher keeps it up to date."""
        self._claimants = claimants

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync(), name="resync")
            for number in range(self._settings.workers):
                tasks.create_task(self._work(), name=f"worker {number}")

    def longest_work(self) -> float:
        """Return for how many seconds the longest reconcile under way has run."""
        return self._queue.longest_work()

    async def _resync(self) -> None:
        """Look at everything now and then, whatever events were lost."""
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            for claimants in list(self._claimants.values()):
                for claimant in claimants:
                    self._queue.add(claimant.key)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                with metrics.RECONCILE_SECONDS.time():
                    result = await self._reconcile_safely(key)
                metrics.RECONCILES.labels(result=result).inc()
            finally:
                self._queue.done(key)
                metrics.QUEUE_LENGTH.set(len(self._queue))

    async def _reconcile_safely(self, key: Key) -> str:
        """Reconcile; an error means again, later, and concerns no other key."""
        try:
            again = await self._reconcile(key)
        except ConflictError:
            self._queue.retry(key)
            return "conflict"
        except NotFoundError:
            self._queue.add(key)  # What was there a moment ago is gone: the next look sees it.
            return "gone"
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            pause = self._queue.retry(key)
            logger.warning("%s/%s: %s; again in %.0f s", *key, _sentence(error), pause)
            return "error"
        except Exception:
            pause = self._queue.retry(key)
            logger.exception("%s/%s: a defect of the operator; again in %.0f s", *key, pause)
            return "error"
        self._queue.forget(key)
        if again is None:
            self._queue.cancel(key)
        else:
            self._queue.add_after(key, again)
        return "ok"

    # --- observe, decide, apply ---

    async def _reconcile(self, key: Key, refusals: Mapping[Action, str] = _NONE) -> float | None:
        """Do what is to be done for the key now; return in how many seconds to look again, if no event will say."""
        fetch = await self._read(key)
        if fetch is None:
            return None
        seen = await self._observe(fetch, refusals)
        decision = decide(seen)
        try:
            return await self._apply(seen, decision)
        except ActionRefusedError as refused:
            # Not our error: the user reads in the status what the API server said.
            return await self._reconcile(key, {**refusals, refused.action: refused.message})

    async def _read(self, key: Key) -> DataFetch | None:
        """Return the resource, or None where there is nothing to decide: it is gone, or cannot be read."""
        body = await self._cluster.read_fetch(key)
        if body is None:
            self._forget(key)
            return None
        status = _read_status(body)
        try:
            return DataFetch.model_validate({**body, "status": status})
        except ValidationError as error:
            metadata = ObjectMeta.model_validate(body["metadata"])
            new = describe_unreadable(metadata, status, _problem(error), _now())
            await self._write(metadata, status, new)
            return None

    async def _observe(self, fetch: DataFetch, refusals: Mapping[Action, str]) -> Observation:
        """Read all that one decision is made from."""
        metadata, target = fetch.metadata, fetch.spec.target
        seen = Observation(now=_now(), fetch=fetch, refusals=refusals, progress_interval=self._pace.interval)
        if target is None or metadata.deletion_timestamp is not None:
            return seen
        name = target.persistent_volume_claim.claim_name
        claim = await self._cluster.read_claim(metadata.namespace, name)
        jobs = await self._cluster.list_jobs(metadata.namespace, metadata.uid)
        pods = await self._cluster.list_pods(metadata.namespace, metadata.uid) if jobs else ()
        claimants = tuple(self._claimants.get((metadata.namespace, name), ()))
        return await self._listen(replace(seen, claim=claim, jobs=jobs, pods=pods, claimants=claimants))

    async def _listen(self, seen: Observation) -> Observation:
        """Add what the running pod's log says, and why a waiting one waits."""
        metadata, status = seen.fetch.metadata, seen.fetch.status
        job = seen.job(status.job_ref.name if status.job_ref else None)
        if job is None or job.finished is not None:
            return seen
        notices = [
            notice
            for uid in waiting.to_ask(seen, job)
            for notice in await self._cluster.list_notices(metadata.namespace, uid)
        ]
        seen = replace(seen, notices=tuple(notices))
        pod = waiting.pod_with_news(seen, job)
        known, due = status.progress, self._pace.is_due(Key(metadata.namespace, metadata.name))
        if pod is None or not (due or known is None or known.total_bytes is None):
            return seen
        progress = last_progress(await self._cluster.read_log_tail(metadata.namespace, pod.name))
        if progress is None or not waiting.is_news(known, progress, due=due):
            return seen
        return replace(seen, progress=progress)

    async def _apply(self, seen: Observation, decision: Decision) -> float | None:
        """Carry the decision out. The order matters: whatever it is cut off after, the next look goes on from there."""
        metadata = seen.fetch.metadata
        for removal in decision.remove:
            await self._cluster.delete_config_map(metadata.namespace, removal.name)
            if removal.job_uid is not None:
                await self._cluster.delete_job(metadata.namespace, removal.name, removal.job_uid)
        if decision.create_claim:
            await _or_refused("create claim", self._create_claim(seen.fetch))
            return 0
        if decision.status is not None:
            if seen.progress is not None:
                self._pace.note_write(Key(metadata.namespace, metadata.name))
            await self._write(metadata, seen.fetch.status, decision.status)
        if decision.start is not None:
            await _or_refused("start", self._start(decision.start))
        if decision.grow_claim is not None:
            await _or_refused("grow claim", self._grow_claim(seen.fetch, decision.grow_claim))
        return decision.requeue_seconds

    async def _start(self, attempt: Attempt) -> None:
        """Make the attempt's ConfigMap, then its Job."""
        metadata = attempt.fetch.metadata
        if attempt.fetch.status.artifact is not None:
            # Old revisions may be pruned as far as no running pod can still have them mounted.
            oldest = await self._cluster.oldest_mount(metadata.namespace, attempt.claim.name)
            attempt = replace(attempt, prune_replaced_before=oldest or _now())
        await self._cluster.create_config_map(render_config_map(attempt))
        await self._cluster.create_job(render_job(attempt, self._settings))
        logger.info("%s/%s: attempt %d, Job %s", metadata.namespace, metadata.name, attempt.number, attempt.name)

    async def _create_claim(self, fetch: DataFetch) -> None:
        manifest = render_claim(fetch)
        if await self._cluster.create_claim(manifest):
            message = f"Claim {manifest['metadata']['name']!r} was created."
            await self._post(fetch.metadata, EventRecord("Normal", Reason.CLAIM_CREATED, message))

    async def _grow_claim(self, fetch: DataFetch, requested: str) -> None:
        if fetch.spec.target is None:
            return
        name = fetch.spec.target.persistent_volume_claim.claim_name
        await self._cluster.grow_claim(fetch.metadata.namespace, name, requested)
        message = f"Claim {name!r} asks for {requested} now."
        await self._post(fetch.metadata, EventRecord("Normal", Reason.CLAIM_GROWN, message))

    # --- status and events ---

    async def _write(self, metadata: ObjectMeta, old: DataFetchStatus, new: DataFetchStatus) -> None:
        """Write the status if it says anything new, then tell what happened."""
        key = Key(metadata.namespace, metadata.name)
        self._pace.note_phase(key, new.phase)
        self._count_phases()
        if new == old:
            return
        self._own_writes[key] = await self._cluster.apply_status(metadata, new)
        metrics.STATUS_WRITES.inc()
        _count(old, new)
        for event in events(old, new):
            await self._post(metadata, event)

    async def _post(self, metadata: ObjectMeta, event: EventRecord) -> None:
        """Post an event. Events are told once and may be lost; the status is what counts."""
        logger.info("%s/%s: %s: %s", metadata.namespace, metadata.name, event.reason, event.message)
        try:
            await self._cluster.post_event(metadata, event)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning(
                "%s/%s: event %s was not posted: %s", *Key(metadata.namespace, metadata.name), event.reason, error
            )

    def _forget(self, key: Key) -> None:
        self._own_writes.pop(key, None)
        self._pace.note_phase(key, None)
        self._count_phases()

    def _count_phases(self) -> None:
        phases = self._pace.phases()
        for phase in Phase:
            metrics.FETCHES.labels(phase=phase.value).set(phases.count(phase))


async def _or_refused(action: Action, call: Awaitable[None]) -> None:
    """Await a part of a decision; raise ActionRefusedError where the API server refuses it."""
    try:
        await call
    except RefusedError as error:
        raise ActionRefusedError(action, error.message) from error


def _count(old: DataFetchStatus, new: DataFetchStatus) -> None:
    if new.artifact is not None and new.artifact != old.artifact and new.progress is not None:
        metrics.FETCHED_BYTES.inc(max(0, new.progress.completed_bytes - new.progress.reused_bytes))
    if new.last_failure is not None and new.last_failure != old.last_failure:
        metrics.FAILURES.labels(reason=new.last_failure.reason).inc()


def _read_status(body: Mapping[str, Any]) -> DataFetchStatus:
    try:
        return DataFetchStatus.model_validate(body.get("status") or {})
    except ValidationError:
        # Another version's, or somebody's by hand. A lost status costs one Job that finds everything there.
        metadata = body["metadata"]
        logger.warning("%s/%s: the status cannot be read and is made anew", metadata["namespace"], metadata["name"])
        return DataFetchStatus()


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}. Correct the field, or bring CRD and operator to one version."


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
