"""Servers that send more than they should, of everything: bounded memory, one clear error, never a longer file."""

import gzip
import itertools
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from component.cloud import Cloud, refusal
from component.commands import Run, tree
from component.prefork import Prefork, prefork
from servers.http import Manners, StaticServer
from servers.serving import Request, Response, Server

MORE_MEMORY = 64 << 20
"""Bytes that a run against such a server may need beyond one against a good server."""
ZEROS = bytes(1 << 20)


@pytest.fixture(scope="module")
def runs() -> Iterator[Prefork]:
    with prefork() as running:
        yield running


@pytest.fixture(scope="module")
def usual(runs: Prefork, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The peak memory of a run of each provider against a good server."""
    peaks = {}
    for provider in ("s3", "http"):
        with Cloud({"a": b"a", "b": b"b" * 100_000}) as server:
            assert run(runs, server.item(provider), tmp_path_factory.mktemp(provider)).code == 0
        peaks[provider] = runs.peak
    return peaks


def run(runs: Prefork, item: dict[str, Any], base: Path, root: str = "data") -> Run:
    place = base / "place"
    place.mkdir()
    (base / "config.yaml").write_text(yaml.safe_dump({"download_root": root, "download_items": [item]}))
    return runs.datafetch("run", "../config.yaml", "--json", "--termination-log", "message", cwd=place)


def get(runs: Prefork, url: str, base: Path) -> Run:
    return run(runs, {"type": "http", "name": "web", "items": [{"url": url, "target_path": "x"}]}, base)


def assert_one_clear_error(done: Run, base: Path, codes: tuple[int, ...]) -> None:
    assert done.code in codes, done.stderr
    assert done.sentence
    assert len(done.sentence) < 5_000
    assert len((base / "place/message").read_bytes()) <= 3_500
    assert tree(base / "place/data") == {}, "nothing has a final name"


# --- bodies ----------------------------------------------------------------------------------------------------------


@contextmanager
def body_server(body: Callable[[], Iterable[bytes]], *, promised: int | None, length: int | None) -> Iterator[Server]:
    """Promise so many bytes to HEAD, and send others to GET: by Content-Length, or in chunks where `length` is None."""

    def page(request: Request) -> Response:
        headers: tuple[tuple[str, str], ...] = (("ETag", '"1"'),)
        if promised is not None:
            headers = (*headers, ("Accept-Ranges", "bytes"))
        if request.method == "HEAD":
            return Response(200, headers, b"", promised)
        return Response(200, headers, body(), length)

    with Server(page) as server:
        yield server


def forever() -> Iterator[bytes]:
    return itertools.repeat(ZEROS)


@pytest.mark.parametrize(
    ("promised", "length"), [(1_000, None), (1_000, 2_000), (1_000, 1 << 40), (0, None), (0, 5_000)], ids=str
)
def test_more_bytes_than_promised_are_an_error(
    runs: Prefork, usual: dict[str, int], tmp_path: Path, promised: int, length: int | None
) -> None:
    with body_server(forever, promised=promised, length=length) as server:
        done = get(runs, f"{server.url}/x", tmp_path)
        sent = server.traffic.bytes_sent
    if promised == 0 and done.code == 0:
        # An empty file need not be asked for at all.
        assert tree(tmp_path / "place/data") == {"x": b""}
        return
    assert_one_clear_error(done, tmp_path, (12, 14, 17))
    assert runs.peak < usual["http"] + MORE_MEMORY
    assert sent < 200 << 20, "it hangs up once it has seen enough"


@pytest.mark.parametrize("length_error", [-5, 5])
def test_a_content_length_that_lies_is_an_error_in_both_directions(
    runs: Prefork, tmp_path: Path, length_error: int
) -> None:
    with StaticServer() as server:
        server.put("/x", b"x" * 100_000, Manners(length_error=length_error))
        done = get(runs, f"{server.url}/x", tmp_path)
    assert_one_clear_error(done, tmp_path, (12, 14, 17))


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(volume)], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", str(volume)], check=True)


def test_a_body_without_end_ends_with_the_volume(
    runs: Prefork, usual: dict[str, int], tmp_path: Path, small_volume: Path
) -> None:
    with body_server(forever, promised=None, length=None) as server:
        item = {"type": "http", "name": "web", "items": [{"url": f"{server.url}/x"}]}
        done = run(runs, item, tmp_path, root=str(small_volume / "data"))
    assert done.code == 13, done.stderr
    assert "the volume is full" in done.sentence
    assert tree(small_volume / "data") == {}
    assert runs.peak < usual["http"] + MORE_MEMORY


def test_a_compressed_body_is_refused_unread(runs: Prefork, usual: dict[str, int], tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(256 << 20))

    def page(request: Request) -> Response:
        return Response(200, (("ETag", '"1"'), ("Content-Encoding", "gzip")), bomb, len(bomb))

    with Server(page) as server:
        done = get(runs, f"{server.url}/x", tmp_path)
    assert_one_clear_error(done, tmp_path, (14,))
    assert "Content-Encoding" in done.sentence
    assert runs.peak < usual["http"] + MORE_MEMORY


# --- errors ----------------------------------------------------------------------------------------------------------


# Not a listing of s3: the SDK reads what the endpoint answers whole (docs/security.md, "What is not promised").
@pytest.mark.parametrize(("provider", "stage"), [("http", "listing"), ("http", "object"), ("s3", "object")])
def test_an_error_body_of_a_gibibyte_is_not_kept(
    runs: Prefork, usual: dict[str, int], tmp_path: Path, provider: str, stage: str
) -> None:
    def answer(request: Request) -> Response | None:
        looks_up = "list-type" in request.exchange.target or request.method == "HEAD"
        if looks_up and stage == "object":
            return None
        body = itertools.chain([b"<Error><Code>AccessDenied</Code><Message>"], itertools.repeat(b"no " * 350_000, 1024))
        return Response(403, (("Content-Type", "application/xml"),), body, None)

    with Cloud({"a": b"a"}) as server:
        server.before = answer
        done = run(runs, server.item(provider), tmp_path)
    assert_one_clear_error(done, tmp_path, (10, 14))
    assert runs.peak < usual[provider] + MORE_MEMORY, f"{runs.peak >> 20} MiB"


def test_a_message_of_megabytes_stays_a_sentence(runs: Prefork, tmp_path: Path) -> None:
    with Cloud({"a": b"a"}) as server:
        server.before = lambda request: refusal("s3", 403, "no access " * 500_000)
        done = run(runs, server.item("s3"), tmp_path)
    assert_one_clear_error(done, tmp_path, (10,))


def test_a_page_of_keys_of_megabytes_is_one_sentence(runs: Prefork, usual: dict[str, int], tmp_path: Path) -> None:
    keys = {f"{number}/" + "k" * (1 << 20): b"x" for number in range(10)}
    with Cloud(keys) as server:
        done = run(runs, server.item("s3"), tmp_path)
    assert_one_clear_error(done, tmp_path, (18,))
    assert "path segment of more than 255 bytes" in done.sentence
    assert runs.peak < usual["s3"] + 3 * MORE_MEMORY, f"{runs.peak >> 20} MiB for a page of 10 MiB"


_ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
LAUGHS = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{_ENTITIES}]>'


@pytest.mark.parametrize(
    ("provider", "page"),
    [
        (
            "s3",
            f"{LAUGHS}<ListBucketResult>&l9;</ListBucketResult>",
        ),
        (
            "s3",
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><ListBucketResult><Name>&e;</Name></ListBucketResult>',
        ),
        ("s3", "<a>" * 200_000),
        ("s3", "no XML at all"),
        (
            "azure-blob",
            f"{LAUGHS}<EnumerationResults>&l9;</EnumerationResults>",
        ),
        ("azure-blob", "<a>" * 200_000),
        ("gcs", "[" * 200_000),
        ("gcs", '{"items": [{"name": 5, "size": "many"}]}'),
    ],
    ids=["s3 laughs", "s3 file", "s3 deep", "s3 none", "azure laughs", "azure deep", "gcs deep", "gcs wrong"],
)
def test_a_listing_that_is_made_to_hurt_its_reader_is_an_error(
    runs: Prefork, tmp_path: Path, provider: str, page: str
) -> None:
    kind = "application/json" if provider == "gcs" else "application/xml"
    with Cloud({"a": b"a"}) as server:
        server.before = lambda _: Response(200, (("Content-Type", kind),), page.encode(), len(page.encode()))
        done = run(runs, server.item(provider), tmp_path)
    assert_one_clear_error(done, tmp_path, (2, 11, 14))
    assert runs.peak < 1 << 30
    assert Path("/etc/hostname").read_text().strip() not in done.stderr


# --- heads -----------------------------------------------------------------------------------------------------------


class Flood:
    """Answers every request with a beginning, and then the same bytes until nobody takes them any more."""

    def __init__(self, beginning: bytes, rest: bytes) -> None:
        self._answer = beginning, rest
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self.sent = 0
        self._closing = False
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with socket.create_connection(self._listener.getsockname()):
            pass
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            connection, _ = self._listener.accept()
            thread = threading.Thread(target=self._flood, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _flood(self, connection: socket.socket) -> None:
        beginning, rest = self._answer
        many = rest * max(1, 65536 // len(rest))
        with connection:
            connection.settimeout(2)
            try:
                connection.recv(65536)
                connection.sendall(beginning)
                while not self._closing and self.sent < 1 << 30:
                    connection.sendall(many)
                    self.sent += len(many)
            except OSError:
                return  # it has hung up, as it should


@pytest.mark.parametrize(
    ("beginning", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: and another one\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"z"),
        (b"HTTP/1.1 200 ", b"reason"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-Trailer: and another one\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"ext=1;"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["headers", "header", "garbage", "reason", "100", "103", "trailers", "extension", "chunk size"],
)
def test_a_head_without_end_is_an_error(
    runs: Prefork, usual: dict[str, int], tmp_path: Path, beginning: bytes, rest: bytes
) -> None:
    with Flood(beginning, rest) as server:
        done = get(runs, server.url, tmp_path)
        assert server.sent < 512 << 20, "it hangs up once it has seen enough"
    assert_one_clear_error(done, tmp_path, (12, 14))
    assert runs.peak < usual["http"] + MORE_MEMORY
