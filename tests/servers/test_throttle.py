"""The throttling proxy and the dripping server do what they say, and write down what happened."""

import http.client
import os
import threading
import time
import urllib.error
import urllib.request

import pytest

from servers.drip import DrippingServer
from servers.http import StaticServer
from servers.throttle import ThrottlingProxy, windows

DATA = os.urandom(600_000)


def get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.read() == DATA
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_what_is_above_the_limit_is_refused_and_counted() -> None:
    with StaticServer() as origin, ThrottlingProxy(origin.host, origin.port, bears=2, seconds=0.3) as proxy:
        origin.put("/bucket/key", DATA)
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(get(f"{proxy.url}/bucket/key"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 503, 503, 503]
        assert (proxy.gate.served, len(proxy.gate.refused), proxy.gate.refused_share) == (2, 3, 0.6)
        start, end = proxy.gate.span
        assert 1.2 <= proxy.gate.average(start, end) <= 2.0
        assert sum(count for _, count in proxy.sent) == 2 * len(DATA)


def test_listings_pass_while_objects_are_refused() -> None:
    with StaticServer() as origin, ThrottlingProxy(origin.host, origin.port, bears=0) as proxy:
        origin.put("/bucket", DATA)
        origin.put("/bucket/key", DATA)
        assert get(f"{proxy.url}/bucket") == 200
        assert get(f"{proxy.url}/bucket/key") == 503


def test_windows_slide_over_what_arrived() -> None:
    assert list(windows([(0.0, 1), (0.25, 2), (1.05, 4)], 1.0, 0.0, 1.15)) == [3, 6]


@pytest.mark.parametrize("after", [0, 100_000])
def test_a_drip_is_a_byte_at_a_time_for_the_answers_that_were_named(after: int) -> None:
    with DrippingServer() as server:
        server.put("/key", DATA)
        server.drip("/key", after=after, every=0.2, times=1, skip=1)
        assert get(f"{server.url}/key") == 200
        connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
        connection.request("GET", "/key")
        response = connection.getresponse()
        assert response.read(after) == DATA[:after]
        started = time.monotonic()
        assert response.read(3) == DATA[after : after + 3]
        assert 0.4 <= time.monotonic() - started <= 3.0
        response.close()
        connection.close()
        assert get(f"{server.url}/key") == 200
