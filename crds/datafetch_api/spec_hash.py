"""The hash that says whether two specs ask for the same data. Pure, and never to change its answers.

An upgrade of the operator must not download again what is there: `tests/unit/golden/spec_hashes.json` holds specs and
their hashes and only ever grows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the models cost every run of a config some 80 ms, for two annotations
    from datafetch_api.config import DownloadItem
    from datafetch_api.resource import Source

VERSION = "v1"
_CREDENTIALS = {"secretRef", "anonymous", "profile", "caBundle", "requesterPays", "userProject"}
_ITEM_CREDENTIALS = {
    "credentials_dir",
    "application_credentials_path",
    "anonymous",
    "profile",
    "requester_pays",
    "user_project",
}


def spec_hash(sources: Sequence[Source]) -> str:
    """Return `v1:` and the sha256 of the canonical JSON of the sources, as hex.

    Credentials, unset fields and fields that have their default value are left out; sources are a map by name, so their
    order does not count.
    """
    content = sorted((_content(source) for source in sources), key=lambda source: str(source["name"]))
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{VERSION}:{hashlib.sha256(text.encode()).hexdigest()}"


def request_hash(items: Sequence[DownloadItem]) -> str:
    """Return the same for the items of a config file that no resource stands behind: what is asked for, not how."""
    content = [item.model_dump(mode="json", exclude_defaults=True, exclude=_credentials(item)) for item in items]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{VERSION}:{hashlib.sha256(text.encode()).hexdigest()}"


def _credentials(item: DownloadItem) -> set[str]:
    files = {name for name in type(item).model_fields if name.endswith("_file") and name != "endpoint_url_file"}
    return files | _ITEM_CREDENTIALS


def _content(source: Source) -> dict[str, object]:
    dump = source.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {key: _without_credentials(value) for key, value in dump.items() if key not in _CREDENTIALS}


def _without_credentials(value: object) -> object:
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if key not in _CREDENTIALS}
    return value
