"""An index of files at URLs: what it lists, what it pins, whom it may name, and what one of 10,000 files costs."""

import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from component.commands import datafetch, tree
from component.places import STALL_TIMEOUT, by_path, read
from datafetch import transfer
from datafetch.engine import FetchOutcome, run_fetch
from datafetch.errors import (
    CredentialsRejectedError,
    IntegrityMismatchError,
    InvalidConfigError,
    SourceNotFoundError,
    UnsafePathError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import Checksum, ChecksumAlgorithm, Source, open_source
from datafetch_api.config import DownloadConfig, HttpItem
from servers.http import Manners, StaticServer
from servers.plans import Fault

DATA = os.urandom(200_000)
FILES = {"a.bin": DATA, "sub/b 50%.txt": b"b\n", "sub/ü#?.txt": "ü\n".encode(), "empty": b""}

pytestmark = pytest.mark.usefixtures("only_loopback")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sums(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{digest(data)}  {name}\n" for name, data in files.items()).encode()


def lines(*objects: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


def serve(web: StaticServer, files: Mapping[str, bytes], index: bytes | None = None) -> str:
    """Serve files and an index of them below /dir; return the index's URL."""
    for name, data in files.items():
        web.put(f"/dir/{name}", data)
    web.put("/dir/index", sums(files) if index is None else index)
    return f"{web.url}/dir/index"


def item(url: str, index: Mapping[str, object] | None = None, **settings: Any) -> HttpItem:
    return HttpItem.model_validate({"name": "src", "type": "http", "index": {"url": url, **(index or {})}, **settings})


@contextmanager
def opened(url: str, index: Mapping[str, object] | None = None, **settings: Any) -> Iterator[Source]:
    source = open_source(item(url, index, **settings), stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


def fetch(url: str, root: Path, **settings: Any) -> FetchOutcome:
    config = DownloadConfig.model_validate({"download_root": str(root), "download_items": [item(url, **settings)]})
    return run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())


def test_files_of_an_index_are_pinned_and_verified_by_their_sha256(web: StaticServer, tmp_path: Path) -> None:
    url = serve(web, FILES)
    with opened(url, {"target_path": "./data/"}) as source:
        entries = by_path(source)
        assert entries.keys() == {f"data/{name}" for name in FILES}
        for name, data in FILES.items():
            entry = entries[f"data/{name}"]
            assert (entry.size, entry.identity) == (len(data), f"sha256:{digest(data)}")
            assert entry.checksum == Checksum(ChecksumAlgorithm.SHA256, digest(data))
        assert source.resolved_revision == f"sha256:{digest(sums(FILES))}"
    outcome = fetch(url, tmp_path / "root")
    assert tree(tmp_path / "root") == FILES
    assert outcome.sources[0].resolved_revision == f"sha256:{digest(sums(FILES))}"


def test_a_file_that_is_not_what_its_index_says_is_in_no_tree(web: StaticServer, tmp_path: Path) -> None:
    url = serve(web, FILES)
    web.put("/dir/a.bin", DATA[::-1])
    with pytest.raises(IntegrityMismatchError, match="sha256"):
        fetch(url, tmp_path / "root")
    assert "a.bin" not in tree(tmp_path / "root")
    serve(web, FILES, lines({"url": "a.bin", "size": len(DATA), "sha256": digest(DATA)}))
    web.put("/dir/a.bin", DATA + b"more")
    with pytest.raises(IntegrityMismatchError, match="whoever keeps the index has to write it anew"):
        fetch(url, tmp_path / "root")


def test_a_checksum_that_the_server_sends_does_not_replace_the_index_s(web: StaticServer) -> None:
    url = serve(web, {"a.bin": DATA})
    lie = Manners(headers=(("Repr-Digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"),))
    web.put("/dir/a.bin", DATA, lie)
    with opened(url) as source:
        (entry,) = source.list()
        assert source.http is not None
        headers = {name.lower(): value for name, value in lie.headers}
        assert source.http.promised_checksum(entry, headers) == Checksum(ChecksumAlgorithm.SHA256, digest(DATA))


def test_ten_thousand_files_with_size_and_sha256_cost_no_request_but_the_index_s(web: StaticServer) -> None:
    known = (
        {"url": f"many/{n:05}.bin?part={n}", "path": f"{n:05}.bin", "size": n, "sha256": f"{n:064x}"}
        for n in range(10_000)
    )
    url = serve(web, {}, lines(*known))
    with opened(url) as source:
        began = time.monotonic()
        assert len(by_path(source)) == 10_000
        assert time.monotonic() - began < 10
    assert len(web.traffic.exchanges) == 1


def test_several_files_are_looked_at_at_a_time_but_not_too_many(web: StaticServer) -> None:
    files = {f"{number:03}": b"%d" % number for number in range(100)}
    url = serve(web, files)
    web.faults.add(Fault(latency=0.02), times=None, methods=("HEAD",))
    with opened(url) as source:
        assert by_path(source).keys() == files.keys()
    assert 4 <= web.traffic.peak <= 16
    assert len(web.traffic.select("HEAD")) == 100


def test_a_large_file_is_looked_at_for_a_server_may_take_no_ranges(web: StaticServer) -> None:
    size = (32 << 20) + 1
    index = lines(
        {"url": "a.bin", "size": size, "sha256": digest(DATA)}, {"url": "b", "size": 2, "sha256": digest(b"b\n")}
    )
    url = serve(web, {"a.bin": DATA, "b": b"b\n"}, index)
    web.put("/dir/a.bin", DATA, Manners(ranges=False))
    with opened(url) as source:
        assert {path: entry.size for path, entry in by_path(source).items()} == {"a.bin": None, "b": 2}


def test_only_what_the_globs_take_is_looked_at(web: StaticServer) -> None:
    url = serve(web, FILES)
    with opened(url, {"target_path": "data"}, include=["sub/**", "*.bin"], exclude=["**/*%.txt"]) as source:
        assert sorted(by_path(source)) == ["data/a.bin", "data/sub/ü#?.txt"]
    assert len(web.traffic.select("HEAD")) == 2
    with opened(url, include=["*.zip"]) as source, pytest.raises(SourceNotFoundError, match=r"matches '\*\.zip'"):
        list(source.list())
    web.put("/dir/index", b"# nothing yet\n")
    with opened(url) as source, pytest.raises(SourceNotFoundError, match="lists nothing"):
        list(source.list())


def test_a_changed_index_is_another_listing(web: StaticServer, tmp_path: Path) -> None:
    url = serve(web, FILES)
    first = fetch(url, tmp_path / "root")
    changed = {"a.bin": DATA, "new": b"new", "empty": b"no longer"}
    serve(web, changed)
    second = fetch(url, tmp_path / "root")
    assert tree(tmp_path / "root") == changed
    assert second.reused_bytes == len(DATA)
    assert first.manifest_digest != second.manifest_digest
    assert first.sources[0].resolved_revision != second.sources[0].resolved_revision


def test_an_index_that_is_rewritten_during_a_fetch_brings_the_new_file(web: StaticServer) -> None:
    index = lines({"url": "a.bin", "size": len(DATA), "sha256": digest(DATA)})
    url = serve(web, {"a.bin": DATA}, index)
    with opened(url) as source:
        (entry,) = source.list()
        assert source.look_up(entry) == entry
        web.put("/dir/a.bin", DATA + b"more")
        with pytest.raises(IntegrityMismatchError, match="whoever keeps the index has to write it anew"):
            source.look_up(entry)
        serve(web, {"a.bin": b"new"}, lines({"url": "a.bin", "size": 3, "sha256": digest(b"new")}))
        assert read(source, source.look_up(entry)) == b"new"
        serve(web, {}, b"# empty\n")
        with pytest.raises(SourceNotFoundError, match="does not list it any more"):
            source.look_up(entry)


def test_servers_behind_one_name_may_have_etags_of_their_own(
    web: StaticServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 500_000)
    data = os.urandom(2_000_000)
    url = serve(web, {"a.bin": data}, lines({"url": "a.bin", "size": len(data), "sha256": digest(data)}))
    numbers = itertools.count()
    web.faults.add(Fault(), when=lambda _: not web.put("/dir/a.bin", data, etag=f'"{next(numbers)}"'), times=None)
    fetch(url, tmp_path / "root")
    assert tree(tmp_path / "root") == {"a.bin": data}
    assert web.traffic.select(status=412)


def test_names_are_relative_to_where_the_index_was_found_in_the_end(web: StaticServer) -> None:
    with StaticServer() as other:
        serve(other, FILES)
        web.redirect("/latest/index", f"{other.url}/dir/index")
        with opened(f"{web.url}/latest/index") as source:
            entries = by_path(source)
            assert entries.keys() == FILES.keys()
            assert {path: read(source, entry) for path, entry in entries.items()} == FILES


def test_only_the_index_s_own_host_sees_the_credentials(web: StaticServer, tmp_path: Path) -> None:
    web.require_bearer("t0ken-t0ken")
    (tmp_path / "token").write_text("t0ken-t0ken")
    (tmp_path / "headers").write_text("X-Api-Key: k3y-k3y-k3y")
    with StaticServer() as other:
        other.put("/b.bin", b"other")
        known = {"url": f"{other.url}/b.bin", "path": "c", "size": 5, "sha256": digest(b"other")}
        index = lines({"url": "a.bin"}, {"url": f"{other.url}/b.bin"}, known)
        url = serve(web, {"a.bin": DATA}, index)
        with opened(url, credentials_dir=str(tmp_path)) as source:
            entries = by_path(source)
            assert read(source, entries["a.bin"]) == DATA
            assert read(source, entries["b.bin"]) == read(source, entries["c"]) == b"other"
        assert web.traffic.exchanges
        assert all(found.headers["authorization"] == "Bearer t0ken-t0ken" for found in web.traffic.exchanges)
        assert all(found.headers["x-api-key"] == "k3y-k3y-k3y" for found in web.traffic.exchanges)
        assert other.traffic.exchanges
        for found in other.traffic.exchanges:
            assert not {"authorization", "x-api-key"} & found.headers.keys()
    with opened(url) as source, pytest.raises(CredentialsRejectedError):
        list(source.list())


@pytest.mark.parametrize("size", [None, 5], ids=["looked at", "known"])
def test_an_index_may_not_lead_to_this_machine_s_metadata(web: StaticServer, tmp_path: Path, size: int | None) -> None:
    goal = {"url": "http://169.254.169.254/latest/meta-data", "path": "a", "size": size, "sha256": digest(b"other")}
    url = serve(web, {}, lines(goal))
    with pytest.raises(InvalidConfigError, match=r"169\.254\.169\.254, which is the cloud's metadata service"):
        fetch(url, tmp_path / "root")


def test_a_path_that_would_leave_the_target_ends_the_fetch(web: StaticServer, tmp_path: Path) -> None:
    web.put("/up", b"up")
    url = serve(web, {}, f"{digest(b'up')}  ../up\n".encode())
    with pytest.raises(UnsafePathError):
        fetch(url, tmp_path / "root")


def test_an_index_that_is_a_login_page_is_named_with_its_line(web: StaticServer) -> None:
    url = serve(web, {}, b"<!doctype html>\n<html>")
    with (
        opened(url) as source,
        pytest.raises(InvalidConfigError, match="/dir/index, line 1: it is no line of sha256sum"),
    ):
        list(source.list())


def test_queries_of_an_index_s_urls_are_sent_and_stay_secret(web: StaticServer) -> None:
    web.put("/dir/a", b"abc")
    urls = [f"a?X-Signature=s3cret-s3cret-{number}" for number in (1, 2)]
    url = serve(
        web, {}, lines(*({"url": found, "path": found[-1], "size": 3, "sha256": digest(b"abc")} for found in urls))
    )
    with opened(url) as source:
        entries = by_path(source)
        assert "s3cret" not in repr(entries)
        for path, entry in entries.items():
            assert read(source, entry) == b"abc"
            assert web.traffic.exchanges[-1].query == {"X-Signature": f"s3cret-s3cret-{path}"}
    # Who comes with entries of a lock file has listed nothing.
    with opened(url) as source:
        assert read(source, entries["2"]) == b"abc"
        assert web.traffic.exchanges[-1].query == {"X-Signature": "s3cret-s3cret-2"}


def test_an_index_s_files_can_be_locked_and_fetched_as_they_were(web: StaticServer, tmp_path: Path) -> None:
    url = serve(web, FILES)
    config = tmp_path / "config.yaml"
    content = {"download_root": str(tmp_path / "root"), "download_items": [item(url).model_dump(exclude_none=True)]}
    config.write_text(json.dumps(content))
    locked = datafetch("lock", str(config), cwd=tmp_path)
    assert locked.code == 0, locked.stderr
    lock = tmp_path / "datafetch.lock"
    web.put("/dir/index", sums({"new": b"new"}))
    run = datafetch("run", str(config), "--locked", str(lock), cwd=tmp_path)
    assert run.code == 0, run.stderr
    assert tree(tmp_path / "root") == FILES
