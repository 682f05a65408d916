"""Leader election: at most one may write at any moment, and a leader that is gone is replaced within 15 s.

Candidates run the real loop in virtual time against a Lease in memory: requests are slow, get lost before or after they
are carried out, or arrive long after their sender gave up; candidates are stopped and wake up; clocks disagree.
"""

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_operator.errors import ApiError, ConflictError, LeadershipLostError, NotFoundError, RefusedError
from datafetch_operator.lease import (
    DURATION_SECONDS,
    MARGIN_SECONDS,
    Elector,
    Lease,
    View,
    claimed,
    holds,
    look,
    new_identity,
    read_lease,
    released,
    took,
    wait,
)

Json = dict[str, Any]
START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
TAKEOVER_SECONDS = 15


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined] # asyncio's own, not in its stubs
            self._virtual = max(self._virtual, self._scheduled[0]._when)  # type: ignore[attr-defined] # the same
        super()._run_once()  # type: ignore[misc] # the same


def in_virtual_time(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(run())


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Server:
    """An API server with one Lease."""

    lease: Json | None = None
    version: int = 0
    writes: int = 0

    def read(self) -> Json | None:
        return copy.deepcopy(self.lease)

    def write(self, manifest: Json) -> Json:
        version = manifest["metadata"].get("resourceVersion")
        if self.lease is None and version is not None:
            raise NotFoundError(404, "NotFound", "it is gone")
        if self.lease is not None and self.lease["metadata"]["resourceVersion"] != version:
            raise ConflictError(409, "Conflict", "it has changed")
        self.version += 1
        self.writes += 1
        self.lease = copy.deepcopy(manifest)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


@dataclass
class Wire:
    """One candidate's way to the server: `faults` says how each request fares."""

    server: Server
    faults: Callable[[], str] = lambda: "fine"
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    asleep_until: float = 0.0
    background: set[asyncio.Task[None]] = field(default_factory=set)

    async def read_lease(self, namespace: str, name: str) -> Json | None:
        answer: Json | None = await self._send(self.server.read)
        return answer

    async def write_lease(self, manifest: Json) -> Json:
        answer: Json = await self._send(lambda: self.server.write(manifest))
        return answer

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._awake()

    async def _awake(self) -> None:
        await asyncio.sleep(max(0.0, self.asleep_until - _now()))

    async def _send(self, carry_out: Callable[[], Any]) -> Any:
        fault = self.faults()
        await asyncio.sleep(self.dice.uniform(0, 0.2))
        if fault == "refused connection":
            raise ApiError(503, "ServiceUnavailable", "the API server is starting")
        if fault == "lost on the way":
            await asyncio.sleep(60)
        if fault == "arrives late":
            task = asyncio.create_task(self._later(carry_out))
            self.background.add(task)
            await asyncio.sleep(60)
        answer = carry_out()
        await asyncio.sleep(self.dice.uniform(2, 3) if fault == "slow answer" else self.dice.uniform(0, 0.2))
        if fault == "answer is lost":
            await asyncio.sleep(60)
        await self._awake()
        return answer

    async def _later(self, carry_out: Callable[[], Any]) -> None:
        await asyncio.sleep(self.dice.uniform(3, 20))
        with suppress(ConflictError, NotFoundError):
            carry_out()


class Process:
    """A candidate that is started again when it ends, as kubelet does."""

    def __init__(self, server: Server, name: str, *, skew: float = 0, rate: float = 1.0, **wire: Any) -> None:
        self.wire = Wire(server, **wire)
        self.name = name
        self._skew = timedelta(seconds=skew)
        self._rate = rate
        self.elector = self._new()
        self.ends: list[str] = []
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._live())

    def leads(self) -> bool:
        return self.elector.holds()

    async def kill(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self.elector._is_over = True

    async def stop(self) -> None:
        """Let it end as SIGTERM does."""
        assert self.task is not None
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.elector.release()

    async def _live(self) -> None:
        while True:
            self.elector = self._new()
            await self.elector.acquire()
            try:
                await self.elector.keep()
            except LeadershipLostError as lost:
                self.ends.append(str(lost))
            await self.wire.sleep(1)

    def _new(self) -> Elector:
        return Elector(
            self.wire,
            "datafetch-system",
            "datafetch-operator",
            new_identity(self.name),
            clock=lambda: 1000.0 * len(self.name) + self._rate * asyncio.get_event_loop().time(),
            wall=lambda: START + self._skew + timedelta(seconds=asyncio.get_event_loop().time()),
            sleep=self.wire.sleep,
        )


async def _until(condition: Callable[[], bool], most: float) -> float:
    """Return after how many seconds it held."""
    began = _now()
    while not condition():
        assert _now() - began < most, f"not within {most} s"
        await asyncio.sleep(0.05)
    return _now() - began


# --- what is known, and what follows --------------------------------------------------------------------------------


def test_a_lease_may_be_taken_when_it_has_not_changed_for_its_duration_by_the_own_clock() -> None:
    held = Lease("other", 10, "1")
    view = look(View(), held, 100.0)
    assert wait(view, "me", 100.0) == 10
    assert wait(look(view, held, 109.0), "me", 109.0) == 1, "a second look at the same does not start anew"
    assert wait(look(view, Lease("other", 10, "2"), 109.0), "me", 109.0) == 10, "a renewal does"
    assert wait(view, "me", 110.0) == 0


def test_what_nobody_holds_may_be_taken_at_once() -> None:
    assert wait(look(View(), None, 100.0), "me", 100.0) == 0
    assert wait(look(View(), Lease("", 1, "1"), 100.0), "me", 100.0) == 0
    assert wait(look(View(), Lease("me", 10, "1"), 100.0), "me", 100.0) == 0


def test_a_lease_that_was_deleted_under_its_holder_is_waited_out() -> None:
    view = look(look(View(), Lease("other", 10, "1"), 100.0), None, 103.0)
    assert wait(view, "me", 103.0) == 10
    assert wait(took(Lease("me", 10, "1"), 100.0), "me", 103.0) == 0


def test_a_holder_stops_a_margin_before_others_may_begin() -> None:
    view = took(Lease("me", 10, "1"), 100.0)
    assert holds(view, 100.0 + DURATION_SECONDS - MARGIN_SECONDS - 0.01)
    assert not holds(view, 100.0 + DURATION_SECONDS - MARGIN_SECONDS)
    assert not holds(View(), 0.0)


def test_transitions_count_changes_of_the_holder_and_renewals_keep_the_rest() -> None:
    first = claimed({"metadata": {"name": "l", "namespace": "n"}}, "a", START)
    assert first["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 10,
        "acquireTime": "2026-01-31T12:00:00.000000Z",
        "renewTime": "2026-01-31T12:00:00.000000Z",
        "leaseTransitions": 0,
    }
    later = START + timedelta(seconds=2)
    renewed = claimed(first, "a", later)
    assert renewed["spec"] == {**first["spec"], "renewTime": "2026-01-31T12:00:02.000000Z"}
    left = released(renewed, later)
    assert (left["spec"]["holderIdentity"], left["spec"]["leaseTransitions"]) == ("", 0)
    assert claimed(left, "b", later)["spec"]["leaseTransitions"] == 1


def test_what_others_wrote_on_the_lease_stays() -> None:
    body = {"metadata": {"name": "l", "namespace": "n", "labels": {"a": "b"}, "resourceVersion": "5"}, "spec": {}}
    assert claimed(body, "me", START)["metadata"] == body["metadata"]
    assert read_lease(body) == Lease("", 10, "5")


# --- the loop --------------------------------------------------------------------------------------------------------


def test_one_leads_and_writes_once_in_two_seconds_and_the_other_writes_nothing() -> None:
    async def run() -> None:
        server = Server()
        one, other = Process(server, "one"), Process(server, "other")
        one.start()
        await _until(one.leads, 1)
        other.start()
        writes = server.writes
        await asyncio.sleep(20)
        assert one.leads()
        assert not other.leads()
        assert 8 <= server.writes - writes <= 10

    in_virtual_time(run)


def test_a_leader_that_is_killed_is_replaced_within_15_seconds() -> None:
    async def run() -> None:
        server = Server()
        one, other = Process(server, "one"), Process(server, "other", skew=-3600)
        one.start()
        await _until(one.leads, 1)
        other.start()
        await asyncio.sleep(5)
        await one.kill()
        assert await _until(other.leads, TAKEOVER_SECONDS) > DURATION_SECONDS - 3
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 1

    in_virtual_time(run)


def test_a_leader_that_ends_properly_is_replaced_at_once() -> None:
    async def run() -> None:
        server = Server()
        one, other = Process(server, "one"), Process(server, "other")
        one.start()
        await _until(one.leads, 1)
        other.start()
        await asyncio.sleep(5)
        await one.stop()
        assert not one.leads()
        await _until(other.leads, 3)

    in_virtual_time(run)


def test_a_leader_that_was_stopped_wakes_up_without_a_right_and_ends() -> None:
    async def run() -> None:
        server = Server()
        one, other = Process(server, "one"), Process(server, "other")
        one.start()
        await _until(one.leads, 1)
        other.start()
        await asyncio.sleep(5)
        paused = one.elector
        one.wire.asleep_until = _now() + 20
        await _until(other.leads, TAKEOVER_SECONDS)
        assert not paused.holds()
        await asyncio.sleep(15)
        assert len(one.ends) == 1
        assert other.leads(), "it is not taken back"

    in_virtual_time(run)


def test_a_leader_that_was_stopped_ends_also_where_nobody_took_over() -> None:
    async def run() -> None:
        server = Server()
        one = Process(server, "one")
        one.start()
        await _until(one.leads, 1)
        one.wire.asleep_until = _now() + 9
        await asyncio.sleep(9.5)
        assert len(one.ends) == 1
        assert "was not renewed for 8 s" in one.ends[0]

    in_virtual_time(run)


def test_an_api_server_that_is_away_for_six_seconds_costs_nobody_the_lead() -> None:
    async def run() -> None:
        server = Server()
        down = False
        one = Process(server, "one", faults=lambda: "refused connection" if down else "fine")
        one.start()
        await _until(one.leads, 1)
        leader = one.elector
        await asyncio.sleep(5)
        down = True
        await asyncio.sleep(5.5)
        down = False
        await asyncio.sleep(10)
        assert one.elector is leader
        assert leader.holds()
        down = True
        await asyncio.sleep(9)
        assert not leader.holds()
        assert "the API server is starting" in one.ends[0]

    in_virtual_time(run)


def test_a_leader_counts_from_when_it_sent_its_renewal_and_not_from_the_answer() -> None:
    async def run() -> None:
        server = Server()
        fate = "slow answer"
        one = Process(server, "one", faults=lambda: fate)
        one.start()
        await _until(one.leads, 10)
        writes = server.writes
        await _until(lambda: server.writes > writes, 10)
        await asyncio.sleep(0.1)
        fate = "lost on the way"
        last = one.elector
        assert await _until(lambda: not last.holds(), 10) < DURATION_SECONDS - MARGIN_SECONDS

    in_virtual_time(run)


def test_a_leader_whose_lease_is_deleted_makes_it_again() -> None:
    async def run() -> None:
        server = Server()
        one, other = Process(server, "one"), Process(server, "other")
        one.start()
        await _until(one.leads, 1)
        other.start()
        await asyncio.sleep(5)
        server.lease = None
        await asyncio.sleep(10)
        assert one.leads()
        assert not one.ends
        assert not other.leads()

    in_virtual_time(run)


def test_a_lease_that_somebody_gave_to_another_is_not_taken_back() -> None:
    async def run() -> None:
        server = Server()
        one = Process(server, "one")
        one.start()
        await _until(one.leads, 1)
        assert server.lease is not None
        server.write({**server.lease, "spec": {**server.lease["spec"], "holderIdentity": "by hand"}})
        await asyncio.sleep(4)
        assert one.ends == ["by hand leads now by Lease datafetch-system/datafetch-operator; ending"]

    in_virtual_time(run)


def test_missing_rights_end_a_candidate_and_not_a_leader_before_its_time() -> None:
    class Forbidding(Wire):
        forbids = True

        async def write_lease(self, manifest: Json) -> Json:
            if self.forbids:
                raise RefusedError(403, "Forbidden", "cannot update leases")
            return await super().write_lease(manifest)

    async def run() -> None:
        wire = Forbidding(Server())
        elector = Elector(wire, "n", "l", "me", clock=_now)
        with pytest.raises(RefusedError, match="cannot update leases"):
            await elector.acquire()
        wire.forbids = False
        await elector.acquire()
        wire.forbids = True
        began = _now()
        with pytest.raises(LeadershipLostError, match="cannot update leases"):
            await elector.keep()
        assert _now() - began > 7

    in_virtual_time(run)


FAULTS = ["fine", "refused connection", "lost on the way", "arrives late", "slow answer", "answer is lost"]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    candidates=st.integers(2, 3),
    skews=st.lists(st.floats(-86_400, 86_400), min_size=3, max_size=3),
    rates=st.lists(st.floats(0.95, 1.05), min_size=3, max_size=3),
    pauses=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 60), st.floats(1, 30)), max_size=5),
    ends=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 60), st.booleans()), max_size=3),
    trouble=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_no_two_may_write_at_a_time_and_soon_after_all_trouble_one_may(
    seed: int,
    candidates: int,
    skews: list[float],
    rates: list[float],
    pauses: list[tuple[int, float, float]],
    ends: list[tuple[int, float, bool]],
    trouble: float,
) -> None:
    dice = random.Random(seed)
    calm = False

    def fault() -> str:
        return dice.choice(FAULTS) if not calm and dice.random() < trouble else "fine"

    async def run() -> None:
        nonlocal calm
        server = Server()
        processes = [
            Process(server, "x" * (n + 1), skew=skews[n], rate=rates[n], faults=fault, dice=dice)
            for n in range(candidates)
        ]
        for process in processes:
            process.start()
        loop = asyncio.get_running_loop()
        for number, at, seconds in pauses:
            wire = processes[number % candidates].wire
            loop.call_at(at, setattr, wire, "asleep_until", at + seconds)
        tasks = [loop.create_task(_end(processes[n % candidates], at, proper=proper)) for n, at, proper in ends]
        leading = 0
        while _now() < 60:
            await asyncio.sleep(0.1)
            writers = [process.name for process in processes if process.leads()]
            assert len(writers) <= 1, f"two may write: {writers}"
            leading += len(writers)
        calm = True
        await asyncio.gather(*tasks)
        longest = max([process.wire.asleep_until for process in processes] + [_now()]) - _now()
        await asyncio.sleep(longest + 20)  # The last of what arrives late has arrived.
        await _until(lambda: any(process.leads() for process in processes), TAKEOVER_SECONDS)
        assert trouble or pauses or ends or leading > 500, "a leader that nothing happens to goes on"
        for process in processes:
            await process.kill()

    in_virtual_time(run)


async def _end(process: Process, at: float, *, proper: bool) -> None:
    await asyncio.sleep(at)
    await (process.stop() if proper else process.kill())
    await asyncio.sleep(1)
    process.start()
