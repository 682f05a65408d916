"""What of a volume survives when the power goes: the worst disks that POSIX allows.

A program's flushes say what must be there afterwards. Everything else that it did since may be there, or may not, each
change by itself: a file's bytes without its size or its size without its bytes, a name without its file's content, a
rename that happened before the write that it followed. Only what one rename replaces is either the old or the new.
Knows directories and inodes; nothing of what DataFetch writes into them.
"""

import os
import random
import shutil
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from component.faulty_disk import Call

SMALL_BYTES = 4096


class Mood(StrEnum):
    """How a file system treats what was not flushed."""

    NOTHING = "nothing survives"
    NAMES = "names, sizes and times survive, bytes do not"
    SMALL = "names and small changes survive, big ones do not"
    CHANCE = "each change survives by chance"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    modified: int
    mode: int


@dataclass
class _State:
    """Inodes by number: directories with their entries, files, and what symbolic links say."""

    directories: dict[int, dict[str, int]] = field(default_factory=dict)
    files: dict[int, _File] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)


class Platter:
    """Follows a volume whose inode numbers are never given twice (tmpfs); what is there at first is flushed."""

    def __init__(self, volume: Path) -> None:
        self._volume = volume
        self._root = volume.stat().st_ino
        self._flushed = _scan(volume)

    def after(self, call: Call, path: Path) -> None:
        """Take note of a flush: the disk's `after`."""
        if call.kind != "flush" or not call.done:
            return
        if call.name == "syncfs":
            self._flushed = _scan(self._volume)
        elif path.is_dir():
            self._flush_directory(path)
        elif path.exists():
            self._flushed.files[path.stat().st_ino] = _read(path)

    def _flush_directory(self, path: Path) -> None:
        entries, present = {}, _State()
        for entry in os.scandir(path):
            entries[entry.name] = entry.inode()
            if entry.is_symlink():
                present.links[entry.inode()] = os.readlink(entry.path)
        self._flushed.directories[path.stat().st_ino] = entries
        self._flushed.links |= present.links

    def lose_power(self, mood: Mood, chance: random.Random) -> None:
        """Make the volume what is found of it after the power went now; no program may have it open."""
        survivors = _Survivors(self._flushed, _scan(self._volume), mood, chance)
        shutil.rmtree(self._volume)
        survivors.build(self._root, self._volume)


class _Survivors:
    def __init__(self, flushed: _State, now: _State, mood: Mood, chance: random.Random) -> None:
        self._flushed, self._now, self._mood, self._chance = flushed, now, mood, chance
        self._built: dict[int, Path] = {}

    def build(self, directory: int, target: Path) -> None:
        target.mkdir(mode=0o755)
        self._built[directory] = target
        for name, inode in sorted(self._entries(directory).items()):
            self._place(inode, target / name)

    def _place(self, inode: int, path: Path) -> None:
        if inode in self._now.links or inode in self._flushed.links:
            path.symlink_to(self._now.links.get(inode) or self._flushed.links[inode])
        elif inode in self._now.files or inode in self._flushed.files:
            self._place_file(inode, path)
        elif inode not in self._built:  # a directory has one name: one that was renamed is here or there
            self.build(inode, path)

    def _place_file(self, inode: int, path: Path) -> None:
        if inode in self._built:
            os.link(self._built[inode], path)
            return
        file = self._file(inode)
        path.write_bytes(file.content)
        path.chmod(stat.S_IMODE(file.mode))
        os.utime(path, ns=(file.modified, file.modified))
        self._built[inode] = path

    def _entries(self, directory: int) -> dict[str, int]:
        old = self._flushed.directories.get(directory, {})
        new = self._now.directories.get(directory, old)
        if self._mood is Mood.NOTHING:
            return old
        if self._mood in {Mood.NAMES, Mood.SMALL}:
            return new
        chosen = {name: self._chance.choice((old, new)).get(name) for name in sorted(old.keys() | new.keys())}
        return {name: inode for name, inode in chosen.items() if inode is not None}

    def _file(self, inode: int) -> _File:
        old, new = self._flushed.files.get(inode), self._now.files.get(inode)
        if new is None or old == new:
            assert old is not None
            return old
        if old is None:
            old = _File(b"", new.modified, new.mode)
        if self._mood is Mood.NOTHING:
            return old
        if self._mood is Mood.SMALL and abs(len(new.content) - len(old.content)) <= SMALL_BYTES:
            return new
        if self._mood in {Mood.NAMES, Mood.SMALL}:
            return _File(_without_bytes(old.content, new.content), new.modified, new.mode)
        content = self._chance.choice((old.content, new.content, _without_bytes(old.content, new.content), b""))
        cut = self._chance.choice((len(content), self._chance.randint(0, len(content))))
        lasting = min(len(content), len(old.content)) if content.startswith(old.content) else 0
        return _File(content[: max(cut, lasting)], self._chance.choice((old, new)).modified, new.mode)


def _without_bytes(old: bytes, new: bytes) -> bytes:
    """Return the new size, with the old bytes, and zeros where there were none."""
    return old[: len(new)] + bytes(max(0, len(new) - len(old)))


def _read(path: Path) -> _File:
    found = path.lstat()
    return _File(path.read_bytes(), found.st_mtime_ns, found.st_mode)


def _scan(root: Path) -> _State:
    state = _State()
    pending = [root]
    while pending:
        directory = pending.pop()
        entries = state.directories.setdefault(directory.lstat().st_ino, {})
        for entry in os.scandir(directory):
            entries[entry.name] = entry.inode()
            if entry.is_symlink():
                state.links[entry.inode()] = os.readlink(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            else:
                state.files[entry.inode()] = _read(Path(entry.path))
    return state


def forget_holder(volume: Path) -> None:
    """Remove the lock that the lost run held: waiting for it to be taken over takes half a minute of every test."""
    for path in volume.rglob("lock"):
        path.unlink()
