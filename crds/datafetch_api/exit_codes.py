"""Exit codes of the downloader: one table, for its errors, the Job's podFailurePolicy and the docs."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """How a run of the downloader ended. Codes not listed here (1, 137) are retryable and named by the container."""

    COMPLETED = 0
    INVALID_CONFIG = 2
    CREDENTIALS_REJECTED = 10
    SOURCE_NOT_FOUND = 11
    INTEGRITY_MISMATCH = 12
    INSUFFICIENT_SPACE = 13
    SOURCE_UNAVAILABLE = 14
    STALLED = 15
    TARGET_NOT_WRITABLE = 16
    SOURCE_CHANGED = 17
    UNSAFE_PATH = 18
    TARGET_OCCUPIED = 19
    INTERNAL_ERROR = 70
    INTERRUPTED = 143

    @property
    def reason(self) -> str:
        """The CamelCase reason that stands in conditions, results and events."""
        return _TABLE[self].reason

    @property
    def retryable(self) -> bool:
        """Whether the same run may succeed later without anybody changing anything."""
        return _TABLE[self].retryable

    @property
    def meaning(self) -> str:
        """What the code says, for people."""
        return _TABLE[self].meaning


@dataclass(frozen=True, slots=True)
class _Row:
    reason: str
    retryable: bool
    meaning: str


_TABLE: dict[ExitCode, _Row] = {
    ExitCode.COMPLETED: _Row("Completed", False, "Everything asked for is in place."),
    ExitCode.INVALID_CONFIG: _Row("InvalidConfig", False, "The config or the command line cannot be used."),
    ExitCode.CREDENTIALS_REJECTED: _Row(
        "CredentialsRejected", False, "The source refused the credentials, or asks for some."
    ),
    ExitCode.SOURCE_NOT_FOUND: _Row(
        "SourceNotFound", False, "The bucket, repository or object is missing, or nothing matched."
    ),
    ExitCode.INTEGRITY_MISMATCH: _Row("IntegrityMismatch", True, "What arrived is not what the source promised."),
    ExitCode.INSUFFICIENT_SPACE: _Row("InsufficientSpace", False, "The volume is too small for the data."),
    ExitCode.SOURCE_UNAVAILABLE: _Row(
        "SourceUnavailable", True, "Network errors, throttling or 5xx answers outlasted the retries."
    ),
    ExitCode.STALLED: _Row("Stalled", True, "No byte, or no data to wait for, arrived for the configured time."),
    ExitCode.TARGET_NOT_WRITABLE: _Row("TargetNotWritable", False, "The volume cannot be written."),
    ExitCode.SOURCE_CHANGED: _Row("SourceChanged", True, "An object changed while it was being fetched."),
    ExitCode.UNSAFE_PATH: _Row(
        "UnsafePath", False, "A key would leave the target, collide with another, or cannot be a file name."
    ),
    ExitCode.TARGET_OCCUPIED: _Row("TargetOccupied", False, "The target path holds something that is not ours."),
    ExitCode.INTERNAL_ERROR: _Row("InternalError", True, "A defect in DataFetch."),
    ExitCode.INTERRUPTED: _Row("Interrupted", True, "Stopped by a signal; the next run resumes."),
}


def non_retryable() -> list[ExitCode]:
    """Return the codes after which a Job ends at once, ascending: no second attempt can help."""
    return [code for code in ExitCode if code is not ExitCode.COMPLETED and not code.retryable]
