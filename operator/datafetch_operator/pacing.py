"""How often progress is read and written: a pace that falls as the number of downloads that are read grows. No I/O.

At most one write per 10 s and fetch because of its progress, one because of the pods that ask for it, and 20 logs read
a second in all. Time is cut into cells of one reading each, and a fetch reserves the cell of its next reading when it
asks for it: those that began together are read one after the other, and so are those that were kept waiting together.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from datafetch_api.resource import Phase
from datafetch_operator.observation import Key

_SECONDS_PER_FETCH = 10
_LEAST_SECONDS = _SECONDS_PER_FETCH - 0.5
"""Between two writes: half a second less, because the timers that bring us here are not exact."""
_CELLS_PER_SECOND = 18
"""Fewer than 20: a reading that comes a little late falls together with those after it."""
_STEADY_PER_SECOND = 16
"""Readings of downloads whose size is known; what is left is for the first lines of new ones."""
_MOST_LATE_SECONDS = 1.0
"""A reserved cell that passed longer ago is lost: else all that were kept waiting would be read at once."""
_EXACT_SECONDS = 0.01


class Pace:
    """Knows whose progress is read, when that was done last, and when it will be done next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._phases: dict[Key, Phase] = {}
        self._counts: Counter[Phase] = Counter()
        self._readers: set[Key] = set()
        self._read: dict[Key, float] = {}
        self._written: dict[Key, float] = {}
        self._cells: dict[Key, tuple[int, bool]] = {}
        """The cell of each fetch's next reading, and whether that is for its first lines."""
        self._lines: dict[Key, tuple[datetime, float]] = {}
        """The time that each one's newest line names, and when it was read first."""
        self._taken: set[int] = set()
        self._pruned = 0
        self._consumers_written: dict[Key, float] = {}
        self._pods_read: dict[Key, int] = {}

    @property
    def interval(self) -> int:
        """Seconds between two writes of one fetch's progress."""
        read = len(self._readers) + sum(self._pods_read.values())
        return max(_SECONDS_PER_FETCH, -(-read // _STEADY_PER_SECOND))

    @property
    def phases(self) -> Counter[Phase]:
        """How many of the known fetches are in which phase."""
        return self._counts

    # --- the logs of downloads ---

    def wait(self, key: Key, soon: float | None = None) -> float:
        """Return in how many seconds the fetch's log may be read; 0: now.

        `soon` is the pause in seconds between two readings as long as its first lines are awaited.
        """
        now, is_first = self._clock(), soon is not None
        self._readers.add(key)
        cell, was_first = self._cells.get(key, (None, is_first))
        if cell is not None and (was_first != is_first or now - cell / _CELLS_PER_SECOND > _MOST_LATE_SECONDS):
            self._release(key)
            cell = None
        if cell is None:
            cell = self._reserve(self._earliest(key, soon))
            self._cells[key] = cell, is_first
        left = cell / _CELLS_PER_SECOND - now
        return left if left > _EXACT_SECONDS else 0.0

    def note_read(self, key: Key) -> None:
        """Note that the fetch's log is being read now."""
        self._cells.pop(key, None)
        self._read[key] = self._clock()

    def silence(self, key: Key, line: datetime) -> float:
        """Return for how many seconds this line has been the newest of the fetch's log, by our own clock."""
        known, since = self._lines.get(key, (None, 0.0))
        if known != line:
            since = self._clock()
            self._lines[key] = line, since
        return self._clock() - since

    def note_unread(self, key: Key) -> None:
        """Note that there is no log of the fetch to be read."""
        self._readers.discard(key)
        self._lines.pop(key, None)
        self._release(key)

    def is_due(self, key: Key) -> bool:
        """Return whether progress may be written for its own sake: before a restart it may have been just now."""
        return self._clock() - self._written.get(key, self._started) >= _LEAST_SECONDS

    def note_write(self, key: Key) -> None:
        """Note that the fetch's progress is being written now."""
        self._written[key] = self._clock()

    # --- the pods that ask ---

    def consumers_wait(self, key: Key) -> float:
        """Return in how many seconds the status may be written because of the pods that ask for the data; 0: now."""
        last = self._consumers_written.get(key)
        return 0.0 if last is None else max(0.0, last + self.interval - self._clock())

    def note_consumers_write(self, key: Key) -> None:
        """Note that the pods that ask for the data are being written now."""
        self._consumers_written[key] = self._clock()

    def note_pods_read(self, key: Key, pods: int) -> None:
        """Note of how many pods that download for themselves the log is read for this fetch."""
        self._pods_read.pop(key, None)
        if pods:
            self._pods_read[key] = pods

    def note_pods_being_read(self, pods: int) -> None:
        """Note that the logs of so many pods are read right now: others are read later for that."""
        for _ in range(pods):
            self._reserve(0.0)

    # --- phases ---

    def note_phase(self, key: Key, phase: Phase | None) -> None:
        """Note the fetch's phase; None forgets it."""
        known = self._phases.pop(key, None)
        if known is not None:
            self._counts[known] -= 1
        if phase is not None:
            self._phases[key] = phase
            self._counts[phase] += 1
            return
        self.note_unread(key)
        for memory in (self._read, self._written, self._consumers_written, self._pods_read):
            memory.pop(key, None)

    # --- cells ---

    def _earliest(self, key: Key, soon: float | None) -> float:
        last = self._read.get(key)
        if last is not None:
            return last + (self.interval if soon is None else soon)
        # What a process before this one has written last may be of just now.
        return 0.0 if soon is not None else self._started + _LEAST_SECONDS

    def _reserve(self, earliest: float) -> int:
        """Take the first cell from then on that nobody has; the one that has just begun is as good as the next."""
        now = int(self._clock() * _CELLS_PER_SECOND)
        cell = max(now, math.ceil((earliest - _EXACT_SECONDS) * _CELLS_PER_SECOND))
        while cell in self._taken:
            cell += 1
        self._taken.add(cell)
        if now - self._pruned > _CELLS_PER_SECOND:
            self._taken = {taken for taken in self._taken if taken >= now}
            self._pruned = now
        return cell

    def _release(self, key: Key) -> None:
        cell, _ = self._cells.pop(key, (None, False))
        if cell is not None:
            self._taken.discard(cell)
