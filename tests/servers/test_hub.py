"""huggingface_hub's own client lists and downloads from the Hub of the tests, and meets its errors there."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from servers.hub import Hub
from servers.plans import Fault

WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b'{"a": 1}', "sub/deep/vocab.txt": b"one\ntwo\n", "sub/model.safetensors": WEIGHTS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with Hub() as running:
        yield running


def snapshot(
    hub: Hub,
    directory: Path,
    repo_id: str = "org/model",
    *,
    repo_type: str = "model",
    revision: str = "main",
    token: str | bool = False,
) -> dict[str, bytes]:
    target = snapshot_download(
        repo_id, repo_type=repo_type, revision=revision, token=token, endpoint=hub.url, local_dir=directory
    )
    found = (path for path in Path(target).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_a_snapshot_holds_plain_and_large_files(hub: Hub, tmp_path: Path, repo_type: str) -> None:
    hub.create("org/model", FILES, repo_type=repo_type)  # type: ignore[arg-type]  # one of the three literals
    assert snapshot(hub, tmp_path / "out", repo_type=repo_type) == FILES
    assert [exchange.path for exchange in hub.cdn.traffic.select("GET")] == [
        f"/lfs/{hashlib.sha256(WEIGHTS).hexdigest()}"
    ]
    assert hub.cdn.traffic.bytes_sent == len(WEIGHTS)


def test_the_client_knows_files_in_xet_storage_and_gets_plain_bytes_of_them(hub: Hub, tmp_path: Path) -> None:
    repo = hub.create("org/model", FILES)
    hub.xet = True
    api = HfApi(endpoint=hub.url, token=False)
    (found,) = api.get_paths_info("org/model", ["sub/model.safetensors"])
    assert isinstance(found, RepoFile)
    metadata = get_hf_file_metadata(f"{hub.url}/org/model/resolve/main/sub/model.safetensors", token=False)
    assert metadata.xet_file_data is not None
    assert metadata.xet_file_data.file_hash == found.xet_hash
    assert metadata.xet_file_data.refresh_route == f"{hub.url}/api/models/org/model/xet-read-token/{repo.head}"
    assert metadata.etag == hashlib.sha256(WEIGHTS).hexdigest() != found.xet_hash
    assert snapshot(hub, tmp_path / "out") == FILES
    assert {exchange.path.split("/")[1] for exchange in hub.cdn.traffic.select("GET")} == {"xet-bridge-us"}


def test_what_is_disabled_is_said_to_be(hub: Hub) -> None:
    hub.create("org/model", FILES).disabled = True
    with pytest.raises(DisabledRepoError):
        HfApi(endpoint=hub.url, token=False).model_info("org/model")


def test_large_files_come_from_another_origin_which_sees_no_token(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    assert snapshot(hub, tmp_path / "out", token="hf_reader") == FILES
    assert all(exchange.headers["authorization"] == "Bearer hf_reader" for exchange in hub.traffic.exchanges)
    assert not any("authorization" in exchange.headers for exchange in hub.cdn.traffic.exchanges)


def test_small_files_may_come_by_a_relative_redirect(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/data", FILES, repo_type="dataset")
    hub.relative_redirects = True
    assert snapshot(hub, tmp_path / "out", "org/data", repo_type="dataset") == FILES
    assert hub.traffic.select(path="/api/resolve-cache/*", status=200)


def test_trees_are_listed_page_by_page(hub: Hub, tmp_path: Path) -> None:
    files = {f"dir{n % 3}/file{n:03}.txt": str(n).encode() for n in range(25)}
    hub.create("org/model", files)
    hub.page_size = 10
    assert snapshot(hub, tmp_path / "out") == files
    assert len(hub.traffic.select(path="/api/models/org/model/tree/*")) == 3


def test_listings_carry_what_identifies_a_file(hub: Hub) -> None:
    hub.create("org/model", FILES)
    api = HfApi(endpoint=hub.url, token=False)
    entries = {entry.path: entry for entry in api.list_repo_tree("org/model", recursive=True)}
    assert set(entries) == {*FILES, "sub", "sub/deep"}
    small = entries["config.json"]
    assert isinstance(small, RepoFile)
    assert small.blob_id == hashlib.sha1(b'blob 8\0{"a": 1}').hexdigest()
    large = entries["sub/model.safetensors"]
    assert isinstance(large, RepoFile)
    assert large.lfs
    assert large.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert {entry.path for entry in api.list_repo_tree("org/model")} == {"config.json", "sub"}
    assert {entry.path for entry in api.list_repo_tree("org/model", "sub")} == {"sub/deep", "sub/model.safetensors"}
    assert [entry.path for entry in api.get_paths_info("org/model", ["config.json", "none"])] == ["config.json"]


def test_revisions_are_branches_tags_pull_requests_and_commits(hub: Hub, tmp_path: Path) -> None:
    repo = hub.create("org/model", {"a.txt": b"1"})
    first = repo.head
    repo.tag("v1")
    second = repo.commit({"a.txt": b"2", "b.txt": b"new"})
    repo.commit({"b.txt": None}, branch="dev")
    repo.open_pull_request(1, {"a.txt": b"3"})
    expected = {
        "main": {"a.txt": b"2", "b.txt": b"new"},
        "v1": {"a.txt": b"1"},
        first: {"a.txt": b"1"},
        second: {"a.txt": b"2", "b.txt": b"new"},
        "dev": {"a.txt": b"2"},
        "refs/pr/1": {"a.txt": b"3", "b.txt": b"new"},
    }
    for number, (revision, files) in enumerate(expected.items()):
        assert snapshot(hub, tmp_path / str(number), revision=revision) == files
    refs = HfApi(endpoint=hub.url, token=False).list_repo_refs("org/model", include_pull_requests=True)
    assert [branch.name for branch in refs.branches] == ["main", "dev"]
    assert [tag.target_commit for tag in refs.tags] == [first]


def test_what_may_not_be_seen_or_is_not_there_is_refused_as_by_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", FILES)
    hub.create("org/private", FILES, private=True)
    hub.create("org/gated", FILES, gated=True)
    hub.add_token("hf_stranger")
    for repo_id in ("org/none", "org/private"):
        for token in (False, "hf_stranger"):
            with pytest.raises(RepositoryNotFoundError):
                hf_hub_download(repo_id, "config.json", endpoint=hub.url, token=token, local_dir=tmp_path)
    for token in (False, "hf_stranger"):
        with pytest.raises(GatedRepoError):
            hf_hub_download("org/gated", "config.json", endpoint=hub.url, token=token, local_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        snapshot(hub, tmp_path, revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/model", "none.txt", endpoint=hub.url, local_dir=tmp_path)
    with pytest.raises(HfHubHTTPError, match="401"):
        hf_hub_download("org/model", "config.json", endpoint=hub.url, token="hf_revoked", local_dir=tmp_path)


def test_the_cdn_serves_ranges_to_links_that_have_not_expired(hub: Hub) -> None:
    hub.create("org/model", FILES)
    link, linked = redirect_of(hub, "/org/model/resolve/main/sub/model.safetensors")
    assert linked["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert linked["X-Linked-Size"] == str(len(WEIGHTS))
    with urllib.request.urlopen(urllib.request.Request(link, headers={"Range": "bytes=10-19"})) as part:
        assert (part.status, part.read()) == (206, WEIGHTS[10:20])
        tag = part.headers["ETag"]
    assert tag != linked["X-Linked-Etag"]
    with pytest.raises(urllib.error.HTTPError, match="412"):
        urllib.request.urlopen(urllib.request.Request(link, headers={"If-Match": '"other"'})).close()
    hub.expire_links()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link).close()


def test_a_cut_download_is_resumed_by_the_client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.create("org/model", FILES)
    hub.cdn.faults.add(Fault(cut_after=120_000))
    assert snapshot(hub, tmp_path / "out") == FILES
    assert [exchange.headers.get("range") for exchange in hub.cdn.traffic.select("GET")] == [None, "bytes=100000-"]


def redirect_of(hub: Hub, path: str) -> tuple[str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(hub.host, hub.port)
    try:
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert response.status == 302
        return response.headers["Location"], response.headers
    finally:
        connection.close()
