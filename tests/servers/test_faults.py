"""The fault proxy changes nothing but what it was told to, in process and as a command."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import faults
from servers.faults import FaultProxy
from servers.http import Fault, Manners, StaticServer
from servers.serving import wait_until

DATA = os.urandom(1 << 20)


@pytest.fixture
def origin() -> Iterator[StaticServer]:
    with StaticServer() as server:
        server.put("/bucket/key 1", DATA)
        server.put("/bucket/chunked", DATA, Manners(chunked=True))
        yield server


@pytest.fixture
def proxy(origin: StaticServer) -> Iterator[FaultProxy]:
    with FaultProxy(origin.host, origin.port) as running:
        yield running


def get(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return bytes(response.read())


def test_a_request_reaches_the_server_behind_as_it_was_sent(origin: StaticServer, proxy: FaultProxy) -> None:
    assert get(f"{proxy.url}/bucket/key%201?x=%2F", Host="bucket.example", Range="bytes=1-3") == DATA[1:4]
    seen = origin.traffic.exchanges[0]
    assert seen.target == "/bucket/key%201?x=%2F"
    assert seen.headers["host"] == "bucket.example"
    assert get(f"{proxy.url}/bucket/chunked") == DATA


def test_a_connection_to_the_proxy_is_used_again(origin: StaticServer, proxy: FaultProxy) -> None:
    connection = http.client.HTTPConnection(proxy.host, proxy.port)
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, "/bucket/key%201")
        response = connection.getresponse()
        assert response.headers["Content-Length"] == str(len(DATA))
        assert response.read() == (b"" if method == "HEAD" else DATA)
    connection.close()
    assert [exchange.headers["host"] for exchange in origin.traffic.exchanges] == [f"{proxy.host}:{proxy.port}"] * 3


def test_a_cut_reaches_the_client_and_not_the_next_request(proxy: FaultProxy) -> None:
    proxy.faults.add(Fault(cut_after=1000))
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(f"{proxy.url}/bucket/key%201")
    assert cut.value.partial == DATA[:1000]
    assert get(f"{proxy.url}/bucket/key%201") == DATA


def test_more_requests_at_once_than_allowed_are_told_to_slow_down(proxy: FaultProxy) -> None:
    proxy.max_concurrency = 1
    proxy.retry_after = "3"
    proxy.faults.add(Fault(stall_after=10, stall_seconds=0.5))
    first = threading.Thread(target=get, args=(f"{proxy.url}/bucket/key%201",))
    first.start()
    wait_until(lambda: proxy.traffic.in_progress == 1 and proxy.traffic.exchanges[0].sent == 10)
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{proxy.url}/bucket/key%201")
    with refused.value as answer:
        assert (answer.code, answer.headers["Retry-After"]) == (503, "3")
        refusal = answer.read()
    assert b"SlowDown" in refusal
    first.join()
    assert get(f"{proxy.url}/bucket/key%201") == DATA
    size = 2 * len(DATA) + len(refusal)
    assert proxy.statistics() == {"requests": 3, "bytes": size, "peakConcurrency": 2, "refused": 1}


def test_latency_is_added_and_a_dead_server_behind_is_a_bad_gateway(origin: StaticServer, proxy: FaultProxy) -> None:
    proxy.latency = 0.1
    started = time.monotonic()
    get(f"{proxy.url}/bucket/key%201")
    assert time.monotonic() - started > 0.1
    origin.stop()
    with pytest.raises(urllib.error.HTTPError, match="502"):
        get(f"{proxy.url}/bucket/chunked")


@pytest.mark.parametrize(("text", "expected"), [("5M", 5e6), ("1Ki", 1024), ("2.5G", 2.5e9), ("17", 17)])
def test_sizes_are_written_as_in_kubernetes(text: str, expected: float) -> None:
    assert faults.size(text) == expected


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    whole = [sys.executable, "-m", "servers.faults", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(whole, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_keeps_a_rate_and_takes_another_while_it_runs(origin: StaticServer) -> None:
    upstream = f"{origin.host}:{origin.port}"
    with command("--upstream", upstream, "--rate", "1Mi", "--fail-first", "1") as process:
        assert process.stdout
        url = process.stdout.readline().split()[0]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{url}/bucket/key%201")
        assert seconds_to_get(f"{url}/bucket/key%201") > 0.9
        assert control(url, b'{"rate": null}') == (200, 2)
        assert control(url, b'{"speed": 1}')[0] == 400
        assert seconds_to_get(f"{url}/bucket/key%201") < 0.7
        process.send_signal(signal.SIGTERM)
        assert json.loads(process.stdout.read())["bytes"] > 2 * len(DATA)
        assert process.wait(10) == 0


def seconds_to_get(url: str) -> float:
    started = time.monotonic()
    assert get(url) == DATA
    return time.monotonic() - started


def control(url: str, settings: bytes) -> tuple[int, int]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/.faults", settings, method="PUT")) as answer:
            return answer.status, json.load(answer)["requests"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, 0
