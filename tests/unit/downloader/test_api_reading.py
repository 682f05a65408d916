"""Objects as files: which ranges are asked for, what becomes of broken connections and of objects that change."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from datafetch import reading
from datafetch.errors import SourceChangedError, SourceUnavailableError
from datafetch.reading import READ_AHEAD_BYTES, ObjectReader
from datafetch.sources import Entry
from unit.downloader.memory_source import MemoryBucket, MemoryObject, MemorySource

KIB = 1 << 10
DATA = os.urandom(3 << 20)


class Shelf:
    """One object in memory, and readers of it."""

    def __init__(self, data: bytes = DATA, *, hide_size: bool = False) -> None:
        self.bucket = MemoryBucket.of({"a.bin": data})
        self.bucket.hide_sizes = hide_size
        self.source = MemorySource("memory", self.bucket)
        (self.entry,) = self.source.list()
        self.closing = threading.Event()

    def raw(self, read_ahead: int = READ_AHEAD_BYTES, entry: Entry | None = None) -> ObjectReader:
        return ObjectReader(self.source, entry or self.entry, read_ahead=read_ahead, closing=self.closing)

    @contextmanager
    def file(self, read_ahead: int = READ_AHEAD_BYTES) -> Iterator[io.BufferedReader]:
        file: io.BufferedReader = io.BufferedReader(self.raw(read_ahead), reading.BUFFER_BYTES)
        with file:
            yield file

    @property
    def asked(self) -> list[tuple[int, int | None]]:
        return [(start, end) for _, start, end in self.bucket.requests]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datafetch.reading.wait_before_retry", lambda error, tries: None if tries >= 8 else 0.0)


def test_a_file_reads_seeks_and_tells_like_one_on_the_disk() -> None:
    local = io.BytesIO(DATA)
    steps = [(0, 0, 10), (100_000, 0, 70_000), (-50, 2, 100), (-30, 1, 3), (7, 0, 0), (5, 1, 3), (1, 0, -1)]
    with Shelf().file() as file:
        for offset, whence, count in steps:
            assert file.seek(offset, whence) == local.seek(offset, whence)
            assert file.read(count) == local.read(count)
            assert file.tell() == local.tell()
        buffer, same = bytearray(1000), bytearray(1000)
        file.seek(2_000_000)
        local.seek(2_000_000)
        assert (file.readinto(buffer), buffer) == (local.readinto(same), same)
        file.seek(10 << 20)
        assert file.read(1) == b""
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)


def test_lines_are_read_as_from_any_file() -> None:
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    with Shelf(text).file() as file:
        assert list(file) == text.splitlines(keepends=True)


def test_who_jumps_about_gets_what_was_asked_for_and_no_more() -> None:
    shelf = Shelf()
    raw = shelf.raw()
    for start in (2_000_000, 500_000, 1_500_000, 0):
        raw.seek(start)
        assert raw.read(4_000) == DATA[start : start + 4_000]

    assert shelf.asked == [(start, start + 4_000) for start in (2_000_000, 500_000, 1_500_000, 0)]


def test_who_reads_on_gets_ever_more_ahead_up_to_the_bound() -> None:
    shelf = Shelf()
    with shelf.file(read_ahead=512 * KIB) as file:
        assert b"".join(iter(lambda: file.read(1_000), b"")) == DATA
    lengths = [end - start for start, end in shelf.asked if end is not None]

    assert lengths[:4] == [64 * KIB, 64 * KIB, 320 * KIB, 576 * KIB]
    assert max(lengths) == 576 * KIB, "what is wanted, and the bound ahead of it"
    assert sum(lengths) == len(DATA), "nothing twice"


def test_without_read_ahead_only_what_is_wanted_is_asked_for() -> None:
    shelf = Shelf()
    raw = shelf.raw(read_ahead=0)
    for _ in range(6):
        raw.read(1_000)

    assert shelf.asked == [(start, start + 1_000) for start in range(0, 6_000, 1_000)]


def test_a_large_read_is_one_request() -> None:
    shelf = Shelf()
    assert shelf.raw().readall() == DATA

    assert shelf.asked == [(0, len(DATA))]


def test_a_short_skip_ahead_uses_the_open_answer() -> None:
    shelf = Shelf()
    raw = shelf.raw()
    for _ in range(3):
        raw.read(10_000)
    raw.seek(50_000)

    assert raw.read(10) == DATA[50_000:50_010]
    assert shelf.asked == [(0, 10_000), (10_000, 20_000), (20_000, 30_000 + 256 * KIB)]


def test_a_connection_that_breaks_is_asked_for_again_from_there() -> None:
    shelf = Shelf()
    broken = iter([True, False, True])

    def before_read(key: str, position: int) -> None:
        if position == 128 * KIB and next(broken, False):
            raise SourceUnavailableError("the connection broke")

    shelf.bucket.before_read = before_read
    assert shelf.raw().readall() == DATA
    assert shelf.asked == [(0, len(DATA)), (128 * KIB, len(DATA))]


def test_a_source_that_stays_away_is_given_up_with_its_own_error() -> None:
    shelf = Shelf()

    def before_open(key: str, position: int) -> None:
        raise SourceUnavailableError("503")

    shelf.bucket.before_open = before_open
    with pytest.raises(SourceUnavailableError, match="503") as raised:
        shelf.raw().read(1)
    assert (raised.value.source, raised.value.key) == ("memory", "a.bin")
    assert len(shelf.asked) == 8


def test_an_object_that_changes_is_never_mixed() -> None:
    shelf = Shelf()
    raw = shelf.raw()
    assert raw.read(1_000) == DATA[:1_000]
    shelf.bucket.objects["a.bin"] = MemoryObject.of(os.urandom(len(DATA)))

    with pytest.raises(SourceChangedError):
        raw.read(1_000)
    assert raw.tell() == 1_000


def test_an_object_of_unknown_size_is_read_to_its_end_and_cannot_be_sought_in() -> None:
    shelf = Shelf(hide_size=True)
    with shelf.file() as file:
        assert not file.seekable()
        with pytest.raises(io.UnsupportedOperation):
            file.seek(10)
        assert file.read(10) + file.read() == DATA
    assert shelf.asked == [(0, None)]


def test_what_cannot_be_identified_does_not_go_on_in_the_middle() -> None:
    shelf = Shelf()
    shelf.bucket.objects["a.bin"].identity = ""
    broken = iter([True])

    def before_read(key: str, position: int) -> None:
        if position and next(broken, False):
            raise SourceUnavailableError("the connection broke")

    shelf.bucket.before_read = before_read
    entry = Entry("a.bin", "a.bin", len(DATA), "")
    with pytest.raises(SourceUnavailableError, match="broke"):
        shelf.raw(entry=entry).readall()


def test_a_closed_file_and_a_closed_source_say_so() -> None:
    shelf = Shelf()
    file, other = shelf.raw(), shelf.raw()
    file.close()
    with pytest.raises(ValueError, match="the file is closed"):
        file.read(1)
    shelf.closing.set()
    with pytest.raises(ValueError, match="the source of this file is closed"):
        other.read(1)
    assert file.closed


@pytest.mark.parametrize(("offset", "whence"), [(-1, 0), (-10, 2), (0, 5)])
def test_a_place_that_is_none_is_refused(offset: int, whence: int) -> None:
    with pytest.raises(ValueError, match=r"before the object's start|whence is 5"):
        Shelf(b"short").raw().seek(offset, whence)


def test_several_threads_read_one_source_each_its_file() -> None:
    shelf = Shelf()
    found: dict[int, bytes] = {}

    def read(start: int) -> None:
        raw = shelf.raw()
        raw.seek(start)
        found[start] = raw.read(300_000)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 2_000_000, 250_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {start: DATA[start : start + 300_000] for start in range(0, 2_000_000, 250_000)}
