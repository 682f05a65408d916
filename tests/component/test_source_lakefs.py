"""lakeFS: commits, signed URLs that expire, the chain of credentials, and refreshes that fetch what differs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from component.commands import datafetch
from component.places import STALL_TIMEOUT, LakeFSPlace, by_path, read
from datafetch.engine import run_fetch
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceNotFoundError
from datafetch.progress import ProgressTracker
from datafetch.sources import Source, open_source
from datafetch_api.config import DownloadConfig, LakeFSItem
from servers.lakefs import LakeFS
from servers.plans import Fault

KEY, SECRET = "AKIAJLAKEFSEXAMPLE", "a-secret-key-of-lakefs"
LAKECTL = """\
credentials:
  access_key_id: {key}
  secret_access_key: {secret}
server:
  endpoint_url: {url}
"""


@contextmanager
def opened(**settings: Any) -> Iterator[Source]:
    source = open_source(LakeFSItem(type="lakefs", name="src", **settings), stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def models(lake: LakeFS, only_loopback: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LakeFS:
    """A server with the repository `models`, and nobody's configuration in the home directory."""
    lake.create("models", {"a.bin": b"aaaa", "sub/b.bin": b"bb"})
    lake.add_key(KEY, SECRET)
    monkeypatch.setenv("LAKECTL_CONFIG_FILE", str(tmp_path / "no-lakectl.yaml"))
    return lake


def fetch(config: dict[str, Any]) -> None:
    run_fetch(DownloadConfig.model_validate(config), observer=ProgressTracker(), cancel=threading.Event())


# --- commits ---


def test_a_branch_is_read_as_of_its_last_commit_and_the_commit_is_told(lakefs: LakeFSPlace) -> None:
    lakefs.fill({"a.txt": b"committed"})
    lakefs.repository.stage({"a.txt": b"staged", "b.txt": b"staged"})
    with lakefs.source() as source:
        entries = by_path(source)
        assert source.resolved_revision == lakefs.repository.head
        assert list(entries) == ["a.txt"]
        lakefs.fill({"a.txt": b"newer"})
        assert read(source, entries["a.txt"]) == b"committed"


def test_tags_and_commits_are_refs_too(lakefs: LakeFSPlace) -> None:
    lakefs.fill({"a.txt": b"one"})
    first = lakefs.repository.head
    lakefs.repository.refs["v1"] = first
    lakefs.fill({"a.txt": b"two"})
    for ref in ("v1", first):
        with lakefs.source(ref=ref) as source:
            assert read(source, by_path(source)["a.txt"]) == b"one"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"ref": "nobranch"}, "ref: not found"), ({"repository": "nothing-here"}, "repository not found")],
    ids=["ref", "repository"],
)
def test_what_is_not_there_is_named(lakefs: LakeFSPlace, settings: dict[str, Any], words: str) -> None:
    with lakefs.source(**settings) as source, pytest.raises(SourceNotFoundError, match=words) as raised:
        list(source.list())
    assert "commit what is to be fetched" in str(raised.value)


def test_an_object_that_was_collected_as_garbage_is_explained(lakefs: LakeFSPlace) -> None:
    lakefs.fill({"a.txt": b"abc"})
    with lakefs.source() as source:
        entry = by_path(source)["a.txt"]
        lakefs.repository.collected.add("a.txt")
        with pytest.raises(SourceNotFoundError, match="collected as garbage"):
            read(source, entry)


@pytest.mark.parametrize("kind", ["lakefs", "presigned"])
def test_a_refresh_of_another_commit_fetches_only_what_differs(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place: LakeFSPlace = request.getfixturevalue(kind)
    place.fill({f"{n}.bin": b"%d" % n * 1000 for n in range(20)})
    config = {"download_root": str(tmp_path / "root"), "download_items": [place.item()]}
    fetch(config)
    place.repository.commit({"3.bin": b"changed", "new.bin": b"new", "7.bin": None})
    for server in (place.server, place.server.storage):
        server.traffic.clear()
    fetch(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "root").glob("*.bin")} == place.repository.commits[
        place.repository.head
    ]
    asked = [exchange.query["path"] for exchange in place.server.traffic.exchanges if "path" in exchange.query]
    assert sorted(asked) == ["3.bin", "new.bin"], "one request for each object that differs"
    if kind == "presigned":
        assert len(place.server.storage.traffic.exchanges) == 2


# --- signed URLs ---


def test_signed_urls_lead_to_the_storage_without_the_credentials_of_lakefs(presigned: LakeFSPlace) -> None:
    presigned.fill({"a.bin": b"abc" * 1000})
    with presigned.source() as source:
        entry = by_path(source)["a.bin"]
        presigned.server.traffic.clear()
        assert read(source, entry) == b"abc" * 1000
        assert read(source, entry, 5, 9) == b"cabc"
        assert [exchange.query["presign"].lower() for exchange in presigned.server.traffic.exchanges] == ["true"]
        stored = presigned.server.storage.traffic.exchanges
        assert len(stored) == 2
        assert not any("authorization" in exchange.headers for exchange in stored)


def test_a_signed_url_is_renewed_before_it_expires_and_when_it_is_refused(presigned: LakeFSPlace) -> None:
    presigned.fill({"a.bin": b"abc"})
    presigned.server.expiry_seconds = 10.0  # less than what is left in hand: each range asks anew
    with presigned.source() as source:
        entry = by_path(source)["a.bin"]
        presigned.server.traffic.clear()
        assert read(source, entry) == read(source, entry) == b"abc"
        assert len(presigned.server.traffic.exchanges) == 2
        presigned.server.expiry_seconds = 900.0
        assert read(source, entry) == b"abc"
        presigned.server.expire_links()
        assert read(source, entry) == b"abc"


def test_a_signature_stands_in_no_message(presigned: LakeFSPlace) -> None:
    presigned.fill({"a.bin": b"abc"})
    presigned.server.storage.faults.add(Fault(status=403), times=None)
    with presigned.source() as source:
        entry = by_path(source)["a.bin"]
        with pytest.raises(CredentialsRejectedError) as raised:
            read(source, entry)
    assert "0" * 40 not in str(raised.value)
    assert presigned.server.storage.url in str(raised.value)


def test_an_etag_that_is_no_md5_is_not_taken_for_one(presigned: LakeFSPlace, tmp_path: Path) -> None:
    presigned.server.encrypted = True
    presigned.fill({"a.bin": b"abc"})
    fetch({"download_root": str(tmp_path / "root"), "download_items": [presigned.item()]})
    assert (tmp_path / "root/a.bin").read_bytes() == b"abc"


# --- credentials ---


def secret_keys(directory: Path, url: str) -> dict[str, Any]:
    directory.mkdir()
    (directory / "LAKECTL_CREDENTIALS_ACCESS_KEY_ID").write_text(KEY)
    (directory / "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY").write_text(SECRET)
    (directory / "LAKECTL_SERVER_ENDPOINT_URL").write_text(url)
    return {"credentials_dir": str(directory)}


def lakectl_in_a_secret(directory: Path, url: str) -> dict[str, Any]:
    directory.mkdir()
    (directory / ".lakectl.yaml").write_text(LAKECTL.format(key=KEY, secret=SECRET, url=url + "/api/v1"))
    return {"credentials_dir": str(directory)}


def a_token(directory: Path, url: str) -> dict[str, Any]:
    directory.mkdir()
    (directory / "token").write_text("a-token-of-lakefs")
    return {"credentials_dir": str(directory), "endpoint_url": url}


@pytest.mark.parametrize("write", [secret_keys, lakectl_in_a_secret, a_token])
def test_credentials_come_from_a_secret(
    models: LakeFS, tmp_path: Path, write: Callable[[Path, str], dict[str, Any]]
) -> None:
    models.add_token("a-token-of-lakefs")
    with opened(repository="models", **write(tmp_path / "secret", models.url)) as source:
        assert read(source, by_path(source)["a.bin"]) == b"aaaa"


def test_credentials_come_from_the_environment(models: LakeFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKECTL_SERVER_ENDPOINT_URL", models.url)
    monkeypatch.setenv("LAKECTL_CREDENTIALS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY", SECRET)
    with opened(repository="models") as source:
        assert read(source, by_path(source)["sub/b.bin"]) == b"bb"


def test_credentials_come_from_lakectl_s_own_file(
    models: LakeFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lakectl.yaml").write_text(LAKECTL.format(key=KEY, secret=SECRET, url=models.url))
    monkeypatch.setenv("LAKECTL_CONFIG_FILE", str(tmp_path / "lakectl.yaml"))
    with opened(repository="models", path="sub/") as source:
        assert read(source, by_path(source)["b.bin"]) == b"bb"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint_url": "https://lakefs.example"}, "no lakeFS credentials"),
        ({"endpoint_url": "ftp://lakefs.example", "keys": True}, "is no lakeFS server"),
        ({"keys": True}, "no lakeFS server"),
        ({"endpoint_url": "https://u:p@lakefs.example", "keys": True}, "is no lakeFS server"),
    ],
    ids=["nobody", "scheme", "nowhere", "password"],
)
def test_what_is_missing_is_a_sentence(models: LakeFS, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    if settings.pop("keys", False):
        (tmp_path / "id").write_text(KEY)
        (tmp_path / "key").write_text(SECRET)
        settings |= {"access_key_id_file": str(tmp_path / "id"), "secret_key_file": str(tmp_path / "key")}
    with pytest.raises(InvalidConfigError, match=words), opened(repository="models", **settings):
        pass


def test_half_a_pair_of_keys_is_a_sentence(models: LakeFS, tmp_path: Path) -> None:
    (tmp_path / "LAKECTL_CREDENTIALS_ACCESS_KEY_ID").write_text(KEY)
    settings = {"credentials_dir": str(tmp_path), "endpoint_url": models.url}
    with (
        pytest.raises(InvalidConfigError, match="SECRET_ACCESS_KEY is missing"),
        opened(repository="models", **settings),
    ):
        pass


# --- the command ---


def test_a_uri_brings_a_directory(models: LakeFS, tmp_path: Path) -> None:
    done = datafetch(
        "get",
        "lakefs://models/main/sub/",
        tmp_path / "out",
        "--endpoint-url",
        models.url,
        cwd=tmp_path,
        LAKECTL_CREDENTIALS_ACCESS_KEY_ID=KEY,
        LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY=SECRET,
    )
    assert done.code == 0, done.stderr
    assert (tmp_path / "out/b.bin").read_bytes() == b"bb"
    assert SECRET not in done.stderr + done.stdout
