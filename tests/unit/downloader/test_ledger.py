"""The ledger against a model of dicts, and against a volume: its answers, and what it takes of memory and disk."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from datafetch.errors import InsufficientSpaceError
from datafetch.ledger import CollisionError, Ledger
from datafetch.records import Kind, ManifestFile, PlannedFile, StagedFile
from datafetch.sources import Checksum, ChecksumAlgorithm

SOURCES = ["first", "second"]
CRC = Checksum(ChecksumAlgorithm.CRC32, "cbf43926")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(str(tmp_path))
    yield made
    made.close()


def planned(path: str, source_index: int = 0, size: int | None = 1, checksum: Checksum | None = None) -> PlannedFile:
    return PlannedFile(source_index, SOURCES[source_index], f"key of {path}", path, size, f"etag:{path}", checksum)


def add(ledger: Ledger, *files: PlannedFile, kind: Kind = Kind.SMALL, fold: bool = False) -> None:
    names = [file.path.lower() if fold else file.path for file in files]
    ledger.add_files([(file, kind) for file in files], names)


def stream(ledger: Ledger, source_index: int = 0, kind: Kind = Kind.SMALL, limit: int = 3) -> list[PlannedFile]:
    """Return a whole stream, read in small batches."""
    found: list[PlannedFile] = []
    while batch := ledger.next_files(source_index, SOURCES[source_index], kind, found[-1].id if found else 0, limit):
        assert len(batch) <= limit
        found += batch
    return found


# --- what has moved ---

SHA = Checksum(ChecksumAlgorithm.SHA256, "ab" * 32)


def test_a_published_file_is_found_by_a_checksum_that_names_its_content(ledger: Ledger) -> None:
    of_content = ManifestFile("old/a", 3, "oid:1", f"sha256:{SHA.value}", 7)
    ledger.load_published([of_content, ManifestFile("old/b", 9, "etag:b", "crc32:cbf43926", 7)])
    assert ledger.published_alike(SHA, 3) == of_content
    assert ledger.published_alike(SHA, None) == of_content
    assert ledger.published_alike(SHA, 4) is None
    assert ledger.published_alike(CRC, 9) is None, "many files have one checksum of 32 bits"
    assert ledger.published_alike(None, 3) is None
    assert ledger.published_alike(Checksum(ChecksumAlgorithm.GIT_BLOB, SHA.value), 3) is None


def test_a_planned_path_is_known_as_such(ledger: Ledger) -> None:
    add(ledger, planned("a"), planned("B"), fold=True)
    assert [ledger.is_planned(path) for path in ("a", "B", "b", "c")] == [True, True, False, False]


# --- the plan ---


def test_each_stream_comes_in_the_order_in_which_it_was_added(ledger: Ledger) -> None:
    expected: dict[tuple[int, Kind], list[str]] = {}
    # Names fall as numbers rise: the order is not that of the names.
    numbers = iter(range(1000, 0, -1))
    for _ in range(5):
        for source_index, kind in itertools.product(range(len(SOURCES)), Kind):
            paths = [f"{next(numbers):04}" for _ in range(4)]
            expected.setdefault((source_index, kind), []).extend(paths)
            add(ledger, *[planned(path, source_index) for path in paths], kind=kind)
    found = {key: [file.path for file in stream(ledger, *key)] for key in expected}
    assert found == expected


def test_a_stream_grows_behind_who_reads_it(ledger: Ledger) -> None:
    add(ledger, planned("a"))
    (first,) = ledger.next_files(0, "first", Kind.SMALL, 0, 10)
    assert ledger.next_files(0, "first", Kind.SMALL, first.id, 10) == []
    add(ledger, planned("b"))
    assert [file.path for file in ledger.next_files(0, "first", Kind.SMALL, first.id, 10)] == ["b"]


def test_a_planned_file_comes_back_as_it_went_in(ledger: Ledger) -> None:
    files = [planned("a", checksum=CRC), planned("ü/日本/🎉", size=None), planned("Big", size=1 << 50)]
    add(ledger, *files, fold=True)
    found = stream(ledger)
    for file, other in zip(files, found, strict=True):
        other.id = file.id
        assert other == file


def test_every_file_of_the_plan_is_listed_by_name_with_its_source(ledger: Ledger) -> None:
    add(ledger, planned("b"), planned("c/d"))
    add(ledger, planned("a", 1), planned("c/a", 1), kind=Kind.KNOWN)
    assert [(file.path, file.source) for file in ledger.planned_files(SOURCES)] == [
        ("a", "second"), ("b", "first"), ("c/a", "second"), ("c/d", "first"),
    ]  # fmt: skip


def test_another_state_of_an_object_takes_a_planned_files_place(ledger: Ledger) -> None:
    add(ledger, planned("a"), planned("b", checksum=CRC))
    first, second = stream(ledger)
    first.size, first.identity, first.checksum = 70, "etag:new", CRC
    second.size, second.checksum = None, None
    ledger.replace_file(first)
    ledger.replace_file(second)
    assert stream(ledger) == [first, second]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
@pytest.mark.parametrize(
    ("first", "second", "nested"),
    [
        ("a", "a", False),
        ("dir/a", "dir/a", False),
        ("dir", "dir/a", True),
        ("dir/a", "dir", True),
        ("dir", "dir/b/c/d", True),
        ("dir/b/c/d", "dir/b", True),
    ],
)
def test_two_files_that_cannot_both_be_are_named(
    ledger: Ledger, first: str, second: str, nested: bool, together: bool
) -> None:
    pair = [planned(first), planned(second, 1)]
    add(ledger, planned("between/x"))
    if not together:
        add(ledger, pair.pop(0))
        # Enough that what was remembered of directories is forgotten.
        add(ledger, *[planned(f"many/{number}/file") for number in range(6000)])
    with pytest.raises(CollisionError) as caught:
        add(ledger, *pair)
    assert caught.value.nested is nested
    assert {caught.value.first, caught.value.second} == {
        (0, f"key of {first}", first),
        (1, f"key of {second}", second),
    }


def test_names_that_the_file_system_takes_for_one_collide_and_are_named_as_they_were_written(ledger: Ledger) -> None:
    add(ledger, planned("Read/Me"), fold=True)
    with pytest.raises(CollisionError) as caught:
        add(ledger, planned("read/mE"), fold=True)
    assert [caught.value.first[2], caught.value.second[2]] == ["Read/Me", "read/mE"]
    with pytest.raises(CollisionError) as caught:
        add(ledger, planned("READ"), fold=True)
    assert caught.value.nested
    assert {caught.value.first[2], caught.value.second[2]} == {"Read/Me", "READ"}


def test_names_that_only_begin_alike_do_not_collide(ledger: Ledger) -> None:
    add(ledger, planned("dir/a"), planned("dir.a"), planned("dir-a/b"), planned("di/r"), planned("Dir"))
    assert len(stream(ledger)) == 5


# --- what is whole ---


def test_what_is_whole_is_listed_in_the_byte_order_of_its_paths(ledger: Ledger) -> None:
    # In UTF-16 the last two would change places.
    paths = ["Z", "a", "a/b", "a-b", "é", "日本", "\uffee", "🎉"]
    paths.remove("a")
    add(ledger, *[planned(path) for path in reversed(paths)], planned("unfinished"))
    for file in stream(ledger):
        if file.path != "unfinished":
            ledger.finish_file(file.id, 5, f"crc32:{file.path}", 77)
    assert ledger.count_finished() == (7, 35)
    expected = sorted(paths, key=str.encode)
    assert [file.path for file in ledger.finished_files()] == expected
    assert next(ledger.finished_files()) == ManifestFile("Z", 5, "etag:Z", "crc32:Z", 77)


def test_more_than_a_batch_is_listed_whole_and_once(ledger: Ledger) -> None:
    paths = [f"{number:05}" for number in range(1700)]
    add(ledger, *[planned(path) for path in paths])
    ledger.finish_files((1, None, 0, file.id) for file in stream(ledger, limit=1000))
    assert [file.path for file in ledger.finished_files()] == paths
    assert [file.path for file in ledger.planned_files(SOURCES)] == paths


# --- what the volume holds ---


@pytest.mark.parametrize("fold", [False, True], ids=["as they are", "folded names"])
def test_what_was_published_and_is_not_planned_is_told(ledger: Ledger, fold: bool) -> None:
    ledger.load_published(ManifestFile(f"{letter}{number:04}", 1, "") for letter in "Ac" for number in range(700))
    add(ledger, *[planned(f"A{number:04}") for number in range(0, 700, 2)], planned("new"), fold=fold)
    # Under a folded name, and so another file to whoever asks by path.
    add(ledger, planned("C0001"), fold=fold)
    gone = [f"A{number:04}" for number in range(1, 700, 2)] + [f"c{number:04}" for number in range(700)]
    assert [file.path for file in ledger.published_but_not_planned()] == gone


def test_without_anything_published_nothing_is_gone(ledger: Ledger) -> None:
    add(ledger, planned("a"))
    assert list(ledger.published_but_not_planned()) == []
    assert ledger.published("a") is None


def test_a_damaged_manifest_is_forgotten(ledger: Ledger) -> None:
    ledger.load_published([ManifestFile("a", 1, "etag:1", "crc32:00000000", 5)])
    assert ledger.published("a") == ManifestFile("a", 1, "etag:1", "crc32:00000000", 5)
    ledger.forget_published()
    assert ledger.published("a") is None
    assert list(ledger.published_but_not_planned()) == []


def test_what_was_noted_last_of_a_staged_file_counts(ledger: Ledger) -> None:
    ledger.note_staged(StagedFile("a", 9, "etag:1", 1, ranges=[(0, 3)]))
    ledger.note_staged_range("a", 6, 9)
    assert ledger.staged("a") == StagedFile("a", 9, "etag:1", 1, ranges=[(0, 3), (6, 9)])
    assert ledger.staged("a", with_ranges=False) == StagedFile("a", 9, "etag:1", 1)
    again = StagedFile("a", None, "etag:2", 2, whole=True, checksum="crc32:00000000", modified=4)
    ledger.note_staged(again)
    assert ledger.staged("a") == again
    ledger.forget_staged("a")
    assert ledger.staged("a") is None
    assert ledger.staged_paths() == set()


# --- memory and disk ---

_MANY = """
import os, sys
from datafetch.ledger import Ledger
from datafetch.records import Kind, PlannedFile

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def add(start, end):
    for batch in range(start, end, 500):
        paths = [f"data/train/{number // 1000:05}/sample-{number:09}.parquet" for number in range(batch, batch + 500)]
        files = [PlannedFile(0, "s", "prefix/" + path, path, 1, 'etag:"' + path[-20:] + '"', None) for path in paths]
        ledger.add_files([(file, Kind.SMALL) for file in files], paths)

ledger = Ledger(sys.argv[1])
add(0, 20_000)
before = resident()
add(20_000, 200_000)
count, after = 0, 0
while files := ledger.next_files(0, "s", Kind.SMALL, after, 500):
    count, after = count + len(files), files[-1].id
    ledger.finish_files([(1, None, 0, file.id) for file in files])
assert sum(1 for _ in ledger.finished_files()) == count == 200_000
links = {entry: os.readlink(entry) for entry in (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
         if os.path.lexists(entry)}
(spill,) = [entry for entry, target in links.items() if target.startswith(sys.argv[1])]
print(resident() - before, os.stat(spill).st_size, os.stat(spill).st_nlink, len(os.listdir(sys.argv[1])))
"""


def test_many_files_lie_on_the_disk_in_a_file_without_a_name_and_memory_stays_flat(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    growth, spilled, names, listed = map(int, done.stdout.split())
    assert growth < 12 << 20
    assert spilled > 20 << 20
    assert (names, listed) == (0, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB; mounting needs root."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(volume)], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", str(volume)], check=True)


def fill(volume: Path) -> None:
    with (volume / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def plan_many(volume: Path) -> None:
    """Plan many times more than a small volume has room for."""
    ledger = Ledger(str(volume))
    try:
        for batch in range(1000):
            add(ledger, *[planned(f"{'directory/' * 10}{batch:04}-{number}") for number in range(500)])
    finally:
        ledger.close()


def test_a_volume_that_becomes_full_is_named_as_such(small_volume: Path) -> None:
    with pytest.raises(InsufficientSpaceError, match="the volume is full"):
        plan_many(small_volume)
    assert list(small_volume.iterdir()) == []


def test_a_volume_that_is_full_from_the_start_is_named_as_such(small_volume: Path) -> None:
    fill(small_volume)
    with pytest.raises(InsufficientSpaceError, match="the volume is full"):
        plan_many(small_volume)


# --- anything, in any order ---

SEGMENTS = st.sampled_from(["a", "A", "b", "é", "\uffee", "🎉", "x.bin"])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
SIZES = st.integers(0, 1 << 40)


class LedgerModel(RuleBasedStateMachine):
    """Does the same to a ledger and to dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.fold = False
        self.plan: dict[str, PlannedFile] = {}
        """By the name that the file system takes a path for."""
        self.streams: dict[tuple[int, Kind], list[PlannedFile]] = {}
        self.whole: dict[str, ManifestFile] = {}
        self.published: dict[str, ManifestFile] = {}
        self.staged: dict[str, StagedFile] = {}

    @initialize(fold=st.booleans())
    def choose(self, fold: bool) -> None:
        self.fold = fold

    @rule(path=PATHS, source_index=st.sampled_from([0, 1]), kind=st.sampled_from(Kind), size=st.none() | SIZES)
    def plan_file(self, path: str, source_index: int, kind: Kind, size: int | None) -> None:
        name = path.lower() if self.fold else path
        if any(name == other or name.startswith(other + "/") or other.startswith(name + "/") for other in self.plan):
            # A collision ends the fetch: the ledger is not asked again afterwards.
            return
        file = planned(path, source_index, size, CRC if size else None)
        add(self.ledger, file, kind=kind, fold=self.fold)
        self.plan[name] = file
        files = self.streams.setdefault((source_index, kind), [])
        files.append(file)
        file.id = stream(self.ledger, source_index, kind)[-1].id

    @rule(data=st.data(), size=SIZES)
    def replace_file(self, data: st.DataObject, size: int) -> None:
        if self.plan:
            file = data.draw(st.sampled_from(list(self.plan.values())))
            file.size, file.identity = size, f"etag:{size}"
            self.ledger.replace_file(file)
            if file.path in self.whole:
                self.whole[file.path].identity = file.identity

    @rule(data=st.data(), size=SIZES)
    def finish_file(self, data: st.DataObject, size: int) -> None:
        if self.plan:
            file = data.draw(st.sampled_from(list(self.plan.values())))
            self.ledger.finish_file(file.id, size, "crc32:1", 7)
            self.whole[file.path] = ManifestFile(file.path, size, file.identity, "crc32:1", 7)

    @rule(paths=st.lists(PATHS, max_size=4), size=SIZES)
    def load_published(self, paths: list[str], size: int) -> None:
        files = [ManifestFile(path, size, "etag:old", None, 3) for path in paths]
        self.ledger.load_published(files)
        self.published.update({file.path: file for file in files})

    @rule(path=PATHS, epoch=st.integers(1, 9), ranges=st.lists(st.tuples(SIZES, SIZES), max_size=2))
    def note_staged(self, path: str, epoch: int, ranges: list[tuple[int, int]]) -> None:
        self.ledger.note_staged(StagedFile(path, None, "etag:s", epoch, ranges=list(ranges)))
        self.staged[path] = StagedFile(path, None, "etag:s", epoch, ranges=list(ranges))

    @rule(data=st.data(), found=st.tuples(SIZES, SIZES))
    def note_staged_range(self, data: st.DataObject, found: tuple[int, int]) -> None:
        if self.staged:
            path = data.draw(st.sampled_from(list(self.staged)))
            self.ledger.note_staged_range(path, *found)
            self.staged[path].ranges.append(found)

    @rule(path=PATHS)
    def forget_staged(self, path: str) -> None:
        self.ledger.forget_staged(path)
        self.staged.pop(path, None)

    @invariant()
    def says_the_same(self) -> None:
        for key, files in self.streams.items():
            assert stream(self.ledger, *key) == files
        by_name = [self.plan[name] for name in sorted(self.plan, key=str.encode)]
        assert list(self.ledger.planned_files(SOURCES)) == by_name
        paths = {file.path for file in self.plan.values()}
        gone = sorted(self.published.keys() - paths, key=str.encode)
        assert list(self.ledger.published_but_not_planned()) == [self.published[path] for path in gone]
        for path in [*self.published, "nowhere"]:
            assert self.ledger.published(path) == self.published.get(path)
        for path in [*self.staged, "nowhere"]:
            assert self.ledger.staged(path) == self.staged.get(path)
        assert self.ledger.staged_paths() == self.staged.keys()

    @invariant()
    def counts_the_same(self) -> None:
        assert self.ledger.count_finished() == (len(self.whole), sum(file.size for file in self.whole.values()))
        whole = sorted(self.whole, key=str.encode)
        assert list(self.ledger.finished_files()) == [self.whole[path] for path in whole]

    def teardown(self) -> None:
        self.ledger.close()


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, derandomize=True, database=None
)
