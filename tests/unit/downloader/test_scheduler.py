"""What is transferred next."""

import threading
import time

from datafetch.plan import PlannedFile
from datafetch.scheduler import FileTask, RangeTask, Scheduler


def file(source: int, number: int) -> PlannedFile:
    return PlannedFile(source, str(source), f"{number}", f"{source}/{number}", 1, "id", None)


def test_sources_take_turns() -> None:
    scheduler: Scheduler[str] = Scheduler(100)
    for number in range(100):
        scheduler.add_file(file(0, number))
    scheduler.add_file(file(1, 0))
    first = [task.file.source_index for _ in range(3) if isinstance(task := scheduler.next(), FileTask)]
    assert 1 in first


def test_small_files_are_not_starved_by_the_ranges_of_a_large_one() -> None:
    scheduler: Scheduler[str] = Scheduler(100)
    scheduler.add_ranges([RangeTask("large", start, start + 1) for start in range(1000)])
    scheduler.add_file(file(0, 0))
    assert any(isinstance(scheduler.next(), FileTask) for _ in range(2))


def test_no_more_than_the_limit_are_under_way() -> None:
    scheduler: Scheduler[str] = Scheduler(2)
    for number in range(3):
        scheduler.add_file(file(0, number))
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
    scheduler: Scheduler[str] = Scheduler(2)
    scheduler.add_file(file(0, 0))
    assert scheduler.next()
    scheduler.complete()
    assert not scheduler.wait(0.0)
    scheduler.finish_file()
    assert scheduler.wait(0.0)
    assert scheduler.next() is None
