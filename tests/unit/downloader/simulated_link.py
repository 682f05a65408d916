"""A link, a server and a client in simulated time, for tests of `datafetch.pace`: deterministic for one seed.

The client keeps as many requests open as its `Concurrency` allows. A request needs a connection (round trips), the
server's time, and its share of the link and of the client's processor. A server may refuse what is above its limit.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from datafetch.pace import TICK_SECONDS, Concurrency

FILE_WORK = 64 << 10
"""As the engine counts it."""


@dataclass
class World:
    """What the link and the server are like. May be changed while time goes by."""

    size: float = 16 << 10
    """Bytes of each request."""
    round_trip: float = 0.04
    server_seconds: float = 0.005
    """Seconds until the first byte, on average; spread between half and one and a half times that."""
    connect_round_trips: int = 1
    capacity: float = 1e12
    """Bytes per second of the link."""
    per_connection: float = 1e12
    """Bytes per second of one connection."""
    refuse_above: int = 10**6
    """Requests at a time; what is above is answered with 503."""
    most_per_second: float = 1e12
    """Requests per second, with a burst of a second's worth; what is above is answered with 503."""
    retry_after: float = 1.0
    cpu_per_request: float = 0.0
    cpu_per_byte: float = 0.0
    cpu_per_open: float = 0.0
    """Processor seconds per open request and second: what more of them cost."""
    lost_above: int = 10**6
    """With more requests than this, each has one chance in five per second to break."""
    noise: float = 0.0
    """Relative spread of the link's capacity from tick to tick."""
    step: float = 0.005
    """Seconds from one look at everything to the next; not longer than the time of a request."""
    says_cpu: bool = False
    """Whether the concurrency is told the processor's share."""


@dataclass(slots=True)
class _Request:
    until: float
    """When its present stage ends; a transfer ends with its bytes."""
    stage: str
    left: float


@dataclass
class Run:
    """What happened, a value a tick."""

    levels: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    serving: list[int] = field(default_factory=list)
    """Requests that the server was at."""
    connections: int = 0

    def goodput(self, start: float, end: float) -> float:
        """Work per second between two moments."""
        ticks = self.work[round(start / TICK_SECONDS) : round(end / TICK_SECONDS)]
        return sum(ticks) / (len(ticks) * TICK_SECONDS)

    def between(self, start: float, end: float) -> list[int]:
        """The levels between two moments."""
        return self.levels[round(start / TICK_SECONDS) : round(end / TICK_SECONDS)]

    def seconds_to(self, goodput: float) -> float:
        """When goodput first was that high, over half a second."""
        for index in range(len(self.work) - 5):
            if sum(self.work[index : index + 5]) / (5 * TICK_SECONDS) >= goodput:
                return index * TICK_SECONDS
        raise AssertionError(f"goodput never reached {goodput}")

    def refused_share(self) -> float:
        """Part of all answers that were refusals."""
        return sum(self.refused) / max(1, sum(self.refused) + sum(self.completed))


class Simulation:
    """One client that never runs out of requests."""

    def __init__(self, world: World, concurrency: Concurrency, seed: int = 1) -> None:
        self.world = world
        self.run = Run()
        self._concurrency = concurrency
        self._chance = random.Random(seed)
        self._requests: list[_Request] = []
        self._idle = 0
        self._now = 0.0
        self._tokens = world.most_per_second
        self._capacity = world.capacity
        self._open()

    def advance(self, seconds: float, change: Callable[[World], None] | None = None) -> Run:
        """Let time go by, after a change of the world."""
        if change:
            change(self.world)
        for _ in range(round(seconds / TICK_SECONDS)):
            self._tick()
        return self.run

    def _tick(self) -> None:
        world = self.world
        work = cpu = 0.0
        completed = refused = lost = 0
        spread = self._chance.gauss(1.0, world.noise) if world.noise else 1.0
        self._capacity = world.capacity * max(0.05, spread)
        for _ in range(round(TICK_SECONDS / world.step)):
            done, moved, refusals, losses, used = self._step(max(0.05, spread))
            work += moved + done * FILE_WORK
            completed, refused, lost, cpu = completed + done, refused + refusals, lost + losses, cpu + used
        run = self.run
        run.work.append(work)
        run.completed.append(completed)
        run.refused.append(refused)
        run.serving.append(sum(request.stage in ("serving", "transfer") for request in self._requests))
        run.levels.append(self._concurrency.level)
        self._concurrency.tick(
            TICK_SECONDS,
            work,
            completed,
            busy=len(self._requests),
            throttled=refused,
            lost=lost,
            cpu_share=min(1.0, cpu / TICK_SECONDS) if world.says_cpu else 0.0,
        )

    def _step(self, spread: float) -> tuple[int, float, int, int, float]:
        world = self.world
        self._now += world.step
        self._tokens = min(world.most_per_second, self._tokens + world.most_per_second * world.step)
        refused, lost = self._answer(), self._lose()
        moved, done, cpu = self._transfer(spread)
        self._open()
        return done, moved, refused, lost, cpu

    def _open(self) -> None:
        for _ in range(self._concurrency.level - len(self._requests)):
            connecting = 0.0
            if self._idle:
                self._idle -= 1
            else:
                self.run.connections += 1
                connecting = self.world.connect_round_trips * self.world.round_trip
            until = self._now + connecting + self.world.round_trip / 2
            self._requests.append(_Request(until, "asking", self.world.size))

    def _answer(self) -> int:
        """Move requests on whose stage has ended; return how many were refused."""
        world = self.world
        serving = sum(request.stage in ("serving", "transfer") for request in self._requests)
        refused = 0
        for request in self._requests:
            if request.until > self._now:
                continue
            if request.stage == "sleeping":
                request.stage, request.until = "asking", self._now + world.round_trip / 2
            elif request.stage == "asking":
                if serving >= world.refuse_above or self._tokens < 1:
                    refused += 1
                    wait = world.retry_after * self._chance.uniform(1.0, 1.1)
                    request.stage, request.until = "sleeping", self._now + world.round_trip / 2 + wait
                    continue
                serving, self._tokens = serving + 1, self._tokens - 1
                thinking = world.server_seconds * self._chance.uniform(0.5, 1.5)
                request.stage, request.until = "serving", self._now + thinking + world.round_trip / 2
            elif request.stage == "serving":
                request.stage = "transfer"
        return refused

    def _lose(self) -> int:
        world = self.world
        serving = [request for request in self._requests if request.stage == "transfer"]
        if len(serving) <= world.lost_above:
            return 0
        broken = [request for request in serving if self._chance.random() < 0.2 * world.step]
        for request in broken:
            request.stage, request.until = "sleeping", self._now + 0.5
        return len(broken)

    def _transfer(self, spread: float) -> tuple[float, int, float]:
        """Move bytes within the limits; return how many, how many requests ended, and processor seconds."""
        world = self.world
        active = [request for request in self._requests if request.stage == "transfer"]
        if not active:
            return 0.0, 0, 0.0
        budget = max(0.0, world.step * spread - world.cpu_per_open * len(self._requests) * world.step)
        cost = world.cpu_per_byte + world.cpu_per_request / world.size
        affordable = budget / cost if cost else 1e18
        room = min(self._capacity * world.step, affordable)
        most = world.per_connection * world.step
        moved, done = 0.0, 0
        # The shortest first: what it leaves of its share goes to the others.
        for index, request in enumerate(sorted(active, key=lambda one: one.left)):
            share = min(request.left, most, (room - moved) / (len(active) - index))
            request.left -= share
            moved += share
            if request.left <= 1e-6:
                done += 1
        if done:
            self._requests = [one for one in self._requests if one.stage != "transfer" or one.left > 1e-6]
            self._idle += done
        return moved, done, world.step - budget + moved * cost


def best_fixed(world: World, levels: list[int], seconds: float = 6.0) -> tuple[int, float]:
    """Return the level that brings the most of those given, and its goodput, after two seconds."""
    results = []
    for level in levels:
        run = Simulation(world, fixed(level)).advance(seconds)
        results.append((level, run.goodput(2.0, seconds)))
    return max(results, key=lambda one: one[1])


def fixed(level: int) -> Concurrency:
    """Return a concurrency that stays where it is."""

    class Fixed(Concurrency):
        def tick(self, *_: object, **__: object) -> int:
            return level

    return Fixed(level, level)
