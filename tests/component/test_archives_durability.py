"""Fetches that unpack, killed and starved of space at any call: never half an archive, and the next run goes on.

`make test` takes a few of the calls, `make chaos` (`--chaos`) every one.
"""

import errno
import gzip
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.archives import Yard, tar, zipped
from component.faulty_disk import Call, Disk, Fail, PowerOff, Verdict
from component.small_fetch import STATE_BYTES, bytes_on, in_memory, problems
from servers.http import StaticServer

_bytes = random.Random(7)
OLD = {"one/same": b"same", "one/a": _bytes.randbytes(40_000), "one/gone": b"gone", "two/b": b"old", "plain": b"old"}
NEW = {
    "one/same": b"same",
    "one/a": _bytes.randbytes(90_000),
    "one/new/deep": _bytes.randbytes(300_000),
    "two/b": b"new",
    "two/c": _bytes.randbytes(1_000),
    "plain": b"new",
}
NAMES = ("one.tar.gz", "two.zip", "plain")


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what the server has of such a tree."""
    one = {name: data for name, data in files.items() if name.startswith("one/")}
    two = {name: data for name, data in files.items() if name.startswith("two/")}
    return {"one.tar.gz": gzip.compress(tar(one)), "two.zip": zipped(two), "plain": files["plain"]}


@dataclass(frozen=True)
class Scenario:
    """Which layout, and whether older archives are unpacked there already."""

    managed: bool
    refresh: bool

    @property
    def before(self) -> dict[str, bytes]:
        return OLD if self.refresh else {}


SCENARIOS = [Scenario(managed, refresh) for managed in (True, False) for refresh in (False, True)]


class Shop:
    """A server with the new state, and volumes as they are before a fetch of it."""

    def __init__(self, server: StaticServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._count = 0
        self._old = {managed: self._publish_old(managed=managed) for managed in (True, False)}
        self._calls: dict[Scenario, list[Call]] = {}

    def yard(self, managed: bool) -> Yard:
        """Return a new, empty one."""
        self._count += 1
        base = self._directory / str(self._count) / "place"
        base.mkdir(parents=True)
        return Yard(self._server, base, managed=managed)

    def prepared(self, scenario: Scenario) -> Yard:
        """Return a volume in the state before the fetch; `config` is written."""
        yard = self.yard(scenario.managed)
        if scenario.refresh:
            shutil.copytree(self._old[scenario.managed].volume, yard.volume, symlinks=True)
        yard.config(NAMES)
        return yard

    def calls(self, scenario: Scenario) -> list[Call]:
        """Return the calls of a fetch that nothing disturbs."""
        if scenario not in self._calls:
            yard = self.prepared(scenario)
            disk = Disk(yard.volume)
            assert run(yard, disk) == 0
            assert yard.published == NEW
            self._calls[scenario] = disk.calls
        return self._calls[scenario]

    def _publish_old(self, *, managed: bool) -> Yard:
        yard = self.yard(managed)
        yard.put(packed(OLD))
        assert yard.fetch(*NAMES).code == 0
        yard.put(packed(NEW))
        return yard


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with in_memory() as directory, StaticServer() as server:
        yield Shop(server, directory)


def run(yard: Yard, disk: Disk) -> int:
    return disk.datafetch("run", yard.base / "config.yaml", "--max-workers", "2", home=yard.base).code


def broken_promise(yard: Yard, scenario: Scenario) -> str | None:
    """Say what a reader could see that is neither the old state nor the new one; None where all is well."""
    found, before = yard.published, scenario.before
    if scenario.managed:
        return None if found in (before, NEW) else f"neither the old tree nor the new: {sorted(found)}"
    torn = [name for name, data in found.items() if data not in (before.get(name), NEW.get(name))]
    gone = sorted((before.keys() & NEW.keys()) - found.keys())
    return f"torn: {torn}, gone: {gone}" if torn or gone else None


def problem_after(shop: Shop, scenario: Scenario, moment: int) -> str | None:
    yard = shop.prepared(scenario)
    disk = Disk(yard.volume, lambda call: PowerOff() if call.index == moment else None)
    run(yard, disk)
    where = f"{scenario}, killed at {disk.calls[-1]}"
    if (problem := broken_promise(yard, scenario)) is not None:
        return f"{where}: {problem}"
    if run(yard, Disk(yard.volume)) != 0 or yard.published != NEW:
        return f"{where}: the next run left {sorted(yard.published)}"
    most = sum(map(len, NEW.values())) + STATE_BYTES
    most += sum(map(len, OLD.values())) if scenario.refresh and scenario.managed else 0
    if bytes_on(yard.volume) > most:
        return f"{where}: {bytes_on(yard.volume)} bytes are left, {most} would do"
    return None


@pytest.mark.timeout(3600)
def test_killed_at_any_call_nothing_half_is_seen_and_the_next_run_completes(
    shop: Shop, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--chaos", default=False)
    cases = []
    for scenario in SCENARIOS:
        moments = range(1, len(shop.calls(scenario)) + 1)
        # Most of the calls of so small a fetch come before its first byte, or after its last.
        middle = [call.index for call in shop.calls(scenario) if "/tree/" in call.path or call.to]
        cases += [
            (scenario, moment) for moment in (moments if every else random.Random(str(scenario)).sample(middle, 2))
        ]
    wrong = problems(lambda case: problem_after(shop, *case), cases)
    assert not wrong, wrong


def is_member(call: Call) -> bool:
    """Whether a call brings bytes of the large member to the volume."""
    return call.kind == "write" and call.path.endswith("one/new/deep")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_an_archive_that_is_whole_is_not_fetched_again_after_a_kill(shop: Shop, scenario: Scenario) -> None:
    yard = shop.prepared(scenario)
    disk = Disk(yard.volume, lambda call: PowerOff() if is_member(call) else None)
    assert run(yard, disk) != 0
    assert any(name == "deep" for name in yard.staged), "it was killed in the midst of unpacking"
    asked = len(yard.server.traffic.select("GET", "/one.tar.gz"))
    assert run(yard, Disk(yard.volume)) == 0
    assert len(yard.server.traffic.select("GET", "/one.tar.gz")) == asked
    assert yard.published == NEW


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_is_unpacked_is_not_unpacked_again_after_a_kill(shop: Shop, scenario: Scenario) -> None:
    """The kill comes before the marker: the link, or the manifest; all archives are gone from the volume by then."""

    def at_the_end(call: Call) -> Verdict:
        return PowerOff() if call.kind == "rename" and "/manifests/" in str(call.to) else None

    yard = shop.prepared(scenario)
    assert run(yard, Disk(yard.volume, at_the_end)) != 0
    asked = len(yard.server.traffic.select("GET"))
    again = Disk(yard.volume)
    assert run(yard, again) == 0
    assert yard.published == NEW
    assert len(yard.server.traffic.select("GET")) == asked
    assert [call for call in again.calls if call.kind == "write" and "/tree/" in call.path] == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_no_space_in_the_midst_of_unpacking_is_said_and_leaves_the_archive_alone(
    shop: Shop, scenario: Scenario
) -> None:
    def full(call: Call) -> Verdict:
        return Fail(errno.ENOSPC) if is_member(call) else None

    yard = shop.prepared(scenario)
    done = Disk(yard.volume, full).datafetch("run", yard.base / "config.yaml", home=yard.base)
    assert done.code == 13, done.stderr
    assert "the volume is full" in done.sentence
    assert yard.published == scenario.before
    assert {"same", "a", "deep"}.isdisjoint(yard.staged), "what came out of it is gone"
    asked = len(yard.server.traffic.select("GET", "/one.tar.gz"))
    assert run(yard, Disk(yard.volume)) == 0
    assert yard.published == NEW
    assert len(yard.server.traffic.select("GET", "/one.tar.gz")) == asked


def test_half_an_archive_does_not_take_the_space_of_the_next_run(shop: Shop) -> None:
    yard = shop.prepared(Scenario(managed=True, refresh=False))
    assert run(yard, Disk(yard.volume, lambda call: PowerOff() if is_member(call) else None)) != 0
    seen: list[bool] = []

    def look(call: Call) -> Verdict:
        if is_member(call) and not seen:
            found = [path for path in yard.volume.rglob("deep") if path.is_file()]
            seen.append(len(found) == 1)
        return None

    assert run(yard, Disk(yard.volume, look)) == 0
    assert seen == [True]
