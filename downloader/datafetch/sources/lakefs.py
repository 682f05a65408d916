"""Objects of a lakeFS repository: the SDK resolves the ref, lists and signs; the bytes go over `transport`.

Everything is of one commit, so nothing that is listed can change. Where the server hands out presigned URLs, the bytes
come from the storage behind it, without lakeFS's credentials; else through the server. Who may ask is
`lakefs_client`'s business, what is selected `selection`'s.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import lakefs
from lakefs.exceptions import LakeFSException, ServerException
from lakefs_sdk.exceptions import OpenApiException
from urllib3.exceptions import HTTPError

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.lakefs_client import Server, connect
from datafetch.sources.links import Links
from datafetch.sources.ranges import open_range
from datafetch.sources.retries import with_renewal, with_retries
from datafetch.sources.s3_answers import promised_checksum
from datafetch.sources.selection import literal_names, select
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.authorities import Authorities
from datafetch.transport.refusals import reason_of
from datafetch_api.config import LakeFSItem

_SDK_ERRORS = (LakeFSException, OpenApiException, HTTPError, OSError, ValueError)
_PAGE = 1000
_LINK_SECONDS = 300.0
"""Of a presigned URL whose expiry the server does not tell; the shortest default of a storage behind lakeFS is more."""
_LINK_MARGIN = 30.0
"""Seconds before its expiry at which a presigned URL is not used any more."""
_MD5 = re.compile(r"[0-9a-f]{32}")
_UNCOMMITTED = "a branch is read as of its last commit: commit what is to be fetched"
_T = TypeVar("_T")


class LakeFSSource:
    """One `lakefs` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: LakeFSItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._authorities = Authorities(self._files.authorities(item.ca_bundle_file))
        self._timeout = stall_timeout
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._closed = threading.Event()
        self._links = Links()
        self._commit: str | None = None
        self._presigns: bool | None = None
        self._server = self._connect()
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
        """The commit that the ref stood for, once listed."""
        return self._commit

    @property
    def verifies(self) -> str:
        """What is verified of each object beside its size."""
        return "what the storage behind the server promises (MD5, x-amz-checksum), else the size only"

    @property
    def http(self) -> HttpAccess:
        """The source itself: its bytes come by plain HTTP requests."""
        return self

    @property
    def transport(self) -> Transport:
        """The source's data plane."""
        return self._transport

    def list(self) -> Iterator[Entry]:
        """Yield the objects of the commit that the item selects."""
        selection = self._item.selection
        try:
            commit = self._resolve()
            self._may_presign()
            where = f"lakeFS repository {self._item.repository!r} at {commit[:12]}"
            missing = literal_names(selection)
            for entry in select((selection,), where, self._find, self._scan):
                missing.discard(entry.key.removeprefix(selection.prefix))
                yield entry
            if missing:
                name = selection.prefix + min(missing)
                raise SourceNotFoundError(f"{where} has no object {name!r}; check the name among files", key=name)
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the object, once more with new credentials where their files were rotated meanwhile."""
        ask = partial(self._open, entry, byte_range)
        return with_renewal(ask, self._reload, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the object: at the storage where the server signs URLs, else at the server."""
        if not self._may_presign():
            return self._request_to_server(entry), Pin(entry.size)
        return Request(self._links.get(entry.key) or self._sign(entry)), Pin(entry.size)

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return what the storage says of the object's bytes in its answer; lakeFS's own word is no checksum for sure.

        lakeFS keeps the ETag that an object had where it came from. Only the storage's own answer tells whether that is
        the MD5 of its bytes.
        """
        etag = headers.get("etag", "").strip('"')
        is_md5 = "x-amz-request-id" in headers and _MD5.fullmatch(etag) is not None
        entry = Entry(entry.key, entry.path, entry.size, "", Checksum(ChecksumAlgorithm.MD5, etag) if is_md5 else None)
        return promised_checksum(entry, headers)

    def look_up(self, entry: Entry) -> Entry:
        """Return the entry: an object of a commit never changes."""
        return entry

    def close(self) -> None:
        """Release connections."""
        self._closed.set()
        self._transport.close()

    def _open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        link = self._links.get(entry.key)
        try:
            return open_range(self, entry, byte_range)
        except (CredentialsRejectedError, SourceNotFoundError):
            # The refusal may be the storage's, of a URL that was too old: the server signs another one.
            if link is None or not self._may_presign():
                raise
            self._links.forget(entry.key, link)
            return open_range(self, entry, byte_range)

    def _request_to_server(self, entry: Entry) -> Request:
        path = f"/repositories/{self._item.repository}/refs/{self._commit or self._resolve()}/objects"
        url = f"{self._server.api}{path}?{urlencode({'path': entry.key})}"
        return Request(url, {}, self._server.authorization())

    def _sign(self, entry: Entry) -> str:
        """Return a URL of the object at the storage, and keep it for the object's other ranges."""
        repository, commit = self._item.repository, self._commit or self._resolve()
        stats = self._ask(
            lambda client: client.sdk_client.objects_api.stat_object(
                repository, commit, entry.key, presign=True, _request_timeout=self._timeout
            )
        )
        link = str(stats.physical_address)
        if urlsplit(link).scheme not in ("http", "https"):
            raise SourceUnavailableError(f"{self._server.host} signed no URL for {entry.key!r}, but named {link!r}")
        self._secrets.add(urlsplit(link).query)
        expiry = stats.physical_address_expiry
        seconds = _LINK_SECONDS if not expiry else float(expiry) - time.time() - _LINK_MARGIN
        self._links.keep(entry.key, link, seconds)
        return link

    def _may_presign(self) -> bool:
        """Return whether the server signs URLs of its storage; asked once."""
        with self._lock:
            if self._presigns is None:
                found = self._ask(
                    lambda client: client.sdk_client.config_api.get_config(_request_timeout=self._timeout)
                )
                storages = [found.storage_config, *(found.storage_config_list or ())]
                self._presigns = any(storage is not None and storage.pre_sign_support for storage in storages)
            return self._presigns

    def _resolve(self) -> str:
        """Return the commit that the ref stands for; asked for once."""
        with self._lock:
            if self._commit is None:
                repository, ref = self._item.repository, self._item.ref
                found = self._ask(lambda client: lakefs.Reference(repository, ref, client=client).get_commit())
                self._commit = str(found.id)
            return self._commit

    def _find(self, path: str) -> Entry | None:
        repository, commit = self._item.repository, self._resolve()
        try:
            stats = self._ask(
                lambda client: client.sdk_client.objects_api.stat_object(
                    repository, commit, path, _request_timeout=self._timeout
                )
            )
        except SourceNotFoundError:
            return None
        return _entry(stats.path, stats.size_bytes, stats.checksum, stats.mtime)

    def _scan(self, prefix: str) -> Iterator[Entry]:
        """Yield what lies below a prefix, a page at a time: each page is asked for again by itself where it fails."""
        repository, commit, after = self._item.repository, self._resolve(), ""
        options: dict[str, Any] = {"amount": _PAGE, "prefix": prefix, "_request_timeout": self._timeout}
        while True:
            page = self._ask(
                lambda client, after=after: client.sdk_client.objects_api.list_objects(  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                    repository, commit, after=after, **options
                )
            )
            for stats in page.results:
                if stats.path_type == "object":
                    yield _entry(stats.path, stats.size_bytes, stats.checksum, stats.mtime)
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def _ask(self, ask: Callable[[lakefs.Client], _T]) -> _T:
        """Return what one of the SDK's functions returns, its errors in our words; asked again with new credentials."""

        def once() -> _T:
            try:
                return ask(self._server.client)
            except _SDK_ERRORS as error:
                raise self._from_sdk(error) from None

        try:
            return with_retries(once, self._closed)
        except CredentialsRejectedError:
            if not self._reload():
                raise
            return with_retries(once, self._closed)

    def _connect(self) -> Server:
        try:
            return connect(self._item, self._files, self._secrets, self._authorities.bundle)
        except InvalidConfigError as error:
            raise error.at(self._item.name) from None

    def _reload(self) -> bool:
        """Read the credentials again where their files have changed; return whether they have."""
        with self._renewing:
            if not self._files.has_changed():
                return False
            before = self._server.authorization()
            self._server = self._connect()
            return self._server.authorization() != before

    def _from_sdk(self, error: Exception) -> DataFetchError:
        """Return our error for one of the SDK's."""
        status = getattr(error, "status_code", None) or getattr(error, "status", None)
        if isinstance(error, ServerException | OpenApiException) and isinstance(status, int) and status > 0:
            found = dict(getattr(error, "headers", None) or {})
            headers = {str(name).lower(): str(value) for name, value in found.items()}
            reason = str(getattr(error, "reason", "") or "")
            return self._classify(Refusal(status, reason, self._server.host, headers, "", self._message(error)))
        message = self._secrets.redact(str(error).partition("\n")[0]).rstrip(".")
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return InvalidConfigError(
                f"{self._server.host} has a certificate that is not trusted; name its CA in ca_bundle_file (caBundle), "
                "SSL_CERT_FILE, or as ca.crt among the credentials"
            )
        if isinstance(error, HTTPError | OSError):
            return SourceUnavailableError(f"{self._server.host} cannot be reached: {reason_of(error) or message}")
        return SourceUnavailableError(f"{self._server.host} answers otherwise than a lakeFS server does: {message}")

    def _message(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        text = body.get("message", "") if isinstance(body, dict) else str(body or "")
        found = re.search(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
        return self._secrets.redact(found[1] if found else text[:300]).rstrip(".")

    def _classify(self, refusal: Refusal) -> DataFetchError:
        """Return the error that a refusal of lakeFS, or of the storage behind it, stands for."""
        place = f"{refusal.url} answered {refusal.answer}"
        match refusal.status:
            case 401:
                return CredentialsRejectedError(f"{place}; check the access key, or make another one in lakeFS")
            case 404:
                named = f"repository {self._item.repository!r}, ref {self._item.ref!r}"
                return SourceNotFoundError(f"{place}; check {named} and the path: {_UNCOMMITTED}")
            case 410:
                return SourceNotFoundError(
                    f"{place}; it was collected as garbage: take a newer commit, or keep the old ones for longer"
                )
            case 420:
                return SourceUnavailableError(f"{place}: it asks for fewer requests", throttled=True)
        return classify(refusal)


def _entry(path: str, size: int | None, checksum: str, mtime: int) -> Entry:
    # The same content has the same checksum in every commit: what did not change is not fetched again.
    modified = datetime.fromtimestamp(mtime, UTC) if mtime else None
    return Entry(path, "", size, f"checksum:{checksum}" if checksum else "", None, modified)
