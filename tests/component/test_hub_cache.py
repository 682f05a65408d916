"""`layout: hub-cache`: huggingface_hub's own look-ups, offline, in the directory that a fetch has left."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from component.commands import environment, tree
from datafetch.engine import FetchOutcome, run_fetch
from datafetch.errors import SourceUnavailableError
from datafetch.preflight import look_ahead
from datafetch.progress import ProgressTracker
from datafetch_api.config import DownloadConfig
from servers.hub import Hub
from servers.plans import Fault

WEIGHTS = os.urandom(2_500_000)
FILES = {"config.json": b"{}", "sub/vocab.txt": b"one\n", "model.safetensors": WEIGHTS, "empty": b""}
LOOK_UPS = """
import json, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
wanted = json.loads(sys.argv[1])
found = {}
for repo_type, repo_id, revision, names in wanted:
    where = {"repo_type": repo_type, "revision": revision}
    found["snapshot"] = snapshot_download(repo_id, **where)
    found["only local"] = snapshot_download(repo_id, **where, local_files_only=True)
    found["looked up"] = [try_to_load_from_cache(repo_id, name, **where) for name in names]
    found["downloaded"] = [hf_hub_download(repo_id, name, **where) for name in names]
scanned = scan_cache_dir()
found["warnings"] = list(map(str, scanned.warnings))
found["repos"] = {
    f"{repo.repo_type} {repo.repo_id}": {
        revision.commit_hash: [sorted(revision.refs), revision.size_on_disk] for revision in repo.revisions
    }
    for repo in scanned.repos
}
print(json.dumps(found))
"""

pytestmark = pytest.mark.usefixtures("only_loopback")


def look_up(home: Path, cache: Path, repo_type: str, repo_id: str, revision: str, names: list[str]) -> dict[str, Any]:
    """What the library finds in a cache, with the network forbidden to it."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UPS, json.dumps([[repo_type, repo_id, revision, names]])],
        env=environment(home, {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def config_of(hub: Hub, root: Path, *, managed: bool = False, **settings: object) -> DownloadConfig:
    item = {
        "name": "src",
        "type": "hf",
        "repo_id": "org/model",
        "endpoint_url": hub.url,
        "layout": "hub-cache",
        **settings,
    }
    owner: dict[str, Any] = {"download_root": str(root)}
    if managed:
        root.parent.mkdir(exist_ok=True)
        ids = {"namespace": "ml", "name": root.name, "uid": "u1", "spec_hash": "v1:0"}
        owner = {"managed": {"volume": str(root.parent), "path": root.name, **ids}}
    return DownloadConfig.model_validate({**owner, "download_items": [item]})


def fetch(hub: Hub, root: Path, *, managed: bool = False, anew: bool = False, **settings: object) -> FetchOutcome:
    config = config_of(hub, root, managed=managed, **settings)
    return run_fetch(config, observer=ProgressTracker(), cancel=threading.Event(), anew=anew)


@pytest.mark.parametrize(
    ("repo_type", "revision", "ref"),
    [
        ("model", "main", "main"),
        ("dataset", "v1.0", "v1.0"),
        ("space", "refs/pr/7", "refs/pr/7"),
        ("model", "feature/one", "feature/one"),
        ("model", "COMMIT", None),
    ],
)
def test_the_library_finds_everything_without_the_network(
    hub: Hub, tmp_path: Path, repo_type: str, revision: str, ref: str | None
) -> None:
    repo = hub.create("org/model", FILES, repo_type=repo_type)  # type: ignore[arg-type]  # one of the three literals
    repo.tag("v1.0")
    repo.commit({}, branch="feature/one")
    repo.open_pull_request(7, {"more.json": b"[]"})
    files = {**FILES, "more.json": b"[]"} if revision == "refs/pr/7" else FILES
    revision = repo.head if revision == "COMMIT" else revision
    commit = repo.resolve(revision)
    root = tmp_path / "volume" / "cache"
    outcome = fetch(hub, root, managed=True, repo_type=repo_type, revision=revision)
    assert outcome.sources[0].resolved_revision == commit
    root = root.resolve()
    before = tree(root)
    found = look_up(tmp_path, root, repo_type, "org/model", revision, sorted(files))
    snapshot = root / f"{repo_type}s--org--model" / "snapshots" / str(commit)
    assert tree(snapshot) == files
    assert found["snapshot"] == found["only local"] == str(snapshot)
    assert found["looked up"] == found["downloaded"] == [str(snapshot / name) for name in sorted(files)]
    assert found["warnings"] == []
    sizes = sum(map(len, files.values()))
    assert found["repos"] == {f"{repo_type} org/model": {commit: [[ref] if ref else [], sizes]}}
    assert tree(root) == before, "looking up writes nothing: a pod mounts it read-only"


def test_a_selection_keeps_the_repository_s_paths(hub: Hub, tmp_path: Path) -> None:
    commit = hub.create("org/model", FILES).head
    fetch(hub, tmp_path / "root", path="sub/", target_path="hub/")
    snapshot = f"hub/models--org--model/snapshots/{commit}"
    assert tree(tmp_path / "root") == {
        f"{snapshot}/sub/vocab.txt": b"one\n",
        "hub/models--org--model/refs/main": commit.encode(),
    }


def test_a_manifest_says_what_belongs_to_the_snapshot(hub: Hub, tmp_path: Path) -> None:
    manifest = json.dumps(["config.json", "model.safetensors"]).encode()
    commit = hub.create("org/model", {**FILES, "manifest.json": manifest}).head
    fetch(hub, tmp_path / "root", manifest="manifest.json")
    assert tree(tmp_path / "root") == {
        f"models--org--model/snapshots/{commit}/config.json": b"{}",
        f"models--org--model/snapshots/{commit}/model.safetensors": WEIGHTS,
        "models--org--model/refs/main": commit.encode(),
    }


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "in place"])
def test_a_refresh_fetches_only_what_has_changed_though_every_path_has(hub: Hub, tmp_path: Path, managed: bool) -> None:
    repo = hub.create("org/model", FILES)
    root = tmp_path / "volume" / "cache"
    fetch(hub, root, managed=managed)
    old = repo.head
    new = repo.commit({"config.json": b'{"new": 1}', "again.safetensors": WEIGHTS})
    hub.traffic.clear()
    hub.cdn.traffic.clear()
    expected = look_ahead(config_of(hub, root, managed=managed), observer=ProgressTracker(), cancel=threading.Event())
    # refs/main is written here, and has no bytes in common with the one before.
    assert expected.fetch_bytes == len(b'{"new": 1}') + len(new)
    outcome = fetch(hub, root, managed=managed)
    snapshots = root / "models--org--model" / "snapshots"
    assert tree(snapshots) == {
        f"{new}/{path}": data
        for path, data in {**FILES, "config.json": b'{"new": 1}', "again.safetensors": WEIGHTS}.items()
    }
    assert (snapshots.parent / "refs" / "main").read_text() == new
    assert not (snapshots / old).exists()
    assert not hub.cdn.traffic.exchanges, "the weights are there already"
    assert [exchange.path for exchange in hub.traffic.exchanges if "/resolve/" in exchange.path] == [
        f"/org/model/resolve/{new}/config.json"
    ]
    assert outcome.reused_bytes == 2 * len(WEIGHTS) + len(b"one\n")
    if managed:
        # A pod that started before reads its old revision on.
        kept = sorted((root.parent / ".datafetch" / "cache" / "revisions").iterdir())
        assert tree(kept[0])[f"models--org--model/snapshots/{old}/config.json"] == b"{}"


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "in place"])
def test_who_asks_for_everything_anew_gets_it(hub: Hub, tmp_path: Path, managed: bool) -> None:
    repo = hub.create("org/model", FILES)
    root = tmp_path / "volume" / "cache"
    fetch(hub, root, managed=managed)
    repo.commit({"more.json": b"[]"})
    hub.cdn.traffic.clear()
    assert fetch(hub, root, managed=managed, anew=True).reused_bytes == 0
    assert hub.cdn.traffic.bytes_sent == len(WEIGHTS)


def test_a_refresh_that_is_killed_goes_on(hub: Hub, tmp_path: Path) -> None:
    repo = hub.create("org/model", FILES)
    root = tmp_path / "cache"
    fetch(hub, root)
    new = repo.commit({"other.safetensors": WEIGHTS[::-1]})
    hub.cdn.faults.add(Fault(status=500), times=None)
    before = {path for path in tree(root) if "/snapshots/" in path}
    with pytest.raises(SourceUnavailableError):
        fetch_hurriedly(hub, root)
    assert before <= tree(root).keys(), "what was there stays until the new commit is whole"
    hub.cdn.faults.clear()
    hub.cdn.traffic.clear()
    fetch(hub, root)
    assert tree(root / "models--org--model" / "snapshots" / new) == {**FILES, "other.safetensors": WEIGHTS[::-1]}
    assert hub.cdn.traffic.bytes_sent == len(WEIGHTS)


def fetch_hurriedly(hub: Hub, root: Path) -> None:
    """A fetch that gives up after the first refusal."""
    transfer = {"max_retries": 0}
    item = {"name": "src", "type": "hf", "repo_id": "org/model", "endpoint_url": hub.url, "layout": "hub-cache"}
    config = DownloadConfig.model_validate({"download_root": str(root), "download_items": [item], "transfer": transfer})
    run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
