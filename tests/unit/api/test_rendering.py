"""From a source of the resource to an item of the downloader's config."""

from typing import Any

import pytest

from crd.rows import ROWS
from datafetch_api.config import DownloadConfig, TransferSettings
from datafetch_api.rendering import download_item, transfer_settings
from datafetch_api.resource import Source, Transfer


def _item(credentials_dir: str | None = None, **source: Any) -> dict[str, Any]:
    item = download_item(Source.model_validate({"name": "corpus", **source}), credentials_dir)
    return item.model_dump(mode="json", exclude_defaults=True)


def _selection(**source: Any) -> dict[str, Any]:
    item = _item(**source)
    if item["type"] == "hf":
        names = ("path", "files", "exclude", "match", "target_path")
        return {name: item[name] for name in names if name in item}
    [place] = item["items"]
    selection: dict[str, Any] = place["items"][0]
    return selection


def test_an_s3_source_with_all_fields() -> None:
    s3 = {
        "bucket": "b",
        "prefix": "p/",
        "endpoint": "https://h",
        "region": "r",
        "addressingStyle": "Path",
        "anonymous": True,
    }
    globs = {"include": ["*.json"], "exclude": ["a*"]}
    assert _item("/secrets/minio", s3=s3, path="sub", **globs) == {
        "type": "s3",
        "name": "corpus",
        "credentials_dir": "/secrets/minio",
        "endpoint_url": "https://h",
        "region": "r",
        "addressing_style": "path",
        "anonymous": True,
        "items": [
            {
                "bucket": "b",
                "items": [
                    {"path": "p/", "include": ["*.json"], "exclude": ["a*"], "target_path": "sub/", "match": "prefix"}
                ],
            }
        ],
    }


def test_a_hub_source_with_all_fields() -> None:
    hub = {"repo": "o/n", "repoType": "Dataset", "revision": "v1", "prefix": "data/", "endpoint": "https://mirror"}
    assert _item(huggingFace=hub, include=["*.parquet"]) == {
        "type": "hf",
        "name": "corpus",
        "repo_id": "o/n",
        "repo_type": "dataset",
        "revision": "v1",
        "path": "data/",
        "files": ["*.parquet"],
        "match": "prefix",
        "target_path": "./",
        "endpoint_url": "https://mirror",
    }


def test_an_azure_source_names_account_and_endpoint() -> None:
    item = _item(azureBlob={"container": "c", "account": "acct", "endpoint": "https://e", "key": "k"})
    assert (item["type"], item["account"], item["endpoint_url"]) == ("azure-blob", "acct", "https://e")
    assert item["items"] == [{"container": "c", "items": [{"path": "k", "target_path": "./", "match": "object"}]}]


def test_globs_of_http_files_are_relative_to_the_source_though_its_path_holds_special_characters() -> None:
    files = [{"url": "https://h/f.bin", "path": "a/f.bin"}, {"url": "https://h/g.bin"}]
    item = _item(http={"files": files}, path="x[1]/{y}", include=["a/*"], exclude=["**/g*"])
    assert item["items"] == [
        {"url": "https://h/f.bin", "target_path": "x[1]/{y}/a/f.bin"},
        {"url": "https://h/g.bin", "target_path": "x[1]/{y}/"},
    ]
    assert (item["include"], item["exclude"]) == (["x[[]1]/[{]y}/a/*"], ["x[[]1]/[{]y}/**/g*"])
    item = _item(http={"index": {"url": "https://h/SHA256SUMS", "format": "JsonLines"}}, path="sub", include=["a/*"])
    assert item["index"] == {"url": "https://h/SHA256SUMS", "format": "json-lines", "target_path": "sub/"}
    assert item["include"] == ["a/*"]


def test_a_hub_source_keeps_its_layout_and_formats() -> None:
    item = _item(huggingFace={"repo": "o/n", "layout": "HubCache", "formats": "Safetensors"}, path="hub")
    assert (item["layout"], item["formats"], item["target_path"]) == ("hub-cache", "safetensors", "hub/")


def test_an_http_source_lands_in_its_directory_under_its_own_name() -> None:
    item = _item(http={"url": "https://h/f.bin"}, path="sub")
    assert item["items"] == [{"url": "https://h/f.bin", "target_path": "sub/"}]


_MEMBERS: list[tuple[str, dict[str, Any]]] = [
    ("s3", {"bucket": "b"}),
    ("gcs", {"bucket": "b"}),
    ("azureBlob", {"container": "c"}),
    ("huggingFace", {"repo": "o/n"}),
]


@pytest.mark.parametrize(("member", "given"), _MEMBERS)
def test_a_key_is_one_object_and_anything_else_a_prefix(member: str, given: dict[str, Any]) -> None:
    assert _selection(**{member: {**given, "key": "a/b"}}) == {"path": "a/b", "target_path": "./", "match": "object"}
    assert _selection(**{member: given})["match"] == "prefix"
    assert _selection(**{member: {**given, "prefix": "p"}})["path"] == "p/"


@pytest.mark.parametrize(("scheme", "place"), [("s3", "b"), ("gs", "b"), ("az", "c"), ("hf", "o/n")])
def test_a_uri_without_a_slash_may_be_an_object_unless_globs_say_otherwise(scheme: str, place: str) -> None:
    uri = f"{scheme}://{place}/a"
    assert _selection(uri=uri)["match"] == "auto"
    assert _selection(uri=uri, include=["*"])["match"] == "prefix"
    assert _selection(uri=uri + "/")["match"] == "prefix"


def test_a_uri_and_its_member_are_the_same_item() -> None:
    assert _item(uri="gs://b/p/") == _item(gcs={"bucket": "b", "prefix": "p/"})
    assert _item(uri="hf://datasets/o/n@v1/p/") == _item(
        huggingFace={"repo": "o/n", "repoType": "Dataset", "revision": "v1", "prefix": "p/"}
    )


@pytest.mark.parametrize("row", [row for row in ROWS if row.refusal is None], ids=lambda row: row.name)
def test_every_accepted_source_makes_a_config(row: Any) -> None:
    items = tuple(download_item(Source.model_validate(source)) for source in row.spec["sources"])
    config = DownloadConfig(download_root="/data", download_items=items)
    assert DownloadConfig.model_validate_json(config.model_dump_json(exclude_unset=True)) == config


def test_limits_become_plain_numbers() -> None:
    transfer = Transfer.model_validate({"maxConcurrency": 8, "bandwidthLimit": "200Mi", "stallTimeout": "1m30s"})
    assert transfer_settings(transfer) == TransferSettings(
        max_concurrency=8, bandwidth_limit=209_715_200, stall_timeout=90
    )
    assert transfer_settings(Transfer()) == TransferSettings()


def test_what_is_there_already_is_read_again_only_where_that_is_asked_for() -> None:
    assert transfer_settings(Transfer()).verify == "Identity"
    assert transfer_settings(Transfer.model_validate({"verify": "Full"})).verify == "Full"
