"""Where things lie: caches that survive `down`, and the state of the running cluster, all outside the work tree."""

import os
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
"""This folder: pinned modules of the binaries to build."""


def cache() -> Path:
    """Return the cache of this project, by the XDG rule."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "datafetch"


def state() -> Path:
    """Return what belongs to the running cluster; `down` removes it."""
    return cache() / "cluster"


def runtime() -> Path:
    """Return the folder of sockets, mounts and pid files: gone after a restart, still there if the cache is deleted."""
    if os.geteuid() == 0:
        return Path("/run/datafetch")
    session = os.environ.get("XDG_RUNTIME_DIR")
    return Path(session) / "datafetch" if session else state() / "run"


def kubeconfig() -> Path:
    """Return the administrator's kubeconfig of the clusters that this tooling starts."""
    return state() / "kubeconfig"


def logs() -> Path:
    """One log file per host process. `down` keeps them, the next `up` starts them anew."""
    return cache() / "logs"


def tools() -> Path:
    """Stable links to the newest built `kubectl`, `helm` and so on."""
    return cache() / "bin"
