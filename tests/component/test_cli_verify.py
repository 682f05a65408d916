"""`datafetch verify`: what was done to a published tree is named, offline, in both layouts; and what its source did."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from component.commands import Run, datafetch
from servers.hub import Hub

FILES = {"config.json": b'{"a": 1}\n', "deep/er/b.txt": b"b" * 5000, "model.safetensors": os.urandom(300_000)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.create("org/model", FILES)
        yield hub


def managed_config(volume: Path) -> str:
    return (
        f"managed: {{volume: {volume}, path: team/model, namespace: ml, name: model, uid: u1, spec_hash: 'v1:0'}}\n"
        "download_items:\n- {type: hf, name: weights, repo_id: org/model, target_path: ./}\n"
    )


@pytest.fixture(params=["Link", "InPlace"])
def published(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Path:
    """A published tree in each layout; what the user names is returned."""
    if request.param == "Link":
        (tmp_path / "volume").mkdir()
        run = datafetch("run", "-", cwd=tmp_path, stdin=managed_config(tmp_path / "volume"), HF_ENDPOINT=hub.url)
        directory = tmp_path / "volume/team/model"
    else:
        run = datafetch("get", "hf://org/model", "data", cwd=tmp_path, HF_ENDPOINT=hub.url)
        directory = tmp_path / "data"
    assert run.code == 0, run.stderr
    return directory


def verify(directory: Path, *flags: str, **more: str) -> Run:
    return datafetch("verify", directory, *flags, cwd=directory.parent, **more)


def test_an_untouched_tree_is_intact_without_a_network(hub: Hub, published: Path) -> None:
    asked = len(hub.traffic.exchanges)

    run = verify(published)

    assert (run.code, run.stdout) == (0, "3 files intact by size and checksum\n"), run.stderr
    assert len(hub.traffic.exchanges) == asked


def overwrite(path: Path) -> None:
    """Change one byte, and neither size nor time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def to_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.safetensors", Path.unlink, "missing: model.safetensors"),
        ("deep/er/b.txt", lambda path: shutil.rmtree(path.parent), "missing: deep/er/b.txt"),
        ("config.json", lambda path: path.write_bytes(b"{}"), "altered: config.json (has 2 bytes, not 9)"),
        ("model.safetensors", overwrite, "altered: model.safetensors (its sha256 is "),
        ("config.json", overwrite, "altered: config.json (its git-blob-sha1 is "),
        ("config.json", to_link, "altered: config.json (is no regular file)"),
    ],
    ids=[
        "a file gone",
        "a directory gone",
        "a file cut",
        "one bit of a large file",
        "one bit of a small file",
        "a link",
    ],
)
def test_damage_is_named_and_ends_with_12(
    published: Path, name: str, damage: Callable[[Path], object], said: str
) -> None:
    damage(published / name)

    run = verify(published)

    assert run.code == 12
    assert run.stdout.startswith(said)
    assert "2 files intact" in run.stdout
    assert run.sentence.startswith("IntegrityMismatch: ")
    assert "is not as it was published: 1 file" in run.sentence


def test_a_fetch_with_full_verification_is_what_the_sentence_promises(hub: Hub, published: Path) -> None:
    overwrite(published / "model.safetensors")

    assert "fetch again with --verify full" in verify(published).sentence


def test_sizes_alone_read_nothing(published: Path) -> None:
    overwrite(published / "model.safetensors")

    run = verify(published, "--sizes-only")

    assert (run.code, run.stdout) == (0, "3 files intact by size only\n")


def test_extra_files_are_named_and_count_when_asked(published: Path) -> None:
    (published / "deep/mine.txt").write_text("mine")

    run, strict = verify(published), verify(published, "--strict")

    assert run.code == 0
    assert run.stdout == "extra: deep/mine.txt\n3 files intact by size and checksum, 1 extra\n"
    assert strict.code == 12
    assert "1 file extra; remove what does not belong there" in strict.sentence


def test_the_answer_is_one_json_object(published: Path) -> None:
    (published / "config.json").unlink()

    run = verify(published, "--json")

    (answer,) = run.lines
    assert (run.code, answer["exitCode"], answer["failure"]["reason"]) == (12, 12, "IntegrityMismatch")
    assert (answer["intact"], answer["missing"], answer["altered"], answer["extra"]) == (2, 1, 0, 0)
    assert answer["findings"] == [{"kind": "missing", "path": "config.json"}]
    assert answer["manifests"][0]["files"] == 3


def test_the_source_tells_what_has_changed_there(hub: Hub, tmp_path: Path) -> None:
    repository = hub.create("org/model", FILES)
    datafetch("get", "hf://org/model", "data", cwd=tmp_path, HF_ENDPOINT=hub.url)
    source = ("--source", "hf://org/model")
    before = verify(tmp_path / "data", *source, HF_ENDPOINT=hub.url)
    repository.commit({"config.json": b'{"a": 2}\n', "deep/er/b.txt": None, "new.txt": b"new"})

    after = verify(tmp_path / "data", *source, HF_ENDPOINT=hub.url)

    assert before.code == 0
    assert before.stdout.endswith("against the source: nothing has changed there\n")
    assert after.code == 17
    assert after.stdout.splitlines() == [
        "changed at the source: config.json",
        "gone from the source: deep/er/b.txt",
        "new at the source: new.txt",
        "3 files intact by size and checksum",
        "against the source: 1 changed, 1 gone, 1 new",
    ]
    assert "fetch again to take what is there now" in after.sentence


def test_a_source_that_the_data_did_not_come_from_is_refused(hub: Hub, tmp_path: Path) -> None:
    datafetch("get", "hf://org/model", "data", cwd=tmp_path, HF_ENDPOINT=hub.url)

    run = verify(tmp_path / "data", "--source", "hf://org/model", "--include", "*.json", HF_ENDPOINT=hub.url)

    assert run.code == 2
    assert "holds nothing that this request has fetched" in run.sentence


def test_two_requests_in_one_directory_are_both_verified(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/other", {"config.json": b"other", "o.txt": b"o"})
    for repository in ("org/model", "org/other"):
        datafetch("get", f"hf://{repository}", "data", cwd=tmp_path, HF_ENDPOINT=hub.url)

    run = verify(tmp_path / "data")

    assert (run.code, run.stdout) == (0, "4 files intact by size and checksum\n"), run.stdout


@pytest.mark.parametrize(
    ("prepare", "name", "said"),
    [
        (lambda root: None, "nope", "there is no directory"),
        (lambda root: (root / "empty").mkdir(), "empty", "mounted by subPath, which hides the manifest"),
        (lambda root: (root / "begun/.datafetch/epochs").mkdir(parents=True), "begun", "has ever ended"),
        (lambda root: (root / "v/.datafetch/llama/manifests").mkdir(parents=True), "v", "name one of them: "),
    ],
    ids=["no directory", "nothing fetched", "never ended", "the root of a volume"],
)
def test_without_a_manifest_it_says_why(
    tmp_path: Path, prepare: Callable[[Path], object], name: str, said: str
) -> None:
    prepare(tmp_path)

    run = verify(tmp_path / name)

    assert run.code == 2
    assert said in run.sentence


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: text.replace('"size":', '"siez":', 1)])
def test_a_damaged_manifest_is_damage(published: Path, damage: Callable[[str], str]) -> None:
    (manifest,) = (
        published.resolve().parent.parent.glob("manifests/*.json")
        if published.is_symlink()
        else (published.glob(".datafetch/manifests/*.json"))
    )
    manifest.write_text(damage(manifest.read_text()))

    run = verify(published)

    assert run.code == 12
    assert "is damaged; fetch again, and it is written anew" in run.sentence


def test_verifying_writes_nothing(published: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = (path.lstat() for path in sorted(tmp_path.rglob("*")))
        return {str(status.st_ino): (status.st_mtime_ns, status.st_ctime_ns) for status in found}

    before = state()

    assert verify(published).code == 0
    assert state() == before


def test_many_files_are_compared_in_the_order_of_their_bytes(hub: Hub, tmp_path: Path) -> None:
    names = [
        first + middle + last for first in ("a", "A", "ä", "~") for middle in ("", "-", ".", "/", "0") for last in "xé"
    ]
    hub.create("org/names", {name: name.encode() for name in names})
    datafetch("get", "hf://org/names", "data", cwd=tmp_path, HF_ENDPOINT=hub.url)

    run = verify(tmp_path / "data")

    assert (run.code, run.stdout) == (0, f"{len(names)} files intact by size and checksum\n"), run.stderr
