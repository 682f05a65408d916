"""The models of the downloader's config: what a selection means, and what belongs together."""

from typing import Any

import pytest
from pydantic import ValidationError

from datafetch_api.config import DownloadConfig, HuggingFaceItem, Selection


@pytest.mark.parametrize(
    ("fields", "match", "prefix"),
    [
        ({}, "prefix", ""),
        ({"path": "a/b"}, "object", "a/b/"),
        ({"path": "a/b/"}, "prefix", "a/b/"),
        ({"path": "./a"}, "object", "a/"),
        ({"path": "a", "glob": "**/*.json"}, "prefix", "a/"),
        ({"path": "a", "include": ["*"]}, "prefix", "a/"),
        ({"path": "a", "exclude": ["*"]}, "prefix", "a/"),
        ({"path": "a", "match": "auto"}, "auto", "a/"),
    ],
)
def test_globs_and_slashes_say_what_a_path_is(fields: dict[str, Any], match: str, prefix: str) -> None:
    selection = Selection.model_validate(fields)
    assert (selection.effective_match, selection.prefix) == (match, prefix)


def test_glob_and_include_are_one_set_of_patterns() -> None:
    selection = Selection.model_validate({"glob": "*.a", "include": ["*.b"]})
    assert selection.patterns == ("*.a", "*.b")


def test_a_hub_repository_lands_under_its_own_name() -> None:
    item = HuggingFaceItem(type="hf", name="weights", repo_id="o/n")
    assert item.selection.target_path == "o/n"
    assert item.selection.effective_match == "prefix"


_S3 = {"type": "s3", "name": "a", "items": [{"bucket": "b", "items": [{"path": "k"}]}]}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"download_items": [_S3]}, "give exactly one of download_root and managed"),
        ({"download_root": "d", "download_items": []}, "at least 1 item"),
        ({"download_root": "d", "download_items": [_S3, _S3]}, "two download_items are named 'a'"),
        ({"download_root": "d", "download_items": [{**_S3, "type": "ftp"}]}, "does not match any of the expected tags"),
        ({"download_root": "d", "download_items": [{**_S3, "globs": []}]}, "Extra inputs are not permitted"),
        ({"download_root": "d", "download_items": [{**_S3, "access_key_id_file": "f"}]}, "belong together"),
        (
            {"download_root": "d", "download_items": [{**_S3, "endpoint_url": "u", "endpoint_url_file": "f"}]},
            "give endpoint_url or endpoint_url_file, not both",
        ),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        DownloadConfig.model_validate(config)
    assert sentence in str(refused.value)
