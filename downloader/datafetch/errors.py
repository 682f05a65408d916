"""The errors of the downloader: one tree, one exit code each.

    DataFetchError                      what happened, to which source and key, and what to do
    +-- InvalidConfigError              2   the config or the command line
    +-- CredentialsRejectedError       10
    +-- SourceNotFoundError            11   missing, or nothing matched
    |   +-- ObjectNotFoundError             the same for who reads in Python: also a FileNotFoundError
    +-- IntegrityMismatchError         12   what arrived is not what the source promised
    |   +-- TimestampSpreadError            the files were written further apart than is allowed
    +-- InsufficientSpaceError         13
    +-- SourceUnavailableError         14   after the retries; `retry_after` in seconds where the server said so
    |   +-- StalledError               15
    +-- TargetNotWritableError         16
    +-- SourceChangedError             17   the object is another one than the listing named
    +-- UnsafePathError                18
    +-- TargetOccupiedError            19
    +-- InternalError                  70
    +-- InterruptedByRequestError     143
    +-- StillRunningError             143   who waits in Python has waited long enough: also a TimeoutError

`retryable` says whether the same range may be asked for again, in this run and by the next attempt. Keys and texts of
servers end up in messages: they are bounded here, and what is secret in them is hidden, whoever shows the error.
"""

from typing import ClassVar

from datafetch.redaction import redacted, shortened
from datafetch_api.exit_codes import ExitCode
from datafetch_api.printable import single_line
from datafetch_api.report import Failure

_MESSAGE_CHARACTERS = 4000
"""A sentence with two keys of S3 in it, each of 1,024 bytes, fits."""
_KEY_CHARACTERS = 1100


class DataFetchError(Exception):
    """An error with an exit code, and one sentence for people: what, where, what to do."""

    code: ClassVar[ExitCode] = ExitCode.INTERNAL_ERROR

    def __init__(self, message: str, *, source: str | None = None, key: str | None = None) -> None:
        message = shortened(redacted(message), _MESSAGE_CHARACTERS)
        super().__init__(message)
        self.message = message
        self.source = source
        self.key = key

    @property
    def retryable(self) -> bool:
        """Whether another try may succeed without anybody changing anything."""
        return self.code.retryable

    def at(self, source: str, key: str | None = None) -> "DataFetchError":
        """Return this error with the source and key filled in where they are missing."""
        self.source = self.source or source
        self.key = self.key or key
        return self

    def __str__(self) -> str:
        """Name the place before the message, unless the message does."""
        place = f"source {self.source!r}" if self.source else ""
        key = _shown(self.key or "")
        # The message may have a long key cut short.
        if key and not any(form[:200] in self.message for form in (key, repr(key)[1:-1])):
            place += f", {key!r}" if place else repr(key)
        return f"{place}: {self.message}" if place else self.message

    def to_failure(self) -> Failure:
        """Return the error as it stands in the result."""
        return Failure(
            reason=self.code.reason,
            message=str(self),
            retryable=self.retryable,
            source=self.source,
            key=None if self.key is None else single_line(_shown(self.key)),
        )


def _shown(key: str) -> str:
    """Return a key as messages show it."""
    return shortened(redacted(key), _KEY_CHARACTERS)


class InvalidConfigError(DataFetchError):
    """The config or the command line cannot be used; the message names the place in the file."""

    code = ExitCode.INVALID_CONFIG


class CredentialsRejectedError(DataFetchError):
    """The source refused the credentials, or there were none and it asks for some."""

    code = ExitCode.CREDENTIALS_REJECTED


class SourceNotFoundError(DataFetchError):
    """The bucket, repository or object is missing, or nothing matched."""

    code = ExitCode.SOURCE_NOT_FOUND


class ObjectNotFoundError(SourceNotFoundError, FileNotFoundError):
    """The same, where Python's own functions on files would say so: `open`, `stat`, and a data set without files."""


class IntegrityMismatchError(DataFetchError):
    """What arrived is not what the source promised."""

    code = ExitCode.INTEGRITY_MISMATCH


class TimestampSpreadError(IntegrityMismatchError):
    """The oldest and the newest file were written further apart than is allowed: they may not belong together."""


class InsufficientSpaceError(DataFetchError):
    """The volume is too small; the message names both numbers."""

    code = ExitCode.INSUFFICIENT_SPACE


class SourceUnavailableError(DataFetchError):
    """The network, throttling or a 5xx answer; worth another try."""

    code = ExitCode.SOURCE_UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        key: str | None = None,
        retry_after: float | None = None,
        throttled: bool = False,
    ) -> None:
        super().__init__(message, source=source, key=key)
        self.retry_after = retry_after
        """Seconds that the server asked to wait."""
        self.throttled = throttled
        """Whether the server asked for fewer requests (429, 503 SlowDown)."""


class StalledError(SourceUnavailableError):
    """No byte, or no data to wait for, arrived for the configured time."""

    code = ExitCode.STALLED


class TargetNotWritableError(DataFetchError):
    """The volume cannot be written; the message names uid, owner and mode."""

    code = ExitCode.TARGET_NOT_WRITABLE


class SourceChangedError(DataFetchError):
    """The object is another one than the listing named."""

    code = ExitCode.SOURCE_CHANGED


class UnsafePathError(DataFetchError):
    """A key would leave the target, collide with another, or cannot be a file name."""

    code = ExitCode.UNSAFE_PATH


class TargetOccupiedError(DataFetchError):
    """The target path holds something that is not ours."""

    code = ExitCode.TARGET_OCCUPIED


class InternalError(DataFetchError):
    """A defect of ours."""

    code = ExitCode.INTERNAL_ERROR


class InterruptedByRequestError(DataFetchError):
    """Stopped by a signal or by the caller; what was fetched is kept."""

    code = ExitCode.INTERRUPTED


class StillRunningError(DataFetchError, TimeoutError):
    """A fetch has not ended in the time that its caller waits for it. It goes on."""

    code = ExitCode.INTERRUPTED
