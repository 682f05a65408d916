"""The Python API: `datafetch.fetch("hf://ORG/NAME", "models/name").run()`, `datafetch.source("s3://BUCKET/PREFIX/")`.

Here is what a URI and its options mean, for Python and for `datafetch get` alike. The fetch as an object is `task`'s,
a source as an object `remote`'s; both use the same engine and the same sources as the command line.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datafetch.errors import InvalidConfigError
from datafetch_api.config import DownloadConfig, DownloadItem, HttpItem, Selection, TransferSettings
from datafetch_api.items import RepositoryItem
from datafetch_api.rendering import download_item
from datafetch_api.resource import Source
from datafetch_api.uris import parse_uri, redact_uri

if TYPE_CHECKING:
    from datafetch.remote import RemoteSource
    from datafetch.task import FetchTask

_BY_THE_URI = frozenset({"type", "name", "items", "index", "path", "match", "files", "include", "exclude"})
"""Keys of an item that the URI and the globs say."""
_VERSIONS = frozenset({"version_id", "generation", "snapshot"})
"""Keys of a selection that pin its one object."""


def fetch(
    uri: str,
    directory: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    endpoint_url: str | None = None,
    region: str | None = None,
    anonymous: bool = False,
    max_workers: int | None = None,
    **options: Any,  # noqa: ANN401 - the keys of a config
) -> "FetchTask":
    """Return the task that brings what a URI names into a directory; nothing happens before it is started.

    `run()` blocks, `start()` does not, `await` does neither. A second fetch brings only what is missing or has changed.
    `include` and `exclude` are globs relative to the URI, `max_workers` is the most requests at a time. `options` are
    keys of a download item (`profile`, `credentials_dir`, `manifest`) or of `transfer` (`verify`, `bandwidth_limit`),
    as in a config file.

    Raises InvalidConfigError where the URI names no source, or an option means nothing to its provider.
    """
    from datafetch.task import FetchTask

    transfer = {name: options.pop(name) for name in list(options) if name in TransferSettings.model_fields}
    access = {"endpoint_url": endpoint_url, "region": region, "anonymous": anonymous, **options}
    config = config_for(uri, os.fspath(directory), include=include, exclude=exclude, **access)
    return FetchTask(with_transfer(config, transfer), redact_uri(uri), max_workers=max_workers)


def source(
    uri: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    endpoint_url: str | None = None,
    region: str | None = None,
    anonymous: bool = False,
    stall_timeout: float = 60.0,
    **options: Any,  # noqa: ANN401 - the keys of a config
) -> "RemoteSource":
    """Return what a URI names, to list, open and download it. Nothing is asked for before it is used.

    The arguments are those of `fetch`; `stall_timeout` is the seconds that a connection may stay silent.
    Raises InvalidConfigError where the URI names no source, or an option means nothing to its provider.
    """
    from datafetch.remote import RemoteSource

    access = {"endpoint_url": endpoint_url, "region": region, "anonymous": anonymous, **options}
    given = {name: value for name, value in access.items() if value not in (None, False)}
    return RemoteSource(uri, include=include, exclude=exclude, stall_timeout=stall_timeout, options=given)


def config_for(
    uri: str,
    directory: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **options: Any,  # noqa: ANN401 - the keys of an item
) -> DownloadConfig:
    """Return the config that brings what a URI names into a directory. Raises as `item_for`."""
    item = item_for(uri, include=include, exclude=exclude, **options)
    return DownloadConfig(download_root=directory or ".", download_items=(item,))


def item_for(
    uri: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **options: Any,  # noqa: ANN401 - the keys of an item
) -> DownloadItem:
    """Return the download item of a URI; `options` are keys of it, and None stands for what is not said.

    Raises InvalidConfigError where the URI names no source, or an option means nothing to its provider.
    """
    try:
        location = parse_uri(uri)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from None
    if location.scheme == "http" and (include or exclude):
        raise InvalidConfigError(f"{redact_uri(uri)!r} is one file: include and exclude cannot choose from it")
    # Not validated: what the API server accepts as a source's name or URI is no limit here.
    described = Source.model_construct(name=redact_uri(uri), uri=uri, include=list(include), exclude=list(exclude))
    item = download_item(described)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if value is not False and not _is_known(item, name):
            raise InvalidConfigError(f"{name} means nothing to a {location.scheme}:// source; leave it out")
    known = {name: value for name, value in given.items() if _is_known(item, name)}
    return _with_settings(item, known) if known else item


def with_transfer(config: DownloadConfig, settings: dict[str, Any]) -> DownloadConfig:
    """Return a config with these settings of `transfer`. Raises InvalidConfigError where they are none."""
    try:
        transfer = TransferSettings.model_validate(config.transfer.model_dump() | settings)
    except ValidationError as error:
        raise _explained(error) from None
    return config.model_copy(update={"transfer": transfer})


def selection_of(item: DownloadItem) -> Selection | None:
    """Return the one selection of an item made from a URI; None where the URI names a file of its own."""
    if isinstance(item, HttpItem):
        return None
    return item.selection if isinstance(item, RepositoryItem) else item.items[0].items[0]


def _is_known(item: DownloadItem, name: str) -> bool:
    if name in _VERSIONS:
        return item.type in {"version_id": ("s3", "azure-blob"), "generation": ("gcs",)}.get(name, ("azure-blob",))
    return name in type(item).model_fields and name not in _BY_THE_URI


def _with_settings(item: DownloadItem, settings: dict[str, Any]) -> DownloadItem:
    dump = item.model_dump(mode="json")
    versions = {name: settings[name] for name in _VERSIONS & set(settings)}
    if versions:
        (selection,) = dump["items"][0]["items"]
        selection |= versions | ({"match": "object"} if selection["match"] == "auto" else {})
    dump |= {name: value for name, value in settings.items() if name not in _VERSIONS}
    if dump.get("unpack") is True:
        dump["unpack"] = {}
    try:
        return type(item).model_validate(dump)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> InvalidConfigError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    what = str(first["msg"]).removeprefix("Value error, ")
    return InvalidConfigError(f"{place}: {what}" if place else what)


__all__ = ["config_for", "fetch", "item_for", "source"]
