"""A reverse proxy that bears only so many requests at a time, and writes down when it sent which bytes.

    with ThrottlingProxy("127.0.0.1", 17070, bears=12, seconds=0.1) as proxy:
        download(endpoint=proxy.url)
    proxy.gate.refused_share, proxy.gate.average(start, end), windows(proxy.sent, 10.0, start, end)

Unlike `faults.FaultProxy.max_concurrency`, only requests for objects count, only those that are being served, and what
was open when is kept.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterable, Iterator

from .faults import FaultProxy
from .serving import CHUNK_BYTES, Request, Response, slow_down

_SEND_BUFFER_BYTES = 64 * 1024
"""Of each connection: with a larger one, what was sent is far ahead of what has arrived."""


class Gate:
    """Lets `bears` requests in at a time; None: all. Thread-safe."""

    def __init__(self, bears: int | None) -> None:
        self.bears = bears
        self.served = 0
        self.refused: list[float] = []
        """When, by the monotonic clock."""
        self._open = 0
        self._changes: list[tuple[float, int]] = []
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Let a request in, or refuse it."""
        with self._lock:
            if self.bears is not None and self._open >= self.bears:
                self.refused.append(time.monotonic())
                return False
            self.served += 1
            self._count(1)
            return True

    def leave(self) -> None:
        """Say that a request that was let in has been served."""
        with self._lock:
            self._count(-1)

    @property
    def span(self) -> tuple[float, float]:
        """When the first request came in and the last went out."""
        return self._changes[0][0], self._changes[-1][0]

    @property
    def refused_share(self) -> float:
        """Part of all requests for objects that were refused."""
        return len(self.refused) / max(1, len(self.refused) + self.served)

    def average(self, start: float, end: float) -> float:
        """Requests that were being served between two moments, averaged over time."""
        area, moment, count = 0.0, start, 0
        for changed, now in [*self._changes, (end, 0)]:
            until = min(max(changed, start), end)
            area += count * (until - moment)
            moment, count = until, now
        return area / (end - start)

    def _count(self, change: int) -> None:
        self._open += change
        self._changes.append((time.monotonic(), self._open))


def windows(arrivals: list[tuple[float, int]], seconds: float, start: float, end: float) -> Iterator[int]:
    """Yield the bytes of every window of so many seconds between two moments, a tenth of a second apart."""
    moment = start
    while moment + seconds <= end:
        yield sum(count for arrived, count in arrivals if moment <= arrived < moment + seconds)
        moment += 0.1


class ThrottlingProxy(FaultProxy):
    """Passes requests on; those for objects take `seconds` longer, and are refused above `bears` at a time."""

    def __init__(
        self, upstream_host: str, upstream_port: int, *, bears: int | None = None, seconds: float = 0.0
    ) -> None:
        self.gate = Gate(bears)
        self.sent: list[tuple[float, int]] = []
        """When how many bytes of objects went out, by the monotonic clock."""
        self._seconds = seconds
        super().__init__(upstream_host, upstream_port)
        # Connections inherit it.
        self._listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def handle(self, request: Request) -> Response:
        """Pass a request on, or refuse it."""
        bucket, _, key = request.exchange.path.strip("/").partition("/")
        if request.method != "GET" or not (bucket and key):
            return super().handle(request)
        if not self.gate.enter():
            return slow_down(503, self.retry_after)
        try:
            self.wait(self._seconds)
            response = super().handle(request)
        except BaseException:
            self.gate.leave()
            raise
        body = response.body
        return dataclasses.replace(response, body=_Metered(body, response.length, self))


class _Metered:
    """A body that is counted as it is sent, and leaves the gate before its last bytes: who has them may ask again."""

    def __init__(self, body: bytes | memoryview | Iterable[bytes], length: int | None, proxy: ThrottlingProxy) -> None:
        self._body = body
        self._left = length
        self._proxy = proxy
        self._inside = True

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces():
            if self._left is not None:
                self._left -= len(piece)
                if self._left <= 0:
                    self._leave()
            self._proxy.sent.append((time.monotonic(), len(piece)))
            yield piece

    def close(self) -> None:
        """Leave the gate, and close the connection to the server behind."""
        self._leave()
        close = getattr(self._body, "close", None)
        if close:
            close()

    def _pieces(self) -> Iterator[bytes]:
        if isinstance(self._body, bytes | memoryview):
            for start in range(0, len(self._body), CHUNK_BYTES):
                yield bytes(self._body[start : start + CHUNK_BYTES])
        else:
            yield from self._body

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._proxy.gate.leave()
