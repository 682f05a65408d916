"""How often progress is read and written: a pace that falls as the number of downloads that are read grows. No I/O.

At most one write per 10 s and fetch because of its progress, one because of the pods that ask for it, and 20 logs read
a second in all.
"""

import time
from collections.abc import Callable

from datafetch_api.resource import Phase
from datafetch_operator.observation import Key

_SECONDS_PER_FETCH = 10
_WRITES_PER_SECOND = 20
_ACTIVE = frozenset({Phase.FETCHING, Phase.REFRESHING})


class Pace:
    """Knows which fetches are active and when each one's progress was written last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phases: dict[Key, Phase] = {}
        self._written: dict[Key, float] = {}
        self._consumers_written: dict[Key, float] = {}
        self._pods_read: dict[Key, int] = {}
        self._room = 0.0
        self._room_counted = clock() + _SECONDS_PER_FETCH - 1
        """When room began to be counted; what a process before this one has written last may be of just now."""

    @property
    def interval(self) -> int:
        """Seconds between two writes of one fetch's progress."""
        active = sum(phase in _ACTIVE for phase in self._phases.values()) + sum(self._pods_read.values())
        return max(_SECONDS_PER_FETCH, -(-active // _WRITES_PER_SECOND))

    def phases(self) -> list[Phase]:
        """Return the phase of every known fetch."""
        return list(self._phases.values())

    def is_due(self, key: Key) -> bool:
        """Return whether it is time for the fetch's progress; for one that was not written yet, whether there is room.

        After a restart nothing is known of any fetch: they wait until no write before it can be too near, and then come
        one after the other.
        """
        last = self._written.get(key)
        if last is None:
            return self._take_room()
        # Half a second less: the timer that brings us here is not exact, and a miss would cost a whole interval.
        return self._clock() - last >= self.interval - 0.5

    def note_write(self, key: Key) -> None:
        """Note that the fetch's progress is being written now."""
        self._written[key] = self._clock()

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

    def note_phase(self, key: Key, phase: Phase | None) -> None:
        """Note the fetch's phase; None forgets it."""
        if phase is None:
            self._phases.pop(key, None)
            self._written.pop(key, None)
            self._consumers_written.pop(key, None)
            self._pods_read.pop(key, None)
            return
        self._phases[key] = phase

    def _take_room(self) -> bool:
        """Return whether one more is within the writes of a second, and count it if so."""
        now = self._clock()
        if now < self._room_counted:
            return False
        self._room = min(_WRITES_PER_SECOND, self._room + (now - self._room_counted) * _WRITES_PER_SECOND)
        self._room_counted = now
        if self._room < 1:
            return False
        self._room -= 1
        return True
