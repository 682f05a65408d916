"""What of a fetch is on the volume already: one JSON line for each file and range, appended as they arrive.

A line counts at once for a process that finds it on the same boot of the same machine: the page cache holds what was
written. After a loss of the machine only what stands before the last `flushed` line counts.
"""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from datafetch.errors import InterruptedByRequestError
from datafetch.sink.directory import Directory, refusals, write_all
from datafetch.sink.lock import EPOCHS, boot_id

JOURNAL = "journal"


@dataclass(slots=True)
class StagedFile:
    """A file in an epoch's tree, whole or in part."""

    path: str
    size: int | None
    identity: str
    epoch: int
    whole: bool = False
    checksum: str | None = None
    """`algorithm:value` of a whole file that was verified."""
    modified: int = 0
    """mtime of a whole file, in nanoseconds: whoever changes it changes that."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """What has arrived of a part: (start, end), end excluded."""

    def is_of(self, size: int | None, identity: str) -> bool:
        """Whether it holds bytes of exactly that object. An object without identity is never taken up again."""
        return bool(identity) and self.identity == identity and self.size == size


class Journal:
    """The journal of our own epoch. Thread-safe."""

    def __init__(self, state: Directory, epoch: int) -> None:
        self._lock = threading.Lock()
        self.path = f"{EPOCHS}/{epoch}/{JOURNAL}"
        self._descriptor = state.create(self.path)
        self._append({"boot": boot_id()})

    def add_range(self, path: str, size: int | None, identity: str, start: int, end: int) -> None:
        """Note that a range has been written."""
        self._append({"part": path, "size": size, "identity": identity, "range": [start, end]})

    def add_file(self, path: str, size: int, identity: str, checksum: str | None, modified: int) -> None:
        """Note that a file is whole and verified; `modified` is its mtime in nanoseconds."""
        record = {"file": path, "size": size, "identity": identity, "checksum": checksum, "modified": modified}
        self._append(record)

    def drop(self, path: str) -> None:
        """Note that what was noted of a path no longer counts."""
        self._append({"drop": path})

    def mark_flushed(self) -> None:
        """Note that all that was noted before is on the disk, and bring the journal there too."""
        self._append({"flushed": True})
        with refusals(self.path):
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, record: dict[str, object]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock, refusals(self.path):
            if self._descriptor < 0:
                # A worker that outlived the fetch: its descriptor may be another file's by now.
                raise InterruptedByRequestError("the fetch has ended")
            write_all(self._descriptor, line)


def recover(state: Directory, before_epoch: int) -> dict[str, StagedFile]:
    """Return what earlier epochs left, by path; of a path in several epochs, the newest."""
    found: dict[str, StagedFile] = {}
    epochs = sorted(int(name) for name in state.names(EPOCHS) if name.isdigit() and int(name) < before_epoch)
    for epoch in epochs:
        content = state.read(f"{EPOCHS}/{epoch}/{JOURNAL}")
        if content is not None:
            _replay(content, epoch, found)
    return found


def _replay(content: bytes, epoch: int, found: dict[str, StagedFile]) -> None:
    records = list(_records(content))
    if not records:
        return
    if not boot_id() or records[0].get("boot") != boot_id():
        flushed = [index for index, record in enumerate(records) if "flushed" in record]
        records = records[: flushed[-1]] if flushed else []
    for record in records:
        _replay_record(record, epoch, found)


def _replay_record(record: dict[str, object], epoch: int, found: dict[str, StagedFile]) -> None:
    path = str(record.get("file") or record.get("part") or record.get("drop") or "")
    if not path:
        return
    if "drop" in record:
        found.pop(path, None)
        return
    size = record["size"] if isinstance(record["size"], int) else None
    identity = str(record["identity"])
    staged = found.get(path)
    if staged is None or staged.epoch != epoch or not staged.is_of(size, identity):
        staged = found[path] = StagedFile(path, size, identity, epoch)
    if "file" in record:
        staged.whole = True
        checksum = record.get("checksum")
        staged.checksum = checksum if isinstance(checksum, str) else None
        modified = record.get("modified")
        staged.modified = modified if isinstance(modified, int) else 0
        return
    bounds = record["range"]
    if isinstance(bounds, list):
        staged.ranges.append((int(bounds[0]), int(bounds[1])))


def _records(content: bytes) -> Iterator[dict[str, object]]:
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            return  # the line that a kill cut off; nothing stands behind it
        if isinstance(record, dict):
            yield record


def missing_ranges(size: int, ranges: list[tuple[int, int]], part_bytes: int) -> list[tuple[int, int]]:
    """Return what a file of that size lacks, in pieces of at most `part_bytes`, ascending."""
    missing: list[tuple[int, int]] = []
    position = 0
    for start, end in [*sorted(ranges), (size, size)]:
        while position < start:
            piece = min(position + part_bytes, start)
            missing.append((position, piece))
            position = piece
        position = max(position, end)
    return missing
