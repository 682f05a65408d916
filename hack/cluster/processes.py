"""Host processes of the cluster, each in its own session, found again by pid files that no recycled pid can fool."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cluster import paths, shell
from cluster.errors import ClusterError

_GRACE_SECONDS = 1.0
"""Nothing of a development cluster outlives it, so nobody gets long to tidy up."""


@dataclass(frozen=True)
class Process:
    """One program to run. Its name is also that of its pid file and its log."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where its standard output and error go."""
        return paths.logs() / f"{self.name}.log"


@dataclass(frozen=True)
class Identity:
    """A process that can't be confused with a later one of the same pid."""

    pid: int
    started: int
    boot: str


def start(process: Process) -> None:
    """Start a program in its own session and remember who it is."""
    _folder().mkdir(parents=True, exist_ok=True)
    paths.logs().mkdir(parents=True, exist_ok=True)
    minimal = {"PATH": shell.SEARCH_PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8"}
    with process.log.open("wb") as log:
        child = subprocess.Popen(
            process.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**minimal, **process.environment},
            cwd="/",
            start_new_session=True,
        )
    identity = {"pid": child.pid, "started": _start_time(child.pid), "boot": _boot()}
    _pid_file(process.name).write_text(json.dumps(identity))


def names() -> list[str]:
    """Return the names of all processes that were started and not stopped."""
    return sorted(path.stem for path in _folder().glob("*.pid"))


def is_running(name: str) -> bool:
    """Whether the process of that name is still the one that was started."""
    identity = _identity(name)
    return identity is not None and _is_alive(identity)


def pid(name: str) -> int:
    """Return the number of a process that runs."""
    identity = _identity(name)
    if identity is None or not _is_alive(identity):
        raise ClusterError(f"{name} does not run.")
    return identity.pid


def stop(which: Iterable[str]) -> None:
    """End these processes and forget them: a signal, a short grace, then SIGKILL."""
    which = list(which)
    alive = {name: who for name in which if (who := _identity(name)) and _is_alive(who)}
    for who in alive.values():
        _signal(who, signal.SIGTERM)
    wait_until(lambda: not any(_is_alive(who) for who in alive.values()), _GRACE_SECONDS)
    for who in alive.values():
        _signal(who, signal.SIGKILL)
    wait_until(lambda: not any(_is_alive(who) for who in alive.values()), 10)
    for name in which:
        _pid_file(name).unlink(missing_ok=True)


def kill_container_shims(socket: Path) -> None:
    """End the container shims of the containerd at this socket; they outlive it by design."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"containerd-shim" in argv[0] and str(socket).encode() in argv:
            kill(int(entry.name))


def kill(pid: int) -> None:
    """SIGKILL; a process that has gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Poll until the condition holds; False if it doesn't within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True


def _folder() -> Path:
    return paths.runtime() / "processes"


def _pid_file(name: str) -> Path:
    return _folder() / f"{name}.pid"


def _identity(name: str) -> Identity | None:
    try:
        return Identity(**json.loads(_pid_file(name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _is_alive(who: Identity) -> bool:
    return who.boot == _boot() and who.started != 0 and _start_time(who.pid) == who.started


def _signal(who: Identity, number: signal.Signals) -> None:
    if not _is_alive(who):
        return
    try:
        os.kill(who.pid, number)
    except ProcessLookupError:
        return


def _start_time(pid: int) -> int:
    """Clock ticks since boot at which the process started (proc(5), field 22); 0 for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
