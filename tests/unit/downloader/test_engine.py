"""The engine and the sink together, over a source in memory: what is on the disk afterwards, and what was asked for."""

import errno
import itertools
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from datafetch import engine
from datafetch.engine import FetchOutcome, run_fetch
from datafetch.errors import (
    InsufficientSpaceError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    SourceChangedError,
    SourceUnavailableError,
    TargetNotWritableError,
    TargetOccupiedError,
    UnsafePathError,
)
from datafetch.sources import Source
from datafetch.transfer import PART_BYTES
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.report import Stage
from unit.downloader.memory_source import (
    Fetch,
    MemoryBucket,
    MemoryObject,
    RecordingObserver,
    in_place,
    managed,
    wait_until,
)
from unit.downloader.tree import tree

SMALL = {"README.md": b"hello", "data/a.bin": b"a" * 1000, "data/deep/er/b.bin": b"", "data/c.bin": os.urandom(70_000)}


def big(megabytes: int = 80, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(megabytes << 20)


def test_everything_lands_under_its_name(tmp_path: Path) -> None:
    fetch = Fetch(MemoryBucket.of(SMALL), in_place(str(tmp_path)))
    outcome = fetch.run()
    assert tree(tmp_path) == SMALL
    assert (outcome.files, outcome.bytes, outcome.publication) == (4, 71_005, "InPlace")
    assert fetch.observer.bytes_received == 71_005
    assert fetch.observer.stages == [Stage.LISTING, Stage.FETCHING, Stage.PUBLISHING]


def test_a_big_file_travels_in_ranges_and_is_whole(tmp_path: Path) -> None:
    content = {"big.bin": big()}
    bucket = MemoryBucket.of(content)
    Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == content
    assert len(bucket.requests) == -(-len(content["big.bin"]) // PART_BYTES)


@pytest.mark.parametrize("pause", [0.3, 0.8, 1.3])
def test_a_listing_that_outlasts_the_transfer_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr(engine, "LISTING_GRACE_SECONDS", 0.1)
    bucket = MemoryBucket.of(SMALL)
    bucket.listing_pause = pause
    Fetch(bucket, in_place(str(tmp_path / "in-place"))).run()
    assert tree(tmp_path / "in-place") == SMALL
    Fetch(bucket, managed(str(tmp_path))).run()
    assert tree(tmp_path / "team/model") == SMALL


def test_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    Fetch(bucket, in_place(str(tmp_path))).run()
    before = len(bucket.requests)
    again = Fetch(bucket, in_place(str(tmp_path)))
    assert again.run().reused_bytes == 71_005
    assert len(bucket.requests) == before
    assert tree(tmp_path) == SMALL


@pytest.mark.parametrize("layout", [in_place, managed])
def test_a_complete_tree_of_the_same_request_needs_no_source(
    tmp_path: Path, layout: Callable[[str], DownloadConfig]
) -> None:
    config = layout(str(tmp_path))
    Fetch(MemoryBucket.of(SMALL), config).run()

    def no_source(item: object, stall_timeout: float) -> NoReturn:
        raise AssertionError("a source was opened")

    def run_again(verify: str = "Identity") -> FetchOutcome:
        transfer = config.transfer.model_copy(update={"verify": verify})
        asked = config.model_copy(update={"transfer": transfer})
        observer = RecordingObserver()
        return run_fetch(asked, observer=observer, cancel=threading.Event(), opener=no_source, skip_if_complete=True)

    outcome = run_again()
    assert (outcome.files, outcome.bytes, outcome.reused_bytes) == (4, 71_005, 71_005)
    file = (tmp_path / "team/model" if layout is managed else tmp_path) / "data/a.bin"
    before = file.stat()
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run_again().files == 4, "who keeps size and time is only found by reading"
    with pytest.raises(AssertionError):
        run_again("Full")
    file.unlink()
    with pytest.raises(AssertionError):
        run_again()


@pytest.mark.parametrize("layout", [in_place, managed])
def test_what_another_process_brings_meanwhile_is_not_fetched_again(
    tmp_path: Path, layout: Callable[[str], DownloadConfig]
) -> None:
    config, bucket = layout(str(tmp_path)), MemoryBucket.of(SMALL)
    second_waits = threading.Event()

    def hold(key: str, position: int) -> None:
        second_waits.wait(20)

    bucket.before_open = hold
    first = threading.Thread(target=Fetch(bucket, config).run)
    first.start()
    wait_until(lambda: bool(bucket.requests))

    class Waiting(RecordingObserver):
        def stage(self, stage: Stage, message: str | None = None) -> None:
            if stage is Stage.WAITING:
                second_waits.set()

    def no_listing(item: DownloadItem, stall_timeout: float) -> Source:
        source = bucket.opener(item, stall_timeout)
        source.list = None  # type: ignore[method-assign,assignment]  # whoever calls it fails
        return source

    outcome = run_fetch(config, observer=Waiting(), cancel=threading.Event(), opener=no_listing, skip_if_complete=True)
    first.join(10)
    assert (outcome.files, outcome.reused_bytes) == (4, 71_005)
    assert len(bucket.requests) == 3, "the empty file needs none"


@pytest.mark.parametrize("layout", [in_place, managed])
def test_full_verification_reads_again_what_is_there(tmp_path: Path, layout: Callable[[str], DownloadConfig]) -> None:
    bucket, config = MemoryBucket.of(SMALL), layout(str(tmp_path))
    Fetch(bucket, config).run()
    file = (tmp_path / "team/model" if layout is managed else tmp_path) / "data/a.bin"
    before = file.stat()
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    full = config.model_copy(update={"transfer": config.transfer.model_copy(update={"verify": "Full"})})
    Fetch(bucket, full).run()
    assert file.read_bytes() == SMALL["data/a.bin"]
    assert [key for key, _, _ in bucket.requests].count("data/a.bin") == 2


def test_an_object_that_changes_while_it_is_fetched_begins_again(tmp_path: Path) -> None:
    bucket = MemoryBucket.of({"big.bin": big()})
    new = big(seed=2)
    replaced = threading.Event()

    def replace_in_the_middle(key: str, position: int) -> None:
        if position > PART_BYTES + 1000 and not replaced.is_set():
            replaced.set()
            bucket.objects[key] = MemoryObject.of(new)

    bucket.before_read = replace_in_the_middle
    fetch = Fetch(bucket, in_place(str(tmp_path)))
    fetch.run(workers=1)
    assert tree(tmp_path) == {"big.bin": new}
    assert any("fetched again from its start" in message for message in fetch.observer.retries)
    assert fetch.observer.bytes_received == len(new)


def test_an_object_that_never_stays_the_same_ends_the_fetch(tmp_path: Path) -> None:
    bucket = MemoryBucket.of({"a.bin": b"0" * 1000})
    versions = itertools.count(1)

    def replace(key: str, position: int) -> None:
        bucket.objects[key] = MemoryObject.of(str(next(versions)).encode() * 1000)

    bucket.before_open = replace
    with pytest.raises(SourceChangedError, match="changed 4 times"):
        Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == {}


def test_a_file_that_somebody_changed_is_fetched_again(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    Fetch(bucket, in_place(str(tmp_path))).run()
    (tmp_path / "data/a.bin").write_bytes(b"b" * 1000)
    Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == SMALL


def test_files_gone_from_the_source_go_and_files_of_others_stay(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    Fetch(bucket, in_place(str(tmp_path))).run()
    (tmp_path / "mine.txt").write_bytes(b"mine")
    del bucket.objects["data/deep/er/b.bin"]
    Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == {"mine.txt": b"mine"} | {k: v for k, v in SMALL.items() if k != "data/deep/er/b.bin"}
    assert not (tmp_path / "data/deep").exists()


def test_managed_publishes_behind_a_link(tmp_path: Path) -> None:
    outcome = Fetch(MemoryBucket.of(SMALL), managed(str(tmp_path))).run()
    link = tmp_path / "team/model"
    assert os.readlink(link) == f".datafetch/model/revisions/{outcome.revision}"
    assert tree(link) == SMALL
    assert (tmp_path / f"team/.datafetch/model/manifests/{outcome.revision}.json").is_file()
    assert not (tmp_path / "team/.datafetch/model/lock").exists()


def test_a_refresh_links_what_did_not_change(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    first = Fetch(bucket, managed(str(tmp_path))).run()
    bucket.objects["README.md"] = MemoryObject.of(b"changed")
    del bucket.objects["data/a.bin"]
    before = len(bucket.requests)
    second = Fetch(bucket, managed(str(tmp_path))).run()
    link = tmp_path / "team/model"
    assert second.revision != first.revision
    assert len(bucket.requests) == before + 1
    assert tree(link) == {k: v.content for k, v in bucket.objects.items()}
    old = tmp_path / f"team/.datafetch/model/revisions/{first.revision}"
    assert tree(old) == SMALL
    assert (old / "data/c.bin").stat().st_ino == (link / "data/c.bin").stat().st_ino


def test_a_refresh_copies_where_the_file_system_refuses_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    bucket = MemoryBucket.of(SMALL)
    Fetch(bucket, managed(str(tmp_path))).run()
    bucket.objects["README.md"] = MemoryObject.of(b"changed")
    before = len(bucket.requests)
    Fetch(bucket, managed(str(tmp_path))).run()
    assert len(bucket.requests) == before + 1
    assert tree(tmp_path / "team/model") == {**SMALL, "README.md": b"changed"}
    Fetch(bucket, managed(str(tmp_path))).run()
    assert len(bucket.requests) == before + 1


def test_nothing_changed_keeps_the_revision(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    first = Fetch(bucket, managed(str(tmp_path))).run()
    again = Fetch(bucket, managed(str(tmp_path), uid="u2")).run()
    assert again.revision == first.revision
    manifest = (tmp_path / f"team/.datafetch/model/manifests/{first.revision}.json").read_text()
    assert '"uid": "u2"' in manifest.splitlines()[0]


def test_a_damaged_revision_is_replaced(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    first = Fetch(bucket, managed(str(tmp_path))).run()
    (tmp_path / "team/model/README.md").unlink()
    again = Fetch(bucket, managed(str(tmp_path))).run()
    assert again.revision != first.revision
    assert tree(tmp_path / "team/model") == SMALL


def test_old_revisions_go_by_the_rule(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    for number in range(4):
        bucket.objects["README.md"] = MemoryObject.of(b"version %d" % number)
        config = managed(str(tmp_path), keep_revisions=1, prune_replaced_before="2999-01-01T00:00:00Z")
        Fetch(bucket, config).run()
    assert len(list((tmp_path / "team/.datafetch/model/revisions").iterdir())) == 2
    assert len(list((tmp_path / "team/.datafetch/model/manifests").iterdir())) == 2


@pytest.mark.parametrize("occupant", ["file", "directory", "link", "other"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, occupant: str) -> None:
    (tmp_path / "team").mkdir()
    target = tmp_path / "team/model"
    if occupant == "file":
        target.write_bytes(b"precious")
    elif occupant == "directory":
        target.mkdir()
        (target / "precious").write_bytes(b"precious")
    elif occupant == "link":
        target.symlink_to("/etc")
    else:
        Fetch(MemoryBucket.of(SMALL), managed(str(tmp_path), name="another", uid="u9")).run()
    before = tree(tmp_path)
    with pytest.raises(TargetOccupiedError, match="team/model"):
        Fetch(MemoryBucket.of({"x": b"x"}), managed(str(tmp_path))).run()
    assert tree(tmp_path) == before


def test_a_volume_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetNotWritableError, match="mount it"):
        Fetch(MemoryBucket.of(SMALL), managed(str(tmp_path / "absent"))).run()


def test_an_empty_directory_in_the_links_place_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "team/model").mkdir(parents=True)
    Fetch(MemoryBucket.of(SMALL), managed(str(tmp_path))).run()
    assert tree(tmp_path / "team/model") == SMALL


def test_a_broken_connection_goes_on_where_it_stopped(tmp_path: Path) -> None:
    content = {"file.bin": big(4)}
    bucket = MemoryBucket.of(content)
    broken = threading.Event()

    def break_once(key: str, position: int) -> None:
        if position >= 1 << 20 and not broken.is_set():
            broken.set()
            raise SourceUnavailableError("connection reset")

    bucket.before_read = break_once
    fetch = Fetch(bucket, in_place(str(tmp_path)))
    fetch.run()
    assert tree(tmp_path) == content
    assert bucket.requests[1][1] == 1 << 20
    assert fetch.observer.bytes_received == bucket.served == 4 << 20
    assert len(fetch.observer.retries) == 1


def test_what_arrived_before_a_stop_is_not_fetched_again(tmp_path: Path) -> None:
    content = {"big.bin": big(100), "small.txt": b"small"}
    bucket = MemoryBucket.of(content)
    fetch = Fetch(bucket, managed(str(tmp_path)))

    def stop_late(key: str, position: int) -> None:
        if bucket.served > 60 << 20:
            fetch.cancel.set()

    bucket.before_read = stop_late
    with pytest.raises(InterruptedByRequestError):
        fetch.run()
    assert not (tmp_path / "team/model").exists()
    bucket.before_read = lambda key, position: None
    again = Fetch(bucket, managed(str(tmp_path)))
    again.run()
    assert tree(tmp_path / "team/model") == content
    assert bucket.served == sum(map(len, content.values()))


def test_a_changed_object_is_never_mixed(tmp_path: Path) -> None:
    bucket = MemoryBucket.of({"big.bin": big(100)})
    fetch = Fetch(bucket, in_place(str(tmp_path)))

    def stop_late(key: str, position: int) -> None:
        if bucket.served > 60 << 20:
            fetch.cancel.set()

    bucket.before_read = stop_late
    with pytest.raises(InterruptedByRequestError):
        fetch.run()
    assert tree(tmp_path) == {}
    bucket.before_read = lambda key, position: None
    replaced = big(100, seed=2)
    bucket.objects["big.bin"] = MemoryObject.of(replaced)
    Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == {"big.bin": replaced}


def test_a_flipped_byte_is_caught_and_fetched_once_more(tmp_path: Path) -> None:
    bucket = MemoryBucket.of({"a": b"x" * 100})
    bucket.objects["a"].promised = "00000000"
    with pytest.raises(IntegrityMismatchError, match="crc32"):
        Fetch(bucket, in_place(str(tmp_path))).run()
    assert len(bucket.requests) == 2
    assert tree(tmp_path) == {}


def test_a_listed_checksum_that_the_answer_takes_back_is_not_held_against_the_content(tmp_path: Path) -> None:
    bucket = MemoryBucket.of({"a": b"x" * 100})
    bucket.objects["a"].promised = "00000000"
    bucket.checksums_hold = False
    Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == {"a": b"x" * 100}


def test_an_object_of_unknown_size_arrives_whole(tmp_path: Path) -> None:
    bucket = MemoryBucket.of(SMALL)
    bucket.hide_sizes = True
    outcome = Fetch(bucket, in_place(str(tmp_path))).run()
    assert tree(tmp_path) == SMALL
    assert outcome.bytes == 71_005


@pytest.mark.parametrize(
    "key", ["../up", "/etc/passwd", "a//b", "a/./b", "a/../../b", "nul\0", "x" * 256, ".datafetch/x"]
)
def test_a_key_that_would_leave_the_target_ends_the_fetch(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnsafePathError):
        Fetch(MemoryBucket.of({"good": b"good", key: b"bad"}), in_place(str(tmp_path / "root"))).run()
    assert tree(tmp_path) == {}


def test_a_file_beside_a_directory_of_the_same_name_ends_the_fetch(tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError, match="collide"):
        Fetch(MemoryBucket.of({"a": b"1", "a/b": b"2"}), in_place(str(tmp_path))).run()
    assert tree(tmp_path) == {}


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(outside)
    with pytest.raises(TargetOccupiedError):
        Fetch(MemoryBucket.of(SMALL), in_place(str(root))).run()
    assert list(outside.iterdir()) == []


def test_too_little_space_ends_before_anything_is_named(tmp_path: Path) -> None:
    with pytest.raises(InsufficientSpaceError, match=r"71005 bytes.*70000 bytes"):
        Fetch(MemoryBucket.of(SMALL), in_place(str(tmp_path), capacity_bytes=70_000)).run()
    assert tree(tmp_path) == {}


def test_two_fetches_of_one_target_take_turns(tmp_path: Path) -> None:
    content = {"big.bin": big(16)}
    bucket = MemoryBucket.of(content)
    gate = threading.Event()

    def hold(key: str, position: int) -> None:
        gate.wait(10)

    bucket.before_read = hold
    first, second = (Fetch(bucket, managed(str(tmp_path))) for _ in range(2))
    threads = [threading.Thread(target=fetch.run) for fetch in (first, second)]
    threads[0].start()
    wait_until(lambda: bool(bucket.requests))
    threads[1].start()
    wait_until(lambda: second.observer.stages == [Stage.WAITING])
    gate.set()
    for thread in threads:
        thread.join(20)
    assert bucket.served == 16 << 20
    assert second.observer.bytes_reused == 16 << 20
    assert tree(tmp_path / "team/model") == content
