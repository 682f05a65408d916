"""What can go wrong in the operator: one tree, each error a sentence.

OperatorError
├── SettingsError            the environment holds a value that cannot be used: the process ends
├── ActionRefusedError       the API server refuses what a user asked for: the status tells it
├── LeadershipLostError      somebody else leads now, or may do so: the process ends
└── ApiError                 the Kubernetes API answered with an error
    ├── ConflictError        409: somebody else was faster; read again
    ├── NotFoundError        404
    └── RefusedError         400, 403, 413 or 422: refused again and again until somebody changes something
"""

from typing import Literal

Action = Literal["create claim", "grow claim", "start", "check"]
"""What the API server may refuse because of what a user wrote, or may not have."""


class OperatorError(Exception):
    """Any error that this package raises on purpose."""


class SettingsError(OperatorError):
    """A setting is missing or cannot be used; the message names its variable."""


class ActionRefusedError(OperatorError):
    """The API server refuses a part of a decision; the message is its own sentence."""

    def __init__(self, action: Action, message: str) -> None:
        super().__init__(f"{action}: {message}")
        self.action = action
        self.message = message


class LeadershipLostError(OperatorError):
    """Somebody else leads now, or may do so: nothing may be written any more, and this process ends."""


class ApiError(OperatorError):
    """The Kubernetes API answered with an error. Retried with backoff unless a subclass says otherwise."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"the Kubernetes API answered {status} {reason}: {message}")
        self.status = status
        """HTTP status."""
        self.reason = reason
        """The API's reason, for example `AlreadyExists`."""
        self.message = message
        """The API's own sentence."""


class ConflictError(ApiError):
    """409: the object changed since it was read, or exists already."""


class NotFoundError(ApiError):
    """404: the object, or the kind, is not there."""


class RefusedError(ApiError):
    """The request is understood and refused: a quota, an admission policy, an invalid field."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    409: ConflictError,
    413: RefusedError,
    422: RefusedError,
}


def api_error(status: int, reason: str, message: str) -> ApiError:
    """Return the error for an HTTP status of 400 or above."""
    return _BY_STATUS.get(status, ApiError)(status, reason, message)
