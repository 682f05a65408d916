"""S3 and compatible servers: botocore finds credentials, endpoint and objects; the bytes go over `transport`.

Each range is a GET pinned by If-Match. Signing is `sigv4`'s business, reading what S3 answers `s3_answers`', selections
are `selection`'s.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import botocore.handlers
import botocore.session
from botocore import UNSIGNED
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
from datafetch.sources import ByteRange, Checksum, Entry, HttpAccess
from datafetch.sources.ranges import open_range, quote_key
from datafetch.sources.retries import while_throttled, with_renewal
from datafetch.sources.s3_answers import entry_of, parse_page, promised_checksum
from datafetch.sources.selection import present_state, select_in_buckets
from datafetch.sources.sigv4 import Signer
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.pool import CONNECT_SECONDS, ca_bundle
from datafetch.transport.refusals import retry_after
from datafetch_api.config import S3Item

_DEFAULT_REGION = "us-east-1"
_TRIES = 5
_CHECKSUM_MODE = (("x-amz-checksum-mode", "ENABLED"),)
"""Asks for the checksum of an object in its answer's head."""
_LARGE_BYTES = 8 << 20
"""From here on, what a request for the checksum costs is nothing beside the object."""
_MOST_PROMISES = 1024
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
_NEXT_TOKEN = "NextContinuationToken"  # noqa: S105 - a place in a listing
_LISTED = "DataFetchEntries"
"""Under this name our reading of a listing's page stands in botocore's."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a bucket's objects are, as botocore resolved it, and who signs requests to it."""

    url: str
    """Without a trailing slash."""
    host: str
    """As it stands in the Host header."""
    path: str
    """The URL's path: what comes before the key."""
    region: str
    service: str
    signer: Signer

    @classmethod
    def of(cls, url: str, region: str, service: str) -> "_Place":
        """Return the place of a URL."""
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if parts.port not in (None, 443 if parts.scheme == "https" else 80):
            host = f"{host}:{parts.port}"
        return cls(url, host, parts.path, region, service, Signer(region, service))


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
        self._read_pages()
        self._places: dict[str, _Place] = {}
        self._promises = _Promises()
        self._credentials: Any = None
        self._known_keys: ReadOnlyCredentials | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
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
        return "CRC or SHA of objects that have one, else MD5 of those uploaded in one part"

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
            if not self._item.anonymous:
                # Known from here on as secrets, also those that botocore found: an answer may repeat them.
                self._freeze_keys(f"bucket {self._item.items[0].bucket!r}")
            yield from select_in_buckets(groups, "bucket", self._find, self._scan)
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the object, once more with new keys where the files were rotated meanwhile."""
        ask = partial(self._open, entry, byte_range)
        return with_renewal(ask, self._renew, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:
        """Return the signed GET of a range of the object; a whole one is asked for with its checksum."""
        signed = () if byte_range.start or byte_range.end not in (None, entry.size) else _CHECKSUM_MODE
        return self._request(entry, signed, "GET")

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return the checksum in the answer's head, else the listing's, unless the answer says that it is none."""
        return promised_checksum(entry, headers)

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        return present_state(entry, self._find(*self._split_key(entry.key)))

    def close(self) -> None:
        """Release connections, and stop waiting to ask again."""
        self._closed.set()
        self._transport.close()
        self._client.close()

    def _open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        body = open_range(self, entry, byte_range)
        is_part = byte_range.start or byte_range.end not in (None, entry.size)
        if is_part and (entry.checksum is None or (entry.size or 0) >= _LARGE_BYTES):
            # S3 gives the object's checksum with the whole object only, and to HEAD.
            try:
                promised = self._promises.get(entry, self._ask_promise)
            except BaseException:
                body.__exit__(None, None, None)
                raise
            body.checksum = promised or body.checksum
        return body

    def _ask_promise(self, entry: Entry) -> Checksum | None:
        """Return what a HEAD says of the object's checksum.

        Raises SourceUnavailableError; a server that refuses the question has no answer to it.
        """
        request, pin = self._request(entry, _CHECKSUM_MODE, "HEAD")
        answer = self._transport.ask(request)
        if isinstance(answer.error, SourceUnavailableError) and answer.status != 501:
            raise answer.error
        if answer.error is not None or any(answer.headers.get(name) != value for name, value in pin.headers.items()):
            return None
        return promised_checksum(entry, answer.headers)

    def _request(self, entry: Entry, signed: tuple[tuple[str, str], ...], method: str) -> tuple[Request, Pin]:
        bucket, key = self._split_key(entry.key)
        place = self._places.get(bucket) or self._resolve(bucket)
        quoted = quote_key(key)
        credentials: dict[str, str] = {}
        if not self._item.anonymous:
            keys = self._freeze_keys(entry.key)
            credentials = place.signer.sign(keys, place.host, f"{place.path}/{quoted}", headers=signed, method=method)
        headers = dict(signed)
        etag = entry.identity.removeprefix("etag:")
        if not etag:
            return Request(f"{place.url}/{quoted}", headers, credentials, method), Pin(entry.size)
        headers["If-Match"] = etag
        return Request(f"{place.url}/{quoted}", headers, credentials, method), Pin(entry.size, {"etag": etag})

    def _renew(self) -> bool:
        return self._file_credentials is not None and self._file_credentials.refresh()

    def _freeze_keys(self, what: str) -> ReadOnlyCredentials:
        """Return the keys of this moment."""
        try:
            keys: ReadOnlyCredentials = (self._credentials or self._load_credentials()).get_frozen_credentials()
        except BotoCoreError as error:
            raise self._from_sdk(error, what) from None
        if keys is not self._known_keys:
            self._known_keys = keys
            self._secrets.add(keys.secret_key)
            if keys.token:
                self._secrets.add(keys.token)
        return keys

    def _load_credentials(self) -> Any:  # noqa: ANN401 - botocore has no types
        with self._lock:
            if self._credentials is None:
                self._credentials = self._session.get_credentials()
            if self._credentials is None:
                raise NoCredentialsError
            return self._credentials

    def _find(self, bucket: str, key: str) -> Entry | None:
        return while_throttled(partial(self._find_once, bucket, key), self._closed)

    def _find_once(self, bucket: str, key: str) -> Entry | None:
        try:
            found = self._client.head_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            if not isinstance(error, ClientError):
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
            self._explain_missing(bucket, key, error)
            return None
        return entry_of(key, found["ContentLength"], found["ETag"], found.get("LastModified"))

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
        following: dict[str, str] | None = {}
        while following is not None:
            page = while_throttled(partial(self._list_page, bucket, prefix, following), self._closed)
            yield from page[_LISTED]
            token = page.get(_NEXT_TOKEN)
            following = {"ContinuationToken": token} if token else None

    def _list_page(self, bucket: str, prefix: str, following: Mapping[str, str]) -> dict[str, Any]:
        try:
            page: dict[str, Any] = self._client.list_objects_v2(Bucket=bucket, Prefix=prefix, **following)
        except (BotoCoreError, ClientError) as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        return page

    def _resolve(self, bucket: str) -> _Place:
        """Return where a bucket is that this process has not listed: signing any request for it tells."""
        try:
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except (BotoCoreError, ClientError) as error:
            if bucket not in self._places:
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
        return self._places[bucket]

    def _read_pages(self) -> None:
        """Have the pages of listings read by `_read_page` alone."""
        events = self._client.meta.events
        events.register_last("before-parse.s3.ListObjectsV2", _read_page)
        # It parses every page only to see whether it is an error under status 200, which `_read_page` sees as well.
        also = getattr(botocore.handlers, "_handle_200_error", None)
        if also is not None:
            events.unregister("before-parse.s3.*", also)

    def _remember_place(self, request: AWSRequest, operation_name: str, **context: object) -> None:
        bucket = request.context.get("s3_redirect", {}).get("bucket")
        url = request.url.partition("?")[0]
        if operation_name == "HeadObject":
            suffix = "/" + quote_key(request.context["s3_redirect"]["params"]["Key"])
            if not url.endswith(suffix):
                return
            url = url.removesuffix(suffix)
        elif operation_name != "ListObjectsV2":
            return
        signing = request.context.get("signing", {})
        url = url.rstrip("/")
        region = str(signing.get("region") or context.get("region_name"))
        service = str(signing.get("signing_name") or context.get("signing_name"))
        known = self._places.get(bucket)
        if known is None or (known.url, known.region, known.service) != (url, region, service):
            self._places[bucket] = _Place.of(url, region, service)

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


class _Promises:
    """What a HEAD has told of large objects, the latest ones, each asked for once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: OrderedDict[tuple[str, str], Future[Checksum | None]] = OrderedDict()

    def get(self, entry: Entry, ask: Callable[[Entry], Checksum | None]) -> Checksum | None:
        """Return what `ask` returned or returns; who comes while another one asks waits for that answer."""
        place = (entry.key, entry.identity)
        with self._lock:
            known = self._asked.get(place)
            if known is None:
                mine = self._asked[place] = Future()
                if len(self._asked) > _MOST_PROMISES:
                    self._asked.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            mine.set_result(ask(entry))
        except BaseException as error:  # noqa: BLE001 - raised again below, and to those that wait
            with self._lock:
                self._asked.pop(place, None)
            mine.set_exception(error)
        return mine.result()


def _read_page(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Read a listing's page in place of botocore, which is left with the errors."""
    if response_dict["status_code"] != 200:
        return
    page = parse_page(response_dict["body"])
    if page is None:
        # An error under status 200, or half a page: botocore asks again after a 500.
        response_dict["status_code"] = 500
        return
    response_dict["body"] = b"<ListBucketResult/>"
    customized_response_dict[_LISTED] = page.entries
    customized_response_dict["IsTruncated"] = page.next_token is not None
    if page.next_token is not None:
        customized_response_dict[_NEXT_TOKEN] = page.next_token


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
