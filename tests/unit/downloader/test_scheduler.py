"""What is transferred next."""

import threading
import time
from collections import Counter

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
