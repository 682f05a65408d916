"""What every source promises, against real servers: the same tests for S3, GCS, Azure, the Hub and HTTP."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from component.places import PLACES, WRONG, WRONG_KEY, Place, by_path, checksum_of, read
from datafetch.engine import run_fetch
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    IntegrityMismatchError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnavailableError,
    StalledError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import ByteRange, open_source
from datafetch_api.config import DownloadConfig
from servers.plans import Fault
from servers.traffic import Exchange

BIG = os.urandom(3_000_000)
FILES = {
    "README.md": b"# at the root\n",
    "sub/notes.md": b"notes\n",
    "sub/deep/er/big.bin": BIG,
    "sub/empty.txt": b"",
    "ünï côdé/日本 +%41&=;,@$!'()~.txt": "naïve\n".encode(),
    "sub/hash#and?mark.txt": b"?",
}


def _where(wanted: Callable[[type[Place]], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [name for name, kind in PLACES.items() if wanted(kind)], indirect=True)


everywhere = _where(lambda _: True)
with_listing = _where(lambda kind: kind.has_listing)
with_selections = _where(lambda kind: kind.takes_selections)
with_credentials = _where(lambda kind: kind.checks_credentials)


@everywhere
def test_every_object_is_listed_once_with_its_size_and_what_identifies_it(place: Place) -> None:
    place.fill(FILES)
    with place.source() as source:
        entries = by_path(source)
        assert {path: entry.size for path, entry in entries.items()} == {
            path: len(data) for path, data in FILES.items()
        }
        assert all(entry.identity for entry in entries.values())
        assert len({entry.identity for entry in entries.values()}) == len(FILES)
        assert entries == by_path(source), "a second listing says the same"


@everywhere
def test_the_bytes_are_the_object_s_whole_or_in_ranges(place: Place) -> None:
    place.fill(FILES)
    with place.source() as source:
        entries = by_path(source)
        assert {path: read(source, entry) for path, entry in entries.items()} == FILES
        big = entries["sub/deep/er/big.bin"]
        for start, end in ((0, 1), (0, 1_000_000), (1_000_000, 2_500_000), (2_999_999, 3_000_000)):
            assert read(source, big, start, end) == BIG[start:end]


@_where(lambda kind: kind.has_listing and kind.promises_checksums)
def test_the_checksum_that_the_listing_names_is_the_content_s(place: Place) -> None:
    place.fill(FILES)
    with place.source() as source:
        for path, entry in by_path(source).items():
            assert entry.checksum is not None
            assert entry.checksum.value == checksum_of(entry.checksum, FILES[path])


@with_listing
def test_a_listing_of_several_pages_is_whole_and_lazy(place: Place) -> None:
    files = {f"many/{number:05}.txt": b"%d" % number for number in range(place.many)}
    place.fill(files)
    with place.source({"path": "many/"}) as source:
        assert next(iter(source.list())).size is not None
        assert sorted(by_path(source)) == [f"{number:05}.txt" for number in range(place.many)]


@everywhere
def test_an_object_that_was_replaced_is_never_mixed_with_its_successor(place: Place) -> None:
    place.fill({"a.bin": BIG})
    with place.source() as source:
        entry = by_path(source)["a.bin"]
        assert read(source, entry, 0, 1000) == BIG[:1000]
        place.fill({"a.bin": BIG[::-1]})
        if not place.changed_is_seen:
            assert read(source, entry, 1000, 2000) == BIG[1000:2000]
            return
        with pytest.raises(SourceChangedError) as raised:
            read(source, entry, 1000, 2000)
        assert raised.value.source == "src"
        assert raised.value.key == entry.key
        assert by_path(source)["a.bin"].identity != entry.identity


@everywhere
def test_an_object_that_is_not_there_is_not_found(place: Place) -> None:
    place.fill({"a.bin": b"abc"})
    with place.source() as source:
        entry = by_path(source)["a.bin"]
        with pytest.raises(DataFetchError) as raised:
            read(source, place.missing(entry))
        # Azurite checks the precondition before it looks for the blob; Azure answers 404.
        assert isinstance(raised.value, SourceNotFoundError | SourceChangedError)


BELOW_SUB = ["deep/er/big.bin", "empty.txt", "hash#and?mark.txt", "notes.md"]
SELECTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"path": ".", "glob": "**/*.md"}, ["README.md", "sub/notes.md"]),
    ({"path": ".", "glob": "*.md", "target_path": "docs"}, ["docs/README.md"]),
    ({"path": "sub", "glob": "**/*"}, BELOW_SUB),
    ({"path": "sub/", "target_path": "x/y/"}, [f"x/y/{path}" for path in BELOW_SUB]),
    ({"path": ".", "include": ["sub/deep/**", "sub/*.md"], "exclude": ["**/notes.md"]}, ["sub/deep/er/big.bin"]),
    ({"path": "sub/notes.md", "match": "object", "target_path": "one.md"}, ["one.md"]),
    ({"path": "sub/notes.md", "match": "object", "target_path": "dir/"}, ["dir/notes.md"]),
    ({"path": "sub/notes.md", "match": "auto", "target_path": "./"}, ["notes.md"]),
    ({"path": "sub/deep", "match": "auto", "target_path": "./"}, ["er/big.bin"]),
]  # fmt: skip


@with_listing
@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
def test_a_selection_takes_what_it_says_and_says_where_it_lands(
    place: Place, selection: dict[str, Any], expected: list[str]
) -> None:
    place.fill(FILES)
    with place.source(selection) as source:
        assert sorted(by_path(source)) == expected


@with_selections
def test_an_object_is_listed_once_for_each_place_where_it_lands(place: Place) -> None:
    place.fill(FILES)
    selections = (
        {"path": ".", "glob": "**/*", "target_path": "all"},
        {"path": "sub", "glob": "**/*", "target_path": "sub"},
        {"path": "sub/notes.md", "target_path": "single.md"},
        {"path": ".", "glob": "**/*.md", "target_path": "all"},
    )
    with place.source(*selections) as source:
        below = [path for path in FILES if path.startswith("sub/")]
        assert sorted(by_path(source)) == sorted([*(f"all/{path}" for path in FILES), *below, "single.md"])


@with_listing
@pytest.mark.parametrize(
    ("selection", "named"),
    [
        ({"path": "no/such.txt", "match": "object"}, "no/such.txt"),
        ({"path": "nosuch/", "match": "prefix"}, "nosuch/"),
        ({"path": "nosuch", "match": "auto"}, "nosuch"),
        ({"path": "sub", "glob": "*.zip"}, "*.zip"),
    ],
)
def test_what_matches_nothing_is_named(place: Place, selection: dict[str, Any], named: str) -> None:
    place.fill(FILES)
    with place.source(selection) as source, pytest.raises(SourceNotFoundError) as raised:
        list(source.list())
    assert named in str(raised.value)
    assert place.bucket in str(raised.value)


@_where(lambda kind: kind.has_listing and kind.names_missing_bucket)
@pytest.mark.parametrize("path", [".", "a.txt"])
def test_a_bucket_that_is_not_there_is_named(place: Place, path: str) -> None:
    place.bucket = "no-such-bucket"
    with place.source({"path": path}) as source, pytest.raises(SourceNotFoundError) as raised:
        list(source.list())
    assert "no-such-bucket" in str(raised.value)
    assert "check" in str(raised.value)


@with_credentials
def test_wrong_credentials_are_rejected_and_stay_secret(place: Place) -> None:
    place.fill({"a.txt": b"abc"})
    for selection in ({"path": "."}, {"path": "a.txt", "match": "object"}):
        with place.source(selection, credentials="wrong") as source:
            with pytest.raises(CredentialsRejectedError) as raised:
                list(source.list())
            assert raised.value.source == "src"
            assert not any(secret in str(raised.value) for secret in (WRONG, WRONG_KEY))
            with pytest.raises(CredentialsRejectedError) as raised:
                read(source, place.entry("a.txt", 3))
            assert not any(secret in str(raised.value) for secret in (WRONG, WRONG_KEY))


@with_credentials
def test_rotated_credentials_reach_a_source_that_is_in_use(place: Place) -> None:
    place.fill({"a.txt": b"abc"})
    with place.source() as source:
        entry = by_path(source)["a.txt"]
    with place.source(credentials="wrong") as source:
        with pytest.raises(CredentialsRejectedError):
            read(source, entry)
        place.item()
        assert read(source, entry) == b"abc"


# --- who sends requests himself ---


@_where(lambda kind: kind.sends_plain_requests)
def test_a_prepared_request_brings_the_bytes_and_the_answer_tells_their_checksum(place: Place) -> None:
    place.fill(FILES)
    with place.source() as source:
        access = source.http
        assert access is not None
        for path, entry in by_path(source).items():
            data = FILES[path]
            for wanted in (ByteRange(0, len(data)), ByteRange(len(data) // 3, len(data) // 2)):
                if wanted.start == wanted.end and data:
                    continue
                request, pin = access.prepare(entry, wanted)
                received = bytearray(len(data) + 1)
                with access.transport.open_range(request, wanted, pin) as body:
                    position = 0
                    while count := body.readinto(memoryview(received)[position:]):
                        position += count
                    promised = access.promised_checksum(entry, body.headers)
                assert received[:position] == data[wanted.start : wanted.end]
                assert promised is not None or not place.promises_checksums
                assert promised is None or promised.value == checksum_of(promised, data)


@_where(lambda kind: kind.requests_for_bytes == 1)
def test_the_bytes_of_a_small_object_cost_one_request(place: Place) -> None:
    place.fill({"notes.md": b"a few words"})
    with place.watched() as ((server, *_), settings), place.source(**settings) as source:
        entry = by_path(source)["notes.md"]
        server.traffic.clear()
        assert read(source, entry) == b"a few words"
        assert read(source, entry, 2, 5) == b"few"
        assert [exchange.method for exchange in server.traffic.exchanges] == ["GET", "GET"]


REFUSALS: list[tuple[Fault, type[DataFetchError], bool]] = [
    (Fault(status=401), CredentialsRejectedError, False),
    (Fault(status=403), CredentialsRejectedError, False),
    (Fault(status=404), SourceNotFoundError, False),
    (Fault(status=412), SourceChangedError, True),
    (Fault(status=429, retry_after="7"), SourceUnavailableError, True),
    (Fault(status=500), SourceUnavailableError, True),
    (Fault(status=503, retry_after="7"), SourceUnavailableError, True),
    (Fault(cut_after=4), SourceUnavailableError, True),
    (Fault(stall_after=4, stall_seconds=9), StalledError, True),
]


def _is_for_bytes(found: Exchange) -> bool:
    """Whether a request is for the bytes of notes.md, also at the Hub's CDN or at the storage of lakeFS."""
    named = "notes.md" in found.target and not found.path.endswith(("/stat", "/ls"))
    return found.method == "GET" and (named or found.path.startswith(("/lfs/", "/storage/data/")))


@_where(lambda kind: kind.requests_for_bytes > 0)
@pytest.mark.parametrize(("fault", "expected", "retryable"), REFUSALS)
def test_what_may_be_tried_again_is_told_from_what_may_not(
    place: Place, fault: Fault, expected: type[DataFetchError], retryable: bool
) -> None:
    place.fill({"notes.md": b"a few words"})
    with place.watched() as (servers, settings):
        source = open_source(place.item(**settings), stall_timeout=1.5)
        try:
            entry = by_path(source)["notes.md"]
            for server in servers:
                server.faults.add(fault, times=None, when=_is_for_bytes)
            # A generation that is gone while the object is there is a change.
            with pytest.raises((expected, SourceChangedError) if fault.status == 404 else expected) as raised:
                read(source, entry)
        finally:
            source.close()
    error = raised.value
    assert isinstance(error, SourceChangedError) or error.retryable is retryable
    if fault.status is not None:
        assert (error.source, error.key) == ("src", entry.key)
    if fault.status in (429, 503):
        assert isinstance(error, SourceUnavailableError)
        assert error.throttled
        assert error.retry_after == 7


def _is_object(path: str) -> bool:
    """Whether a request is for the bytes of the object, also at the Hub's CDN."""
    return path.endswith("/flip.bin") or path.startswith(("/lfs/", "/storage/data/"))


@_where(lambda kind: kind.verifies)
@pytest.mark.parametrize("size", [3_000, 2_000_000], ids=["small", "large"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_byte_that_was_flipped_on_the_way_is_in_no_file(
    place: Place, tmp_path: Path, size: int, times: int | None
) -> None:
    data = os.urandom(size)
    place.make_verifiable("flip.bin", data)
    root = tmp_path / "root"
    with place.watched() as (servers, settings):
        item = place.item(**settings)
        for disturbed in servers:
            disturbed.faults.add(Fault(flip_at=size // 2), times=times, when=lambda found: _is_object(found.path))
        config = DownloadConfig.model_validate({"download_root": str(root), "download_items": [item]})
        if times is None:
            with pytest.raises(IntegrityMismatchError) as raised:
                run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
            assert raised.value.code == 12
            assert not (root / "flip.bin").exists()
        else:
            run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
            assert (root / "flip.bin").read_bytes() == data
