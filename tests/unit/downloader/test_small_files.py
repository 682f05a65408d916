"""Small files from a real server into a real tree: what is on the disk, what the server saw, and how a fetch ends."""

import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from datafetch.engine import FetchOutcome, run_fetch
from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    SourceNotFoundError,
)
from datafetch_api.config import DownloadConfig
from datafetch_api.exit_codes import ExitCode
from servers.faults import FaultProxy
from servers.http import Manners, StaticServer
from servers.plans import Fault
from servers.serving import Request, Response, Server
from unit.downloader.memory_source import RecordingObserver, wait_until
from unit.downloader.tree import tree

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as running:
        yield running


def many(count: int, seed: int = 1) -> dict[str, bytes]:
    """Return files of all small sizes, some of them empty."""
    chance = random.Random(seed)
    sizes = [0, 1, 4096, 70_000, 1 << 20]
    return {
        f"dir-{number % 7}/{number:04}.bin": chance.randbytes(sizes[number] if number < 5 else chance.randrange(9000))
        for number in range(count)
    }


def serve(server: StaticServer, files: Mapping[str, bytes], *, digest: bool = False) -> None:
    for name, data in files.items():
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
        headers = (("Repr-Digest", f"sha-256=:{sha256}:"),) if digest else ()
        server.put(f"/{name}", data, Manners(headers=headers))


class Fetch:
    """A fetch of files from a server, by its URLs."""

    def __init__(self, server: Server, names: Mapping[str, object], root: Path, **transfer: object) -> None:
        files = [{"url": f"{server.url}/{name}", "target_path": name} for name in names]
        self._config = DownloadConfig.model_validate(
            {
                "download_root": str(root),
                "download_items": [{"type": "http", "name": "files", "items": files}],
                "transfer": transfer,
            }
        )
        self.observer = RecordingObserver()
        self.cancel = threading.Event()

    def run(self) -> FetchOutcome:
        return run_fetch(self._config, observer=self.observer, cancel=self.cancel)


def gets(server: Server, path: str = "") -> int:
    """Return how often files were asked for."""
    return sum(seen.method == "GET" and path in seen.path for seen in server.traffic.exchanges)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_many_small_files_land_as_they_are_each_asked_for_once(server: StaticServer, tmp_path: Path) -> None:
    files = many(300)
    serve(server, files)
    fetch = Fetch(server, files, tmp_path)
    outcome = fetch.run()
    assert tree(tmp_path) == files
    size = sum(map(len, files.values()))
    assert (outcome.files, outcome.bytes, fetch.observer.bytes_received) == (300, size, size)
    assert fetch.observer.files == 300
    assert fetch.observer.retries == []
    assert gets(server) == sum(1 for data in files.values() if data)


def test_no_more_requests_than_allowed_are_under_way(server: StaticServer, tmp_path: Path) -> None:
    files = many(60)
    serve(server, files)
    server.faults.add(Fault(latency=0.01), times=None)
    Fetch(server, files, tmp_path, max_concurrency=3).run()
    assert tree(tmp_path) == files
    assert server.traffic.peak <= 3


def test_a_second_fetch_brings_only_what_has_changed(server: StaticServer, tmp_path: Path) -> None:
    files = many(40)
    serve(server, files)
    Fetch(server, files, tmp_path).run()
    before = gets(server)
    files["dir-3/0003.bin"] = b"new"
    serve(server, {"dir-3/0003.bin": b"new"})
    outcome = Fetch(server, files, tmp_path).run()
    assert tree(tmp_path) == files
    assert gets(server) == before + 1
    assert outcome.reused_bytes == sum(map(len, files.values())) - 3


def test_a_server_that_redirects_is_followed(server: StaticServer, tmp_path: Path) -> None:
    # More than are tried before the lane leaves such a source alone.
    files = many(80)
    with StaticServer() as front:
        serve(server, files)
        for name in files:
            front.redirect(f"/{name}", f"{server.url}/{name}", 307)
        Fetch(front, files, tmp_path).run()
    assert tree(tmp_path) == files


@pytest.mark.parametrize("manners", [Manners(chunked=True), Manners(ranges=False)], ids=["chunked", "no ranges"])
def test_files_of_servers_that_know_less_land_too(server: StaticServer, tmp_path: Path, manners: Manners) -> None:
    files = many(50)
    for name, data in files.items():
        server.put(f"/{name}", data, manners)
    Fetch(server, files, tmp_path).run()
    assert tree(tmp_path) == files


# --- bytes that are wrong ---


def test_a_byte_that_is_flipped_once_is_fetched_again(server: StaticServer, tmp_path: Path) -> None:
    files = {name: data for name, data in many(40).items() if data}
    serve(server, files, digest=True)
    server.faults.add(Fault(flip_at=0), path="*/0007.bin")
    fetch = Fetch(server, files, tmp_path)
    fetch.run()
    assert tree(tmp_path) == files
    assert gets(server, "0007.bin") == 2
    assert gets(server) == len(files) + 1
    assert len(fetch.observer.retries) == 1
    assert "0007.bin" in fetch.observer.retries[0]
    assert fetch.observer.bytes_received == sum(map(len, files.values())), "what was thrown away does not count"


def test_a_byte_that_is_always_flipped_ends_the_fetch(server: StaticServer, tmp_path: Path) -> None:
    files = {name: data for name, data in many(20).items() if data}
    serve(server, files, digest=True)
    server.faults.add(Fault(flip_at=0), times=None, path="*/0007.bin")
    with pytest.raises(IntegrityMismatchError, match="sha256") as caught:
        Fetch(server, files, tmp_path).run()
    assert caught.value.code == ExitCode.INTEGRITY_MISMATCH
    assert "0007.bin" in str(caught.value)
    assert gets(server, "0007.bin") == 2
    assert list(tmp_path.rglob("0007.bin")) == [], "nor does it stay among what was staged"


def test_a_length_that_does_not_hold_brings_no_wrong_file(server: StaticServer, tmp_path: Path) -> None:
    files = {"a/long.bin": b"l" * 5000, "b/fine.bin": b"f" * 5000}
    serve(server, files)
    server.put("/a/long.bin", files["a/long.bin"], Manners(length_error=-10))
    with pytest.raises(DataFetchError):
        Fetch(server, files, tmp_path).run()
    assert "a/long.bin" not in tree(tmp_path)


# --- servers that refuse, and connections that break ---


def test_a_refusal_delays_as_long_as_the_server_asks(server: StaticServer, tmp_path: Path) -> None:
    files = {name: data for name, data in many(30).items() if data}
    serve(server, files)
    with FaultProxy(server.host, server.port) as proxy:
        proxy.faults.add(Fault(status=503, retry_after="1"), times=5)
        fetch = Fetch(proxy, files, tmp_path)
        begun = time.monotonic()
        fetch.run()
        assert time.monotonic() - begun >= 1.0
        assert proxy.statistics()["refused"] == len(fetch.observer.retries) == 5
        assert gets(proxy) == len(files) + 5
    assert tree(tmp_path) == files
    assert fetch.observer.bytes_received == sum(map(len, files.values()))


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_connections_that_break_at_random_only_delay(tmp_path: Path, reset: bool) -> None:
    files = many(120, seed=5)
    chance = random.Random(6)
    before = open_descriptors()
    with StaticServer() as server:
        serve(server, files)
        for after in (0, 1, 500, 3000):
            fault = Fault(cut_after=after, reset=reset)
            server.faults.add(fault, times=6, when=lambda _: chance.random() < 0.15)
        fetch = Fetch(server, files, tmp_path)
        fetch.run()
        assert gets(server) > sum(1 for data in files.values() if data)
    assert tree(tmp_path) == files
    assert fetch.observer.bytes_received == sum(map(len, files.values()))
    wait_until(lambda: open_descriptors() <= before)


def test_a_file_that_is_gone_by_now_is_named(server: StaticServer, tmp_path: Path) -> None:
    files = many(20)
    serve(server, files)
    server.faults.add(Fault(status=404), times=None, path="*/0009.bin")
    with pytest.raises(SourceNotFoundError) as caught:
        Fetch(server, files, tmp_path).run()
    assert "0009.bin" in str(caught.value)
    assert not any(name.endswith("0009.bin") for name in tree(tmp_path))


# --- objects that change ---


class Forgetful(StaticServer):
    """Ignores preconditions, and says by its ETag what it sends."""

    def _page(self, request: Request) -> Response:
        request.exchange.headers.pop("if-match", None)
        return super()._page(request)


@pytest.mark.parametrize("kind", [StaticServer, Forgetful], ids=["answers 412", "sends another ETag"])
@pytest.mark.parametrize("size", [3000, 3500], ids=["same size", "another size"])
def test_an_object_that_changes_after_the_listing_is_fetched_as_it_is_now(
    tmp_path: Path, kind: Callable[[], StaticServer], size: int
) -> None:
    files = {f"{number:02}.bin": bytes([number]) * 3000 for number in range(20)}
    new = random.Random(3).randbytes(size)
    with kind() as server:
        serve(server, files)
        server.swap("/07.bin", new, after=0)
        outcome = Fetch(server, files, tmp_path).run()
    files["07.bin"] = new
    assert tree(tmp_path) == files
    assert outcome.bytes == sum(map(len, files.values()))


# --- the end ---


@pytest.mark.parametrize(
    "fault", [Fault(stall_after=100), Fault(latency=3600), Fault(status=503, retry_after="60")],
    ids=["in a body", "before an answer", "while it waits"],
)  # fmt: skip
def test_a_stop_ends_the_fetch_at_once_and_leaves_nothing_open(tmp_path: Path, fault: Fault) -> None:
    files = {f"{number:02}.bin": bytes(3000) for number in range(40)}
    before = open_descriptors()
    with StaticServer() as server:
        serve(server, files)
        server.faults.add(fault, times=None, when=lambda seen: seen.path >= "/10.bin")
        fetch = Fetch(server, files, tmp_path)
        raised: list[BaseException] = []

        def run() -> None:
            try:
                fetch.run()
            except BaseException as error:  # noqa: BLE001 - looked at below
                raised.append(error)

        runner = threading.Thread(target=run, daemon=True)
        runner.start()
        wait_until(lambda: fetch.observer.files == 10)
        stopped = time.monotonic()
        fetch.cancel.set()
        runner.join(10)
        assert time.monotonic() - stopped < 2.0
        assert [type(error) for error in raised] == [InterruptedByRequestError]
        server.faults.clear()
    wait_until(lambda: open_descriptors() <= before)

    with StaticServer(port=server.port) as server:
        serve(server, files)
        again = Fetch(server, files, tmp_path)
        outcome = again.run()
        assert tree(tmp_path) == files
        assert outcome.reused_bytes == 30_000, "what was whole is not fetched again"
        assert gets(server) == 30


def test_a_fetch_that_succeeds_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    with StaticServer() as server:
        files = many(30)
        serve(server, files)
        Fetch(server, files, tmp_path).run()
    wait_until(lambda: open_descriptors() <= before)
