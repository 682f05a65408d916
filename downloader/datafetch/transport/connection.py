"""One HTTP/1.1 connection: a request out, a head and a body in, the body's bytes straight into the caller's buffer.

Knows sockets and framing (RFC 9112), nothing of sources: raises OSError, TimeoutError and ProtocolError. Who owns which
connection is `pool`'s business, what an answer means is `client`'s.
"""

import contextlib
import re
import socket
import struct
from collections.abc import Mapping, Sized
from typing import NamedTuple

from datafetch.transport.tls import TlsLayer

_BUFFER_BYTES = 32 * 1024
"""Holds a head and, in the same system call, the whole of a small object; a longer head is refused."""
_TICK_SECONDS = 1.0
"""How long one receive waits for a full buffer before it hands over what has come."""
_CONTROLS = bytes([*range(0x20), 0x7F])
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")
_MOST_INTERIM = 16
"""Interim answers (1xx) before the answer itself; a server that sends more never comes to it."""
_MOST_KNOWN = 512
_LONGEST_KNOWN = 100
"""Status lines and header names that are remembered, and their most characters."""
_known_status_lines: dict[str, tuple[str, int, str]] = {}
"""Each with its minor version, status and reason."""
_known_names: dict[str, str] = {}
"""Header names as servers write them, and in lower case."""
_NO_BODY = frozenset({204, 304})


class ProtocolError(Exception):
    """The server's answer is not HTTP/1.1 as RFC 9112 has it."""


class Head(NamedTuple):
    """Status line and headers; header names in lower case, repeated ones joined by commas."""

    status: int
    reason: str
    headers: dict[str, str]
    keep_alive: bool


def render_head(method: str, target: str, headers: Mapping[str, str], fixed: str = "") -> bytes:
    """Return a request's head. `fixed` holds header lines that `render_fields` has made.

    Raises ValueError where a value holds control characters.
    """
    data = f"{method} {target} HTTP/1.1\r\n{fixed}{_join(headers)}\r\n".encode("latin-1")
    # Of our own are only the ends of the lines: the request's, each header's, and the blank one.
    ends = 2 * (2 + fixed.count("\n") + len(headers))
    if len(data) - len(data.translate(None, _CONTROLS)) != ends:
        _refuse_controls({method: target, **headers})
    return data


def render_fields(headers: Mapping[str, str]) -> str:
    """Return header lines that go with many requests. Raises ValueError where a value holds control characters."""
    _refuse_controls(headers)
    return _join(headers)


def _join(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def _refuse_controls(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if _UNSAFE.search(name) or _UNSAFE.search(value):
            raise ValueError(f"control character in the request's {name!r}")


class Connection:
    """One connection, used by one thread at a time. `silence` is the seconds that the peer may stay silent."""

    def __init__(self, sock: socket.socket, silence: float, tls: TlsLayer | None = None) -> None:
        self.address = ""
        """The IP address that it leads to; behind a proxy the host as it stands in the URL."""
        self.reused = False
        """Whether it has carried a request before: the server may have closed it since."""
        self.idle_since = 0.0
        """When it was given back, by the monotonic clock."""
        self.answered = False
        """Whether a byte of the present answer has arrived."""
        self._socket = sock
        self._silence = silence
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._tls = tls
        # A socket with a Python timeout is polled before every receive; with the kernel's own it is not.
        sock.settimeout(None)
        tick = min(_TICK_SECONDS, silence)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(tick))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(silence))
        self._most_ticks = max(1, round(silence / tick))

    def send(self, head: bytes) -> None:
        """Send a request's head; no request of ours has a body."""
        self.answered = False
        self._start = self._end = 0
        try:
            (self._tls or self._socket).sendall(head)
        except BlockingIOError:
            raise TimeoutError from None

    def read_head(self) -> Head:
        """Return the answer's head, interim answers (1xx) left out."""
        for _ in range(_MOST_INTERIM + 1):
            head = parse_head(self._read_until_blank_line())
            if head.status >= 200:
                return head
        raise ProtocolError(f"more than {_MOST_INTERIM} interim answers and no other")

    def receive(self, view: memoryview) -> int:
        """Fill `view` from its start with what comes next; return how many bytes, 0 where the peer has closed."""
        waiting = self._end - self._start
        if not waiting:
            return self._receive(view, socket.MSG_WAITALL)
        count = min(waiting, len(view))
        view[:count] = self._buffer[self._start : self._start + count]
        self._start += count
        return count

    def read_line(self) -> bytes:
        """Return the next line without its end."""
        line = self._take_through(b"\r\n")
        return line[:-2]

    def abort(self) -> None:
        """Wake up a thread that waits for this connection; the owner closes it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def detach(self) -> socket.socket:
        """Return the socket, for TLS inside a tunnel. Raises ProtocolError where bytes of it were read already."""
        if self._start != self._end:
            raise ProtocolError("the proxy sent data before the TLS handshake")
        return self._socket

    def _read_until_blank_line(self) -> bytes:
        # Bytes after the head are rare only where the body is long: they stay in the buffer.
        return self._take_through(b"\r\n\r\n")

    def _take_through(self, mark: bytes) -> bytes:
        base = self._buffer.obj
        if not isinstance(base, bytearray):
            raise TypeError("the buffer is a bytearray")
        searched = self._start
        while True:
            found = base.find(mark, searched, self._end)
            if found >= 0:
                taken = bytes(self._buffer[self._start : found + len(mark)])
                self._start = found + len(mark)
                return taken
            searched = max(self._start, self._end - len(mark) + 1)
            searched -= self._make_room()
            count = self._receive(self._buffer[self._end :], 0)
            if not count:
                raise ConnectionResetError("the server closed the connection before it had answered")
            self.answered = True
            self._end += count

    def _make_room(self) -> int:
        """Move what waits to the buffer's front where its end is reached; return by how far."""
        if self._end < len(self._buffer):
            return 0
        moved = self._start
        if not moved:
            raise ProtocolError(f"a head or line of more than {_BUFFER_BYTES} bytes")
        waiting = self._end - moved
        self._buffer[:waiting] = bytes(self._buffer[moved : self._end])
        self._start, self._end = 0, waiting
        return moved

    def _receive(self, view: memoryview, flags: int) -> int:
        for _ in range(self._most_ticks):
            try:
                if self._tls is not None:
                    return self._tls.recv_into(view)
                return self._socket.recv_into(view, 0, flags)
            except BlockingIOError:
                continue
        raise TimeoutError


class Body:
    """The body of one answer. `method` is the request's."""

    def __init__(self, connection: Connection, head: Head, method: str) -> None:
        self._connection = connection
        self._chunked = False
        self.remaining: int | None = 0
        """Bytes that are still to come; None where only the end of the body will tell."""
        if method == "HEAD" or head.status in _NO_BODY:
            return
        encoding = head.headers.get("transfer-encoding", "").lower()
        if encoding not in ("", "identity", "chunked"):
            raise ProtocolError(f"unknown transfer encoding {encoding!r}")
        self._chunked = encoding == "chunked"
        self.remaining = None if self._chunked else _content_length(head.headers)
        self._chunk = 0
        self._first_chunk = True

    @property
    def length(self) -> int | None:
        """Bytes of the whole body that are still to come, where the head told."""
        return self.remaining

    @property
    def reusable(self) -> bool:
        """Whether the body was read to its end, so that the connection may carry another request."""
        return self.remaining == 0

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from its start; return how many bytes, 0 at the end of the body.

        Raises ConnectionResetError where the connection ends before the body.
        """
        if self._chunked:
            return self._read_chunk(view)
        if self.remaining is None:
            return self._read_to_close(view)
        if not self.remaining:
            return 0
        if len(view) > self.remaining:
            view = view[: self.remaining]
        count = self._receive(view)
        self.remaining -= count
        return count

    def _receive(self, view: memoryview) -> int:
        count = self._connection.receive(view)
        if not count:
            raise ConnectionResetError("the connection ended in the middle of the body")
        return count

    def _read_to_close(self, view: memoryview) -> int:
        return self._connection.receive(view)

    def _read_chunk(self, view: memoryview) -> int:
        if self.remaining == 0:
            return 0
        if not self._chunk:
            self._begin_chunk()
            if self.remaining == 0:
                return 0
        count = self._receive(view[: self._chunk] if len(view) > self._chunk else view)
        self._chunk -= count
        return count

    def _begin_chunk(self) -> None:
        if not self._first_chunk and self._connection.read_line():
            raise ProtocolError("a chunk is longer than it said")
        self._first_chunk = False
        size = self._connection.read_line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise ProtocolError("a chunk has no size")
        self._chunk = int(size, 16)
        if self._chunk:
            return
        trailers = 0
        while line := self._connection.read_line():
            trailers += len(line)
            if trailers > _BUFFER_BYTES:
                raise ProtocolError(f"trailers of more than {_BUFFER_BYTES} bytes")
        self.remaining = 0


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))


def parse_head(data: bytes) -> Head:
    """Return an answer's head from its bytes, the blank line included. Raises ProtocolError.

    Small objects come by tens of thousands: a head whose lines all begin in a known way is taken apart in one pass, and
    what is new, empty or repeated in it is left to `parse_any_head`.
    """
    text = data.decode("latin-1")
    lines = text.split("\r\n")
    known = _known_names
    headers: dict[str, str] = {}
    try:
        version, status, reason = _known_status_lines[lines[0]]
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            headers[known[name]] = value.strip()
    except KeyError:
        return parse_any_head(text)
    # No value: the line may have had no colon. Fewer headers than lines: one is there twice.
    if "" in headers.values() or len(headers) != len(lines) - 3:
        return parse_any_head(text)
    connection = headers.get("connection")
    return Head(status, reason, headers, version == "1" if connection is None else _keeps_alive(version, connection))


def parse_any_head(text: str) -> Head:
    """Return a head from its text, line by line, and remember what its lines begin with. Raises ProtocolError."""
    lines = text[:-4].split("\r\n")
    match = re.fullmatch(r"HTTP/1\.([01]) (\d{3})(?: (.*))?", lines[0])
    if match is None:
        raise ProtocolError("the answer does not begin with an HTTP/1.1 status line")
    version, status, reason = match[1], int(match[2]), match[3] or ""
    if _has_room(_known_status_lines, lines[0]):
        _known_status_lines[lines[0]] = version, status, reason
    headers: dict[str, str] = {}
    for line in lines[1:]:
        given, colon, value = line.partition(":")
        if not colon or not given or given != given.strip():
            raise ProtocolError("a header line has no name")
        name, value = given.lower(), value.strip()
        if _has_room(_known_names, given):
            _known_names[given] = name
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(status, reason, headers, _keeps_alive(version, headers.get("connection", "")))


def _has_room(known: Sized, line: str) -> bool:
    """Return whether a line may be remembered: what servers make up stays bounded."""
    return len(known) < _MOST_KNOWN and len(line) <= _LONGEST_KNOWN


def _keeps_alive(version: str, connection: str) -> bool:
    connection = connection.lower()
    return "close" not in connection and (version == "1" or "keep-alive" in connection)


def _content_length(headers: Mapping[str, str]) -> int | None:
    given = headers.get("content-length")
    if given is None:
        return None
    values = {value.strip() for value in given.split(",")}
    value = values.pop()
    # Two different lengths are how a proxy and a client come to disagree on where an answer ends (RFC 9112, 6.3).
    if values or not re.fullmatch(r"\d{1,18}", value, re.ASCII):
        raise ProtocolError("the answer's Content-Length is no number")
    return int(value)
