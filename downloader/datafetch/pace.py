"""How fast a fetch may go: the bandwidth limit, how many requests are open at a time, and when to try again.

All three are decided from numbers that are handed in; the only I/O is sleeping in `BandwidthLimiter.take`.
"""

import random
import threading
import time
from collections.abc import Callable

from datafetch.errors import DataFetchError, SourceUnavailableError

MAX_TRIES = 8
"""Tries of one range without a byte of progress, over about a minute and a half."""
START_LEVEL = 4
TICK_SECONDS = 0.5
_WORTH_UP = 1.08
"""A level is kept if it brings this much more than the lower one: every request costs, also at the source."""
_WORTH_DOWN = 0.97
_SHORTEST_REST = 2
"""Ticks between two tries of another level."""
_LONGEST_REST = 60
_REST_AFTER_THROTTLING = 10
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0


class BandwidthLimiter:
    """A token bucket, counted in bytes as they arrive. Thread-safe."""

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    @property
    def read_bytes(self) -> int | None:
        """The most that one read should ask for, so that a low limit does not come in bursts; None without a limit."""
        return None if self._rate is None else max(4096, self._rate // 20)

    def take(self, count: int) -> None:
        """Wait until `count` bytes that have arrived are within the limit."""
        if self._rate is None:
            return
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - 0.1) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)


class Concurrency:
    """How many requests may be open: as many as still bring more, and no more than the source bears.

    Starts low. A step up is kept only if goodput grows by it, a step down if goodput does not suffer; between tries it
    rests, longer each time nothing came of one. Where the source throttles, the level falls below the one that it was
    at and creeps back one by one. Pure: `tick` is given what arrived since the last one.
    """

    def __init__(self, most: int, start: int = START_LEVEL) -> None:
        self._most = max(1, most)
        self._level = min(start, self._most)
        self._ceiling = self._most
        self._base: tuple[int, float] | None = None
        """The level that a try started from, and its goodput; None while nothing is being tried."""
        self._rate = 0.0
        self._rest = 0
        self._patience = _SHORTEST_REST
        self._direction = 1
        self._settling = 1
        self._doubling = True

    @property
    def level(self) -> int:
        """Requests that may be open now."""
        return self._level

    def tick(self, goodput: float, *, throttled: bool = False, saturated: bool = True) -> int:
        """Decide the level until the next tick, and return it.

        `goodput` is the work that was done per second since the last tick; `saturated` says whether as many requests
        were open as allowed: a level that nobody used teaches nothing.
        """
        if throttled:
            return self._back_off()
        if not saturated:
            return self._level
        if self._settling > 0:
            self._settling -= 1  # requests of the old level are still under way
            return self._level
        self._judge(goodput)
        return self._level

    def _back_off(self) -> int:
        self._ceiling = max(1, self._level - 1)
        self._move(max(1, self._level * 3 // 4))
        self._base, self._doubling, self._direction = None, False, 1
        self._rest = self._patience = _REST_AFTER_THROTTLING
        return self._level

    def _judge(self, goodput: float) -> None:
        if self._base is not None:
            self._end_try(goodput)
            return
        self._rate = goodput
        if self._rest > 0:
            self._rest -= 1
            return
        self._begin_try()

    def _begin_try(self) -> None:
        if self._direction > 0:
            aim = self._level * 2 if self._doubling else self._level + max(1, self._level // 4)
            if self._level >= self._ceiling:
                self._ceiling = min(self._most, self._ceiling + 1)
            aim = min(aim, self._ceiling)
        else:
            aim = max(1, self._level - max(1, self._level // 4))
        if aim == self._level:
            self._fail_try()
            return
        self._base = (self._level, self._rate)
        self._move(aim)

    def _end_try(self, goodput: float) -> None:
        level, before = self._base or (self._level, 0.0)
        self._base = None
        worth = goodput > before * _WORTH_UP if self._level > level else goodput >= before * _WORTH_DOWN
        if worth:
            self._rate, self._patience = goodput, _SHORTEST_REST
            return
        self._move(level)
        self._fail_try()

    def _fail_try(self) -> None:
        self._doubling = False
        self._direction = -self._direction
        self._rest = self._patience
        self._patience = min(_LONGEST_REST, self._patience * 2)

    def _move(self, level: int) -> None:
        self._level = level
        self._settling = 1


def wait_before_retry(
    error: DataFetchError, tries: int, *, jitter: Callable[[], float] = random.random
) -> float | None:
    """Return the seconds to wait before a range is asked for again, or None where that is useless by now.

    `tries` counts those that brought no byte. The wait grows exponentially, with jitter over its upper half, and is
    never shorter than what the server asked for (RFC 9110, Retry-After).
    """
    if not isinstance(error, SourceUnavailableError) or tries >= MAX_TRIES:
        return None
    wait: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (tries - 1)) * (0.5 + jitter() / 2)
    return max(wait, min(error.retry_after or 0.0, 120.0))
