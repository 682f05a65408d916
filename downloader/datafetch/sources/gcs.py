"""Google Cloud Storage: the SDK finds credentials and objects; the bytes go over `transport`.

Each range is a GET of the media endpoint, pinned by the object's generation. Selections are `selection`'s business.
"""

import base64
import binascii
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC
from functools import partial
from typing import Any
from urllib.parse import quote

import google.auth
import google.auth.credentials
import google.auth.transport.requests
import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.ranges import open_range, quote_key
from datafetch.sources.retries import with_renewal
from datafetch.sources.selection import object_key, present_state, select_in_buckets
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.authorities import Authorities
from datafetch.transport.pool import CONNECT_SECONDS
from datafetch.transport.refusals import reason_of
from datafetch_api.config import GCSItem, Selection

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
_KEYS = ("GOOGLE_APPLICATION_CREDENTIALS", "key.json", "service-account.json", "credentials.json")
_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_FEDERATED = "external_account"
_LISTED = "items(name,size,generation,crc32c,updated),nextPageToken"
_RETRY_SECONDS = 30.0
_TOKEN_MARGIN_SECONDS = 240.0
"""A token is renewed this long before it expires, a little before Google's library would."""
_UNDATED_TOKEN_SECONDS = 60.0
"""How long one is used without asking the library whether it has another."""
# For its traces, the SDK asks for the metadata of each bucket besides: one more request, one more right.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
_SDK_ERRORS = (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException)
_NO_LISTING = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What the SDK raises where an answer is not what it takes it for."""


class GCSSource:
    """One `gcs` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: GCSItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._lock = threading.Lock()
        self._options: dict[str, Any] = {
            "timeout": (CONNECT_SECONDS, stall_timeout),
            "retry": DEFAULT_RETRY.with_timeout(_RETRY_SECONDS),
        }
        self._endpoint = item.endpoint_url or _emulator()
        self._credentials = self._load_credentials()
        try:
            self._authorities = Authorities(self._files.authorities(item.ca_bundle_file))
        except DataFetchError as error:
            raise error.at(item.name) from None
        self._tokens = requests.Session()
        """Asks for tokens."""
        self._tokens.verify = self._authorities.bundle or True
        self._bearer: tuple[dict[str, str], float] = ({}, 0.0)
        """The headers of the present token, and until when they are used."""
        self._client = self._make_client()
        self._paying = f"&userProject={quote(item.user_project, safe='')}" if item.user_project else ""
        self._api = self._endpoint or f"https://storage.{self._client.universe_domain}"
        self._transport = Transport(
            stall_timeout=stall_timeout,
            secrets=self._secrets,
            ca_file=self._authorities.ca_file,
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
        return "CRC32C"

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
            # The token is known as a secret from here on: an answer may repeat it.
            self._authorization(self._item.items[0].bucket)
            yield from select_in_buckets(groups, "bucket", self._find, self._scan, self._find_version)
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the object's generation, once more with new credentials where the file was rotated."""
        ask = partial(open_range, self, entry, byte_range)
        try:
            return with_renewal(ask, self._reload, source=self.name, key=entry.key)
        except SourceNotFoundError as error:
            missing = error
        try:
            raise self._explain_missing(entry, missing)
        except DataFetchError as error:
            raise error.at(self.name, entry.key) from None

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the object's generation."""
        bucket, _, key = entry.key.partition("/")
        generation = entry.identity.removeprefix("generation:")
        url = (
            f"{self._api}/download/storage/v1/b/{quote_key(bucket)}/o/{quote_key(key).replace('/', '%2F')}"
            f"?alt=media&generation={generation}{self._paying}"
        )
        # Without gzip among the accepted encodings, GCS decompresses objects stored with Content-Encoding: gzip
        # (https://cloud.google.com/storage/docs/transcoding): other bytes than the listing's size and checksum are of.
        request = Request(url, {"Accept-Encoding": "gzip"}, self._authorization(bucket))
        return request, Pin(entry.size, {"x-goog-generation": generation})

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:  # noqa: ARG002 - as above
        """Return the checksum that the listing named."""
        return entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        bucket, _, key = entry.key.partition("/")
        generation = int(entry.identity.removeprefix("generation:")) if self._pins(bucket, key) else None
        return present_state(entry, self._find(bucket, key, generation))

    def close(self) -> None:
        """Release connections."""
        self._transport.close()
        self._client.close()
        self._tokens.close()

    def _authorization(self, bucket: str) -> dict[str, str]:
        """Return the headers of a valid token; none for anonymous access."""
        headers, until = self._bearer
        if time.time() < until:
            return headers
        with self._lock:
            credentials = self._credentials
            if isinstance(credentials, AnonymousCredentials):
                return {}
            headers = {}
            try:
                if not credentials.valid:
                    credentials.refresh(google.auth.transport.requests.Request(self._tokens))
                credentials.apply(headers)
            except GoogleAuthError as error:
                raise self._from_sdk(error, f"bucket {bucket!r}") from None
            self._secrets.add(headers.get("authorization", "").removeprefix("Bearer "))
            self._bearer = (headers, _fresh_until(credentials))
        return headers

    def _find(self, bucket: str, key: str, generation: int | None = None) -> Entry | None:
        try:
            there = self._bucket(bucket)
            found = there.get_blob(key, generation=generation, **self._options)
            if found is not None:
                return _entry(found)
            # The SDK does not tell a missing object from a missing bucket: a listing does.
            list(self._client.list_blobs(there, prefix=key, max_results=1, fields=_LISTED, **self._options))
        except _SDK_ERRORS as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        except _NO_LISTING:
            raise _no_listing(bucket) from None
        return None

    def _find_version(self, bucket: str, selection: Selection) -> Entry | None:
        return self._find(bucket, object_key(selection), selection.generation)

    def _bucket(self, name: str) -> Any:  # noqa: ANN401 - the SDK's Bucket has no types
        """Return a bucket for the SDK: what is asked of it is billed to the item's project, where it names one."""
        return self._client.bucket(name, user_project=self._item.user_project)

    def _pins(self, bucket: str, key: str) -> bool:
        """Return whether the item asks for one generation of an object."""
        return any(
            selection.generation is not None and object_key(selection) == key
            for group in self._item.items
            if group.bucket == bucket
            for selection in group.items
        )

    def _scan(self, bucket: str, prefix: str) -> Iterator[Entry]:
        there = self._bucket(bucket)
        try:
            for found in self._client.list_blobs(there, prefix=prefix or None, fields=_LISTED, **self._options):
                yield _entry(found)
        except _SDK_ERRORS as error:
            raise self._from_sdk(error, f"bucket {bucket!r}") from None
        except _NO_LISTING:
            raise _no_listing(bucket) from None

    def _explain_missing(self, entry: Entry, error: SourceNotFoundError) -> DataFetchError:
        """Return what the missing generation means: the object was replaced, or it is gone."""
        bucket, _, key = entry.key.partition("/")
        if self._find(bucket, key) is None:
            return error
        return SourceChangedError("the object has another generation than the listing named; fetch it again")

    def _reload(self) -> bool:
        """Read the credentials again where their file has changed; return whether it has."""
        with self._lock:
            if not self._files.has_changed():
                return False
            self._credentials = self._load_credentials()
            self._bearer = ({}, 0.0)
            return True

    def _load_credentials(self) -> Any:  # noqa: ANN401 - each kind is a class of its own
        item = self._item
        path = item.application_credentials_path or item.application_credentials_file
        content = self._files.value("application_credentials_path", path, *_KEYS, secret=False)
        # An emulator knows no credentials, and Google's must not be sent to one.
        if item.anonymous or (not item.endpoint_url and _emulator()):
            anonymous: Any = AnonymousCredentials
            return anonymous()
        if content is not None:
            return self._parse_credentials(content, "application_credentials_path")
        named = os.environ.get(_VARIABLE)
        if named:
            return self._parse_credentials(self._files.value(_VARIABLE, named, secret=False) or "", _VARIABLE)
        try:
            with warnings.catch_warnings():
                # It warns of a user's own login without a quota project; that works for storage.
                warnings.simplefilter("ignore", UserWarning)
                credentials, _ = google.auth.default(scopes=_SCOPES)
        except DefaultCredentialsError:
            raise CredentialsRejectedError(
                "no Google credentials found; name a service account file in application_credentials_path, or set "
                "anonymous: true where the bucket is public",
                source=item.name,
            ) from None
        return credentials

    def _parse_credentials(self, content: str, field: str) -> Any:  # noqa: ANN401 - as above
        try:
            info = json.loads(content)
            self._secrets.add(str(info.get("private_key", "")))
            if info.get("type") == _FEDERATED:
                return _federated(info)
            with warnings.catch_warnings():
                # Google deprecated loading a file of whatever kind, because it may come from a stranger: here it is the
                # user's own.
                warnings.simplefilter("ignore", DeprecationWarning)
                load: Any = google.auth.load_credentials_from_dict
                credentials, _ = load(info, scopes=_SCOPES)
        except (ValueError, AttributeError, TypeError, GoogleAuthError):
            raise InvalidConfigError(
                f"{field}: the file is no credentials file of Google (JSON of a service account or of a workload "
                "identity)",
                source=self._item.name,
            ) from None
        return credentials

    def _make_client(self) -> Client:
        options = {"api_endpoint": self._endpoint} if self._endpoint else None
        session: Any = None
        if self._authorities.bundle:
            authorized: Any = google.auth.transport.requests.AuthorizedSession
            session = authorized(self._credentials)
            session.verify = self._authorities.bundle
        # Without a project the SDK would look for one, at the metadata server at last; reading needs none.
        return Client(project=self._item.project, credentials=self._credentials, client_options=options, _http=session)

    def _from_sdk(self, error: Exception, what: str) -> DataFetchError:
        """Return our error for one of the SDK's. `what` says what was asked for."""
        if isinstance(error, RetryError) and isinstance(error.cause, Exception):
            return self._from_sdk(error.cause, what)
        message = self._secrets.redact(getattr(error, "message", None) or str(error)).rstrip(".")
        if isinstance(error, GoogleAPICallError):
            response = error.response
            headers = {name.lower(): value for name, value in response.headers.items()} if response is not None else {}
            return _classify(Refusal(int(error.code or 0), "", what, headers, "", message))
        if isinstance(error, requests.exceptions.SSLError):
            return InvalidConfigError(
                f"{what}: {message}; name the server's CA in ca_bundle_file (caBundle), or as ca.crt among the "
                "credentials"
            )
        if isinstance(error, TransportError | requests.RequestException):
            return SourceUnavailableError(f"{what} cannot be reached: {reason_of(error) or message}")
        # `invalid_grant: Invalid JWT Signature`, the answer's whole body beside; or that body alone, which says less.
        reason = self._secrets.redact(str(error.args[0] if error.args else error))
        reason = "the token server refused them" if "{" in reason else reason.rstrip(".")
        return CredentialsRejectedError(f"{what}: {reason}; check the service account file")


def _federated(info: dict[str, Any]) -> Any:  # noqa: ANN401 - each kind is a class of its own
    """Return the credentials of a workload's identity elsewhere: another cloud's, a file's or a command's.

    google.auth.default and its like would at once trade a token, only to ask Google for the name of a project.
    """
    from google.auth import aws, identity_pool, pluggable

    kind: Any = identity_pool
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        kind = aws
    elif (info.get("credential_source") or {}).get("executable") is not None:
        kind = pluggable
    return kind.Credentials.from_info(info, scopes=_SCOPES)


def _emulator() -> str | None:
    """Return the emulator's address, by the variable that every Google SDK knows."""
    host = os.environ.get("STORAGE_EMULATOR_HOST")
    if not host:
        return None
    return (host if "://" in host else f"http://{host}").rstrip("/")


def _fresh_until(credentials: Any) -> float:  # noqa: ANN401 - each kind is a class of its own
    """Return until when the credentials' token need not be looked at, in seconds since the epoch."""
    expiry = credentials.expiry
    if expiry is None:
        return time.time() + _UNDATED_TOKEN_SECONDS
    return float(expiry.replace(tzinfo=UTC).timestamp()) - _TOKEN_MARGIN_SECONDS


def _entry(found: Any) -> Entry:  # noqa: ANN401 - the SDK's Blob has no types
    checksum = None
    if found.crc32c:
        try:
            checksum = Checksum(ChecksumAlgorithm.CRC32C, base64.b64decode(found.crc32c, validate=True).hex())
        except binascii.Error:
            checksum = None
    return Entry(found.name, "", int(found.size or 0), f"generation:{found.generation}", checksum, found.updated)


def _classify(refusal: Refusal) -> DataFetchError:
    """Return the error that a status of GCS stands for."""
    place = f"{refusal.url} answered {refusal.answer}"
    if refusal.status == 404 and "bucket" in refusal.message:
        return SourceNotFoundError(f"{place}; check the bucket's name")
    if refusal.status == 400 and "requester pays" in refusal.message.lower():
        return InvalidConfigError(f"{place}; name the project that pays in user_project (userProject)")
    return classify(refusal)


def _no_listing(bucket: str) -> SourceUnavailableError:
    return SourceUnavailableError(
        f"bucket {bucket!r} was answered for with something that is no listing; check the endpoint"
    )
