"""`datafetch.source` against real servers: what it lists, its objects as files, and downloads of them."""

import hashlib
import io
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import datafetch
from component.commands import tree
from component.places import WRONG, HttpPlace, Place, S3Place
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    ObjectNotFoundError,
    SourceChangedError,
    SourceNotFoundError,
)
from servers.faults import FaultProxy
from servers.plans import Fault

BIG = os.urandom(3_000_000)
FILES = {
    "train/README.md": b"# read me\n",
    "train/sub/big.bin": BIG,
    "train/sub/empty.txt": b"",
    "train/ünï côdé/日本 +%41&=;,@$!'()~.txt": b"there",
    "other/file.txt": b"not below train",
}
TRAIN = {key.removeprefix("train/"): data for key, data in FILES.items() if key.startswith("train/")}
with_listing = pytest.mark.parametrize("place", ["s3", "gcs", "azure", "hf", "lakefs", "presigned"], indirect=True)
SCHEMES = {"s3": "s3", "gcs": "gs", "azure-blob": "az", "hf": "hf", "lakefs": "lakefs"}


def uri_and_options(place: Place, path: str, credentials: str = "right") -> tuple[str, dict[str, Any]]:
    """What names a path of a place: a URI, and the keys of its item that are no choice of objects."""
    config = place.config([{"path": "."}], credentials)
    scheme = SCHEMES[config.pop("type")]
    container = config.pop("repo_id", place.bucket)
    if scheme == "lakefs":
        container = f"{config.pop('repository')}/{config.pop('ref', 'main')}"
    choice = ("items", "files", "path", "target_path")
    return f"{scheme}://{container}/{path}", {key: value for key, value in config.items() if key not in choice}


def source_at(place: Place, path: str = "train/", credentials: str = "right", **more: Any) -> datafetch.RemoteSource:
    uri, options = uri_and_options(place, path, credentials)
    return datafetch.source(uri, **options, **more)


@with_listing
def test_objects_are_listed_with_what_is_known_of_them(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    place.fill(FILES)
    with source_at(place) as source:
        found = {one.path: one for one in source.list()}
        assert {path: one.size for path, one in found.items()} == {path: len(data) for path, data in TRAIN.items()}
        assert all(one.identity for one in found.values())
        # A lakeFS server says what identifies an object, and not what its bytes have to be.
        assert (found["sub/big.bin"].checksum is None) == source.uri.startswith("lakefs:")
        times = [one.modified for one in found.values()]
        if source.uri.startswith("hf:"):
            assert times == [None] * len(TRAIN)
        elif source.uri.startswith("lakefs:"):
            assert times == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)] * len(TRAIN), "as the server's commits are"
        else:
            assert all(time is not None and before < time < datetime.now(UTC) + timedelta(minutes=1) for time in times)
        for path, one in found.items():
            assert source.stat(path) == one, "a look at one says the same"


@with_listing
def test_an_object_is_a_file_to_read_and_seek_in(place: Place) -> None:
    place.fill(FILES)
    with source_at(place) as source:
        for path, data in TRAIN.items():
            with source.open(path) as file:
                assert file.read() == data
        with source.open("sub/big.bin", "rb") as file:
            assert (file.seek(-1_000, io.SEEK_END), file.read(10)) == (len(BIG) - 1_000, BIG[-1_000:-990])
            assert (file.seek(1_234_567), file.read(200_000)) == (1_234_567, BIG[1_234_567:1_434_567])
            assert (file.tell(), file.peek(1)[:1]) == (1_434_567, BIG[1_434_567:1_434_568])


@with_listing
def test_what_is_not_there_is_a_file_that_is_not_found(place: Place) -> None:
    place.fill(FILES)
    with source_at(place) as source:
        for path in ("nothing.txt", "sub", "sub/", ""):
            with pytest.raises(FileNotFoundError, match="has no object") as raised:
                source.open(path)
            assert isinstance(raised.value, SourceNotFoundError)
    with source_at(place, "nowhere/") as source, pytest.raises(SourceNotFoundError):
        list(source.list())


@with_listing
def test_what_the_globs_leave_out_is_not_there(place: Place) -> None:
    place.fill(FILES)
    with source_at(place, include=["sub/**", "README.md"], exclude=["**/empty.txt"]) as source:
        assert {one.path for one in source.list()} == {"README.md", "sub/big.bin"}
        assert source.stat("README.md").size == 10
        with pytest.raises(ObjectNotFoundError):
            source.stat("sub/empty.txt")


@with_listing
def test_a_uri_without_a_slash_is_the_object_and_if_there_is_none_what_lies_below(place: Place) -> None:
    place.fill(FILES)
    with source_at(place, "train/README.md") as source:
        assert [one.path for one in source.list()] == ["README.md"]
        with source.open("README.md") as file:
            assert file.read() == TRAIN["README.md"]
    with source_at(place, "train") as source:
        assert {one.path for one in source.list()} == set(TRAIN)
        assert source.stat("sub/big.bin").size == len(BIG)


@with_listing
def test_a_download_is_whole_and_a_choice_of_paths_is_only_these(place: Place, tmp_path: Path) -> None:
    place.fill(FILES)
    with source_at(place, exclude=["**/empty.txt"]) as source:
        source.download(tmp_path / "all")
        outcome = source.download(tmp_path / "some", "README.md", "ünï côdé/日本 +%41&=;,@$!'()~.txt")
        with pytest.raises(FileNotFoundError):
            source.download(tmp_path / "none", "README.md", "sub/empty.txt")

    assert tree(tmp_path / "all") == {path: data for path, data in TRAIN.items() if path != "sub/empty.txt"}
    assert tree(tmp_path / "some") == {path: TRAIN[path] for path in TRAIN if "big" not in path and "empty" not in path}
    assert outcome.files == 2
    assert not (tmp_path / "none").exists()


def test_a_name_with_the_signs_of_globs_is_downloaded_alone(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({"d/a[1]*.txt": b"this", "d/a1b.txt": b"not this", "d/{x,y}.txt": b"this too", "d/x.txt": b"nor this"})
    with source_at(s3, "d/") as source:
        source.download(tmp_path / "data", "a[1]*.txt", "{x,y}.txt")

    assert tree(tmp_path / "data") == {"a[1]*.txt": b"this", "{x,y}.txt": b"this too"}


def test_a_url_is_a_source_of_one_object(http: HttpPlace, tmp_path: Path) -> None:
    http.fill({"file.bin": BIG})
    config = http.config([], "right")
    options = {key: value for key, value in config.items() if key not in ("type", "items")}
    with datafetch.source(f"{http.server.url}/{http.bucket}/file.bin", **options) as source:
        (found,) = source.list()
        assert (found.path, found.size) == ("file.bin", len(BIG))
        with source.open(found) as file:
            assert file.seek(2_999_990) == 2_999_990
            assert file.read() == BIG[-10:]
        source.download(tmp_path / "data", "file.bin")
    assert tree(tmp_path / "data") == {"file.bin": BIG}


@pytest.mark.parametrize("place", ["s3", "azure"], indirect=True)
def test_an_object_that_changed_ends_the_reading(place: Place) -> None:
    place.fill(FILES)
    with source_at(place) as source, source.open("sub/big.bin") as file:
        assert file.read(1_000) == BIG[:1_000]
        place.fill({"train/sub/big.bin": os.urandom(len(BIG))})
        file.seek(2_000_000)
        with pytest.raises(SourceChangedError) as raised:
            file.read(1_000)
        assert raised.value.key == f"{place.bucket}/train/sub/big.bin"


def test_wrong_credentials_are_refused_and_not_shown(s3: S3Place) -> None:
    s3.fill(FILES)
    with source_at(s3, credentials="wrong") as source:
        for use in (lambda: list(source.list()), lambda: source.stat("README.md")):
            with pytest.raises(CredentialsRejectedError) as raised:
                use()
            assert WRONG not in f"{raised.value}{raised.value!r}{source!r}"


# --- what the server sees ---


@pytest.fixture
def proxied(s3: S3Place) -> Iterator[tuple[S3Place, FaultProxy]]:
    """The place behind a proxy that sees every request, and misbehaves as planned."""
    s3.fill(FILES)
    upstream = urlsplit(s3.server.url)
    with FaultProxy(upstream.hostname or "", upstream.port or 0) as proxy:
        yield s3, proxy


def through(proxy: FaultProxy, place: S3Place) -> datafetch.RemoteSource:
    uri, options = uri_and_options(place, "train/")
    return datafetch.source(uri, **options | {"endpoint_url": proxy.url})


def gets(proxy: FaultProxy) -> list[Any]:
    """The GETs of the large object."""
    return [one for one in proxy.traffic.exchanges if one.method == "GET" and one.path.endswith("big.bin")]


def test_a_short_read_costs_the_server_a_short_range(proxied: tuple[S3Place, FaultProxy]) -> None:
    place, proxy = proxied
    with through(proxy, place) as source, source.open("sub/big.bin") as file:
        file.seek(2_000_000)
        assert file.read(100) == BIG[2_000_000:2_000_100]
        (one,) = gets(proxy)
        assert one.status == 206
        assert one.sent == 64 << 10, "one buffer, whatever the object's size"
        assert one.headers["if-match"] == source.stat("sub/big.bin").identity.removeprefix("etag:")


def test_a_whole_read_comes_over_one_kept_connection(proxied: tuple[S3Place, FaultProxy]) -> None:
    place, proxy = proxied
    with through(proxy, place) as source, source.open("sub/big.bin") as file:
        while file.read(100_000):
            continue
        sent = [one.sent for one in gets(proxy)]
        assert sum(sent) == len(BIG)
        assert len(sent) < 10


def test_broken_connections_and_refusals_are_asked_for_again(
    proxied: tuple[S3Place, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, proxy = proxied
    monkeypatch.setattr("datafetch.pace._FIRST_WAIT", 0.01)
    proxy.faults.add(Fault(cut_after=700_000), path="*big.bin")
    proxy.faults.add(Fault(status=503, retry_after="0"), times=2, path="*big.bin")
    proxy.faults.add(Fault(cut_after=100_000, reset=True), path="*big.bin")
    with through(proxy, place) as source, source.open("sub/big.bin") as file:
        assert file.read() == BIG
    assert len(gets(proxy)) == 5


def test_threads_share_a_source_and_each_reads_a_file_of_its_own(proxied: tuple[S3Place, FaultProxy]) -> None:
    place, proxy = proxied
    found: list[bytes] = []
    with through(proxy, place) as source:

        def read() -> None:
            with source.open("sub/big.bin") as file:
                found.append(file.read())

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [BIG] * 4


def test_a_file_outlives_the_name_of_its_source_and_ends_with_it(proxied: tuple[S3Place, FaultProxy]) -> None:
    place, proxy = proxied
    with through(proxy, place).open("sub/big.bin") as file:
        assert file.read(10) == BIG[:10]
        file.seek(1_000_000)
        assert file.read(10) == BIG[1_000_000:1_000_010]
    source = through(proxy, place)
    file = source.open("sub/big.bin")
    source.close()
    with pytest.raises(ValueError, match="the source of this file is closed"):
        file.read(10)
    with pytest.raises(ValueError, match="the source is closed"):
        source.stat("README.md")


def _read_in_worker(source: datafetch.RemoteSource, answers: Any) -> None:
    try:
        with source.open("sub/big.bin") as file:
            answers.put(hashlib.sha256(file.read()).hexdigest())
    except DataFetchError as error:
        answers.put(repr(error))


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_a_data_loader_open_connections_of_their_own(s3: S3Place, way: str) -> None:
    s3.fill(FILES)
    context: Any = multiprocessing.get_context(way)
    answers = context.Queue()
    with source_at(s3) as source, source.open("sub/big.bin") as file:
        assert file.read(1_000) == BIG[:1_000]
        workers = [context.Process(target=_read_in_worker, args=(source, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        found = [answers.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        assert file.read() == BIG[1_000:], "what the parent has open is still its own"
    assert found == [hashlib.sha256(BIG).hexdigest()] * 2


def _close(source: datafetch.RemoteSource, opened: int, answers: Any) -> None:
    source.close()
    answers.put(True)


def _use_and_close(source: datafetch.RemoteSource, opened: int, answers: Any) -> None:
    source.stat("README.md")
    answers.put(id(source._open()) != opened)
    source.close()


@pytest.mark.parametrize("leave", [_close, _use_and_close])
def test_a_forked_worker_that_leaves_takes_no_connection_from_its_parent(
    proxied: tuple[S3Place, FaultProxy], leave: Callable[..., None]
) -> None:
    place, proxy = proxied
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with through(proxy, place) as source, source.open("sub/big.bin") as file:
        start = [file.read(65_536) for _ in range(3)]  # the third read asks ahead: its answer is still open
        before = len(gets(proxy))
        worker = context.Process(target=leave, args=(source, id(source._open()), answers))
        worker.start()
        assert answers.get(timeout=30), "the worker has a provider's source of its own"
        worker.join()
        assert b"".join(start) + file.read(200_000) == BIG[: 3 * 65_536 + 200_000]
        assert len(gets(proxy)) == before, "the answer that was open has gone on"


def test_a_directory_that_is_gone_is_made(s3: S3Place, tmp_path: Path) -> None:
    s3.fill(FILES)
    with source_at(s3) as source:
        source.download(tmp_path / "a" / "b")
        shutil.rmtree(tmp_path / "a")
        source.download(tmp_path / "a" / "b")
    assert tree(tmp_path / "a" / "b") == TRAIN
