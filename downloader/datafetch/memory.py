"""How much memory this process may use, as its cgroup says. Reads the cgroup's files, nothing else."""

from collections.abc import Sequence

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""The container's own limit under cgroup v2 and v1, as a container sees it."""
_UNLIMITED = 1 << 60
"""What v1 says where there is no limit is above this."""
DEFAULT_BUDGET = 512 << 20


def memory_limit(files: Sequence[str] = _LIMITS) -> int | None:
    """Return the memory limit in bytes, or None where there is none, or nothing says so."""
    for path in files:
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _UNLIMITED:
            return int(text)
    return None


def buffer_budget(limit: int | None) -> int:
    """Return the bytes that transfer buffers may take: a quarter of the limit, the rest is the program's and plan's."""
    return DEFAULT_BUDGET if limit is None else limit // 4
