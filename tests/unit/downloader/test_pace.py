"""Limits and waits, from numbers."""

import pytest

from datafetch.errors import CredentialsRejectedError, SourceUnavailableError
from datafetch.pace import MAX_TRIES, BandwidthLimiter, Concurrency, wait_before_retry


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


def test_throttling_halves_and_quiet_seconds_add_one() -> None:
    concurrency = Concurrency(16)
    concurrency.throttle()
    concurrency.throttle()
    assert concurrency.tick() == 8
    concurrency.throttle()
    assert concurrency.tick() == 4
    assert [concurrency.tick() for _ in range(3)] == [5, 6, 7]
    for _ in range(20):
        concurrency.tick()
    assert concurrency.limit == 16


def test_waits_grow_and_end() -> None:
    error = SourceUnavailableError("503")
    waits = [wait_before_retry(error, tries, jitter=lambda: 1.0) for tries in range(1, MAX_TRIES + 1)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]


def test_the_servers_wish_counts() -> None:
    error = SourceUnavailableError("503", retry_after=20.0)
    assert wait_before_retry(error, 1, jitter=lambda: 0.0) == 20.0


def test_what_a_retry_cannot_mend_is_not_retried() -> None:
    assert wait_before_retry(CredentialsRejectedError("403"), 1) is None
