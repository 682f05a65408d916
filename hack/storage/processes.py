"""One server process: started in its own session, found again by its pid file, ended without hitting another.

Touches processes and pid files only; what to start with which flags is `servers.py`. Linux only: the start
time that tells a process from a later one with the same pid is read from /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02
STOP_SECONDS = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""


@dataclass(frozen=True)
class Process:
    """A process that was started here, identified beyond its pid."""

    pid: int
    start_time: int
    """Clock ticks between boot and the start of the process: field 22 of /proc/PID/stat (proc(5))."""

    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not, and is reaped when it is our child."""
        state, start_time = _stat(self.pid)
        if start_time != self.start_time:
            return False
        if state not in "ZX":
            return True
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return False

    def stop(self) -> None:
        """End the process and what it started; returns at once when it has ended already."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.is_alive():
                return
            # It leads its own session, so the group is its own too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            self._wait(STOP_SECONDS)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def start(command: Sequence[str], *, log: Path, pid_file: Path, environment: Mapping[str, str]) -> Process:
    """Start `command` (an absolute path and arguments) in its own session and write `pid_file`.

    Its output goes to `log`. The environment is the given one alone, so that no credentials of the
    developer reach a test server. The process outlives this one until `stop`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawn(
        command[0],
        list(command),
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # Python ignores SIGPIPE, and an ignored signal would stay ignored in the server.
        setsigdef=[signal.SIGPIPE],
    )
    process = Process(pid, _stat(pid)[1])
    pid_file.write_text(json.dumps({"pid": process.pid, "startTime": process.start_time}) + "\n")
    return process


def find(pid_file: Path) -> Process | None:
    """Return the running process that `pid_file` names, or None when there is none."""
    try:
        fields = json.loads(pid_file.read_text())
        process = Process(int(fields["pid"]), int(fields["startTime"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return process if process.is_alive() else None


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time of a process; ("X", 0) when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    # The command name before it may hold spaces and parentheses: fields count from the last one.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])
