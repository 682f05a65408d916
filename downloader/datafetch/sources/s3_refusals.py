"""What S3's and STS's refusals mean, by their codes. Pure, without any SDK."""

import re

from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.transport import Refusal, classify
from datafetch.transport.refusals import retry_after

_REJECTED = frozenset(
    {
        "AccessDenied", "AllAccessDisabled", "AccountProblem", "ExpiredToken", "ExpiredTokenException",
        "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity", "InvalidToken", "NotSignedUp",
        "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "UnauthorizedAccess",
        "XAdminUserNotFound",  # versitygw's answer to an unknown access key, with status 404
    }
)  # fmt: skip
_THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"})
_WRONG_REGION = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


def classify_s3(refusal: Refusal) -> DataFetchError:
    """Return the error that S3's code stands for; where it has none, the status decides."""
    code = refusal.code
    place = f"{refusal.url} answered {refusal.answer}"
    if code in _REJECTED or code.startswith("KMS."):
        return CredentialsRejectedError(f"{place}; check the keys and what they may read")
    if code == "NoSuchBucket":
        return SourceNotFoundError(f"{place}; check the bucket's name and the endpoint")
    if code == "NoSuchVersion":
        return SourceNotFoundError(f"{place}; check the version")
    if code in _WRONG_REGION or refusal.status in (301, 307):
        region = refusal.headers.get("x-amz-bucket-region")
        return InvalidConfigError(
            f"{place}; set region to {region!r}" if region else f"{place}; set the bucket's region and endpoint"
        )
    if code in _THROTTLED:
        wait = retry_after(refusal.headers.get("retry-after"))
        return SourceUnavailableError(f"{place}: it asks for fewer requests", retry_after=wait, throttled=True)
    if code == "InvalidObjectState":
        return archived(place)
    if code == "InvalidBucketName":
        return InvalidConfigError(f"{place}; check the bucket's name")
    if refusal.status == 400 and not refusal.message:
        # The answer to a HEAD has no body that could say more.
        return InvalidConfigError(f"{place}; check the bucket's region and the endpoint")
    return classify(refusal)


def archived(place: str, storage_class: str = "") -> SourceNotFoundError:
    """Return that an object is there and cannot be read: no retry brings it, somebody has to restore it."""
    named = f" ({storage_class})" if storage_class else ""
    return SourceNotFoundError(
        f"{place}: the object is archived{named}; restore it first (aws s3api restore-object), or leave it out by "
        "exclude"
    )


def classify_sts(status: int, answer: str, what: str) -> DataFetchError:
    """Return what it means that the token service gives no keys for a role."""
    if status >= 500:
        return SourceUnavailableError(f"{what}: the token service (STS) answered {answer}")
    return CredentialsRejectedError(
        f"{what}: the token service (STS) gives no keys for the role: {answer}; check the role and its trust policy, "
        "and that the service account is the one that it names"
    )


def agent_failed(what: str, message: str) -> DataFetchError:
    """Return what it means that the agent of EKS Pod Identity gives no keys: it refuses, or it is not there yet."""
    if re.search(r"non 200 response 4\d\d", message):
        return CredentialsRejectedError(
            f"{what}: {message}; check the pod identity association of the service account, and its role"
        )
    return SourceUnavailableError(f"{what}: {message}")
