"""`datafetch lock` and `--locked`: the file that pins a request, and fetches that take exactly what it says."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.commands import Run, datafetch, tree
from servers.emulators import S3Server, versitygw
from servers.http import StaticServer
from servers.hub import Hub

FILES = {"corpus/a.txt": b"alpha\n", "corpus/deep/b.bin": b"b" * 70_000, "corpus/empty": b""}


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with versitygw() as server:
        yield server


@dataclass
class Bucket:
    """A bucket, a config that takes all of it, and a directory to work in."""

    server: S3Server
    name: str
    directory: Path

    def put(self, files: dict[str, bytes]) -> None:
        for key, content in files.items():
            self.server.store.put(self.name, key, content)

    def run(self, *arguments: str) -> Run:
        environment = {
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_ENDPOINT_URL": self.server.url,
        }
        return datafetch(*arguments, cwd=self.directory, **environment)


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> Bucket:
    name = f"lock-{os.urandom(4).hex()}"
    s3_server.store.create(name)
    config = (
        "download_root: data\ndownload_items:\n- type: s3\n  name: corpus\n"
        f"  items: [{{bucket: {name}, items: [{{path: corpus/}}]}}]\n"
    )
    (tmp_path / "config.yaml").write_text(config)
    bucket = Bucket(s3_server, name, tmp_path)
    bucket.put(FILES)
    return bucket


def landed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {key.removeprefix("corpus/"): content for key, content in files.items()}


def test_a_lock_is_one_sorted_json_file_that_never_changes_by_itself(bucket: Bucket) -> None:
    first = bucket.run("lock", "config.yaml", "-o", "first.lock")
    again = bucket.run("lock", "config.yaml", "-o", "again.lock", "--json")

    assert (first.code, again.code) == (0, 0), first.stderr + again.stderr
    assert first.stdout.splitlines()[-1] == "3 files, 68.4 KiB, pinned in first.lock"
    text = (bucket.directory / "first.lock").read_bytes()
    assert text == (bucket.directory / "again.lock").read_bytes()
    content = json.loads(text)
    assert [entry["path"] for entry in content["entries"]] == ["a.txt", "deep/b.bin", "empty"]
    assert all(entry["identity"].startswith("etag:") for entry in content["entries"])
    assert len(text.splitlines()) == 1 + 3 + 1
    (report,) = again.lines
    assert (report["exitCode"], report["files"], report["lockFile"]) == (0, 3, "again.lock")
    assert report["manifestDigest"] == content["manifestDigest"]


def test_a_locked_run_takes_what_was_there_and_nothing_newer(bucket: Bucket) -> None:
    bucket.run("lock", "config.yaml", "-o", "pins.lock")
    bucket.put({"corpus/new.txt": b"came later"})

    run = bucket.run("run", "config.yaml", "--locked", "pins.lock", "--json")

    assert run.code == 0, run.stderr
    assert tree(bucket.directory / "data") == landed(FILES)
    pinned = json.loads((bucket.directory / "pins.lock").read_text())
    assert run.result.manifest_digest == pinned["manifestDigest"]
    assert run.result.sources[0].files == 3


def test_drift_ends_a_locked_run_with_every_key_that_drifted(bucket: Bucket) -> None:
    bucket.run("lock", "config.yaml", "-o", "pins.lock")
    bucket.put({"corpus/a.txt": b"another alpha\n"})
    bucket.server.store.delete(bucket.name, "corpus/deep/b.bin")

    run = bucket.run("run", "config.yaml", "--locked", "pins.lock", "--json")

    assert run.code == 17, run.stderr
    assert run.sentence.startswith("SourceChanged: source 'corpus': what pins.lock pins is not there any more: ")
    assert f"'{bucket.name}/corpus/a.txt' is another object now" in run.sentence
    assert f"'{bucket.name}/corpus/deep/b.bin' is gone" in run.sentence
    assert "corpus/empty" not in run.sentence
    assert tree(bucket.directory / "data") == {}


def test_what_is_there_already_as_it_was_locked_needs_no_source(bucket: Bucket) -> None:
    bucket.run("lock", "config.yaml", "-o", "pins.lock")
    bucket.run("run", "config.yaml")
    bucket.put({"corpus/a.txt": b"another alpha\n"})

    run = bucket.run("run", "config.yaml", "--locked", "pins.lock", "--json")

    assert run.code == 0, run.stderr
    assert run.result.reused_bytes == run.result.total_bytes
    assert tree(bucket.directory / "data") == landed(FILES)


def test_a_lock_of_another_request_is_refused(bucket: Bucket) -> None:
    bucket.run("lock", "config.yaml", "-o", "pins.lock")
    config = bucket.directory / "config.yaml"
    config.write_text(config.read_text().replace("path: corpus/", 'path: corpus/, glob: "*.txt"'))

    run = bucket.run("run", "config.yaml", "--locked", "pins.lock")

    assert run.code == 2
    assert "pins.lock was made for another request (v1:" in run.sentence
    assert tree(bucket.directory / "data") == {}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("lock/v1", "lock/v9"), "pins.lock:1: this lock file is 'lock/v9'"),
        (lambda text: text.replace('"identity":"', '"identity":"",""', 1), "pins.lock:2: not as "),
        (lambda text: "\n".join(text.splitlines()[:-2]), "pins.lock:4: not as "),
        (lambda text: "download_root: data\n", "pins.lock:1: not as "),
    ],
    ids=["of another version", "with a broken line", "cut short", "that is none"],
)
def test_a_damaged_lock_is_named_by_its_line(bucket: Bucket, damage: Callable[[str], str], said: str) -> None:
    bucket.run("lock", "config.yaml", "-o", "pins.lock")
    lock = bucket.directory / "pins.lock"
    lock.write_text(damage(lock.read_text()))

    run = bucket.run("run", "config.yaml", "--locked", "pins.lock")

    assert run.code == 2
    assert said in run.sentence


def test_a_lock_that_is_not_there_says_how_to_make_it(bucket: Bucket) -> None:
    run = bucket.run("run", "config.yaml", "--locked", "nope.lock")

    assert run.code == 2
    assert "there is no lock file 'nope.lock'; make it with" in run.sentence


def test_a_locked_repository_stays_at_its_commit(tmp_path: Path) -> None:
    with Hub() as hub:
        repo = hub.create("org/model", {"config.json": b"{}", "model.safetensors": b"w" * 3000})
        locked = datafetch("lock", "hf://org/model", "-o", "model.lock", cwd=tmp_path, HF_ENDPOINT=hub.url)
        commit = repo.head
        repo.commit({"config.json": b'{"newer": true}', "extra.json": b"{}"})

        run = datafetch(
            *("get", "hf://org/model", "data", "--locked", "model.lock", "--json"), cwd=tmp_path, HF_ENDPOINT=hub.url
        )

    assert locked.code == 0, locked.stderr
    assert f"at {commit}" in locked.stdout
    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == {"config.json": b"{}", "model.safetensors": b"w" * 3000}
    assert run.result.sources[0].resolved_revision == commit


def test_a_lock_holds_nothing_secret(tmp_path: Path) -> None:
    with StaticServer() as server:
        server.put("/b.bin", b"b" * 100)
        url = f"{server.url}/b.bin?X-Amz-Signature=hunter2-signature"
        locked = datafetch("lock", url, cwd=tmp_path)
        run = datafetch("get", url, "data", "--locked", "datafetch.lock", cwd=tmp_path)

    assert (locked.code, run.code) == (0, 0), locked.stderr + run.stderr
    assert "hunter2" not in (tmp_path / "datafetch.lock").read_text() + locked.stdout + locked.stderr
    assert tree(tmp_path / "data") == {"b.bin": b"b" * 100}


def test_what_nothing_identifies_cannot_be_locked(tmp_path: Path) -> None:
    with StaticServer() as server:
        server.put("/b.bin", b"b" * 100, etag=None, modified=None)
        run = datafetch("lock", f"{server.url}/b.bin", cwd=tmp_path)

    assert run.code == 2
    assert "gives nothing that identifies the content" in run.sentence
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_uri_mean_nothing_to_a_config(bucket: Bucket) -> None:
    run = bucket.run("lock", "config.yaml", "--include", "*.txt")

    assert run.code == 2
    assert "--include is for a URI; a config says it itself" in run.sentence
