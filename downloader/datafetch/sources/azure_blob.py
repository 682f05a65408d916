"""Azure Blob Storage: the SDK lists and signs; the bytes go over `transport`.

Each range is a GET pinned by If-Match, and by the version or snapshot where one is asked for; allowed by the item's SAS
token, by one that the SDK makes of the account key, or by a token of the identity (`azure_identity`). Selections are
`selection`'s business.
"""

import base64
import binascii
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import (
    BlobSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    generate_blob_sas,
    generate_container_sas,
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
from datafetch.sources.ranges import open_range, quote_key
from datafetch.sources.retries import with_renewal
from datafetch.sources.selection import object_key, present_state, select_in_buckets
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.authorities import Authorities
from datafetch.transport.pool import CONNECT_SECONDS
from datafetch.transport.refusals import reason_of
from datafetch_api.config import AzureBlobItem, Selection
from datafetch_api.uris import redact_uri

if TYPE_CHECKING:
    from datafetch.sources.azure_identity import Identity

_API_VERSION = "2021-12-02"
_PINNED = re.compile(r"(versionid|snapshot):([^ ]+) etag:(.*)", re.DOTALL)
_SAS_SECONDS = 3600.0
_SAS_MARGIN_SECONDS = 600.0
"""A token is made anew this long before it expires: a range may wait for bandwidth before it is asked for."""
_RETRIES = {"retry_total": 4, "initial_backoff": 1, "increment_base": 2}
_ARGUMENTS = {"versionid": "version_id", "snapshot": "snapshot"}
"""The SDK's words for the parameters of a request."""
_NO_VERSION = ("InvalidQueryParameterValue", "InvalidHeaderValue", "InvalidInput")
_IS_ARCHIVED = (
    "is archived (access tier {}); rehydrate it first (az storage blob set-tier --tier Hot), or leave it out by exclude"
)
_REJECTED = frozenset(
    {
        "AuthenticationFailed", "AuthorizationFailure", "AuthorizationPermissionMismatch", "InvalidAuthenticationInfo",
        "KeyBasedAuthenticationNotPermitted", "NoAuthenticationInformation", "PublicAccessNotPermitted",
        "AccountIsDisabled", "InsufficientAccountPermissions",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Access:
    """How the account is reached: the SDK's client, and what signs the requests for bytes."""

    client: BlobServiceClient
    url: str
    """Of the account, without a trailing slash and without a query."""
    account_key: str | None
    sas_token: str | None
    identity: "Identity | None" = None


class AzureBlobSource:
    """One `azure-blob` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: AzureBlobItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._lock = threading.Lock()
        try:
            self._authorities = Authorities(self._files.authorities(item.ca_bundle_file))
        except DataFetchError as error:
            raise error.at(item.name) from None
        trusted = self._authorities.bundle
        self._options: dict[str, Any] = {
            "connection_timeout": CONNECT_SECONDS,
            "read_timeout": stall_timeout,
            **_RETRIES,
            **({"connection_verify": trusted} if trusted else {}),
        }
        self._access = self._connect()
        self._tokens: dict[tuple[str, tuple[str, str, str] | None], tuple[str, float]] = {}
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
        """None: a container has no revisions."""
        return None

    @property
    def verifies(self) -> str:
        """What is verified of each blob beside its size."""
        return "MD5 of blobs that have one, ETag of the others"

    @property
    def http(self) -> HttpAccess:
        """The source itself: its bytes come by plain HTTP requests."""
        return self

    @property
    def transport(self) -> Transport:
        """The source's data plane."""
        return self._transport

    def list(self) -> Iterator[Entry]:
        """Yield the blobs of every container that the selections take."""
        groups = ((group.container, group.items) for group in self._item.items)
        try:
            if self._access.identity is not None:
                # Known as a secret from here on, and refused before anything is asked for.
                self._access.identity.token()
            archived: dict[str, str] = {}
            scan = partial(self._scan, archived)
            for entry in select_in_buckets(groups, "container", self._find, scan, self._find_version):
                if entry.key in archived:
                    container, _, blob = entry.key.partition("/")
                    raise _archived(container, blob, archived[entry.key])
                yield entry
        except DataFetchError as error:
            raise error.at(self.name) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the blob, once more with new credentials where the files were rotated meanwhile."""
        ask = partial(open_range, self, entry, byte_range)
        return with_renewal(ask, self._reload, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the blob."""
        container, _, blob = entry.key.partition("/")
        name, version, etag = _pinned(entry.identity)
        access = self._access
        token = self._token(container, (blob, name, version) if name else None)
        query = [*([f"{name}={quote(version, safe='')}"] if name else []), *([token] if token else [])]
        url = f"{access.url}/{quote_key(container)}/{quote_key(blob)}"
        if query:
            url = f"{url}?{'&'.join(query)}"
        bearer = {} if access.identity is None else {"Authorization": f"Bearer {access.identity.token()}"}
        headers = {"x-ms-version": _API_VERSION}
        if not etag:
            return Request(url, headers, bearer), Pin(entry.size)
        return Request(url, {**headers, "If-Match": etag}, bearer), Pin(entry.size, {"etag": etag})

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:  # noqa: ARG002 - as above
        """Return the checksum that the listing named."""
        return entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        container, _, blob = entry.key.partition("/")
        name, version, _ = _pinned(entry.identity)
        return present_state(entry, self._find(container, blob, name, version))

    def close(self) -> None:
        """Release connections."""
        self._transport.close()
        self._access.client.close()
        if self._access.identity is not None:
            self._access.identity.close()

    def _token(self, container: str, pinned: tuple[str, str, str] | None = None) -> str | None:
        """Return the SAS token for requests to a container; None for anonymous access, and where an identity signs.

        `pinned` is a blob with the kind and name of its version or snapshot: a token for a container is not for these.
        """
        access = self._access
        if access.account_key is None:
            return access.sas_token
        what = (container, pinned)
        token, expires = self._tokens.get(what, ("", 0.0))
        if time.time() <= expires - _SAS_MARGIN_SECONDS:
            return token
        with self._lock:
            token, expires = self._tokens.get(what, ("", 0.0))
            if time.time() > expires - _SAS_MARGIN_SECONDS:
                expires = time.time() + _SAS_SECONDS
                token = self._make_token(container, pinned, access, expires)
                self._tokens[what] = (token, expires)
            return token

    def _make_token(self, container: str, pinned: tuple[str, str, str] | None, access: _Access, expires: float) -> str:
        common: dict[str, Any] = {
            "account_name": str(access.client.account_name),
            "container_name": container,
            "account_key": access.account_key,
            "expiry": datetime.fromtimestamp(expires, UTC) + timedelta(seconds=1),
        }
        try:
            if pinned is None:
                token = generate_container_sas(permission=ContainerSasPermissions(read=True), **common)
            else:
                blob, name, version = pinned
                common |= {"blob_name": blob, _ARGUMENTS[name]: version}
                token = generate_blob_sas(permission=BlobSasPermissions(read=True), **common)
        except (ValueError, AzureError) as error:
            raise self._from_sdk(error, "the account key") from None
        return self._secrets.add(str(token))

    def _find(self, container: str, blob: str, name: str = "", version: str = "") -> Entry | None:
        """Return a blob, or its version or snapshot: `name` says of which kind `version` is."""
        where = f"container {container!r}"
        try:
            asked = {_ARGUMENTS[name]: version} if name else {}
            found = self._access.client.get_blob_client(container, blob, **asked).get_blob_properties()
        except ResourceNotFoundError as error:
            if _code(error) in ("BlobNotFound", "ResourceNotFound", ""):
                self._require_container(container)
                return None
            raise self._from_sdk(error, where) from None
        except (AzureError, ValueError) as error:
            # A version that cannot be one is no time at all.
            if name and isinstance(error, HttpResponseError) and _code(error) in _NO_VERSION:
                return None
            raise self._from_sdk(error, where) from None
        if _is_folder(found.metadata):
            return None
        if state := _archive_state(found):
            raise _archived(container, blob, state)
        return _entry(found, name, version)

    def _find_version(self, container: str, selection: Selection) -> Entry | None:
        name = "versionid" if selection.version_id else "snapshot"
        return self._find(container, object_key(selection), name, selection.version_id or selection.snapshot or "")

    def _require_container(self, container: str) -> None:
        """Raise what the container says, where it is the container that is missing or closed."""
        try:
            next(iter(self._access.client.get_container_client(container).list_blobs(results_per_page=1)), None)
        except AzureError as error:
            # Who may read but not list learns no more than that the blob is missing.
            if _status(error) != 403:
                raise self._from_sdk(error, f"container {container!r}") from None

    def _scan(self, archived: dict[str, str], container: str, prefix: str) -> Iterator[Entry]:
        """Yield what a listing has; of the blob that it is at, `archived` says whether it cannot be read."""
        try:
            client = self._access.client.get_container_client(container)
            for found in client.list_blobs(name_starts_with=prefix or None, include=["metadata"]):
                if _is_folder(found.metadata):
                    continue
                archived.clear()
                if state := _archive_state(found):
                    archived[f"{container}/{found.name}"] = state
                yield _entry(found)
        except (AzureError, ValueError) as error:
            raise self._from_sdk(error, f"container {container!r}") from None

    def _reload(self) -> bool:
        """Connect anew where the credential files have changed; return whether they have."""
        with self._lock:
            if not self._files.has_changed():
                return False
            self._access = self._connect()
            self._tokens.clear()
            return True

    def _connect(self) -> _Access:
        """Return how the account is reached: what the item's files say, then its credentials_dir, then the environment.

        Raises InvalidConfigError and CredentialsRejectedError.
        """
        item = self._item
        connection_string = self._setting(
            "connection_string_file",
            item.connection_string_file,
            "connection_string",
            "AZURE_STORAGE_CONNECTION_STRING",
        )
        try:
            if connection_string is not None and not item.anonymous:
                client = BlobServiceClient.from_connection_string(connection_string, **self._options)
                return self._access_of(client)
            url = item.endpoint_url or self._account_url()
            credential = self._find_credential()
            if credential is None and not item.anonymous:
                return self._identified(url)
            return self._access_of(BlobServiceClient(url, credential=credential, **self._options))
        except (ValueError, AzureError) as error:
            what = "connection_string_file" if connection_string is not None else "the settings"
            raise InvalidConfigError(
                f"{what} cannot be used: {self._secrets.redact(str(error)).rstrip('.')}; check it", source=item.name
            ) from None

    def _identified(self, url: str) -> _Access:
        """Return how the account is reached as the pod's own identity."""
        if not url.startswith("https://"):
            raise InvalidConfigError(
                f"{redact_uri(url)} is no https, and there are no Azure credentials but the identity, whose tokens go "
                "over https alone; name a connection_string_file, account_key_file or sas_token_file, or set "
                "anonymous: true where the container is public",
                source=self._item.name,
            )
        from datafetch.sources.azure_identity import Identity

        trusted = {"connection_verify": self._authorities.bundle} if self._authorities.bundle else {}
        identity = Identity(self._files, self._secrets, trusted)
        client = BlobServiceClient(url, credential=identity.credential, **self._options)
        return _Access(client, str(client.url).rstrip("/"), None, None, identity)

    def _access_of(self, client: BlobServiceClient) -> _Access:
        url, _, token = str(client.url).partition("?")
        url = url.rstrip("/")
        credential = client.credential
        key = getattr(credential, "account_key", None)
        if key is not None:
            _require_base64(str(key), self._item.name)
            return _Access(client, url, self._secrets.add(str(key)), None)
        # The SDK keeps a SAS token, wherever it came from, as the query of its URL.
        return _Access(client, url, None, self._secrets.add(token) if token else None)

    def _find_credential(self) -> str | dict[str, str] | None:
        item = self._item
        if item.anonymous:
            return None
        key = self._setting("account_key_file", item.account_key_file, "AZURE_STORAGE_KEY", "account_key")
        if key is not None:
            return {"account_name": self._account(), "account_key": key}
        sas = self._setting("sas_token_file", item.sas_token_file, "AZURE_STORAGE_SAS_TOKEN", "sas_token")
        if sas is not None:
            return sas.removeprefix("?")
        return None

    def _account_url(self) -> str:
        return f"https://{self._account()}.blob.core.windows.net"

    def _account(self) -> str:
        account = self._item.account or self._setting("account", None, "AZURE_STORAGE_ACCOUNT", "account", secret=False)
        if account is None:
            raise InvalidConfigError(
                "the storage account is not named; set account, or give a connection string", source=self._item.name
            )
        return account

    def _setting(self, field: str, path: str | None, *keys: str, secret: bool = True) -> str | None:
        """Return a setting: the named file's, else the credentials_dir's, else, in capitals, the environment's."""
        value = self._files.value(field, path, *keys, secret=secret)
        if value is not None or self._item.anonymous:
            return value
        found = next((os.environ[key] for key in keys if key.isupper() and os.environ.get(key)), None)
        return self._secrets.add(found) if found is not None and secret else found

    def _from_sdk(self, error: Exception, what: str) -> DataFetchError:
        """Return our error for one of the SDK's. `what` says what was asked for."""
        identity = self._access.identity if hasattr(self, "_access") else None
        if identity is not None and isinstance(error, ClientAuthenticationError) and error.status_code is None:
            return identity.refused(error)
        first_line = str(error).strip().partition("\n")[0]
        message = self._secrets.redact(first_line.removeprefix("Operation returned an invalid status ").strip("'."))
        if isinstance(error, HttpResponseError) and _status(error):
            headers = getattr(error.response, "headers", None) or {}
            lower = {str(name).lower(): str(value) for name, value in headers.items()}
            return _classify(Refusal(_status(error), "", what, lower, _code(error), message))
        if "CERTIFICATE_VERIFY_FAILED" in message:
            return InvalidConfigError(
                f"{what}: {message}; name the server's CA in ca_bundle_file (caBundle), or as ca.crt among the "
                "credentials"
            )
        if isinstance(error, ServiceRequestError | ServiceResponseError):
            return SourceUnavailableError(f"{what} cannot be reached: {reason_of(error) or message}")
        return InvalidConfigError(f"{what}: {message}")


def _entry(found: Any, name: str = "", version: str = "") -> Entry:  # noqa: ANN401 - the SDK's BlobProperties has no types
    etag = str(found.etag or "").strip('"')
    md5 = found.content_settings.content_md5
    checksum = Checksum(ChecksumAlgorithm.MD5, bytes(md5).hex()) if md5 else None
    identity = f'etag:"{etag}"' if etag else ""
    if name:
        identity = f"{name}:{version} {identity or 'etag:'}"
    return Entry(found.name, "", int(found.size), identity, checksum, found.last_modified)


def _pinned(identity: str) -> tuple[str, str, str]:
    """Return what an identity pins: `versionid`, `snapshot` or nothing, which one, and the ETag; empty without."""
    found = _PINNED.fullmatch(identity) if identity.startswith(("versionid:", "snapshot:")) else None
    return (found[1], found[2], found[3]) if found else ("", "", identity.removeprefix("etag:"))


def _archive_state(found: Any) -> str:  # noqa: ANN401 - as above
    """Return what a blob's place in the archive is called; empty where it can be read."""
    if str(found.blob_tier or "") != "Archive":
        return ""
    return "Archive, its rehydration is under way" if found.archive_status else "Archive"


def _archived(container: str, blob: str, state: str = "Archive") -> SourceNotFoundError:
    return SourceNotFoundError(
        f"{blob!r} in container {container!r} {_IS_ARCHIVED.format(state)}", key=f"{container}/{blob}"
    )


def _require_base64(key: str, source: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise InvalidConfigError("the account key is not base64; copy it anew", source=source) from None


def _is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Return whether a blob stands for a directory, as accounts with a hierarchical namespace list them."""
    return any(key.lower() == "hdi_isfolder" and value == "true" for key, value in (metadata or {}).items())


def _status(error: AzureError) -> int:
    return int(getattr(error, "status_code", None) or 0)


def _code(error: AzureError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _classify(refusal: Refusal) -> DataFetchError:
    """Return the error that Azure's code stands for; where it has none, the status decides."""
    code = refusal.code
    # The number and time of the request stand after the message in every error body, and are in no sentence for people.
    refusal = replace(refusal, message=refusal.message.partition(" RequestId:")[0].rstrip("."))
    place = f"{refusal.url} answered {refusal.answer}"
    if code in _REJECTED:
        return CredentialsRejectedError(f"{place}; check the credentials and what they may read")
    if code in ("ContainerNotFound", "ContainerBeingDeleted"):
        return SourceNotFoundError(f"{place}; check the container's name and the account")
    if code == "ResourceNotFound":
        return SourceNotFoundError(f"{place}; check the container's name, and whether it may be read anonymously")
    if code == "BlobArchived":
        return SourceNotFoundError(f"{place}: it {_IS_ARCHIVED.format('Archive')}")
    if code in ("InvalidResourceName", "InvalidUri", "OutOfRangeInput"):
        return InvalidConfigError(f"{place}; check the container's name")
    return classify(refusal)
