"""Archives that are unpacked, from outside: the tree, the exit code, and what the server was asked for."""

import gzip
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.archives import FORMATS, Yard, member, tar, zipped
from component.commands import datafetch, tree
from component.prefork import Prefork, prefork
from servers.http import StaticServer

FILES = {"a.txt": b"first", "deep/er/b.bin": bytes(range(256)) * 3000, "empty": b"", "name with ü": b"x"}


@pytest.fixture(scope="module")
def runs() -> Iterator[Prefork]:
    with prefork() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["managed", "in-place"])
def yard(request: pytest.FixtureRequest, runs: Prefork, tmp_path: Path) -> Iterator[Yard]:
    with StaticServer() as server:
        yield Yard(server, tmp_path / "place", managed=request.param, runs=runs)


@pytest.fixture
def in_place(runs: Prefork, tmp_path: Path) -> Iterator[Yard]:
    with StaticServer() as server:
        yield Yard(server, tmp_path / "place", managed=False, runs=runs)


def asked_for(yard: Yard) -> int:
    return len(yard.server.traffic.select("GET"))


def inodes(yard: Yard) -> dict[str, int]:
    return {name: (yard.volume / "data" / name).stat().st_ino for name in yard.published}


def below(directory: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{directory}/{name}": data for name, data in files.items()}


@pytest.mark.parametrize("suffix", FORMATS)
def test_members_lie_where_their_archive_would(in_place: Yard, suffix: str) -> None:
    in_place.put({f"set/data{suffix}": FORMATS[suffix](FILES), "plain.gz": b"no archive"})
    done = in_place.fetch(f"set/data{suffix}", "plain.gz")
    assert done.code == 0, done.stderr
    assert in_place.published == {**below("set", FILES), "plain.gz": b"no archive"}
    assert in_place.staged == {}


def test_the_result_counts_what_is_published_and_the_sources_what_was_fetched(yard: Yard) -> None:
    archive = gzip.compress(tar(FILES))
    yard.put({"set/data.tgz": archive})
    result = yard.fetch("set/data.tgz").result
    assert (result.total_files, result.total_bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert (result.sources[0].files, result.sources[0].bytes) == (1, len(archive))
    assert yard.published == below("set", FILES)


def test_the_archive_stays_where_that_is_asked_for(yard: Yard) -> None:
    yard.unpack = {"keep_archive": True}
    archive = zipped(FILES)
    yard.put({"data.zip": archive})
    assert yard.fetch("data.zip").code == 0
    assert yard.published == {**FILES, "data.zip": archive}
    again = yard.fetch("data.zip")
    assert again.result.reused_bytes == again.result.total_bytes


def test_an_archive_that_is_not_kept_any_more_goes_without_being_fetched_again(runs: Prefork, tmp_path: Path) -> None:
    with StaticServer() as server:
        yard = Yard(server, tmp_path / "place", managed=True, unpack={"keep_archive": True}, runs=runs)
        yard.put({"data.zip": zipped(FILES)})
        assert yard.fetch("data.zip").code == 0
        yard.unpack = {}
        asked = asked_for(yard)
        assert yard.fetch("data.zip").code == 0
        assert asked_for(yard) == asked
        assert yard.published == FILES


def test_a_refresh_of_the_same_archive_asks_for_no_byte(yard: Yard) -> None:
    yard.put({"data.tar.gz": gzip.compress(tar(FILES)), "other": b"old"})
    first = yard.fetch("data.tar.gz", "other").result
    before = inodes(yard)
    yard.server.put("/other", b"new")
    asked = asked_for(yard)
    done = yard.fetch("data.tar.gz", "other")
    assert done.code == 0, done.stderr
    assert asked_for(yard) == asked + 1
    assert yard.published == {**FILES, "other": b"new"}
    after = inodes(yard)
    assert {name for name in before if before[name] != after[name]} == {"other"}
    assert first.manifest_digest != done.result.manifest_digest


def test_a_new_archive_replaces_what_the_old_one_held(yard: Yard) -> None:
    yard.put({"data.zip": zipped(FILES)})
    assert yard.fetch("data.zip").code == 0
    after = {"a.txt": b"second", "new": b"n"}
    yard.put({"data.zip": zipped(after)})
    done = yard.fetch("data.zip")
    assert done.code == 0, done.stderr
    assert yard.published == after


def test_a_member_that_was_altered_is_unpacked_anew(yard: Yard) -> None:
    yard.put({"data.zip": zipped(FILES)})
    assert yard.fetch("data.zip").code == 0
    altered = yard.volume / "data/a.txt"
    altered.write_bytes(b"by hand")
    assert yard.datafetch("verify", yard.volume / "data").code == 12
    assert yard.fetch("data.zip").code == 0
    assert yard.published == FILES
    assert yard.datafetch("verify", yard.volume / "data", "--strict").code == 0


def test_damage_that_keeps_size_and_time_is_found_by_the_members_checksums(yard: Yard) -> None:
    yard.put({"data.tar": tar(FILES)})
    assert yard.fetch("data.tar").code == 0
    damaged = yard.volume / "data/a.txt"
    status = damaged.stat()
    damaged.write_bytes(b"fIrst")
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    verified = yard.datafetch("verify", yard.volume / "data")
    assert verified.code == 12
    assert "crc32" in verified.stdout
    assert yard.fetch("data.tar", arguments=("--verify", "full")).code == 0
    assert yard.published == FILES


def test_the_manifest_says_what_came_out_of_which_archive(yard: Yard) -> None:
    yard.put({"set/data.zip": zipped(FILES), "plain": b"p"})
    assert yard.fetch("set/data.zip", "plain").code == 0
    archive, *files = yard.manifest
    assert (archive["unpacked"], archive["files"]) == ("set/data.zip", len(FILES))
    assert archive["bytes"] == sum(map(len, FILES.values()))
    assert {file["path"]: file.get("archive") for file in files} == {
        **dict.fromkeys(below("set", FILES), "set/data.zip"),
        "plain": None,
    }
    assert {file["identity"] for file in files if "archive" in file} == {archive["identity"]}


def test_a_listing_alone_has_the_digest_that_the_fetch_publishes(yard: Yard) -> None:
    yard.put({"a.zip": zipped(FILES), "b.txt": b"b"})
    fetched = yard.fetch("a.zip", "b.txt").result
    lock = yard.base / "it.lock"
    assert yard.datafetch("lock", yard.config(["a.zip", "b.txt"]), "-o", lock).code == 0
    assert json.loads(lock.read_text())["manifestDigest"] == fetched.manifest_digest


def test_verify_finds_no_difference_to_a_source_that_is_the_same(yard: Yard) -> None:
    yard.put({"a.zip": zipped(FILES), "b.txt": b"b"})
    assert yard.fetch("a.zip", "b.txt").code == 0
    config = yard.config(["a.zip", "b.txt"])
    assert yard.datafetch("verify", yard.volume / "data", "--source", config).code == 0
    yard.put({"a.zip": zipped({"other": b""})})
    assert yard.datafetch("verify", yard.volume / "data", "--source", config).code == 17


def test_the_plan_says_how_many_archives_it_unpacks(yard: Yard) -> None:
    yard.put({"a.zip": zipped(FILES), "b.txt": b"b"})
    config = yard.config(["a.zip", "b.txt"])
    before = yard.datafetch("plan", config)
    assert before.code == 0, before.stderr
    assert "unpacks 1 archive" in before.stdout
    assert yard.fetch("a.zip", "b.txt").code == 0
    found = json.loads(yard.datafetch("plan", config, "--json").stdout)
    assert (found["archives"], found["unchanged"]["files"], found["remove"]["files"]) == (1, 2, 0)


def test_the_executable_bit_is_all_that_stays_of_a_mode(yard: Yard) -> None:
    script = zipfile.ZipInfo("run.sh")
    script.create_system, script.external_attr = 3, 0o104777 << 16
    first = (member("tool", mode=0o6755, uid=7, gid=7, mtime=1_000_000_000), b"")
    yard.put({"a.tar": tar({"note": b"n"}, first), "b.zip": zipped({}, zipfile.ZIP_STORED, (script, b"#!"))})
    begun = time.time() - 5
    assert yard.fetch("a.tar", "b.zip").code == 0
    yard.put({"more": b""})
    assert yard.fetch("a.tar", "b.zip", "more").code == 0
    modes = {name: (yard.volume / "data" / name).stat() for name in ("tool", "note", "run.sh")}
    assert {name: oct(status.st_mode & 0o7777) for name, status in modes.items()} == {
        "tool": "0o755",
        "note": "0o644",
        "run.sh": "0o755",
    }
    assert {status.st_uid for status in modes.values()} == {os.getuid()}
    assert all(status.st_mtime > begun for status in modes.values()), "the time is that of the fetch"


def test_a_hard_link_to_an_earlier_member_is_a_file_of_its_own(yard: Yard) -> None:
    link = (member("same", tarfile.LNKTYPE, linkname="a.txt"), b"")
    yard.put({"set/a.tar": tar(FILES, link)})
    assert yard.fetch("set/a.tar").code == 0
    assert yard.published == below("set", {**FILES, "same": FILES["a.txt"]})
    found = [(yard.volume / "data/set" / name).stat() for name in ("a.txt", "same")]
    assert found[0].st_ino != found[1].st_ino


def test_archives_beside_each_other_fill_the_same_directories(yard: Yard) -> None:
    parts = {f"part-{number}.tar.gz": {f"data/{number}.bin": bytes([number]) * 5000} for number in range(12)}
    yard.put({name: gzip.compress(tar(files)) for name, files in parts.items()})
    assert yard.fetch(*parts).code == 0
    assert yard.published == {name: data for files in parts.values() for name, data in files.items()}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "a.tar.zst", "a.tar.xz", "a.tar.bz2"])
def test_what_is_no_archive_by_its_first_bytes_is_an_error(in_place: Yard, name: str) -> None:
    in_place.put({name: b"<html>not found</html>" * 100})
    done = in_place.fetch(name)
    assert done.code == 12, done.stderr
    assert f"/{name}' is no " in done.sentence
    assert in_place.published == {}
    assert in_place.staged == {}, "it will be fetched again"


def test_an_archive_without_files_is_one_all_the_same(yard: Yard) -> None:
    yard.put({"a.tar": tar({}), "b.zip": zipped({}), "c": b"c"})
    assert yard.fetch("a.tar", "b.zip", "c").code == 0
    asked = asked_for(yard)
    assert yard.fetch("a.tar", "b.zip", "c").code == 0
    assert (yard.published, asked_for(yard)) == ({"c": b"c"}, asked)


def test_shards_and_unpacking_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        """managed: {volume: ., path: d, namespace: n, name: d, uid: u, spec_hash: 'v1:0', shards: {count: 2, plan: p}}
download_items: [{type: http, name: w, items: [{url: 'http://127.0.0.1:9/a.zip'}], unpack: {}}]
"""
    )
    done = datafetch("run", "config.yaml", "--shard", "0", cwd=tmp_path)
    assert done.code == 2
    assert "shards" in done.sentence
    assert tree(tmp_path).keys() == {"config.yaml"}
