"""What an earlier run left, and how much of it counts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch.ledger import Ledger
from datafetch.marker import ManifestHeader
from datafetch.plan import missing_ranges
from datafetch.records import ManifestFile, PlannedFile, StagedFile
from datafetch.sink import journal
from datafetch.sink.directory import Directory
from datafetch.sink.journal import Journal, recover
from datafetch.sink.layout import prunable

MIB = 1 << 20


@pytest.fixture
def state(tmp_path: Path) -> Directory:
    return Directory.open(str(tmp_path))


def big(identity: str) -> PlannedFile:
    return PlannedFile(0, "s", "big", "big", 10 * MIB, identity, None)


def recovered(state: Directory) -> dict[str, StagedFile]:
    """Return what a later epoch finds."""
    ledger = Ledger()
    recover(state, 2, ledger)
    return {path: staged for path in ledger.staged_paths() if (staged := ledger.staged(path)) is not None}


def written(state: Directory) -> None:
    """Let an epoch note one whole file and one range before a flush, and one of each after it."""
    left = Journal(state, 1)
    left.add_files([ManifestFile("flushed", 3, "id-1", None, 1)])
    left.add_range(big("id-2"), 0, MIB)
    left.mark_flushed()
    left.add_files([ManifestFile("late", 3, "id-3", None, 1)])
    left.add_range(big("id-2"), MIB, 2 * MIB)
    left.close()


def test_all_that_was_noted_counts_on_the_same_boot(state: Directory) -> None:
    written(state)
    found = recovered(state)
    assert set(found) == {"flushed", "late", "big"}
    assert found["big"].ranges == [(0, MIB), (MIB, 2 * MIB)]


def test_after_a_loss_of_the_machine_only_what_was_flushed_counts(
    state: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(state)
    monkeypatch.setattr(journal, "boot_id", lambda: "another boot")
    found = recovered(state)
    assert set(found) == {"flushed", "big"}
    assert found["big"].ranges == [(0, MIB)]


def test_the_journal_gives_back_the_whole_files_between_two_lengths(state: Directory) -> None:
    left = Journal(state, 1)
    paths = [f"deep/{'long' * 20}/name-{number}" for number in range(3_000)]
    left.add_range(big("id"), 0, MIB)
    left.add_files([ManifestFile(path, 3, "id", None, 1) for path in paths[:1_000]])
    left.mark_flushed()
    left.drop(paths[0])
    middle = left.length
    left.add_files([ManifestFile(path, 3, "id", None, 1) for path in paths[1_000:]])
    assert list(left.whole_files(0, middle)) == paths[:1_000]
    assert list(left.whole_files(middle, left.length)) == paths[1_000:]
    assert list(left.whole_files(left.length, left.length)) == []


def test_a_line_that_a_kill_cut_off_is_passed_over(state: Directory, tmp_path: Path) -> None:
    written(state)
    with (tmp_path / "epochs/1/journal").open("ab") as file:
        file.write(b'{"file":"torn","si')
    assert "torn" not in recovered(state)


def test_another_identity_begins_anew(state: Directory) -> None:
    left = Journal(state, 1)
    left.add_range(big("old"), 0, 5 * MIB)
    left.add_range(big("new"), 0, MIB)
    left.close()
    staged = recovered(state)["big"]
    assert staged.ranges == [(0, MIB)]
    assert staged.is_of(big("new"))
    assert not staged.is_of(big("old"))


def test_an_object_without_identity_is_never_taken_up_again(state: Directory) -> None:
    left = Journal(state, 1)
    left.add_files([ManifestFile("a", 3, "", None, 1)])
    left.close()
    assert not recovered(state)["a"].is_of(PlannedFile(0, "s", "a", "a", 3, "", None))


def test_what_was_dropped_does_not_count(state: Directory) -> None:
    left = Journal(state, 1)
    left.add_files([ManifestFile("a", 3, "id", None, 1)])
    left.drop("a")
    left.close()
    assert recovered(state) == {}


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6),
    st.integers(1, 25),
)
def test_missing_ranges_are_exactly_what_is_missing(size: int, pieces: list[tuple[int, int]], part: int) -> None:
    have = [(start, min(start + length, size)) for start, length in pieces if start < size and length]
    missing = missing_ranges(size, have, part)
    assert all(0 < end - start <= part for start, end in missing)
    bytes_missing = [position for start, end in missing for position in range(start, end)]
    present = {position for start, end in have for position in range(start, end)}
    assert bytes_missing == [position for position in range(size) if position not in present]


# --- which old revisions may go ---

START = datetime(2026, 1, 1, tzinfo=UTC)


def revisions(count: int) -> list[ManifestHeader]:
    """Return revisions published an hour apart: r0 at START, r1 an hour later, and so on."""
    times = [(START + timedelta(hours=number)).isoformat() for number in range(count)]
    return [ManifestHeader(f"r{number}", "v1:0", "sha256:0", 1, 1, time) for number, time in enumerate(times)]


@pytest.mark.parametrize(
    ("keep", "oldest_pod_started", "gone"),
    [
        (1, None, []),
        (0, 99.0, ["r0", "r1", "r2"]),
        (1, 99.0, ["r0", "r1"]),
        (2, 99.0, ["r0"]),
        (3, 99.0, []),
        (0, 1.5, ["r0"]),  # a pod that started at 1:30 may have r1, but not r0, which was replaced at 1:00
        (0, 0.5, []),
    ],
)
def test_an_old_revision_goes_only_when_no_pod_can_have_it(
    keep: int, oldest_pod_started: float | None, gone: list[str]
) -> None:
    *old, current = revisions(4)
    before = None if oldest_pod_started is None else START + timedelta(hours=oldest_pod_started)
    assert prunable([*old, current], current, keep=keep, replaced_before=before) == gone
