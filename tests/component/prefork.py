"""Many runs of the command `datafetch` in little time: each is a fork of a process that has imported everything.

What a run prints, how it ends and what it leaves is that of the real command. Waits before another try are cut short.

    with prefork() as runs:
        done = runs.datafetch("run", "config.yaml", cwd=tmp_path)
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from component.commands import Run, environment

_MODULES = (
    "datafetch.engine",
    "datafetch.cli",
    "datafetch.report",
    "datafetch.terminal",
    "datafetch.sources.s3",
    "datafetch.sources.gcs",
    "datafetch.sources.azure_blob",
    "datafetch.sources.hugging_face",
    "datafetch.sources.http",
    "rich.progress",
)
_LONGEST_WAIT = 0.01
_LONGEST_RUN = 15.0
"""Seconds after which a run that hangs is killed; its code is then -9."""


class Prefork:
    """The process that forks; runs come one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.peak = 0
        """The most memory that the last run had, in bytes; what was imported before it counts."""

    def datafetch(self, *arguments: str | Path, cwd: Path, trouble: str | None = None, **more: str) -> Run:
        """Run the command in a directory, with more environment variables.

        `trouble` is the text of errors that are raised in the midst of it, in the run and in a thread beside it.
        """
        job: dict[str, Any] = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "environment": environment(cwd, {"HF_HUB_OFFLINE": "0", **more}),
            "trouble": trouble,
            "stdout": str(cwd.parent / f"{cwd.name}.stdout"),
            "stderr": str(cwd.parent / f"{cwd.name}.stderr"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code, self.peak = map(int, self._process.stdout.readline().split())
        return Run(code, Path(job["stdout"]).read_text(), Path(job["stderr"]).read_text())


@contextmanager
def prefork() -> Iterator[Prefork]:
    """Start the process, and end it."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-m", "component.prefork"],
        env={**environment(Path.cwd(), {}), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Prefork(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    _hurry()
    for name in _MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        # The timer of the run before must have ended: a fork copies no threads.
        child = os.fork()
        if not child:
            _become(job)
        end = threading.Timer(_LONGEST_RUN, os.kill, (child, signal.SIGKILL))
        end.start()
        _, status, used = os.wait4(child, 0)
        end.cancel()
        end.join()
        print(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, flush=True)


def _hurry() -> None:
    from datafetch import pace

    sleep, wait_before_retry = time.sleep, pace.wait_before_retry

    def soon(*arguments: Any, **options: Any) -> float | None:
        wait = wait_before_retry(*arguments, **options)
        return None if wait is None else min(wait, _LONGEST_WAIT)

    def nap(seconds: Any) -> None:
        sleep(min(seconds, _LONGEST_WAIT))

    time.sleep = nap
    pace.wait_before_retry = soon


def _become(job: dict[str, Any]) -> None:
    """Be the command: never returns."""
    from datafetch.__main__ import main

    os.chdir(job["cwd"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["datafetch", *job["arguments"]]
    if job["trouble"]:
        _make_trouble(job["trouble"])
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _make_trouble(text: str) -> None:
    from datafetch.progress import ProgressTracker

    def fail(*_: Any) -> None:
        aside = threading.Thread(target=_raise, args=(text,), name="aside")
        aside.start()
        aside.join()
        _raise(text)

    ProgressTracker.source_listed = fail  # type: ignore[method-assign,assignment]  # the trouble that is asked for


def _raise(text: str) -> None:
    raise RuntimeError(text)


if __name__ == "__main__":
    _serve()
