"""The lane over real sockets on loopback: what becomes of each exchange, and how many connections it took.

Servers follow a script for each connection. Most of it is tried over plain HTTP and over TLS: what arrives in one
piece differs between the two.
"""

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import pytest

from datafetch.transport.connection import Head, ProtocolError
from datafetch.transport.lane import Lane
from datafetch.transport.pool import Destination
from servers.emulators import make_certificates
from servers.serving import wait_until

pytestmark = pytest.mark.timeout(60)

REQUEST = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"0123456789"
BETWEEN_SECONDS = 0.003
"""Between two pieces, so that they arrive one by one."""
KIB = 1024


def answer(body: bytes = BODY, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Peer:
    """The server's side of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.has_ended = False
        """Whether the client was seen to close it."""

    def read_request(self) -> bytes:
        """Return the next request; nothing where the client has closed."""
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            received = self._connection.recv(65536)
            if not received:
                self.has_ended = True
                return b""
            request += received
        return request

    def wait_for_end(self) -> None:
        """Wait for the client to close, deaf to what it asks."""
        while self._connection.recv(65536):
            continue
        self.has_ended = True

    def send(self, *pieces: bytes) -> None:
        """Send pieces that arrive one by one."""
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(BETWEEN_SECONDS)
            self._connection.sendall(piece)


Script = Callable[[Peer], None]
"""What a server does with one connection; it is closed when the script returns."""


def answers(*each: bytes | Iterable[bytes]) -> Script:
    """Answer a request with each of them, in pieces where they are several, and wait for the client to close."""

    def follow(peer: Peer) -> None:
        for one in each:
            if not peer.read_request():
                return
            peer.send(*([one] if isinstance(one, bytes) else one))
        peer.wait_for_end()

    return follow


def closes_after(*each: bytes) -> Script:
    """Answer a request with each of them and close at once."""

    def follow(peer: Peer) -> None:
        for one in each:
            peer.read_request()
            peer.send(one)

    return follow


def closes_instead(*each: bytes) -> Script:
    """Answer as `closes_after`, and close once one more request has come."""

    def follow(peer: Peer) -> None:
        closes_after(*each)(peer)
        peer.read_request()

    return follow


class ScriptedServer:
    """Follows one script for each connection; the last one for all that come after."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.peers: list[Peer] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    @property
    def connections(self) -> int:
        """Connections that were accepted."""
        return len(self._connections)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                script = self._scripts[min(len(self._connections), len(self._scripts) - 1)]
                self._connections.append(connection)
                thread = threading.Thread(target=self._follow, args=(script, connection), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _follow(self, script: Script, connection: socket.socket) -> None:
        # What a client that gives up does to us is no error of the test.
        with connection, contextlib.suppress(OSError):
            if self._tls is None:
                script(self._note(connection))
                return
            with self._tls.wrap_socket(connection, server_side=True) as secured:
                script(self._note(secured))
                # A goodbye, and no waiting for the client's.
                secured.settimeout(0.01)
                with contextlib.suppress(OSError):
                    secured.unwrap()

    def _note(self, connection: socket.socket) -> Peer:
        peer = Peer(connection)
        self.peers.append(peer)
        return peer


class Asked:
    """An exchange that remembers what became of it."""

    def __init__(self, destination: Destination, context: ssl.SSLContext | None = None) -> None:
        self.destination = destination
        self.head = REQUEST
        self.outcome = ""
        self.body = b""
        self.error: Exception | None = None
        self.status = 0
        self._context = context

    def tls_context(self) -> ssl.SSLContext:
        assert self._context is not None
        return self._context

    def begin(self, head: Head) -> int | None:
        self.body = b""
        length = head.headers.get("content-length", "")
        return int(length) if length and "transfer-encoding" not in head.headers else None

    def receive(self, data: memoryview) -> None:
        self.body += bytes(data)

    def end(self) -> None:
        self._settle("ended")

    def refuse(self, head: Head, body: bytes) -> None:
        self.status, self.body = head.status, body
        self._settle("refused")

    def pass_on(self) -> None:
        self._settle("passed on")

    def fail(self, error: Exception) -> None:
        self.error = error
        self._settle("failed")

    def abandon(self) -> None:
        self._settle("abandoned")

    def _settle(self, outcome: str) -> None:
        assert not self.outcome, f"{self.outcome} already"
        self.outcome = outcome


class Work:
    """Exchanges one after the other; over when each has come to something, or when `stopped`."""

    def __init__(self, exchanges: Iterable[Asked], level: int = 1) -> None:
        self.exchanges = list(exchanges)
        self.level = level
        self.stopped = False
        self._waiting = deque(self.exchanges)

    def next(self) -> Asked | None:
        return self._waiting.popleft() if self._waiting else None

    def add(self, exchange: Asked) -> None:
        self.exchanges.append(exchange)
        self._waiting.append(exchange)

    def settle(self) -> float:
        return 0.0

    @property
    def is_over(self) -> bool:
        return self.stopped or (not self._waiting and all(exchange.outcome for exchange in self.exchanges))


def run(work: Work, silence: float = 10.0, slowest: int = 0, most_read: int | None = None) -> list[str]:
    """Run a lane to its end; return what became of each exchange."""
    Lane(work, silence=silence, slowest=slowest, most_read=most_read).run()
    return [exchange.outcome for exchange in work.exchanges]


class Wire:
    """Plain HTTP, or TLS."""

    def __init__(self, scheme: str, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None) -> None:
        self.scheme, self.client = scheme, client
        self._server = server

    def server(self, *scripts: Script) -> ScriptedServer:
        return ScriptedServer(*scripts, tls=self._server)

    def ask(self, server: ScriptedServer, count: int, level: int = 1) -> Work:
        """Return work of several requests to one server."""
        destination = Destination(self.scheme, "127.0.0.1", server.port, None)
        return Work([Asked(destination, self.client) for _ in range(count)], level)


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wire]:
    made = make_certificates(tmp_path_factory.mktemp("tls"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    client = ssl.create_default_context(cafile=str(made.ca_file))
    return {"http": Wire("http"), "https": Wire("https", server, client)}


@pytest.fixture(params=["http", "https"])
def wire(request: pytest.FixtureRequest, wires: dict[str, Wire]) -> Wire:
    return wires[request.param]


@pytest.fixture
def plain() -> Wire:
    return Wire("http")


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptors_are_left(wires: dict[str, Wire]) -> Iterator[None]:
    before = open_descriptors()
    yield
    wait_until(lambda: len(open_descriptors()) <= len(before))


# --- how answers come ---


def test_an_answer_that_is_split_anywhere_is_the_same(wire: Wire) -> None:
    whole = answer(X_Long="y" * 20)
    splits = [(whole[:at], whole[at:]) for at in range(1, len(whole))]
    with wire.server(answers(*splits)) as server:
        work = wire.ask(server, len(splits))
        assert set(run(work)) == {"ended"}
        assert {exchange.body for exchange in work.exchanges} == {BODY}
        assert server.connections == 1, "all of them over the one connection that is kept"


def test_an_answer_that_comes_byte_by_byte_is_the_same(wire: Wire) -> None:
    whole = answer()
    with wire.server(answers([whole[at : at + 1] for at in range(len(whole))])) as server:
        work = wire.ask(server, 1)
        assert run(work) == ["ended"]
        assert work.exchanges[0].body == BODY


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 200_000, 3 << 20])
def test_bodies_of_all_sizes_are_whole(wire: Wire, size: int) -> None:
    body = os.urandom(size)
    with wire.server(answers(answer(body), answer())) as server:
        work = wire.ask(server, 2)
        assert run(work, most_read=64 * KIB) == ["ended", "ended"]
        assert [exchange.body for exchange in work.exchanges] == [body, BODY]
        assert server.connections == 1


def test_a_refusal_that_is_split_anywhere_leaves_the_connection(wire: Wire) -> None:
    whole = answer(b"<Error/>", "503 Slow Down")
    splits = [(whole[:at], whole[at:]) for at in range(1, len(whole))]
    with wire.server(answers(*splits, answer())) as server:
        work = wire.ask(server, len(splits) + 1)
        assert run(work) == ["refused"] * len(splits) + ["ended"]
        assert {(exchange.status, exchange.body) for exchange in work.exchanges[:-1]} == {(503, b"<Error/>")}
        assert server.connections == 1


@pytest.mark.parametrize("status", ["404 Not Found", "412 Precondition Failed", "500 Oh", "503 Slow Down"])
@pytest.mark.parametrize("body", [b"", b"x" * 64 * KIB], ids=["empty", "64 KiB"])
def test_a_refusal_with_a_short_body_is_read_to_its_end(plain: Wire, status: str, body: bytes) -> None:
    with plain.server(answers(answer(body, status), answer())) as server:
        work = plain.ask(server, 2)
        assert run(work) == ["refused", "ended"]
        assert (work.exchanges[0].status, work.exchanges[0].body) == (int(status[:3]), body)
        assert server.connections == 1


NOT_READ_HERE = {
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "part": b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n\r\nx",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
    "chunked refusal": b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "long refusal": answer(b"x" * (64 * KIB + 1), "503 No"),
    "refusal without a length": b"HTTP/1.1 503 No\r\n\r\nno",
    "refusal with a length that is no number": b"HTTP/1.1 503 No\r\nContent-Length: +5\r\n\r\nhello",
}


@pytest.mark.parametrize("given", NOT_READ_HERE.values(), ids=NOT_READ_HERE)
def test_an_answer_that_is_not_plain_is_passed_on_and_its_connection_dropped(wire: Wire, given: bytes) -> None:
    with wire.server(answers(given, answer()), answers(answer())) as server:
        work = wire.ask(server, 2)
        assert run(work) == ["passed on", "ended"]
        assert work.exchanges[1].body == BODY
        assert server.connections == 2


BROKEN = {
    "more in the same piece": [answer() + b"!"],
    "more in the next piece": [answer()[:-3], b"789!"],
    "more than a refusal's body": [answer(b"no", "503 No") + b"!"],
    "a head of more than 32 KiB": [answer(X_Long="y" * 33 * KIB)],
    "a head of more than 32 KiB in small pieces": [
        b"HTTP/1.1 200 OK\r\n",
        *([b"X-A: " + b"y" * 8 * KIB + b"\r\n"] * 5),
    ],
    "a head without end": [b"HTTP/1.1 200 OK\r\n" + b"X-A: y\r\n" * 8 * KIB],
    "no HTTP": [b"SSH-2.0-OpenSSH_9.7\r\n\r\n"],
    "a header without a name": [b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n"],
}


@pytest.mark.parametrize("given", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_the_protocol_fails_and_its_connection_is_not_used_again(
    wire: Wire, given: list[bytes]
) -> None:
    with wire.server(answers(given, answer()), answers(answer())) as server:
        work = wire.ask(server, 2)
        assert run(work) == ["failed", "ended"]
        assert isinstance(work.exchanges[0].error, ProtocolError)
        assert server.connections == 2


def test_what_nobody_asked_for_ends_a_kept_connection(plain: Wire) -> None:
    def says_too_much(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(), b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        peer.wait_for_end()

    with plain.server(says_too_much, answers(answer())) as server:
        work = plain.ask(server, 1)
        late = Asked(work.exchanges[0].destination)
        runner = in_background(work, until=lambda: bool(late.outcome))
        wait_until(lambda: bool(server.peers) and server.peers[0].has_ended)
        work.add(late)
        runner.join(10)
        assert late.outcome == "ended"
        assert server.connections == 2


# --- connections that end ---


def test_a_kept_connection_that_the_server_closed_is_replaced_without_a_word(wire: Wire) -> None:
    scripts = [closes_after(answer()) for _ in range(20)]
    with wire.server(*scripts) as server:
        work = wire.ask(server, 20)
        assert run(work) == ["ended"] * 20
        assert {exchange.body for exchange in work.exchanges} == {BODY}


def test_a_kept_connection_that_is_closed_on_the_next_request_is_replaced_without_a_word(wire: Wire) -> None:
    with wire.server(closes_instead(answer()), answers(answer(b"again"))) as server:
        work = wire.ask(server, 2)
        assert run(work) == ["ended", "ended"]
        assert [exchange.body for exchange in work.exchanges] == [BODY, b"again"]
        assert server.connections == 2


def test_a_fresh_connection_that_is_closed_without_an_answer_fails(wire: Wire) -> None:
    with wire.server(closes_instead()) as server:
        work = wire.ask(server, 1)
        assert run(work) == ["failed"]
        assert isinstance(work.exchanges[0].error, OSError)
        assert server.connections == 1


def test_a_replacement_that_is_closed_too_fails(plain: Wire) -> None:
    with plain.server(closes_instead(answer()), closes_instead()) as server:
        assert run(plain.ask(server, 2)) == ["ended", "failed"]
        assert server.connections == 2


@pytest.mark.parametrize("at", [1, 20, len(answer()) - 5], ids=["in the status line", "in the head", "in the body"])
@pytest.mark.parametrize("before", [[], [answer()]], ids=["fresh", "kept"])
def test_an_answer_that_is_cut_off_fails(wire: Wire, at: int, before: list[bytes]) -> None:
    with wire.server(closes_after(*before, answer()[:at]), answers(answer())) as server:
        work = wire.ask(server, len(before) + 2)
        assert run(work) == ["ended"] * len(before) + ["failed", "ended"]
        assert isinstance(work.exchanges[len(before)].error, OSError)
        assert server.connections == 2


@pytest.mark.parametrize(
    "last",
    [answer(Connection="close"), answer(Connection="Close"), answer().replace(b"1.1", b"1.0", 1)],
    ids=["close", "Close", "HTTP/1.0"],
)
def test_a_connection_that_the_server_will_close_is_not_used_again(wire: Wire, last: bytes) -> None:
    with wire.server(answers(last, answer(b"wrong")), answers(answer(b"right"))) as server:
        work = wire.ask(server, 2)
        assert run(work) == ["ended", "ended"]
        assert [exchange.body for exchange in work.exchanges] == [BODY, b"right"]
        assert server.connections == 2


def test_a_refused_connection_fails(plain: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    work = Work([Asked(Destination("http", "127.0.0.1", port, None)) for _ in range(3)])
    assert run(work) == ["failed"] * 3
    errors = [exchange.error for exchange in work.exchanges]
    assert [error.errno for error in errors if isinstance(error, OSError)] == [errno.ECONNREFUSED] * 3


def test_a_name_that_nobody_knows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    work = Work([Asked(Destination("http", "nowhere.invalid", 80, None))])
    assert run(work) == ["failed"]
    assert isinstance(work.exchanges[0].error, socket.gaierror)


def test_a_certificate_that_nobody_vouches_for_fails_with_its_reason(wires: dict[str, Wire]) -> None:
    trusting_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with wires["https"].server(answers(answer())) as server:
        work = Work([Asked(Destination("https", "127.0.0.1", server.port, None), trusting_nobody)])
        assert run(work) == ["failed"]
        assert isinstance(work.exchanges[0].error, ssl.SSLCertVerificationError)


def test_destinations_do_not_share_connections(plain: Wire) -> None:
    with plain.server(answers(answer(), answer())) as server:
        first, second = plain.ask(server, 1).exchanges + plain.ask(server, 1).exchanges
        assert run(Work([first, second])) == ["ended", "ended"]
        assert server.connections == 2


# --- silence ---

SILENT_AFTER = {"nothing": b"", "half a head": answer()[:20], "the head": answer()[: -len(BODY)], "half": answer()[:-5]}


@pytest.mark.parametrize("sent", SILENT_AFTER.values(), ids=SILENT_AFTER)
def test_a_server_that_falls_silent_is_given_up(wire: Wire, sent: bytes) -> None:
    def falls_silent(peer: Peer) -> None:
        peer.read_request()
        peer.send(sent)
        peer.read_request()

    with wire.server(falls_silent) as server:
        work = wire.ask(server, 1)
        begun = time.monotonic()
        assert run(work, silence=0.5) == ["failed"]
        assert isinstance(work.exchanges[0].error, TimeoutError)
        assert 0.5 <= time.monotonic() - begun < 3.0


def test_a_kept_connection_that_falls_silent_is_given_up_and_not_replaced(plain: Wire) -> None:
    with plain.server(answers(answer())) as server:
        work = plain.ask(server, 2)
        assert run(work, silence=0.5) == ["ended", "failed"]
        assert isinstance(work.exchanges[1].error, TimeoutError)
        assert server.connections == 1


def test_silence_in_the_handshake_is_given_up(plain: Wire, wires: dict[str, Wire]) -> None:
    # A plain server waits for the end of a head, which a handshake does not have.
    with plain.server(answers(answer())) as server:
        work = wires["https"].ask(server, 1)
        assert run(work, silence=0.5) == ["failed"]
        assert isinstance(work.exchanges[0].error, TimeoutError)


@pytest.mark.parametrize(("slowest", "outcome"), [(1000, "failed"), (10, "ended")], ids=["too slow", "fast enough"])
def test_a_drip_is_given_up_where_it_brings_too_little(plain: Wire, slowest: int, outcome: str) -> None:
    def drips(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer(bytes(30))[:-30])
        for _ in range(30):
            time.sleep(0.05)
            peer.send(b"\0")
        peer.read_request()

    with plain.server(drips) as server:
        work = plain.ask(server, 1)
        assert run(work, silence=0.5, slowest=slowest) == [outcome]
        assert outcome == "ended" or isinstance(work.exchanges[0].error, TimeoutError)


class Pausing(Work):
    """Once, after the first bytes of a body, wants nothing received for a while."""

    pause = 0.8

    def settle(self) -> float:
        if not any(exchange.body for exchange in self.exchanges):
            return 0.0
        pause, self.pause = self.pause, 0.0
        return pause


def test_time_in_which_nothing_was_to_be_received_is_no_silence(plain: Wire) -> None:
    def answers_in_two(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer()[:-1])
        # Longer than the pause: the lane finds nothing at its end.
        time.sleep(1.2)
        peer.send(answer()[-1:])
        peer.wait_for_end()

    with plain.server(answers_in_two) as server:
        work = Pausing(plain.ask(server, 1).exchanges)
        assert run(work, silence=0.6, slowest=100) == ["ended"]


# --- how many ---


class Gate:
    """Answers only as it is let, and counts the requests that wait."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._let = 0
        self.waiting = self.peak = self.answered = 0

    def script(self, peer: Peer) -> None:
        while peer.read_request():
            with self._condition:
                self.waiting += 1
                self.peak = max(self.peak, self.waiting)
                self._condition.wait_for(lambda: self._let > 0, timeout=20)
                self._let -= 1
                # Before the answer goes: the next request may be here before this thread goes on.
                self.waiting -= 1
                self.answered += 1
            peer.send(answer())

    def let(self, count: int) -> None:
        with self._condition:
            self._let += count
            self._condition.notify_all()

    def forget_peak(self) -> None:
        with self._condition:
            self.peak = self.waiting


def in_background(work: Work, until: Callable[[], bool] | None = None, lane: Lane | None = None) -> threading.Thread:
    """Run a lane in a thread; `until` says when its work is over, where that is not when all has come to something."""
    if until is not None:
        work.exchanges.append(_Open(until, work.exchanges[0].destination))
    running = lane or Lane(work, silence=10.0, slowest=0)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    return thread


class _Open(Asked):
    """Stands for work that may still come."""

    def __init__(self, until: Callable[[], bool], destination: Destination) -> None:
        self._until = until
        super().__init__(destination)

    @property
    def outcome(self) -> str:
        return "over" if self._until() else ""

    @outcome.setter
    def outcome(self, value: str) -> None:
        assert not value


def test_never_more_than_the_level_are_under_way_and_fewer_when_it_falls(plain: Wire) -> None:
    gate = Gate()
    with plain.server(gate.script) as server:
        work = plain.ask(server, 20, level=5)
        runner = in_background(work)
        wait_until(lambda: gate.waiting == 5)
        time.sleep(0.3)
        assert gate.peak == 5

        work.level = 2
        gate.let(3)
        wait_until(lambda: gate.answered == 3)
        time.sleep(0.3)
        assert gate.waiting == 2, "three have ended and none was begun in their place"
        gate.forget_peak()
        gate.let(5)
        wait_until(lambda: gate.answered == 8 and gate.waiting == 2)
        assert gate.peak == 2

        work.level = 4
        wait_until(lambda: gate.waiting == 4)
        gate.let(20)
        runner.join(10)
        assert gate.peak == 4
        assert [exchange.outcome for exchange in work.exchanges] == ["ended"] * 20
        assert server.connections == 5


def test_broken_and_refused_exchanges_make_room_for_others(plain: Wire) -> None:
    gate = Gate()
    bad = [closes_instead(), answers(NOT_READ_HERE["redirect"]), answers(BROKEN["no HTTP"])]
    with plain.server(*bad, gate.script) as server:
        work = plain.ask(server, 9, level=3)
        runner = in_background(work)
        wait_until(lambda: gate.waiting == 3)
        time.sleep(0.2)
        gate.let(20)
        runner.join(10)
        assert gate.peak == 3
        outcomes = sorted(exchange.outcome for exchange in work.exchanges)
        assert outcomes == ["ended"] * 6 + ["failed"] * 2 + ["passed on"]


def test_what_is_under_way_is_counted(plain: Wire) -> None:
    gate = Gate()
    with plain.server(gate.script) as server:
        work = plain.ask(server, 3, level=2)
        lane = Lane(work, silence=10.0, slowest=0)
        assert lane.active == 0
        runner = in_background(work, lane=lane)
        wait_until(lambda: gate.waiting == 2)
        assert lane.active == 2
        gate.let(3)
        runner.join(10)
        assert lane.active == 0


# --- beginning and end ---


def test_work_that_comes_later_is_begun_when_the_lane_is_woken(plain: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever does not wake it waits for longer than the test may last.
    monkeypatch.setattr("datafetch.transport.lane._POLL_SECONDS", 300.0)
    with plain.server(answers(answer())) as server:
        destination = Destination("http", "127.0.0.1", server.port, None)
        late = Asked(destination)
        work = Work([_Open(lambda: bool(late.outcome), destination)])
        work._waiting.clear()
        lane = Lane(work, silence=10.0, slowest=0)
        runner = in_background(work, lane=lane)
        time.sleep(0.2)
        work.add(late)
        lane.wake()
        runner.join(10)
        assert late.outcome == "ended"


def test_waking_many_times_and_after_the_end_harms_nobody(plain: Wire) -> None:
    with plain.server(answers(answer())) as server:
        work = plain.ask(server, 1)
        lane = Lane(work, silence=10.0, slowest=0)
        for _ in range(1000):
            lane.wake()
        lane.run()
        # One of these has the number that the lane's own had.
        others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
        try:
            lane.wake()
            for other in others:
                with pytest.raises(BlockingIOError):
                    os.eventfd_read(other)
        finally:
            for other in others:
                os.close(other)


def test_threads_may_wake_it_while_it_ends(plain: Wire) -> None:
    for _ in range(20):
        with plain.server(answers(answer())) as server:
            work = plain.ask(server, 1)
            lane = Lane(work, silence=10.0, slowest=0)
            runner = in_background(work, lane=lane)
            while runner.is_alive():
                lane.wake()
            lane.wake()
        assert work.exchanges[0].outcome == "ended"


def test_when_the_work_is_over_what_is_under_way_is_abandoned(wire: Wire) -> None:
    gate = Gate()
    with wire.server(gate.script) as server:
        work = wire.ask(server, 8, level=4)
        lane = Lane(work, silence=10.0, slowest=0)
        runner = in_background(work, lane=lane)
        wait_until(lambda: gate.waiting == 4)
        work.stopped = True
        lane.wake()
        runner.join(5)
        assert not runner.is_alive()
        gate.let(4)
        assert [exchange.outcome for exchange in work.exchanges] == ["abandoned"] * 4 + [""] * 4


def test_without_work_nothing_is_opened(plain: Wire) -> None:
    with plain.server(answers(answer())) as server:
        assert run(Work([])) == []
        assert server.connections == 0


@pytest.mark.parametrize("method", ["begin", "receive", "end", "refuse", "pass_on", "fail"])
def test_what_an_exchange_raises_leaves_the_lane_and_nothing_stays_open(plain: Wire, method: str) -> None:
    class VolumeIsFullError(Exception):
        pass

    def raises(*_: object) -> None:
        raise VolumeIsFullError

    given = {"refuse": answer(b"", "503 No"), "pass_on": NOT_READ_HERE["redirect"], "fail": BROKEN["no HTTP"][0]}
    with plain.server(answers(given.get(method, answer()))) as server:
        work = plain.ask(server, 3, level=2)
        for exchange in work.exchanges:
            setattr(exchange, method, raises)
        with pytest.raises(VolumeIsFullError):
            run(work)


def test_one_lane_serves_plain_and_encrypted_sources_side_by_side(wires: dict[str, Wire], tmp_path: Path) -> None:
    scripts = [answers(*[answer()] * 30)]
    with wires["http"].server(*scripts) as plain, wires["https"].server(*scripts) as secured:
        pairs = zip(wires["http"].ask(plain, 30).exchanges, wires["https"].ask(secured, 30).exchanges, strict=True)
        first, *_ = pairs_of = list(pairs)
        one, other = first[0].destination, first[1].destination
        for a, b in pairs_of:
            a.destination, b.destination = one, other
        work = Work([exchange for pair in pairs_of for exchange in pair], level=8)
        assert set(run(work)) == {"ended"}
        assert {exchange.body for exchange in work.exchanges} == {BODY}
        assert max(plain.connections, secured.connections) <= 8


@pytest.mark.parametrize("first", ["127.0.0.2", "255.255.255.255"], ids=["nobody listens", "no way there"])
def test_after_a_refusal_the_next_address_of_the_host_is_tried(
    plain: Wire, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    with plain.server(answers(answer())) as server:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        found = [(*kind, (address, server.port)) for address in (first, "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        destination = Destination("http", "two.invalid", server.port, None)
        assert run(Work([Asked(destination), Asked(destination)])) == ["failed", "ended"]


class GoodbyeServer(ScriptedServer):
    """Says goodbye in TLS behind a part of its answer, and leaves the connection open."""

    cut = 0

    def _follow(self, script: Script, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            assert self._tls is not None
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self._tls.wrap_bio(incoming, outgoing, server_side=True)
            self._until_done(tls.do_handshake, connection, incoming, outgoing)
            self._until_done(lambda: tls.read(65536), connection, incoming, outgoing)
            whole = answer()
            tls.write(whole[: len(whole) - self.cut])
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()
            connection.sendall(outgoing.read())
            while connection.recv(65536):
                continue

    def _until_done(
        self, step: Callable[[], object], connection: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
                continue
            connection.sendall(outgoing.read())
            return


@pytest.mark.parametrize(("cut", "results"), [(5, ["failed"]), (0, ["ended", "ended"])], ids=["within", "after"])
def test_a_goodbye_of_tls_is_the_end_though_the_connection_stays(
    wires: dict[str, Wire], cut: int, results: list[str]
) -> None:
    wire = wires["https"]
    with GoodbyeServer(answers(), tls=wire._server) as server:
        server.cut = cut
        begun = time.monotonic()
        assert run(wire.ask(server, len(results)), silence=3.0) == results
        assert time.monotonic() - begun < 2.0
