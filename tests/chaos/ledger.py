"""The server's books: what it sent of every file, and what of that was on its way when a process ended.

What was on its way may be sent again. It is not a guess by level and part size, but read from the server: the requests
that were open when the process ended, and those that ended so shortly before that the process may not have noted them.
"""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from chaos.origins import Origin
from servers.serving import wait_until
from servers.traffic import Exchange

GRACE_SECONDS = 0.5
"""A process that has all bytes of an answer notes it within this time, on a machine that does other things too."""
SAMPLE_SECONDS = 0.02


class Ledger:
    """Counts at one origin; a context manager."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._traffic = origin.server.traffic
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._seen = 0
        self._open: list[Exchange] = []
        self._recent: list[tuple[float, Exchange]] = []
        """Finished since the process began, with the time at which that was seen."""
        self._closed: Counter[str] = Counter()
        self._closed_total = 0
        self.requests: Counter[str] = Counter()
        """Requests for the content of each file."""
        self.requests_on_the_way: Counter[str] = Counter()
        """Requests for the content of each file that were open, or answered a moment before, when processes ended."""
        self.on_the_way: Counter[str] = Counter()
        """Bytes of each file that were on their way when processes ended."""
        self._thread = threading.Thread(target=self._sample_often, name="ledger")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def arrivals(self) -> int:
        """Requests that have arrived, of any kind."""
        return len(self._traffic.exchanges)

    @property
    def open_requests(self) -> int:
        """Requests whose answer is not complete."""
        return self._traffic.in_progress

    @property
    def sent(self) -> Counter[str]:
        """Bytes of each file's content that were sent."""
        with self._lock:
            self._sample()
            total = self._closed.copy()
            for exchange in self._open:
                self._count(total, exchange)
            return total

    @property
    def total(self) -> int:
        """Bytes of content that were sent."""
        with self._lock:
            self._sample()
            return self._closed_total + sum(map(self._content_bytes, self._open))

    def begin(self) -> None:
        """A process is about to start: what was sent before is noted or lost already."""
        with self._lock:
            self._sample()
            self._recent.clear()

    def end(self, ended: float) -> None:
        """A process has ended at that time; take what was on its way."""
        wait_until(lambda: self._traffic.in_progress == 0, 30)
        self._note(ended, [])

    def note_open(self, ended: float) -> None:
        """One of several processes has ended at that time: all that is open may have been its own."""
        with self._lock:
            still_open = list(self._open)
        self._note(ended, still_open)

    def _note(self, ended: float, still_open: list[Exchange]) -> None:
        with self._lock:
            self._sample()
            late = [exchange for finished, exchange in self._recent if finished >= ended - GRACE_SECONDS]
            for exchange in (*late, *still_open):
                self._count(self.on_the_way, exchange)
                self.requests_on_the_way[self._origin.name_of(exchange) or ""] += 1

    def _count(self, counter: "Counter[str]", exchange: Exchange) -> None:
        counter[self._origin.name_of(exchange) or ""] += self._content_bytes(exchange)

    def _content_bytes(self, exchange: Exchange) -> int:
        is_content = exchange.status in {200, 206} and self._origin.name_of(exchange) is not None
        return exchange.sent if is_content else 0

    def _sample_often(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        exchanges = self._traffic.exchanges
        for exchange in exchanges[self._seen :]:
            self._open.append(exchange)
            name = self._origin.name_of(exchange)
            if name is not None:
                self.requests[name] += 1
        self._seen = len(exchanges)
        now = time.monotonic()
        still_open: list[Exchange] = []
        for exchange in self._open:
            if not exchange.finished:
                still_open.append(exchange)
                continue
            self._recent.append((now, exchange))
            self._count(self._closed, exchange)
            self._closed_total += self._content_bytes(exchange)
        self._open = still_open
