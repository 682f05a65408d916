"""What to transfer next: files of all sources in turn, and the ranges of big files between them.

Pure bookkeeping under one lock: it knows no network and no disk. Small fetches are not starved by large ones, because a
worker that asks gets, in turn, a file of the next source and a range of a file that is under way.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from datafetch.plan import PlannedFile

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class FileTask:
    """A file that nobody has begun."""

    file: PlannedFile


@dataclass(frozen=True, slots=True)
class RangeTask(Generic[W]):
    """A range of a file that is under way; `end` is None where nobody knows the size."""

    writer: W
    start: int
    end: int | None


class Scheduler(Generic[W]):
    """The queue of one fetch, fed by listings and by workers. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._condition = threading.Condition()
        self._files: dict[int, deque[PlannedFile]] = {}
        self._turns: deque[int] = deque()
        self._ranges: deque[RangeTask[W]] = deque()
        self._range_next = False
        self._outstanding = 0
        self._busy = 0
        self._limit = limit
        self._complete = False
        self._closed = False

    def add_file(self, file: PlannedFile) -> None:
        """Take a file in."""
        with self._condition:
            queue = self._files.setdefault(file.source_index, deque())
            if not queue:
                self._turns.append(file.source_index)
            queue.append(file)
            self._outstanding += 1
            self._condition.notify()

    def put_back(self, file: PlannedFile) -> None:
        """Take a file in again that has to be fetched once more."""
        self.add_file(file)
        with self._condition:
            self._outstanding -= 1

    def add_ranges(self, ranges: list[RangeTask[W]]) -> None:
        """Take ranges of a file in."""
        with self._condition:
            self._ranges.extend(ranges)
            self._condition.notify(len(ranges))

    def next(self) -> FileTask | RangeTask[W] | None:
        """Return the next task, waiting for one; None when there is nothing left to do. Call `release` after it."""
        with self._condition:
            while not self._closed and not self._finished():
                task = self._take() if self._busy < self._limit else None
                if task is not None:
                    self._busy += 1
                    return task
                self._condition.wait()
            return None

    def release(self) -> None:
        """Say that a task that `next` gave has ended, whichever way."""
        with self._condition:
            self._busy -= 1
            self._condition.notify()

    def finish_file(self) -> None:
        """Say that a file is in place."""
        with self._condition:
            self._outstanding -= 1
            if self._finished():
                self._condition.notify_all()

    def complete(self) -> None:
        """Say that no more files will come."""
        with self._condition:
            self._complete = True
            self._condition.notify_all()

    def set_limit(self, limit: int) -> None:
        """Set how many tasks may be under way at a time."""
        with self._condition:
            self._limit = limit
            self._condition.notify_all()

    def is_saturated(self) -> bool:
        """Say whether as many tasks are under way as may be."""
        with self._condition:
            return self._busy >= self._limit

    def close(self) -> None:
        """Send every worker home."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is done or the time is over, and say whether everything is done."""
        with self._condition:
            return self._condition.wait_for(lambda: self._closed or self._finished(), seconds) and self._finished()

    def _finished(self) -> bool:
        return self._complete and self._outstanding == 0

    def _take(self) -> FileTask | RangeTask[W] | None:
        self._range_next = not self._range_next
        if self._ranges and (self._range_next or not self._turns):
            return self._ranges.popleft()
        if self._turns:
            index = self._turns.popleft()
            queue = self._files[index]
            file = queue.popleft()
            if queue:
                self._turns.append(index)
            return FileTask(file)
        return None
