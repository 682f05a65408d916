"""S3 and compatible servers: botocore finds credentials, endpoint and objects; the bytes go over `transport`.

Each range is a GET signed with Signature Version 4 and pinned by If-Match. Selections are `selection`'s business.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import botocore.session
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import CredentialResolver, ReadOnlyCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.ranges import open_range
from datafetch.sources.retries import with_renewal
from datafetch.sources.selection import present_state, select_in_buckets
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.pool import CONNECT_SECONDS, ca_bundle
from datafetch.transport.refusals import retry_after
from datafetch_api.config import S3Item
from datafetch_api.uris import redact_uri

_DEFAULT_REGION = "us-east-1"
_TRIES = 5
_UNRESERVED = "/-._~"
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_ACCESS_KEYS = ("AWS_ACCESS_KEY_ID", "access_key_id")
_SECRET_KEYS = ("AWS_SECRET_ACCESS_KEY", "secret_key", "secret_access_key")
_SESSION_TOKENS = ("AWS_SESSION_TOKEN", "session_token")
_RECHECK_SECONDS = 5.0
"""How often credential files are looked at for a change."""

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
_ENCRYPTED_ETAGS = frozenset({"aws:kms", "aws:kms:dsse"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a bucket's objects are, as botocore resolved it, and how requests to it are signed."""

    url: str
    """Without a trailing slash."""
    region: str
    service: str


class S3Source:
    """One `s3` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: S3Item, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._session = botocore.session.get_session()
        keys = None if item.anonymous else _FileCredentials(item, files)
        self._file_credentials = keys if keys is not None and keys.exist else None
        if self._file_credentials is not None:
            resolver = CredentialResolver([_FileProvider(self._file_credentials)])
            self._session.register_component("credential_provider", resolver)
        endpoint = item.endpoint_url or files.value(
            "endpoint_url_file", item.endpoint_url_file, "endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",
            secret=False,
        )  # fmt: skip
        region = item.region or files.value("region", None, "region", "AWS_REGION", "AWS_DEFAULT_REGION", secret=False)
        ca_file = files.path("ca.crt")
        try:
            self._client = self._make_client(endpoint, region, ca_file, stall_timeout)
        except (BotoCoreError, ValueError) as error:
            raise self._from_sdk(error, "the settings cannot work").at(item.name) from None
        # Where a bucket is, botocore knows once it has signed a request for it, redirects to its region included.
        self._client.meta.events.register_last("before-sign.s3", self._remember_place)
        self._places: dict[str, _Place] = {}
        self._credentials: Any = None
        self._lock = threading.Lock()
        self._transport = Transport(
            stall_timeout=stall_timeout,
            secrets=self._secrets,
            ca_file=ca_file,
            stored_encodings=True,
            classify=_classify,
        )

    @property
    def name(self) -> str:
        """The item's name."""
        return self._item.name

    @property
    def resolved_revision(self) -> str | None:
        """None: a bucket has no revisions."""
        return None

    @property
    def verifies(self) -> str:
        """What is verified of each object beside its size."""
        return "MD5 of objects uploaded in one part, ETag of the others"

    @property
    def http(self) -> HttpAccess:
        """The source itself: its bytes come by plain HTTP requests."""
        return self

    @property
    def transport(self) -> Transport:
        """The source's data plane."""
        return self._transport

    def list(self) -> Iterator[Entry]:
        """Yield the objects of every bucket that the selections take."""
        groups = ((group.bucket, group.items) for group in self._item.items)
        try:
            for bucket in (items.bucket for items in self._item.items):
                _refuse_directory_bucket(bucket)
            yield from select_in_buckets(groups, "bucket", self._find, self._scan)
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the object, once more with new keys where the files were rotated meanwhile."""
        ask = partial(open_range, self, entry, byte_range)
        return with_renewal(ask, self._renew, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the signed GET of a range of the object."""
        bucket, key = self._split_key(entry.key)
        place = self._places.get(bucket) or self._resolve(bucket)
        url = f"{place.url}/{quote(key, safe=_UNRESERVED)}"
        etag = entry.identity.removeprefix("etag:")
        request = Request(url, {"If-Match": etag} if etag else {}, self._sign(url, place))
        return request, Pin(entry.size, {"etag": etag} if etag else {})

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return the checksum that the listing named, unless the answer says that it is none."""
        # The ETag of an object that S3 encrypts with a key of KMS or the caller's is no MD5 of its content
        # (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html), and only the answer tells which one it is.
        if headers.get("x-amz-server-side-encryption") in _ENCRYPTED_ETAGS:
            return None
        return None if "x-amz-server-side-encryption-customer-algorithm" in headers else entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        return present_state(entry, self._find(*self._split_key(entry.key)))

    def close(self) -> None:
        """Release connections."""
        self._transport.close()
        self._client.close()

    def _renew(self) -> bool:
        return self._file_credentials is not None and self._file_credentials.refresh()

    def _sign(self, url: str, place: _Place) -> dict[str, str]:
        """Return the headers that sign a GET of the URL; none for anonymous access."""
        if self._item.anonymous:
            return {}
        try:
            frozen = self._load_credentials().get_frozen_credentials()
        except BotoCoreError as error:
            raise self._from_sdk(error, redact_uri(url)) from None
        self._secrets.add(frozen.secret_key)
        if frozen.token:
            self._secrets.add(frozen.token)
        request = AWSRequest("GET", url)
        S3SigV4Auth(frozen, place.service, place.region).add_auth(request)
        return dict(request.headers)

    def _load_credentials(self) -> Any:  # noqa: ANN401 - botocore has no types
        with self._lock:
            if self._credentials is None:
                self._credentials = self._session.get_credentials()
            if self._credentials is None:
                raise NoCredentialsError
            return self._credentials

    def _find(self, bucket: str, key: str) -> Entry | None:
        try:
            found = self._client.head_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            if not isinstance(error, ClientError):
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
            self._explain_missing(bucket, key, error)
            return None
        return _entry(key, found["ContentLength"], found["ETag"])

    def _explain_missing(self, bucket: str, key: str, refused: ClientError) -> None:
        """Raise what the bucket says of a refused HEAD, unless it answers and only the object is missing.

        An answer to HEAD has no body, and so no code: a listing's has.
        """
        try:
            self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        except BotoCoreError as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        except ClientError as error:
            # Who may read but not list gets 403 from both, or 404 from the first: that one counts.
            if _status(refused) != 404 or error.response["Error"].get("Code") != "AccessDenied":
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
            return
        if _status(refused) != 404:
            raise self._from_sdk(refused, f"{key!r} in bucket {bucket!r}") from None

    def _scan(self, bucket: str, prefix: str) -> Iterator[Entry]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        try:
            for page in pages:
                for found in page.get("Contents", ()):
                    yield _entry(found["Key"], found["Size"], found["ETag"])
        except (BotoCoreError, ClientError) as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None

    def _resolve(self, bucket: str) -> _Place:
        """Return where a bucket is that this process has not listed: signing any request for it tells."""
        try:
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            if bucket not in self._places:
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
        return self._places[bucket]

    def _remember_place(self, request: AWSRequest, operation_name: str, **context: object) -> None:
        bucket = request.context.get("s3_redirect", {}).get("bucket")
        url = request.url.partition("?")[0]
        if operation_name == "HeadObject":
            suffix = "/" + quote(request.context["s3_redirect"]["params"]["Key"], safe=_UNRESERVED)
            if not url.endswith(suffix):
                return
            url = url.removesuffix(suffix)
        elif operation_name != "ListObjectsV2":
            return
        signing = request.context.get("signing", {})
        self._places[bucket] = _Place(
            url=url.rstrip("/"),
            region=str(signing.get("region") or context.get("region_name")),
            service=str(signing.get("signing_name") or context.get("signing_name")),
        )

    def _split_key(self, key: str) -> tuple[str, str]:
        """Return bucket and key. A bucket may be given as an ARN, which holds slashes itself."""
        for items in self._item.items:
            if key.startswith(items.bucket + "/"):
                return items.bucket, key[len(items.bucket) + 1 :]
        raise SourceNotFoundError("this object is of no bucket that the source names", key=key)

    def _make_client(self, endpoint: str | None, region: str | None, ca_file: str | None, stall_timeout: float) -> Any:  # noqa: ANN401 - botocore has no types
        region = region or self._session.get_config_variable("region") or os.environ.get("AWS_REGION")
        settings = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": stall_timeout,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
            "s3": {"addressing_style": self._item.addressing_style},
            # Servers that are compatible with S3 of some years ago know no newer checksums.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        if self._item.anonymous:
            settings["signature_version"] = UNSIGNED
        return self._session.create_client(
            "s3",
            region_name=region or _DEFAULT_REGION,
            endpoint_url=endpoint,
            verify=ca_file or ca_bundle(),
            config=Config(**settings),
        )

    def _from_sdk(self, error: Exception, what: str) -> DataFetchError:
        """Return our error for one of botocore's. `what` says what was asked for."""
        message = self._secrets.redact(str(error))
        match error:
            case ClientError():
                detail = error.response.get("Error", {})
                metadata = error.response.get("ResponseMetadata", {})
                redact = self._secrets.redact
                code, text = redact(str(detail.get("Code", ""))), redact(str(detail.get("Message", "")).rstrip("."))
                return _classify(Refusal(_status(error), "", what, metadata.get("HTTPHeaders", {}), code, text))
            case NoCredentialsError():
                return CredentialsRejectedError(
                    f"{what}: no credentials found; name access_key_id_file and secret_key_file, or set anonymous: "
                    "true where the bucket is public"
                )
            case PartialCredentialsError() | CredentialRetrievalError() | TokenRetrievalError():
                return CredentialsRejectedError(f"{what}: {message}")
            case SSLError():
                return InvalidConfigError(
                    f"{what}: {message}; name the server's CA in AWS_CA_BUNDLE, or as ca.crt among the credentials"
                )
            case BotoConnectionError() | HTTPClientError():
                return SourceUnavailableError(f"{what} cannot be reached: {message}")
            case _:
                return InvalidConfigError(f"{what}: {message}")


class _FileCredentials:
    """Keys in files, in the shape of botocore's credentials; read again when the files change. Thread-safe."""

    method = "datafetch-files"
    account_id = None

    def __init__(self, item: S3Item, files: CredentialFiles) -> None:
        self._item = item
        self._files = files
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._frozen = self._read()

    @property
    def exist(self) -> bool:
        """Whether the item has keys in files at all; else the SDK's own chain is asked."""
        return self._frozen is not None

    def refresh(self) -> bool:
        """Read the files again; return whether the keys are others now."""
        with self._lock:
            before = self._frozen
            if self._files.has_changed():
                self._frozen = self._read()
            return self._frozen != before

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys of this moment."""
        if time.monotonic() - self._looked > _RECHECK_SECONDS:
            self._looked = time.monotonic()
            self.refresh()
        if self._frozen is None:
            raise NoCredentialsError
        return self._frozen

    def get_deferred_property(self, name: str) -> Callable[[], str | None]:
        """Return a function that returns one of the keys, as botocore's endpoint rules ask for it."""
        return lambda: getattr(self.get_frozen_credentials(), name)

    def _read(self) -> ReadOnlyCredentials | None:
        item, value = self._item, self._files.value
        access_key = value("access_key_id_file", item.access_key_id_file, *_ACCESS_KEYS, secret=False)
        secret_key = value("secret_key_file", item.secret_key_file, *_SECRET_KEYS)
        token = value("session_token_file", item.session_token_file, *_SESSION_TOKENS)
        if access_key is None and secret_key is None:
            return None
        if access_key is None or secret_key is None:
            missing = _ACCESS_KEYS[0] if access_key is None else _SECRET_KEYS[0]
            raise InvalidConfigError(f"credentials_dir: {missing} is missing beside the other key", source=item.name)
        return ReadOnlyCredentials(access_key, secret_key, token)


class _FileProvider:
    """Gives botocore the keys in files in place of its own chain."""

    METHOD = "datafetch-files"
    CANONICAL_NAME = None

    def __init__(self, credentials: _FileCredentials) -> None:
        self._credentials = credentials

    def load(self) -> _FileCredentials:
        return self._credentials


def _entry(key: str, size: int, etag: str) -> Entry:
    md5 = _MD5.fullmatch(etag)
    checksum = Checksum(ChecksumAlgorithm.MD5, md5[1]) if md5 else None
    return Entry(key, "", size, f"etag:{etag}" if etag.strip('"') else "", checksum)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refuse_directory_bucket(bucket: str) -> None:
    if bucket.endswith("--x-s3"):
        raise InvalidConfigError(
            f"bucket {bucket!r} is a directory bucket (S3 Express One Zone), which is not supported; "
            "copy the data to a general purpose bucket"
        )


def _classify(refusal: Refusal) -> DataFetchError:
    """Return the error that S3's code stands for; where it has none, the status decides."""
    code = refusal.code
    place = f"{refusal.url} answered {refusal.answer}"
    if code in _REJECTED or code.startswith("KMS."):
        return CredentialsRejectedError(f"{place}; check the keys and what they may read")
    if code == "NoSuchBucket":
        return SourceNotFoundError(f"{place}; check the bucket's name and the endpoint")
    if code in _WRONG_REGION or refusal.status in (301, 307):
        region = refusal.headers.get("x-amz-bucket-region")
        return InvalidConfigError(
            f"{place}; set region to {region!r}" if region else f"{place}; set the bucket's region and endpoint"
        )
    if code in _THROTTLED:
        wait = retry_after(refusal.headers.get("retry-after"))
        return SourceUnavailableError(f"{place}: it asks for fewer requests", retry_after=wait, throttled=True)
    if code == "InvalidObjectState":
        return SourceNotFoundError(f"{place}: the object is archived; restore it first")
    if code == "InvalidBucketName":
        return InvalidConfigError(f"{place}; check the bucket's name")
    return classify(refusal)
