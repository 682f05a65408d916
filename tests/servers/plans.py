"""What goes wrong, with which requests: values and a plan that hands them out; `serving` carries them out."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .traffic import Exchange


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one exchange. Positions count the bytes of that response's body, not of the object."""

    status: int | None = None
    """Answer with this status and a short XML body in the words of S3, without asking the real server."""
    retry_after: str | None = None
    """Value of a Retry-After header on that answer: seconds, or a date."""
    latency: float = 0.0
    """Seconds to wait before the response begins."""
    cut_after: int | None = None
    """Close the connection after this many bytes."""
    reset: bool = False
    """Cut with a TCP reset, not with an orderly close."""
    stall_after: int | None = None
    """Pause after this many bytes, for `stall_seconds`, or until the server stops."""
    stall_seconds: float = 3600.0
    flip_at: int | None = None
    """Invert the byte at this position."""
    bytes_per_second: float | None = None
    """Send no faster than this."""


NO_FAULT = Fault()


@dataclass
class _Rule:
    fault: Fault
    times: int | None
    skip: int
    path: str
    methods: tuple[str, ...]
    when: Callable[[Exchange], bool] | None

    def matches(self, exchange: Exchange) -> bool:
        if exchange.method not in self.methods or not fnmatch.fnmatchcase(exchange.path, self.path):
            return False
        return self.when is None or self.when(exchange)


class FaultPlan:
    """An ordered list of rules; an exchange meets the first that matches it and is not used up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def add(
        self,
        fault: Fault,
        *,
        times: int | None = 1,
        skip: int = 0,
        path: str = "*",
        methods: tuple[str, ...] = ("GET",),
        when: Callable[[Exchange], bool] | None = None,
    ) -> None:
        """Let `fault` happen to the next `times` matching requests (None: to all), after `skip` that pass.

        `path` is a shell pattern for the decoded path, in which `*` also matches `/`.
        """
        with self._lock:
            self._rules.append(_Rule(fault, times, skip, path, methods, when))

    def clear(self) -> None:
        """Forget all rules: from now on nothing goes wrong."""
        with self._lock:
            self._rules.clear()

    def take(self, exchange: Exchange) -> Fault:
        """Return what goes wrong with this exchange, and count it."""
        with self._lock:
            for rule in self._rules:
                if rule.times == 0 or not rule.matches(exchange):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return NO_FAULT


class Pace:
    """A rate in bytes per second that any number of threads keep together; None means no limit."""

    def __init__(self, rate: float | None = None) -> None:
        self._lock = threading.Lock()
        self._rate = rate
        self._free_at = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes per second; may be changed while responses are being sent."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        with self._lock:
            self._rate = rate
            self._free_at = 0.0

    def reserve(self, size: int) -> float:
        """Take `size` bytes' worth of time; return the seconds to wait before sending more."""
        with self._lock:
            if not self._rate:
                return 0.0
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size / self._rate
            return self._free_at - now
