"""Several processes on one directory: one downloads, the others wait, and take over from one that is gone or stands."""

import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from chaos import content
from chaos.content import Files, differences
from chaos.ledger import Ledger
from chaos.origins import Web, web
from chaos.record import Record
from chaos.runs import Target, end, ended, wait_for

STILL_SECONDS = 30.0
"""A holder that stood still for so long may be taken over (docs/volume.md)."""
TAKEN_OVER = 14
"""Exit code of a holder that was taken over: run it again."""
LAYOUTS = pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])


class Onlooker:
    """Reads what is published, all the time; a context manager that fails at its end if something was not whole."""

    def __init__(self, target: Target, generations: Sequence[Files]) -> None:
        self._target = target
        self._generations = generations
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="onlooker")
        self.looks = 0
        self.torn: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            assert not self.torn, self.torn[:3]

    def _look_often(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> None:
        found = self._target.files()
        if found is None:
            return
        self.looks += 1
        if self._target.managed:
            if found not in self._generations:
                self.torn.append(f"no whole revision: {differences(found, self._generations[-1])}")
            return
        for name, data in found.items():
            if all(files.get(name) != data for files in self._generations):
                self.torn.append(f"{name} is not whole")


@contextmanager
def scene(chance: random.Random, directory: Path, *, managed: bool, rate: float) -> Iterator[tuple[Target, Web, Files]]:
    """A web server with a few files of some size, and some small ones."""
    files = {f"shard-{number}.bin": content.big(chance, chance.randrange(4, 12) << 20) for number in range(3)}
    files |= content.small(chance, 40, 4_000)
    with web() as origin:
        origin.publish(files)
        origin.server.pace.rate = rate
        yield Target(directory, origin, managed, prune=False), origin, files


def signalled(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


@LAYOUTS
@pytest.mark.scenario("Two to four processes on one directory, all but one killed, some paused for a moment")
@pytest.mark.rounds(5)
def test_who_is_left_brings_the_rest_at_once(
    tmp_path: Path, chance: random.Random, managed: bool, record: Record
) -> None:
    with scene(chance, tmp_path, managed=managed, rate=8e6) as (target, origin, files), Ledger(origin) as ledger:
        config = target.write_config()
        ledger.begin()
        processes = [target.start(config=config) for _ in range(chance.randrange(2, 5))]
        total = sum(map(len, files.values()))
        try:
            with Onlooker(target, [files]):
                _thin_out(processes, chance, ledger, total)
                last = time.monotonic()
                codes = [ended(process, 60) for process in processes]
                took = time.monotonic() - last
        finally:
            for process in processes:
                end(process)
        wrong = differences(target.files() or {}, files)
        print(f"codes {codes}, {took:.1f} s after the last kill")
        assert not wrong, f"{wrong}\n{target.said()}"
        assert set(codes) <= {0, -signal.SIGKILL}, target.said()
        assert 0 in codes
        assert took < STILL_SECONDS - 5, "a holder that died on this machine is noticed at once"
        again = ledger.total - total
        # A kill costs what was on its way: these files are smaller than a part, so no more than all of them at a time.
        assert again <= sum(ledger.on_the_way.values()) + (1 << 20), f"{again} bytes again"
        record.add("kills", len(codes) - 1)


def _thin_out(processes: list[subprocess.Popen[bytes]], chance: random.Random, ledger: Ledger, total: int) -> None:
    """Kill all but one, one after the other, in a random order, at random progress; pause others in between."""
    victims = chance.sample(processes, len(processes) - 1)
    for victim in victims:
        mark = ledger.total + chance.randrange(1, total // 4)
        deadline = time.monotonic() + 20
        while ledger.total < mark and time.monotonic() < deadline and any(p.poll() is None for p in processes):
            time.sleep(0.01)
        if chance.random() < 0.5:
            paused = chance.choice(processes)
            signalled(paused, signal.SIGSTOP)
            time.sleep(chance.uniform(0.1, 2.0))
            signalled(paused, signal.SIGCONT)
        killed = time.monotonic()
        end(victim)
        time.sleep(0.1)
        ledger.note_open(killed)


@pytest.mark.scenario("Holder stopped (SIGSTOP) past a takeover, and woken (SIGCONT)")
@pytest.mark.rounds(8)
def test_a_holder_that_wakes_up_after_a_takeover_harms_nothing(
    tmp_path: Path, seed: int, chance: random.Random, record: Record
) -> None:
    managed = seed % 2 == 1
    with scene(chance, tmp_path, managed=managed, rate=6e6) as (target, origin, files):
        total = sum(map(len, files.values()))
        generations = [files]
        first = target.start()
        others: list[subprocess.Popen[bytes]] = []
        try:
            with Onlooker(target, generations) as onlooker, Ledger(origin) as ledger:
                mark = chance.randrange(1, total * 3 // 4)
                wait_for(lambda: ledger.total >= mark, 30, f"{mark} bytes")
                first.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                if chance.random() < 0.5:
                    generations.append(content.next_generation(chance, files, 1, same_names=True))
                    origin.publish(generations[-1])
                time.sleep(0.3)  # what lies in buffers still counts as sent
                arrived = ledger.arrivals
                others = [target.start() for _ in range(chance.randrange(1, 3))]
                wait_for(lambda: ledger.arrivals > arrived, 60, "a takeover")
                waited = time.monotonic() - stopped
                _wake(first, chance, ledger, others)
                codes = [ended(process, 60) for process in (first, *others)]
                seen = target.root.readlink() if managed else None
                print(f"codes {codes}, taken over after {waited:.1f} s, {onlooker.looks} looks")
        finally:
            for process in (first, *others):
                end(process)
        assert waited >= STILL_SECONDS - 1, f"taken over after {waited:.1f} s"
        assert set(codes[1:]) == {0}, target.said()
        assert codes[0] in {0, TAKEN_OVER}, target.said()
        wrong = differences(target.files() or {}, generations[-1])
        assert not wrong, f"{wrong}\n{target.said()}"
        assert seen is None or target.root.readlink() == seen
        record.most("seconds until the takeover", waited)
        record.add("processes", len(codes))


def _wake(
    sleeper: subprocess.Popen[bytes], chance: random.Random, ledger: Ledger, others: list[subprocess.Popen[bytes]]
) -> None:
    """Wake it while the other fetches, while it publishes, or when it is done."""
    mark = ledger.total + chance.randrange(1, 40 << 20)
    while ledger.total < mark and any(process.poll() is None for process in others):
        time.sleep(0.01)
    sleeper.send_signal(signal.SIGCONT)


@pytest.mark.scenario("Holder on another machine (another pid namespace) killed")
@pytest.mark.rounds(2, fixed=1)
def test_a_holder_that_died_out_of_sight_is_waited_for_and_then_taken_over(
    tmp_path: Path, chance: random.Random, record: Record
) -> None:
    managed = chance.random() < 0.5
    with scene(chance, tmp_path, managed=managed, rate=6e6) as (target, origin, files), Ledger(origin) as ledger:
        total = sum(map(len, files.values()))
        elsewhere = target.start(before=("unshare", "--pid", "--fork", "--kill-child"))
        others: list[subprocess.Popen[bytes]] = []
        try:
            mark = chance.randrange(1, total // 2)
            wait_for(lambda: ledger.total >= mark, 30, f"{mark} bytes")
            killed = time.monotonic()
            end(elsewhere)
            ledger.end(killed)
            arrived = ledger.arrivals
            others = [target.start() for _ in range(2)]
            wait_for(lambda: ledger.arrivals > arrived, 60, "a takeover")
            waited = time.monotonic() - killed
            codes = [ended(process, 60) for process in others]
        finally:
            for process in (elsewhere, *others):
                end(process)
        assert waited >= STILL_SECONDS - 1, f"taken over after {waited:.1f} s: it might have been alive"
        assert codes == [0, 0], target.said()
        assert not differences(target.files() or {}, files)
        again = ledger.total - total
        assert again <= sum(ledger.on_the_way.values()) + (1 << 20), f"{again} bytes again"
        record.most("seconds until the takeover", waited)
