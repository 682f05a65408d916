"""Pods that ask for data, one at a time: their gate is removed when the data is there, and their owner is told why not.

Level-triggered as `reconcile`: an event only names the pod, the look reads it and its DataFetches anew. What follows is
decided in `consumers`, purely. Nothing is written on a pod but the removal of our gate. What every pod is at stands in
an index that the watcher keeps; deletions that it missed are found at the resync.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from datafetch_api.resource import ConsumerPhase
from datafetch_operator import metrics
from datafetch_operator.cluster import Cluster
from datafetch_operator.consumers import (
    UNSETTLED,
    Consumer,
    ConsumerPod,
    FetchState,
    PodKey,
    Telling,
    decide_pod,
    read_consumer,
    read_fetch_state,
)
from datafetch_operator.control_loop import ControlLoop
from datafetch_operator.errors import ApiError, ConflictError, RefusedError
from datafetch_operator.observation import Key
from datafetch_operator.reasons import Reason
from datafetch_operator.render.labels import GATE
from datafetch_operator.settings import Settings
from datafetch_operator.status import EventRecord

ConsumerIndex = Mapping[Key, Iterable[Consumer]]
"""Unfinished pods by the DataFetch they ask for; all of them by no name. Kept up to date by `handlers`."""

_REFUSED_SECONDS = 300
_COUNT_SECONDS = 10
_TELL_AGAIN_SECONDS = 3600
"""The API server forgets events after an hour: what still holds is told again then."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Noticed:
    """What the last event about a pod said."""

    phases: tuple[ConsumerPhase, ...]
    done: frozenset[str]


class ConsumerReconciler:
    """Looks after the pods that ask for data."""

    def __init__(self, cluster: Cluster, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._loop: ControlLoop[PodKey] = ControlLoop("pod", self._look, settings.workers)
        self._index: ConsumerIndex = {}
        self._gone: frozenset[str] = frozenset()
        self._noticed: dict[str, _Noticed] = {}
        self._states: dict[Key, FetchState] = {}
        self._told: dict[PodKey, dict[str, float]] = {}

    # --- what the watcher says ---

    def use_index(self, index: ConsumerIndex) -> None:
        """Take the index of pods; the watcher keeps it up to date."""
        self._index = index

    def consumers_of(self, key: Key) -> tuple[Consumer, ...]:
        """Return the unfinished pods that ask for the DataFetch."""
        return tuple(consumer for consumer in self._index.get(key, ()) if consumer.uid not in self._gone)

    def notice_pod(self, pod: ConsumerPod, *, deleted: bool) -> tuple[Key, ...]:
        """Have the pod looked at where it waits; return the DataFetches for which it is news."""
        over = deleted or pod.over
        if not deleted and pod.wants_a_look(datetime.now(UTC)):
            self._loop.add(pod.key)
        elif over:
            self._told.pop(pod.key, None)
        known = self._noticed.pop(pod.uid, None)
        if known is not None:
            # What ended while no operator watched is not counted: nobody could say whether it was counted before.
            metrics.CONSUMER_BYTES.inc(pod.fetched_bytes(pod.done - known.done))
        now = None if over else _Noticed(tuple(pod.phase_of(name) for name in pod.fetches), pod.done)
        if now is not None:
            self._noticed[pod.uid] = now
        is_news = (now and now.phases) != (known and known.phases)
        return tuple(Key(pod.key.namespace, name) for name in pod.fetches) if is_news else ()

    def notice_fetch(self, key: Key, state: FetchState, *, deleted: bool) -> None:
        """Have the pods that wait for the DataFetch looked at, where they have to know something new."""
        if self._states.get(key) == state:
            return
        if deleted:
            self._states.pop(key, None)
        else:
            self._states[key] = state
        self._look_at_unsettled(key.namespace, self.consumers_of(key))

    # --- the loop ---

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the workers and what goes on beside them, until cancelled."""
        self._loop.start(tasks)
        tasks.create_task(self._resync(), name="pod resync")
        tasks.create_task(self._count(), name="pod metrics")

    def longest_work(self) -> float:
        """Return for how many seconds the longest look under way has run."""
        return self._loop.longest_work()

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self._find_gone()
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("pods that ask for data cannot be listed: %s", str(error) or type(error).__name__)
            for key in list(self._index):
                if not key.name:
                    self._look_at_unsettled(key.namespace, self.consumers_of(key))

    async def _find_gone(self) -> None:
        """Find the pods whose deletion the watcher missed. It knew them before they are listed, not after."""
        known = {consumer.uid for key in list(self._index) if not key.name for consumer in self._index[key]}
        if not known:
            return
        listed: set[str] = set()
        for namespace in self._settings.watch_namespaces or (None,):
            listed |= await self._cluster.list_consumer_uids(namespace)
        self._gone = frozenset(known - listed)
        for uid in self._gone:
            self._noticed.pop(uid, None)

    def _look_at_unsettled(self, namespace: str, consumers: Iterable[Consumer]) -> None:
        for consumer in consumers:
            if consumer.phase in UNSETTLED:
                self._loop.add(PodKey(namespace, consumer.name))

    async def _count(self) -> None:
        while True:
            phases = Counter(
                consumer.phase for key in list(self._index) if not key.name for consumer in self.consumers_of(key)
            )
            for phase in ConsumerPhase:
                metrics.CONSUMERS.labels(phase=phase.value).set(phases[phase])
            await asyncio.sleep(_COUNT_SECONDS)

    # --- one pod ---

    async def _look(self, key: PodKey) -> float | None:
        """Do what is to be done for the pod now; return in how many seconds to look again, if no event will say."""
        body = await self._cluster.read_pod(key.namespace, key.name)
        pod = None if body is None else read_consumer(body)
        now = datetime.now(UTC)
        if pod is None or not pod.wants_a_look(now):
            self._told.pop(key, None)
            return None
        fetches = {name: await self._read_fetch(Key(key.namespace, name)) for name in pod.fetches}
        decision = decide_pod(pod, fetches, now)
        for telling in decision.tell:
            await self._tell(pod, telling)
        if decision.open_gate:
            return await self._open_gate(pod)
        return decision.look_again_seconds

    async def _read_fetch(self, key: Key) -> FetchState:
        return read_fetch_state(key, await self._cluster.read_fetch(key))

    async def _open_gate(self, pod: ConsumerPod) -> float | None:
        """Remove our gate from exactly this pod. Where that is refused, say so to whoever can grant it, and wait."""
        try:
            await self._cluster.remove_gate(*pod.key, pod.uid, pod.resource_version, GATE)
        except RefusedError as error:
            message = (
                f"The data is there, but the operator cannot remove scheduling gate {GATE}: {error.message} It needs "
                f"the right to patch pods in namespace {pod.key.namespace!r}, which the chart gives with "
                "injection.gates.enabled; the pod is then scheduled by itself."
            )
            if await self._tell(pod, Telling(EventRecord("Warning", Reason.GATE_NOT_REMOVED, message))):
                logger.warning("%s/%s: %s", *pod.key, message)
            return _REFUSED_SECONDS
        metrics.GATES_REMOVED.inc()
        self._told.pop(pod.key, None)
        return None

    async def _tell(self, pod: ConsumerPod, telling: Telling) -> bool:
        """Post an event about the pod unless it was told; return whether it is news. The pod's state is what counts."""
        name, now = telling.name(pod), self._clock()
        told = self._told.setdefault(pod.key, {})
        if name in told and now - told[name] < _TELL_AGAIN_SECONDS:
            return False
        event = telling.event
        try:
            await self._cluster.post_pod_event(*pod.key, pod.uid, event, name)
        except ConflictError:
            told[name] = now  # Told by an operator before this one.
            return False
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("%s/%s: event %s was not posted: %s", *pod.key, event.reason, error)
            return True
        told[name] = now
        if telling.failure:
            metrics.CONSUMER_FAILURES.labels(reason=telling.failure).inc()
        logger.info("%s/%s: %s: %s", *pod.key, event.reason, event.message)
        return True
