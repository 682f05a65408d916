"""Readers of the published tree, while it is refreshed again and again and old revisions go."""

import os
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from chaos.content import Files, differences, tree
from chaos.origins import bucket
from chaos.record import Record
from chaos.runs import Target, end, ended
from chaos.scale import Scale
from servers.emulators import S3Server

ALWAYS = [f"always/{number}.txt" for number in range(6)]


def generation(chance: random.Random, number: int, before: Files) -> Files:
    """A tree that says of which generation it is: some files as before, some new, some gone."""
    made = {"generation": f"{number}".encode()}
    for name in ALWAYS:
        made[name] = before[name] if name in before and chance.random() < 0.5 else text(name, number, chance)
    for index in range(40):
        name = f"data/{index % 4}/{index}.bin"
        if chance.random() < 0.3:
            continue
        made[name] = before[name] if name in before and chance.random() < 0.7 else text(name, number, chance)
    return made


def text(name: str, number: int, chance: random.Random) -> bytes:
    return f"{name} of generation {number}\n".encode() * chance.randrange(1, 2_000)


class Walkers:
    """Readers at work: two that resolve the directory once and walk it, slowly or not, and one that opens by path."""

    def __init__(self, target: Target, generations: Sequence[Files], chance: random.Random) -> None:
        self._target = target
        self._generations = generations
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._walking: dict[str, datetime] = {}
        """When each walk that is under way began: a running pod, as the operator sees it."""
        self._refreshes = 0
        self.walks = 0
        self.opens = 0
        self.wrong: list[str] = []
        self._threads = [
            threading.Thread(target=self._walk_often, args=("slow", random.Random(chance.random()), 4)),
            threading.Thread(target=self._walk_often, args=("quick", random.Random(chance.random()), 0)),
            threading.Thread(target=self._open_often),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def oldest(self) -> datetime:
        """Since when no walk that is still under way has begun: what was replaced before may go."""
        with self._lock:
            return min([datetime.now(UTC), *self._walking.values()])

    def refreshed(self) -> None:
        """Say that a refresh has ended."""
        with self._lock:
            self._refreshes += 1

    def _walk_often(self, name: str, chance: random.Random, longest: int) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._walking[name] = datetime.now(UTC)
            try:
                self._walk(chance.randrange(longest + 1))
            except OSError as error:
                self.wrong.append(f"{name}: {error}")
            finally:
                with self._lock:
                    del self._walking[name]

    def _walk(self, refreshes: int) -> None:
        """Resolve the link once, as kubelet does for a subPath; look at the tree, and again after some refreshes."""
        root = self._target.root.resolve(strict=True)
        number = int((root / "generation").read_bytes())
        end = self._refreshes + refreshes
        while True:
            wrong = differences(tree(root), self._generations[number])
            if wrong:
                self.wrong.append(f"generation {number}: {wrong}")
            if self._refreshes >= end or self._stop.wait(0.05):
                break
        self.walks += 1

    def _open_often(self) -> None:
        chance = random.Random(0)
        while not self._stop.wait(0.001):
            name = chance.choice(ALWAYS)
            try:
                data = (self._target.root / name).read_bytes()
            except OSError as error:
                self.wrong.append(f"opened by path: {error}")
                continue
            self.opens += 1
            if all(files[name] != data for files in self._generations):
                self.wrong.append(f"opened by path: {name} is not whole")


@pytest.mark.scenario("Readers while the tree is refreshed")
@pytest.mark.rounds(6)
def test_a_reader_sees_one_whole_revision_through_all_refreshes(
    tmp_path: Path, seed: int, chance: random.Random, s3_server: S3Server, scale: Scale, record: Record
) -> None:
    links = seed % 2 == 1
    before = () if links else without_links()
    generations = [generation(chance, 0, {})]
    with bucket(s3_server, f"refreshed-{seed}-{links:d}", tmp_path) as origin:
        origin.publish(generations[0])
        target = Target(tmp_path, origin, managed=True)
        assert ended(target.start(before=before)) == 0, target.said()
        with Walkers(target, generations, chance) as walkers:
            for number in range(1, scale.refreshes + 1):
                generations.append(generation(chance, number, generations[-1]))
                origin.publish(generations[-1])
                process = target.start(before=before, config=target.write_config(walkers.oldest))
                try:
                    assert ended(process) == 0, target.said()
                finally:
                    end(process)
                walkers.refreshed()
                assert not walkers.wrong, f"refresh {number}: {walkers.wrong[:3]}"
                assert not differences(target.files() or {}, generations[-1])
        assert not walkers.wrong, walkers.wrong[:3]
        assert walkers.walks > scale.refreshes // 4
        assert (shared(target) > 0) == links
        _check_pruned(target, generations, chance, origin.publish)
        record.add("refreshes", scale.refreshes)
        record.add("walks", walkers.walks)
        record.add("files opened by path", walkers.opens)


def without_links() -> tuple[str, ...]:
    """A command that runs another one to which link(2) is refused, as it is on many file systems."""
    import sys

    return (sys.executable, str(Path(__file__).with_name("refuse_links.py")))


def shared(target: Target) -> int:
    """How many files of the published tree have more than one name."""
    return sum(path.stat().st_nlink > 1 for path in target.root.resolve().rglob("*") if path.is_file())


def _check_pruned(target: Target, generations: list[Files], chance: random.Random, publish: object) -> None:
    """Nobody walks any more: the last refresh leaves the revision and one older one."""
    time.sleep(0.01)
    generations.append(generation(chance, len(generations), generations[-1]))
    assert callable(publish)
    publish(generations[-1])
    assert target.run() == 0, target.said()
    assert len(os.listdir(target.state / "revisions")) == 2
    assert len(os.listdir(target.state / "manifests")) == 2
