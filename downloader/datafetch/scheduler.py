"""What to transfer next: files of all sources in turn, and the ranges of big files between them.

Pure bookkeeping under one lock: it knows no network and no disk; the files themselves are the plan's, of which it holds
only the next few. Small fetches are not starved by large ones, because a worker that asks gets, in turn, a file of the
next source and a range of a file that is under way; small files are for one who takes many at a time. Of no source are
more files begun while many ranges of those that are under way wait: each holds a descriptor, and memory.
"""

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from datafetch.records import Kind, PlannedFile

W = TypeVar("W")
_PULLED = 128
"""Files of one source and kind that are held at a time."""
_MOST_RANGES = 128
"""Ranges of one source that wait; while there are more, none of its files is begun."""

_NO_RANGES: Counter[int] = Counter()

Pull = Callable[[int, Kind, int, int], list[PlannedFile]]
"""Returns files of a source and kind, those behind an id, at most so many."""


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


class _Stream:
    """The files of one source and kind that wait, of which the next few are at hand."""

    __slots__ = ("_after", "_at_hand", "_kind", "_pull", "source_index", "waiting")

    def __init__(self, source_index: int, kind: Kind, pull: Pull) -> None:
        self.source_index = source_index
        self._kind = kind
        self._pull = pull
        self._at_hand: deque[PlannedFile] = deque()
        self._after = 0
        self.waiting = 0

    def take(self) -> PlannedFile:
        if not self._at_hand:
            self._at_hand.extend(self._pull(self.source_index, self._kind, self._after, _PULLED))
            self._after = self._at_hand[-1].id
        self.waiting -= 1
        return self._at_hand.popleft()


class _Turns:
    """Streams that are read in turn."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
        self._streams: dict[tuple[int, Kind], _Stream] = {}
        self._order: deque[_Stream] = deque()

    @property
    def are_waiting(self) -> bool:
        """Whether a file is left in any stream."""
        return bool(self._order)

    def add(self, source_index: int, kind: Kind, count: int) -> None:
        stream = self._streams.get((source_index, kind))
        if stream is None:
            stream = self._streams[source_index, kind] = _Stream(source_index, kind, self._pull)
        if not stream.waiting:
            self._order.append(stream)
        stream.waiting += count

    def take(self, ranges: Counter[int]) -> PlannedFile | None:
        """Return a file of the next stream whose source has not too many ranges that wait."""
        for _ in range(len(self._order)):
            stream = self._order.popleft()
            file = stream.take() if ranges[stream.source_index] <= _MOST_RANGES else None
            if stream.waiting:
                self._order.append(stream)
            if file is not None:
                return file
        return None


class Scheduler(Generic[W]):
    """The queue of one fetch, fed by listings and by workers. Thread-safe.

    `limit` is how many tasks may be under way at a time, `small_limit` how many small files, and `most` how many of
    both together. Where that is less than the two want, it is divided in proportion, and who has nothing to do leaves
    its places to the other.
    """

    def __init__(
        self,
        limit: int,
        pull: Pull,
        wake_small: Callable[[], None] = lambda: None,
        *,
        small_limit: int = 0,
        most: int = sys.maxsize,
    ) -> None:
        self._condition = threading.Condition()
        self._files = _Turns(pull)
        self._small = _Turns(pull)
        self._wake_small = wake_small
        self._again: deque[PlannedFile] = deque()
        self._ranges: deque[tuple[int, RangeTask[W]]] = deque()
        self._waiting_ranges: Counter[int] = Counter()
        """How many of them there are of each source."""
        self._range_next = False
        self._outstanding = 0
        self._busy = 0
        self._limit = limit
        self._small_limit = small_limit
        self._most = most
        self._small_places = 0
        """Small files that are under way, or may be begun without asking."""
        self._complete = False
        self._closed = False

    def add_files(self, source_index: int, kinds: Counter[Kind]) -> None:
        """Take in that the plan holds so many more files of a source."""
        with self._condition:
            for kind, count in kinds.items():
                if count:
                    (self._small if kind is Kind.SMALL else self._files).add(source_index, kind, count)
            self._outstanding += kinds.total()
            self._condition.notify(kinds[Kind.LARGE] + kinds[Kind.KNOWN])
        if kinds[Kind.SMALL]:
            self._wake_small()

    def put_back(self, file: PlannedFile) -> None:
        """Take a file in again that has to be fetched once more, or by somebody else."""
        with self._condition:
            self._again.append(file)
            self._condition.notify()

    def add_ranges(self, source_index: int, ranges: list[RangeTask[W]]) -> None:
        """Take ranges of a source's file in."""
        with self._condition:
            self._ranges.extend((source_index, task) for task in ranges)
            self._waiting_ranges[source_index] += len(ranges)
            self._condition.notify(len(ranges))

    def next(self) -> FileTask | RangeTask[W] | None:
        """Return the next task, waiting for one; None when there is nothing left to do. Call `release` after it."""
        with self._condition:
            while not self._closed and not self._finished():
                task = self._take() if self._has_place() else None
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
            is_awaited = self._is_tight and self._small.are_waiting
        if is_awaited:
            self._wake_small()

    def small_places(self, held: int, *, more: bool) -> int:
        """Return how many small files may be under way. `held` of them are; `more` are at hand already."""
        with self._condition:
            wanted = held
            if more or self._small.are_waiting:
                others = self._ranges or self._again or self._files.are_waiting
                wanted = self._small_share if others else self._small_limit
            places = max(held, min(wanted, self._most - self._busy))
            if places < self._small_places:
                self._condition.notify_all()
            self._small_places = places
            return places

    def next_small(self, limit: int) -> list[PlannedFile]:
        """Return small files that nobody has begun, at most so many; none where none waits at present."""
        files: list[PlannedFile] = []
        with self._condition:
            while not self._closed and len(files) < limit and (file := self._small.take(_NO_RANGES)) is not None:
                files.append(file)
        return files

    def finish_files(self, count: int = 1) -> None:
        """Say that files are in place."""
        with self._condition:
            self._outstanding -= count
            if self._finished():
                self._condition.notify_all()
                self._wake_small()

    def complete(self) -> None:
        """Say that no more files will come."""
        with self._condition:
            self._complete = True
            self._condition.notify_all()
        self._wake_small()

    def set_limits(self, limit: int, small_limit: int) -> None:
        """Set how many tasks, and how many small files, may be under way at a time."""
        with self._condition:
            self._limit = limit
            self._small_limit = small_limit
            self._condition.notify_all()

    @property
    def busy(self) -> int:
        """Tasks that are under way."""
        with self._condition:
            return self._busy

    def close(self) -> None:
        """Send every worker home."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._wake_small()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, or nobody is to do it any more."""
        with self._condition:
            return self._closed or self._finished()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is done or the time is over, and say whether everything is done."""
        with self._condition:
            return self._condition.wait_for(lambda: self._closed or self._finished(), seconds) and self._finished()

    @property
    def _is_tight(self) -> bool:
        return self._limit + self._small_limit > self._most

    @property
    def _small_share(self) -> int:
        """The places that small files keep although others wait."""
        if not self._is_tight:
            return self._small_limit
        return max(1, self._most * self._small_limit // (self._limit + self._small_limit))

    def _has_place(self) -> bool:
        """Whether another task may begin."""
        kept = self._small_places
        if self._small.are_waiting:
            kept = max(kept, self._small_share)
        return self._busy < min(self._limit, self._most - kept)

    def _finished(self) -> bool:
        return self._complete and self._outstanding == 0

    def _take(self) -> FileTask | RangeTask[W] | None:
        self._range_next = not self._range_next
        if self._ranges and self._range_next:
            return self._take_range()
        file = self._again.popleft() if self._again else self._files.take(self._waiting_ranges)
        if file is not None:
            return FileTask(file)
        return self._take_range() if self._ranges else None

    def _take_range(self) -> RangeTask[W]:
        source_index, task = self._ranges.popleft()
        self._waiting_ranges[source_index] -= 1
        return task
