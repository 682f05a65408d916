"""How fast a fetch may go: the bandwidth limit, how many requests are open at a time, and when to try again.

All three are decided from numbers that are handed in; the only I/O is sleeping in `BandwidthLimiter.take`.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from datafetch.errors import DataFetchError, SourceUnavailableError, StalledError

MAX_TRIES = 8
"""Tries of one range without a byte of progress, over about a minute and a half."""
MAX_STALLS = 5
"""The same where connections fall silent: each of these tries has cost a stall timeout already."""
MAX_REFUSALS = 30
"""The same where the source asks for fewer requests (429, 503 SlowDown)."""
START_LEVEL = 4
TICK_SECONDS = 0.1
AHEAD_SECONDS = 0.25
"""How far a server may be ahead of a bandwidth limit: what it sends lies in buffers of the kernel until it is read."""
_CATCH_UP_SECONDS = 0.1
"""How much of a pause may be made up for: sleeping threads wake up late."""
_FULL = 0.9
"""Of the processor time within reach: more requests would only wait for it."""
_WORTH_GROWING = 0.4
"""Part of the growth in requests that goodput must grow by, for growth to go on."""
_WORTH_KEEPING = 0.3
"""The same for staying where growth has ended."""
_WORTH_GROWING_AGAIN = 0.6
_GROWTH_AGAIN = 2.0
_WORTH_UP = 0.25
"""The same for a small step: every request costs, also at the source."""
_WORTH_DOWN = 0.1
"""A step down is kept where goodput falls by no more than this part of the step."""
_SETTLING_SECONDS = 0.25
_TRY_SECONDS = 0.5
_LONGEST_TRY_SECONDS = 1.0
_LONGEST_RISE_SECONDS = 2.0
_FEWEST_TICKS = 3
_MOST_TICKS = 30
_MOST_TICKS_DOWN = 12
"""A try of less costs goodput while it lasts."""
_WINDOW_TICKS = 20
_STRANGE_TICKS = 5
_PART_OF_WAVE = 0.3
_SHORT_WAVES = 0.5
"""A tick: requests that take less than two ticks are short."""
_USUAL_NOISE = 0.08
"""Relative, of one tick."""
_SHORTEST_REST = 0.5
"""Seconds between two tries of another level."""
_LONGEST_REST = 8.0
_REST_AT_MOST = 4.0
_REST_AFTER_REFUSAL = 2.0
_EPISODE_SECONDS = 0.3
_SHORTEST_CREEP = 1.0
_LONGEST_CREEP = 30.0
_FIRST_WAIT = 0.5
_WAIT_AFTER_STALL = 0.1
_LONGEST_WAIT = 30.0
_LONGEST_WAIT_REFUSED = 4.0


class BandwidthLimiter:
    """A token bucket, counted in bytes as they arrive. Thread-safe.

    What arrives is counted first and waited for afterwards, so that every connection may be one read ahead:
    `read_bytes` keeps that small.
    """

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        head_start: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`head_start` is the seconds that the server is let ahead at the beginning: nothing is read in them."""
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock() + head_start

    @property
    def read_bytes(self) -> int | None:
        """The most that one read should ask for, so that a low limit does not come in bursts; None without a limit."""
        return None if self._rate is None else max(4096, self._rate // 100)

    @property
    def ahead_bytes(self) -> int | None:
        """What may have been asked for and not been read, all small files together; None without a limit."""
        return None if self._rate is None else max(64 << 10, int(self._rate * AHEAD_SECONDS))

    @property
    def receive_buffer_bytes(self) -> int | None:
        """What a connection's SO_RCVBUF should be, so that the kernel is not far ahead; None: the system's choice."""
        return None if self._rate is None else min(4 << 20, max(64 << 10, self._rate // 64))

    def delay(self, count: int) -> float:
        """Count bytes that have arrived; return the seconds to wait before the next read of any connection.

        For an event loop, which must not sleep: all its reads wait together.
        """
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - _CATCH_UP_SECONDS) + count / self._rate
            return max(0.0, self._free_at - now)

    def take(self, count: int) -> None:
        """Wait until `count` bytes that have arrived are within the limit."""
        wait = self.delay(count)
        if wait > 0:
            self._sleep(wait)


class _Estimate:
    """Goodput at one level: its mean and spread over ticks, once the requests of the level before have gone by."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.seconds = 0.0
        """Since the level was taken."""
        self.rate = 0.0
        self.ticks = 0
        self.waves = 0.0
        """How often every place was used, in the ticks that count."""
        self._settling = 0.0
        """The same in those that do not."""
        self._variance = 0.0
        self._last = 0.0

    def settle(self) -> None:
        """Leave out what comes next, until requests of this level are under way again."""
        self.seconds = self._settling = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether every place of the level has been in use: a wave of requests has ended, or the time for one is up."""
        return self._settling >= 1 or self.seconds >= _SETTLING_SECONDS

    @property
    def is_known(self) -> bool:
        """Whether there was time to see that nothing comes of it."""
        waited = self.waves >= 1 or self.seconds >= _LONGEST_TRY_SECONDS
        return self.ticks >= _FEWEST_TICKS and self.seconds >= _TRY_SECONDS and waited

    @property
    def is_rising(self) -> bool:
        """Whether connections are still coming up to speed."""
        return self._last > self.rate * 1.1 and self.seconds < _LONGEST_RISE_SECONDS

    @property
    def error(self) -> float:
        """Relative standard error of the rate. Two ticks' worth of moderate noise are taken for granted."""
        if not self.ticks or self.rate <= 0:
            return 1.0
        known = min(self.ticks, _WINDOW_TICKS)
        variance = (self._variance * known + 2 * (_USUAL_NOISE * self.rate) ** 2) / (known + 2)
        spread = math.sqrt(variance / known) / self.rate
        # Short requests come in waves, and nobody knows how much of one the window cuts off. Long ones flow.
        if self.waves / self.ticks < _SHORT_WAVES:
            return spread
        return math.hypot(spread, _PART_OF_WAVE / self.waves)

    def add(self, seconds: float, work: float, requests: int) -> None:
        """Take in a tick."""
        settled = self.is_settled
        self.seconds += seconds
        if not settled:
            self._settling += requests / self.level
            return
        self.waves += requests / self.level
        self._last = work / seconds
        self.ticks += 1
        share = 1 / min(self.ticks, _WINDOW_TICKS)
        difference = self._last - self.rate
        self.rate += difference * share
        self._variance = (1 - share) * (self._variance + share * difference**2)

    def differs(self, rate: float) -> bool:
        """Whether a tick of this rate would be a surprise."""
        known = max(_USUAL_NOISE * self.rate, math.sqrt(self._variance))
        return abs(rate - self.rate) > max(0.2 * self.rate, 2 * known)


@dataclass(slots=True)
class _Episode:
    """Refusals that belong together: those within a moment of the first, all asked at one level."""

    level: int
    floor: int
    """What the source is thought to bear at least."""
    refused: int = 0
    ended: int = 0
    """Requests that went well meanwhile."""
    seconds: float = _EPISODE_SECONDS
    """Since the first of them; a new object is one that has passed."""

    @property
    def bearable(self) -> int:
        """The level without those that were refused.

        By their number where a source counts what is open, by their share where it counts what is asked in a second.
        """
        share = math.ceil(self.level * self.refused / (self.refused + self.ended))
        return max(self.floor, self.level - min(self.refused, share))


def _error(one: _Estimate, other: _Estimate) -> float:
    """Return the standard error of the ratio of two rates."""
    return one.rate / max(other.rate, 1e-9) * math.hypot(one.error, other.error)


class Concurrency:
    """How many requests may be open: as many as still bring more, and no more than the source bears.

    Starts low and grows by `growth` at a time while that brings goodput in proportion; then tries a level a quarter
    higher or lower now and then, longer apart each time nothing came of it, and keeps what pays. Goodput is estimated
    for each level with its spread, and a difference counts once it is larger than that. What a source refuses shows how
    much it bears: the level falls by the requests refused, and from there creeps back. Pure: `tick` says what happened.
    """

    def __init__(
        self,
        most: int,
        start: int = START_LEVEL,
        *,
        growth: float = 2.0,
        floor: int = 1,
        longest_rest: float | None = None,
    ) -> None:
        self._most = max(1, most)
        self._floor = min(max(1, floor), self._most)
        """No fewer, whatever the source says: somebody asked for that."""
        self._level = min(max(self._floor, start), self._most)
        self._least = max(self._floor, min(START_LEVEL, self._level))
        """Fewer save next to nothing; only a source that refuses brings it below."""
        self._longest_rest = longest_rest or _LONGEST_REST
        """Seconds between two tries of another level, at most."""
        self._shortest_rest = min(_SHORTEST_REST, self._longest_rest)
        self._growth = growth
        self._ceiling = self._most
        """What the source bears, as far as is known."""
        self._here = _Estimate(self._level)
        self._base: _Estimate | None = None
        """The level that the present one is compared with; None while nothing is being tried."""
        self._growing = self._level < self._most
        self._upward = True
        self._rest = 0.0
        self._patience = self._shortest_rest
        self._strange = 0
        """Ticks in a row that do not look like the estimate: the link has changed."""
        self._episode = _Episode(self._level, self._level)
        self._creep_rest = 0.0
        self._creep_patience = _SHORTEST_CREEP
        self._creep_step = 1
        self._crept = False
        self._lost = 0.0

    @property
    def level(self) -> int:
        """Requests that may be open now."""
        return self._level

    def tick(
        self,
        seconds: float,
        work: float,
        requests: int,
        *,
        busy: int,
        throttled: int = 0,
        lost: int = 0,
        cpu_share: float = 0.0,
    ) -> int:
        """Decide the level until the next tick, and return it. Call it about every TICK_SECONDS.

        `work` is what was done in the `seconds` since the last tick (bytes, plus FILE_WORK a file) and `requests` how
        many ended well; `throttled` how many the source refused (429, 503), `lost` how many broke or stalled. `busy` is
        the requests that hold a place now, also those that wait to be asked again: a level that nobody used teaches
        nothing. `cpu_share` is the part, 0 to 1, of the processor time within reach that was used: nothing is gained by
        more requests once it is 1.
        """
        if seconds <= 0:
            return self._level
        self._episode.seconds += seconds
        self._episode.ended += requests
        if self._is_refused(throttled, requests, busy) or self._is_losing(seconds, lost):
            return self._level
        if busy < self._level - self._level // 8 or busy > self._level:
            return self._level  # not used in full, or requests of a higher level are still under way
        self._creep(seconds)
        self._here.add(seconds, work, requests)
        if self._growing:
            self._grow(cpu_share)
        elif self._base is not None:
            self._end_try(self._base)
        else:
            self._begin_try(seconds, work / seconds, cpu_share)
        return self._level

    # --- what the source refuses, and what breaks ---

    def _is_refused(self, throttled: int, requests: int, busy: int) -> bool:
        """Fall by what was refused. What comes at once is one episode: its refusals are summed, not compounded."""
        if not throttled:
            return False
        if self._episode.seconds < _EPISODE_SECONDS:
            self._episode.refused += throttled
        elif busy > self._level:
            return True  # these were asked at a higher level, and wait until they fit
        else:
            self._begin_episode(throttled)
            self._episode.ended = requests
        self._fall_to(self._episode.bearable)
        return True

    def _begin_episode(self, refused: int) -> None:
        floor = self._level // 2
        if self._crept:
            self._creep_patience = min(_LONGEST_CREEP, self._creep_patience * 2)
            floor = max(floor, self._ceiling - self._creep_step)
        elif self._growing and self._base:
            floor = max(floor, self._base.level)
        self._crept, self._creep_step = False, 1
        self._episode = _Episode(self._level, floor, refused, seconds=0.0)

    def _is_losing(self, seconds: float, lost: int) -> bool:
        """Fall by a quarter where one connection in eight broke within about a second; one alone says nothing."""
        self._lost = self._lost * max(0.0, 1.0 - seconds) + lost
        if self._lost < max(2.0, self._level / 8) or self._episode.seconds < _EPISODE_SECONDS:
            return False
        self._lost = 0.0
        self._begin_episode(0)
        self._fall_to(self._level * 3 // 4)
        return True

    def _fall_to(self, level: int) -> None:
        level = max(self._floor, min(level, self._level))
        self._ceiling = level
        self._creep_rest = self._creep_patience
        self._growing, self._upward = False, False
        self._base, self._rest = None, _REST_AFTER_REFUSAL
        self._move(level)

    def _creep(self, seconds: float) -> None:
        """Ask for a little more than what the source bore, in case it bears more by now."""
        if self._ceiling >= self._most or self._level < self._ceiling or self._base is not None:
            return
        self._creep_rest -= seconds
        if self._creep_rest > 0:
            return
        if self._crept:  # the last step was borne
            self._creep_patience = _SHORTEST_CREEP
            self._creep_step = min(self._creep_step * 2, max(1, self._ceiling // 2))
        self._crept = True
        self._creep_rest = _SHORTEST_CREEP
        self._ceiling = min(self._most, self._ceiling + self._creep_step)
        self._move(self._ceiling)

    # --- growth from the start ---

    def _grow(self, cpu_share: float) -> None:
        here, base = self._here, self._base
        if not here.ticks:
            return
        if base is not None:
            gain = here.rate / max(base.rate, 1e-9)
            part = (gain - 1) / (here.level / base.level - 1)
            doubt = _error(here, base) / (here.level / base.level - 1)
            if part - doubt < _WORTH_GROWING:
                if here.is_known and not here.is_rising:
                    # Goodput grew with the level up to about here.
                    self._end_growth(here.level if part >= _WORTH_KEEPING else math.ceil(base.level * max(1.0, gain)))
                return
        factor = min(self._growth, _FULL / cpu_share) if cpu_share > 0 else self._growth
        level = min(self._ceiling, int(here.level * factor))
        if level <= here.level:
            self._end_growth(here.level)
            return
        self._base = here
        self._move(level)

    def _end_growth(self, level: int) -> None:
        """Settle at the level where goodput stopped growing with it."""
        self._growing, self._base = False, None
        self._rest = self._shortest_rest if level < self._most else min(_REST_AT_MOST, self._longest_rest)
        self._growth = min(self._growth, _GROWTH_AGAIN)
        if level < self._level:
            self._move(level)

    # --- a little more or less, now and then ---

    def _begin_try(self, seconds: float, rate: float, cpu_share: float) -> None:
        self._rest -= seconds
        self._watch(rate)
        if self._rest > 0 or self._here.ticks < _FEWEST_TICKS:
            return
        step = max(1, self._level // 4)
        up = min(self._level + step, self._ceiling) if cpu_share < _FULL else self._level
        # Where the source refuses, more of what it bears is looked for first.
        down = max(min(self._least, self._level), self._level - step) if self._ceiling == self._most else self._level
        aim = up if self._upward else down
        if aim == self._level:
            self._fail_try()
            return
        self._base = self._here
        self._move(aim)

    def _end_try(self, base: _Estimate) -> None:
        here = self._here
        if here.ticks < _FEWEST_TICKS:
            return
        gain, error = here.rate / max(base.rate, 1e-9), _error(here, base)
        factor = here.level / base.level
        worth = 1 + (factor - 1) * (_WORTH_UP if factor > 1 else _WORTH_DOWN)
        if gain - error < worth <= gain + error and here.ticks < (_MOST_TICKS if factor > 1 else _MOST_TICKS_DOWN):
            return
        self._base = None
        if gain - (error if factor > 1 else 0.0) < worth:
            self._return_to(base)
            return
        self._rest, self._patience = 0.0, self._shortest_rest
        if factor > 1 and gain - error >= 1 + (factor - 1) * _WORTH_GROWING_AGAIN and self._ceiling == self._most:
            self._growing, self._base = True, base

    def _return_to(self, base: _Estimate) -> None:
        self._move(base.level)
        self._here = base
        base.settle()
        self._fail_try()

    def _fail_try(self) -> None:
        self._upward = not self._upward
        self._rest = self._patience
        self._patience = min(self._longest_rest, self._patience * 1.5)

    def _watch(self, rate: float) -> None:
        """Begin anew where goodput is not what it was any more."""
        strange = self._here.ticks > _STRANGE_TICKS and self._here.differs(rate)
        self._strange = self._strange + 1 if strange else 0
        if self._strange < _STRANGE_TICKS:
            return
        self._strange, self._rest, self._patience, self._upward = 0, 0.0, self._shortest_rest, True
        self._here = _Estimate(self._level)

    def _move(self, level: int) -> None:
        self._level = level
        self._here = _Estimate(level)
        self._strange = 0


@dataclass(frozen=True, slots=True)
class Retries:
    """What somebody has said of asking again; None: what is known to work."""

    most: int | None = None
    """How often a range is asked for again without a byte of progress, whatever the reason."""
    delay: float | None = None
    """Fewest seconds before it is asked for again the first time."""


USUAL_RETRIES = Retries()


def wait_before_retry(
    error: DataFetchError,
    tries: int,
    *,
    retries: Retries = USUAL_RETRIES,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """Return the seconds to wait before a range is asked for again, or None where that is useless by now.

    `tries` counts those that brought no byte. The wait grows exponentially, with jitter over its upper half, and is
    never shorter than what the server asked for (RFC 9110, Retry-After). Who was refused because of the number of
    requests asks again sooner, and more often: there will be fewer. Who met silence has waited already.
    """
    if not isinstance(error, SourceUnavailableError) or tries >= _most_tries(error, retries):
        return None
    longest = _LONGEST_WAIT_REFUSED if error.throttled else _LONGEST_WAIT
    doubled = 2.0 ** min(tries - 1, 10)
    if retries.delay is not None:
        wait = min(max(longest, retries.delay), retries.delay * doubled) * (1 + jitter() / 4)
    elif isinstance(error, StalledError):
        return jitter() * _WAIT_AFTER_STALL
    else:
        wait = min(longest, _FIRST_WAIT * doubled) * (0.5 + jitter() / 2)
    # All that are refused at once are told the same: a quarter of it spreads them.
    return max(wait, min(error.retry_after or 0.0, 120.0) * (1 + jitter() / 4))


def _most_tries(error: SourceUnavailableError, retries: Retries) -> int:
    if retries.most is not None:
        return retries.most + 1
    if isinstance(error, StalledError):
        return MAX_STALLS
    return MAX_REFUSALS if error.throttled else MAX_TRIES
