"""`datafetch.ingest`: data sets by name, as mleko's S3Ingester brings them, from real servers."""

import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from component.commands import tree
from component.places import HubPlace, Place, S3Place
from component.test_api_source import uri_and_options
from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InvalidConfigError,
    SourceNotFoundError,
    TimestampSpreadError,
)
from datafetch.ingest import Ingester, S3Ingester
from servers.faults import FaultProxy
from servers.plans import Fault

FILES = {
    "food/indian_food.csv": b"name,diet\nBalu shahi,vegetarian\n",
    "food/notes/more.csv": b"name,diet\n",
    "food/notes/readme.txt": b"about food",
    "food-of-others/x.csv": b"another data set",
}
REGION = "us-east-1"


@pytest.fixture
def aws(s3: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The bucket with `FILES`, where AWS's own variables lead to, behind a proxy; the working directory is empty."""
    s3.fill(FILES)
    upstream = urlsplit(s3.server.url)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with FaultProxy(upstream.hostname or "", upstream.port or 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.server.secret_key)
        yield proxy


def gets(proxy: FaultProxy) -> list[str]:
    """The paths of objects that were asked for with GET, since the last call."""
    found = [
        one.path.partition("/food/")[2]
        for one in proxy.traffic.exchanges
        if one.method == "GET" and "/food/" in one.path
    ]
    proxy.traffic.clear()
    return sorted(found)


def ingester(s3: S3Place, **more: Any) -> S3Ingester:
    return S3Ingester(s3.bucket, "food", aws_region_name=REGION, **more)


def names(paths: list[Path], directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in paths]


# --- the parameters ---


def test_the_parameters_and_defaults_are_mleko_s() -> None:
    signature = inspect.signature(S3Ingester.__init__)

    assert {name: one.default for name, one in list(signature.parameters.items())[1:]} == {
        "s3_bucket_name": inspect.Parameter.empty,
        "s3_key_prefix": inspect.Parameter.empty,
        "file_pattern": "*",
        "dataset_id": None,
        "destination_directory": "data/s3-ingester",
        "aws_profile_name": None,
        "aws_region_name": "eu-west-1",
        "max_concurrent_files": 64,
        "workers_per_file": 1,
        "manifest_file_name": "manifest",
        "s3_timestamp_tolerance": -1,
    }
    assert str(inspect.signature(S3Ingester.fetch_data)).endswith(
        "(self, force_recompute: bool = False) -> list[pathlib.Path]"
    )


def test_a_data_set_without_an_id_is_named_by_the_fingerprint(s3: S3Place, aws: FaultProxy) -> None:
    paths = ingester(s3, file_pattern="*.csv").fetch_data()

    fingerprint = hashlib.md5(f"{s3.bucket}food{REGION}".encode()).hexdigest()
    assert paths == [
        Path("data/s3-ingester", fingerprint, "indian_food.csv"),
        Path("data/s3-ingester", fingerprint, "notes/more.csv"),
    ]
    assert [path.read_bytes() for path in paths] == [FILES["food/indian_food.csv"], FILES["food/notes/more.csv"]]


def test_a_data_set_with_an_id_lies_in_its_directory(s3: S3Place, aws: FaultProxy, tmp_path: Path) -> None:
    found = ingester(s3, dataset_id="indian_food", destination_directory=tmp_path / "sets").fetch_data()

    assert names(found, tmp_path / "sets/indian_food") == ["indian_food.csv", "notes/more.csv", "notes/readme.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["indian_food.csv", "notes/more.csv", "notes/readme.txt"]),
        ("*.csv", ["indian_food.csv", "notes/more.csv"]),
        ("notes/*", ["notes/more.csv", "notes/readme.txt"]),
        (["*.txt", "indian_????.csv"], ["indian_food.csv", "notes/readme.txt"]),
        ("[!i]*.csv", ["notes/more.csv"]),
    ],
)
def test_patterns_are_those_of_fnmatch(s3: S3Place, aws: FaultProxy, pattern: Any, expected: list[str]) -> None:
    made = ingester(s3, file_pattern=pattern)

    assert names(made.fetch_data(), made.directory) == expected


def test_a_profile_of_the_aws_files_is_used(
    s3: S3Place, aws: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = f"aws_access_key_id = {s3.server.access_key}\naws_secret_access_key = {s3.server.secret_key}\n"
    (tmp_path / "credentials").write_text(f"[research]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataFetchError, match="no credentials found"):
        ingester(s3).fetch_data()

    assert len(ingester(s3, aws_profile_name="research").fetch_data()) == 3


@pytest.mark.parametrize("name", ["", "a/b", "..", "."])
def test_an_id_that_is_no_directory_s_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfigError, match="dataset_id"):
        S3Ingester("b", "p", dataset_id=name)


def test_no_pattern_at_all_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="file_pattern is empty"):
        S3Ingester("b", "p", file_pattern=[])


# --- up to date, or fetched again ---


def test_what_is_up_to_date_is_not_downloaded(s3: S3Place, aws: FaultProxy) -> None:
    first = ingester(s3).fetch_data()
    assert gets(aws) == ["indian_food.csv", "notes/more.csv", "notes/readme.txt"]
    again = ingester(s3).fetch_data()

    assert gets(aws) == []
    assert again == first


def test_what_has_changed_comes_alone_and_what_has_gone_goes(s3: S3Place, aws: FaultProxy) -> None:
    made = ingester(s3)
    made.fetch_data()
    gets(aws)
    s3.fill({"food/indian_food.csv": b"another"})
    s3.server.store.delete(s3.bucket, "food/notes/readme.txt")

    assert names(made.fetch_data(), made.directory) == ["indian_food.csv", "notes/more.csv"]
    assert gets(aws) == ["indian_food.csv"]
    assert tree(made.directory) == {"indian_food.csv": b"another", "notes/more.csv": FILES["food/notes/more.csv"]}


def test_what_was_altered_here_comes_again(s3: S3Place, aws: FaultProxy) -> None:
    (first, *_) = ingester(s3).fetch_data()
    first.write_bytes(b"altered")
    gets(aws)
    ingester(s3).fetch_data()

    assert gets(aws) == ["indian_food.csv"]
    assert first.read_bytes() == FILES["food/indian_food.csv"]


def test_a_forced_fetch_downloads_everything_and_replaces_what_is_there(s3: S3Place, aws: FaultProxy) -> None:
    first = ingester(s3).fetch_data()
    before = first[0].stat()
    first[0].write_bytes(b"!" * before.st_size)
    os.utime(first[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk that forgets: nothing shows it
    gets(aws)
    assert ingester(s3).fetch_data() == first
    assert gets(aws) == []

    assert ingester(s3).fetch_data(force_recompute=True) == first
    assert gets(aws) == ["indian_food.csv", "notes/more.csv", "notes/readme.txt"]
    assert first[0].read_bytes() == FILES["food/indian_food.csv"]


def test_a_forced_fetch_that_fails_leaves_what_was_there(
    s3: S3Place, aws: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ingester(s3)
    made.fetch_data()
    monkeypatch.setattr("datafetch.pace._FIRST_WAIT", 0.01)
    aws.faults.add(Fault(status=403), times=None, path="*/food/*.csv")
    with pytest.raises(DataFetchError):
        made.fetch_data(force_recompute=True)

    assert tree(made.directory) == {
        key.removeprefix("food/"): data for key, data in FILES.items() if key.startswith("food/")
    }


def test_another_data_set_under_the_same_id_replaces_the_first(s3: S3Place, aws: FaultProxy) -> None:
    ingester(s3, dataset_id="mine").fetch_data()
    made = ingester(s3, dataset_id="mine", file_pattern="*.txt")

    assert names(made.fetch_data(), made.directory) == ["notes/readme.txt"]
    assert set(tree(made.directory)) == {"notes/readme.txt"}


def test_nothing_that_matches_is_a_file_that_is_not_found(s3: S3Place, aws: FaultProxy) -> None:
    with pytest.raises(FileNotFoundError, match=r"no object matches '\*.parquet' or '\*.arrow'") as raised:
        ingester(s3, file_pattern=["*.parquet", "*.arrow"]).fetch_data()
    assert isinstance(raised.value, SourceNotFoundError)
    with pytest.raises(FileNotFoundError):
        S3Ingester(s3.bucket, "drinks", aws_region_name=REGION).fetch_data()


# --- the manifest ---


def put_manifest(s3: S3Place, *entries: Any, name: str = "manifest") -> None:
    s3.fill({f"food/{name}": json.dumps({"entries": list(entries)}).encode()})


def test_the_manifest_of_mleko_chooses_before_the_pattern_does(s3: S3Place, aws: FaultProxy) -> None:
    put_manifest(
        s3,
        {"url": "food/indian_food.csv", "meta": {"content_length": len(FILES["food/indian_food.csv"])}},
        {"url": f"s3://{s3.bucket}/food/notes/readme.txt"},
    )
    made = ingester(s3)
    assert names(made.fetch_data(), made.directory) == ["indian_food.csv", "notes/readme.txt"]
    assert names(ingester(s3, file_pattern="*.csv").fetch_data(), made.directory) == ["indian_food.csv"]
    everything = ingester(s3, manifest_file_name=None).fetch_data()
    assert names(everything, made.directory) == ["indian_food.csv", "manifest", "notes/more.csv", "notes/readme.txt"]


def test_a_manifest_of_another_name(s3: S3Place, aws: FaultProxy) -> None:
    put_manifest(s3, {"url": "notes/more.csv"}, name="lists/v2.json")
    made = ingester(s3, manifest_file_name="lists/v2.json")

    assert names(made.fetch_data(), made.directory) == ["notes/more.csv"]


def test_a_file_that_the_manifest_lists_has_to_be_there(s3: S3Place, aws: FaultProxy) -> None:
    put_manifest(s3, {"url": "food/indian_food.csv"}, {"url": "food/lost.csv"}, {"url": "food/lost.txt"})

    with pytest.raises(FileNotFoundError, match=r"lists 'lost\.csv', which is not there"):
        ingester(s3, file_pattern="*.csv").fetch_data()


def test_a_file_whose_size_the_manifest_contradicts_is_not_taken(s3: S3Place, aws: FaultProxy) -> None:
    put_manifest(s3, {"url": "food/indian_food.csv", "meta": {"content_length": 1}})
    made = ingester(s3)

    with pytest.raises(IntegrityMismatchError, match="the manifest 'manifest' says 1"):
        made.fetch_data()
    assert tree(made.directory) == {}


def test_a_manifest_that_is_none_is_refused_by_name(s3: S3Place, aws: FaultProxy) -> None:
    s3.fill({"food/manifest": b"indian_food.csv\n"})

    with pytest.raises(InvalidConfigError, match="'manifest' is no manifest"):
        ingester(s3).fetch_data()


# --- times ---


def age(s3: S3Place, key: str, hours: float) -> None:
    """Make an object older: the server keeps objects as files, and their times."""
    path = s3.server.objects / s3.bucket / key
    then = path.stat().st_mtime - hours * 3600
    os.utime(path, (then, then))


def test_files_written_too_far_apart_raise_a_named_error(s3: S3Place, aws: FaultProxy) -> None:
    age(s3, "food/notes/more.csv", 3)
    made = ingester(s3, s3_timestamp_tolerance=2)

    with pytest.raises(TimestampSpreadError, match=r"was written 3:00:\d\d h after .*more.csv.*2:00:00 h are allowed"):
        made.fetch_data()
    assert tree(made.directory) == {}
    assert gets(aws) == []


def test_times_within_the_tolerance_and_of_files_that_do_not_match_count_for_nothing(
    s3: S3Place, aws: FaultProxy
) -> None:
    age(s3, "food/notes/more.csv", 3)

    assert len(ingester(s3, s3_timestamp_tolerance=4).fetch_data()) == 3
    assert len(ingester(s3, s3_timestamp_tolerance=2, file_pattern=["indian*", "*.txt"]).fetch_data()) == 2
    assert len(ingester(s3).fetch_data()) == 3


# --- other providers ---


@pytest.mark.parametrize("place", ["gcs", "azure", "hf", "lakefs"], indirect=True)
def test_any_uri_can_be_a_data_set(place: Place, tmp_path: Path) -> None:
    place.fill({**FILES, "food/manifest": json.dumps(["indian_food.csv", "notes/readme.txt"]).encode()})
    uri, options = uri_and_options(place, "food/")
    made = Ingester(uri, file_pattern="*.csv", dataset_id="food", destination_directory=tmp_path / "sets", **options)

    assert made.fetch_data() == [tmp_path / "sets/food/indian_food.csv"]
    assert made.fetch_data() == [tmp_path / "sets/food/indian_food.csv"]
    assert repr(made) == f"<datafetch.ingest.Ingester {uri!r} in {str(tmp_path / 'sets/food')!r}>"


def test_a_hub_without_times_says_so(hf: HubPlace, tmp_path: Path) -> None:
    hf.fill(FILES)
    uri, options = uri_and_options(hf, "food/")

    with pytest.raises(InvalidConfigError, match="does not say when"):
        Ingester(uri, destination_directory=tmp_path / "sets", timestamp_tolerance=1, **options).fetch_data()
