"""Files at HTTP and HTTPS URLs, without any SDK: HEADs or an index tell what there is, `transport` brings the bytes.

A file is pinned by its SHA-256 where the config or the index names it, else by its ETag, else by its modification time.
A server that takes no ranges or tells no length is read in one piece: its entries have no size. What an index may say
is `http_index`'s, what headers say `http_headers`'s business.
"""

import base64
import hashlib
import re
import tempfile
import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import IO
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
)
from datafetch.globs import Globs
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.http_headers import digest_of, given_name, modified_at, parse_header_lines
from datafetch.sources.http_index import LONGEST_LINE, IndexLine, read_index
from datafetch.sources.ranges import open_range
from datafetch.sources.retries import with_renewal, with_retries
from datafetch.transport import Answer, Pin, RangeBody, Request, Transport
from datafetch_api.config import HttpFile, HttpIndex, HttpItem
from datafetch_api.uris import file_name, redact_uri

_NO_HEAD = frozenset({400, 403, 404, 405, 500, 501})
"""What servers answer that know only GET, or whose URLs are signed for GET alone."""
_UNENCODED = re.compile(r"[^\x21-\x7e]")
_SHORTEST_SECRET = 16
"""Characters; shorter values of a query are words and numbers, and would blot out others."""
_MOST_SECRETS = 256
"""Files of an index whose queries are remembered as secrets; no message shows a URL's query anyway."""
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_LOOKS = 16
"""HEADs that are under way at a time."""
_LARGE_BYTES = 32 << 20
"""A file of an index that is larger is looked at though its size is known: a server that takes no ranges would send it
from its start for each of them."""
_MOST_ETAGS = 1024
_MOST_INDEX_BYTES = 1 << 30
_INDEX_IN_MEMORY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file before anybody has looked at it."""

    key: str
    target: str
    """Its path; the directory that it lies in, which ends at a slash or is empty, where its name is not given."""
    size: int | None = None
    sha256: str | None = None

    @property
    def is_named(self) -> bool:
        return bool(self.target) and not self.target.endswith("/")

    def entry(self) -> Entry | None:
        """Return it where all that a listing tells is known already."""
        if self.sha256 is None or self.size is None or self.size > _LARGE_BYTES:
            return None
        return Entry(self.key, self.target, self.size, f"sha256:{self.sha256}", _sha256(self.sha256))


@dataclass(frozen=True, slots=True)
class _Index:
    """An index as it was read last."""

    base: str
    """Its URL, redirects followed."""
    address: str
    """The IP address that sent it."""
    sha256: str


class HttpSource:
    """One `http` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: HttpItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._globs = Globs(item.include, item.exclude)
        self._wanted = _wanted_files(item.items)
        self._index: _Index | None = None
        self._etags = _ETags()
        try:
            self._urls = {key: _encoded(file.url) for key, file in self._wanted.items()}
            """Of an index only those that hold more than their keys."""
            self._index_url = _encoded(item.index.url) if item.index else ""
        except InvalidConfigError as error:
            raise error.at(item.name) from None
        self._own_origin = _origin(self._index_url) if item.index else None
        """Who sees the credentials of an index's files; without one, the config names every host."""
        for url in (self._index_url, *self._urls.values()):
            self._remember_query(url)
        self._credentials = self._read_credentials()
        self._transport = Transport(
            stall_timeout=stall_timeout,
            secrets=self._secrets,
            ca_file=self._files.authorities(item.ca_bundle_file),
        )

    @property
    def name(self) -> str:
        """The item's name."""
        return self._item.name

    @property
    def resolved_revision(self) -> str | None:
        """The SHA-256 of the index, once read: it says which files there are. None without one."""
        return f"sha256:{self._index.sha256}" if self._index else None

    @property
    def verifies(self) -> str:
        """What is verified of each file beside its size."""
        return "SHA-256, where the config, the index or the server (Repr-Digest) names it, else the size only"

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
        files = self._listed_by_config() if self._item.index is None else self._listed_by_index(self._item.index)
        count = 0
        for entry in self._look_at_all(files):
            count += 1
            yield entry
        if not count:
            raise self._nothing_matched().at(self.name)

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of the file, once more with new credentials where the files were rotated meanwhile."""
        ask = partial(open_range, self, entry, byte_range)
        try:
            body = with_renewal(ask, self._refresh, source=self.name, key=entry.key)
        except SourceChangedError:
            self._etags.give_up(entry.key, entry.identity)
            raise
        if _is_pinned_by_content(entry):
            self._etags.keep(entry.key, entry.identity, body.headers)
        return body

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the file."""
        identity = entry.identity
        if _is_pinned_by_content(entry):
            # Bytes of two versions would only be noticed at the end: the ETag seen first holds the ranges together.
            identity = self._etags.get(entry.key, entry.identity)
        condition, pin = _conditions(entry.size, identity)
        return self._request(entry.key, condition), pin

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return what the config or the index says, else the digest in the answer's head or that of the look-up."""
        if _is_pinned_by_content(entry):
            return entry.checksum
        return digest_of(headers) or entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the file as it is now; of one in an index, as the index has it now."""
        if self._item.index is None:
            file = self._wanted.get(entry.key)
            return self._look_at(_Wanted(entry.key, entry.path, sha256=file.sha256 if file else None))
        for wanted in self._listed_by_index(self._item.index):
            if wanted.key == entry.key and wanted.target == entry.path:
                return self._look_at(wanted)
        raise SourceNotFoundError(f"{redact_uri(self._index_url)} does not list it any more; run again", key=entry.key)

    def close(self) -> None:
        """Release connections."""
        self._closed.set()
        self._transport.close()

    # --- listing ---

    def _listed_by_config(self) -> Iterator[_Wanted]:
        for key, file in self._wanted.items():
            wanted = _Wanted(key, _target(file), sha256=file.sha256)
            if not wanted.is_named or self._globs.takes(wanted.target):
                yield wanted

    def _listed_by_index(self, index: HttpIndex) -> Iterator[_Wanted]:
        """Read the index and yield the files in it that are wanted."""
        directory = index.target_path.removeprefix("./").strip("/")
        prefix = f"{directory}/" if directory not in ("", ".") else ""
        with tempfile.SpooledTemporaryFile(_INDEX_IN_MEMORY_BYTES) as file, closing(self._index_lines(file)) as lines:
            for line in lines:
                if self._globs.takes(line.path):
                    yield _Wanted(self._key_of(line), f"{prefix}{line.path}", line.size, line.sha256)

    def _index_lines(self, file: IO[bytes]) -> Generator[IndexLine, None, None]:
        """Fetch the index into a file, and yield its lines."""
        index = self._item.index
        ask = partial(with_retries, partial(self._fetch_index, file), self._closed)
        found = with_renewal(ask, self._refresh, source=self.name, key=redact_uri(self._index_url))
        self._index = found
        file.seek(0)
        raw = iter(partial(file.readline, LONGEST_LINE + 1), b"")
        try:
            yield from read_index(raw, found.base, index.format if index else "auto")
        except DataFetchError as error:
            raise error.at(self.name) from None

    def _fetch_index(self, file: IO[bytes]) -> _Index:
        file.seek(0)
        file.truncate()
        digest, size = hashlib.sha256(), 0
        buffer = memoryview(bytearray(1 << 16))
        request = Request(self._index_url, {}, self._credentials)
        with self._transport.open_range(request, ByteRange(0, None), Pin()) as body:
            while count := body.readinto(buffer):
                size += count
                if size > _MOST_INDEX_BYTES:
                    raise InvalidConfigError(f"{redact_uri(body.url)} has more than 1 GiB; is it an index?")
                digest.update(buffer[:count])
                file.write(buffer[:count])
            self._remember_query(body.url)
            return _Index(body.url, body.address, digest.hexdigest())

    def _key_of(self, line: IndexLine) -> str:
        """Return what names a file of the index in messages, and remember its URL where that holds more."""
        try:
            url = _encoded(line.url)
        except InvalidConfigError as error:
            place = f"the index {redact_uri(self._index_url)}, line {line.number}"
            raise InvalidConfigError(f"{place}: {error.message}", source=self.name) from None
        key = redact_uri(url)
        if key == url:
            return key
        with self._lock:
            if len(self._urls) < _MOST_SECRETS:
                self._remember_query(url)
            if self._urls.setdefault(key, url) != url:
                key = f"{key}#{line.number}"
                self._urls[key] = url
        return key

    def _look_at_all(self, files: Iterator[_Wanted]) -> Iterator[Entry]:
        """Yield the entries of files, several of which are looked at at a time."""
        pool = ThreadPoolExecutor(_LOOKS, thread_name_prefix=f"look-{self.name}")
        looks: deque[Future[Entry]] = deque()
        try:
            for wanted in files:
                known = wanted.entry() if self._item.index else None
                if known is not None:
                    yield known
                    continue
                looks.append(pool.submit(self._look_at, wanted))
                if len(looks) > 2 * _LOOKS:
                    yield from self._taken(looks.popleft().result())
            while looks:
                yield from self._taken(looks.popleft().result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _taken(self, entry: Entry) -> Iterator[Entry]:
        """Yield the entry if it is wanted by the name that its server gave it."""
        if self._item.index is not None or self._globs.takes(entry.path):
            yield entry

    def _look_at(self, wanted: _Wanted) -> Entry:
        ask = partial(with_retries, partial(self._ask_about, wanted), self._closed)
        return with_renewal(ask, self._refresh, source=self.name, key=wanted.key)

    def _ask_about(self, wanted: _Wanted) -> Entry:
        answer = self._transport.ask(self._request(wanted.key, method="HEAD"))
        # Content-Range, and so the size, only comes with an answer to a range.
        if answer.status in _NO_HEAD or (answer.error is None and not _takes_ranges(answer)):
            answer = self._transport.ask(self._request(wanted.key, {"Range": "bytes=0-0"}))
            # An empty file has no first byte.
            if answer.status == 416:
                answer = self._transport.ask(self._request(wanted.key))
        if answer.error is not None:
            raise answer.error
        size, headers = _size(answer), answer.headers
        if wanted.size is not None and size not in (None, wanted.size):
            raise IntegrityMismatchError(
                f"{wanted.key!r} has {size} bytes, and the index {redact_uri(self._index_url)} says {wanted.size}; "
                "whoever keeps the index has to write it anew"
            )
        path = wanted.target if wanted.is_named else wanted.target + self._name_of(wanted, headers)
        if wanted.sha256 is None:
            return Entry(wanted.key, path, size, _identity(answer), digest_of(headers), modified_at(headers))
        identity = f"sha256:{wanted.sha256}"
        self._etags.keep(wanted.key, identity, headers)
        return Entry(wanted.key, path, size, identity, _sha256(wanted.sha256), modified_at(headers))

    def _name_of(self, wanted: _Wanted, headers: Mapping[str, str]) -> str:
        """Return the name that the server gives a file, else the last segment of its URL."""
        name = given_name(headers.get("content-disposition")) or file_name(self._url_of(wanted.key))
        if not name:
            raise InvalidConfigError(f"{wanted.key!r} names no file; set target_path to the file's path")
        return name

    def _nothing_matched(self) -> SourceNotFoundError:
        where = redact_uri(self._index_url) if self._item.index else "the list of URLs"
        if not (self._item.include or self._item.exclude):
            return SourceNotFoundError(f"{where} lists nothing; check it")
        globs = ", ".join(map(repr, self._item.include)) or "anything"
        without = f", {', '.join(map(repr, self._item.exclude))} left out" if self._item.exclude else ""
        return SourceNotFoundError(f"{where} has nothing that matches {globs}{without}; check the globs")

    # --- requests ---

    def _request(self, key: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Request:
        """Return a request for a file; credentials go to the hosts that the config names, and to no other."""
        url = self._url_of(key)
        if self._own_origin is None or _origin(url) == self._own_origin:
            return Request(url, headers or {}, self._credentials, method)
        return Request(url, headers or {}, {}, method, sender=self._known_index().address)

    def _url_of(self, key: str) -> str:
        url = self._urls.get(key)
        if url is None and self._item.index is not None:
            self._known_index()
            url = self._urls.get(key, key)
        if url is None:
            raise SourceNotFoundError(f"no URL of the config is {key!r}", key=key)
        return url

    def _known_index(self) -> _Index:
        """Return the index, read once where nobody has listed it: a lock file has."""
        if self._index is None and self._item.index is not None:
            for _ in self._listed_by_index(self._item.index):
                pass
        if self._index is None:
            raise SourceNotFoundError("there is no index that could name this file")
        return self._index

    def _remember_query(self, url: str) -> None:
        """Remember what a URL's query holds as secrets, as a signature: an answer may repeat it."""
        for _, value in parse_qsl(urlsplit(url).query):
            if len(value) >= _SHORTEST_SECRET:
                self._secrets.add(value)

    # --- credentials ---

    def _refresh(self) -> bool:
        with self._lock:
            before = self._credentials
            if self._files.has_changed():
                self._credentials = self._read_credentials()
            return self._credentials != before

    def _read_credentials(self) -> dict[str, str]:
        """Return the headers of the item, and the Authorization of its token, or of its user and password."""
        headers, login = self._read_headers(), self._read_login()
        if login and any(name.lower() == "authorization" for name in headers):
            raise InvalidConfigError(
                "the headers hold Authorization, and there is a token or a user too; give one of them",
                source=self.name,
            )
        return {**headers, **login}

    def _read_headers(self) -> dict[str, str]:
        text = self._files.value("headers_file", self._item.headers_file, "headers", secret=False)
        try:
            headers = parse_header_lines(text or "")
        except ValueError as error:
            raise InvalidConfigError(f"headers_file (key headers): {error}", source=self.name) from None
        for value in headers.values():
            self._secrets.add(value)
            # Of `Bearer TOKEN` a server may repeat the token alone.
            self._secrets.add(value.rpartition(" ")[2])
        return headers

    def _read_login(self) -> dict[str, str]:
        """Return the Authorization of the item's token, or of its user and password."""
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


def _wanted_files(files: Iterable[HttpFile]) -> dict[str, HttpFile]:
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


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an encoded URL: who sees one's credentials."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _target(file: HttpFile) -> str:
    """Return where a file of the config lands, as `_Wanted.target` has it."""
    target = (file.target_path or "./").removeprefix("./")
    return "" if target == "." else target


def _sha256(value: str) -> Checksum:
    return Checksum(ChecksumAlgorithm.SHA256, value)


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


def _is_pinned_by_content(entry: Entry) -> bool:
    return entry.identity.startswith("sha256:")


def _conditions(size: int | None, identity: str) -> tuple[dict[str, str], Pin]:
    """Return the precondition that holds a request to the listed content, and what its answer must say."""
    kind, _, value = identity.partition(":")
    if kind == "etag":
        return {"If-Match": value}, Pin(size, {"etag": value})
    if kind == "last-modified":
        return {"If-Unmodified-Since": value}, Pin(size, {"last-modified": value})
    return {}, Pin(size)


class _ETags:
    """The strong ETags under which files were first seen that are pinned by their SHA-256, the latest. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._etags: OrderedDict[tuple[str, str], str] = OrderedDict()

    def get(self, key: str, identity: str) -> str:
        """Return a file's, as an identity; empty where there is none."""
        return self._etags.get((key, identity), "")

    def keep(self, key: str, identity: str, headers: Mapping[str, str]) -> None:
        """Remember what an answer says, where nothing is known yet."""
        etag = headers.get("etag", "")
        if not etag.startswith('"'):
            return
        with self._lock:
            self._etags.setdefault((key, identity), f"etag:{etag}")
            if len(self._etags) > _MOST_ETAGS:
                self._etags.popitem(last=False)

    def give_up(self, key: str, identity: str) -> None:
        """Ask for a file without its ETag from now on: the servers behind one name may each have their own."""
        with self._lock:
            self._etags[key, identity] = ""
