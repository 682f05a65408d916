"""Drift by the command line: `datafetch plan --digest` names what a fetch would publish, and whatever changes shows."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from component.archives import tar, zipped
from component.commands import Run, datafetch
from component.places import GCSPlace, HttpPlace, HubPlace, IndexPlace, Place, S3Place
from datafetch_api.report import Result, parse_result
from servers.http import Manners, StaticServer
from servers.hub import Hub

PLACES = ["s3", "gcs", "azure", "hf", "http", "index"]
FILES = {"a.json": b"{}", "deep/b.bin": b"b" * 70_000, "deep/c-Ü.txt": b"c", "empty": b""}
MOST_GROWTH_KIB = 16 << 10


@dataclass
class Request:
    """A config of one source, in a directory of its own."""

    cwd: Path
    item: dict[str, Any] = field(default_factory=dict)

    def run(self, command: str, *flags: str) -> Run:
        config = {"download_root": "data", "download_items": [{"name": "src", **self.item}]}
        return datafetch(command, "-", *flags, cwd=self.cwd, stdin=yaml.safe_dump(config))

    def fetch(self) -> Result:
        done = self.run("run", "--json")
        assert done.code == 0, done.stderr
        return done.result

    def digest(self) -> Result:
        done = self.run("plan", "--digest", "--json")
        assert done.code == 0, done.stderr
        return done.result


def of(place: Place, tmp_path: Path) -> Request:
    selections = [{"path": "."}]
    return Request(tmp_path, place.config(selections, "right"))


def take_away(place: Place, key: str) -> None:
    if isinstance(place, HubPlace):
        place.repo.commit({key: None})
    elif isinstance(place, IndexPlace):
        place.paths.remove(key)
        place.fill({})
    elif isinstance(place, HttpPlace):
        place.paths.remove(key)
    else:
        place.server.store.delete(place.bucket, key)


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_the_digest_is_the_published_one_until_something_changes(place: Place, tmp_path: Path) -> None:
    place.fill(FILES)
    request = of(place, tmp_path)
    published = request.fetch()
    same = request.digest()
    assert (same.manifest_digest, same.source_digest) == (published.manifest_digest, None)
    assert (same.total_files, same.total_bytes) == (published.total_files, published.total_bytes)
    assert same.sources == published.sources
    assert (same.unidentified_files, same.completed_bytes, same.revision) == (0, 0, None)

    found = {same.manifest_digest}
    place.fill({"deep/b.bin": b"B" * 70_000})
    found.add(of(place, tmp_path).digest().manifest_digest)
    place.fill({"new": b"new"})
    found.add(of(place, tmp_path).digest().manifest_digest)
    take_away(place, "a.json")
    last = of(place, tmp_path).digest().manifest_digest
    found.add(last)
    assert len(found) == 4
    assert of(place, tmp_path).fetch().manifest_digest == last


def test_an_object_written_again_with_other_bytes_of_the_same_size_shows(gcs: GCSPlace, tmp_path: Path) -> None:
    gcs.fill(FILES)
    before = of(gcs, tmp_path).digest()
    gcs.fill({"a.json": b"[]"})
    assert of(gcs, tmp_path).digest().manifest_digest != before.manifest_digest


def test_a_commit_that_touches_nothing_that_is_taken_is_no_change(hub: Hub, tmp_path: Path) -> None:
    repository = hub.create("org/model", FILES)
    item = {"type": "hf", "endpoint_url": hub.url, "repo_id": "org/model", "files": ["*.json"], "target_path": "./"}
    request = Request(tmp_path, item)
    published = request.fetch()
    repository.commit({"empty": b"no more"})
    found = request.digest()
    assert found.manifest_digest == published.manifest_digest
    assert found.sources[0].resolved_revision != published.sources[0].resolved_revision


def test_a_cache_of_the_hub_is_of_one_commit(hub: Hub, tmp_path: Path) -> None:
    repository = hub.create("org/model", FILES)
    item = {"type": "hf", "endpoint_url": hub.url, "repo_id": "org/model", "layout": "hub-cache"}
    request = Request(tmp_path, item)
    published = request.fetch()
    assert request.digest().manifest_digest == published.manifest_digest
    repository.commit({"a.json": b"[1]"})
    assert request.digest().manifest_digest != published.manifest_digest


def test_a_size_that_comes_only_with_the_bytes_is_compared_by_what_was_listed(
    web: StaticServer, tmp_path: Path
) -> None:
    web.put("/a.txt", b"first", Manners(ranges=False, chunked=True))
    request = Request(tmp_path, {"type": "http", "items": [{"url": f"{web.url}/a.txt", "target_path": "a.txt"}]})
    published, found = request.fetch(), request.digest()
    assert published.source_digest is not None
    assert (found.manifest_digest, found.source_digest) == (None, published.source_digest)
    web.put("/a.txt", b"other")
    assert request.digest().source_digest != published.source_digest
    assert request.fetch().source_digest == request.digest().source_digest


@pytest.mark.parametrize("keep", [False, True], ids=["unpacked", "and kept"])
def test_archives_that_are_unpacked_are_compared_as_they_are_listed(
    web: StaticServer, tmp_path: Path, *, keep: bool
) -> None:
    web.put("/set/data.tar", tar({"a": b"a", "b/c": b"c"}))
    web.put("/set/more.zip", zipped({"d": b"d"}))
    urls = [{"url": f"{web.url}/set/{name}", "target_path": f"set/{name}"} for name in ("data.tar", "more.zip")]
    request = Request(tmp_path, {"type": "http", "items": urls, "unpack": {"keep_archive": keep}})
    published = request.fetch()
    assert published.total_files == (5 if keep else 3)
    assert request.digest().source_digest == published.source_digest
    assert request.fetch().source_digest == published.source_digest, "nothing was unpacked again"
    web.put("/set/more.zip", zipped({"d": b"D"}))
    assert request.digest().source_digest != published.source_digest


def test_what_a_manifest_leaves_out_changes_nothing(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({**FILES, "manifest.json": json.dumps(["a.json", "empty"]).encode()})
    request = of(s3, tmp_path)
    request.item["manifest"] = "manifest.json"
    published = request.fetch()
    s3.fill({"deep/b.bin": b"else"})
    assert request.digest().manifest_digest == published.manifest_digest
    s3.fill({"manifest.json": json.dumps(["a.json"]).encode()})
    assert request.digest().manifest_digest != published.manifest_digest


def test_objects_that_nothing_identifies_are_counted(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a.txt", b"a", etag=None, modified=None)
    web.put("/b.txt", b"b")
    urls = [{"url": f"{web.url}/{name}", "target_path": name} for name in ("a.txt", "b.txt")]
    request = Request(tmp_path, {"type": "http", "items": urls})
    assert request.digest().unidentified_files == 1
    run = request.run("plan", "--digest")
    assert "1 file may change without a sign of it" in run.stdout


def test_only_the_sources_are_looked_at(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a.txt", b"a" * 1000)
    directory = tmp_path / "nowhere"
    directory.mkdir()
    directory.chmod(0o500)
    run = datafetch("plan", f"{web.url}/a.txt", "--digest", cwd=directory)
    assert run.code == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith("manifest digest: sha256:")
    assert [exchange.method for exchange in web.traffic.exchanges] == ["HEAD"]
    assert list(directory.iterdir()) == []


def test_the_result_is_left_as_the_termination_message_and_progress_as_lines(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a.txt", b"a" * 1000)
    managed = {"volume": "/volume", "path": "p", "namespace": "n", "name": "n", "uid": "u", "spec_hash": "v1:0"}
    item = {"type": "http", "name": "src", "items": [{"url": f"{web.url}/a.txt"}]}
    config = yaml.safe_dump({"managed": managed, "download_items": [item]})
    flags = ("--digest", "--progress", "json", "--termination-log", "message")
    run = datafetch("plan", "-", *flags, cwd=tmp_path, stdin=config)
    assert run.code == 0, run.stderr
    result = parse_result((tmp_path / "message").read_text())
    assert result is not None
    assert (result.exit_code, result.total_files, result.total_bytes) == (0, 1, 1000)
    assert result.manifest_digest is not None
    assert run.stdout.splitlines()[0].startswith("{")


def test_a_source_that_is_not_there_ends_as_a_fetch_would(web: StaticServer, tmp_path: Path) -> None:
    request = Request(tmp_path, {"type": "http", "items": [{"url": f"{web.url}/a.txt"}]})
    run = request.run("plan", "--digest", "--json", "--termination-log", "message")
    assert run.code == 11
    assert run.result.failure is not None
    assert (run.result.failure.reason, run.result.failure.source) == ("SourceNotFound", "src")
    result = parse_result((tmp_path / "message").read_text())
    assert result == run.result


def test_another_config_than_was_meant_is_refused(web: StaticServer, tmp_path: Path) -> None:
    request = Request(tmp_path, {"type": "http", "items": [{"url": f"{web.url}/a.txt"}]})
    run = request.run("plan", "--digest", "--config-digest", f"sha256:{'0' * 64}")
    assert run.code == 2
    assert web.traffic.exchanges == []


def test_a_hundred_thousand_objects_take_hardly_more_memory_than_a_thousand() -> None:
    few, many = (int(_digest_peak(count)) for count in (1_000, 100_000))
    assert many - few <= MOST_GROWTH_KIB, f"{many - few} KiB above {few}"


def _digest_peak(count: int) -> str:
    script = Path(__file__).with_name("many_listed.py")
    done = subprocess.run(
        [sys.executable, script, str(count)],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]
