"""The data plane against servers on loopback: what comes out as bytes, and what comes out as which error."""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from datafetch.credentials import Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnavailableError,
    StalledError,
)
from datafetch.sources import ByteRange
from datafetch.transport import Pin, Request, Transport
from datafetch.transport.pool import Proxy, proxy_for
from datafetch.transport.refusals import reason_of, retry_after
from servers.emulators import make_certificates
from servers.http import Fault, Manners, StaticServer
from servers.serving import Request as Received
from servers.serving import Response, Server, text_response

DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def no_proxy_and_no_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
    authorities = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    for name in proxies + authorities:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as running:
        running.put("/a", DATA)
        yield running


@contextmanager
def transport(**options: object) -> Iterator[Transport]:
    made = Transport(**{"stall_timeout": 5.0, "secrets": Secrets(), **options})  # type: ignore[arg-type]  # a test's own
    try:
        yield made
    finally:
        made.close()


def fetch(
    client: Transport,
    request: Request | str,
    start: int = 0,
    end: int | None = None,
    pin: Pin | None = None,
    buffer_bytes: int = 65536,
) -> bytes:
    buffer = memoryview(bytearray(buffer_bytes))
    received = bytearray()
    request = Request(request) if isinstance(request, str) else request
    with client.open_range(request, ByteRange(start, end), pin or Pin()) as body:
        while count := body.readinto(buffer):
            received += buffer[:count]
    return bytes(received)


class RawServer:
    """Answers each connection's requests with prepared bytes, one after the other; None closes the connection."""

    def __init__(self, *connections: list[bytes | None]) -> None:
        self._connections = connections
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        for answers in self._connections:
            connection, _ = self._listener.accept()
            with connection:
                for answer in answers:
                    if answer is None:
                        break
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        received = connection.recv(65536)
                        if not received:
                            return
                        head += received
                    self.requests.append(head)
                    connection.sendall(answer)


def answered(*answers: bytes | None, head: str = "HTTP/1.1 200 OK") -> RawServer:
    return RawServer([head.encode() + b"\r\n" + answer if answer else None for answer in answers])


# --- bytes ---


@pytest.mark.parametrize("buffer_bytes", [7, 65536, 1 << 20])
@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 300_000), (0, 1), (1, 300_000), (1000, 250_000), (5, None)])
def test_a_range_is_exactly_its_bytes(server: StaticServer, start: int, end: int | None, buffer_bytes: int) -> None:
    if buffer_bytes == 7 and end != 1:
        end = start + 1000
    with transport() as client:
        assert fetch(client, server.url + "/a", start, end, Pin(len(DATA)), buffer_bytes) == DATA[start:end]


def test_many_ranges_share_one_connection(server: StaticServer) -> None:
    connections = set()
    with transport() as client:
        for start in range(0, 100_000, 10_000):
            with client.open_range(Request(server.url + "/a"), ByteRange(start, start + 10_000), Pin()) as body:
                connections.add(id(body._exchange._connection))
                while body.readinto(memoryview(bytearray(65536))):
                    continue
    assert len(connections) == 1


def test_an_empty_object_is_asked_for_without_a_range(server: StaticServer) -> None:
    server.put("/empty", b"")
    with transport() as client:
        assert fetch(client, server.url + "/empty", 0, 0, Pin(0)) == b""
    assert "range" not in server.traffic.exchanges[0].headers


@pytest.mark.parametrize("manners", [Manners(chunked=True), Manners(ranges=False), Manners(ranges=False, chunked=True)])
def test_servers_without_ranges_or_lengths_are_read(server: StaticServer, manners: Manners) -> None:
    server.put("/odd", DATA, manners)
    with transport() as client:
        assert fetch(client, server.url + "/odd") == DATA
        assert fetch(client, server.url + "/odd", 1000, 2000) == DATA[1000:2000]
        assert fetch(client, server.url + "/odd", 0, 2000) == DATA[:2000]


@pytest.mark.parametrize(
    ("tail", "target"),
    [("", "/"), ("/", "/"), ("?a=b/c", "/?a=b/c"), ("/p?q#f", "/p?q"), ("//x//", "//x//"), ("/a/../b", "/a/../b")],
)
def test_the_target_is_the_url_s_as_it_is(tail: str, target: str) -> None:
    with answered(b"Content-Length: 2\r\n\r\nok") as raw, transport() as client:
        assert fetch(client, raw.url + tail) == b"ok"
    assert raw.requests[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())


def test_chunks_of_any_size_and_trailers() -> None:
    body = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
    with answered(body, body) as raw, transport() as client:
        assert fetch(client, raw.url) == b"a0123456789"
        assert fetch(client, raw.url) == b"a0123456789"


def test_a_body_may_end_with_the_connection() -> None:
    with answered(b"Connection: close\r\n\r\nall there is", None) as raw, transport() as client:
        assert fetch(client, raw.url) == b"all there is"


def test_interim_answers_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with RawServer([early + final]) as raw, transport() as client:
        assert fetch(client, raw.url) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"Trailer: x\r\n" * 5000 + b"\r\n",
    ],
    ids=["interim answers", "trailers"],
)
def test_what_comes_beside_the_answer_is_bounded(answer: bytes) -> None:
    with RawServer([answer, None]) as raw, transport() as client, pytest.raises(SourceUnavailableError, match="more"):
        fetch(client, raw.url)


def test_a_head_in_many_packets_is_put_together() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc":
                    connection.sendall(bytes([byte]))
                    time.sleep(0.001)

        thread = threading.Thread(target=serve)
        thread.start()
        with transport() as client:
            assert fetch(client, f"http://127.0.0.1:{listener.getsockname()[1]}/") == b"abc"
        thread.join()


def test_what_is_asked_stands_in_the_head() -> None:
    with answered(b"Content-Length: 9\r\n\r\n123456789") as raw, transport() as client:
        fetch(client, Request(raw.url + "/p?q=1", {"If-Match": '"e"'}, {"Authorization": "Bearer t"}), 5, 9)
    head = raw.requests[0].decode()
    assert head.startswith("GET /p?q=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    for line in ("Accept-Encoding: identity", "Range: bytes=5-8", 'If-Match: "e"', "Authorization: Bearer t"):
        assert f"\r\n{line}\r\n" in head


# --- errors ---


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, CredentialsRejectedError),
        (403, CredentialsRejectedError),
        (404, SourceNotFoundError),
        (410, SourceNotFoundError),
        (412, SourceChangedError),
        (416, SourceChangedError),
        (400, SourceUnavailableError),
        (408, SourceUnavailableError),
        (429, SourceUnavailableError),
        (500, SourceUnavailableError),
        (502, SourceUnavailableError),
        (503, SourceUnavailableError),
    ],
)
def test_a_status_is_an_error_of_ours(server: StaticServer, status: int, expected: type[DataFetchError]) -> None:
    server.faults.add(Fault(status=status, retry_after="7"))
    with transport() as client, pytest.raises(expected) as raised:
        fetch(client, server.url + "/a?X-Amz-Signature=s3cret")
    assert f"answered {status}" in str(raised.value)
    assert "s3cret" not in str(raised.value)
    if isinstance(raised.value, SourceUnavailableError) and not isinstance(raised.value, StalledError):
        assert raised.value.throttled is (status in (429, 503))
        assert raised.value.retry_after == (7.0 if status in (429, 500, 502, 503) else None)


def test_retry_after_is_seconds_or_a_date() -> None:
    def now() -> float:
        return 1_000_000_000.0

    assert retry_after("120", now) == 120
    assert retry_after("Sun, 09 Sep 2001 01:47:10 GMT", now) == 30
    assert retry_after("Sun, 09 Sep 2001 01:00:00 GMT", now) == 0
    assert retry_after("99999999", now) == 3600
    for useless in (None, "soon", "-1", ""):
        assert retry_after(useless, now) is None


def test_an_error_body_is_one_line_without_secrets_and_not_read_to_its_end(server: StaticServer) -> None:
    secrets = Secrets()
    secrets.add("hunter22")
    text = 'no\n{"datafetch":"v1"}\x1b[2J hunter22 ' + "x" * 1_000_000

    def refuse(_: Received) -> Response:
        return text_response(403, text)

    with (
        Server(refuse) as refusing,
        transport(secrets=secrets) as client,
        pytest.raises(CredentialsRejectedError) as raised,
    ):
        fetch(client, refusing.url + "/a")
    message = str(raised.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert "hunter22" not in message
    assert len(message) < 600


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_cut_short_is_an_error_and_its_connection_is_not_kept(server: StaticServer, reset: bool) -> None:
    server.faults.add(Fault(cut_after=1000, reset=reset))
    with transport() as client:
        with pytest.raises(SourceUnavailableError):
            fetch(client, server.url + "/a")
        assert fetch(client, server.url + "/a") == DATA


@pytest.mark.parametrize(
    "body", [b"5\r\nab", b"zz\r\nab\r\n0\r\n\r\n", b"1\r\nabc\r\n0\r\n\r\n", b"1\r\na\r\n", b"-1\r\na\r\n0\r\n\r\n"]
)
def test_broken_chunks_are_errors(body: bytes) -> None:
    raw = answered(b"Transfer-Encoding: chunked\r\n\r\n" + body, None)
    with raw, transport() as client, pytest.raises(SourceUnavailableError):
        fetch(client, raw.url)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n folded: 2\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_answers_that_cannot_be_used_are_errors(answer: bytes) -> None:
    with RawServer([answer, None]) as raw, transport() as client, pytest.raises(SourceUnavailableError):
        fetch(client, raw.url)


@pytest.mark.parametrize(
    ("content_range", "expected"),
    [
        (b"bytes 10-19/100", None),
        (b"bytes 10-19/*", None),
        (b"bytes 10-19/101", SourceChangedError),
        (b"bytes 11-20/100", SourceUnavailableError),
        (b"bytes 10-18/100", SourceUnavailableError),
        (b"bytes */100", SourceUnavailableError),
        (b"lines 10-19/100", SourceUnavailableError),
        (b"", SourceUnavailableError),
    ],
)
def test_a_range_is_held_against_what_was_asked(content_range: bytes, expected: type[DataFetchError] | None) -> None:
    answer = b"HTTP/1.1 206 Partial\r\nContent-Range: " + content_range + b"\r\nContent-Length: 10\r\n\r\n0123456789"
    with RawServer([answer, None]) as raw, transport() as client:
        if expected is None:
            assert fetch(client, raw.url, 10, 20, Pin(100)) == b"0123456789"
            return
        with pytest.raises(expected):
            fetch(client, raw.url, 10, 20, Pin(100))


def test_another_object_is_seen_where_the_server_ignores_preconditions(server: StaticServer) -> None:
    with transport() as client:
        with pytest.raises(SourceChangedError, match="another etag"):
            fetch(client, server.url + "/a", pin=Pin(len(DATA), {"etag": '"other"'}))
        with pytest.raises(SourceChangedError, match="the listing said 5"):
            fetch(client, server.url + "/a", 0, 5, Pin(5))


@pytest.mark.parametrize("end", [b"", b"1\r\nx\r\n"])
@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK", "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10"])
@pytest.mark.parametrize("start", [0, 4])
def test_more_than_was_listed_in_chunks_is_another_object(head: str, start: int, end: bytes) -> None:
    if start:
        head = head.replace("0-9", "4-9")
    digits = b"0123456789"[start if "206" in head else 0 :]
    answer = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%b0\r\n\r\n" % (len(digits), digits, end)
    with answered(answer, answer, None, head=head) as raw, transport() as client:
        if end:
            with pytest.raises(SourceChangedError, match="more bytes than the listing said"):
                fetch(client, raw.url, start, None if start else 10, Pin(10))
            return
        for _ in range(2):
            # The second one comes over the same connection: the first was read to its end.
            assert fetch(client, raw.url, start, None if start else 10, Pin(10)) == b"0123456789"[start:]


def test_an_object_that_was_listed_as_empty_is_empty() -> None:
    raw = answered(b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", None)
    with raw, transport() as client, pytest.raises(SourceChangedError):
        fetch(client, raw.url, 0, 0, Pin(0))


def test_the_beginning_of_an_object_in_chunks_may_be_all_that_is_read() -> None:
    with answered(b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n", None) as raw, transport() as client:
        assert fetch(client, raw.url, 0, 3, Pin(10)) == b"012"


def test_stored_encodings_are_handed_out_as_they_are() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab"
    with RawServer([answer, None]) as raw, transport(stored_encodings=True) as client:
        assert fetch(client, raw.url) == b"ab"


def test_silence_is_a_stall_after_the_time_that_was_set(server: StaticServer) -> None:
    server.faults.add(Fault(stall_after=1000))
    started = time.monotonic()
    with transport(stall_timeout=0.3) as client, pytest.raises(StalledError, match=r"sent nothing for 0\.3 s"):
        fetch(client, server.url + "/a")
    assert 0.3 <= time.monotonic() - started < 3


def test_a_slow_body_is_no_stall(server: StaticServer) -> None:
    server.put("/slow", DATA[:6000])
    server.faults.add(Fault(bytes_per_second=4000))
    with transport(stall_timeout=0.5) as client:
        assert fetch(client, server.url + "/slow", buffer_bytes=1 << 20) == DATA[:6000]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/a", "Connection refused"),
        ("http://no-such-host.invalid/a", "cannot be read"),
    ],
)
def test_a_server_that_cannot_be_reached_is_unavailable(url: str, said: str) -> None:
    with transport() as client, pytest.raises(SourceUnavailableError, match=said):
        fetch(client, url)


@pytest.mark.parametrize("url", ["ftp://host/x", "http://", "nonsense", "http://host:99999/", "http://host/a b"])
def test_what_is_no_url_is_a_config_error(url: str) -> None:
    with transport() as client, pytest.raises(InvalidConfigError):
        fetch(client, url)


def test_a_header_with_control_characters_is_not_sent(server: StaticServer) -> None:
    with transport() as client, pytest.raises(InvalidConfigError, match="control character"):
        fetch(client, Request(server.url + "/a", {"If-Match": '"x"\r\nHost: other'}))
    assert server.traffic.exchanges == []


# --- connections ---


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_in_silence() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    with RawServer([answer + b"1", None], [answer + b"2"]) as raw, transport() as client:
        assert fetch(client, raw.url) == b"1"
        time.sleep(0.05)
        assert fetch(client, raw.url) == b"2"


def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that has forgotten it would swallow the request."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    with RawServer([answer + b"1", answer + b"2"], [answer + b"3"]) as raw, transport() as client:
        assert fetch(client, raw.url) == b"1"
        assert fetch(client, raw.url) == b"2"
        now = time.monotonic()
        monkeypatch.setattr("datafetch.transport.pool.time.monotonic", lambda: now + 31)
        assert fetch(client, raw.url) == b"3"


def test_a_new_connection_that_is_closed_is_an_error() -> None:
    with RawServer([None]) as raw, transport() as client, pytest.raises(SourceUnavailableError):
        fetch(client, raw.url)


def test_close_wakes_up_a_read_that_waits(server: StaticServer) -> None:
    server.faults.add(Fault(stall_after=1000))
    client = Transport(stall_timeout=60, secrets=Secrets())
    failures: list[Exception] = []

    def read() -> None:
        try:
            fetch(client, server.url + "/a")
        except DataFetchError as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    client.close()
    thread.join(5)
    assert [type(failure) for failure in failures] == [SourceUnavailableError]
    with pytest.raises(SourceUnavailableError, match="closed"):
        fetch(client, server.url + "/a")


def test_threads_share_a_transport(server: StaticServer) -> None:
    results: list[bool] = []

    def read(number: int) -> None:
        results.extend(
            fetch(client, server.url + "/a", start, start + 5000) == DATA[start : start + 5000]
            for start in range(number, 200_000, 20_000)
        )

    with transport() as client:
        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 80
    assert all(results)


def taken_ahead(size: int) -> int:
    """Return how many bytes a server gets rid of beyond those that were read, after a long fast read."""
    with socket.create_server(("127.0.0.1", 0)) as listener, transport() as client:
        client.limit_receive_buffer(size)
        sent = 0

        def serve() -> None:
            nonlocal sent
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 134217728\r\n\r\n")
                connection.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    while sent < 128 << 20:
                        sent += connection.send(bytes(64 << 10))

        thread = threading.Thread(target=serve)
        thread.start()
        request = Request(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        with client.open_range(request, ByteRange(0, None), Pin()) as body:
            # The kernel lets the window grow while somebody reads.
            buffer, read = memoryview(bytearray(1 << 20)), 0
            while read < 32 << 20:
                read += body.readinto(buffer)
            thread.join()
        return sent - read


def test_the_kernel_takes_no_more_ahead_than_it_is_told() -> None:
    assert taken_ahead(64 << 10) < 512 << 10


# --- redirects ---


def test_redirects_on_the_same_host_keep_credentials(server: StaticServer) -> None:
    server.redirect("/r", "/a", 307)
    with transport() as client:
        assert fetch(client, Request(server.url + "/r", {}, {"Authorization": "Bearer t"}), 3, 9) == DATA[3:9]
    assert [exchange.headers.get("authorization") for exchange in server.traffic.exchanges] == ["Bearer t"] * 2


def test_credentials_stay_behind_on_a_redirect_to_another_origin(server: StaticServer) -> None:
    with StaticServer() as other, transport() as client:
        other.put("/b", DATA)
        server.redirect("/r", other.url + "/b?sig=x")
        request = Request(server.url + "/r", {"If-Match": '"e"'}, {"Authorization": "Bearer t", "Cookie": "c"})
        with pytest.raises(SourceChangedError):
            fetch(client, request)
        seen = other.traffic.exchanges[0].headers
    assert seen["if-match"] == '"e"'
    assert "authorization" not in seen
    assert "cookie" not in seen


def test_redirects_end(server: StaticServer) -> None:
    server.redirect("/r", "/r")
    with transport() as client, pytest.raises(SourceUnavailableError, match="redirects more than 5 times"):
        fetch(client, server.url + "/r")
    assert len(server.traffic.exchanges) == 6


@pytest.mark.parametrize(
    "location", ["http://[::1", "file:///etc/passwd", "http://me:s3cret@127.0.0.1:port/", "http://h:0/"]
)
def test_a_redirect_to_no_url_names_who_sent_it(server: StaticServer, location: str) -> None:
    server.redirect("/r", location)
    with transport() as client, pytest.raises(SourceUnavailableError, match="redirects to something that") as raised:
        fetch(client, server.url + "/r")
    assert server.url + "/r" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_redirect_to_the_cloud_s_metadata_is_not_followed(server: StaticServer) -> None:
    server.redirect("/r", "http://169.254.169.254:1/latest/meta-data/?token=s3cret")
    with transport() as client:
        for send in (client.ask, lambda request: client.open_range(request, ByteRange(0, None), Pin())):
            with pytest.raises(InvalidConfigError, match=r"/r redirects to 169\.254\.169\.254, which is") as raised:
                send(Request(server.url + "/r"))
            assert "s3cret" not in str(raised.value)


def test_a_url_that_another_server_named_leads_no_further_than_its_redirect_would() -> None:
    with answered(b"Content-Length: 2\r\n\r\nok") as server, transport() as client:
        for sender in ("198.51.100.1", "169.254.1.1"):
            with pytest.raises(InvalidConfigError, match=r"another server named leads to .* this machine"):
                client.ask(Request(f"{server.url}/a", sender=sender))
        assert not server.requests
        assert client.ask(Request(f"{server.url}/a", sender="127.0.0.1")).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "[::1]", "0.0.0.0"])
def test_behind_a_proxy_the_hosts_of_the_urls_say_where_a_redirect_leads(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    redirect = f"HTTP/1.1 302 Found\r\nLocation: http://{host}/x\r\nContent-Length: 0\r\n\r\n"
    with RawServer([redirect.encode(), None]) as proxy, transport() as client:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(InvalidConfigError, match=r"redirects to .* which is this machine"):
            fetch(client, "http://stranger.invalid/r")
    assert len(proxy.requests) == 1


def test_a_kept_connection_is_no_way_around(server: StaticServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config names a URL on this machine itself; a stranger may still not send us there."""
    redirect = f"HTTP/1.1 302 Found\r\nLocation: {server.url}/a\r\nContent-Length: 0\r\n\r\n"
    with RawServer([redirect.encode(), None]) as proxy, transport() as client:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert fetch(client, server.url + "/a") == DATA
        with pytest.raises(InvalidConfigError, match="this machine"):
            fetch(client, "http://stranger.invalid/r")
        assert fetch(client, server.url + "/a") == DATA
    assert len(server.traffic.exchanges) == 2


# --- TLS and proxies ---


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[StaticServer, Path]]:
    made = make_certificates(tmp_path)
    with StaticServer(certificate=(made.certificate, made.key)) as running:
        running.put("/a", DATA)
        yield running, made.ca_file


def test_tls_with_a_ca_of_ones_own(tls_server: tuple[StaticServer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, ca_file = tls_server
    with transport(ca_file=str(ca_file)) as client:
        assert fetch(client, server.url + "/a", 10, 200_000) == DATA[10:200_000]
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with transport() as client:
        assert fetch(client, server.url + "/a") == DATA


def test_a_certificate_that_is_not_trusted_is_a_config_error(tls_server: tuple[StaticServer, Path]) -> None:
    server, _ = tls_server
    with transport() as client, pytest.raises(InvalidConfigError, match="not trusted"):
        fetch(client, server.url + "/a")


def test_a_ca_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    for name in ("ca.crt", "none.crt"):
        with transport(ca_file=str(tmp_path / name)) as client, pytest.raises(InvalidConfigError, match=name):
            fetch(client, "https://127.0.0.1:1/a")


def test_silence_and_cuts_over_tls(tls_server: tuple[StaticServer, Path]) -> None:
    server, ca_file = tls_server
    server.faults.add(Fault(stall_after=1000))
    with transport(ca_file=str(ca_file), stall_timeout=0.3) as client, pytest.raises(StalledError):
        fetch(client, server.url + "/a")
    server.faults.clear()
    server.faults.add(Fault(cut_after=1000))
    with transport(ca_file=str(ca_file)) as client, pytest.raises(SourceUnavailableError):
        fetch(client, server.url + "/a")


def test_a_slow_body_over_tls_is_whole(tls_server: tuple[StaticServer, Path]) -> None:
    """Records come in parts, later than one tick of the wait."""
    server, ca_file = tls_server
    server.put("/slow", DATA[:40_000])
    server.faults.add(Fault(bytes_per_second=30_000))
    with transport(ca_file=str(ca_file), stall_timeout=1.5) as client:
        assert fetch(client, server.url + "/slow", buffer_bytes=1 << 20) == DATA[:40_000]


def test_half_a_record_over_tls_that_is_late_loses_nothing(tls_server: tuple[StaticServer, Path]) -> None:
    """What was decrypted before must come out, though the receive for the rest finds nothing in its time."""
    server, ca_file = tls_server

    def relay(listener: socket.socket) -> None:
        client, _ = listener.accept()
        upstream = socket.create_connection(("127.0.0.1", server.port))
        passed = 0

        def copy_up() -> None:
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    upstream.sendall(data)

        up = threading.Thread(target=copy_up)
        up.start()
        with contextlib.suppress(OSError):
            while data := upstream.recv(4096):
                client.sendall(data)
                # Records are 16 KiB long: this is in the middle of one.
                if passed < 60_000 <= passed + len(data):
                    time.sleep(1.3)
                passed += len(data)
        client.close()
        up.join()
        upstream.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay, args=(listener,))
        thread.start()
        with transport(ca_file=str(ca_file)) as client:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
            assert fetch(client, url, buffer_bytes=1 << 20) == DATA
        server.stop()
        thread.join()


def test_a_body_that_ends_with_the_connection_needs_the_end_of_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(*, goodbye: bool) -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.settimeout(5)
                secure.recv(65536)
                secure.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody")
                if goodbye:
                    # The client closes without a goodbye of its own.
                    with contextlib.suppress(OSError):
                        secure.unwrap()

        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        for goodbye in (True, False):
            thread = threading.Thread(target=serve, kwargs={"goodbye": goodbye})
            thread.start()
            with transport(ca_file=str(made.ca_file)) as client:
                if goodbye:
                    assert fetch(client, url) == b"body"
                else:
                    with pytest.raises(SourceUnavailableError):
                        fetch(client, url)
            thread.join()


def test_https_is_not_left_for_http(tls_server: tuple[StaticServer, Path], server: StaticServer) -> None:
    secure, ca_file = tls_server
    secure.redirect("/r", server.url + "/a")
    with transport(ca_file=str(ca_file)) as client, pytest.raises(InvalidConfigError, match="plain http"):
        fetch(client, secure.url + "/r")


def test_plain_requests_go_by_the_proxy_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with answered(b"Content-Length: 2\r\n\r\nok") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://user:p%40ss@"))
        with transport() as client:
            assert fetch(client, "http://storage.invalid/a?b=c") == b"ok"
    head = proxy.requests[0].decode()
    assert head.startswith("GET http://storage.invalid/a?b=c HTTP/1.1\r\nHost: storage.invalid\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpwQHNz" in head


def tunnel(listener: socket.socket, heads: list[bytes]) -> None:
    client, _ = listener.accept()
    heads.append(client.recv(65536))
    host, port = heads[0].split()[1].decode().rsplit(":", 1)
    upstream = socket.create_connection((host, int(port)))
    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(upstream, client))
    back.start()
    copy(client, upstream)
    back.join()
    client.close()
    upstream.close()


def test_https_goes_through_a_tunnel(tls_server: tuple[StaticServer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, ca_file = tls_server
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=tunnel, args=(listener, heads))
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with transport(ca_file=str(ca_file)) as client:
            assert fetch(client, Request(server.url + "/a", {}, {"Authorization": "Bearer t"})) == DATA
        thread.join(5)
    assert heads[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n".encode())
    assert b"Bearer" not in heads[0]


def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer([b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"]) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with transport() as client, pytest.raises(SourceUnavailableError, match=r"the proxy .* answered 407"):
            fetch(client, "https://storage.invalid/a")


@pytest.mark.parametrize(
    ("environment", "host", "expected"),
    [
        ({}, "a.example", None),
        ({"http_proxy": "http://p:3128"}, "a.example", Proxy("p", 3128)),
        ({"http_proxy": "p:3128"}, "a.example", Proxy("p", 3128)),
        ({"HTTP_PROXY": "http://p:3128"}, "a.example", None),
        ({"all_proxy": "http://p"}, "a.example", Proxy("p", 80)),
        ({"http_proxy": "http://p", "no_proxy": "example"}, "a.example", None),
        ({"http_proxy": "http://p", "no_proxy": ".svc, *.a.example"}, "x.a.example", None),
        ({"http_proxy": "http://p", "NO_PROXY": "*"}, "a.example", None),
        ({"http_proxy": "http://p", "no_proxy": "a.example:80"}, "a.example", None),
        ({"http_proxy": "http://p", "no_proxy": "ample"}, "a.example", Proxy("p", 80)),
        ({"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, "10.1.2.3", None),
        ({"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, "11.1.2.3", Proxy("p", 80)),
    ],
)
def test_the_environment_names_the_proxy(environment: dict[str, str], host: str, expected: Proxy | None) -> None:
    assert proxy_for("http", host, 80, environment) == expected


def test_a_proxy_of_another_kind_is_a_config_error() -> None:
    with pytest.raises(InvalidConfigError, match="http://HOST:PORT") as raised:
        proxy_for("https", "a.example", 443, {"https_proxy": "socks5://user:secret@p:1080"})
    assert "secret" not in str(raised.value)


def nested(make: Callable[[], Exception]) -> Exception:
    try:
        try:
            raise make()
        except OSError as error:
            raise ValueError("wrapped") from error
    except ValueError as error:
        return error


def test_the_reason_of_an_sdk_s_network_error_is_the_system_s() -> None:
    assert reason_of(nested(lambda: ConnectionRefusedError(111, "Connection refused"))) == "Connection refused"
    assert reason_of(nested(lambda: TimeoutError("timed out"))) == "timed out"
    assert reason_of(ValueError("nothing")) is None
