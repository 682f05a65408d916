"""How much memory this process may use, as its cgroups say, version 1 and 2. Reads /proc and the cgroups' files only.

The limit of a cgroup holds for all below it, so the least on the way from the process's own to the top that can be seen
counts. What a container sees of its cgroups differs: with a cgroup namespace its own looks like the root; without, only
its own subtree may be mounted, and /proc/self/cgroup names a path that is not there.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

_VERSION_1 = ("memory.limit_in_bytes",)
_VERSION_2 = ("memory.max", "memory.high")
"""Above the first a process is killed; above the second it is slowed down until it is below."""
_UNLIMITED = 1 << 60
"""What version 1 says where there is no limit is above this."""
DEFAULT_BUDGET = 64 << 20


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """A mounted cgroup hierarchy that may hold memory limits."""

    mount_point: str
    root: str
    """Which cgroup is mounted there."""
    cgroup: str
    """The cgroup of this process."""
    files: tuple[str, ...]

    def directories(self) -> Iterator[str]:
        """Yield the process's own cgroup and those above it, as far as they are mounted."""
        inside = os.path.relpath(self.cgroup, self.root)
        # A process that is not below what is mounted: what is mounted is all that can be known.
        parts = [] if inside == "." or inside.startswith("..") else inside.split("/")
        for count in range(len(parts), -1, -1):
            yield "/".join([self.mount_point, *parts[:count]])


def memory_limit(root: str = "") -> int | None:
    """Return the memory limit in bytes, or None where there is none, or nothing says so.

    `root` is put before every path that is read.
    """
    limits = [
        limit
        for hierarchy in _hierarchies(root)
        for directory in hierarchy.directories()
        for name in hierarchy.files
        if (limit := _limit(f"{root}{directory}/{name}")) is not None
    ]
    return min(limits, default=None)


def buffer_budget(limit: int | None) -> int:
    """Return the bytes that transfer buffers may take: a quarter of the limit, the rest is the program's and plan's."""
    return DEFAULT_BUDGET if limit is None else limit // 4


def _hierarchies(root: str) -> Iterator[_Hierarchy]:
    """Find the hierarchies (cgroups(7), proc_pid_mountinfo(5))."""
    cgroups: dict[str, str] = {}
    for line in _lines(f"{root}/proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # Version 2 names no controllers.
        cgroups.update(dict.fromkeys(controllers.split(","), path))
    for line in _lines(f"{root}/proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(" "), system.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        place = (_unescape(fields[4]), _unescape(fields[3]))
        if kind[0] == "cgroup2":
            yield _Hierarchy(*place, cgroups.get("", "/"), _VERSION_2)
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            yield _Hierarchy(*place, cgroups.get("memory", "/"), _VERSION_1)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _limit(path: str) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _unescape(text: str) -> str:
    """Return a path of mountinfo, where spaces and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
