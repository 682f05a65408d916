"""`datafetch plan`: it says what a fetch would do, in both layouts, and does nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from component.commands import Run, datafetch, environment, tree
from servers.hub import Hub
from servers.plans import Fault

FILES = {"config.json": b'{"a": 1}\n', "deep/b.txt": b"b" * 5000, "model.safetensors": os.urandom(300_000)}


@dataclass
class Target:
    """A request with its target, in one of the layouts."""

    hub: Hub
    cwd: Path
    config: str
    tree: Path
    more: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, *flags: str) -> Run:
        return datafetch(command, "-", *flags, cwd=self.cwd, stdin=self.config, HF_ENDPOINT=self.hub.url, **self.more)

    def plan(self) -> dict[str, Any]:
        run = self.run("plan", "--json", "--files")
        assert run.code == 0, run.stderr
        (answer,) = run.lines
        return answer


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture(params=["Link", "InPlace"])
def target(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Target:
    items = "download_items:\n- {type: hf, name: weights, repo_id: org/model, target_path: ./}\n"
    if request.param == "InPlace":
        return Target(hub, tmp_path, "download_root: data\n" + items, tmp_path / "data")
    (tmp_path / "volume").mkdir()
    owner = "path: team/model, namespace: ml, name: model, uid: u1, spec_hash: 'v1:0'"
    return Target(hub, tmp_path, f"managed: {{volume: volume, {owner}}}\n" + items, tmp_path / "volume/team/model")


def fates(answer: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file["fate"] for file in answer["files"]}


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in sorted(root.rglob("*"))}


def test_before_a_fetch_everything_is_new_and_nothing_is_written(target: Target, hub: Hub) -> None:
    hub.create("org/model", FILES)
    before = state(target.cwd)

    answer = target.plan()

    assert fates(answer) == dict.fromkeys(FILES, "new")
    assert (answer["totalFiles"], answer["totalBytes"], answer["fetchBytes"]) == (3, 305_009, 305_009)
    assert (answer["fits"], answer["exitCode"]) == (True, 0)
    assert state(target.cwd) == before
    assert hub.cdn.traffic.bytes_sent == 0


def test_a_refresh_is_foretold_file_by_file(target: Target, hub: Hub) -> None:
    repository = hub.create("org/model", FILES | {"gone.txt": b"gone"})
    assert target.run("run").code == 0
    assert set(fates(target.plan()).values()) == {"unchanged"}
    repository.commit({"config.json": b"{}", "new.txt": b"new", "gone.txt": None})
    before = state(target.cwd)

    answer = target.plan()

    assert fates(answer) == {
        "config.json": "changed",
        "deep/b.txt": "unchanged",
        "model.safetensors": "unchanged",
        "new.txt": "new",
        "gone.txt": "remove",
    }
    assert answer["fetchBytes"] == len(b"{}") + len(b"new")
    assert state(target.cwd) == before
    assert target.run("run").code == 0
    assert sorted(tree(target.tree.resolve())) == ["config.json", "deep/b.txt", "model.safetensors", "new.txt"]


def test_what_somebody_has_touched_would_be_fetched_again(target: Target, hub: Hub) -> None:
    hub.create("org/model", FILES)
    target.run("run")
    (target.tree / "deep/b.txt").write_bytes(b"mine")

    assert fates(target.plan())["deep/b.txt"] == "changed"


def test_what_an_interrupted_fetch_has_left_is_partly_there(target: Target, hub: Hub) -> None:
    hub.create("org/model", FILES)
    hub.cdn.faults.add(Fault(stall_after=200_000), times=None)
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "run", "-"],
        cwd=target.cwd,
        env=environment(target.cwd, {"HF_ENDPOINT": hub.url}),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(target.config)
    process.stdin.close()
    deadline = time.monotonic() + 30
    while hub.cdn.traffic.bytes_sent < 200_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.wait(10)

    answer = target.plan()

    partly = {path for path, fate in fates(answer).items() if fate == "partly there"}
    assert partly
    assert answer["fetchBytes"] < 305_009


def test_the_table_for_people_has_sources_fates_and_space(target: Target, hub: Hub) -> None:
    repository = hub.create("org/model", FILES)

    run = target.run("plan")

    lines = run.stdout.splitlines()
    assert lines[0] == f"weights: 3 files, 298 KiB at {repository.head}"
    assert lines[2].endswith("model: 3 files, 298 KiB") or lines[2] == "data: 3 files, 298 KiB"
    assert lines[3] == "  new          3 files, 298 KiB"
    assert lines[4].startswith("to fetch: 298 KiB; 298 KiB to be written, ")
    assert lines[4].endswith(" free: it fits")


def test_too_little_space_ends_as_the_fetch_would_with_the_table_beside(target: Target, hub: Hub) -> None:
    hub.create("org/model", FILES)
    target.config += "capacity_bytes: 100000\n"

    run, fetch = target.run("plan"), target.run("run")

    assert (run.code, fetch.code) == (13, 13)
    assert run.sentence == fetch.sentence
    assert run.stdout.endswith("it does not fit\n")
    (answer,) = target.run("plan", "--json").lines
    assert (answer["fits"], answer["exitCode"], answer["failure"]["reason"]) == (False, 13, "InsufficientSpace")


def occupy_by_a_file(target: Target) -> None:
    target.tree.parent.mkdir(parents=True, exist_ok=True)
    target.tree.write_text("somebody's")


def test_a_target_that_is_occupied_ends_as_the_fetch_would(target: Target, hub: Hub) -> None:
    hub.create("org/model", FILES)
    occupy_by_a_file(target)

    run, fetch = target.run("plan"), target.run("run")

    assert (run.code, fetch.code) == (19, 19)
    assert run.sentence == fetch.sentence


@pytest.mark.parametrize("files", [{}, None], ids=["nothing there", "no repository"])
def test_a_source_without_anything_ends_as_the_fetch_would(
    target: Target, hub: Hub, files: dict[str, bytes] | None
) -> None:
    if files is not None:
        hub.create("org/model", files)

    run, fetch = target.run("plan"), target.run("run")

    assert (run.code, fetch.code) == (11, 11)
    assert run.sentence == fetch.sentence


def test_colliding_sources_end_as_the_fetch_would(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", FILES)
    item = "- {type: hf, name: %s, repo_id: org/model, target_path: ./}\n"
    config = "download_root: data\ndownload_items:\n" + item % "one" + item % "two"
    runs = [datafetch(verb, "-", cwd=tmp_path, stdin=config, HF_ENDPOINT=hub.url) for verb in ("plan", "run")]

    assert [run.code for run in runs] == [18, 18]
    assert all("both would be written to" in run.sentence for run in runs)


def test_a_uri_is_planned_with_its_directory(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", FILES)
    arguments = ("plan", "hf://org/model", "data", "--include", "*.json", "--json")

    run = datafetch(*arguments, cwd=tmp_path, HF_ENDPOINT=hub.url)

    (answer,) = run.lines
    assert (run.code, answer["totalFiles"], answer["directory"]) == (0, 1, "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hf://org/model",), "'datafetch plan URI DEST'"),
        (("config.yaml", "data"), "write --target-dir data"),
        (("hf://org/model", "data", "--target-dir", "x"), "--target-dir is for a config, and this is a URI"),
        (("config.yaml", "--region", "x"), "--region is for a URI; a config says it itself"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    run = datafetch("plan", *arguments, cwd=tmp_path)

    assert run.code == 2
    assert said in run.sentence


def test_a_locked_plan_is_of_the_locked_files(hub: Hub, tmp_path: Path) -> None:
    repository = hub.create("org/model", FILES)
    datafetch("lock", "hf://org/model", "-o", "model.lock", cwd=tmp_path, HF_ENDPOINT=hub.url)
    repository.commit({"new.txt": b"new"})

    run = datafetch(
        *("plan", "hf://org/model", "data", "--locked", "model.lock", "--json"), cwd=tmp_path, HF_ENDPOINT=hub.url
    )

    (answer,) = run.lines
    assert (answer["totalFiles"], answer["totalBytes"]) == (3, 305_009)
