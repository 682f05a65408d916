"""The archives of one fetch: which are there unpacked, and the threads that unpack those that arrive.

Decompression and writing let go of the interpreter, so that several archives are unpacked beside the transfer; more
than a few threads only compete for the disk. Archives that wait hold up the transfer: the volume holds each of them.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from datafetch.plan import Plan
from datafetch.records import PlannedFile
from datafetch.sink import Sink
from datafetch.unpacking.extraction import Extraction
from datafetch.unpacking.streams import WINDOW_BYTES
from datafetch_api.items import Item

_MOST_THREADS = 4
_MOST_WAITING = 64


class Unpacking:
    """What unpacks the archives of one fetch. Thread-safe.

    `check_space` raises where what the plan reserves does not fit.
    """

    def __init__(
        self,
        items: Sequence[Item],
        plan: Plan,
        sink: Sink,
        *,
        stop: threading.Event,
        check_space: Callable[[], None],
    ) -> None:
        self._settings = [item.unpack for item in items]
        self._plan = plan
        self._archives = sink.archives
        self._stop = stop
        self._check_space = check_space
        self._condition = threading.Condition()
        self._waiting: deque[PlannedFile] = deque()
        self._under_way: list[str] = []
        self._done = 0

    @property
    def is_complete(self) -> bool:
        """Whether every archive of the plan so far is unpacked."""
        with self._condition:
            return self._done == self._plan.archives

    @property
    def message(self) -> str | None:
        """What is being unpacked, for people; None where nothing is."""
        with self._condition:
            if not self._under_way:
                return None
            more = len(self._under_way) + len(self._waiting) - 1
            return f"unpacking {self._under_way[0]}" + (f" and {more} more" if more else "")

    def threads(self, budget: int) -> int:
        """Return how many threads pay; `budget` is the memory that all of them may take."""
        if not any(self._settings):
            return 0
        return max(1, min(_MOST_THREADS, os.cpu_count() or 1, budget // WINDOW_BYTES))

    def take(self, archive: PlannedFile) -> int | None:
        """Take over what came out of an archive before, and return its bytes; None where it has to be unpacked."""
        settings = self._settings[archive.source_index]
        keep = settings is not None and settings.keep_archive
        found = self._archives.take(archive, self._plan, keep=keep)
        if found is None:
            return None
        published = found.bytes + (found.size if keep else 0)
        self._plan.reserve(published - found.size, present=True)
        self._count()
        return published

    def add(self, archive: PlannedFile) -> None:
        """Take in an archive that is whole. Waits where many do."""
        with self._condition:
            while len(self._waiting) >= _MOST_WAITING and not self._stop.is_set():
                self._condition.wait(1)
            self._waiting.append(archive)
            self._condition.notify_all()

    def work(self, complete: Callable[[], None]) -> None:
        """Unpack one archive after the other until the fetch ends; `complete` is told of each that is done."""
        while (archive := self._next()) is not None:
            settings = self._settings[archive.source_index]
            if settings is None:
                raise ValueError(archive.path)
            extraction = Extraction(self._plan, self._archives, self._reserve, self._stop.is_set)
            found = extraction.unpack(archive, settings)
            if not settings.keep_archive:
                self._plan.reserve(-found.size)
            with self._condition:
                self._under_way.remove(archive.path)
            self._count()
            complete()

    def close(self) -> None:
        """Wake every thread: the fetch has ended."""
        with self._condition:
            self._condition.notify_all()

    def _next(self) -> PlannedFile | None:
        with self._condition:
            while not self._waiting and not self._stop.is_set():
                self._condition.wait()
            if self._stop.is_set():
                return None
            archive = self._waiting.popleft()
            self._under_way.append(archive.path)
            self._condition.notify_all()
            return archive

    def _reserve(self, size: int) -> None:
        self._plan.reserve(size)
        self._check_space()

    def _count(self) -> None:
        with self._condition:
            self._done += 1
