"""What is transferred next."""

import threading
import time
from collections import Counter

import pytest

from datafetch.records import Kind, PlannedFile
from datafetch.scheduler import FileTask, RangeTask, Scheduler


def pull(source: int, kind: Kind, after: int, limit: int) -> list[PlannedFile]:
    """Return files of a listing that never ends."""
    numbers = range(after + 1, after + 1 + limit)
    return [PlannedFile(source, str(source), f"{n}", f"{source}/{n}", 1, "id", None, n) for n in numbers]


def queue(limit: int) -> Scheduler[str]:
    return Scheduler(limit, pull)


def large(count: int) -> Counter[Kind]:
    return Counter({Kind.LARGE: count})


def ranges(count: int) -> list[RangeTask[str]]:
    return [RangeTask("large", start, start + 1) for start in range(count)]


def test_sources_take_turns() -> None:
    scheduler: Scheduler[str] = queue(100)
    scheduler.add_files(0, large(100))
    scheduler.add_files(1, large(1))
    first = [task.file.source_index for _ in range(3) if isinstance(task := scheduler.next(), FileTask)]
    assert 1 in first


def test_small_files_are_not_starved_by_the_ranges_of_a_large_one() -> None:
    scheduler: Scheduler[str] = queue(100)
    scheduler.add_ranges(0, ranges(1000))
    scheduler.add_files(1, large(1))
    assert any(isinstance(scheduler.next(), FileTask) for _ in range(2))


def test_files_under_way_stay_few_however_many_ranges_each_has() -> None:
    scheduler: Scheduler[str] = queue(10_000)
    scheduler.add_files(0, large(5_000))
    begun = 0
    for _ in range(4_000):
        if isinstance(scheduler.next(), FileTask):
            scheduler.add_ranges(0, ranges(100))
            begun += 1
    assert begun <= 4_000 / 100 + 3, "a file is begun for each that was handed out whole, and hardly more"


def test_no_more_than_the_limit_are_under_way() -> None:
    scheduler: Scheduler[str] = queue(2)
    scheduler.add_files(0, large(3))
    assert scheduler.next()
    assert scheduler.next()
    third: list[object] = []
    thread = threading.Thread(target=lambda: third.append(scheduler.next()))
    thread.start()
    time.sleep(0.1)
    assert third == []
    scheduler.release()
    thread.join(5)
    assert isinstance(third[0], FileTask)


def test_workers_go_home_when_all_is_done() -> None:
    scheduler: Scheduler[str] = queue(2)
    scheduler.add_files(0, large(1))
    assert scheduler.next()
    scheduler.complete()
    assert not scheduler.wait(0.0)
    scheduler.finish_files()
    assert scheduler.wait(0.0)
    assert scheduler.next() is None


# --- small files and others share what may be open -------------------------------------------------------------------


def both(most: int, *, large_files: int, small_files: int) -> Scheduler[str]:
    scheduler: Scheduler[str] = Scheduler(8, pull, small_limit=24, most=most)
    scheduler.add_files(0, Counter({Kind.LARGE: large_files, Kind.SMALL: small_files}))
    return scheduler


def begin_all(scheduler: Scheduler[str]) -> int:
    """Take tasks until the next one would have to wait; return how many there were."""
    begun = 0
    while scheduler._has_place() and scheduler.next() is not None:
        begun += 1
    return begun


@pytest.mark.parametrize("small_first", [True, False])
def test_what_both_want_beyond_the_maximum_is_divided_in_proportion(small_first: bool) -> None:
    scheduler = both(16, large_files=100, small_files=100)
    if small_first:
        assert scheduler.small_places(0, more=True) == 12
        assert begin_all(scheduler) == 4
    else:
        assert begin_all(scheduler) == 4
        assert scheduler.small_places(0, more=True) == 12


def test_within_the_maximum_nobody_is_held_back() -> None:
    scheduler = both(32, large_files=100, small_files=100)
    assert begin_all(scheduler) == 8
    assert scheduler.small_places(0, more=True) == 24


def test_who_is_alone_has_every_place() -> None:
    assert begin_all(both(6, large_files=100, small_files=0)) == 6
    assert both(6, large_files=0, small_files=100).small_places(0, more=True) == 6


def test_places_that_small_files_leave_are_free_for_others() -> None:
    scheduler = both(4, large_files=100, small_files=2)
    assert scheduler.small_places(0, more=True) == 3
    assert begin_all(scheduler) == 1
    assert len(scheduler.next_small(9)) == 2
    assert scheduler.small_places(2, more=False) == 2
    assert begin_all(scheduler) == 1
    assert scheduler.small_places(0, more=False) == 0
    assert begin_all(scheduler) == 2


def test_one_place_is_never_given_twice() -> None:
    scheduler = both(1, large_files=1, small_files=1)
    assert begin_all(scheduler) == 0, "small files come first"
    assert scheduler.small_places(0, more=True) == 1
    scheduler.next_small(9)
    assert scheduler.small_places(1, more=False) == 1
    assert begin_all(scheduler) == 0
    assert scheduler.small_places(0, more=False) == 0
    assert begin_all(scheduler) == 1
    assert scheduler.small_places(0, more=True) == 0
