"""The life of a DataFetch on one screen: a key comes from the loop, and `_reconcile` observes, decides, applies.

Level-triggered: an event only names the key. The operator may be killed between any two calls; what it did not finish,
the next look finishes. What to do is decided in `lifecycle`, purely; how the API is spoken to, in `cluster`. The pods
that ask for data have a loop of their own, in `consumer_reconcile`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
from pydantic import ValidationError

from datafetch_api.report import Progress, last_progress
from datafetch_api.resource import ConsumerPhase, ConsumersStatus, DataFetch, DataFetchStatus, ObjectMeta, Phase
from datafetch_operator import metrics, sharding, steps, waiting
from datafetch_operator.budget import Limits, contender
from datafetch_operator.cluster import Cluster
from datafetch_operator.consumer_reconcile import ConsumerIndex, ConsumerReconciler
from datafetch_operator.consumers import summarize
from datafetch_operator.control_loop import ControlLoop
from datafetch_operator.errors import Action, ActionRefusedError, ApiError, RefusedError
from datafetch_operator.lifecycle import Decision, decide, needs_mounts, sooner
from datafetch_operator.observation import Claimant, Job, Key, Observation, Pod, with_work
from datafetch_operator.pacing import Pace
from datafetch_operator.reasons import Reason
from datafetch_operator.render.claim import render_claim
from datafetch_operator.render.config_map import Attempt, render_config_map
from datafetch_operator.render.drift_job import Check, render_check_config_map, render_check_job
from datafetch_operator.render.init_container import derived_name
from datafetch_operator.render.job import render_job
from datafetch_operator.settings import Settings
from datafetch_operator.status import EventRecord, describe_unreadable, events
from datafetch_operator.turns import Turns

Claimants = Mapping[tuple[str, str], Iterable[Claimant]]
"""Who wants what, by namespace and claim; kept up to date by `handlers`."""

_NONE: Mapping[Action, str] = {}
_GATHER_SECONDS = 1
"""How long changes of pods are gathered before they are looked at together."""
logger = logging.getLogger(__name__)


class Reconciler:
    """Brings what is closer to what is wanted, one key at a time."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._loop: ControlLoop[Key] = ControlLoop("datafetch", self._reconcile, settings.workers)
        self.consumers = ConsumerReconciler(cluster, settings)
        """Looks after the pods that ask for data."""
        self._soon: dict[Key, asyncio.TimerHandle] = {}
        self._pace = Pace()
        self._turns = Turns(Limits(settings.most_active, settings.most_active_per_host), self.notice)
        self._claimants: Claimants = {}
        self._own_writes: dict[Key, str] = {}
        self._jobs: Mapping[str, Iterable[Job]] | None = None
        self._pods: Mapping[str, Iterable[Pod]] = {}
        self._keys: Mapping[str, Iterable[Key]] = {}
        self._counted_running = False
        self._news: dict[Key, dict[str, Progress]] = {}
        """Of downloads that several pods share: the last line of each running pod, by its uid."""
        self._doubted: set[Key] = set()
        """What is to be looked at in the cluster itself: events may have been lost."""

    # --- what the watcher says ---

    def notice(self, key: Key, resource_version: str | None = None) -> None:
        """Have the key reconciled: something of it changed. Our own write of its status is no news."""
        if resource_version is None or self._own_writes.get(key) != resource_version:
            self._loop.add(key)

    def notice_consumers(self, key: Key) -> None:
        """Have the key reconciled when its consumers may be written: a thousand pods that start are one write."""
        if key not in self._soon:
            pause = max(_GATHER_SECONDS, self._pace.consumers_wait(key))
            self._soon[key] = asyncio.get_running_loop().call_later(pause, self._consumers_due, key)

    def use_indices(self, claimants: Claimants, consumers: ConsumerIndex) -> None:
        """Take the indices of who wants what and which pods ask for what; the watcher keeps them up to date."""
        self._claimants = claimants
        self.consumers.use_index(consumers)

    def use_work(
        self,
        jobs: Mapping[str, Iterable[Job]],
        pods: Mapping[str, Iterable[Pod]],
        keys: Mapping[str, Iterable[Key]] | None = None,
    ) -> None:
        """Take the indices of Jobs, their pods, and keys, by the DataFetch's uid; the watcher keeps them up to date."""
        self._jobs, self._pods, self._keys = jobs, pods, keys or {}

    # --- the loop ---

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync(), name="resync")
            self._loop.start(tasks)
            self.consumers.start(tasks)

    def longest_work(self) -> float:
        """Return for how many seconds the longest look under way has run."""
        return max(self._loop.longest_work(), self.consumers.longest_work())

    async def _resync(self) -> None:
        """Look at everything now and then, whatever events were lost."""
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            for claimants in list(self._claimants.values()):
                for claimant in claimants:
                    self._doubted.add(claimant.key)
                    self._loop.add(claimant.key)

    def _consumers_due(self, key: Key) -> None:
        self._soon.pop(key, None)
        self._loop.add(key)

    # --- observe, decide, apply ---

    async def _reconcile(self, key: Key, refusals: Mapping[Action, str] = _NONE) -> float | None:
        """Do what is to be done for the key now; return in how many seconds to look again, if no event will say."""
        fetch = await self._read(key)
        if fetch is None:
            return None
        from_index = self._jobs is not None and key not in self._doubted
        seen = await self._observe(fetch, refusals, from_index=from_index)
        decision = decide(seen)
        if from_index and not _leaves_all_as_it_is(fetch.status, decision):
            # An index may be behind. Nothing is done, nor said but progress, because of what was not looked at itself.
            seen = await self._look(seen, from_index=False)
            decision = decide(seen)
        self._doubted.discard(key)
        if fetch.spec.target is not None and needs_mounts(seen, decision):
            claim = fetch.spec.target.persistent_volume_claim.claim_name
            seen = replace(seen, mounts=await self._cluster.list_mounts(key.namespace, claim))
            decision = decide(seen)
        seen, decision = self._take_turn(seen, decision)
        try:
            again = await self._apply(seen, decision)
        except ActionRefusedError as refused:
            # Not our error: the user reads in the status what the API server said.
            return await self._reconcile(key, {**refusals, refused.action: refused.message})
        self._note_turn(key, decision)
        return again

    def _take_turn(self, seen: Observation, decision: Decision) -> tuple[Observation, Decision]:
        """Ask, before an attempt starts, whether it may: where downloads are limited, it may have to wait."""
        if decision.start is None or decision.start.publishes or not self._turns.limited:
            return seen, decision  # What is publishing has brought its data, and waits for nobody.
        self._count_running()
        place = self._turns.ask(contender(seen.fetch, decision.start.wanted.scheduled or seen.now))
        if place is None:
            return seen, decision
        seen = replace(seen, place=place)
        return seen, decide(seen)

    def _note_turn(self, key: Key, decision: Decision) -> None:
        """Note whether the fetch downloads: whoever waits for that to end is woken."""
        match decision.step:
            case steps.Watch(job=job) | steps.Adopt(job=job):
                self._turns.note_active(key, job.hosts)
            case steps.AwaitRemoval(job=job) if job.finished is None:
                self._turns.note_active(key, job.hosts)
            case steps.Queued():
                pass
            case steps.Start() if decision.start is not None:
                pass
            case _:
                self._turns.note_idle(key)
        metrics.DOWNLOADS.labels(state="active").set(self._turns.active)
        metrics.DOWNLOADS.labels(state="queued").set(self._turns.waiting)

    def _count_running(self) -> None:
        """Count, once after the start, what runs already: before anybody may start beside it."""
        if self._counted_running or self._jobs is None:
            return
        self._counted_running = True
        for uid, jobs in self._jobs.items():
            hosts = [job.hosts for job in jobs if job.finished is None and not job.is_check]
            for key in self._keys.get(uid, ()) if hosts else ():
                self._turns.note_active(key, hosts[-1])

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
            self._turns.note_idle(key)
            await self._write(metadata, status, new)
            return None

    async def _observe(self, fetch: DataFetch, refusals: Mapping[Action, str], *, from_index: bool) -> Observation:
        """Read all that one decision is made from."""
        metadata, target = fetch.metadata, fetch.spec.target
        seen = Observation(now=_now(), fetch=fetch, refusals=refusals)
        if metadata.deletion_timestamp is not None:
            return seen
        seen = replace(seen, consumers=await self._ask_consumers(fetch))
        if target is None:
            return seen
        name = target.persistent_volume_claim.claim_name
        claim = await self._cluster.read_claim(metadata.namespace, name)
        claimants = tuple(self._claimants.get((metadata.namespace, name), ()))
        seen = replace(seen, claim=claim, claimants=claimants)
        return await self._listen(await self._look(seen, from_index=from_index))

    async def _look(self, seen: Observation, *, from_index: bool) -> Observation:
        """Add Jobs and pods: those that the watcher knows, or those that are there now."""
        namespace, uid = seen.fetch.metadata.namespace, seen.fetch.metadata.uid
        if seen.fetch.metadata.deletion_timestamp is not None or seen.fetch.spec.target is None:
            return seen
        if from_index and self._jobs is not None:
            pods = sorted(self._pods.get(uid, ()), key=lambda pod: (pod.created, pod.name))
            return with_work(seen, self._jobs.get(uid, ()), tuple(pods))
        jobs = await self._cluster.list_jobs(namespace, uid)
        return with_work(seen, jobs, await self._cluster.list_pods(namespace, uid) if jobs else ())

    async def _ask_consumers(self, fetch: DataFetch) -> ConsumersStatus | None:
        """Return the pods that ask for the data; of a recipe, how far each one that is shown has come."""
        key = Key(fetch.metadata.namespace, fetch.metadata.name)
        written = fetch.status.consumers
        known = {pod.name: pod.percent for pod in written.pods} if written else {}
        pods = self.consumers.consumers_of(key)
        found = summarize(pods, known)
        if fetch.spec.target is not None:
            return found
        fetching = [pod.name for pod in found.pods if pod.phase is ConsumerPhase.FETCHING] if found else []
        self._pace.note_pods_read(key, len(fetching))
        if not fetching or self._pace.consumers_wait(key):
            return found
        container = derived_name("get", key.name)
        self._pace.note_pods_being_read(len(fetching))
        tails = [self._cluster.read_log_tail(key.namespace, pod, container) for pod in fetching]
        news = map(last_progress, await asyncio.gather(*tails))
        heard = {pod: progress.percent for pod, progress in zip(fetching, news, strict=True) if progress is not None}
        return summarize(pods, {**known, **heard})

    async def _listen(self, seen: Observation) -> Observation:
        """Add what the running pod's log says, and why a waiting one waits."""
        metadata, status = seen.fetch.metadata, seen.fetch.status
        job = seen.job(status.job_ref.name if status.job_ref else None)
        if job is None or sharding.at_work(seen, job).finished is not None:
            self._forget_news(Key(metadata.namespace, metadata.name))
            return seen
        notices = [
            notice
            for uid in sharding.to_ask(seen, job)
            for notice in await self._cluster.list_notices(metadata.namespace, uid)
        ]
        seen = replace(seen, notices=tuple(notices))
        pods = sharding.pods_with_news(seen, job)
        if not pods:
            self._forget_news(Key(metadata.namespace, metadata.name))
            return seen
        return await self._read_progress(seen, job, pods)

    def _forget_news(self, key: Key) -> None:
        self._pace.note_unread(key)
        self._pace.note_pods_read(key, 0)
        self._news.pop(key, None)

    async def _read_progress(self, seen: Observation, job: Job, pods: tuple[Pod, ...]) -> Observation:
        """Add what the logs of the pods say, if it is time to read them, and when it will be."""
        key, known = Key(seen.fetch.metadata.namespace, seen.fetch.metadata.name), seen.fetch.status.progress
        wait = self._pace.wait(key, waiting.first_news(known))
        if wait:
            return replace(seen, progress_wait=wait)
        self._pace.note_read(key)
        progress = await self._read_logs(seen, job, pods)
        seen = replace(seen, progress_wait=self._pace.wait(key, waiting.first_news(progress or known)))
        if progress is None:
            return seen
        silence = self._pace.silence(key, progress.time)
        is_news = waiting.is_news(known, progress, due=self._pace.is_due(key))
        return replace(seen, progress=progress, silence=silence) if is_news else seen

    async def _read_logs(self, seen: Observation, job: Job, pods: tuple[Pod, ...]) -> Progress | None:
        """Return how far the download is; where several pods share it, all of them together."""
        key = Key(seen.fetch.metadata.namespace, seen.fetch.metadata.name)
        if job.shards == 1:
            return last_progress(await self._cluster.read_log_tail(key.namespace, pods[-1].name))
        self._pace.note_pods_read(key, len(pods) - 1)
        self._pace.note_pods_being_read(len(pods) - 1)
        tails = [self._cluster.read_log_tail(key.namespace, pod.name) for pod in pods]
        known = self._news.get(key, {})
        news = {pod.uid: known[pod.uid] for pod in pods if pod.uid in known}
        for pod, tail in zip(pods, await asyncio.gather(*tails), strict=True):
            line = last_progress(tail)
            if line is not None:
                news[pod.uid] = line
        self._news[key] = news
        return sharding.total(seen, job, news)

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
            await self._write(metadata, seen.fetch.status, self._paced(seen, decision.status))
        if decision.start is not None:
            await _or_refused("start", self._start(decision.start))
        if decision.check is not None:
            await _or_refused("check", self._check(decision.check))
        if decision.grow_claim is not None:
            await _or_refused("grow claim", self._grow_claim(seen.fetch, decision.grow_claim))
        return sooner(decision.requeue_seconds, self._consumers_again(seen))

    def _paced(self, seen: Observation, new: DataFetchStatus) -> DataFetchStatus:
        """Return the status as it may be written now: nothing is written for its consumers alone before it is due."""
        key, old = Key(seen.fetch.metadata.namespace, seen.fetch.metadata.name), seen.fetch.status
        if new.consumers == old.consumers:
            return new
        if self._pace.consumers_wait(key) and new.model_copy(update={"consumers": old.consumers}) == old:
            self.notice_consumers(key)
            return old
        self._pace.note_consumers_write(key)
        return new

    def _consumers_again(self, seen: Observation) -> float | None:
        """Return in how many seconds to read again how far the pods of a recipe are; None where none downloads."""
        pods = seen.consumers.pods if seen.consumers and seen.fetch.spec.target is None else ()
        fetching = any(pod.phase is ConsumerPhase.FETCHING for pod in pods)
        return self._pace.interval if fetching else None

    async def _start(self, attempt: Attempt) -> None:
        """Make the attempt's ConfigMap, then its Job."""
        metadata = attempt.fetch.metadata
        await self._cluster.create_config_map(render_config_map(attempt))
        await self._cluster.create_job(render_job(attempt, self._settings))
        logger.info("%s/%s: attempt %d, Job %s", metadata.namespace, metadata.name, attempt.number, attempt.name)

    async def _check(self, check: Check) -> None:
        """Make the ConfigMap of a drift check, then its Job."""
        await self._cluster.create_config_map(render_check_config_map(check))
        await self._cluster.create_job(render_check_job(check, self._settings))

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
        self._doubted.discard(key)
        self._turns.note_idle(key)
        self._news.pop(key, None)
        timer = self._soon.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._pace.note_phase(key, None)
        self._count_phases()

    def _count_phases(self) -> None:
        for phase in Phase:
            metrics.FETCHES.labels(phase=phase.value).set(self._pace.phases[phase])


async def _or_refused(action: Action, call: Awaitable[None]) -> None:
    """Await a part of a decision; raise ActionRefusedError where the API server refuses it."""
    try:
        await call
    except RefusedError as error:
        raise ActionRefusedError(action, error.message) from error


def _leaves_all_as_it_is(old: DataFetchStatus, decision: Decision) -> bool:
    """Return whether the decision does nothing but, perhaps, to write how far the download and the consumers are."""
    if decision.remove or decision.create_claim or decision.grow_claim is not None:
        return False
    if decision.start is not None or decision.check is not None:
        return False
    new = decision.status
    if new is None:
        return True
    of_the_run = {"progress": old.progress, "sources": old.sources, "consumers": old.consumers}
    return new.model_copy(update=of_the_run) == old


def _count(old: DataFetchStatus, new: DataFetchStatus) -> None:
    if new.artifact is not None and new.artifact != old.artifact and new.progress is not None:
        metrics.FETCHED_BYTES.inc(max(0, new.progress.completed_bytes - new.progress.reused_bytes))
    if new.drift is not None and (old.drift is None or new.drift.check_time != old.drift.check_time):
        found = "failed" if new.drift.failed else "changed" if new.drift.changed else "unchanged"
        metrics.DRIFT_CHECKS.labels(result=found).inc()
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


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
