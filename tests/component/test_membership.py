"""`manifest` and `max_timestamp_spread` of a config: what of a source's objects belongs to it, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from component.commands import Run, datafetch, tree
from component.places import GCSPlace, HttpPlace, HubPlace, Place, S3Place
from datafetch.errors import InvalidConfigError
from datafetch.sources.membership import parse_manifest

FILES = {
    "set/a.csv": b"a",
    "set/sub/b.csv": b"bb",
    "set/sub/old.csv": b"left by somebody",
    "set/c.txt": b"ccc",
    "elsewhere/d.csv": b"d",
}


def run(place: Place, tmp_path: Path, selection: dict[str, Any], **settings: Any) -> Run:
    """Run a config that takes what lies below set/."""
    config = place.config([{"path": "set/", "target_path": "."} | selection], "right")
    item = {"name": "src", **config, **settings}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"download_root": str(tmp_path / "data"), "download_items": [item]}))
    return datafetch("run", path, "--json", cwd=tmp_path)


def listed(*names: object) -> bytes:
    return json.dumps({"entries": [{"url": name} for name in names]}).encode()


@pytest.mark.parametrize("place", ["s3", "gcs", "azure", "hf", "lakefs"], indirect=True)
def test_only_what_the_manifest_lists_is_taken(place: Place, tmp_path: Path) -> None:
    place.fill({**FILES, "set/lists/v2.json": listed("set/a.csv", "sub/b.csv", "/set/c.txt")})
    done = run(place, tmp_path, {"exclude": ["*.txt"]}, manifest="lists/v2.json")

    assert done.code == 0, done.stderr
    assert tree(tmp_path / "data") == {"a.csv": b"a", "sub/b.csv": b"bb"}


def test_a_manifest_goes_with_the_hub_s_own_layout_and_choice_of_formats(hf: HubPlace, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights", "model.bin": b"pickled", "draft.safetensors": b"x"}
    hf.fill({**files, "manifest": listed("config.json", "model.safetensors", "model.bin")})
    layout = {"layout": "hub-cache", "formats": "safetensors", "manifest": "manifest"}
    done = run(hf, tmp_path, {"path": "."}, **layout)

    assert done.code == 0, done.stderr
    found = {Path(path).name for path in tree(tmp_path / "data")}
    assert found == {"main", "config.json", "model.safetensors"}


def test_a_new_manifest_is_a_new_data_set(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({**FILES, "set/manifest": listed("a.csv")})
    run(s3, tmp_path, {}, manifest="manifest")
    s3.fill({"set/manifest": listed("sub/b.csv")})
    done = run(s3, tmp_path, {}, manifest="manifest")

    assert done.code == 0, done.stderr
    assert tree(tmp_path / "data") == {"sub/b.csv": b"bb"}


@pytest.mark.parametrize("place", ["s3", "hf", "lakefs"], indirect=True)
def test_a_manifest_that_is_missing_ends_the_fetch_as_not_found(place: Place, tmp_path: Path) -> None:
    place.fill(FILES)
    done = run(place, tmp_path, {}, manifest="lists/v2.json")

    assert done.code == 11
    assert "there is no manifest 'lists/v2.json' at the source's root" in done.sentence
    assert "source 'src'" in done.sentence
    assert tree(tmp_path / "data") == {}


def test_nothing_is_published_where_a_listed_object_is_missing(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({**FILES, "set/manifest": listed("a.csv", "lost.csv")})
    done = run(s3, tmp_path, {}, manifest="manifest")

    assert done.code == 11
    assert "lists 'lost.csv', which is not there" in done.sentence
    assert tree(tmp_path / "data") == {}


def test_a_manifest_that_lists_nothing_that_is_wanted_finds_nothing(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({**FILES, "set/manifest": listed("c.txt")})
    done = run(s3, tmp_path, {"include": ["*.csv"]}, manifest="manifest")

    assert done.code == 11
    assert "no object is listed by the manifest 'manifest'" in done.sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a.csv", "'manifest' is no manifest; write"),
        (b"[" * 100_000, "'manifest' is no manifest; write"),
        (listed("s3://another-bucket/set/a.csv"), "in another bucket"),
        (b'{"entries": [{"url": 7}]}', "'manifest' is no manifest; write"),
    ],
)
def test_what_is_no_manifest_is_an_invalid_config(s3: S3Place, tmp_path: Path, content: bytes, sentence: str) -> None:
    s3.fill({**FILES, "set/manifest": content})
    done = run(s3, tmp_path, {}, manifest="manifest")

    assert done.code == 2
    assert sentence in done.sentence


def test_a_size_that_the_manifest_contradicts_is_an_integrity_mismatch(s3: S3Place, tmp_path: Path) -> None:
    manifest = json.dumps({"files": [{"path": "a.csv", "size": 1}, {"path": "sub/b.csv", "size": 3}]})
    s3.fill({**FILES, "set/manifest": manifest.encode()})
    done = run(s3, tmp_path, {}, manifest="manifest")

    assert done.code == 12
    assert "has 2 bytes, and the manifest 'manifest' says 3" in done.sentence


def test_a_manifest_is_not_for_urls_nor_for_several_selections(http: HttpPlace, s3: S3Place, tmp_path: Path) -> None:
    http.fill({"a.csv": b"a"})
    done = run(http, tmp_path, {}, manifest="manifest")
    assert (done.code, "manifest means nothing to URLs" in done.sentence) == (2, True)

    s3.fill(FILES)
    config = s3.config([{"path": "set/"}, {"path": "elsewhere/"}], "right")
    done = run(s3, tmp_path, {}, manifest="manifest", items=config["items"])
    assert (done.code, "manifest is of one selection" in done.sentence) == (2, True)


def test_objects_written_too_far_apart_are_not_fetched(s3: S3Place, tmp_path: Path) -> None:
    s3.fill(FILES)
    old = s3.server.objects / s3.bucket / "set/sub/old.csv"
    os.utime(old, (old.stat().st_mtime - 7200, old.stat().st_mtime - 7200))
    refused = run(s3, tmp_path, {}, max_timestamp_spread=3600)
    assert refused.code == 12
    assert "2:00:00 h after" in refused.sentence
    assert tree(tmp_path / "data") == {}

    assert run(s3, tmp_path, {}, max_timestamp_spread=10_000).code == 0
    assert run(s3, tmp_path, {"exclude": ["**/old.csv"]}, max_timestamp_spread=3600).code == 0


def test_the_fields_of_a_resource_mean_the_same(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({**FILES, "set/manifest": listed("a.csv", "sub/old.csv")})
    old = s3.server.objects / s3.bucket / "set/sub/old.csv"
    os.utime(old, (old.stat().st_mtime - 7200, old.stat().st_mtime - 7200))
    secret = tmp_path / "secrets" / "keys"
    secret.mkdir(parents=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(s3.server.access_key)
    (secret / "AWS_SECRET_ACCESS_KEY").write_text(s3.server.secret_key)
    source = {
        "name": "set",
        "s3": {"bucket": s3.bucket, "prefix": "set", "endpoint": s3.server.url},
        "secretRef": {"name": "keys"},
        "manifest": "manifest",
        "maxTimestampSpread": "1h",
    }
    spec = {"sources": [source], "target": {"persistentVolumeClaim": {"claimName": "data"}}}
    resource = {"apiVersion": "datafetch.io/v1alpha1", "kind": "DataFetch", "metadata": {"name": "set"}, "spec": spec}

    def fetch() -> Run:
        (tmp_path / "resource.yaml").write_text(yaml.safe_dump(resource))
        where = ("--target-dir", tmp_path / "data", "--secrets-dir", tmp_path / "secrets")
        return datafetch("run", tmp_path / "resource.yaml", "--json", *where, cwd=tmp_path)

    refused = fetch()
    assert (refused.code, "was written 2:00:00 h after" in refused.sentence) == (12, True)
    source["maxTimestampSpread"] = "3h"
    assert fetch().code == 0
    assert tree(tmp_path / "data") == {"a.csv": b"a", "sub/old.csv": FILES["set/sub/old.csv"]}


def test_times_are_known_of_gcs_too(gcs: GCSPlace, tmp_path: Path) -> None:
    gcs.fill(FILES)

    assert run(gcs, tmp_path, {}, max_timestamp_spread=3600).code == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"entries": [{"url": "s3://b/k", "mandatory": true, "meta": {"content_length": 5}}]}', {"s3://b/k": 5}),
        (b'{"files": ["a", {"name": "b", "size": 0, "hash": null}]}', {"a": None, "b": 0}),
        (b'["a", "b/c"]', {"a": None, "b/c": None}),
        (b"[]", {}),
    ],
)
def test_manifests_come_in_these_forms(content: bytes, expected: dict[str, int | None]) -> None:
    assert parse_manifest(content, "manifest") == expected


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"7", b'{"entries": "a"}', b'[{"size": 5}]', b'[{"path": "a", "size": "5"}]']
)
def test_anything_else_is_no_manifest(content: bytes) -> None:
    with pytest.raises(InvalidConfigError, match="'lists/v2' is no manifest"):
        parse_manifest(content, "lists/v2")
