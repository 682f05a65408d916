"""A file system that folds names, for kernels that have none: in memory, over FUSE, by the kernel's own protocol.

It takes names that are equal after case folding and normalisation for one, and keeps the spelling of whoever came
first, as ext4's `casefold` directories, APFS and SMB shares do. Only what a downloader needs; needs root and /dev/fuse.

    with folding_volume(tmp_path / "volume") as volume:
        (volume / "README").write_text("x")
        assert (volume / "readme").exists()
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_MAX_WRITE = 128 << 10
_ROOT = 1
_INIT, _FORGET, _DESTROY, _INTERRUPT, _BATCH_FORGET = 26, 2, 38, 36, 42
_SILENT = (_FORGET, _INTERRUPT, _BATCH_FORGET)


def fold(name: bytes) -> str:
    """What names alike have in common: Unicode's canonical caseless match (D145)."""
    text = name.decode(errors="surrogateescape")
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


@dataclass
class _Node:
    mode: int
    number: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, tuple[bytes, _Node]] = field(default_factory=dict)
    links: int = 1
    accessed: int = 0
    modified: int = 0

    def attributes(self) -> bytes:
        seconds, nanoseconds = divmod(self.modified, 10**9)
        accessed, accessed_nanoseconds = divmod(self.accessed, 10**9)
        size = len(self.data)
        times = (accessed, seconds, seconds, accessed_nanoseconds, nanoseconds, nanoseconds)
        return _ATTR.pack(
            self.number, size, size // 512 + 1, *times[:3], *times[3:], self.mode, self.links, 0, 0, 0, 4096, 0
        )

    def child(self, name: bytes) -> _Node:
        found = self.children.get(fold(name))
        if found is None:
            raise OSError(errno.ENOENT, "no such name")
        return found[1]


class _FileSystem:
    """Answers one request after the other."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._nodes: dict[int, _Node] = {_ROOT: _Node(stat.S_IFDIR | 0o755, _ROOT, links=2)}
        self._operations: dict[int, Callable[[_Node, bytes], bytes]] = {
            1: self._look_up, 3: self._get_attributes, 4: self._set_attributes, 5: lambda node, _: bytes(node.data),
            6: self._symlink, 9: self._mkdir, 10: self._unlink, 11: self._rmdir, 12: self._rename, 13: self._link,
            14: self._open, 15: self._read, 16: self._write, 17: self._statfs, 18: self._nothing, 20: self._nothing,
            25: self._nothing, _INIT: self._init, 27: self._open, 28: self._read_directory, 29: self._nothing,
            30: self._nothing, 34: self._nothing, 35: self._create, 50: self._nothing,
        }  # fmt: skip

    def serve(self) -> None:
        """Go on until it is unmounted."""
        while True:
            try:
                request = os.read(self._descriptor, _MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, operation, unique, node, *_ = _IN.unpack_from(request)
        if operation in _SILENT:
            return
        error, body = 0, b""
        try:
            body = self._operations[operation](self._nodes[node] if node else self._nodes[_ROOT], request[_IN.size :])
        except KeyError:
            error = errno.ENOSYS
        except OSError as refused:
            error = refused.errno or errno.EIO
        try:
            os.write(self._descriptor, _OUT.pack(_OUT.size + len(body), -error, unique) + body)
        except OSError as gone:
            if gone.errno != errno.ENOENT:
                raise

    def _init(self, _: _Node, body: bytes) -> bytes:
        major, minor, readahead, _flags = struct.unpack_from("=4I", body)
        return struct.pack(
            "=4IHHIIHHI7I", major, min(minor, 31), readahead, 0, 12, 9, _MAX_WRITE, 1, 32, 0, 0, *[0] * 7
        )

    def _entry(self, node: _Node) -> bytes:
        return struct.pack("=4QII", node.number, 0, 0, 0, 0, 0) + node.attributes()

    def _make(self, parent: _Node, name: bytes, mode: int) -> _Node:
        if fold(name) in parent.children:
            raise OSError(errno.EEXIST, "there is one")
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, "too long")
        number = max(self._nodes) + 1
        made = self._nodes[number] = _Node(mode, number, accessed=time.time_ns(), modified=time.time_ns())
        parent.children[fold(name)] = (name, made)
        return made

    def _look_up(self, node: _Node, body: bytes) -> bytes:
        return self._entry(node.child(body.rstrip(b"\0")))

    def _get_attributes(self, node: _Node, _: bytes) -> bytes:
        return struct.pack("=QII", 0, 0, 0) + node.attributes()

    def _set_attributes(self, node: _Node, body: bytes) -> bytes:
        valid, _, _, size, _, _, modified, _, _, nanoseconds, _, mode = struct.unpack_from("=IIQQQQQQIIII", body)
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
        if valid & 8:
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            node.modified = time.time_ns()
        if valid & 0x100:
            node.modified = time.time_ns()
        elif valid & 0x20:
            node.modified = modified * 10**9 + nanoseconds
        return self._get_attributes(node, b"")

    def _symlink(self, node: _Node, body: bytes) -> bytes:
        name, goal, *_ = body.split(b"\0")
        made = self._make(node, name, stat.S_IFLNK | 0o777)
        made.data[:] = goal
        return self._entry(made)

    def _mkdir(self, node: _Node, body: bytes) -> bytes:
        (mode,) = struct.unpack_from("=I", body)
        return self._entry(self._make(node, body[8:].rstrip(b"\0"), stat.S_IFDIR | mode & 0o7777))

    def _create(self, node: _Node, body: bytes) -> bytes:
        _, mode = struct.unpack_from("=II", body)
        return self._entry(self._make(node, body[16:].rstrip(b"\0"), mode)) + self._open(node, b"")

    def _unlink(self, node: _Node, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        found = node.child(name)
        if stat.S_ISDIR(found.mode):
            raise OSError(errno.EISDIR, "a directory")
        found.links -= 1
        del node.children[fold(name)]
        return b""

    def _rmdir(self, node: _Node, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        if node.child(name).children:
            raise OSError(errno.ENOTEMPTY, "not empty")
        del node.children[fold(name)]
        return b""

    def _rename(self, node: _Node, body: bytes) -> bytes:
        goal = self._nodes[struct.unpack_from("=Q", body)[0]]
        old, new, *_ = body[8:].split(b"\0")
        moved = node.child(old)
        there = goal.children.get(fold(new))
        if there is not None and there[1] is not moved and stat.S_ISDIR(there[1].mode) and there[1].children:
            raise OSError(errno.ENOTEMPTY, "not empty")
        del node.children[fold(old)]
        goal.children[fold(new)] = (there[0] if there and there[1] is not moved else new, moved)
        return b""

    def _link(self, node: _Node, body: bytes) -> bytes:
        linked = self._nodes[struct.unpack_from("=Q", body)[0]]
        name = body[8:].rstrip(b"\0")
        if fold(name) in node.children:
            raise OSError(errno.EEXIST, "there is one")
        linked.links += 1
        node.children[fold(name)] = (name, linked)
        return self._entry(linked)

    def _open(self, _node: _Node, _body: bytes) -> bytes:
        return struct.pack("=QII", 0, 1, 0)  # direct I/O: nothing is kept in the page cache

    def _read(self, node: _Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        return bytes(node.data[offset : offset + size])

    def _write(self, node: _Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + size] = body[40 : 40 + size]
        node.modified = time.time_ns()
        return struct.pack("=II", size, 0)

    def _read_directory(self, node: _Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", body)
        entries = b""
        for position, (name, found) in list(enumerate(node.children.values(), start=1))[offset:]:
            entry = struct.pack("=QQII", found.number, position, len(name), stat.S_IFMT(found.mode) >> 12) + name
            entry += bytes(-len(entry) % 8)
            if len(entries) + len(entry) > size:
                break
            entries += entry
        return entries

    def _statfs(self, _node: _Node, _body: bytes) -> bytes:
        return struct.pack("=5Q4I6I", 1 << 18, 1 << 18, 1 << 18, 1 << 20, 1 << 20, 4096, 255, 4096, 0, *[0] * 6)

    def _nothing(self, _node: _Node, _body: bytes) -> bytes:
        return b""


@contextmanager
def folding_volume(mount_point: Path) -> Iterator[Path]:
    """Mount one, and unmount it; served by a process of its own, so that nothing waits for itself."""
    mount_point.mkdir()
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-m", "component.folding_volume", str(mount_point)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mounted\n"
        try:
            yield mount_point
        finally:
            subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
            server.wait(10)


def _main(mount_point: str) -> None:
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    if libc.mount(b"folding", mount_point.encode(), b"fuse.folding", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    _FileSystem(descriptor).serve()


if __name__ == "__main__":
    _main(sys.argv[1])
