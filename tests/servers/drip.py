"""A web server that answers some requests and then hardly says a word: a byte now and then, never silent for long.

with DrippingServer() as server:
    server.put("/big.bin", data)
    server.drip("/big.bin", after=100_000, times=1)
"""

from __future__ import annotations

import dataclasses
import fnmatch
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from .http import StaticServer
from .serving import CHUNK_BYTES, Request, Response


@dataclass
class _Rule:
    path: str
    after: int
    every: float
    times: int | None
    skip: int


class DrippingServer(StaticServer):
    """Serves what `put` gave it; `drip` says which answers come byte by byte."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._rules_lock = threading.Lock()
        super().__init__()

    def drip(self, path: str, *, after: int = 0, every: float = 1.0, times: int | None = None, skip: int = 0) -> None:
        """Send a byte every so many seconds once `after` bytes are out.

        So in the next `times` answers (None: in all), after `skip` that are whole.
        """
        with self._rules_lock:
            self._rules.append(_Rule(path, after, every, times, skip))

    def stop_dripping(self) -> None:
        """Serve properly from the next request on."""
        with self._rules_lock:
            self._rules.clear()

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        response = super().handle(request)
        rule = self._take(request) if response.status in {200, 206} else None
        if rule is None or not isinstance(response.body, bytes | memoryview):
            return response
        return dataclasses.replace(response, body=self._drops(response.body, rule))

    def _take(self, request: Request) -> _Rule | None:
        if request.method != "GET":
            return None
        with self._rules_lock:
            for rule in self._rules:
                if rule.times == 0 or not fnmatch.fnmatchcase(request.exchange.path, rule.path):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.times = None if rule.times is None else rule.times - 1
                return rule
        return None

    def _drops(self, body: bytes | memoryview, rule: _Rule) -> Iterator[bytes]:
        at_once = min(rule.after, len(body))
        for start in range(0, at_once, CHUNK_BYTES):
            yield bytes(body[start : min(start + CHUNK_BYTES, at_once)])
        for position in range(at_once, len(body)):
            self.wait(rule.every)
            yield bytes(body[position : position + 1])
