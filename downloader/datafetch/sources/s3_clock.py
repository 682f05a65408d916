"""The time that S3 goes by: signatures carry it, and a server refuses those that are 15 minutes off.

Machines and appliances whose clock is an hour off are met in every data centre. What a server says in the Date of a
refusal is taken for the time from then on, by our own signatures and by botocore's, which asks again itself.
"""

import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import botocore.auth

_TOLERATED = 300.0
"""Seconds; below that no server refuses a signature, and what a slow answer says of the time is not exact."""
_REFUSALS = frozenset({400, 401, 403})
_STAMP = "%Y%m%dT%H%M%SZ"


class ServerClock:
    """The time of one source's server. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._offset = 0.0
        self._corrections = 0

    def now(self) -> float:
        """Return the seconds since the epoch by which to sign."""
        return self._clock() + self._offset

    @property
    def corrections(self) -> int:
        """How often the time was corrected."""
        return self._corrections

    def learn(self, status: int, headers: Mapping[str, str]) -> bool:
        """Take the time from a refusal; return whether it was another one than ours."""
        date = headers.get("date")
        if status not in _REFUSALS or date is None:
            return False
        try:
            there = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return False
        with self._lock:
            if abs(there - self.now()) < _TOLERATED:
                return False
            self._offset = there - self._clock()
            self._corrections += 1
        return True


def correct_botocore(client: Any, clock: ServerClock) -> None:  # noqa: ANN401 - botocore has no types
    """Have botocore's client sign by the clock, and ask again after a refusal that has corrected it."""
    name = f"s3v4-datafetch-{id(clock)}"

    class Auth(botocore.auth.S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
        def _modify_request_before_signing(self, request: Any) -> None:  # noqa: ANN401 - as above
            request.context["timestamp"] = time.strftime(_STAMP, time.gmtime(clock.now()))
            super()._modify_request_before_signing(request)

    def choose(signature_version: object = None, **_: object) -> str | None:
        return name if clock.corrections and signature_version in ("v4", "s3v4") else None

    def ask_again(response: tuple[Any, Any] | None = None, **_: object) -> float | None:
        status = 0 if response is None else int(response[0].status_code)
        headers = {} if response is None else {key.lower(): value for key, value in response[0].headers.items()}
        return 0.0 if clock.learn(status, headers) else None

    botocore.auth.AUTH_TYPE_MAPS[name] = Auth
    client.meta.events.register("choose-signer.s3", choose)
    client.meta.events.register_first("needs-retry.s3", ask_again)


def forget_botocore(clock: ServerClock) -> None:
    """Drop what `correct_botocore` has left with botocore itself."""
    botocore.auth.AUTH_TYPE_MAPS.pop(f"s3v4-datafetch-{id(clock)}", None)
