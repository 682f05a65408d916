"""Limits and waits, from numbers."""

import random
import statistics
from collections.abc import Callable

import pytest

from datafetch.errors import CredentialsRejectedError, SourceUnavailableError
from datafetch.pace import MAX_TRIES, START_LEVEL, BandwidthLimiter, Concurrency, wait_before_retry


@pytest.mark.parametrize("rate", [50_000, 10 << 20, 1 << 30])
def test_a_bandwidth_limit_holds_over_any_ten_seconds(rate: int) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    limiter = BandwidthLimiter(rate, clock=lambda: now[0], sleep=sleep)
    arrived: list[tuple[float, int]] = []
    piece = min(limiter.read_bytes or 0, 1 << 20)
    while now[0] < 40:
        limiter.take(piece)
        arrived.append((now[0], piece))
        now[0] += 0.0001
    for start in range(0, 30, 3):
        window = sum(count for moment, count in arrived if start <= moment < start + 10)
        assert window == pytest.approx(rate * 10, rel=0.05)


def settle(concurrency: Concurrency, goodput: Callable[[int], float], limit: int = 10**6) -> list[int]:
    """Return the levels of the second half of a run against a source with the given goodput at each level."""
    chance = random.Random(5)
    levels: list[int] = []
    ticks = 400
    for _ in range(ticks):
        level = concurrency.level
        noisy = goodput(min(level, limit)) * chance.uniform(0.98, 1.02)
        concurrency.tick(noisy, throttled=level > limit)
        levels.append(concurrency.level)
    return levels[ticks // 2 :]


def test_it_climbs_as_long_as_more_requests_bring_more() -> None:
    levels = settle(Concurrency(64), lambda level: 10.0 * min(level, 32))
    assert 24 <= statistics.median(levels) <= 45


def test_it_climbs_within_seconds() -> None:
    concurrency = Concurrency(64)
    for _ in range(16):
        concurrency.tick(10.0 * concurrency.level)
    assert concurrency.level >= 32


def test_it_stays_low_where_more_requests_bring_nothing() -> None:
    levels = settle(Concurrency(64), lambda level: 100.0)
    assert statistics.median(levels) <= 4


def test_it_goes_down_where_more_requests_hurt() -> None:
    levels = settle(Concurrency(64, start=32), lambda level: 100.0 / (1 + abs(level - 6) / 10))
    assert 3 <= statistics.median(levels) <= 10


@pytest.mark.parametrize("limit", [1, 3, 8, 20])
def test_it_settles_below_the_level_at_which_the_source_throttles(limit: int) -> None:
    levels = settle(Concurrency(64), lambda level: 10.0 * level, limit=limit)
    assert statistics.median(levels) <= limit + 1
    assert statistics.median(levels) >= max(1, limit * 0.6)
    assert sum(level > limit for level in levels) <= len(levels) * 0.25


def test_a_level_that_nobody_used_teaches_nothing() -> None:
    concurrency = Concurrency(64)
    for _ in range(50):
        concurrency.tick(1.0, saturated=False)
    assert concurrency.level == START_LEVEL


def test_waits_grow_and_end() -> None:
    error = SourceUnavailableError("503")
    waits = [wait_before_retry(error, tries, jitter=lambda: 1.0) for tries in range(1, MAX_TRIES + 1)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]


def test_the_servers_wish_counts() -> None:
    error = SourceUnavailableError("503", retry_after=20.0)
    assert wait_before_retry(error, 1, jitter=lambda: 0.0) == 20.0


def test_what_a_retry_cannot_mend_is_not_retried() -> None:
    assert wait_before_retry(CredentialsRejectedError("403"), 1) is None
