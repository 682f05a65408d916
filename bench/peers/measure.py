"""One run of one program: wall, processor time, peak memory and the moment of the first byte. Linux only.

- Wall: from before exec until the program has ended, and where asked for, `sync -f` of the target after it.
- CPU: user and system time of the program and all it waited for, from wait4(2).
- Peak memory: the largest sum over its processes, looked at every 20 ms: of the kernel's own high-water mark (VmHWM)
  while there is one process, of the proportional shares (PSS) while there are several.
- First byte: from before exec until the server first read from an object's file, told by inotify(7). Listings and HEAD
  read metadata only. The watches are gone after that first event, so that the rest of the run is not slowed down.
"""

import contextlib
import ctypes
import os
import select
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SAMPLE_SECONDS = 0.02
_IN_ACCESS = 0x1
_IN_ISDIR = 0x40000000
_EVENT = struct.Struct("iIII")


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    wall: float
    cpu: float
    memory: int
    """Peak, in bytes."""
    first_byte: float | None
    """Seconds; None where no object was read."""
    exit_code: int
    """Negative: the signal that ended it."""
    output: str
    """The end of what it wrote."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    objects: Path,
    log: Path,
    flush: Path | None,
    timeout: float,
) -> Measured:
    """Run a command; `objects` is the served tree, `flush` the target whose file system is synced at the end.

    It is killed, with all it started, after `timeout` seconds.
    """
    with _first_read(objects) as first_read, log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        with _group(process), _MemorySampler(process.pid) as sampler, _deadline(process.pid, timeout):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if flush is not None:
            subprocess.run(["sync", "-f", str(flush)], check=True)
        wall = time.perf_counter() - started
    first_byte = None if first_read.at is None else first_read.at - started
    said = log.read_text(errors="replace")[-2000:]
    return Measured(wall, usage.ru_utime + usage.ru_stime, sampler.peak, first_byte, process.returncode, said)


@contextlib.contextmanager
def _group(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the program and all it started, should the block be left before it has ended."""
    try:
        yield
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _deadline(pid: int, seconds: float) -> Iterator[None]:
    # The group is the program's own: it leads a session.
    timer = threading.Timer(seconds, os.killpg, (pid, signal.SIGKILL))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _MemorySampler:
    """Watches the memory of a process and its descendants until the end of the block."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            # A process may end between two looks at it.
            with contextlib.suppress(OSError):
                self.peak = max(self.peak, _memory(_tree(self._pid)))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text().split())
    return found


def _memory(pids: list[int]) -> int:
    if len(pids) == 1:
        return _kilobytes(Path(f"/proc/{pids[0]}/status"), "VmHWM:")
    return sum(_kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids)


def _kilobytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


class _FirstRead:
    """When a file below a directory was first read, on the clock of time.perf_counter()."""

    def __init__(self, descriptor: int) -> None:
        self.at: float | None = None
        self._descriptor = descriptor

    def watch(self, ended: int) -> None:
        """Wait for the first read, or for a byte in `ended`."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while self.at is None:
            ready = [descriptor for descriptor, _ in poll.poll()]
            now = time.perf_counter()
            if self._descriptor in ready and self._has_read(os.read(self._descriptor, 65536)):
                self.at = now
            elif ended in ready:
                return

    @staticmethod
    def _has_read(events: bytes) -> bool:
        position = 0
        while position < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, position)
            if mask & _IN_ACCESS and not mask & _IN_ISDIR:
                return True
            position += _EVENT.size + length
        return False


@contextlib.contextmanager
def _first_read(directory: Path) -> Iterator[_FirstRead]:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    for path in (directory, *(entry for entry in directory.rglob("*") if entry.is_dir())):
        if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_ACCESS) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    ended, end = os.pipe()
    watcher = _FirstRead(descriptor)
    closing = threading.Thread(target=_watch_then_close, args=(watcher, descriptor, ended), daemon=True)
    closing.start()
    try:
        yield watcher
    finally:
        os.write(end, b".")
        closing.join()
        os.close(end)
        os.close(ended)


def _watch_then_close(watcher: _FirstRead, descriptor: int, ended: int) -> None:
    try:
        watcher.watch(ended)
    finally:
        os.close(descriptor)
