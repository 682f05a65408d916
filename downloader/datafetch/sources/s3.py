"""S3 and compatible servers: botocore finds credentials, endpoint and objects; the bytes go over `transport`.

Each range is a GET pinned by If-Match, and by the version where one is asked for. Whose keys is `s3_credentials`'
business, signing `sigv4`'s, reading what S3 answers `s3_answers`' and `s3_refusals`', selections are `selection`'s.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.handlers
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
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
from datafetch.sources.s3_answers import archive_state, entry_of, parse_page, promised_checksum, version_and_etag
from datafetch.sources.s3_clock import ServerClock, correct_botocore, forget_botocore
from datafetch.sources.s3_credentials import open_session
from datafetch.sources.s3_refusals import agent_failed, classify_s3, classify_sts
from datafetch.sources.s3_refusals import archived as is_archived
from datafetch.sources.selection import object_key, present_state, select_in_buckets
from datafetch.sources.sigv4 import Headers, Signer
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport
from datafetch.transport.authorities import Authorities
from datafetch.transport.pool import CONNECT_SECONDS
from datafetch_api.config import S3Item, Selection

_DEFAULT_REGION = "us-east-1"
_TRIES = 5
_CHECKSUM_MODE = (("x-amz-checksum-mode", "ENABLED"),)
"""Asks for the checksum of an object in its answer's head."""
_PAYER = "requester"
_AGENT = "container-role"
"""botocore's name for the endpoint that EKS Pod Identity and ECS give a container."""
_LARGE_BYTES = 8 << 20
"""From here on, what a request for the checksum costs is nothing beside the object."""
_MOST_PROMISES = 1024
_NEXT_TOKEN = "NextContinuationToken"  # noqa: S105 - a place in a listing
_LISTED = "DataFetchEntries"
_ARCHIVED = "DataFetchArchived"
"""Under these names our reading of a listing's page stands in botocore's."""


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
    def of(cls, url: str, region: str, service: str, clock: ServerClock) -> "_Place":
        """Return the place of a URL."""
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if parts.port not in (None, 443 if parts.scheme == "https" else 80):
            host = f"{host}:{parts.port}"
        return cls(url, host, parts.path, region, service, Signer(region, service, clock=clock.now))


class S3Source:
    """One `s3` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: S3Item, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        endpoint = item.endpoint_url or files.value(
            "endpoint_url_file", item.endpoint_url_file, "endpoint", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",
            secret=False,
        )  # fmt: skip
        region = item.region or files.value("region", None, "region", "AWS_REGION", "AWS_DEFAULT_REGION", secret=False)
        try:
            self._session, self._file_keys = open_session(item, files)
            self._authorities = Authorities(
                files.authorities(item.ca_bundle_file) or self._session.get_config_variable("ca_bundle")
            )
            self._client = self._make_client(endpoint, region, stall_timeout)
        except (BotoCoreError, ClientError, ValueError) as error:
            raise self._from_sdk(error, "the settings cannot work").at(item.name) from None
        except DataFetchError as error:
            raise error.at(item.name) from None
        self._clock = ServerClock()
        correct_botocore(self._client, self._clock)
        # Where a bucket is, botocore knows once it has signed a request for it, redirects to its region included.
        self._client.meta.events.register_last("before-sign.s3", self._remember_place)
        self._read_pages()
        self._places: dict[str, _Place] = {}
        self._promises = _Promises()
        self._payer = {"RequestPayer": _PAYER} if item.requester_pays else {}
        self._paying: Headers = (("x-amz-request-payer", _PAYER),) if item.requester_pays else ()
        self._tells_restored = False
        """Whether listings are asked what has been restored: from the first archived object on."""
        self._readable_archives: set[str] = set()
        """Buckets whose server reads objects of an archive's class like others."""
        self._credentials: Any = None
        self._known_keys: ReadOnlyCredentials | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._transport = Transport(
            stall_timeout=stall_timeout,
            secrets=self._secrets,
            ca_file=self._authorities.ca_file,
            stored_encodings=True,
            classify=self._classify,
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
            archived: dict[str, str] = {}
            scan = partial(self._scan, archived)
            for entry in select_in_buckets(groups, "bucket", self._find, scan, self._find_version):
                if entry.key in archived:
                    self._require_readable(entry, archived[entry.key])
                yield entry
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the object, once more with new keys where the files were rotated meanwhile."""
        ask = partial(self._open, entry, byte_range)
        renew = partial(self._renew, self._clock.corrections)
        return with_renewal(ask, renew, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:
        """Return the signed GET of a range of the object; a whole one is asked for with its checksum."""
        signed = () if byte_range.start or byte_range.end not in (None, entry.size) else _CHECKSUM_MODE
        return self._request(entry, signed, "GET")

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return the checksum in the answer's head, else the listing's, unless the answer says that it is none."""
        return promised_checksum(entry, headers)

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        version, _ = version_and_etag(entry.identity)
        return present_state(entry, self._find(*self._split_key(entry.key), version))

    def close(self) -> None:
        """Release connections, and stop waiting to ask again."""
        self._closed.set()
        self._transport.close()
        self._client.close()
        forget_botocore(self._clock)

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

    def _request(self, entry: Entry, signed: Headers, method: str) -> tuple[Request, Pin]:
        bucket, key = self._split_key(entry.key)
        place = self._places.get(bucket) or self._resolve(bucket)
        version, etag = version_and_etag(entry.identity)
        path = quote_key(key)
        query = "" if version is None else f"versionId={quote(version, safe='')}"
        url = f"{place.url}/{path}?{query}" if query else f"{place.url}/{path}"
        signed += self._paying
        credentials: dict[str, str] = {}
        if not self._item.anonymous:
            keys = self._freeze_keys(entry.key)
            credentials = place.signer.sign(
                keys, place.host, f"{place.path}/{path}", query, headers=signed, method=method
            )
        headers = dict(signed)
        pinned = {} if version is None else {"x-amz-version-id": version}
        if not etag:
            return Request(url, headers, credentials, method), Pin(entry.size, pinned)
        headers["If-Match"] = etag
        return Request(url, headers, credentials, method), Pin(entry.size, {"etag": etag, **pinned})

    def _renew(self, corrections: int) -> bool:
        """Return whether there are other keys by now, or another time to sign by than when `corrections` were made."""
        if self._clock.corrections != corrections:
            return True
        return self._file_keys is not None and self._file_keys.refresh()

    def _classify(self, refusal: Refusal) -> DataFetchError:
        self._clock.learn(refusal.status, refusal.headers)
        return classify_s3(refusal)

    def _freeze_keys(self, what: str) -> ReadOnlyCredentials:
        """Return the keys of this moment."""
        try:
            keys: ReadOnlyCredentials = (self._credentials or self._load_credentials()).get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise self._from_sdk(error, what) from None
        except OSError as error:
            raise CredentialsRejectedError(
                f"{what}: cannot read {error.filename!r}, which is to hold the token: {error.strerror}"
            ) from None
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

    def _find(self, bucket: str, key: str, version: str | None = None) -> Entry | None:
        return while_throttled(partial(self._find_once, bucket, key, version), self._closed)

    def _find_version(self, bucket: str, selection: Selection) -> Entry | None:
        return self._find(bucket, object_key(selection), selection.version_id)

    def _find_once(self, bucket: str, key: str, version: str | None) -> Entry | None:
        try:
            found = self._head(bucket, key, version)
        except ClientError as error:
            place = self._places.get(bucket)
            self._explain_missing(bucket, key, version, error)
            if place is None or self._places[bucket].region == place.region:
                return None
            # A HEAD's answer does not say which region it should have gone to; that of the listing did.
            try:
                found = self._head(bucket, key, version)
            except ClientError as again:
                self._explain_missing(bucket, key, version, again)
                return None
        entry = entry_of(key, found["ContentLength"], found["ETag"], found.get("LastModified"), version)
        state = archive_state(found.get("StorageClass"), found.get("Restore"))
        if state:
            self._require_readable(replace(entry, key=f"{bucket}/{key}"), state)
        return entry

    def _head(self, bucket: str, key: str, version: str | None) -> dict[str, Any]:
        """Return what a HEAD says. Raises ClientError where it is refused."""
        asked = {} if version is None else {"VersionId": version}
        try:
            found: dict[str, Any] = self._client.head_object(Bucket=bucket, Key=key, **asked, **self._payer)
        except BotoCoreError as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        return found

    def _explain_missing(self, bucket: str, key: str, version: str | None, refused: ClientError) -> None:
        """Raise what the bucket says of a refused HEAD, unless it answers and only the object is missing.

        An answer to HEAD has no body, and so no code: a listing's has.
        """
        before = self._places.get(bucket)
        try:
            self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1, **self._payer)
        except BotoCoreError as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        except ClientError as error:
            # Who may read but not list gets 403 from both, or 404 from the first: that one counts.
            if _status(refused) != 404 or error.response["Error"].get("Code") != "AccessDenied":
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
            return
        # A version that cannot be one is answered with 400, one that marks the object's deletion with 405.
        missing = (404,) if version is None else (404, 400, 405)
        is_elsewhere = before is not None and self._places[bucket].region != before.region
        if _status(refused) not in missing and not is_elsewhere:
            raise self._from_sdk(refused, f"{key!r} in bucket {bucket!r}") from None

    def _scan(self, archived: dict[str, str], bucket: str, prefix: str) -> Iterator[Entry]:
        """Yield what a listing has; of the page that it is at, `archived` says what cannot be read."""
        following: dict[str, str] | None = {}
        while following is not None:
            page = while_throttled(partial(self._list_page, bucket, prefix, following), self._closed)
            archived.clear()
            archived.update((f"{bucket}/{key}", state) for key, state in page[_ARCHIVED].items())
            yield from page[_LISTED]
            token = page.get(_NEXT_TOKEN)
            following = {"ContinuationToken": token} if token else None

    def _list_page(self, bucket: str, prefix: str, following: Mapping[str, str]) -> dict[str, Any]:
        also = {"OptionalObjectAttributes": ["RestoreStatus"]} if self._tells_restored else {}
        try:
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, **following, **also, **self._payer
            )
        except (BotoCoreError, ClientError) as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        if page[_ARCHIVED] and not self._tells_restored:
            self._tells_restored = True
            return self._list_page(bucket, prefix, following)
        return page

    def _require_readable(self, entry: Entry, state: str) -> None:
        """Raise SourceNotFoundError where an object of an archive's class cannot be read, before anything is fetched.

        The object itself is asked: some servers move objects to such a class and read them like others.
        """
        bucket, key = self._split_key(entry.key)
        if not entry.size or bucket in self._readable_archives:
            return
        try:
            with open_range(self, entry, ByteRange(0, 1)):
                self._readable_archives.add(bucket)
        except SourceNotFoundError:
            raise is_archived(f"{key!r} in bucket {bucket!r}", state).at(self.name, entry.key) from None

    def _resolve(self, bucket: str) -> _Place:
        """Return where a bucket is that this process has not listed: signing any request for it tells."""
        try:
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1, **self._payer)
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
            self._places[bucket] = _Place.of(url, region, service, self._clock)

    def _split_key(self, key: str) -> tuple[str, str]:
        """Return bucket and key. A bucket may be given as an ARN, which holds slashes itself."""
        for items in self._item.items:
            if key.startswith(items.bucket + "/"):
                return items.bucket, key[len(items.bucket) + 1 :]
        raise SourceNotFoundError("this object is of no bucket that the source names", key=key)

    def _make_client(self, endpoint: str | None, region: str | None, stall_timeout: float) -> Any:  # noqa: ANN401 - botocore has no types
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
            verify=self._authorities.bundle,
            config=Config(**settings),
        )

    def _from_sdk(self, error: Exception, what: str) -> DataFetchError:
        """Return our error for one of botocore's. `what` says what was asked for."""
        message = self._secrets.redact(str(error))
        match error:
            case ClientError() if error.operation_name.startswith(("AssumeRole", "GetRole")):
                code, _, text = message.partition(": ")
                answer = str(error.response.get("Error", {}).get("Code", ""))
                return classify_sts(_status(error), self._secrets.redact(f"{answer}: {text.rstrip('.')}"), what)
            case ClientError():
                detail = error.response.get("Error", {})
                metadata = error.response.get("ResponseMetadata", {})
                redact = self._secrets.redact
                code, text = redact(str(detail.get("Code", ""))), redact(str(detail.get("Message", "")).rstrip("."))
                return classify_s3(Refusal(_status(error), "", what, metadata.get("HTTPHeaders", {}), code, text))
            case NoCredentialsError():
                return CredentialsRejectedError(
                    f"{what}: no credentials found; name access_key_id_file and secret_key_file or a profile, give the "
                    "pod's service account a role, or set anonymous: true where the bucket is public"
                )
            case CredentialRetrievalError() if error.kwargs.get("provider") == _AGENT:
                return agent_failed(what, message)
            case PartialCredentialsError() | CredentialRetrievalError() | TokenRetrievalError():
                return CredentialsRejectedError(f"{what}: {message}")
            case SSLError():
                return InvalidConfigError(
                    f"{what}: {message}; name the server's CA in ca_bundle_file (caBundle), or as ca.crt among the "
                    "credentials"
                )
            case BotoConnectionError() | HTTPClientError():
                return SourceUnavailableError(f"{what} cannot be reached: {message}")
            case _:
                return InvalidConfigError(f"{what}: {message}")


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
    customized_response_dict[_ARCHIVED] = page.archived
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
