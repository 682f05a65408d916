"""Pinned storage servers, built once into the user's cache.

May run `go` and `npm` and write below the cache directory. Starting what lies there is `processes.py`
and `servers.py`. Runs before any environment of the project exists: standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NICENESS = 10
"""Builds yield to whatever else the machine does: a cluster is often being built next to them."""


class InstallError(Exception):
    """A server could not be installed; the message is one sentence with the remedy."""


class Server(Protocol):
    """A server of one pinned version that can be built."""

    @property
    def name(self) -> str:
        """Name of the program."""

    @property
    def version(self) -> str:
        """The pinned version, without a `v`."""

    @property
    def executable(self) -> str:
        """Path of the program below its installation directory."""

    def build(self, directory: Path) -> None:
        """Install into an empty directory. Raises InstallError."""


@dataclass(frozen=True)
class GoServer:
    """A server that `go install` builds from one package of a module."""

    name: str
    version: str
    package: str

    @property
    def executable(self) -> str:
        """Path of the program below its installation directory."""
        return self.name

    def build(self, directory: Path) -> None:
        """Build the program into `directory`."""
        go = _tool("go", "install Go 1.25 or newer and put it on PATH")
        # Without cgo the binary also runs where the machine's libc is not: in a `FROM scratch` pod.
        environment = {**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0"}
        _run([go, "install", "-trimpath", "-ldflags=-s -w", f"{self.package}@v{self.version}"], environment)


@dataclass(frozen=True)
class NpmServer:
    """A server that comes as an npm package."""

    name: str
    version: str
    executable: str

    def build(self, directory: Path) -> None:
        """Install the package and what it depends on into `directory`."""
        npm = _tool("npm", "install Node.js 20 or newer with npm (Debian: apt-get install nodejs npm)")
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", "--ignore-scripts"]
        package = f"{self.name}@{self.version}"
        _run([npm, "install", "--prefix", str(directory), *quiet, package], dict(os.environ))


VERSITYGW = GoServer("versitygw", "1.8.0", "github.com/versity/versitygw/cmd/versitygw")
FAKE_GCS_SERVER = GoServer("fake-gcs-server", "1.56.1", "github.com/fsouza/fake-gcs-server")
AZURITE = NpmServer("azurite", "3.37.0", "node_modules/.bin/azurite-blob")

SERVERS: tuple[Server, ...] = (VERSITYGW, FAKE_GCS_SERVER, AZURITE)


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/datafetch/storage`, with `~/.cache` where the variable is unset."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "datafetch" / "storage"


def install(server: Server) -> Path:
    """Return the server's program, installing it first if it is not there.

    Safe to call from several processes at once: one installs, the others wait. The directory gets its
    final name only when the build has succeeded, so that an interrupted one is done again.

    Raises InstallError when a tool is missing or the build fails.
    """
    directory = cache_directory() / f"{server.name}-{server.version}"
    program = directory / server.executable
    if program.exists():
        return program
    with _locked(directory.with_name(f"{server.name}.lock")):
        if not program.exists():
            _install_into(directory, server)
    return program


def _install_into(directory: Path, server: Server) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{server.name}-", dir=directory.parent) as staging:
        build = Path(staging) / "build"
        build.mkdir()
        server.build(build)
        if not (build / server.executable).exists():
            raise InstallError(f"{server.name} {server.version}: the build left no {server.executable}.")
        build.rename(directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tool(name: str, remedy: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InstallError(f"{name} is not on PATH, and the storage servers are built with it: {remedy}.")
    return found


def _run(command: list[str], environment: dict[str, str]) -> None:
    nice = shutil.which("nice")
    prefix = [nice, "-n", str(NICENESS)] if nice else []
    done = subprocess.run([*prefix, *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
    raise InstallError(f"`{' '.join(command)}` failed with exit code {done.returncode}:\n{tail}")
