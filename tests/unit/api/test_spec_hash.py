"""The spec hash: the same data asked for in other words has the same hash, for ever."""

import json
from pathlib import Path
from typing import Any

import pytest

from datafetch_api.resource import Source
from datafetch_api.spec_hash import spec_hash

_GOLDEN = Path(__file__).parents[1] / "golden/spec_hashes.json"
_S3 = {"name": "a", "s3": {"bucket": "b", "prefix": "p/"}}
_HUB = {"name": "b", "huggingFace": {"repo": "o/n"}}


def _hash(*sources: dict[str, Any]) -> str:
    return spec_hash([Source.model_validate(source) for source in sources])


@pytest.mark.parametrize("row", json.loads(_GOLDEN.read_text()), ids=lambda row: row["name"])
def test_a_hash_never_changes(row: dict[str, Any]) -> None:
    """Rows are only ever added: a hash that changes downloads everything again at the next upgrade."""
    assert _hash(*row["sources"]) == row["hash"]


def test_the_golden_file_has_every_provider_and_every_field() -> None:
    rows = json.loads(_GOLDEN.read_text())
    seen = {f"{name}" for row in rows for source in row["sources"] for name in source}
    fields = {field.alias or name for name, field in Source.model_fields.items()}
    assert fields <= seen
    for member in ("s3", "gcs", "azureBlob", "huggingFace", "lakeFS", "git", "http"):
        used = {name for row in rows for source in row["sources"] for name in source.get(member, {})}
        model = next(f.annotation for n, f in Source.model_fields.items() if (f.alias or n) == member)
        inner = next(option for option in model.__args__ if hasattr(option, "model_fields"))  # type: ignore[union-attr] # X | None
        assert {field.alias or name for name, field in inner.model_fields.items()} <= used, member


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([_S3, _HUB], [_HUB, _S3]),
        ([_S3], [{**_S3, "secretRef": {"name": "s"}}]),
        ([_S3], [{**_S3, "s3": {**_S3["s3"], "anonymous": True}}]),  # type: ignore[dict-item] # it is a mapping
        ([_S3], [{**_S3, "s3": {**_S3["s3"], "addressingStyle": "Auto"}}]),  # type: ignore[dict-item] # as above
        ([_S3], [{**_S3, "caBundle": {"configMapName": "ca"}}]),
        ([_S3], [{**_S3, "s3": {**_S3["s3"], "requesterPays": True, "profile": "p"}}]),  # type: ignore[dict-item] # as above
        ([_S3], [{**_S3, "unpack": False}]),
        ([_HUB], [{"name": "b", "huggingFace": {"repo": "o/n", "layout": "Files", "formats": "All"}}]),
        ([_S3], [{**_S3, "include": [], "exclude": []}]),
        ([_HUB], [{"name": "b", "huggingFace": {"repo": "o/n", "revision": "main", "repoType": "Model"}}]),
        ([_HUB], [{"huggingFace": {"repo": "o/n"}, "name": "b"}]),
    ],
    ids=[
        "order",
        "secret",
        "anonymous",
        "default style",
        "ca",
        "who pays",
        "no unpacking",
        "default layout",
        "empty globs",
        "default revision",
        "order of keys",
    ],
)
def test_the_same_data_in_other_words_has_the_same_hash(one: list[Any], other: list[Any]) -> None:
    assert _hash(*one) == _hash(*other)


@pytest.mark.parametrize(
    "other",
    [
        {**_S3, "name": "c"},
        {**_S3, "path": "x"},
        {**_S3, "include": ["*.json"]},
        {**_S3, "exclude": ["*.json"]},
        {**_S3, "s3": {"bucket": "c", "prefix": "p/"}},
        {**_S3, "s3": {"bucket": "b", "prefix": "q/"}},
        {**_S3, "s3": {"bucket": "b", "key": "p/"}},
        {**_S3, "s3": {"bucket": "b", "prefix": "p/", "endpoint": "https://h"}},
        {"name": "a", "gcs": {"bucket": "b", "prefix": "p/"}},
        {"name": "a", "uri": "s3://b/p/"},
    ],
    ids=json.dumps,
)
def test_other_data_has_another_hash(other: dict[str, Any]) -> None:
    assert _hash(_S3) != _hash(other)
