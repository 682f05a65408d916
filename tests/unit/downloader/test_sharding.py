"""How a plan is dealt out to shards, and how it lies on a volume."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch.errors import InternalError
from datafetch.records import PlannedFile
from datafetch.sharding.assignment import FILE_COST, assign, cost
from datafetch.sharding.plan_file import (
    PLANS,
    Portion,
    SharedPlan,
    entries_of,
    read_plan,
    remove_other_plans,
    write_files,
    write_plan,
)
from datafetch.sink.directory import Directory
from datafetch.sources import Checksum, ChecksumAlgorithm, Entry
from datafetch_api.report import SourceSummary

sizes = st.lists(st.one_of(st.integers(0, 1 << 40), st.integers(0, 1 << 20), st.just(0)), max_size=300)
counts = st.integers(1, 64)


def dealt(all_sizes: list[int], count: int) -> list[tuple[int, int]]:
    """Return (shard, id) of every file."""
    costs = [(number, cost(size)) for number, size in enumerate(all_sizes)]
    return [(shard, number) for shard, number in assign(costs, [(n, c, n) for n, c in costs], count)]


@given(sizes, counts)
def test_every_file_has_one_shard_and_the_order_stays(all_sizes: list[int], count: int) -> None:
    found = dealt(all_sizes, count)
    assert [number for _, number in found] == list(range(len(all_sizes)))
    assert all(0 <= shard < count for shard, _ in found)
    assert dealt(all_sizes, count) == found, "the same files are dealt out in the same way"


@given(sizes, counts)
def test_no_shard_has_much_more_than_its_share(all_sizes: list[int], count: int) -> None:
    """Nobody has more than the mean and the largest file: no assignment of whole files can promise much less."""
    loads = [0] * count
    for shard, number in dealt(all_sizes, count):
        loads[shard] += cost(all_sizes[number])
    largest = max(map(cost, all_sizes), default=0)
    assert max(loads) <= sum(loads) / count + largest


@given(st.lists(st.integers(0, 10_000), min_size=64, max_size=400), st.integers(1, 8))
def test_small_files_are_balanced_by_number(all_sizes: list[int], count: int) -> None:
    found = [shard for shard, _ in dealt(all_sizes, count)]
    assert max(map(found.count, range(count))) - min(map(found.count, range(count))) <= 3


def test_large_files_come_first_however_late_they_are_listed() -> None:
    loads = [0, 0]
    all_sizes = [1 << 20] * 100 + [60 << 20, 40 << 20]
    for shard, number in dealt(all_sizes, 2):
        loads[shard] += cost(all_sizes[number])
    assert max(loads) - min(loads) <= cost(1 << 20)


def test_what_is_there_costs_no_bytes() -> None:
    assert cost(0) == cost(-5) == FILE_COST


# --- the plan on the volume ------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
files = st.builds(
    PlannedFile,
    source_index=st.integers(0, 15),
    source=st.just("s"),
    key=names,
    path=names,
    size=st.none() | st.integers(0, 1 << 50),
    identity=names | st.just(""),
    checksum=st.none() | st.just(Checksum(ChecksumAlgorithm.CRC32C, "deadbeef")),
)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Directory]:
    directory = Directory.open(str(tmp_path))
    yield directory
    directory.close()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 63), files), max_size=40))
def test_a_shard_reads_what_was_written_for_it(
    tmp_path_factory: pytest.TempPathFactory, assigned: list[tuple[int, PlannedFile]]
) -> None:
    base = Directory.open(str(tmp_path_factory.mktemp("base")))
    try:
        write_files(base, "p", 3, iter(assigned))
        for shard in {shard for shard, _ in assigned}:
            for index in range(16):
                expected = [
                    Entry(file.key, file.path, file.size, file.identity, file.checksum)
                    for owner, file in assigned
                    if (owner, file.source_index) == (shard, index)
                ]
                assert list(entries_of(base, "p", 3, shard, index)) == expected
    finally:
        base.close()


def some_plan(name: str = "model-0123456789") -> SharedPlan:
    sources = (SourceSummary(name="weights", resolved_revision="abc", files=3, bytes=30),)
    portions = (Portion(1, 10, ("", "shards/3/")), Portion(2, 20))
    return SharedPlan(name, "v1:00", "2026-01-31T12:00:00+00:00", sources, portions, 3, "sha256:00")


def test_a_plan_is_there_once_its_header_is(base: Directory) -> None:
    plan = some_plan()
    write_files(base, plan.plan, plan.epoch, iter(()))
    assert read_plan(base, plan.plan) is None
    write_plan(base, plan)
    assert read_plan(base, plan.plan) == plan
    assert (plan.files, plan.bytes) == (3, 30)


def test_plans_of_earlier_attempts_go(base: Directory) -> None:
    for name, epoch in (("old", 3), ("new", 2), ("new", 3)):
        write_files(base, name, epoch, iter(()))
        write_plan(base, some_plan(name))
    remove_other_plans(base, some_plan("new"))
    assert base.names(PLANS) == ["new", "new+3"]


def test_a_plan_that_is_none_is_named(base: Directory) -> None:
    write_plan(base, some_plan("p"))
    base.write_atomically(f"{PLANS}/p", iter([b'{"plan": "p"}']))
    with pytest.raises(InternalError, match="cannot be understood"):
        read_plan(base, "p")
