"""Sees names come and go below a directory, by inotify(7): how moments of giving names and publishing are found."""

import ctypes
import os
import select
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_CREATE, _DELETE, _MOVED = 0x100, 0x200, 0xC0
_IS_DIRECTORY = 0x40000000
_ONLY_DIRECTORY = 0x01000000
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_HEAD = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Names:
    """A watch over all directories below one; a context manager."""

    def __init__(self, root: Path) -> None:
        self._descriptor = _libc.inotify_init1(_NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._directories: dict[int, str] = {}
        self.changes: list[str] = []
        """Paths of the names that came or went, in their order."""
        self._add(str(root))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def wait(self, seconds: float) -> None:
        """Sleep until a name changes, at most so long."""
        select.select([self._descriptor], [], [], seconds)
        self.read()

    def read(self) -> None:
        """Take in what has happened."""
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            position = 0
            while position < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, position)
                position += _HEAD.size
                name = data[position : position + length].rstrip(b"\0").decode()
                position += length
                self._take(watch, mask, name)

    def _take(self, watch: int, mask: int, name: str) -> None:
        path = os.path.join(self._directories.get(watch, "?"), name)
        if not mask & (_CREATE | _DELETE | _MOVED):
            return
        self.changes.append(path)
        if mask & _IS_DIRECTORY and not mask & _DELETE:
            self._add(path)

    def _add(self, path: str) -> None:
        mask = _CREATE | _DELETE | _MOVED | _ONLY_DIRECTORY
        watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
        if watch < 0:
            return  # gone already
        self._directories[watch] = path
        try:
            children = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for child in children:
            self._add(child)


def is_staging(path: str) -> bool:
    """Whether a name is of the lock or of what is being staged: these come and go all the time."""
    parts = path.split("/")
    return "epochs" in parts or parts[-1].startswith("lock")
