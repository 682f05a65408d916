"""Processes of the command on a target directory, as a Job or a user has them: started, signalled, waited for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from chaos.content import STATE, Files, tree
from chaos.origins import Origin
from component.commands import environment

WORKERS = 4
PATH = "model"


@dataclass
class Target:
    """A directory on a volume, in one of the layouts, and the config that brings an origin's files there."""

    directory: Path
    origin: Origin
    managed: bool
    prune: bool = True
    """Whether no pod uses any old revision (managed layout)."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What stands in the config's `transfer`."""
    workers: int = WORKERS

    def __post_init__(self) -> None:
        self.volume.mkdir(parents=True, exist_ok=True)

    @property
    def volume(self) -> Path:
        """Where the volume is mounted."""
        return self.directory / "volume"

    @property
    def root(self) -> Path:
        """Where the files are found; a link in the managed layout."""
        return self.volume / PATH

    @property
    def state(self) -> Path:
        """The downloader's own directory."""
        return self.volume / STATE / PATH if self.managed else self.root / STATE

    @property
    def log(self) -> Path:
        """What all processes said."""
        return self.directory / "log"

    def write_config(self, replaced_before: datetime | None = None) -> Path:
        """Write the config as it is now; return its path. Old revisions replaced before that time may go."""
        owner: dict[str, Any] = {"download_root": str(self.root)}
        if self.managed:
            limit = replaced_before or (datetime.now(UTC) if self.prune else None)
            owner = {
                "managed": {
                    "volume": str(self.volume),
                    "path": PATH,
                    "namespace": "ml",
                    "name": "model",
                    "uid": "u1",
                    "spec_hash": "v1:0",
                    "keep_revisions": 1,
                    "prune_replaced_before": None if limit is None else limit.isoformat(),
                }
            }
        path = self.directory / "config.yaml"
        config = {**owner, "download_items": [self.origin.item()], "transfer": dict(self.settings)}
        path.write_text(yaml.safe_dump(config))
        return path

    def start(self, *, before: Sequence[str] = (), config: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process; `before` is a command that runs it."""
        config = config or self.write_config()
        command = [*before, sys.executable, "-m", "datafetch", "run", str(config), "--max-workers", str(self.workers)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(self.directory, {}),
                start_new_session=True,
            )

    def run(self, seconds: float = 120) -> int:
        """Run a process to its end; return its exit code."""
        return ended(self.start(), seconds)

    def files(self) -> Files | None:
        """The files as a reader finds them; None where there is nothing yet."""
        return tree(self.root.resolve()) if self.root.exists() else None

    def markers(self) -> dict[str, tuple[int, int]]:
        """The manifests, each with what changes when it is written again."""
        found = {}
        for path in sorted((self.state / "manifests").glob("*.json")):
            status = path.stat()
            found[path.name] = (status.st_ino, status.st_mtime_ns)
        return found

    def said(self) -> str:
        """The end of what all processes said, for messages."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def bytes_on_volume(self) -> int:
        """Bytes of all files on the volume; a file with several names counts once."""
        found = {}
        for path in self.volume.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[status.st_ino] = status.st_size
        return sum(found.values())


def ended(process: subprocess.Popen[bytes], seconds: float = 120) -> int:
    """Wait for a process; return its exit code. What hangs is killed, and fails the test."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(process)
        raise


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, with what it started, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Any, seconds: float, what: str) -> None:
    """Wait until a condition holds; fail with what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.005)
