"""Bad input, one row each: its exit code, one sentence with source, key and remedy, and nothing under a final name."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from component.commands import Run, datafetch, tree
from datafetch_api.exit_codes import ExitCode
from servers.emulators import GcsServer, S3Server, fake_gcs_server, versitygw
from servers.http import StaticServer
from servers.hub import Hub
from servers.plans import Fault

GOOD = os.urandom(50_000)


@dataclass
class Place:
    """A working directory, and the servers with something good and something bad in them."""

    directory: Path
    s3: S3Server
    gcs: GcsServer
    hub: Hub
    web: StaticServer
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, config: str, *flags: str) -> Run:
        (self.directory / "config.yaml").write_text(config)
        return datafetch("run", "config.yaml", *flags, cwd=self.directory, **self.environment)

    @property
    def data(self) -> Path:
        return self.directory / "data"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[S3Server, GcsServer, Hub, StaticServer]]:
    with versitygw() as s3, fake_gcs_server() as gcs, Hub() as hub, StaticServer() as web:
        s3.store.create("training")
        s3.store.put("training", "good.bin", GOOD)
        gcs.store.create("test")
        gcs.store.put("test", "good/a.txt", GOOD)
        gcs.store.put("test", "bad/../../escape.txt", b"out")
        gcs.store.put("test", "clash/a", b"file")
        gcs.store.put("test", "clash/a/b", b"directory")
        gcs.store.put("test", f"long/{'n' * 300}", b"long")
        hub.create("org/model", {"config.json": b"{}"})
        hub.create("org/private", {"config.json": b"{}"}, private=True)
        web.put("/good.bin", GOOD)
        yield s3, gcs, hub, web


@pytest.fixture
def place(servers: tuple[S3Server, GcsServer, Hub, StaticServer], tmp_path: Path) -> Place:
    s3, gcs, hub, web = servers
    environment = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_ENDPOINT_URL": s3.url,
        "STORAGE_EMULATOR_HOST": gcs.url,
        "HF_ENDPOINT": hub.url,
    }
    return Place(tmp_path, s3, gcs, hub, web, environment)


def s3_config(bucket: str = "training", selection: str = "{path: good.bin}", more: str = "") -> str:
    return (
        f"download_root: data\ndownload_items:\n- type: s3\n  name: corpus\n{more}"
        f"  items: [{{bucket: {bucket}, items: [{selection}]}}]\n"
    )


def gcs_config(selection: str, bucket: str = "test") -> str:
    return (
        "download_root: data\ndownload_items:\n- type: gcs\n  name: corpus\n"
        f"  items: [{{bucket: {bucket}, items: [{selection}]}}]\n"
    )


def hub_config(repo: str = "org/model", more: str = "") -> str:
    return f"download_root: data\ndownload_items:\n- {{type: hf, name: weights, repo_id: {repo}{more}}}\n"


def wrong_secret(place: Place) -> None:
    place.environment["AWS_SECRET_ACCESS_KEY"] = "hunter2-wrong"


def no_credentials(place: Place) -> None:
    del place.environment["AWS_ACCESS_KEY_ID"], place.environment["AWS_SECRET_ACCESS_KEY"]


def wrong_token(place: Place) -> None:
    place.environment["HF_TOKEN"] = "hunter2-wrong"


def file_in_the_way(place: Place) -> None:
    place.data.write_text("somebody's")


def directory_in_a_file_s_way(place: Place) -> None:
    (place.data / "good.bin/mine").mkdir(parents=True)


def nothing(place: Place) -> None:
    pass


@dataclass(frozen=True)
class Row:
    """One kind of bad input. `said` are parts of the sentence, in this order."""

    code: ExitCode
    config: str
    said: tuple[str, ...]
    prepare: Callable[[Place], None] = nothing


NOT_FOUND, REJECTED, UNSAFE = ExitCode.SOURCE_NOT_FOUND, ExitCode.CREDENTIALS_REJECTED, ExitCode.UNSAFE_PATH
ROWS = {
    "YAML that is none": Row(
        ExitCode.INVALID_CONFIG, "download_root: data\n\tdownload_items: []\n", ("config.yaml:2:1", "spaces, not tabs")
    ),
    "an unknown field": Row(
        ExitCode.INVALID_CONFIG,
        s3_config(more="  adressing_style: path\n"),
        ("config.yaml:5:3", "download_items[0].adressing_style", "did you mean 'addressing_style'?"),
    ),
    "credentials that are no file": Row(
        ExitCode.INVALID_CONFIG,
        s3_config(more="  access_key_id_file: no/file\n  secret_key_file: no/file\n"),
        ("source 'corpus'", "access_key_id_file", "'no/file'"),
    ),
    "S3: no such bucket": Row(NOT_FOUND, s3_config("nope"), ("source 'corpus'", "'nope'", "check the bucket's name")),
    "S3: no such object": Row(
        NOT_FOUND, s3_config(selection="{path: nope.bin}"), ("source 'corpus'", "nope.bin", "check")
    ),
    "S3: nothing matched": Row(
        NOT_FOUND, s3_config(selection='{path: ., glob: "*.parquet"}'), ("source 'corpus'", "*.parquet", "check")
    ),
    "S3: wrong secret": Row(REJECTED, s3_config(), ("source 'corpus'", "SignatureDoesNotMatch", "check"), wrong_secret),
    "S3: no credentials": Row(
        REJECTED, s3_config(), ("source 'corpus'", "no credentials found", "access_key_id_file"), no_credentials
    ),
    "S3: no such host": Row(
        ExitCode.SOURCE_UNAVAILABLE,
        s3_config(more="  endpoint_url: http://no-such-host.invalid\n"),
        ("source 'corpus'", "no-such-host.invalid"),
    ),
    "GCS: no such bucket": Row(NOT_FOUND, gcs_config("{path: .}", "nope"), ("source 'corpus'", "'nope'", "check")),
    "Hub: no such repository": Row(NOT_FOUND, hub_config("org/nope"), ("source 'weights'", "org/nope", "check")),
    "Hub: no such revision": Row(
        NOT_FOUND, hub_config(more=", revision: v9"), ("source 'weights'", "'org/model'", "no revision 'v9'")
    ),
    "Hub: no such file": Row(
        NOT_FOUND, hub_config(more=", files: [nope.json]"), ("source 'weights'", "nope.json", "check")
    ),
    "Hub: wrong token": Row(REJECTED, hub_config(), ("source 'weights'", "token"), wrong_token),
    "a key that would leave the target": Row(
        UNSAFE, gcs_config("{path: bad/}"), ("source 'corpus'", "../../escape.txt", "rename the object or exclude it")
    ),
    "a file where another key needs a directory": Row(
        UNSAFE, gcs_config("{path: clash/}"), ("source 'corpus'", "clash/a", "directory")
    ),
    "a key too long for a file name": Row(
        UNSAFE, gcs_config("{path: long/}"), ("source 'corpus'", "255 bytes", "rename the object or exclude it")
    ),
    "a target_path out of the target": Row(
        UNSAFE, s3_config(selection="{path: good.bin, target_path: ../out.bin}"), ("source 'corpus'", "..")
    ),
    "two sources for one file": Row(
        UNSAFE,
        s3_config(selection="{path: good.bin, target_path: x}, {path: ., target_path: ., glob: good.bin}").replace(
            "target_path: .,", "target_path: x/..,"
        ),
        ("source 'corpus'", ".."),
    ),
    "a file in the target directory's place": Row(ExitCode.TARGET_OCCUPIED, s3_config(), ("data",), file_in_the_way),
    "a directory in a file's place": Row(
        ExitCode.TARGET_OCCUPIED, s3_config(), ("good.bin",), directory_in_a_file_s_way
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_ends_with_its_code_and_one_sentence(place: Place, name: str) -> None:
    row = ROWS[name]
    row.prepare(place)
    before = tree(place.directory)

    run = place.run(row.config, "--json")

    assert (run.code, run.result.exit_code) == (row.code, row.code), run.stderr
    assert run.sentence.startswith(f"{row.code.reason}: ")
    assert re.search(".*".join(map(re.escape, row.said)), run.sentence), run.sentence
    assert run.result.failure is not None
    assert run.result.failure.message == run.sentence.removeprefix(f"{row.code.reason}: ")
    assert "hunter2" not in run.stdout + run.stderr
    after = tree(place.directory)
    after.pop("config.yaml")
    assert after == before, "nothing is under a final name, and what was there is as it was"
    assert not (place.directory.parent / "out.bin").exists()


def test_every_problem_of_one_source_leaves_the_good_ones_unpublished_too(place: Place) -> None:
    good = gcs_config("{path: good/}").replace("name: corpus", "name: good")
    run = place.run(good + s3_config("nope").partition("download_items:\n")[2])

    assert run.code == ExitCode.SOURCE_NOT_FOUND
    assert "source 'corpus'" in run.sentence
    assert tree(place.data) == {}


def test_bytes_that_are_not_what_was_promised_are_refused(place: Place) -> None:
    """The Hub promises the SHA-1 of small files; a proxy on the way changes one byte, each time."""
    place.hub.faults.add(Fault(flip_at=0), times=None, path="*/config.json")
    try:
        run = place.run(hub_config(), "--json")
    finally:
        place.hub.faults.clear()

    assert run.code == ExitCode.INTEGRITY_MISMATCH, run.stderr
    assert re.search("source 'weights'.*config.json", run.sentence)
    assert tree(place.data) == {}


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 32 KiB at `data`; mounting needs root."""
    volume = tmp_path / "data"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(volume)], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", str(volume)], check=True)


def test_a_volume_that_is_too_small_is_named_with_both_numbers(place: Place, small_volume: Path) -> None:
    run = place.run(s3_config())

    assert run.code == ExitCode.INSUFFICIENT_SPACE
    assert re.search(r"50,?000 bytes|48\.8 KiB", run.sentence)
    assert "free" in run.sentence
    assert tree(small_volume) == {}


def test_a_volume_that_cannot_be_written_is_named_with_owner_and_mode(place: Place, small_volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_volume)], check=True)

    run = place.run(s3_config())

    assert run.code == ExitCode.TARGET_NOT_WRITABLE
    assert re.search("Read-only file system", run.sentence)
    assert tree(small_volume) == {}


@pytest.mark.parametrize("occupant", ["file", "directory"])
def test_a_target_that_holds_what_is_not_ours_is_left_alone(place: Place, occupant: str) -> None:
    volume = place.directory / "volume"
    (volume / "team").mkdir(parents=True)
    theirs = volume / "team/model" if occupant == "file" else volume / "team/model/theirs.txt"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("somebody's")
    managed = "managed: {volume: volume, path: team/model, namespace: ml, name: model, uid: u, spec_hash: 'v1:00'}"

    run = place.run(s3_config().replace("download_root: data", managed), "--json")

    assert run.code == ExitCode.TARGET_OCCUPIED
    assert re.search("'team/model'.*not ours.*target.path", run.sentence)
    assert tree(volume) == {str(theirs.relative_to(volume)): b"somebody's"}
    assert run.result.spec_hash == "v1:00"
