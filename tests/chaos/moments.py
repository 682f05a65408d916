"""Random moments of a run: by the clock, by requests and bytes seen at the server, by what appears on the volume."""

import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos.ledger import Ledger
from chaos.names import Names, is_staging


class Life:
    """One process from its start, as it is seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], ledger: Ledger, names: Names) -> None:
        self.process = process
        self.started = time.monotonic()
        self._ledger = ledger
        self._names = names
        self._arrivals = ledger.arrivals
        self._bytes = ledger.total
        self._changes = len(names.changes)
        self._looked_at = self._changes
        self._published = 0
        self._quiet_since: float | None = None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    @property
    def requests(self) -> int:
        """Requests of its own that have arrived."""
        return self._ledger.arrivals - self._arrivals

    @property
    def received(self) -> int:
        """Bytes of content that were sent to it."""
        return self._ledger.total - self._bytes

    @property
    def publishing(self) -> int:
        """Names that came or went outside of what is staged: taking the target, giving names, publishing, pruning."""
        changes = self._names.changes
        self._published += sum(not is_staging(path) for path in changes[self._looked_at :])
        self._looked_at = len(changes)
        return self._published

    @property
    def quiet(self) -> float:
        """Seconds for which nothing more has been sent, after something was."""
        if not self.received or self._ledger.open_requests:
            self._quiet_since = None
            return 0.0
        self._quiet_since = self._quiet_since or time.monotonic()
        return time.monotonic() - self._quiet_since

    def reaches(self, moment: "Moment") -> bool:
        """Wait for a moment; False when the process ends before."""
        while self.process.poll() is None:
            if moment.has_come(self):
                return True
            self._names.wait(0.002)
        self._names.read()
        return False


@dataclass(frozen=True)
class Moment:
    """When something is done to a process."""

    name: str
    has_come: Callable[[Life], bool]


def draw(chance: random.Random, remaining: int) -> Moment:
    """Draw a moment of a run that has so many bytes to bring; it may be one that never comes."""
    return chance.choices(_KINDS, weights=(20, 15, 25, 20, 20))[0](chance, remaining)


def draw_in_transfer(chance: random.Random, remaining: int) -> Moment:
    """Draw a moment of listing or transfer."""
    return chance.choices(_KINDS[:3], weights=(20, 15, 65))[0](chance, remaining)


def running(moment: Moment) -> Moment:
    """Return the moment, put off until the first request has arrived."""
    return Moment(moment.name, lambda life: life.requests > 0 and moment.has_come(life))


def _by_clock(chance: random.Random, remaining: int) -> Moment:
    seconds = chance.uniform(0.05, 1.5)
    return Moment(f"after {seconds:.3f} s", lambda life: life.seconds >= seconds)


def _by_requests(chance: random.Random, remaining: int) -> Moment:
    count = chance.choice((1, 2, 3, chance.randrange(1, 400)))
    return Moment(f"at request {count}", lambda life: life.requests >= count)


def by_bytes(chance: random.Random, remaining: int) -> Moment:
    """Draw a moment by bytes received."""
    count = chance.randrange(1, max(2, remaining * 4 // 5))
    return Moment(f"after {count} bytes", lambda life: life.received >= count)


def _by_silence(chance: random.Random, remaining: int) -> Moment:
    seconds = chance.uniform(0.0, 0.3)
    return Moment(f"{seconds:.3f} s after the last byte", lambda life: life.quiet >= seconds and life.received > 0)


def _by_names(chance: random.Random, remaining: int) -> Moment:
    count = int(10 ** chance.uniform(0, 1.8))
    return Moment(f"at change {count} of names outside staging", lambda life: life.publishing >= count)


_KINDS = (_by_clock, _by_requests, by_bytes, _by_silence, _by_names)
