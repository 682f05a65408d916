"""A fetch of as many empty files as asked for, from a source that makes them up: prints its peak memory in KiB.

    python tests/component/many_files.py COUNT DIRECTORY [SECONDS]

The seconds are what the first flush takes longer, as it does on a disk that others write to.
A process of its own, because peak memory is one of a process; not by getrusage(2), which counts what the process was
before exec.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from datafetch.engine import run_fetch
from datafetch.progress import ProgressTracker
from datafetch.sink.directory import Directory
from datafetch.sources import ByteRange, Entry, RangeReader, Source
from datafetch_api.config import DownloadConfig, DownloadItem


class Numbers:
    """A source of so many empty objects."""

    name = "numbers"
    resolved_revision = None
    verifies = "size only"
    http = None

    def __init__(self, count: int) -> None:
        self._count = count

    def list(self) -> Iterator[Entry]:
        for number in range(self._count):
            key = f"shards/{number // 1000:05}/sample-{number:09}.parquet"
            yield Entry(key, key, 0, f'etag:"{number:032x}"')

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        raise AssertionError(f"nothing is to be read of the empty {entry.key}, {byte_range}")

    def look_up(self, entry: Entry) -> Entry:
        return entry

    def close(self) -> None:
        return


def slow_down_a_flush(seconds: float) -> None:
    """Let the first flush take so much longer: what has arrived meanwhile waits for it."""
    flush, waits = Directory.flush, [seconds]

    def slow(directory: Directory) -> None:
        flush(directory)
        if waits:
            time.sleep(waits.pop())

    Directory.flush = slow  # type: ignore[assignment]  # what only this process sees


def main() -> None:
    count, directory = int(sys.argv[1]), sys.argv[2]
    slow_down_a_flush(float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    item = {"type": "http", "name": "numbers", "items": [{"url": "http://127.0.0.1:1/"}]}
    config = DownloadConfig.model_validate({"download_root": directory, "download_items": [item]})

    def opener(item: DownloadItem, stall_timeout: float) -> Source:
        return Numbers(count)

    outcome = run_fetch(config, observer=ProgressTracker(), cancel=threading.Event(), opener=opener)
    assert outcome.files == count, outcome
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
