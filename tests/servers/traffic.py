"""What a server saw: one record an exchange, counted while it happens. No sockets here."""

from __future__ import annotations

import fnmatch
import threading
import urllib.parse
from dataclasses import dataclass, field


@dataclass
class Exchange:
    """One request and what became of it; the last fields change until `finished`."""

    method: str
    target: str
    """The request target as it stood on the wire, with its query."""
    headers: dict[str, str]
    """Request headers by lower-case name; repeated ones are joined by a comma."""
    status: int = 0
    sent: int = 0
    """Bytes of response body written."""
    finished: bool = field(default=False)

    @property
    def path(self) -> str:
        """The decoded path without its query."""
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The last value of each query parameter."""
        return dict(urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


class Traffic:
    """All exchanges of one server, in the order in which their requests arrived."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []
        self._in_progress = 0
        self._peak = 0

    @property
    def exchanges(self) -> list[Exchange]:
        """A copy of the list; the records in it are live."""
        with self._lock:
            return list(self._exchanges)

    @property
    def in_progress(self) -> int:
        """Requests whose response is not complete."""
        with self._lock:
            return self._in_progress

    @property
    def peak(self) -> int:
        """The most requests that were in progress at once."""
        with self._lock:
            return self._peak

    @property
    def bytes_sent(self) -> int:
        """Bytes of response bodies written, of all exchanges."""
        return sum(exchange.sent for exchange in self.exchanges)

    def select(self, method: str | None = None, path: str = "*", status: int | None = None) -> list[Exchange]:
        """Exchanges of a method, with a path that matches a shell pattern, with a status."""
        return [
            exchange
            for exchange in self.exchanges
            if (method is None or exchange.method == method)
            and fnmatch.fnmatchcase(exchange.path, path)
            and (status is None or exchange.status == status)
        ]

    def clear(self) -> None:
        """Forget what was seen; exchanges in progress stay counted as such."""
        with self._lock:
            self._exchanges.clear()
            self._peak = self._in_progress

    def begin(self, exchange: Exchange) -> int:
        """Record a request that has arrived; return how many are in progress with it."""
        with self._lock:
            self._exchanges.append(exchange)
            self._in_progress += 1
            self._peak = max(self._peak, self._in_progress)
            return self._in_progress

    def end(self, exchange: Exchange) -> None:
        """Record that the last bytes are about to be sent, or that no more will be.

        Before and not after: a client may ask again the moment it has them, and must not count twice.
        """
        with self._lock:
            if not exchange.finished:
                exchange.finished = True
                self._in_progress -= 1
