"""Progress is written at most every ten seconds a fetch, and twenty logs are read a second in all."""

import heapq
import random
from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from datafetch_api.resource import Phase
from datafetch_operator.observation import Key
from datafetch_operator.pacing import Pace

WINDOW, MOST = 10, 200
"""Seconds, and how many logs may be read in them."""


def test_a_log_is_read_at_once_and_then_every_ten_seconds() -> None:
    now = 100.0
    pace, key = Pace(lambda: now), Key("team", "a")
    assert pace.wait(key, soon=1) == 0
    pace.note_read(key)
    assert 10 <= pace.wait(key) < 10.1
    now = 104.0
    assert 6 <= pace.wait(key) < 6.1, "events bring it to a look, and not to a reading"
    now = 110.06
    assert pace.wait(key) == 0


def test_the_first_lines_are_looked_for_more_often_and_written_every_ten_seconds() -> None:
    now = 100.0
    pace, key = Pace(lambda: now), Key("team", "a")
    pace.note_write(key)
    written = 0
    for _ in range(15):
        assert pace.wait(key, soon=2) == 0
        pace.note_read(key)
        if pace.is_due(key):
            written += 1
            pace.note_write(key)
        now += 2.06
    assert written == 2, "a listing of thirty seconds"


def test_for_how_long_a_log_has_had_nothing_new_is_counted_by_our_own_clock() -> None:
    now = 100.0
    pace, key = Pace(lambda: now), Key("team", "a")
    first, second = datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, 0, 0, 10, tzinfo=UTC)
    assert pace.silence(key, first) == 0
    now = 110.0
    assert pace.silence(key, first) == 10
    assert pace.silence(key, second) == 0
    now = 170.0
    assert pace.silence(key, second) == 60
    pace.note_unread(key)
    assert pace.silence(key, second) == 0, "another pod has another log"


def test_the_pods_that_ask_are_written_at_once_and_then_every_ten_seconds() -> None:
    now = 0.0
    pace, key = Pace(lambda: now), Key("team", "a")
    assert pace.consumers_wait(key) == 0
    pace.note_consumers_write(key)
    now = 4.0
    assert pace.consumers_wait(key) == 6
    now = 10.0
    assert pace.consumers_wait(key) == 0
    pace.note_phase(key, None)
    now = 0.0
    assert pace.consumers_wait(key) == 0, "what is gone is forgotten"


def test_every_log_that_is_read_counts_for_the_pace() -> None:
    pace = Pace()
    for number in range(20):
        pace.note_pods_read(Key("team", f"recipe-{number}"), 20)
    assert pace.interval == 25
    for number in range(20):
        pace.note_pods_read(Key("team", f"recipe-{number}"), 0)
    assert pace.interval == 10


def test_the_pods_of_a_recipe_that_are_read_keep_others_waiting() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    pace.note_pods_being_read(18)
    assert 1 <= pace.wait(Key("team", "a"), soon=1) < 1.1


def test_the_pace_falls_as_those_that_are_read_grow_and_not_with_those_that_wait() -> None:
    pace = Pace()
    for number in range(400):
        pace.note_phase(Key("team", f"queued-{number}"), Phase.REFRESHING)
    assert pace.interval == 10
    assert pace.phases[Phase.REFRESHING] == 400
    for number in range(400):
        pace.wait(Key("team", f"active-{number}"))
    assert pace.interval == 25
    for number in range(200):
        pace.note_unread(Key("team", f"active-{number}"))
    for number in range(200, 400):
        pace.note_phase(Key("team", f"active-{number}"), None)
    assert pace.interval == 10


class Crowd:
    """A thousand downloads whose logs are read by timers that are late and events that come early."""

    def __init__(self, dice: random.Random, count: int = 1000) -> None:
        self.now = 1000.0
        self.reads: dict[Key, list[float]] = defaultdict(list)
        self._dice = dice
        self._pace = Pace(lambda: self.now)
        self._timers: list[tuple[float, Key]] = []
        self._keys = [Key("team", str(number)) for number in range(count)]
        self._known: set[Key] = set()

    def start(self, within: float) -> None:
        """Let all of them begin to run within so many seconds, in clumps."""
        for number, key in enumerate(self._keys):
            heapq.heappush(self._timers, (self.now + within * (number // 40) * 40 / len(self._keys), key))

    def restart(self) -> None:
        """Let an operator that knows nothing look at all of them at once; their progress stands in the status."""
        self._pace, self._timers = Pace(lambda: self.now), []
        self.start(0)

    def stand_still(self, seconds: float) -> None:
        """Let nothing be looked at for a while, as when the API server is away."""
        self.now += seconds

    def play(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] < end:
            due, key = heapq.heappop(self._timers)
            self.now = max(self.now, due)
            heapq.heappush(self._timers, (self.now + self._look(key) + self._dice.expovariate(10), key))
            if self._dice.random() < 0.2:
                self._look(self._dice.choice(self._keys[: len(self.reads) or 1]))
        self.now = end

    def _look(self, key: Key) -> float:
        wait = self._pace.wait(key, None if key in self._known else 1)
        if wait:
            return wait
        self.reads[key].append(self.now)
        self._known.add(key)
        self._pace.note_read(key)
        if self._pace.is_due(key):
            self._pace.note_write(key)
        return self._pace.wait(key)

    def busiest(self, since: float) -> int:
        """Return how many logs at the most were read in ten seconds."""
        moments = sorted(moment for times in self.reads.values() for moment in times if moment >= since)
        return max(
            sum(first <= moment < first + WINDOW for moment in moments[n : n + 400]) for n, first in enumerate(moments)
        )

    def check(self, since: float, *, within: float) -> None:
        """Expect the pace to hold since then, and nobody to be left unread for longer than `within` seconds."""
        assert self.busiest(since) <= MOST
        for times in self.reads.values():
            assert all(later - earlier >= WINDOW for earlier, later in pairwise(times))
            assert times[-1] >= self.now - within


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_downloads_are_read_twenty_times_a_second_however_they_came_together(seed: int) -> None:
    crowd = Crowd(random.Random(seed))
    crowd.start(within=60)
    crowd.play(300)
    assert len(crowd.reads) == 1000
    crowd.check(0, within=75)
    crowd.stand_still(90)
    since = crowd.now
    crowd.play(200)
    crowd.check(since, within=75)


def test_after_a_restart_none_is_read_too_soon_nor_all_at_once() -> None:
    crowd = Crowd(random.Random(7))
    crowd.start(within=60)
    crowd.play(200)
    since = crowd.now
    crowd.restart()
    crowd.play(200)
    crowd.check(since, within=75)
