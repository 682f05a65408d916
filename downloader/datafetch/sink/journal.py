"""What of a fetch is on the volume already: one JSON line for each file and range, appended as they arrive.

A line counts at once for a process that finds it on the same boot of the same machine: the page cache holds what was
written. After a loss of the machine only what stands before the last `flushed` line counts.

It is also the queue of files that wait for the flush after which they get their names: however long a flush or a
listing takes, nothing of that queue is held in memory.
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice

from datafetch.errors import InternalError, InterruptedByRequestError
from datafetch.ledger import Ledger
from datafetch.records import ArchiveState, ManifestFile, PlannedFile, StagedFile, UnpackedArchive
from datafetch.sink.directory import Directory, close_quietly, refusals, write_all
from datafetch.sink.lock import EPOCHS, boot_id
from datafetch.sink.manifest import quoted

JOURNAL = "journal"
TREE = "tree"
"""In an epoch's directory: the files that are staged."""
_FLUSHED = b'{"flushed":true}\n'
_FILE = b'{"file":'
_ARCHIVE = b'{"archive":'
_READ_BYTES = 64 << 10


class Journal:
    """The journal of our own epoch. Thread-safe."""

    def __init__(self, state: Directory, epoch: int) -> None:
        self._lock = threading.Lock()
        self.path = f"{EPOCHS}/{epoch}/{JOURNAL}"
        self._descriptor = state.create(self.path)
        state.share(self._descriptor)
        self.length = 0
        """Bytes that were noted so far."""
        self._append(_line({"boot": boot_id()}))

    def add_range(self, file: PlannedFile, start: int, end: int) -> None:
        """Note that a range has been written."""
        record: dict[str, object] = {
            "part": file.path,
            "size": file.size,
            "identity": file.identity,
            "range": [start, end],
        }
        self._append(_line(record))

    def add_files(self, files: Iterable[ManifestFile]) -> None:
        """Note that files are whole and verified."""
        self._append(b"".join(map(_file_line, files)))

    def add_archive(self, archive: ManifestFile) -> None:
        """Note that an archive is whole and verified; it is no file of the tree by that."""
        self._append(_file_line(archive).replace(_FILE, _ARCHIVE, 1))

    def add_unpacked(self, archive: UnpackedArchive) -> None:
        """Note that every file of an archive is noted."""
        record = asdict(archive)
        self._append(_line({"unpacked": record.pop("path"), **record}))

    def drop(self, path: str) -> None:
        """Note that what was noted of a path no longer counts."""
        self._append(_line({"drop": path}))

    def mark_flushed(self) -> None:
        """Note that all that was noted before is on the disk, and bring the journal there too."""
        self._append(_FLUSHED)
        with refusals(self.path):
            os.fdatasync(self._descriptor)

    def whole_files(self, start: int, end: int) -> Iterator[str]:
        """Yield the paths of the files that were noted as whole between two lengths of the journal."""
        rest = b""
        while start < end:
            with refusals(self.path):
                block = os.pread(self._descriptor, min(_READ_BYTES, end - start), start)
            if not block:
                raise InternalError(f"the journal {self.path!r} has lost its end; somebody else writes there")
            start += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.startswith(_FILE):
                    yield json.loads(line)["file"]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            close_quietly(self._descriptor)  # what counts of it was flushed
            self._descriptor = -1

    def _append(self, lines: bytes) -> None:
        with self._lock, refusals(self.path):
            if self._descriptor < 0:
                # A worker that outlived the fetch: its descriptor may be another file's by now.
                raise InterruptedByRequestError("the fetch has ended")
            write_all(self._descriptor, lines)
            self.length += len(lines)


def _has_moved(base: Directory, staged: StagedFile, before: StagedFile, *, whole: bool) -> bool:
    """Say whether what another home holds of the path is to be used instead."""
    return (before.whole and not whole) or base.stat(staged_path(staged)) is None


def staged_path(staged: StagedFile) -> str:
    """Return where a staged file lies, seen from the state's directory."""
    return f"{staged.home}{EPOCHS}/{staged.epoch}/{TREE}/{staged.path}"


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _file_line(file: ManifestFile) -> bytes:
    # Put together by hand: one for each of millions of files.
    checksum = "null" if file.checksum is None else quoted(file.checksum)
    member = "" if file.archive is None else f',"of":{quoted(file.archive)}'
    return (
        f'{{"file":{quoted(file.path)},"size":{file.size},"identity":{quoted(file.identity)},"checksum":{checksum},'
        f'"modified":{file.modified}{member}}}\n'
    ).encode()


def recover(base: Directory, before_epoch: int, ledger: Ledger, home: str = "") -> None:
    """Take what earlier epochs left into the ledger; of a path in several epochs, the newest.

    `home` is the directory below `base` that has the epochs, with a slash. Of a path that another home was said to
    hold, what is there counts: what several fetch may have moved from one to the other.
    """
    names = base.names(f"{home}{EPOCHS}")
    for epoch in sorted(int(name) for name in names if name.isdigit() and int(name) < before_epoch):
        journal = f"{home}{EPOCHS}/{epoch}/{JOURNAL}"
        with base.lines(journal) as lines:
            first = next(lines, b"")
            length = None if _is_of_this_boot(first) else 0
        if length is not None:
            with base.lines(journal) as lines:
                length = max((number for number, line in enumerate(lines) if line == _FLUSHED), default=0)
        with base.lines(journal) as lines:
            for record in _records(islice(lines, length)):
                _replay(record, epoch, ledger, base, home)


def _is_of_this_boot(first: bytes) -> bool:
    header = next(_records(iter([first])), {})
    return bool(boot_id()) and header.get("boot") == boot_id()


def _replay(record: dict[str, object], epoch: int, ledger: Ledger, base: Directory, home: str) -> None:
    if "unpacked" in record:
        _replay_unpacked(record, ledger)
        return
    path = str(record.get("file") or record.get("archive") or record.get("part") or record.get("drop") or "")
    if not path:
        return
    if "drop" in record:
        ledger.forget_staged(path)
        return
    size = record["size"] if isinstance(record["size"], int) else None
    staged = StagedFile(path, size, str(record["identity"]), epoch, home=home)
    before = ledger.staged(path, with_ranges=False)
    whole = "file" in record or "archive" in record
    if before is not None and before.home != home and _has_moved(base, staged, before, whole=whole):
        return
    if whole:
        checksum, modified, archive = record.get("checksum"), record.get("modified"), record.get("of")
        staged.whole = True
        staged.archive = archive if isinstance(archive, str) else None
        staged.checksum = checksum if isinstance(checksum, str) else None
        staged.modified = modified if isinstance(modified, int) else 0
        ledger.note_staged(staged)
        return
    bounds = record["range"]
    if not isinstance(bounds, list):
        return
    known = None if before is None else (before.home, before.epoch, before.size, before.identity)
    if before is None or before.whole or known != (home, epoch, size, staged.identity):
        ledger.note_staged(staged)
    ledger.note_staged_range(path, int(bounds[0]), int(bounds[1]))


def _replay_unpacked(record: dict[str, object], ledger: Ledger) -> None:
    fields = {name: value for name, value in record.items() if name != "unpacked"}
    # As `add_unpacked` wrote it; a line of another version says nothing here.
    with contextlib.suppress(TypeError):
        ledger.note_archive(ArchiveState.STAGED, UnpackedArchive(path=str(record["unpacked"]), **fields))  # type: ignore[arg-type] # JSON


def _records(lines: Iterator[bytes]) -> Iterator[dict[str, object]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            return  # the line that a kill cut off; nothing stands behind it
        if isinstance(record, dict):
            yield record
