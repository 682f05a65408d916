"""On a volume that folds names (a real mount): what would overwrite each other is refused, the rest arrives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from component.folding_volume import folding_volume
from datafetch.errors import UnsafePathError
from datafetch_api.config import DownloadConfig
from unit.downloader.memory_source import Fetch, MemoryBucket, in_place, managed
from unit.downloader.tree import tree


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with folding_volume(tmp_path_factory.mktemp("folding") / "volume") as volume:
        yield volume


@pytest.fixture
def volume(mounted: Path, request: pytest.FixtureRequest) -> Path:
    made = mounted / str(abs(hash(request.node.name)))
    made.mkdir()
    return made


@pytest.fixture(params=["managed", "in place"])
def config(request: pytest.FixtureRequest, volume: Path) -> DownloadConfig:
    return managed(str(volume)) if request.param == "managed" else in_place(str(volume / "team/model"))


def test_the_volume_folds_as_the_real_ones_do(volume: Path) -> None:
    (volume / "README").write_text("x")
    (volume / "e\u0301").write_text("y")
    assert (volume / "readme").read_text() == "x"
    assert (volume / "\u00c9").read_text() == "y"
    assert sorted(path.name for path in volume.iterdir()) == ["README", "e\u0301"]


@pytest.mark.parametrize(
    "keys",
    [
        ("README", "readme"), ("a/Weights.bin", "A/weights.BIN"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE"),
        ("model", "Model/x"), ("Model/x", "model"),
    ],
)  # fmt: skip
def test_keys_that_would_be_one_name_are_refused(volume: Path, config: DownloadConfig, keys: tuple[str, str]) -> None:
    with pytest.raises(UnsafePathError, match="collide") as raised:
        Fetch(MemoryBucket.of({keys[0]: b"1", "other": b"o", keys[1]: b"2"}), config).run()
    assert all(repr(key) in str(raised.value) for key in keys)
    assert tree(volume) == {}


@pytest.mark.parametrize("key", [".DataFetch/lock", ".DATAFETCH/epochs/1/journal", ".datafetch"])
def test_our_own_directory_is_refused_in_every_spelling(volume: Path, config: DownloadConfig, key: str) -> None:
    with pytest.raises(UnsafePathError, match="our own directory"):
        Fetch(MemoryBucket.of({"good": b"1", key: b"2"}), config).run()
    assert tree(volume) == {}


def test_what_does_not_collide_arrives_and_is_refreshed(volume: Path, config: DownloadConfig) -> None:
    Fetch(MemoryBucket.of({"a.txt": b"1", "Dir/x": b"2", "Dir/y": b"3", "same": b"4", "gone": b"5"}), config).run()
    second = Fetch(MemoryBucket.of({"a.txt": b"one", "Dir/x": b"2", "Dir/y": b"33", "same": b"4"}), config)
    second.run()
    expected = {"a.txt": b"one", "Dir/x": b"2", "Dir/y": b"33", "same": b"4"}
    assert tree(volume / "team/model") == expected
    assert second.bucket.served == len(b"one") + len(b"33"), "what has not changed is not fetched again"


def test_a_key_that_only_changes_its_case_is_still_there_after_a_refresh(volume: Path, config: DownloadConfig) -> None:
    Fetch(MemoryBucket.of({"a.txt": b"same bytes", "b": b"b"}), config).run()
    Fetch(MemoryBucket.of({"A.TXT": b"same bytes", "b": b"b"}), config).run()
    assert (volume / "team/model/A.TXT").read_bytes() == b"same bytes"
    assert len(tree(volume / "team/model")) == 2
