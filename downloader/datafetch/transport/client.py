"""Ranges of objects over HTTP: requests, redirects, what an answer must say, and errors in our words.

The one data plane of every HTTP provider. A source says which URL with which headers and what identifies the object;
nothing here knows a provider or retries, save once, silently, where a kept connection turns out to be closed.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, NoReturn, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from datafetch import __version__
from datafetch.credentials import Secrets
from datafetch.errors import (
    DataFetchError,
    InvalidConfigError,
    SourceChangedError,
    SourceUnavailableError,
    StalledError,
)
from datafetch.sources import ByteRange, Checksum
from datafetch.transport.connection import Body, Connection, Head, ProtocolError, render_fields, render_head
from datafetch.transport.pool import Destination, ForbiddenRedirectError, Pool, ProxyRefusedError
from datafetch.transport.refusals import Classify, Refusal, classify, code_and_message
from datafetch_api.uris import redact_uri

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_BODY_BYTES = 4096
_USER_AGENT = f"datafetch/{__version__}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    url: str
    """Percent-encoded as it goes over the wire."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Host and User-Agent are the transport's own."""
    credential_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that only this host may see: a redirect to another one goes without them."""
    method: str = "GET"
    sender: str | None = None
    """`RangeBody.address` of the server that named the URL; None where the config does. It may lead no further than a
    redirect of that server could."""
    body: bytes = b""
    """What a POST sends."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What holds a range to one object."""

    size: int | None = None
    """Bytes of the whole object, where known."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names and the values that the answer must have, where it has the header at all: some servers ignore
    preconditions but say what they send."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer without its body. `error` says in our words why a status of 400 or more is one."""

    status: int
    headers: Mapping[str, str]
    url: str
    """Where it came from, redirects followed."""
    error: DataFetchError | None


class Transport:
    """The data plane of one source. Thread-safe.

    `stall_timeout` is the seconds that a connection may stay silent, `ca_file` the certificates to trust beside the
    public ones. `stored_encodings` is true where the server hands out what is stored, whatever Content-Encoding it
    names, as object stores do.
    """

    def __init__(
        self,
        *,
        stall_timeout: float,
        secrets: Secrets,
        ca_file: str | None = None,
        stored_encodings: bool = False,
        classify: Classify = classify,
    ) -> None:
        self._stall_timeout = stall_timeout
        self._secrets = secrets
        self._stored_encodings = stored_encodings
        self._classify = classify
        self._pool = Pool(silence=stall_timeout, ca_file=ca_file)
        self._ways: dict[str, _Way] = {}
        """By scheme and authority: most requests go to few."""

    def limit_receive_buffer(self, size: int | None) -> None:
        """Let the kernel take in at most so many bytes ahead on each connection that is opened from now on.

        Under a bandwidth limit: else servers send megabytes beyond it at once. None: as the kernel likes.
        """
        self._pool.receive_buffer_bytes = size

    def open_range(self, request: Request, byte_range: ByteRange, pin: Pin) -> "RangeBody":
        """Ask for a range and return its bytes once the answer's head proves that they are the right ones.

        Raises SourceChangedError, SourceNotFoundError, CredentialsRejectedError, SourceUnavailableError, StalledError.
        """
        exchange = self._follow(request, _range_header(byte_range, pin.size))
        try:
            return self._begin(exchange, byte_range, pin)
        except BaseException:
            exchange.discard()
            raise

    def ask(self, request: Request) -> Answer:
        """Send a request and return the answer's status and headers; its body is not read.

        Raises SourceUnavailableError and StalledError; a refusal is returned.
        """
        exchange = self._follow(request, {})
        try:
            error = self._refuse(exchange) if exchange.head.status >= 400 else None
        except BaseException:
            exchange.discard()
            raise
        exchange.finish()
        return Answer(exchange.head.status, exchange.head.headers, exchange.request.url, error)

    def address(self, request: Request) -> tuple[Destination, bytes]:
        """Return where a request for a whole object goes, and its head, for who sends it himself."""
        origin, target = _divide(request.url)
        way = self._way(request.url, origin)
        return way.destination, _render(request, target, way, {})

    def brings_whole(self, head: Head, pin: Pin) -> bool:
        """Say whether an answer's head is the plain one: the whole of exactly the pinned object, in one piece.

        Whatever else it may be, `open_range` knows what to do about it.
        """
        headers = head.headers
        if head.status != 200 or "transfer-encoding" in headers or headers.get("content-length") != str(pin.size):
            return False
        if headers.get("content-encoding", "identity") != "identity" and not self._stored_encodings:
            return False
        return all(headers.get(name, expected) == expected for name, expected in pin.headers.items())

    def refusal(self, head: Head, body: bytes, url: str) -> DataFetchError:
        """Return what a status of 400 or more means, by the answer's head and the beginning of its body."""
        code, message = code_and_message(head.headers, body)
        redact, place = self._secrets.redact, redact_uri(url)
        return self._classify(
            Refusal(head.status, redact(head.reason), place, head.headers, redact(code), redact(message))
        )

    def failure(self, error: Exception, url: str) -> DataFetchError:
        """Return what a broken exchange means."""
        try:
            self._fail(error, redact_uri(url))
        except DataFetchError as meant:
            return meant

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings of this source. Raises InvalidConfigError where a CA file cannot be read."""
        return self._pool.tls_context()

    def close(self) -> None:
        """Close every connection; reads that are under way fail."""
        self._pool.close()

    def _way(self, url: str, origin: str) -> "_Way":
        way = self._ways.get(origin)
        if way is None:
            parts = _split(url)
            way = _way_to(self._pool.destination(parts.scheme, parts.hostname or "", parts.port), url)
            self._ways[origin] = way
        return way

    def _begin(self, exchange: "_Exchange", byte_range: ByteRange, pin: Pin) -> "RangeBody":
        head = exchange.head
        if head.status >= 300:
            raise self._refuse(exchange)
        encoding = head.headers.get("content-encoding", "").lower()
        if encoding not in ("", "identity") and not self._stored_encodings:
            raise SourceUnavailableError(
                f"{exchange.place} answered with Content-Encoding {encoding[:40]!r}, though asked for plain bytes"
            )
        self._check_pin(exchange, pin)
        whole = byte_range.end if byte_range.end is not None else pin.size
        wanted = None if whole is None else whole - byte_range.start
        if head.status == 206:
            self._check_content_range(exchange, byte_range, pin)
            return RangeBody(exchange, 0, wanted if wanted is not None else exchange.body.length, to_end=True)
        if head.status != 200:
            raise SourceUnavailableError(f"{exchange.place} answered {head.status}, which holds no data")
        if pin.size is not None and exchange.body.length not in (None, pin.size):
            raise SourceChangedError(
                f"{exchange.place} has {exchange.body.length} bytes, the listing said {pin.size}; fetch it again"
            )
        # The server ignored the range and sends the object from its start: what comes before is read and dropped.
        return RangeBody(exchange, byte_range.start, wanted, to_end=whole == pin.size)

    def _check_pin(self, exchange: "_Exchange", pin: Pin) -> None:
        for name, expected in pin.headers.items():
            value = exchange.head.headers.get(name)
            if value is not None and value != expected:
                raise SourceChangedError(
                    f"{exchange.place} has another {name} than the listing named; the object changed, fetch it again"
                )

    def _check_content_range(self, exchange: "_Exchange", byte_range: ByteRange, pin: Pin) -> None:
        value = exchange.head.headers.get("content-range", "")
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", value, re.ASCII)
        if found is None:
            raise SourceUnavailableError(f"{exchange.place} answered 206 without a usable Content-Range")
        if pin.size is not None and found[3] not in ("*", str(pin.size)):
            raise SourceChangedError(
                f"{exchange.place} has {found[3]} bytes, the listing said {pin.size}; fetch it again"
            )
        first, end = int(found[1]), int(found[2]) + 1
        if first != byte_range.start or (byte_range.end is not None and end != byte_range.end):
            raise SourceUnavailableError(
                f"{exchange.place} sent bytes {first}-{end - 1}, asked were {byte_range.start}-"
                f"{'' if byte_range.end is None else byte_range.end - 1}"
            )
        length = exchange.body.length
        if length is not None and length != end - first:
            raise SourceUnavailableError(f"{exchange.place} sent {length} bytes for {value!r}")

    def _follow(self, request: Request, range_header: Mapping[str, str]) -> "_Exchange":
        sender = request.sender
        leads = "what another server named leads"
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                exchange = self._exchange(request, range_header, sender)
            except ForbiddenRedirectError as error:
                raise InvalidConfigError(
                    f"{leads} to {urlsplit(request.url).hostname}, which is {error}; a server may not send a "
                    "download there: give that URL itself, if it is meant"
                ) from None
            location = exchange.head.headers.get("location")
            if exchange.head.status not in _REDIRECTS or location is None:
                return exchange
            exchange.finish()
            leads, sender = f"{exchange.place} redirects", exchange.address
            request = _redirected(request, location, exchange.place)
        raise SourceUnavailableError(f"{redact_uri(request.url)} redirects more than {_MOST_REDIRECTS} times")

    def _exchange(self, request: Request, range_header: Mapping[str, str], sender: str | None) -> "_Exchange":
        origin, target = _divide(request.url)
        way = self._way(request.url, origin)
        destination = way.destination
        head = _render(request, target, way, range_header)
        try:
            connection, answer = self._send(destination, head, sender)
        except (OSError, ProtocolError, ProxyRefusedError) as error:
            self._fail(error, redact_uri(request.url))
        try:
            body = Body(connection, answer, request.method)
        except ProtocolError as error:
            self._pool.discard(connection)
            self._fail(error, redact_uri(request.url))
        return _Exchange(self, self._pool, destination, connection, request, answer, body)

    def _send(self, destination: Destination, head: bytes, sender: str | None) -> tuple[Connection, Head]:
        connection = self._pool.take(destination, sender=sender)
        try:
            return connection, _send_and_read(connection, head)
        except TimeoutError:
            self._pool.discard(connection)
            raise
        except (OSError, ProtocolError):
            self._pool.discard(connection)
            if not connection.reused or connection.answered:
                raise
        # The server had closed the kept connection before it saw the request: a fresh one is the same request.
        connection = self._pool.take(destination, sender=sender, fresh=True)
        try:
            return connection, _send_and_read(connection, head)
        except (OSError, ProtocolError):
            self._pool.discard(connection)
            raise

    def _refuse(self, exchange: "_Exchange") -> DataFetchError:
        body = bytearray(_ERROR_BODY_BYTES)
        length = 0
        try:
            while length < len(body):
                count = exchange.body.readinto(memoryview(body)[length:])
                if not count:
                    break
                length += count
        except (OSError, ProtocolError):
            # The status says enough.
            length = 0
        return self.refusal(exchange.head, bytes(body[:length]), exchange.request.url)

    def _fail(self, error: Exception, place: str) -> NoReturn:
        """Raise what a broken exchange means. `place` is a redacted URL."""
        if isinstance(error, TimeoutError):
            raise StalledError(f"{place} sent nothing for {self._stall_timeout:g} s") from None
        if isinstance(error, ssl.SSLCertVerificationError):
            raise InvalidConfigError(
                f"{place} has a certificate that is not trusted ({error.verify_message}); "
                "name its CA in ca_bundle_file (caBundle), or as ca.crt among the credentials"
            ) from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceUnavailableError(f"{place} cannot be read: {self._secrets.redact(str(reason))}") from None


class _Way(NamedTuple):
    """What all requests to one host have in common."""

    destination: Destination
    before_target: str
    """What comes before the path in the request's first line: a plain proxy is told scheme and host there."""
    fields: str
    """Header lines."""


class RangeBody:
    """The bytes of one range; leaving it returns the connection to the pool or closes it."""

    def __init__(self, exchange: "_Exchange", skip: int, remaining: int | None, *, to_end: bool) -> None:
        self._exchange = exchange
        self._to_end = to_end
        """Whether the answer has to end with the range."""
        self._body = exchange.body
        self._skip = skip
        self._remaining = remaining
        self.checksum: Checksum | None = None
        """What the object promises of all its bytes; the source that asked fills it in."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers, names in lower case."""
        return self._exchange.head.headers

    @property
    def url(self) -> str:
        """Where the bytes come from, redirects followed. May hold a presigned query: not for messages."""
        return self._exchange.request.url

    @property
    def address(self) -> str:
        """The IP address that sends them; behind a proxy the host as it stands in the URL."""
        return self._exchange.address

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes arrived: 0 only at the end of the range."""
        if self._remaining == 0:
            if self._to_end:
                self._check_end()
            return 0
        while self._skip:
            self._skip -= self._read(buffer[: self._skip])
        if self._remaining is None:
            return self._read(buffer)
        count = self._read(buffer if len(buffer) <= self._remaining else buffer[: self._remaining])
        self._remaining -= count
        if not self._remaining and self._to_end:
            self._check_end()
        return count

    def _check_end(self) -> None:
        """Read the end of an answer that has not told its length: nothing may come before it."""
        if self._body.length != 0 and self._read(memoryview(bytearray(1))):
            raise SourceChangedError(
                f"{self._exchange.place} sends more bytes than the listing said; the object changed, fetch it again"
            )

    def _read(self, buffer: memoryview) -> int:
        try:
            count = self._body.readinto(buffer)
        except (OSError, ProtocolError) as error:
            self._exchange.fail(error)
        if not count and (self._remaining or self._skip) and len(buffer):
            self._exchange.fail(ConnectionResetError("it ended before the bytes that were asked for"))
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exchange.finish()


class _Exchange:
    """One request and its answer, and the connection that they hold until the answer is read."""

    __slots__ = ("_connection", "_destination", "_pool", "_transport", "body", "head", "request")

    def __init__(
        self,
        transport: Transport,
        pool: Pool,
        destination: Destination,
        connection: Connection,
        request: Request,
        head: Head,
        body: Body,
    ) -> None:
        self._transport = transport
        self._pool = pool
        self._destination = destination
        self._connection = connection
        self.request = request
        self.head = head
        self.body = body

    @property
    def place(self) -> str:
        return redact_uri(self.request.url)

    @property
    def address(self) -> str:
        return self._connection.address

    def finish(self) -> None:
        """Keep the connection where the answer was read to its end, else close it."""
        if self.head.keep_alive and self.body.reusable:
            self._pool.give_back(self._destination, self._connection)
        else:
            self._pool.discard(self._connection)

    def discard(self) -> None:
        self._pool.discard(self._connection)

    def fail(self, error: Exception) -> NoReturn:
        self._transport._fail(error, self.place)  # noqa: SLF001 - an exchange is a part of its transport


def _send_and_read(connection: Connection, head: bytes) -> Head:
    connection.send(head)
    return connection.read_head()


def _range_header(byte_range: ByteRange, size: int | None) -> Mapping[str, str]:
    """Return the Range header, none for a whole object: an empty one has no range that could be asked for."""
    if not byte_range.start and (byte_range.end is None or byte_range.end == size):
        return {}
    last = "" if byte_range.end is None else byte_range.end - 1
    return {"Range": f"bytes={byte_range.start}-{last}"}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidConfigError(f"{redact_uri(url)!r} is not a URL; write https://HOST/PATH") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidConfigError(f"{redact_uri(url)!r} is not a URL; write https://HOST/PATH")
    return parts


def _divide(url: str) -> tuple[str, str]:
    """Return a URL's scheme and authority, and the request target."""
    scheme, _, rest = url.partition("#")[0].partition("://")
    authority, slash, path = rest.partition("/")
    if "?" in authority:
        authority, _, query = authority.partition("?")
        return f"{scheme}://{authority}", f"/?{query}{slash}{path}"
    return f"{scheme}://{authority}", "/" + path


def _way_to(destination: Destination, url: str) -> _Way:
    fields = {"Host": destination.authority, "User-Agent": _USER_AGENT}
    before_target = ""
    if destination.proxy and destination.scheme == "http":
        before_target = f"http://{destination.authority}"
        fields.update(destination.proxy.headers)
    try:
        return _Way(destination, before_target, render_fields(fields))
    except ValueError as error:
        raise InvalidConfigError(f"{redact_uri(url)}: {error}") from None


def _render(request: Request, target: str, way: _Way, range_header: Mapping[str, str]) -> bytes:
    headers = {"Accept-Encoding": "identity", **range_header, **request.headers, **request.credential_headers}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    target = way.before_target + target
    if " " in target:
        raise InvalidConfigError(f"{redact_uri(request.url)!r} holds a space; write it as %20")
    try:
        return render_head(request.method, target, headers, way.fields) + request.body
    except ValueError as error:
        raise InvalidConfigError(f"{redact_uri(request.url)}: {error}") from None


def _redirected(request: Request, location: str, place: str) -> Request:
    """Return the request to follow a redirect with: without credentials where they would reach another host."""
    before = _split(request.url)
    try:
        url = urljoin(request.url, location)
        after = _split(url)
    except (ValueError, InvalidConfigError):
        # What stands there may hold a password, and is nothing that the reader of the message wrote.
        raise SourceUnavailableError(f"{place} redirects to something that is no URL of http or https") from None
    same = (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port)
    if before.scheme == "https" and after.scheme == "http":
        raise InvalidConfigError(f"{place} redirects to plain http at {after.hostname}; name a URL that stays on https")
    return Request(
        url=url.partition("#")[0],
        headers=request.headers,
        credential_headers=request.credential_headers if same else {},
        method=request.method,
        body=request.body,
    )


__all__ = ["Answer", "Pin", "RangeBody", "Request", "Transport"]
