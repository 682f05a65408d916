"""Many small answers at a time over one thread: connections that are waited for together.

A thread for each connection costs more than a small object does: here one loop sends, receives and hands the bytes on.
It speaks plain HTTP/1.1 and TLS without proxies and knows the plain answer only; what to send, what an answer must say
and what its bytes are for is the `Exchange`'s business, and so is whatever goes wrong.
"""

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from enum import Enum, auto
from typing import Protocol

from datafetch.transport.connection import Head, ProtocolError, parse_head
from datafetch.transport.pool import CONNECT_SECONDS, Destination
from datafetch.transport.tls import TlsLayer

_BUFFER_BYTES = 1 << 20
_MOST_HEAD_BYTES = 32 << 10
_MOST_ERROR_BYTES = 64 << 10
_POLL_SECONDS = 0.2
_SWEEP_SECONDS = 0.25
_IDLE_SECONDS = 30.0
_BLANK_LINE = b"\r\n\r\n"


class Exchange(Protocol):
    """One request and what becomes of its answer. Called from the lane's thread only.

    What a method raises leaves `Lane.run`.
    """

    destination: Destination
    head: bytes
    """The request as it is sent."""

    def tls_context(self) -> ssl.SSLContext:
        """Return the settings of a TLS connection to the destination."""

    def begin(self, head: Head) -> int | None:
        """Take in the answer's head; return the bytes of its body, None where the answer is not to be read here."""

    def receive(self, data: memoryview) -> None:
        """Take in the next bytes of the body. The memory is used again."""

    def end(self) -> None:
        """Take in that the body has ended."""

    def refuse(self, head: Head, body: bytes) -> None:
        """Take in an answer that was not wanted, read to its end, so that the connection can go on."""

    def pass_on(self) -> None:
        """Take in that the answer cannot be read here."""

    def fail(self, error: Exception) -> None:
        """Take in that the connection broke, or stood still (TimeoutError)."""

    def abandon(self) -> None:
        """Take in that nothing more of it is wanted."""


class LaneWork(Protocol):
    """Where a lane's exchanges come from, and how many may be under way."""

    @property
    def level(self) -> int:
        """Exchanges that may be under way now."""

    def next(self) -> Exchange | None:
        """Return the next exchange, None where there is none at present."""

    def settle(self) -> float:
        """Take in that a round has ended; return the seconds for which nothing is to be received."""

    @property
    def is_over(self) -> bool:
        """Whether there will be no exchange any more."""


class _State(Enum):
    CONNECTING = auto()
    SHAKING_HANDS = auto()
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    REFUSAL = auto()


class _Line:
    """One connection."""

    __slots__ = (
        "answer", "bytes", "destination", "exchange", "heard", "held", "remaining", "since", "socket", "state", "tls",
        "used",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, destination: Destination, exchange: Exchange, now: float) -> None:
        self.socket = sock
        self.destination = destination
        self.exchange: Exchange | None = exchange
        self.state = _State.CONNECTING
        self.tls: TlsLayer | None = None
        self.used = False
        """Whether an answer was read over it: the server may have closed it since."""
        self.held = b""
        """The beginning of a head, or the body of a refusal so far."""
        self.answer: Head | None = None
        self.remaining = 0
        self.since = now
        """When it was last seen to bring enough."""
        self.heard = now
        """When it last brought anything."""
        self.bytes = 0
        """What it has brought since."""


class Lane:
    """The loop.

    `silence` is the seconds that a connection may bring nothing, or less than `slowest` bytes a second. `most_read` and
    `receive_buffer` are the bytes that one read may ask for and the kernel may take ahead, under a bandwidth limit.
    """

    def __init__(
        self,
        work: LaneWork,
        *,
        silence: float,
        slowest: int,
        most_read: int | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self._work = work
        self._silence = silence
        self._slowest = slowest
        self._receive_buffer = receive_buffer
        self._buffer = memoryview(bytearray(min(_BUFFER_BYTES, most_read or _BUFFER_BYTES)))
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._lines: dict[int, _Line] = {}
        self._idle: dict[Destination, deque[_Line]] = {}
        self._addresses: dict[Destination, list[tuple[socket.AddressFamily, tuple[object, ...]]]] = {}
        self._active = 0
        self._now = self._swept = time.monotonic()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def active(self) -> int:
        """Exchanges that are under way."""
        return self._active

    def wake(self) -> None:
        """Let the loop look for work now. May be called from any thread."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Carry exchanges until the work is over."""
        try:
            while not self._work.is_over:
                self._start_more()
                ready = self._poll.poll(_POLL_SECONDS)
                self._now = time.monotonic()
                for descriptor, _ in ready:
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                    elif (line := self._lines.get(descriptor)) is not None:
                        self._serve(line)
                pause = self._work.settle()
                if pause:
                    time.sleep(pause)
                self._sweep(pause)
        finally:
            self.close()

    def _start_more(self) -> None:
        while self._active < self._work.level and (exchange := self._work.next()) is not None:
            self._start(exchange)

    def _start(self, exchange: Exchange) -> None:
        idle = self._idle.get(exchange.destination)
        if idle:
            line = idle.pop()
            line.exchange = exchange
            self._active += 1
            self._send(line)
            return
        self._connect(exchange)

    # --- one connection ---

    def _connect(self, exchange: Exchange) -> None:
        destination = exchange.destination
        try:
            addresses = self._resolve(destination)
            family, address = addresses[0]
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            exchange.fail(error)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        line = _Line(sock, destination, exchange, self._now)
        self._lines[sock.fileno()] = line
        self._active += 1
        refused = sock.connect_ex(address)
        if refused not in (0, errno.EINPROGRESS):
            self._poll.register(sock, 0)
            self._try_next_address(destination)
            self._break(line, OSError(refused, os.strerror(refused)))
            return
        self._poll.register(sock, select.EPOLLOUT)

    def _resolve(self, destination: Destination) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
        addresses = self._addresses.get(destination)
        if not addresses:
            found = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
            addresses = self._addresses[destination] = [(family, address) for family, _, _, _, address in found]
        return addresses

    def _try_next_address(self, destination: Destination) -> None:
        """Let the next connection take the next of the host's addresses."""
        addresses = self._addresses[destination]
        addresses.append(addresses.pop(0))

    def _serve(self, line: _Line) -> None:
        try:
            if line.state is _State.CONNECTING:
                self._finish_connecting(line)
            elif line.state is _State.SHAKING_HANDS:
                self._shake_hands(line)
            else:
                self._receive(line)
        except BlockingIOError:
            return
        except (OSError, ProtocolError) as error:
            self._break(line, error)

    def _finish_connecting(self, line: _Line) -> None:
        refused = line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refused:
            self._try_next_address(line.destination)
            raise OSError(refused, os.strerror(refused))
        self._poll.modify(line.socket, select.EPOLLIN)
        if line.destination.scheme == "http" or line.exchange is None:
            self._send(line)
            return
        line.tls = TlsLayer(line.socket, line.exchange.tls_context(), line.destination.host)
        line.state = _State.SHAKING_HANDS
        self._shake_hands(line)

    def _shake_hands(self, line: _Line) -> None:
        if line.tls is not None:
            line.tls.shake_hands()
        self._send(line)

    def _send(self, line: _Line) -> None:
        if line.exchange is None:
            return
        line.state, line.held = _State.HEAD, b""
        line.since = line.heard = self._now
        line.bytes = 0
        try:
            (line.tls or line.socket).sendall(line.exchange.head)
        except OSError as error:
            self._break(line, error)

    def _receive(self, line: _Line) -> None:
        while True:
            count = line.tls.recv_into(self._buffer) if line.tls else line.socket.recv_into(self._buffer)
            if not count:
                raise ConnectionResetError("the server closed the connection before its answer had ended")
            if line.state is _State.IDLE:
                raise ProtocolError("the server sent what nobody had asked for")
            line.bytes += count
            line.heard = self._now
            self._take(line, self._buffer[:count])
            if line.tls is not None and line.tls.has_ended and line.socket.fileno() >= 0:
                self._end(line)
                return
            if count < len(self._buffer) or line.socket.fileno() < 0:
                return

    def _end(self, line: _Line) -> None:
        """Take in that the peer has said goodbye, whether it closes the connection or not."""
        if line.exchange is None or (line.state is _State.HEAD and not line.bytes):
            self._break(line, ConnectionResetError("the server closed the connection"))
            return
        raise ConnectionResetError("the server closed the connection before its answer had ended")

    def _take(self, line: _Line, data: memoryview) -> None:
        exchange = line.exchange
        if exchange is None:
            return
        if line.state is _State.HEAD:
            rest = self._take_head(line, exchange, data)
            if rest is None:
                return
            data = rest
        if len(data) > line.remaining:
            raise ProtocolError("the server sent more than it had said")
        line.remaining -= len(data)
        if line.state is _State.REFUSAL:
            line.held += bytes(data)
        elif len(data):
            exchange.receive(data)
        if not line.remaining:
            self._finish(line, exchange)

    def _take_head(self, line: _Line, exchange: Exchange, data: memoryview) -> memoryview | None:
        """Return what follows the head in the data; None where it has not ended, or the answer is not read here."""
        held = len(line.held)
        head = line.held + bytes(data[: _MOST_HEAD_BYTES - held])
        end = head.find(_BLANK_LINE)
        if end < 0:
            if len(head) >= _MOST_HEAD_BYTES:
                raise ProtocolError(f"a head of more than {_MOST_HEAD_BYTES} bytes")
            line.held = head
            return None
        end += len(_BLANK_LINE)
        answer = line.answer = parse_head(head[:end])
        line.held = b""
        length = exchange.begin(answer) if answer.status == 200 else None
        if length is not None:
            line.state, line.remaining = _State.BODY, length
            return data[end - held :]
        said = answer.headers.get("content-length", "")
        if answer.status < 400 or not said.isdecimal() or int(said) > _MOST_ERROR_BYTES:
            self._drop(line)
            exchange.pass_on()
            return None
        line.state, line.remaining = _State.REFUSAL, int(said)
        return data[end - held :]

    def _finish(self, line: _Line, exchange: Exchange) -> None:
        refused, answer, body = line.state is _State.REFUSAL, line.answer, line.held
        line.exchange, line.answer, line.held, line.used, line.state = None, None, b"", True, _State.IDLE
        self._active -= 1
        if answer is not None and not answer.keep_alive:
            self._forget(line)
        else:
            line.since = self._now
            self._idle.setdefault(line.destination, deque()).append(line)
        if refused and answer is not None:
            exchange.refuse(answer, body)
        else:
            exchange.end()
        # The server is not to wait for the rest of this round.
        if self._active < self._work.level and (following := self._work.next()) is not None:
            self._start(following)

    def _break(self, line: _Line, error: Exception) -> None:
        exchange, unanswered = line.exchange, line.used and not line.bytes
        self._drop(line)
        if exchange is None:
            return
        if unanswered and not isinstance(error, TimeoutError):
            # The server had closed the kept connection before it saw the request: a fresh one is the same request.
            self._connect(exchange)
            return
        exchange.fail(error)

    def _drop(self, line: _Line) -> None:
        """Close a line; its exchange, if it has one, is under way no more."""
        if line.exchange is not None:
            self._active -= 1
            line.exchange = None
        elif (idle := self._idle.get(line.destination)) is not None and line in idle:
            idle.remove(line)
        self._forget(line)

    def _forget(self, line: _Line) -> None:
        descriptor = line.socket.fileno()
        if descriptor >= 0:
            self._lines.pop(descriptor, None)
            line.socket.close()

    def _sweep(self, pause: float) -> None:
        """Give up connections that stand still, and old idle ones. Time in which nothing was read does not count."""
        if pause:
            for line in self._lines.values():
                line.since += pause
                line.heard += pause
        now = self._now
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for line in list(self._lines.values()):
            self._look_after(line, now - line.since)

    def _look_after(self, line: _Line, seconds: float) -> None:
        if line.state is _State.IDLE:
            if seconds > _IDLE_SECONDS:
                self._drop(line)
            return
        if line.state is _State.CONNECTING and seconds > CONNECT_SECONDS:
            self._break(line, OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
            return
        if self._now - line.heard > self._silence:
            self._break(line, TimeoutError())
            return
        if seconds < self._silence:
            return
        if line.bytes < self._slowest * seconds:
            self._break(line, TimeoutError())
            return
        line.since += seconds
        line.bytes = 0

    def close(self) -> None:
        """Close every connection; for a lane that was never run, too."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._wake)
        for line in list(self._lines.values()):
            if line.exchange is not None:
                line.exchange.abandon()
            self._forget(line)
        self._poll.close()


__all__ = ["Exchange", "Lane", "LaneWork"]
