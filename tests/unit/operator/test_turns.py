"""Whose turn it is, as it goes on: who asks, who ends, who changes or goes; and who is woken when."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_operator.budget import Contender, Limits
from datafetch_operator.observation import Key
from datafetch_operator.turns import Turns

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


class Scene:
    """Turns, who was woken, and a clock."""

    def __init__(self, active: int | None = None, per_host: int | None = None) -> None:
        self.now = 0.0
        self.woken: list[Key] = []
        self.turns = Turns(Limits(active, per_host), self.woken.append, lambda: self.now)

    def ask(self, name: str, *hosts: str, namespace: str = "team") -> int | None:
        """Return the position; None where it may start."""
        since = START + timedelta(seconds=self.now)
        place = self.turns.ask(Contender(Key(namespace, name), since, hosts or ("hub",)))
        return None if place is None else place.position

    def end(self, name: str, namespace: str = "team") -> list[str]:
        """Return who is woken by that end."""
        self.woken.clear()
        self.turns.note_idle(Key(namespace, name))
        return [key.name for key in self.woken]


def test_a_start_counts_before_anybody_has_seen_its_job() -> None:
    scene = Scene(active=1)
    assert scene.ask("a") is None
    assert scene.ask("b") == 1
    assert scene.ask("a") is None, "who may start may ask again: perhaps the operator's write failed"
    assert scene.woken == []


def test_an_end_wakes_the_next_at_once_and_it_keeps_its_turn_until_it_asks() -> None:
    scene = Scene(active=1)
    for name in "abc":
        scene.ask(name)
    assert scene.end("a") == ["b"]
    assert scene.ask("d") == 2
    assert scene.ask("b") is None
    assert scene.ask("c") == 1


def test_a_start_that_was_refused_gives_its_place_to_the_next() -> None:
    scene = Scene(active=1)
    scene.ask("a")
    scene.ask("b")
    assert scene.end("a") == ["b"]
    assert scene.ask("a") == 1


def test_who_leaves_the_queue_is_not_woken_and_stands_in_nobodys_way() -> None:
    scene = Scene(active=1)
    for name in "abc":
        scene.ask(name)
    assert scene.end("b") == [], "it was deleted, or suspended, while it waited"
    assert scene.ask("c") == 1
    assert scene.end("a") == ["c"]


def test_who_is_changed_while_it_waits_keeps_its_place_and_waits_for_its_new_host() -> None:
    scene = Scene(per_host=1)
    scene.ask("hub", "hub")
    scene.ask("changed", "hub")
    scene.now = 60
    scene.ask("later", "hub")
    assert scene.ask("changed", "minio") is None, "from there nobody downloads"
    assert scene.ask("later", "hub") == 1
    scene.now = 90
    assert scene.ask("changed", "hub") == 2, "it downloaded and brings something else now: it is the youngest"


def test_what_runs_is_counted_and_never_stopped_where_a_limit_was_lowered() -> None:
    scene = Scene(active=2)
    for name in "abcd":
        scene.turns.note_active(Key("team", name), ("hub",))
    assert scene.ask("a") is None, "another attempt of what is under way is no more than before"
    assert scene.ask("e") == 1
    assert [scene.end("a"), scene.end("b"), scene.end("c")] == [[], [], ["e"]]


def test_who_moves_up_is_told_when_it_has_come_half_the_way_and_at_most_once_a_minute() -> None:
    scene = Scene(active=1)
    for number in range(41):
        scene.ask(f"{number:02}")
    assert scene.turns.waiting == 40
    told: Counter[str] = Counter()
    for number in range(40):
        scene.now += 60
        turn, *moved = scene.end(f"{number:02}")
        assert turn == f"{number + 1:02}"
        told.update(moved)
    assert told["40"] == 5, "of 40: 20, 10, 5, 2 and 1"
    scene.now += 1
    for number in range(100, 140):
        scene.ask(str(number))
    for number in range(40, 50):
        scene.now += 1
        assert len(scene.end(str(number if number == 40 else number + 59))) == 1, "too soon to be told again"


def test_a_thousand_that_wait_ask_again_without_being_sorted_again() -> None:
    scene = Scene(active=20)
    for number in range(1000):
        scene.ask(str(number), namespace=f"n{number % 7}")
    places = scene.turns._places
    for number in range(1000):
        scene.ask(str(number), namespace=f"n{number % 7}")
    assert scene.turns._places is places


class Crowd:
    """Fetches that come, end, are refused, change and go, and an operator that restarts and knows only what runs."""

    def __init__(self, dice: random.Random, most: int, per_host: int, running: int) -> None:
        self._dice, self._most, self._per_host = dice, most, per_host
        self._scene = Scene(most, per_host)
        self.running = {Key("team", f"found-{number}") for number in range(running)}
        self.hosts: dict[Key, tuple[str, ...]] = dict.fromkeys(self.running, ("hub",))
        self._restart()

    @property
    def waiting(self) -> list[Key]:
        return sorted(self.hosts.keys() - self.running)

    def happen(self, what: str) -> None:
        self._scene.now += self._dice.randint(0, 30)
        match what:
            case "come":
                key = Key(self._dice.choice("abc"), str(len(self.hosts) + self._scene.now))
                self.hosts[key] = self._some_hosts()
                self._look(key)
            case "end" if self.running:
                self._end(self._dice.choice(sorted(self.running)))
            case "go" if self.waiting:
                self._end(self._dice.choice(self.waiting))
            case "change" if self.waiting:
                self.hosts[self.waiting[0]] = self._some_hosts()
                self._look(self.waiting[0])
            case "restart":
                self._restart()
        while self._scene.woken:
            self._look(self._scene.woken.pop(0))

    def _some_hosts(self) -> tuple[str, ...]:
        return tuple(sorted(self._dice.sample(["hub", "minio", "s3"], self._dice.choice([1, 1, 2]))))

    def _look(self, key: Key) -> None:
        if key not in self.waiting or self._scene.ask(key.name, *self.hosts[key], namespace=key.namespace):
            return
        self.running.add(key)
        at_hosts = Counter(host for other in self.running for host in self.hosts[other])
        assert len(self.running) <= self._most
        assert all(at_hosts[host] <= self._per_host for host in self.hosts[key])

    def _end(self, key: Key) -> None:
        del self.hosts[key]
        self.running.discard(key)
        self._scene.turns.note_idle(key)

    def _restart(self) -> None:
        now, self._scene = self._scene.now, Scene(self._most, self._per_host)
        self._scene.now = now
        for key in self.running:
            self._scene.turns.note_active(key, self.hosts[key])
        for key in self._dice.sample(self.waiting, len(self.waiting)):
            self._look(key)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3), st.integers(0, 8))
def test_whatever_happens_limits_hold_and_everybody_gets_a_turn(
    seed: int, most: int, per_host: int, running: int
) -> None:
    dice = random.Random(seed)
    crowd = Crowd(dice, most, per_host, running)
    for _ in range(100):
        crowd.happen(dice.choice(["come", "come", "come", "end", "end", "go", "change", "restart"]))
    while crowd.hosts:
        assert crowd.running, f"{crowd.waiting} wait, and nothing runs"
        crowd.happen("end")


def test_a_namespace_that_asks_for_little_is_served_beside_one_that_asks_for_much() -> None:
    scene = Scene(active=4)
    for number in range(100):
        scene.ask(str(number), namespace="greedy")
    scene.now = 60
    assert scene.ask("small", namespace="modest") == 1
    assert scene.end("0", "greedy") == ["small"]
