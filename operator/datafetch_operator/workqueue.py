"""A queue of keys, as client-go's: a key is worked on by one worker at a time, however often it is added.

Pure asyncio, no knowledge of what the keys mean.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_FIRST_BACKOFF_SECONDS = 1.0
_MOST_BACKOFF_SECONDS = 120.0


class WorkQueue(Generic[_K]):
    """Keys to work on, now, later, or again after an error."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._ready: deque[_K] = deque()
        self._dirty: set[_K] = set()
        self._working: dict[_K, float] = {}
        self._timers: dict[_K, asyncio.TimerHandle] = {}
        self._failures: dict[_K, int] = {}
        self._available = asyncio.Event()
        self._jitter = jitter

    def __len__(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._ready)

    def add(self, key: _K) -> None:
        """Have the key worked on soon. While it is worked on, this means: once more afterwards."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._ready.append(key)
            self._available.set()

    def add_after(self, key: _K, seconds: float) -> None:
        """Have the key worked on in so many seconds; this replaces what was said before."""
        self.cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(max(seconds, 0), self._ring, key)

    def cancel(self, key: _K) -> None:
        """Forget that the key was to be worked on later."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def get(self) -> _K:
        """Wait for a key and take it. `done` has to follow."""
        while not self._ready:
            self._available.clear()
            await self._available.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._working[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: _K) -> None:
        """Give the key back."""
        self._working.pop(key, None)
        if key in self._dirty:
            self._ready.append(key)
            self._available.set()

    def retry(self, key: _K) -> float:
        """Have the key worked on again after a pause that doubles with each failure; return the pause in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(_MOST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
        # Half of it is random, so that keys that failed together do not come back together.
        pause = pause / 2 + pause / 2 * self._jitter()
        self.add_after(key, pause)
        return pause

    def forget(self, key: _K) -> None:
        """Forget the key's failures: it was worked on without an error."""
        self._failures.pop(key, None)

    def longest_work(self) -> float:
        """Return for how many seconds the key that is worked on longest has been."""
        started = min(self._working.values(), default=None)
        return 0.0 if started is None else asyncio.get_running_loop().time() - started

    def _ring(self, key: _K) -> None:
        self._timers.pop(key, None)
        self.add(key)
