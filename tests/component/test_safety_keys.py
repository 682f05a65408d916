"""Unsafe and unusual keys by way of each provider's own listing, decoded by its SDK, to the volume or to UnsafePath."""

import threading
from pathlib import Path
from typing import Any

import pytest

from component.cloud import Cloud
from datafetch.engine import run_fetch
from datafetch.errors import DataFetchError, SourceNotFoundError, UnsafePathError
from datafetch_api.config import DownloadConfig
from servers.hub import Hub
from unit.downloader.canary import Canary
from unit.downloader.memory_source import RecordingObserver
from unit.downloader.tree import tree

pytestmark = pytest.mark.usefixtures("only_loopback")
PROVIDERS = ("s3", "gcs", "azure-blob")
UNUSUAL = {
    "a b+c%2e%2e&d=é.txt": b"1", "x" * 255: b"2", "日本/🎉": b"3", "...": b"4", "a\\b": b"5", "~/-rf": b"6", "*": b"7",
    "q?x#y": b"8", "'\"<>;": b"9", "a\u2028b": b"10", "\u202egnp.exe": b"11", ".datafetch-not/x": b"12", "empty": b"",
    "%2F": b"13", "a/.hidden": b"14", "e\u0301": b"15", "é": b"16", "A": b"17", "a.d": b"18", "\x9b31m": b"19",
}  # fmt: skip
UNSAFE = (
    "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "nul\0byte", "esc\x1b[2J", "new\nline", "y" * 256, "é" * 128,
    ".datafetch/lock", "..", "a/..", "not-empty/",
)  # fmt: skip


def fetch(item: dict[str, Any], canary: Canary) -> DataFetchError | None:
    target = canary.volume / "target"
    config = DownloadConfig.model_validate({"download_root": str(target), "download_items": [item]})
    try:
        run_fetch(config, observer=RecordingObserver(), cancel=threading.Event())
    except DataFetchError as error:
        return error
    finally:
        assert canary.is_untouched()
    return None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_unusual_keys_arrive_as_they_are_and_markers_of_directories_are_left_out(provider: str, tmp_path: Path) -> None:
    canary = Canary.around(tmp_path / "base")
    with Cloud({**UNUSUAL, "markers/": b"", "markers/of/": b"", "full/": b"", "full/x": b"x"}) as server:
        assert fetch(server.item(provider), canary) is None
    assert tree(canary.volume / "target") == {**UNUSUAL, "full/x": b"x"}
    assert not (canary.volume / "target/markers").exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_unsafe_key_of_a_listing_is_named_and_nothing_is_published(provider: str, tmp_path: Path) -> None:
    for number, key in enumerate(UNSAFE[::2] if provider == "s3" else UNSAFE[1::3]):
        canary = Canary.around(tmp_path / str(number))
        with Cloud({"good": b"good", key: b"bad", "zz": b"good"}) as server:
            error = fetch(server.item(provider), canary)
        assert isinstance(error, UnsafePathError), (key, error)
        assert error.key is not None
        assert error.key.removeprefix("bucket/") == key
        assert "rename the object or exclude it" in str(error)
        assert tree(canary.volume / "target") == {}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_beside_one_below_it_is_refused_with_both_names(provider: str, tmp_path: Path) -> None:
    canary = Canary.around(tmp_path / "base")
    with Cloud({"data/part": b"file", "data/part/0": b"below"}) as server:
        error = fetch(server.item(provider), canary)
    assert isinstance(error, UnsafePathError)
    assert "'bucket/data/part'" in str(error)
    assert "'bucket/data/part/0'" in str(error)
    assert tree(canary.volume / "target") == {}


def test_invalid_utf_8_of_a_listing_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    """botocore replaces such bytes, so the key cannot be asked for; two of them look alike."""
    canary = Canary.around(tmp_path / "base")
    with Cloud({"good": b"good", "bad-\udcff": b"1"}) as server:
        error = fetch(server.item("s3"), canary)
    assert isinstance(error, SourceNotFoundError | UnsafePathError)
    assert "bad-" in str(error)
    alike = {byte.decode(errors="surrogateescape"): b"x" for byte in (b"bad-\xff", b"bad-\xfe")}
    with Cloud(alike) as server:
        assert isinstance(fetch(server.item("s3"), canary), UnsafePathError)
    assert tree(canary.volume / "target") == {}


@pytest.mark.parametrize("path", ["../x", "a/../../../x", "/abs", "a//b", ".datafetch/lock", "nul\0"])
def test_an_unsafe_name_in_a_repository_is_refused(tmp_path: Path, path: str) -> None:
    canary = Canary.around(tmp_path / "base")
    with Hub() as hub:
        hub.create("org/model", {"good.txt": b"good", path: b"bad"})
        item = {"type": "hf", "name": "src", "repo_id": "org/model", "endpoint_url": hub.url, "target_path": "./"}
        error = fetch(item, canary)
    assert isinstance(error, UnsafePathError)
    assert tree(canary.volume / "target") == {}


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "%2fetc%2fpasswd", ".datafetch", "%0a"])
def test_an_unsafe_name_at_the_end_of_a_url_is_refused(tmp_path: Path, name: str) -> None:
    canary = Canary.around(tmp_path / "base")
    with Cloud({"": b"root"}) as server:
        item = {"type": "http", "name": "src", "items": [{"url": f"{server.url}/bucket/{name}"}]}
        error = fetch(item, canary)
    assert error is not None
    assert error.code in (2, 11, 18)
    assert tree(canary.volume / "target") == {}


@pytest.mark.parametrize("target", ["../x", "/etc/x", "a/../../x", ".datafetch/x", "a/"])
def test_an_unsafe_target_path_of_the_config_is_refused(tmp_path: Path, target: str) -> None:
    canary = Canary.around(tmp_path / "base")
    with Cloud({"x": b"x"}) as server:
        item = server.item("s3")
        item["items"][0]["items"] = [{"path": "x", "target_path": target}]
        try:
            error = fetch(item, canary)
        except ValueError:
            return  # the config says so already
    assert target == "a/" or (error is not None and error.code in (2, 18))
