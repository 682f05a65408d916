"""Ended at random moments of listing, transfer, flush, publishing and pruning: killed, or asked to stop."""

import itertools
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos import content, moments
from chaos.content import Files, differences
from chaos.ledger import Ledger
from chaos.names import Names
from chaos.origins import bucket, web
from chaos.record import Record
from chaos.runs import Target, end, ended
from chaos.scale import Scale
from servers.emulators import S3Server

PART_BYTES = 32 << 20
"""Big files travel in ranges of this size (docs/volume.md)."""
SMALL_BYTES = 4_000
SMALL_AT_ONCE = 256
"""Small files that may be on their way at a time."""
NOT_KEPT_BYTES = 8 << 20
"""What a process that is asked to stop may lose: what lies in buffers."""
LAYOUTS = pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])


class Story:
    """One target through many ends of its process: what was published at the origin, and what is to be found."""

    def __init__(self, target: Target, ledger: Ledger, names: Names, first: Files) -> None:
        self.target = target
        self.ledger = ledger
        self.names = names
        self.generations = [first]
        self.complete = -1
        """Number of the last generation that a process brought to its end."""
        self.markers: dict[str, tuple[int, int]] = {}
        self._kept_before = 0
        self.phases = {"before the first byte": 0, "in the transfer": 0, "after the last byte": 0}
        target.origin.publish(first)

    def begin(self) -> moments.Life:
        """Start a process."""
        self.ledger.begin()
        return moments.Life(self.target.start(), self.ledger, self.names)

    def draw(self, chance: random.Random, *, early: bool) -> moments.Moment:
        """Draw the moment of the next end; an early one is of listing or transfer."""
        new, old = self.generations[-1], self.generations[self.complete] if self.complete >= 0 else {}
        wanted = sum(len(data) for name, data in new.items() if old.get(name) != data)
        remaining = max(0, min(wanted, wanted - self._kept() + self._kept_before))
        return moments.draw_in_transfer(chance, remaining) if early else moments.draw(chance, remaining)

    def _kept(self) -> int:
        """Bytes that were sent and not lost, at least."""
        return self.ledger.total - sum(self.ledger.on_the_way.values())

    def phase(self, life: moments.Life) -> None:
        """Count in which phase a process is about to end."""
        received, open_requests = life.received, self.ledger.open_requests
        phase = "in the transfer" if open_requests else "after the last byte"
        self.phases[phase if received else "before the first byte"] += 1

    def check_after_end(self) -> None:
        """What holds whenever a process was ended: nothing is seen that is not whole."""
        current = self.generations[-1]
        found = self.target.files()
        before = self.generations[self.complete] if self.complete >= 0 else None
        if self.target.managed:
            assert found in (None, current, before), "the link names what is no whole revision"
            return
        torn = [
            name
            for name, data in (found or {}).items()
            if data not in [files[name] for files in (current, before or {}) if name in files]
        ]
        assert not torn, f"{torn[:5]} have their final names and are not whole"
        if self.target.markers() != self.markers:
            missing = [line for line in differences(found or {}, current) if "should not" not in line]
            assert not missing, f"the marker came before its files: {missing}"

    def finish(self, code: int) -> None:
        """What holds when a process came to its end: the tree is the source's, byte for byte."""
        assert code == 0, f"exit code {code}\n{self.target.said()}"
        wrong = differences(self.target.files() or {}, self.generations[-1])
        assert not wrong, wrong
        self.complete = len(self.generations) - 1
        self.markers = self.target.markers()
        self._kept_before = self._kept()

    def move_on(self, chance: random.Random) -> None:
        """Let the source change: the next process refreshes."""
        # In place, URLs that are named one by one are another request when their names are others.
        same_names = not self.target.managed and not self.target.origin.lists
        number = len(self.generations)
        files = content.next_generation(chance, self.generations[-1], number, same_names=same_names)
        self.generations.append(files)
        self.target.origin.publish(self.generations[-1])

    def check_bytes(self, ends: int, record: Record) -> int:
        """At most what was on its way at an end was sent again, file by file; return how much that is."""
        wanted = self._wanted()
        sent, on_the_way = self.ledger.sent, self.ledger.on_the_way
        for name, size in wanted.items():
            if size < PART_BYTES >> 3:
                continue
            allowed = size + on_the_way[name]
            assert sent[name] <= allowed, f"{name} of {size} bytes: {sent[name]} sent, {on_the_way[name]} on the way"
        self._check_requests()
        total, again = sum(wanted.values()), sum(sent.values()) - sum(wanted.values())
        assert again <= sum(on_the_way.values()), f"{again} bytes again, {sum(on_the_way.values())} on the way"
        assert again <= ends * (self.target.workers * PART_BYTES + SMALL_AT_ONCE * SMALL_BYTES), "more than the level"
        record.add("MiB of content", total / 2**20)
        record.add("MiB fetched again", max(0, again) / 2**20)
        record.add("MiB on their way at the ends", sum(on_the_way.values()) / 2**20)
        return again

    def _check_requests(self) -> None:
        """Small files are not asked for again, but for those on their way."""
        small = {name for files in self.generations for name, data in files.items() if len(data) <= SMALL_BYTES}
        changes = sum(
            before.get(name) != files[name]
            for before, files in itertools.pairwise([{}, *self.generations])
            for name in small & files.keys()
        )
        asked = sum(self.ledger.requests[name] for name in small)
        on_the_way = sum(self.ledger.requests_on_the_way[name] for name in small)
        assert asked <= changes + on_the_way, f"{asked} requests for {changes} small files, {on_the_way} on the way"

    def _wanted(self) -> dict[str, int]:
        """Bytes to be fetched of each file, over all generations."""
        wanted: dict[str, int] = {}
        before: Files = {}
        for files in self.generations:
            for name, data in files.items():
                if before.get(name) != data:
                    wanted[name] = wanted.get(name, 0) + len(data)
            before = files
        return wanted

    def check_nothing_left(self) -> None:
        """What ended processes left on the volume is gone: there is the revision, and what one older one has more."""
        new, old = self.generations[-1], self.generations[-2]
        kept = [data for name, data in old.items() if new.get(name) != data] if self.target.managed else []
        wanted = sum(map(len, new.values())) + sum(map(len, kept))
        found = self.target.bytes_on_volume()
        assert found <= wanted + (8 << 20), f"{found} bytes on the volume, {wanted} of them wanted"


@contextmanager
def story(
    seed: int, chance: random.Random, directory: Path, s3: S3Server, *, managed: bool, shape: str
) -> Iterator[Story]:
    """Set the scene; the origin is a web server or an S3 server, by the seed."""
    first = {"shard-1.bin": content.big(chance, 100 << 20), "shard-2.bin": content.big(chance, 34 << 20)}
    first["config/middle.bin"] = content.big(chance, chance.randrange(5 << 20, 10 << 20))
    by_listing = seed % 2 == 0
    first |= content.small(chance, 1200 if by_listing else 300, SMALL_BYTES)
    made = bucket(s3, f"{shape}-{seed}-{managed:d}", directory) if by_listing else web()
    with made as origin, Ledger(origin) as ledger:
        origin.server.pace.rate = 70e6
        # Few at a time, so that some parts are there while others are on their way.
        target = Target(directory, origin, managed, workers=1 + seed % 3)
        with Names(target.volume) as names:
            yield Story(target, ledger, names, first)


@LAYOUTS
@pytest.mark.scenario("Killed (SIGKILL) at random moments")
@pytest.mark.rounds(5)
def test_killed_again_and_again_every_byte_comes_about_once(
    tmp_path: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, scale: Scale, record: Record
) -> None:
    with story(seed, chance, tmp_path, s3_server, managed=managed, shape="killed") as told:
        kills = 0
        while kills < scale.kills:
            moment = told.draw(chance, early=kills < scale.kills // 2)
            life = told.begin()
            try:
                if not life.reaches(moment):
                    print(f"ended before: {moment.name}")
                    told.finish(life.process.returncode)
                    told.move_on(chance)
                    continue
                told.phase(life)
                print(f"killed {moment.name}, with {life.received} bytes")
            finally:
                killed = time.monotonic()
                end(life.process)
            kills += 1
            told.ledger.end(killed)
            told.check_after_end()
        _check_end(told, kills, chance, record)
        record.add("kills", kills)


@LAYOUTS
@pytest.mark.scenario("Asked to stop (SIGTERM) at random moments")
@pytest.mark.rounds(3)
def test_asked_to_stop_it_is_gone_within_two_seconds_and_goes_on_later(
    tmp_path: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, scale: Scale, record: Record
) -> None:
    with story(seed, chance, tmp_path, s3_server, managed=managed, shape="stopped") as told:
        stops = 0
        while stops < scale.kills // 2:
            moment = moments.running(told.draw(chance, early=stops < scale.kills // 4))
            life = told.begin()
            try:
                if not life.reaches(moment):
                    told.finish(life.process.returncode)
                    told.move_on(chance)
                    continue
                told.phase(life)
                asked = time.monotonic()
                life.process.send_signal(signal.SIGTERM)
                code, took = ended(life.process, 20), time.monotonic() - asked
            finally:
                end(life.process)
            print(f"asked to stop {moment.name}, with {life.received} bytes: {code} after {took:.2f} s")
            assert took < 2.0, f"{took:.2f} s after SIGTERM ({moment.name})\n{told.target.said()}"
            told.ledger.end(asked)
            # A signal that comes while the interpreter ends is its death; a shell and kubelet say 143 then, too.
            code = 143 if code == -signal.SIGTERM else code
            if code == 0:  # it was publishing already
                told.finish(code)
                told.move_on(chance)
                continue
            assert code == 143, f"exit code {code} after SIGTERM ({moment.name})\n{told.target.said()}"
            assert not (told.target.state / "lock").exists(), "who comes next would have to wait for a dead one"
            stops += 1
            record.most("longest end, s", took)
            told.check_after_end()
        again = _check_end(told, stops, chance, record)
        assert again <= stops * NOT_KEPT_BYTES, f"{again} bytes again: what had arrived was to be kept"
        record.add("stops", stops)


def _check_end(told: Story, ends: int, chance: random.Random, record: Record) -> int:
    """Let it come to its end, refresh once more, and settle the accounts; return how many bytes were sent again."""
    told.finish(told.target.run())
    told.move_on(chance)
    told.finish(told.target.run())
    again = told.check_bytes(ends, record)
    told.check_nothing_left()
    for phase, count in told.phases.items():
        record.add(phase, count)
    return again
