"""A source that serves objects from memory, with the faults that a test asks for. Real ones have component tests."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from datafetch.engine import FetchOutcome, run_fetch
from datafetch.errors import SourceChangedError
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, Source
from datafetch_api.config import DownloadConfig, DownloadItem
from datafetch_api.report import SourceSummary, Stage


@dataclass
class MemoryObject:
    """One object; `promised` is what the listing says its content's checksum is."""

    content: bytes
    identity: str
    promised: str

    @classmethod
    def of(cls, content: bytes) -> "MemoryObject":
        crc = f"{zlib.crc32(content):08x}"
        return cls(content, f'etag:"{crc}-{len(content)}"', crc)


@dataclass
class MemoryBucket:
    """What a test puts into the source, and what it sees of the requests."""

    objects: dict[str, MemoryObject]
    hide_sizes: bool = False
    checksums_hold: bool = True
    listing_pause: float = 0.0
    """Seconds between the last object and the end of the listing."""
    before_read: Callable[[str, int], None] = lambda key, position: None
    before_open: Callable[[str, int], None] = lambda key, position: None
    requests: list[tuple[str, int, int | None]] = field(default_factory=list)
    served: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, contents: dict[str, bytes]) -> "MemoryBucket":
        return cls({key: MemoryObject.of(content) for key, content in contents.items()})

    def opener(self, item: DownloadItem, stall_timeout: float) -> Source:
        return MemorySource(item.name, self)


class MemoryReader:
    def __init__(self, bucket: MemoryBucket, key: str, start: int, end: int) -> None:
        self._bucket, self._key, self._position, self._end = bucket, key, start, end
        self._content = bucket.objects[key].content
        promised = Checksum(ChecksumAlgorithm.CRC32, bucket.objects[key].promised)
        self.checksum = promised if bucket.checksums_hold else None

    def readinto(self, buffer: memoryview) -> int:
        self._bucket.before_read(self._key, self._position)
        content = self._content
        piece = content[self._position : min(self._end, self._position + min(len(buffer), 64 << 10))]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        with self._bucket.lock:
            self._bucket.served += len(piece)
        return len(piece)


class MemorySource:
    resolved_revision = None
    verifies = "crc32"
    http = None

    def __init__(self, name: str, bucket: MemoryBucket) -> None:
        self.name = name
        self._bucket = bucket

    def list(self) -> Iterator[Entry]:
        for key, found in self._bucket.objects.items():
            size = None if self._bucket.hide_sizes else len(found.content)
            yield Entry(key, f"./{key}", size, found.identity, Checksum(ChecksumAlgorithm.CRC32, found.promised))
        time.sleep(self._bucket.listing_pause)

    @contextmanager
    def open(self, entry: Entry, byte_range: ByteRange) -> Iterator[MemoryReader]:
        with self._bucket.lock:
            self._bucket.requests.append((entry.key, byte_range.start, byte_range.end))
        self._bucket.before_open(entry.key, byte_range.start)
        if self._bucket.objects[entry.key].identity != entry.identity:
            raise SourceChangedError("the object is another one by now")
        end = byte_range.end if byte_range.end is not None else 1 << 62
        yield MemoryReader(self._bucket, entry.key, byte_range.start, end)

    def look_up(self, entry: Entry) -> Entry:
        found = self._bucket.objects[entry.key]
        checksum = Checksum(ChecksumAlgorithm.CRC32, found.promised)
        return Entry(entry.key, entry.path, len(found.content), found.identity, checksum)

    def close(self) -> None:
        return


@dataclass
class RecordingObserver:
    """Counts what it is told."""

    stages: list[Stage] = field(default_factory=list)
    bytes_received: int = 0
    bytes_reused: int = 0
    files: int = 0
    retries: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stage(self, stage: Stage, message: str | None = None) -> None:
        if not self.stages or self.stages[-1] != stage:
            self.stages.append(stage)

    def totals(self, files: int, bytes: int) -> None:  # noqa: A002 - the field's name
        self.planned = (files, bytes)

    def received(self, count: int, source: str) -> None:
        with self.lock:
            self.bytes_received += count

    def reused(self, files: int, bytes: int, source: str | None = None) -> None:  # noqa: A002 - likewise
        with self.lock:
            self.bytes_reused += bytes

    def completed_files(self, count: int) -> None:
        with self.lock:
            self.files += count

    def retry(self, message: str) -> None:
        with self.lock:
            self.retries.append(message)

    def source_listed(self, summary: SourceSummary) -> None:
        return


@dataclass
class Fetch:
    """A run of the engine over a memory bucket."""

    bucket: MemoryBucket
    config: DownloadConfig
    observer: RecordingObserver = field(default_factory=RecordingObserver)
    cancel: threading.Event = field(default_factory=threading.Event)

    def run(self, workers: int = 4) -> FetchOutcome:
        return run_fetch(
            self.config, observer=self.observer, cancel=self.cancel, workers=workers, opener=self.bucket.opener
        )


def item(name: str = "memory") -> dict[str, object]:
    """Return a download item that the memory source stands in for."""
    return {"type": "http", "name": name, "items": [{"url": f"http://127.0.0.1:1/{name}"}]}


def in_place(root: str, **more: object) -> DownloadConfig:
    return DownloadConfig.model_validate({"download_root": root, "download_items": [item()], **more})


def managed(volume: str, **more: object) -> DownloadConfig:
    owner = {
        "volume": volume,
        "path": "team/model",
        "namespace": "ml",
        "name": "model",
        "uid": "u1",
        "spec_hash": "v1:0",
    }
    return DownloadConfig.model_validate({"managed": {**owner, **more}, "download_items": [item()]})


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)
