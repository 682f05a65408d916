"""What a server's refusal means: from status, code and headers to an error of ours. Pure."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnavailableError,
)

_MESSAGE_CHARACTERS = 300
_LONGEST_WAIT = 3600.0
"""Seconds; a server that asks for more gets asked again by the next attempt."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with a status of 400 or more, or one that cannot be used. All texts are redacted already."""

    status: int
    reason: str
    url: str
    headers: Mapping[str, str]
    code: str = ""
    """The provider's own code (`AccessDenied`), where the body or a header has one."""
    message: str = ""
    """The provider's own message."""

    @property
    def answer(self) -> str:
        """Status, code and message in one phrase."""
        what = f"{self.status} {self.code or self.reason}".strip()
        return f"{what}: {self.message}" if self.message else what


Classify = Callable[[Refusal], DataFetchError]


def classify(refusal: Refusal) -> DataFetchError:
    """Return the error that a status stands for, as HTTP has it (RFC 9110, section 15)."""
    place = f"{refusal.url} answered {refusal.answer}"
    match refusal.status:
        case 401:
            return CredentialsRejectedError(f"{place}; give credentials that it accepts")
        case 403 | 407:
            return CredentialsRejectedError(f"{place}; check the credentials and what they may read")
        case 404 | 410:
            return SourceNotFoundError(f"{place}; check the name")
        case 412 | 416:
            return SourceChangedError(f"{place}: the object is another one than the listing named; fetch it again")
        case 429 | 503:
            wait = retry_after(refusal.headers.get("retry-after"))
            return SourceUnavailableError(f"{place}: it asks for fewer requests", retry_after=wait, throttled=True)
        case 408 | 425:
            return SourceUnavailableError(place)
        case status if status >= 500:
            return SourceUnavailableError(place, retry_after=retry_after(refusal.headers.get("retry-after")))
        case _:
            return SourceUnavailableError(f"{place}; it cannot be fetched like this")


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a Retry-After header asks to wait: seconds or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
        return min(float(value), _LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(value).timestamp() - now()
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT)


def reason_of(error: BaseException) -> str | None:
    """Return the operating system's reason at the root of an SDK's network error (`Connection refused`), or None."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.strerror and cause.errno is not None:
            return cause.strerror
        if isinstance(cause, TimeoutError):
            return "timed out"
        # requests and urllib3 keep what happened in `reason` and among the arguments, not only as the cause.
        pending += [cause.__context__, cause.__cause__, getattr(cause, "reason", None), *cause.args]
    return None


def code_and_message(headers: Mapping[str, str], body: bytes) -> tuple[str, str]:
    """Return the provider's own code and message from an error body: XML of S3, GCS and Azure, JSON, or plain text."""
    header = headers.get("x-ms-error-code") or headers.get("x-error-code") or ""
    said = headers.get("x-error-message", "")
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        code, message = _from_json(text)
        return header or code, _shorten(said or message)
    code, message = _element(text, "Code"), _element(text, "Message")
    if not (code or message) and not re.search(r"<\w", text):
        message = text
    return header or code, _shorten(said or message)


def _from_json(text: str) -> tuple[str, str]:
    try:
        error = json.loads(text).get("error", {})
    except (ValueError, AttributeError):
        return "", ""
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    return "", str(error.get("message", ""))


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1].strip() if found else ""


def _shorten(message: str) -> str:
    """Return the message as one line that a sentence can go on after."""
    line = " ".join(message.split()).rstrip(".")
    return line if len(line) <= _MESSAGE_CHARACTERS else line[:_MESSAGE_CHARACTERS] + "..."
