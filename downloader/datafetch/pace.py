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
    """How many requests may be open: half as many when the source asks for fewer, one more for each good second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._lock = threading.Lock()
        self._throttled = False

    @property
    def limit(self) -> int:
        """Requests that may be open now."""
        return self._limit

    def throttle(self) -> None:
        """Note that the source asked for fewer requests."""
        with self._lock:
            self._throttled = True

    def tick(self) -> int:
        """Decide the limit for the next second, and return it."""
        with self._lock:
            self._limit = max(1, self._limit // 2) if self._throttled else min(self._most, self._limit + 1)
            self._throttled = False
            return self._limit


def wait_before_retry(
    error: DataFetchError, tries: int, *, jitter: Callable[[], float] = random.random
) -> float | None:
    """Return the seconds to wait before a range is asked for again, or None where that is useless by now.

    `tries` counts those that brought no byte. The wait grows exponentially, with jitter over its upper half, and is
    never shorter than what the server asked for (RFC 9110, Retry-After).
    """
    if not isinstance(error, SourceUnavailableError) or tries >= MAX_TRIES:
        return None
    wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries - 1)) * (0.5 + jitter() / 2)
    return max(wait, min(error.retry_after or 0.0, 120.0))
