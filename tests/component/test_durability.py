"""The order in which a fetch reaches the disk, read off its calls: bytes, flush, journal, names, marker, flush."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from component.faulty_disk import Call, Disk, Fail
from component.small_fetch import SCENARIOS, Scenario, Workshop, problems, published, workshop

FIRST_AND_REFRESH = [False, True]
MANIFESTS = "/manifests/"


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with workshop() as found:
        yield found


@dataclass
class Record:
    """What a fetch did to its volume, and to which inode."""

    volume: Path
    calls: list[Call]
    inodes: dict[int, int] = field(default_factory=dict)
    """The inode of each call, by the call's index: of a rename the one that has the new name then."""

    def note(self, call: Call, path: Path) -> None:
        """Take note of a call: the disk's `after`."""
        named = self.volume / call.to if call.kind == "rename" and call.to is not None else path
        if os.path.lexists(named):
            self.inodes[call.index] = named.lstat().st_ino

    def last_write(self, inode: int) -> int:
        """Return the index of the last call that changed a file's bytes; 0 where there is none."""
        changing = [call for call in self.calls if call.kind in {"write", "truncate", "open"} and call.done]
        return max((call.index for call in changing if self.inodes.get(call.index) == inode), default=0)

    def flushes(self, inode: int, after: int, before: int) -> list[int]:
        """Return the calls between two others that brought an inode to the disk, and said so."""
        return [
            call.index
            for call in self.calls[after : before - 1]
            if call.kind == "flush" and call.done and (call.name == "syncfs" or self.inodes.get(call.index) == inode)
        ]

    def naming(self, name: str) -> Call:
        """Return the call that gave a path its name for the last time."""
        return [call for call in self.calls if call.kind == "rename" and call.to == name and call.done][-1]

    def journaled(self, after: int, before: int) -> bool:
        """Whether something was written into a file of ours, and brought to the disk, between two calls."""
        written = [call for call in self.calls[after : before - 1] if call.kind == "write" and is_record(call.path)]
        return any(self.flushes(self.inodes[call.index], call.index, before) for call in written)


def is_record(path: str) -> bool:
    """Whether it is a file of ours that is neither data on its way nor the lock."""
    parts = Path(path).parts
    return ".datafetch" in parts and "tree" not in parts and not parts[-1].startswith("lock")


def recorded(shop: Workshop, scenario: Scenario) -> Record:
    """Fetch, and return what was done."""
    volume, config = shop.prepared(scenario)
    disk = Disk(volume)
    record = Record(volume, disk.calls)
    disk.after = record.note
    run = disk.datafetch("run", config, home=volume.parent)
    assert run.code == 0, run.stderr
    assert published(volume) == scenario.expected
    return record


def fetched(record: Record, scenario: Scenario) -> dict[str, int]:
    """Return the inode of every published file that this fetch wrote, by path."""
    target = record.volume / "model"
    found = {name: (target / name).stat().st_ino for name in scenario.expected}
    return {name: inode for name, inode in found.items() if record.last_write(inode)}


@pytest.mark.parametrize("refresh", FIRST_AND_REFRESH, ids=["first", "refresh"])
def test_the_link_flips_when_every_byte_and_every_name_behind_it_is_on_the_disk(shop: Workshop, refresh: bool) -> None:
    scenario = Scenario(managed=True, refresh=refresh)
    record = recorded(shop, scenario)
    flip = record.naming("model")
    files = fetched(record, scenario)
    assert len(files) >= 2
    revision = (record.volume / "model").resolve()
    manifest = record.naming(next(str(call.to) for call in record.calls if MANIFESTS in str(call.to)))
    for what, inode in {**files, "the manifest": record.inodes[manifest.index]}.items():
        assert record.flushes(inode, record.last_write(inode), flip.index), f"the link flips before {what} is flushed"
    moved = record.naming(str(revision.relative_to(record.volume.resolve())))
    for named in (moved, manifest):
        whole = [call for call in record.calls[named.index : flip.index - 1] if call.name == "syncfs" and call.done]
        assert whole, f"the link flips before the name {named.to} is flushed"


@pytest.mark.parametrize("refresh", FIRST_AND_REFRESH, ids=["first", "refresh"])
def test_the_flipped_link_is_on_the_disk_before_the_command_says_so(shop: Workshop, refresh: bool) -> None:
    record = recorded(shop, Scenario(managed=True, refresh=refresh))
    flip = record.naming("model")
    assert record.flushes(record.volume.stat().st_ino, flip.index, len(record.calls) + 1)


@pytest.mark.parametrize("refresh", FIRST_AND_REFRESH, ids=["first", "refresh"])
def test_in_place_a_file_is_flushed_then_journaled_then_named(shop: Workshop, refresh: bool) -> None:
    scenario = Scenario(managed=False, refresh=refresh)
    record = recorded(shop, scenario)
    files = fetched(record, scenario)
    assert len(files) >= 3
    for name, inode in files.items():
        named = record.naming(f"model/{name}")
        flushed = record.flushes(inode, record.last_write(inode), named.index)
        assert flushed, f"{name} gets its name before its bytes are flushed"
        assert record.journaled(flushed[0], named.index), f"{name} gets its name before that is in the journal, flushed"


@pytest.mark.parametrize("refresh", FIRST_AND_REFRESH, ids=["first", "refresh"])
def test_in_place_the_manifest_comes_after_every_name_and_is_flushed_with_its_own(
    shop: Workshop, refresh: bool
) -> None:
    scenario = Scenario(managed=False, refresh=refresh)
    record = recorded(shop, scenario)
    manifest = record.naming(next(str(call.to) for call in record.calls if MANIFESTS in str(call.to)))
    last_name = max(record.naming(f"model/{name}").index for name in fetched(record, scenario))
    inode = record.inodes[manifest.index]
    assert record.flushes(inode, record.last_write(inode), manifest.index), "named before its bytes are flushed"
    names = [call.index for call in record.calls[last_name : manifest.index - 1] if call.name == "syncfs" and call.done]
    assert names, "the manifest says that all is there before the names are flushed"
    directory = (record.volume / str(manifest.to)).parent.stat().st_ino
    after = record.flushes(directory, manifest.index, len(record.calls) + 1)
    assert after, "the command succeeds before the manifest's name is flushed"
    removed = [call.index for call in record.calls if call.kind == "unlink" and call.path.endswith("/journal")]
    assert min(removed, default=len(record.calls)) > min(after), "the journal goes before the manifest is flushed"


def test_after_a_flush_that_failed_nothing_gets_its_name_in_that_run(
    shop: Workshop, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--chaos", default=False)
    cases = [
        (scenario, nth)
        for scenario in (SCENARIOS if every else SCENARIOS[::3])
        for nth in range(1, sum(call.kind == "flush" for call in shop.calls(scenario)) + 1)
    ]
    wrong = problems(lambda case: problem_after_failed_flush(shop, *case), cases)
    assert not wrong, wrong


def problem_after_failed_flush(shop: Workshop, scenario: Scenario, nth: int) -> str | None:
    """Let a flush fail, and all that follow succeed: what it was to bring to the disk may be lost nevertheless."""
    volume, config = shop.prepared(scenario)
    disk = Disk(volume, lambda call: Fail(errno.EIO) if call.kind == "flush" and call.nth == nth else None)
    run = disk.datafetch("run", config, home=volume.parent)
    failed = next((call for call in disk.calls if call.kind == "flush" and not call.done), None)
    if failed is None:
        return None
    later = [call for call in disk.calls[failed.index :] if call.kind == "rename" and is_final(str(call.to))]
    return f"{scenario}, {failed}: ended with {run.code}, named {later}" if later or run.code == 0 else None


def is_final(path: str) -> bool:
    """Whether a reader may open it: the link, or a file outside of our own directory."""
    return ".datafetch" not in Path(path).parts
