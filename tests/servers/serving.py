"""HTTP/1.1 on a real socket, a thread a connection: hands requests to a function and sends what it returns.

Carries out faults, keeps the pace and records the traffic. What is served is decided in `http`, `hub` and
`faults`; this module knows no paths.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

from .plans import Fault, FaultPlan, Pace
from .traffic import Exchange, Traffic

CHUNK_BYTES = 256 * 1024
PACED_CHUNK_BYTES = 16 * 1024
"""Small enough that a slow response is an even stream and no sequence of bursts."""


@dataclass(frozen=True)
class Response:
    """What to send. With `length` None and a body, the body goes out in chunked transfer coding."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | memoryview | Iterable[bytes] = b""
    length: int | None = 0
    """The Content-Length to claim, in bytes; the connection is closed after a body of another length."""
    close: bool = False
    """Close the connection after this response."""


def text_response(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """A short response with a body for people."""
    body = text.encode()
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), body, len(body))


@dataclass(frozen=True)
class Request:
    """One request; `body` yields the request's body, decoded from its transfer coding."""

    exchange: Exchange
    header_items: tuple[tuple[str, str], ...]
    """Headers as they came, in order, with their spelling."""
    body: Iterator[bytes] = field(default_factory=lambda: iter(()))
    in_progress: int = 1
    """Requests in progress at the server, this one included."""

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return self.exchange.method

    def header(self, name: str) -> str | None:
        """A header's value, by its lower-case name."""
        return self.exchange.headers.get(name)


Respond = Callable[[Request], Response]


class Server:
    """A running server; use it as a context manager, or call `stop`.

    `faults`, `pace` and `traffic` may be used at any time from the test's thread.
    """

    def __init__(
        self,
        respond: Respond,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.faults = FaultPlan()
        self.pace = Pace()
        self.traffic = Traffic()
        self._respond = respond
        self._stopping = threading.Event()
        self._listener = _Listener((host, port), self, _tls_context(certificate))
        self.host, self.port = host, int(self._listener.server_address[1])
        self.url = f"{'https' if certificate else 'http'}://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, name=f"server {self.url}"
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, break what is being sent, and wait for every thread."""
        self._stopping.set()
        self._listener.shutdown()
        self._listener.break_connections()
        self._listener.server_close()
        self._thread.join()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the server's end. Raises ConnectionAbortedError at its end."""
        if seconds > 0 and self._stopping.wait(seconds):
            raise ConnectionAbortedError("the server stops")

    def handle(self, request: Request) -> Response:
        """Answer one request that no fault has answered."""
        return self._respond(request)


def _tls_context(certificate: tuple[Path, Path] | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: Server, tls: ssl.SSLContext | None) -> None:
        self.owner = owner
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self._tls:
            # The handshake happens at the first read, in the connection's own thread.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        # Clients hang up whenever they like, and TLS clients refuse certificates: neither is this server's error.
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            super().handle()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        self._exchange()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Print nothing: tests read `traffic`."""

    def _exchange(self) -> None:
        owner = self.server.owner
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        # parse_request() rewrites a path that begins with two slashes; signatures cover what was sent.
        target = self.requestline.split(" ")[1]
        exchange = Exchange(self.command, target, headers)
        in_progress = owner.traffic.begin(exchange)
        body = _request_body(self.rfile, headers)
        request = Request(exchange, tuple(self.headers.items()), body, in_progress)
        try:
            self._answer(request)
        except ConnectionError:
            self.close_connection = True
        finally:
            owner.traffic.end(exchange)

    def _answer(self, request: Request) -> None:
        owner = self.server.owner
        fault = owner.faults.take(request.exchange)
        owner.wait(fault.latency)
        response = _refusal(fault) if fault.status else owner.handle(request)
        # What the answer did not need must be off the wire before the next request can be read.
        for _ in request.body:
            pass
        try:
            self._send(response, fault, request.exchange)
        finally:
            # A body that arrives while it is sent may hold a connection of its own.
            close = getattr(response.body, "close", None)
            if close:
                close()

    def _send(self, response: Response, fault: Fault, exchange: Exchange) -> None:
        exchange.status = response.status
        bodiless = exchange.method == "HEAD" or response.status in {204, 304}
        chunked = response.length is None and not bodiless
        self.send_response_only(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if not any(name.lower() == "date" for name, _ in response.headers):
            self.send_header("Date", formatdate(usegmt=True))
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif response.length is not None and response.status != 204:
            self.send_header("Content-Length", str(response.length))
        if response.close:
            self.send_header("Connection", "close")
        if bodiless or response.length == 0:
            self.server.owner.traffic.end(exchange)
        self.end_headers()
        if not bodiless:
            self._send_body(response, fault, exchange, chunked)
        self.close_connection = self.close_connection or response.close

    def _send_body(self, response: Response, fault: Fault, exchange: Exchange, chunked: bool) -> None:
        pace = Pace(fault.bytes_per_second)
        for piece in _with_faults(response.body, fault, self._chunk_bytes(fault)):
            if piece is _STALL:
                self.server.owner.wait(fault.stall_seconds)
                continue
            if piece is _CUT:
                self._cut(fault.reset)
            # First the count, then the bytes: a client that has them all can look at the traffic.
            exchange.sent += len(piece)
            if exchange.sent == response.length:
                self.server.owner.traffic.end(exchange)
            self._write(piece, chunked)
            self.server.owner.wait(max(pace.reserve(len(piece)), self.server.owner.pace.reserve(len(piece))))
        if chunked:
            self.server.owner.traffic.end(exchange)
            self.wfile.write(b"0\r\n\r\n")
        elif exchange.sent != response.length:
            self.close_connection = True

    def _chunk_bytes(self, fault: Fault) -> int:
        paced = fault.bytes_per_second or self.server.owner.pace.rate
        return PACED_CHUNK_BYTES if paced else CHUNK_BYTES

    def _write(self, piece: bytes | memoryview, chunked: bool) -> None:
        if chunked:
            self.wfile.write(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        else:
            self.wfile.write(piece)

    def _cut(self, reset: bool) -> None:
        if reset:
            # Closing a socket that lingers for zero seconds sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionResetError("planned")
        raise ConnectionAbortedError("planned")


_STALL = memoryview(b"stall")
_CUT = memoryview(b"cut")


def _with_faults(
    body: bytes | memoryview | Iterable[bytes], fault: Fault, chunk_bytes: int
) -> Iterator[bytes | memoryview]:
    """The body in pieces that end where a fault strikes, with `_STALL` and `_CUT` between them."""
    marks = sorted(
        (position, mark) for position, mark in ((fault.stall_after, 0), (fault.cut_after, 1)) if position is not None
    )
    position = 0
    for piece in _pieces(body, chunk_bytes):
        rest = _flipped(piece, position, fault.flip_at)
        while marks and marks[0][0] <= position + len(rest):
            at, mark = marks.pop(0)
            if at > position:
                yield rest[: at - position]
                rest, position = rest[at - position :], at
            yield _CUT if mark else _STALL
        if rest:
            yield rest
        position += len(rest)


def _pieces(body: bytes | memoryview | Iterable[bytes], chunk_bytes: int) -> Iterator[memoryview]:
    whole = (body,) if isinstance(body, bytes | memoryview) else body
    for part in whole:
        view = memoryview(part)
        for start in range(0, len(view), chunk_bytes):
            yield view[start : start + chunk_bytes]


def _flipped(piece: memoryview, position: int, flip_at: int | None) -> memoryview:
    if flip_at is None or not position <= flip_at < position + len(piece):
        return piece
    changed = bytearray(piece)
    changed[flip_at - position] ^= 0xFF
    return memoryview(changed)


def _refusal(fault: Fault) -> Response:
    return slow_down(fault.status or 503, fault.retry_after)


def slow_down(status: int, retry_after: str | None) -> Response:
    """An error in the form of S3's: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""
    code = "SlowDown" if status == 503 else "InternalError"
    body = f"<Error><Code>{code}</Code><Message>Please reduce your request rate.</Message></Error>".encode()
    headers = [("Content-Type", "application/xml")]
    if retry_after is not None:
        headers.append(("Retry-After", retry_after))
    return Response(status, tuple(headers), body, len(body))


def _request_body(stream: io.BufferedIOBase, headers: dict[str, str]) -> Iterator[bytes]:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _chunked_body(stream)
    return _sized_body(stream, int(headers.get("content-length", "0")))


def _sized_body(stream: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    while size > 0:
        data = stream.read(min(size, CHUNK_BYTES))
        if not data:
            raise ConnectionAbortedError("the client ended within its request")
        size -= len(data)
        yield data


def _chunked_body(stream: io.BufferedIOBase) -> Iterator[bytes]:
    while size := int(stream.readline().partition(b";")[0], 16):
        yield from _sized_body(stream, size)
        stream.readline()
    while stream.readline().strip():
        pass  # trailers


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a server to have seen something. Raises TimeoutError when it does not happen in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not seen within {seconds} s")
        time.sleep(0.005)
