"""The reasons in conditions, events and `status.reason` that the operator gives: each one is defined here, once.

Those of a run that failed come from the downloader's exit codes (`datafetch_api.exit_codes`) and stand beside these.
"""

from enum import StrEnum


class Reason(StrEnum):
    """A reason in CamelCase. `docs/operator.md` says which condition gives which."""

    # Accepted
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    TARGET_CONFLICT = "TargetConflict"

    # TargetReady
    CLAIM_BOUND = "ClaimBound"
    CLAIM_NOT_GROWN = "ClaimNotGrown"
    CLAIM_PENDING = "ClaimPending"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    CLAIM_REJECTED = "ClaimRejected"
    CLAIM_TERMINATING = "ClaimTerminating"
    CLAIM_LOST = "ClaimLost"

    # Ready and UpToDate
    PUBLISHED = "Published"
    NOT_PUBLISHED = "NotPublished"
    CLAIM_REPLACED = "ClaimReplaced"
    CURRENT = "Current"
    SPEC_CHANGED = "SpecChanged"
    TRIGGER_PENDING = "TriggerPending"
    DRIFTED = "Drifted"

    # Progressing, status True
    QUEUED = "Queued"
    STARTING = "Starting"
    TARGET_LOCKED = "TargetLocked"
    LISTING = "Listing"
    FETCHING = "Fetching"
    PUBLISHING = "Publishing"
    RETRYING = "Retrying"
    FINISHING = "Finishing"

    # Progressing, status False: something has to change before it goes on; it then goes on by itself
    STALLED = "Stalled"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason, not a password
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    VOLUME_MOUNT_FAILED = "VolumeMountFailed"
    VOLUME_ATTACH_FAILED = "VolumeAttachFailed"
    SANDBOX_FAILED = "SandboxFailed"
    POD_NOT_GONE = "PodNotGone"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_VIOLATION = "PodSecurityViolation"
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    POD_CREATION_FAILED = "PodCreationFailed"
    JOB_REJECTED = "JobRejected"
    CLAIM_IN_USE = "ClaimInUse"

    # Progressing, status False: at rest
    COMPLETED = "Completed"
    SUSPENDED = "Suspended"
    ATTEMPT_FAILED = "AttemptFailed"
    TARGET_NOT_READY = "TargetNotReady"
    NOT_ACCEPTED = "NotAccepted"

    # Failed, where the container or the Job says it and not an exit code
    NOT_FAILED = "NotFailed"
    OUT_OF_MEMORY = "OOMKilled"
    EVICTED = "Evicted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CONTAINER_FAILED = "ContainerFailed"
    RESULT_MISSING = "ResultMissing"

    # status.reason of a resource without a target
    RECIPE = "Recipe"

    # Events only
    CLAIM_CREATED = "ClaimCreated"
    CLAIM_GROWN = "ClaimGrown"
    FETCH_STARTED = "FetchStarted"
    FETCH_RETRYING = "FetchRetrying"
    FETCH_COMPLETED = "FetchCompleted"
    FETCH_FAILED = "FetchFailed"
    RESUMED = "Resumed"
    DRIFT_CHECK_FAILED = "DriftCheckFailed"

    # Events on pods that ask for data
    WAITING_FOR_DATA = "WaitingForData"
    DATA_NOT_COMING = "DataNotComing"
    DATA_READY = "DataReady"
    DOWNLOAD_FAILED = "DownloadFailed"
    GATE_NOT_REMOVED = "GateNotRemoved"


RUNNING = frozenset({Reason.TARGET_LOCKED, Reason.LISTING, Reason.FETCHING, Reason.STALLED, Reason.PUBLISHING})
"""Reasons of Progressing that only a running downloader gives."""

BLOCKED = frozenset(
    {
        Reason.STALLED,
        Reason.SECRET_NOT_FOUND,
        Reason.CONFIG_MAP_NOT_FOUND,
        Reason.UNSCHEDULABLE,
        Reason.IMAGE_PULL_FAILED,
        Reason.CONTAINER_CONFIG_ERROR,
        Reason.VOLUME_MOUNT_FAILED,
        Reason.VOLUME_ATTACH_FAILED,
        Reason.SANDBOX_FAILED,
        Reason.POD_NOT_GONE,
        Reason.QUOTA_EXCEEDED,
        Reason.POD_SECURITY_VIOLATION,
        Reason.SERVICE_ACCOUNT_NOT_FOUND,
        Reason.POD_CREATION_FAILED,
        Reason.JOB_REJECTED,
        Reason.CLAIM_IN_USE,
    }
)
"""Reasons of Progressing=False that ask somebody to do something."""
