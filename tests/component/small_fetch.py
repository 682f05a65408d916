"""A fetch that is small enough to fail at every one of its calls, and what must hold of its volume at any moment.

Both layouts, into an empty volume and over an older state of the source. The volumes lie in memory: what reaches a
disk is the layer's business, and a flush of the machine's own disk would wait for everybody else's bytes.
"""

import itertools
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from component import seccomp
from component.commands import datafetch, tree
from component.faulty_disk import Call, Disk
from servers.http import StaticServer

_bytes = random.Random(4)
OLD = {
    "kept.bin": _bytes.randbytes(70_000),
    "changed.bin": _bytes.randbytes(50_000),
    "sub/deep/gone.bin": _bytes.randbytes(3_000),
    "empty": b"",
}
NEW = {
    "kept.bin": OLD["kept.bin"],
    "changed.bin": _bytes.randbytes(60_000),
    "sub/new.txt": b"small",
    "empty": b"",
}
STATE_BYTES = 64 << 10
"""What locks, journals and manifests may take beside the data of so small a fetch."""
Case = TypeVar("Case")
_MEMORY = Path("/dev/shm")
_numbers = itertools.count()


@dataclass(frozen=True)
class Scenario:
    """Which layout, and whether an older state of the source is published already."""

    managed: bool
    refresh: bool

    def __str__(self) -> str:
        return f"{'managed' if self.managed else 'in-place'}-{'refresh' if self.refresh else 'first'}"

    @property
    def before(self) -> dict[str, bytes]:
        """What is published before the fetch."""
        return OLD if self.refresh else {}

    @property
    def expected(self) -> dict[str, bytes]:
        """What is published after it: a list of other URLs is another request, whose files stay where they are."""
        return NEW if self.managed else {**self.before, **NEW}

    @property
    def most_bytes(self) -> int:
        """What the volume may hold after it: what is published, the last revision, our own state."""
        last = sum(map(len, OLD.values())) if self.refresh and self.managed else 0
        return sum(map(len, self.expected.values())) + last + STATE_BYTES


SCENARIOS = [Scenario(managed, refresh) for managed in (True, False) for refresh in (False, True)]


class Workshop:
    """A server with the new state, and volumes for fetches from it."""

    def __init__(self, server: StaticServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._calls: dict[Scenario, list[Call]] = {}
        self._old = {managed: self._publish_old(managed=managed) for managed in (True, False)}

    def serve(self, contents: dict[str, bytes]) -> None:
        """Serve these files from the next request on."""
        for name, data in contents.items():
            self.server.put(f"/{name}", data)

    def calls(self, scenario: Scenario) -> list[Call]:
        """Return the calls of a fetch over a healthy disk, closes with the rest; asked for once, it is known."""
        if scenario not in self._calls:
            volume, config = self.prepared(scenario)
            disk = Disk(volume, kinds=seccomp.KINDS)
            run = disk.datafetch("run", config, "--max-workers", "2", home=volume.parent)
            assert run.code == 0, run.stderr
            self._calls[scenario] = disk.calls
        return self._calls[scenario]

    def config(self, volume: Path, names: list[str], *, managed: bool) -> Path:
        """Write a config that brings the files of these names to the volume."""
        owner = (
            f"managed: {{volume: {volume}, path: model, namespace: ml, name: model, uid: u1, spec_hash: 'v1:0'}}"
            if managed
            else f"download_root: {volume / 'model'}"
        )
        urls = "\n".join(f"      - {{url: '{self.server.url}/{name}', target_path: '{name}'}}" for name in names)
        path = volume.parent / f"{'-'.join(str(len(name)) for name in names)}.yaml"
        path.write_text(f"{owner}\ndownload_items:\n  - type: http\n    name: files\n    items:\n{urls}\n")
        return path

    def prepared(self, scenario: Scenario) -> tuple[Path, Path]:
        """Return a volume in a room of its own, as it is before the fetch, and the config of the fetch."""
        volume = self.room() / "volume"
        volume.mkdir()
        return volume, self.fill(scenario, volume)

    def empty(self, names: list[str], *, managed: bool) -> tuple[Path, Path]:
        """Return an empty volume in a room of its own, and the config that brings these files to it."""
        volume = self.room() / "volume"
        volume.mkdir()
        return volume, self.config(volume, names, managed=managed)

    def fill(self, scenario: Scenario, volume: Path) -> Path:
        """Bring an empty volume into the state before the fetch, flushed; return the config of the fetch."""
        if scenario.refresh:
            shutil.copytree(self._old[scenario.managed], volume, symlinks=True, dirs_exist_ok=True)
            flush(volume)
        return self.config(volume, list(NEW), managed=scenario.managed)

    def room(self) -> Path:
        """Return a new directory."""
        path = self.directory / f"room-{next(_numbers)}"
        path.mkdir()
        return path

    def _publish_old(self, *, managed: bool) -> Path:
        volume = self.room() / "volume"
        volume.mkdir()
        self.serve(OLD)
        run = datafetch("run", self.config(volume, list(OLD), managed=managed), cwd=volume.parent)
        assert run.code == 0, run.stderr
        assert published(volume) == OLD
        self.serve(NEW)
        return volume


@contextmanager
def in_memory() -> Iterator[Path]:
    """Yield a directory in memory; it goes at the end."""
    directory = Path(tempfile.mkdtemp(prefix="datafetch-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Open a workshop; all of its volumes go at the end."""
    with in_memory() as directory, StaticServer() as server:
        yield Workshop(server, directory)


def flush(volume: Path) -> None:
    """Bring all of a volume to its disk."""
    descriptor = os.open(volume, os.O_RDONLY)
    try:
        assert seccomp.libc.syncfs(descriptor) == 0
    finally:
        os.close(descriptor)


def problems(check: Callable[[Case], str | None], cases: Iterable[Case]) -> str:
    """Check cases, two at a time; return a line for each in which something was wrong."""
    with ThreadPoolExecutor(2) as pool:
        return "\n".join(found for found in pool.map(check, cases) if found)


def published(volume: Path) -> dict[str, bytes]:
    """Return what a reader sees under the target's path; nothing where there is no such path."""
    return tree(volume / "model") if (volume / "model").exists() else {}


def broken_promise(volume: Path, scenario: Scenario) -> str | None:
    """Say what a reader could see that is neither the old state nor the new one; None where all is well."""
    before, after, found = scenario.before, scenario.expected, published(volume)
    if scenario.managed:
        return None if found in (before, after) else f"published is neither the old tree nor the new: {_sizes(found)}"
    torn = [name for name, data in found.items() if data not in (before.get(name), after.get(name))]
    if torn:
        return f"neither old nor new under their final names: {torn}"
    gone = sorted(before.keys() - found.keys())
    return f"gone from the directory: {gone}" if gone else None


def _sizes(found: dict[str, bytes]) -> dict[str, int]:
    return {name: len(data) for name, data in found.items()}


def bytes_on(volume: Path) -> int:
    """Return what the files on a volume take, a file with several names once."""
    inodes = {(found := path.lstat()).st_ino: found for path in volume.rglob("*")}
    return sum(found.st_size for found in inodes.values() if stat.S_ISREG(found.st_mode))
