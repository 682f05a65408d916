"""Volumes that are too small, read-only, or whose file system knows no hard links: real mounts, so root is needed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from datafetch.errors import InsufficientSpaceError, TargetNotWritableError
from unit.downloader.memory_source import Fetch, MemoryBucket, in_place, managed
from unit.downloader.tree import tree

CONTENT = {"a.bin": b"a" * 700_000, "b.bin": b"b" * 700_000}


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs of one MiB."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(volume)], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", str(volume)], check=True)


def remount(volume: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(volume)], check=True)


def test_what_cannot_fit_is_refused_before_the_first_byte(small_volume: Path) -> None:
    bucket = MemoryBucket.of(CONTENT)
    with pytest.raises(InsufficientSpaceError, match=r"1400000 bytes.*free; free some space"):
        Fetch(bucket, in_place(str(small_volume))).run()
    assert bucket.requests == []
    assert tree(small_volume) == {}


def test_a_volume_that_fills_up_keeps_what_arrived_and_goes_on_when_it_has_grown(small_volume: Path) -> None:
    bucket = MemoryBucket.of(CONTENT)
    bucket.hide_sizes = True
    with pytest.raises(InsufficientSpaceError, match="the volume is full"):
        Fetch(bucket, managed(str(small_volume))).run(workers=1)
    assert not (small_volume / "team/model").exists()
    remount(small_volume, "size=4m")
    served = bucket.served
    bucket.hide_sizes = False
    again = Fetch(bucket, managed(str(small_volume)))
    again.run()
    assert tree(small_volume / "team/model") == CONTENT
    assert bucket.served - served < sum(map(len, CONTENT.values())) + 1


def test_a_read_only_volume_is_named_with_what_to_do(small_volume: Path) -> None:
    remount(small_volume, "ro")
    with pytest.raises(TargetNotWritableError, match=r"Read-only file system.*belongs to 0:0.*podSecurityContext"):
        Fetch(MemoryBucket.of(CONTENT), managed(str(small_volume))).run()
