"""Running other programs: their output is captured, and a failure becomes a sentence with the end of what they said."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.errors import ClusterError

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""A login shell of an ordinary user has no sbin in its PATH, where iptables lies."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of this process, with the system's folders at the end of PATH."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:{SEARCH_PATH}" if path else SEARCH_PATH, **(extra or {})}


def attempt(*command: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command whose failure the caller judges."""
    argv = [str(part) for part in command]
    try:
        return subprocess.run(argv, input=stdin, env=environment(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: not found")


def run(
    *command: str | Path,
    stdin: str | None = None,
    extra: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command and return what it wrote to its standard output."""
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            argv, input=stdin, env=environment(extra), cwd=cwd, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{argv[0]} is needed and not installed.") from error
    if done.returncode != 0:
        raise ClusterError(f"{_shown(argv)} ended with {done.returncode}: {_tail(done.stderr or done.stdout)}")
    return done.stdout


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
