"""A control loop: keys come from a queue, each is looked at by one worker at a time, and again after an error.

Knows nothing of what a key means; `reconcile` and `consumer_reconcile` bring the look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import aiohttp

from datafetch_operator import metrics
from datafetch_operator.errors import ApiError, ConflictError, LeadershipLostError, NotFoundError
from datafetch_operator.workqueue import WorkQueue

_K = TypeVar("_K", bound=tuple[str, str])
logger = logging.getLogger(__name__)


class ControlLoop(Generic[_K]):
    """Has keys looked at; a look returns in how many seconds to look again, if no event will say."""

    def __init__(self, kind: str, look: Callable[[_K], Awaitable[float | None]], workers: int) -> None:
        self._kind = kind
        self._look = look
        self._workers = workers
        self._queue: WorkQueue[_K] = WorkQueue()

    def __len__(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._queue)

    def add(self, key: _K) -> None:
        """Have the key looked at soon."""
        self._queue.add(key)

    def longest_work(self) -> float:
        """Return for how many seconds the longest look under way has run."""
        return self._queue.longest_work()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the workers, which work until cancelled."""
        for number in range(self._workers):
            tasks.create_task(self._work(), name=f"{self._kind} worker {number}")

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                with metrics.RECONCILE_SECONDS.labels(kind=self._kind).time():
                    result = await self._look_safely(key)
                metrics.RECONCILES.labels(kind=self._kind, result=result).inc()
            finally:
                self._queue.done(key)
                metrics.QUEUE_LENGTH.labels(kind=self._kind).set(len(self._queue))

    async def _look_safely(self, key: _K) -> str:
        """Look; an error means again, later, and concerns no other key."""
        try:
            again = await self._look(key)
        except ConflictError:
            self._queue.retry(key)
            return "conflict"
        except LeadershipLostError:
            return "not leading"  # The elector says so, and ends the process.
        except NotFoundError:
            self._queue.add(key)  # What was there a moment ago is gone: the next look sees it.
            return "gone"
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            pause = self._queue.retry(key)
            logger.warning("%s/%s: %s; again in %.0f s", *key, str(error) or type(error).__name__, pause)
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
