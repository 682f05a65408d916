"""The Python API: `datafetch.fetch("hf://ORG/NAME", "models/name")`.

The same engine as the command line; what `datafetch get` does is `config_for` and `run_fetch`.
"""

import os
import threading
from collections.abc import Sequence

from datafetch.engine import FetchObserver, FetchOutcome, run_fetch
from datafetch.errors import InvalidConfigError
from datafetch.progress import ProgressTracker
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.rendering import download_item
from datafetch_api.resource import Source
from datafetch_api.uris import parse_uri, redact_uri


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
    observer: FetchObserver | None = None,
    cancel: threading.Event | None = None,
) -> FetchOutcome:
    """Bring what a URI names into a directory, and return what is there then.

    Blocks until everything is in place; a second call fetches only what is missing or has changed. `include` and
    `exclude` are globs relative to the URI, `max_workers` is the most requests at a time. Setting `cancel` from another
    thread ends it with InterruptedByRequestError. Raises DataFetchError.
    """
    config = config_for(
        uri,
        os.fspath(directory),
        include=include,
        exclude=exclude,
        endpoint_url=endpoint_url,
        region=region,
        anonymous=anonymous,
    )
    return run_fetch(
        config,
        observer=observer or ProgressTracker(),
        cancel=cancel or threading.Event(),
        workers=max_workers,
    )


def config_for(
    uri: str,
    directory: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    endpoint_url: str | None = None,
    region: str | None = None,
    anonymous: bool = False,
) -> DownloadConfig:
    """Return the config that brings what a URI names into a directory.

    Raises InvalidConfigError where the URI names no source, or an option means nothing to its provider.
    """
    try:
        location = parse_uri(uri)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from None
    if location.scheme == "http" and (include or exclude):
        raise InvalidConfigError(f"{redact_uri(uri)!r} is one file: include and exclude cannot choose from it")
    # Not validated: what the API server accepts as a source's name or URI is no limit here.
    source = Source.model_construct(name=redact_uri(uri), uri=uri, include=list(include), exclude=list(exclude))
    item = download_item(source)
    settings = {"endpoint_url": endpoint_url, "region": region, "anonymous": anonymous or None}
    for name, value in settings.items():
        if value is not None:
            item = _with_setting(item, name, value, location.scheme)
    return DownloadConfig(download_root=directory or ".", download_items=(item,))


def _with_setting(item: DownloadItem, name: str, value: str | bool, scheme: str) -> DownloadItem:
    if name not in type(item).model_fields:
        raise InvalidConfigError(f"{name} means nothing to a {scheme}:// source; leave it out")
    return type(item).model_validate(item.model_dump() | {name: value})


__all__ = ["FetchOutcome", "config_for", "fetch"]
