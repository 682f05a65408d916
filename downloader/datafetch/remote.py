"""A source as an object: what it holds, its objects as files, and all of it on the disk.

    with datafetch.source("s3://bucket/corpus/") as corpus:
        corpus.stat("train/0.parquet").size
        with corpus.open("train/0.parquet") as file:
            table = pyarrow.parquet.read_table(file)

Providers are `sources`', bytes `reading`'s, fetches `task`'s. Safe to use from several threads, and after a fork; it
can be pickled, and is opened anew where it arrives.
"""

import io
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from datafetch.api import config_for, item_for, selection_of, with_transfer
from datafetch.engine import FetchOutcome
from datafetch.errors import DataFetchError, ObjectNotFoundError, SourceNotFoundError
from datafetch.globs import Globs
from datafetch.reading import BUFFER_BYTES, READ_AHEAD_BYTES, ObjectReader
from datafetch.sources import Entry, Source, open_source
from datafetch.sources.selection import landing
from datafetch.task import FetchTask
from datafetch_api.config import AzureBlobItem, DownloadItem, GCSItem, S3Item
from datafetch_api.uris import redact_uri


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One object of a source, as it was when it was listed."""

    path: str
    """Relative to the source: where a download puts it."""
    size: int | None
    """Bytes; None where its server does not say before the transfer."""
    identity: str
    """What names exactly this content at the source: an ETag, a generation, an object id. Empty where the server gives
    nothing to hold on to."""
    checksum: str | None
    """`algorithm:hex` of its content, where the listing says so."""
    modified: datetime | None
    """When it was last written, in UTC, where the listing says so."""
    entry: Entry = field(repr=False, compare=False)
    """The object in the source's own terms."""

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return the object that an entry of a listing stands for."""
        checksum = None if entry.checksum is None else f"{entry.checksum.algorithm}:{entry.checksum.value}"
        modified = None if entry.modified is None else entry.modified.astimezone(UTC)
        return cls(entry.path.removeprefix("./"), entry.size, entry.identity, checksum, modified, entry)


class RemoteSource:
    """What a URI names. Made by `datafetch.source`."""

    def __init__(
        self,
        uri: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        stall_timeout: float = 60.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._uri = uri
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._stall_timeout = stall_timeout
        self._options = dict(options or {})
        self._item = item_for(uri, include=include, exclude=exclude, **self._options)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._opened: _Opened | None = None

    @property
    def uri(self) -> str:
        """The URI, without a query: that may hold a token."""
        return redact_uri(self._uri)

    def list(self) -> Iterator[RemoteObject]:
        """Yield every object, asked for page by page, in no particular order.

        Raises SourceNotFoundError where there is none, CredentialsRejectedError, SourceUnavailableError.
        """
        for entry in self._open().source.list():
            yield RemoteObject.of(entry)

    def stat(self, path: str) -> RemoteObject:
        """Return one object. Raises ObjectNotFoundError, which is a FileNotFoundError too, and what `list` raises."""
        opened = self._open()
        entry = opened.find(path.removeprefix("./"))
        if entry is None:
            raise ObjectNotFoundError(f"{self.uri!r} has no object {path!r}; list() says what there is", key=path)
        return RemoteObject.of(entry)

    def open(
        self, path: str | RemoteObject, mode: Literal["rb"] = "rb", *, read_ahead: int = READ_AHEAD_BYTES
    ) -> io.BufferedReader:
        """Return an object as a file: seekable where its size is known, read in ranges as they are wanted.

        The file is bound to the object as it is now (or, for one that was listed, as it was then): SourceChangedError
        ends a read once it is another one. `read_ahead` is the most bytes that are asked for beyond those that are
        wanted, once reads follow each other. A file is for one thread; open it again for another.
        """
        if mode != "rb":
            raise ValueError(
                f'mode is {mode!r}; a source is read as bytes: "rb", and io.TextIOWrapper makes text of it'
            )
        found = path if isinstance(path, RemoteObject) else self.stat(path)
        reader = _OwningReader(self, self._open().source, found.entry, read_ahead, self._closing)
        return io.BufferedReader(reader, BUFFER_BYTES)

    def download(
        self,
        directory: str | os.PathLike[str],
        *paths: str,
        progress: bool = False,
        max_workers: int | None = None,
        **transfer: Any,  # noqa: ANN401 - the keys of a config
    ) -> FetchOutcome:
        """Bring everything, or only these paths, into a directory: whole or not at all, verified, resumable.

        The same as `datafetch.fetch(...).run()`. `transfer` are keys of a config's `transfer` (`verify`,
        `bandwidth_limit`). Raises ObjectNotFoundError where a path is not there, and what a fetch ends with.
        """
        include, exclude = self._include, self._exclude
        if paths:
            wanted = [self.stat(path).path for path in paths]
            if self._globs is not None:
                include, exclude = tuple(_spelled_out(path) for path in wanted), ()
        config = config_for(self._uri, os.fspath(directory), include=include, exclude=exclude, **self._options)
        transfer.setdefault("stall_timeout", max(1, int(self._stall_timeout)))
        task = FetchTask(with_transfer(config, transfer), self.uri, max_workers=max_workers)
        return task.run(progress=progress)

    def close(self) -> None:
        """Release connections; reads of open files fail from now on."""
        self._closing.set()
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closing.is_set()

    @property
    def _globs(self) -> Globs | None:
        selection = selection_of(self._item)
        return None if selection is None else Globs(selection.patterns, selection.exclude)

    def _open(self) -> "_Opened":
        """Return the provider's source, opened at first use, and anew in a process that was forked."""
        if self.closed:
            raise ValueError("the source is closed")
        with self._lock:
            if self._opened is None or self._opened.process != os.getpid():
                self._opened = _Opened(self._item, self._stall_timeout)
                weakref.finalize(self, self._opened.close).atexit = False
            return self._opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> "tuple[Callable[..., RemoteSource], tuple[Any, ...]]":
        return _again, (self._uri, self._include, self._exclude, self._stall_timeout, self._options)

    def __repr__(self) -> str:
        said = [f"{name} {self._options[name]}" for name in ("region", "profile") if name in self._options]
        if endpoint := self._options.get("endpoint_url"):
            said.insert(0, f"at {redact_uri(str(endpoint))}")
        said += ["anonymous"] if self._options.get("anonymous") else []
        said += [f"{name} {list_of!r}" for name, list_of in self._chosen()]
        said += ["closed"] if self.closed else []
        return f"<datafetch.RemoteSource {self.uri!r}{''.join(', ' + one for one in said)}>"

    def _chosen(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from ((name, globs) for name, globs in (("include", self._include), ("exclude", self._exclude)) if globs)


class _OwningReader(ObjectReader):
    """A reader that keeps its source open as long as somebody has it."""

    def __init__(
        self, owner: RemoteSource, source: Source, entry: Entry, read_ahead: int, closing: threading.Event
    ) -> None:
        super().__init__(source, entry, read_ahead=read_ahead, closing=closing)
        self._owner = owner


class _Opened:
    """The provider's source of one process, and how its objects are found by their paths."""

    def __init__(self, item: DownloadItem, stall_timeout: float) -> None:
        self.process = os.getpid()
        self.source = open_source(item, stall_timeout)
        self._item = item
        self._lock = threading.Lock()
        self._listed: dict[str, Entry] | None = None

    def find(self, path: str) -> Entry | None:
        """Return the object at a path, None where there is none: one request at an object store, else a listing."""
        candidates = _keys(self._item, path)
        if candidates is None:
            return self._find_listed(path)
        for key in candidates:
            try:
                return self.source.look_up(Entry(key, path, None, ""))
            except SourceNotFoundError as error:
                if error.key != key:
                    raise _missing(error).at(self.source.name) from None
            except DataFetchError as error:
                raise error.at(self.source.name) from error.__cause__
        return None

    def _find_listed(self, path: str) -> Entry | None:
        """Return the object from a listing; that of a commit is asked for once."""
        with self._lock:
            listed = self._listed
            if listed is None:
                listed = {entry.path.removeprefix("./"): entry for entry in self.source.list()}
                self._listed = listed if self.source.resolved_revision else None
        return listed.get(path)

    def close(self) -> None:
        """Release connections, unless they are those of the process that this one was forked from."""
        if self.process == os.getpid():
            self.source.close()


def _keys(item: DownloadItem, path: str) -> list[str] | None:
    """Return the keys that an object of a path may have; None where only a listing tells."""
    if not isinstance(item, S3Item | GCSItem | AzureBlobItem) or item.manifest is not None:
        return None
    container = item.items[0].container if isinstance(item, AzureBlobItem) else item.items[0].bucket
    selection = item.items[0].items[0]
    match = selection.effective_match
    if match == "object":  # perhaps one version of it, which the listing knows
        return None
    keys = []
    if match == "auto" and path == landing(selection, selection.path):
        keys.append(f"{container}/{selection.path}")
    if path and not path.endswith("/") and Globs(selection.patterns, selection.exclude).takes(path):
        keys.append(f"{container}/{selection.prefix}{path}")
    return keys


def _missing(error: SourceNotFoundError) -> ObjectNotFoundError:
    return ObjectNotFoundError(error.message, source=error.source, key=error.key)


def _spelled_out(path: str) -> str:
    """Return the glob that matches exactly this path."""
    return "".join(f"[{character}]" if character in "*?[{" else character for character in path)


def _again(
    uri: str, include: Sequence[str], exclude: Sequence[str], stall_timeout: float, options: Mapping[str, Any]
) -> RemoteSource:
    return RemoteSource(uri, include=include, exclude=exclude, stall_timeout=stall_timeout, options=options)
