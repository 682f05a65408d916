"""Which of what a provider lists belongs to a source: what its manifest lists, written within a certain time.

It stands between the listing and the plan, for `manifest` and `max_timestamp_spread` of a config and for the ingesters
of the Python API. A manifest is a JSON file beside the objects that it lists:

    {"entries": [{"url": "s3://bucket/prefix/a.csv", "meta": {"content_length": 17}}]}     mleko, Redshift's UNLOAD
    {"files": ["a.csv", {"path": "b/c.csv", "size": 17}]}
    ["a.csv", "b/c.csv"]

A name in it is a path relative to the source's root, a whole key, or a URL of one. What the globs of the source leave
out is left out; what they take and the manifest lists has to be there, with the size that the manifest says.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from datafetch.checksums import new_hasher
from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
    TimestampSpreadError,
)
from datafetch.globs import Globs
from datafetch.reading import read_object
from datafetch.sources import ByteRange, Entry, HttpAccess, RangeReader, Source, open_provider
from datafetch.sources.hub_cache import is_ref
from datafetch.sources.weights import is_left_out
from datafetch_api.config import AzureBlobItem, DownloadItem, HttpItem, HuggingFaceItem, Selection
from datafetch_api.items import RepositoryItem

_MOST_BYTES = 64 << 20
"""Of a manifest: it is held in memory."""


def _take_all(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Membership:
    """What an object has to fulfil to belong to a source, and its objects together."""

    manifest: str | None = None
    """Path of the manifest, relative to the source's root."""
    manifest_may_lack: bool = False
    """Whether everything belongs where there is no manifest."""
    max_spread: float | None = None
    """Most seconds between the oldest and the newest object."""
    takes: Callable[[str], bool] = _take_all
    """Says whether an object is wanted, by its path."""
    wanted: str = ""
    """What `takes` takes, for people."""

    @classmethod
    def of(cls, item: DownloadItem) -> "Membership":
        """Return what a download item asks for."""
        return cls(manifest=item.manifest, max_spread=item.max_timestamp_spread)


class MembershipSource:
    """A source without what does not belong to it. `stall_timeout` is the seconds a connection may stay silent."""

    def __init__(self, item: DownloadItem, membership: Membership, stall_timeout: float) -> None:
        self._item = item
        self._membership = membership
        self._stall_timeout = stall_timeout
        self._root = _root(item) if membership.manifest is not None else None
        self._source = open_provider(item, stall_timeout)

    @property
    def name(self) -> str:
        """The item's name."""
        return self._source.name

    @property
    def resolved_revision(self) -> str | None:
        """The provider's."""
        return self._source.resolved_revision

    @property
    def verifies(self) -> str:
        """The provider's."""
        return self._source.verifies

    @property
    def http(self) -> HttpAccess | None:
        """The provider's."""
        return self._source.http

    def list(self) -> Iterator[Entry]:
        """Yield the objects that belong to the source.

        Raises, beside what any source raises, SourceNotFoundError where the manifest or an object that it lists is
        missing, IntegrityMismatchError where its size is another one, TimestampSpreadError.
        """
        try:
            manifest = self._read_manifest()
            spread = None if self._membership.max_spread is None else _Spread(self._membership.max_spread)
            empty = True
            for entry in self._source.list():
                if is_ref(entry):  # the layout's own, no file of the repository
                    yield entry
                    continue
                path = entry.path.removeprefix("./")
                wanted = self._membership.takes(path) and (manifest is None or manifest.lists(entry))
                # What says which commit a cache of the Hub holds is no object of the repository.
                if not wanted and not is_ref(entry):
                    continue
                if spread is not None:
                    spread.note(entry)
                empty = False
                yield entry
            if manifest is not None:
                manifest.check_complete(self._source.resolved_revision, self._wants)
            if empty:
                raise self._nothing(manifest)
        except DataFetchError as error:
            raise error.at(self.name) from error.__cause__

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        """Ask the provider for a range."""
        return self._source.open(entry, byte_range)

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now."""
        return self._source.look_up(entry)

    def close(self) -> None:
        """Release connections."""
        self._source.close()

    def _wants(self, path: str) -> bool:
        """Say whether an object is wanted that the provider, for all its globs know, could have listed."""
        if isinstance(self._item, HuggingFaceItem) and self._item.formats == "safetensors" and is_left_out(path):
            return False
        return self._membership.takes(path)

    def _nothing(self, manifest: "_Manifest | None") -> SourceNotFoundError:
        said = [] if manifest is None else [f"is listed by the manifest {self._membership.manifest!r}"]
        said += [f"matches {self._membership.wanted}"] if self._membership.wanted else []
        return SourceNotFoundError(f"no object {' and '.join(said)}; check the prefix, and what its objects have to be")

    def _read_manifest(self) -> "_Manifest | None":
        """Return the manifest, found and read as an object of the provider."""
        path = self._membership.manifest
        if path is None or self._root is None:
            return None
        source = open_provider(self._root.item_of(self._item, path), self._stall_timeout)
        try:
            (entry,) = source.list()
            content = _read_verified(source, entry)
            return _Manifest(self._root, path, parse_manifest(content, path), source.resolved_revision)
        except SourceNotFoundError as error:
            if self._membership.manifest_may_lack:
                return None
            raise SourceNotFoundError(
                f"there is no manifest {path!r} at the source's root ({error.message}); check its path, or leave out "
                "manifest",
                key=path,
            ) from None
        finally:
            source.close()


class _Spread:
    """The oldest and the newest object so far."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._oldest: tuple[datetime, str] | None = None
        self._newest: tuple[datetime, str] | None = None

    def note(self, entry: Entry) -> None:
        """Take in an object. Raises TimestampSpreadError where it lies too far from another one."""
        if entry.modified is None:
            raise InvalidConfigError(
                f"the source does not say when {entry.key!r} was written; leave out max_timestamp_spread here"
            )
        dated = entry.modified, entry.key
        self._oldest = min(self._oldest or dated, dated)
        self._newest = max(self._newest or dated, dated)
        apart = self._newest[0] - self._oldest[0]
        if apart > timedelta(seconds=self._most):
            raise TimestampSpreadError(
                f"{self._newest[1]!r} was written {timedelta(seconds=int(apart.total_seconds()))} h after "
                f"{self._oldest[1]!r}, and at most {timedelta(seconds=self._most)} h are allowed: the files may not "
                "belong together; wait until all are written, or allow more",
                key=self._newest[1],
            )


# --- the manifest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Root:
    """What names in a manifest are relative to, and the globs of the source."""

    container: str
    """Before each key, as entries name them: `BUCKET/`; empty for a repository."""
    selection: Selection

    def item_of(self, item: DownloadItem, path: str) -> DownloadItem:
        """Return the item of one file below the root."""
        one = {"path": self.selection.prefix + path, "match": "object", "target_path": path, "exclude": ()}
        plain: dict[str, Any] = {"manifest": None, "max_timestamp_spread": None, "unpack": None}
        settings = item.model_dump() | plain
        if "files" in settings:
            plain |= {"files": None, **({"layout": "files", "formats": "all"} if item.type == "hf" else {})}
            return type(item).model_validate(settings | plain | one)
        (group,) = settings["items"]
        return type(item).model_validate(settings | {"items": [{**group, "items": [one]}]})

    def relative(self, key: str) -> str:
        """Return the path of an entry's key below the root."""
        return key.removeprefix(self.container).removeprefix(self.selection.prefix)


def _root(item: DownloadItem) -> _Root:
    """Return the root of an item. Raises InvalidConfigError where it has none, or several."""
    if isinstance(item, HttpItem):
        raise InvalidConfigError(
            "manifest means nothing to URLs; give an index of them in its place (index.url)", source=item.name
        )
    if isinstance(item, RepositoryItem):
        return _Root("", item.selection)
    if len(item.items) != 1 or len(item.items[0].items) != 1:
        raise InvalidConfigError("manifest is of one selection; make a download item of each (items)", source=item.name)
    container = item.items[0].container if isinstance(item, AzureBlobItem) else item.items[0].bucket
    return _Root(container + "/", item.items[0].items[0])


class _Manifest:
    """What a manifest lists, and what of it has been seen."""

    def __init__(self, root: _Root, path: str, sizes: dict[str, int | None], revision: str | None) -> None:
        self._root = root
        self._path = path
        self._revision = revision
        self._globs = Globs(root.selection.patterns, root.selection.exclude)
        self._waiting = {_key_in(root, name): size for name, size in sizes.items()}
        self._seen: set[str] = set()

    def lists(self, entry: Entry) -> bool:
        """Say whether the manifest lists an object. Raises IntegrityMismatchError where its size is another one."""
        relative = self._root.relative(entry.key)
        if relative in self._seen:
            return True
        if relative not in self._waiting:
            return False
        size = self._waiting.pop(relative)
        self._seen.add(relative)
        if size is not None and entry.size is not None and size != entry.size:
            raise IntegrityMismatchError(
                f"{entry.key!r} has {entry.size} bytes, and the manifest {self._path!r} says {size}; one of them is "
                "not the newest: wait until both are written, or write the manifest again",
                key=entry.key,
            )
        return True

    def check_complete(self, revision: str | None, wants: Callable[[str], bool]) -> None:
        """Raise where an object that belongs to the source was not listed, or another revision was."""
        if revision != self._revision:
            raise SourceChangedError(f"the branch moved from {self._revision} to {revision} meanwhile; fetch again")
        lacking = sorted(name for name in self._waiting if self._globs.takes(name) and wants(name))
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise SourceNotFoundError(
                f"the manifest {self._path!r} lists {lacking[0]!r}{more}, which is not there; upload it, or write the "
                "manifest again",
                key=lacking[0],
            )


def _key_in(root: _Root, name: str) -> str:
    """Return the path below the root that a name in a manifest stands for."""
    url = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://([^/]*)/(.*)", name, re.DOTALL)
    key = name.lstrip("/")
    if url is not None:
        container = root.container.rstrip("/")
        if container and url[1] != container:
            raise InvalidConfigError(
                f"the manifest lists {name!r}, which is in another bucket than {container!r}; give that one a source "
                "of its own"
            )
        key = url[2]
    return key.removeprefix(root.selection.prefix).removeprefix("./")


def _read_verified(source: Source, entry: Entry) -> bytes:
    if (entry.size or 0) > _MOST_BYTES:
        raise InvalidConfigError(
            f"the manifest {entry.key!r} has {entry.size} bytes; one of at most {_MOST_BYTES} is read", key=entry.key
        )
    content, promised = read_object(source, entry)
    hasher = None if promised is None else new_hasher(promised.algorithm, len(content))
    if promised is None or hasher is None:
        return content
    hasher.update(memoryview(content))
    if hasher.hexdigest() != promised.value:
        raise IntegrityMismatchError(
            f"the manifest {entry.key!r} did not arrive as its source promised; fetch again", key=entry.key
        )
    return content


def parse_manifest(content: bytes, path: str) -> dict[str, int | None]:
    """Return the names that a manifest lists, each with its size where it says one.

    Raises InvalidConfigError where it is none.
    """
    try:
        document = json.loads(content)
        return dict(_names(document))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidConfigError(
            f'{path!r} is no manifest; write {{"entries": [{{"url": "FILE"}}]}}, {{"files": ["FILE"]}} or ["FILE"]',
            key=path,
        ) from None


def _names(document: Any) -> Iterator[tuple[str, int | None]]:  # noqa: ANN401 - what JSON holds
    """Yield names and sizes. Raises KeyError, TypeError, ValueError or AttributeError where something else is there."""
    listed = document
    if isinstance(document, dict):
        listed = document["entries"] if "entries" in document else document["files"]
    if not isinstance(listed, list):
        raise TypeError(listed)
    for one in listed:
        if isinstance(one, str):
            yield one, None
            continue
        name = one.get("url") or one.get("path") or one.get("key") or one.get("name")
        size = one.get("size", (one.get("meta") or {}).get("content_length"))
        if not isinstance(name, str) or not (size is None or type(size) is int):
            raise TypeError(one)
        yield name, size
