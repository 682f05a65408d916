"""Files at HTTP and HTTPS URLs, without any SDK: a HEAD tells what there is, `transport` brings the bytes.

A file is pinned by its ETag, else by its modification time. A server that takes no ranges or tells no length is read
in one piece: its entries have no size.
"""

import base64
import binascii
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import DataFetchError, InvalidConfigError
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.ranges import open_range
from datafetch.sources.retries import with_renewal, with_retries
from datafetch.transport import Answer, Pin, RangeBody, Request, Transport
from datafetch_api.config import HttpFile, HttpItem
from datafetch_api.uris import file_name, redact_uri

_NO_HEAD = frozenset({400, 403, 404, 405, 500, 501})
"""What servers answer that know only GET, or whose URLs are signed for GET alone."""
_UNENCODED = re.compile(r"[^\x21-\x7e]")
_SHORTEST_SECRET = 16
"""Characters; shorter values of a query are words and numbers, and would blot out others."""
_SHA256 = re.compile(r"(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class HttpSource:
    """One `http` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: HttpItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._closed = threading.Event()
        self._listed = _keys(item.items)
        try:
            self._urls = {key: _encoded(file.url) for key, file in self._listed.items()}
        except InvalidConfigError as error:
            raise error.at(item.name) from None
        for file in item.items:
            self._remember_query(file.url)
        self._credentials = self._read_credentials()
        self._transport = Transport(
            stall_timeout=stall_timeout, secrets=self._secrets, ca_file=self._files.path("ca.crt")
        )

    @property
    def name(self) -> str:
        """The item's name."""
        return self._item.name

    @property
    def resolved_revision(self) -> str | None:
        """None: a URL has no revisions."""
        return None

    @property
    def verifies(self) -> str:
        """What is verified of each file beside its size."""
        return "the digest that the server sends (Repr-Digest), else the size only"

    @property
    def http(self) -> HttpAccess:
        """The source itself: its bytes come by plain HTTP requests."""
        return self

    @property
    def transport(self) -> Transport:
        """The source's data plane."""
        return self._transport

    def list(self) -> Iterator[Entry]:
        """Yield the file of each URL."""
        for key, file in self._listed.items():
            try:
                yield with_retries(partial(self._look_up, key, _landing(file)), self._closed)
            except DataFetchError as error:
                raise error.at(self.name, key) from None

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the file, once more with new credentials where the files were rotated meanwhile."""
        ask = partial(open_range, self, entry, byte_range)
        return with_renewal(ask, self._refresh, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the file."""
        condition, pin = _conditions(entry)
        return Request(self._urls[entry.key], condition, self._credentials), pin

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return the digest in the answer's head, else the one that came with the look-up."""
        return _digest(headers) or entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the file as it is now."""
        return with_retries(partial(self._look_up, entry.key, entry.path), self._closed)

    def close(self) -> None:
        """Release connections."""
        self._closed.set()
        self._transport.close()

    def _look_up(self, key: str, path: str) -> Entry:
        url = self._urls[key]
        answer = self._transport.ask(Request(url, {}, self._credentials, method="HEAD"))
        # Content-Range, and so the size, only comes with an answer to a range.
        if answer.status in _NO_HEAD or (answer.error is None and not _takes_ranges(answer)):
            answer = self._transport.ask(Request(url, {"Range": "bytes=0-0"}, self._credentials))
            # An empty file has no first byte.
            if answer.status == 416:
                answer = self._transport.ask(Request(url, {}, self._credentials))
        if answer.error is not None:
            raise answer.error
        return Entry(key, path, _size(answer), _identity(answer), _digest(answer.headers), _modified(answer.headers))

    def _remember_query(self, url: str) -> None:
        """Remember what a URL's query holds as secrets, as a signature: an answer may repeat it."""
        for _, value in parse_qsl(urlsplit(url).query):
            if len(value) >= _SHORTEST_SECRET:
                self._secrets.add(value)

    def _refresh(self) -> bool:
        before = self._credentials
        if self._files.has_changed():
            self._credentials = self._read_credentials()
        return self._credentials != before

    def _read_credentials(self) -> dict[str, str]:
        """Return the Authorization header of the item's token, or of its user and password."""
        item, value = self._item, self._files.value
        token = value("token_file", item.token_file, "token")
        username = value("username_file", item.username_file, "username", secret=False)
        password = value("password_file", item.password_file, "password")
        if item.token_file is not None and item.username_file is not None:
            raise InvalidConfigError("give token_file or username_file, not both", source=item.name)
        # A Secret may hold both; the token says more.
        if token is not None:
            return {"Authorization": f"Bearer {token}"}
        if username is None and password is None:
            return {}
        if username is None or password is None:
            raise InvalidConfigError("username and password belong together; give both or neither", source=item.name)
        login = base64.b64encode(f"{username}:{password}".encode()).decode()
        return {"Authorization": f"Basic {self._secrets.add(login)}"}


def _keys(files: Iterable[HttpFile]) -> dict[str, HttpFile]:
    """Return what names each file in messages: its URL without the query, which may hold a signature."""
    keys: dict[str, HttpFile] = {}
    for number, file in enumerate(files, start=1):
        key = redact_uri(file.url)
        keys[key if key not in keys else f"{key}#{number}"] = file
    return keys


def _encoded(url: str) -> str:
    """Return the URL as it goes over the wire: without fragment, what is not ASCII percent-encoded."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except (ValueError, UnicodeError):
        raise InvalidConfigError(f"{redact_uri(url)!r} is not a URL; write https://HOST/FILE") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidConfigError(f"{redact_uri(url)!r} is not a URL; write https://HOST/FILE")
    if parts.username is not None or parts.password is not None:
        raise InvalidConfigError(
            f"{redact_uri(url)!r} holds a user or password; put them into files and name those "
            "(username_file, password_file)"
        )
    host = f"[{host}]" if ":" in host else host
    authority = host if port is None else f"{host}:{port}"
    encoded = urlunsplit((parts.scheme, authority, parts.path, parts.query, ""))
    return _UNENCODED.sub(lambda character: quote(character[0]), encoded)


def _landing(file: HttpFile) -> str:
    target = (file.target_path or "./").removeprefix("./")
    if target not in ("", ".") and not target.endswith("/"):
        return target
    name = file_name(file.url)
    if not name:
        raise InvalidConfigError(f"{redact_uri(file.url)!r} names no file; set target_path to the file's path")
    return ("" if target == "." else target) + name


def _takes_ranges(answer: Answer) -> bool:
    return answer.headers.get("accept-ranges", "").lower() == "bytes" and "content-length" in answer.headers


def _size(answer: Answer) -> int | None:
    """Return the file's size, None where it comes in one piece or its length is not told."""
    if answer.status == 206:
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        return int(total) if _NUMBER.fullmatch(total) else None
    length = answer.headers.get("content-length", "")
    if not _NUMBER.fullmatch(length):
        return None
    return int(length) if _takes_ranges(answer) or length == "0" else None


def _identity(answer: Answer) -> str:
    """Return what identifies the content. A weak ETag does not: it is the same for equivalent bytes."""
    etag = answer.headers.get("etag", "")
    if etag.startswith('"'):
        return f"etag:{etag}"
    modified = answer.headers.get("last-modified")
    return f"last-modified:{modified}" if modified else ""


def _modified(headers: Mapping[str, str]) -> datetime | None:
    """Return the time in Last-Modified (RFC 9110, 8.8.2)."""
    try:
        found = parsedate_to_datetime(headers["last-modified"])
    except (KeyError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def _digest(headers: Mapping[str, str]) -> Checksum | None:
    """Return the SHA-256 of the whole file, where the server sends it: RFC 9530's Repr-Digest, or RFC 3230's Digest."""
    found = _SHA256.search(headers.get("repr-digest", "")) or _SHA256.search(headers.get("digest", ""))
    if found is None:
        return None
    try:
        return Checksum(ChecksumAlgorithm.SHA256, base64.b64decode(found[1], validate=True).hex())
    except binascii.Error:
        return None


def _conditions(entry: Entry) -> tuple[dict[str, str], Pin]:
    """Return the precondition that holds a request to the listed content, and what its answer must say."""
    kind, _, value = entry.identity.partition(":")
    if kind == "etag":
        return {"If-Match": value}, Pin(entry.size, {"etag": value})
    if kind == "last-modified":
        return {"If-Unmodified-Since": value}, Pin(entry.size, {"last-modified": value})
    return {}, Pin(entry.size)
