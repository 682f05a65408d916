"""The static server does what its tests-to-be rely on: each fault strikes where it was planned, and is seen."""

import base64
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.emulators import make_certificates
from servers.http import Fault, Manners, StaticServer
from servers.serving import wait_until

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as running:
        running.put("/dir/file 1.bin", DATA)
        yield running


def get(
    server: StaticServer, path: str = "/dir/file%201.bin", method: str = "GET", **headers: str
) -> tuple[int, bytes]:
    request = urllib.request.Request(server.url + path, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def expect_incomplete(server: StaticServer, path: str) -> None:
    with pytest.raises(http.client.IncompleteRead):
        get(server, path)


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-0", 206, DATA[:1]),
        ("bytes=1000-1999", 206, DATA[1000:2000]),
        ("bytes=1048570-9999999", 206, DATA[1048570:]),
        ("bytes=1048000-", 206, DATA[1048000:]),
        ("bytes=-10", 206, DATA[-10:]),
        ("bytes=1048576-", 416, b"range not satisfiable"),
        ("lines=1-2", 200, DATA),
    ],
)
def test_ranges_are_cut_as_rfc_9110_says(server: StaticServer, asked: str, status: int, expected: bytes) -> None:
    assert get(server, Range=asked) == (status, expected)


def test_conditions_tell_one_object_from_its_successor(server: StaticServer) -> None:
    old = server.put("/dir/file 1.bin", DATA) or ""
    server.put("/dir/file 1.bin", b"new")
    assert get(server, **{"If-Match": old})[0] == 412
    assert get(server, **{"If-Range": old, "Range": "bytes=0-0"}) == (200, b"new")
    assert get(server, **{"If-Match": '"other", *'})[0] == 412
    assert get(server, **{"If-Match": "*"})[0] == 200


def test_a_swap_happens_between_two_requests(server: StaticServer) -> None:
    server.swap("/dir/file 1.bin", b"new", after=2)
    bodies = [get(server)[1] for _ in range(4)]
    assert bodies == [DATA, DATA, b"new", b"new"]


def test_a_cut_ends_the_body_early_for_the_first_requests_only(server: StaticServer) -> None:
    server.faults.add(Fault(cut_after=1000), times=1)
    server.faults.add(Fault(cut_after=2000, reset=True), times=1)
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(server)
    assert len(cut.value.partial) == 1000
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        get(server)
    assert get(server) == (200, DATA)
    assert [exchange.sent for exchange in server.traffic.exchanges] == [1000, 2000, len(DATA)]


def test_a_flipped_byte_is_one_byte(server: StaticServer) -> None:
    server.faults.add(Fault(flip_at=300_000))
    body = get(server)[1]
    assert [at for at in range(len(DATA)) if body[at] != DATA[at]] == [300_000]


def test_refusals_carry_retry_after_and_count_by_path_and_method(server: StaticServer) -> None:
    server.faults.add(Fault(status=503, retry_after="7"), times=2, skip=1, path="/dir/*")
    assert get(server, method="HEAD")[0] == 200
    assert [get(server)[0] for _ in range(4)] == [200, 503, 503, 200]
    assert len(server.traffic.select("GET", "/dir/*", status=503)) == 2


def test_a_stalled_response_is_seen_in_progress_and_ends_with_the_server() -> None:
    with StaticServer() as server:
        server.put("/a", DATA)
        server.faults.add(Fault(stall_after=100))
        client = threading.Thread(target=expect_incomplete, args=(server, "/a"))
        client.start()
        wait_until(lambda: server.traffic.in_progress == 1 and server.traffic.exchanges[0].sent == 100)
    client.join(5)
    assert not client.is_alive()


def test_rates_hold_for_one_response_and_for_all_together(server: StaticServer) -> None:
    server.faults.add(Fault(bytes_per_second=10e6))
    started = time.monotonic()
    get(server)
    assert 0.09 < time.monotonic() - started < 5
    server.pace.rate = 20e6
    clients = [threading.Thread(target=get, args=(server,)) for _ in range(4)]
    started = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert 0.18 < time.monotonic() - started < 5
    assert 2 <= server.traffic.peak <= 4


def test_servers_without_ranges_without_length_and_with_a_wrong_one(server: StaticServer) -> None:
    server.put("/plain", DATA, Manners(ranges=False))
    server.put("/chunked", DATA, Manners(chunked=True))
    server.put("/short", DATA, Manners(length_error=-10))
    server.put("/long", DATA, Manners(length_error=10))
    server.put("/get-only", DATA, Manners(head=False), etag=None, modified=None)
    assert get(server, "/plain", Range="bytes=0-1") == (200, DATA)
    assert get(server, "/chunked") == (200, DATA)
    assert get(server, "/short")[1] == DATA[:-10]
    with pytest.raises(http.client.IncompleteRead):
        get(server, "/long")
    assert get(server, "/get-only", method="HEAD")[0] == 405
    with urllib.request.urlopen(server.url + "/chunked") as response:
        assert response.headers["Content-Length"] is None
    with urllib.request.urlopen(server.url + "/get-only") as response:
        assert (response.headers["ETag"], response.headers["Last-Modified"]) == (None, None)


def test_credentials_are_asked_for_and_redirects_lead_to_another_origin(server: StaticServer) -> None:
    token = base64.b64encode(b"user:word").decode()
    server.require_basic("user", "word")
    with StaticServer(host="127.0.0.2") as other:
        other.put("/there", b"found")
        server.redirect("/here", other.url + "/there")
        assert get(server, "/here")[0] == 401
        assert get(server, "/here", Authorization=f"Basic {token}") == (200, b"found")
        assert "host" in other.traffic.exchanges[0].headers
    server.require_bearer("t0ken")
    assert get(server, Authorization="Bearer t0ken")[0] == 200


def test_tls_with_a_certificate_of_a_throwaway_authority(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    trusting = ssl.create_default_context(cafile=made.ca_file)
    with StaticServer(certificate=(made.certificate, made.key)) as server:
        server.put("/a", b"secret")
        with urllib.request.urlopen(server.url + "/a", context=trusting) as response:
            assert response.read() == b"secret"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(server.url + "/a")
