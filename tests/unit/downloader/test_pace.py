"""Limits and waits, from numbers; concurrency against a simulated link (`simulated_link`), seeds fixed."""

import itertools
import random
import statistics
import threading
from dataclasses import replace
from time import monotonic

import pytest

from datafetch.errors import CredentialsRejectedError, SourceUnavailableError, StalledError
from datafetch.pace import (
    MAX_REFUSALS,
    MAX_STALLS,
    MAX_TRIES,
    START_LEVEL,
    BandwidthLimiter,
    Concurrency,
    Retries,
    wait_before_retry,
)
from unit.downloader.simulated_link import Simulation, World, best_fixed

SEEDS = (1, 2)
SMALL = World(size=16 << 10)
"""Small files over 40 ms: 65 ms a request."""
LARGE = World(size=32 << 20, per_connection=25e6)
LOOPBACK = World(round_trip=0.001, server_seconds=0.002, step=0.001, cpu_per_request=1 / 2500)
"""Eight requests keep the processor busy."""


def lane(most: int = 256) -> Concurrency:
    """As the engine makes it for small files."""
    return Concurrency(most, 16, growth=4)


def ranges(most: int = 64) -> Concurrency:
    """As the engine makes it for ranges of large files."""
    return Concurrency(most)


# --- goodput is sought -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("connect_round_trips", [1, 3], ids=["tcp", "tls"])
def test_many_small_files_over_a_slow_link_get_all_connections_within_a_second(
    seed: int, connect_round_trips: int
) -> None:
    world = replace(SMALL, connect_round_trips=connect_round_trips)
    run = Simulation(world, lane(), seed).advance(4)
    fixed = Simulation(world, Concurrency(256, 256), seed).advance(4)
    assert run.seconds_to(0.9 * fixed.goodput(1, 4)) <= 1.0
    assert run.goodput(0, 4) >= 0.8 * fixed.goodput(0, 4), "what starting low costs in the first four seconds"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_large_files_get_what_fills_the_link(seed: int) -> None:
    world = replace(LARGE, capacity=800e6)
    _, best = best_fixed(world, [16, 32, 48, 64])
    run = Simulation(world, ranges(), seed).advance(20)
    assert run.seconds_to(0.9 * best) <= 2.0
    assert run.goodput(5, 20) >= 0.93 * best
    assert 28 <= statistics.median(run.between(5, 20)) <= 40, "32 fill it"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_it_settles_where_the_link_is_full_however_unsteady(seed: int, noise: float) -> None:
    world = replace(SMALL, capacity=10e6, noise=noise)
    run = Simulation(world, lane(), seed).advance(20)
    best = Simulation(world, Concurrency(64, 64), seed).advance(20).goodput(2, 20)
    assert run.goodput(5, 20) >= 0.88 * best
    assert 30 <= statistics.median(run.between(5, 20)) <= 80, "40 fill it"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_it_does_not_swing(seed: int, noise: float) -> None:
    run = Simulation(replace(LARGE, capacity=200e6, noise=noise), ranges(), seed).advance(30)
    settled = run.between(10, 30)
    middle = statistics.median(settled)
    assert all(0.5 * middle <= level <= 2 * middle for level in settled)
    changes = sum(one != other for one, other in itertools.pairwise(settled))
    assert changes <= 30, "in 200 ticks"


# --- more requests than help are not opened --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_busy_processor_gets_no_more_connections(seed: int) -> None:
    run = Simulation(replace(LOOPBACK, says_cpu=True), lane(), seed).advance(5)
    best = Simulation(LOOPBACK, Concurrency(64, 64), seed).advance(5).goodput(1, 5)
    assert run.connections <= 24
    assert run.goodput(0, 5) >= 0.9 * best


@pytest.mark.parametrize("seed", SEEDS)
def test_without_word_of_the_processor_it_is_goodput_that_stops_the_growth(seed: int) -> None:
    run = Simulation(replace(LOOPBACK, cpu_per_open=0.004), lane(), seed).advance(8)
    assert run.connections <= 64
    assert 4 <= statistics.median(run.between(2, 8)) <= 24


@pytest.mark.parametrize("seed", SEEDS)
def test_large_files_that_the_processor_cannot_take_faster_stay_at_a_few_requests(seed: int) -> None:
    run = Simulation(replace(LARGE, per_connection=1e12, cpu_per_byte=1e-9, round_trip=0.001), ranges(), seed).advance(
        10
    )
    assert max(run.levels) <= 8
    assert statistics.median(run.between(5, 10)) <= START_LEVEL + 1


# --- a source that refuses, a link that loses ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [5, 20, 80])
def test_small_files_settle_near_the_number_of_requests_that_the_source_bears(seed: int, limit: int) -> None:
    # Nearly all of a request's time is the server's: what is open is what it counts.
    world = replace(SMALL, round_trip=0.01, server_seconds=0.1, refuse_above=limit)
    best = Simulation(world, Concurrency(limit, limit), seed).advance(20).goodput(5, 20)
    run = Simulation(world, lane(), seed).advance(40)
    assert 0.75 * limit <= statistics.mean(run.serving[100:]) <= limit
    assert 0.75 * limit <= statistics.median(run.between(10, 40)) <= 1.25 * limit
    assert run.goodput(10, 40) >= 0.85 * best
    assert run.refused_share() <= 0.05
    assert run.goodput(2, 5) >= 0.5 * best, "no collapse after the first refusals"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [3, 10, 24])
def test_ranges_settle_near_the_number_of_requests_that_the_source_bears(seed: int, limit: int) -> None:
    world = replace(LARGE, capacity=800e6, refuse_above=limit)
    best = Simulation(world, Concurrency(limit, limit), seed).advance(20).goodput(5, 20)
    run = Simulation(world, ranges(), seed).advance(60)
    assert 0.75 * limit <= statistics.median(run.between(20, 60)) <= 1.25 * limit
    assert run.goodput(20, 60) >= 0.85 * best
    assert sum(run.refused[200:]) <= 0.05 * sum(run.completed[200:]) + 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_source_that_counts_requests_per_second_gets_about_as_many(seed: int) -> None:
    run = Simulation(replace(SMALL, most_per_second=300), lane(), seed).advance(60)
    assert sum(run.completed[200:]) / 40 >= 0.75 * 300
    assert run.refused_share() <= 0.08


@pytest.mark.parametrize("seed", SEEDS)
def test_a_source_that_bears_more_by_now_gets_more(seed: int) -> None:
    simulation = Simulation(replace(LARGE, capacity=800e6, refuse_above=8), ranges(), seed)
    simulation.advance(30)
    simulation.world.refuse_above = 24
    run = simulation.advance(60)
    assert statistics.median(run.between(75, 90)) >= 18


@pytest.mark.parametrize("seed", SEEDS)
def test_it_goes_down_where_more_requests_break(seed: int) -> None:
    run = Simulation(replace(LARGE, capacity=800e6, lost_above=12), ranges(), seed).advance(40)
    assert 8 <= statistics.median(run.between(15, 40)) <= 16


def test_one_connection_that_breaks_says_nothing() -> None:
    concurrency = Concurrency(64, 16)
    concurrency.tick(0.1, 1e6, 4, busy=16, lost=1)
    assert concurrency.level >= 16


def test_with_one_request_it_goes_on_asking() -> None:
    concurrency = Concurrency(64, 1)
    for _ in range(100):
        concurrency.tick(0.1, 0.0, 0, busy=1, throttled=1)
    assert concurrency.level == 1


# --- change, and nothing to learn ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_it_follows_a_link_that_grows_and_shrinks(seed: int) -> None:
    simulation = Simulation(replace(LARGE, capacity=100e6), ranges(), seed)
    simulation.advance(15)
    simulation.world.capacity = 600e6
    run = simulation.advance(25)
    assert run.goodput(30, 40) >= 0.85 * 600e6
    simulation.world.capacity = 100e6
    run = simulation.advance(60)
    assert statistics.median(run.between(80, 100)) <= 12


def test_a_level_that_nobody_used_teaches_nothing() -> None:
    concurrency = Concurrency(64)
    assert {concurrency.tick(0.1, 1e6, 10, busy=1) for _ in range(50)} == {START_LEVEL}


def test_as_long_as_requests_of_a_higher_level_are_under_way_nothing_is_learnt() -> None:
    concurrency = Concurrency(64, 16)
    fallen = concurrency.tick(0.1, 1e6, 10, busy=16, throttled=4)
    assert fallen < 16
    assert {concurrency.tick(0.1, 1e6, 10, busy=16) for _ in range(100)} == {fallen}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_maximum_holds(most: int) -> None:
    run = Simulation(SMALL, lane(most)).advance(10)
    assert max(run.levels) <= most


# --- bandwidth -------------------------------------------------------------------------------------------------------


class FakeTime:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("rate", [50_000, 10 << 20, 1 << 30])
def test_a_bandwidth_limit_holds_over_any_ten_seconds(rate: int) -> None:
    time = FakeTime()
    limiter = BandwidthLimiter(rate, clock=time.clock, sleep=time.sleep)
    arrived: list[tuple[float, int]] = []
    piece = min(limiter.read_bytes or 0, 1 << 20)
    while time.now < 40:
        arrived.append((time.now, piece))
        limiter.take(piece)
        time.now += 0.0001
    for start in range(0, 30, 3):
        window = sum(count for moment, count in arrived if start <= moment < start + 10)
        assert window == pytest.approx(rate * 10, rel=0.05)


@pytest.mark.parametrize("threads", [4, 16])
@pytest.mark.parametrize("rate", [2 << 20, 64 << 20])
def test_a_bandwidth_limit_holds_for_many_readers_that_are_each_a_buffer_ahead(rate: int, threads: int) -> None:
    # Each reader takes its buffer as soon as its wait for the one before is over; all begin at once.
    time = FakeTime()
    limiter = BandwidthLimiter(rate, clock=time.clock)
    piece = min(limiter.read_bytes or 0, 1 << 20)
    ready = [0.0] * threads
    arrived: list[tuple[float, int]] = []
    while time.now < 25:
        reader = ready.index(min(ready))
        time.now = max(time.now, ready[reader])
        arrived.append((time.now, piece))
        ready[reader] = time.now + limiter.delay(piece)
    for start in range(0, 15, 3):
        window = sum(count for moment, count in arrived if start <= moment < start + 10)
        assert window == pytest.approx(rate * 10, rel=0.05)


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    time = FakeTime()
    limiter = BandwidthLimiter(1000, clock=time.clock, sleep=time.sleep)
    time.now = 60.0
    limiter.take(1000)
    assert time.now >= 60.85


def test_an_event_loop_is_told_how_long_to_wait_and_is_not_kept() -> None:
    time = FakeTime()
    limiter = BandwidthLimiter(1000, clock=time.clock, sleep=time.sleep)
    assert limiter.delay(1000) == pytest.approx(1.0)
    assert limiter.delay(0) == pytest.approx(1.0), "another connection has to wait as well"
    assert time.now == 0.0
    time.now = 1.0
    assert limiter.delay(0) == 0.0
    assert BandwidthLimiter(None).delay(1 << 30) == 0.0


def test_a_head_start_of_the_server_is_paid_at_the_beginning() -> None:
    limiter = BandwidthLimiter(1000, head_start=0.25, clock=lambda: 7.0)
    assert limiter.delay(100) == pytest.approx(0.25 + 0.1)


def test_what_may_be_asked_for_ahead_follows_the_limit() -> None:
    assert BandwidthLimiter(None).ahead_bytes is None
    assert BandwidthLimiter(8_000_000).ahead_bytes == 2_000_000
    assert BandwidthLimiter(1).ahead_bytes == 64 << 10


def test_threads_share_one_limit() -> None:
    limiter = BandwidthLimiter(100_000)
    started = monotonic()

    def read() -> None:
        for _ in range(10):
            limiter.take(1000)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.65 <= monotonic() - started <= 1.5


# --- retries ---------------------------------------------------------------------------------------------------------


def test_waits_grow_and_end() -> None:
    error = SourceUnavailableError("503")
    waits = [wait_before_retry(error, tries, jitter=lambda: 1.0) for tries in range(1, MAX_TRIES + 1)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]


def test_the_servers_wish_counts() -> None:
    error = SourceUnavailableError("503", retry_after=20.0)
    assert wait_before_retry(error, 1, jitter=lambda: 0.0) == 20.0


def test_those_who_were_refused_at_once_do_not_come_back_at_once() -> None:
    error = SourceUnavailableError("503", retry_after=2.0, throttled=True)
    chance = random.Random(1)
    waits = [wait_before_retry(error, 1, jitter=chance.random) or 0.0 for _ in range(10)]
    assert len(set(waits)) == 10
    assert 2.0 <= min(waits) <= max(waits) <= 2.5


def test_who_is_refused_waits_its_turn_for_more_than_a_minute() -> None:
    error = SourceUnavailableError("503", throttled=True)
    waits = [wait_before_retry(error, tries, jitter=lambda: 0.5) for tries in range(1, MAX_REFUSALS + 1)]
    assert waits[-1] is None
    assert sum(wait for wait in waits if wait) >= 75
    assert max(wait for wait in waits if wait) <= 4.0


def test_after_silence_it_asks_again_at_once_but_not_for_ever() -> None:
    waits = [wait_before_retry(StalledError("silent"), tries, jitter=lambda: 1.0) for tries in range(1, MAX_STALLS + 1)]
    assert waits == [0.1, 0.1, 0.1, 0.1, None]


def test_what_a_retry_cannot_mend_is_not_retried() -> None:
    assert wait_before_retry(CredentialsRejectedError("403"), 1) is None


def retry_count(error: SourceUnavailableError, retries: Retries) -> int:
    """How often a range is asked for again before it is given up."""
    return next(tries for tries in itertools.count() if wait_before_retry(error, tries + 1, retries=retries) is None)


@pytest.mark.parametrize(
    "error", [SourceUnavailableError("broken"), SourceUnavailableError("503", throttled=True), StalledError("silent")]
)
@pytest.mark.parametrize("most", [0, 1, 3, 50])
def test_who_says_how_often_is_obeyed_whatever_the_reason(error: SourceUnavailableError, most: int) -> None:
    assert retry_count(error, Retries(most=most)) == most


def test_a_delay_that_was_asked_for_is_kept_and_doubled() -> None:
    error, delay = SourceUnavailableError("broken"), Retries(most=9, delay=5.0)
    waits = [wait_before_retry(error, tries, retries=delay, jitter=lambda: 0.0) for tries in range(1, 6)]
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]
    assert wait_before_retry(error, 4, retries=Retries(delay=90.0), jitter=lambda: 0.0) == 90.0
    assert wait_before_retry(StalledError("silent"), 1, retries=delay, jitter=lambda: 1.0) == 6.25
    assert wait_before_retry(error, 3, retries=Retries(delay=0.0)) == 0.0
    asked = SourceUnavailableError("503", throttled=True, retry_after=7.0)
    assert wait_before_retry(asked, 1, retries=Retries(delay=1.0), jitter=lambda: 0.0) == 7.0


# --- what somebody asks for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [8, 64])
def test_a_floor_is_where_it_starts_and_what_it_never_falls_below(most: int) -> None:
    concurrency = Concurrency(most, 2, growth=4, floor=6)
    assert concurrency.level == 6
    for _ in range(200):
        assert concurrency.tick(0.1, 0, 0, busy=concurrency.level, throttled=concurrency.level, lost=3) >= 6


def test_a_floor_above_the_maximum_is_the_maximum() -> None:
    assert Concurrency(4, 2, floor=9).level == 4


def changes(longest_rest: float | None) -> int:
    """How often the level changes in ten minutes in which it makes no difference."""
    concurrency = Concurrency(64, 8, longest_rest=longest_rest)
    levels = [concurrency.tick(0.1, 1e6, 8, busy=concurrency.level) for _ in range(6000)]
    return sum(one != other for one, other in itertools.pairwise(levels))


def test_the_interval_says_how_often_another_level_is_tried() -> None:
    often, usually, seldom = changes(1.0), changes(None), changes(60.0)
    assert often > 2 * usually > 0
    assert usually > 2 * seldom > 0
