"""An ssh server for git: lets one key in and runs `git-upload-pack`, as hosts of repositories do.

    with SshServer(directory, repositories, lfs_url) as server:
        server.url("group/data.git"), server.client_key, server.known_hosts

On a real socket, by asyncssh; the client is the machine's own ssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncssh


class SshServer:
    """A running server; repositories lie below `root`."""

    def __init__(self, root: Path, lfs_url: str = "", lfs_headers: dict[str, str] | None = None) -> None:
        self.root = root
        self.commands: list[str] = []
        """What was asked for."""
        self._lfs = json.dumps({"href": lfs_url, "header": lfs_headers or {}})
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_key = key.export_private_key().decode()
        self._authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh server")
        self._thread.start()
        self._acceptor = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port = self._acceptor.get_port()

    @property
    def known_hosts(self) -> str:
        """What `ssh-keyscan` would print."""
        return f"[127.0.0.1]:{self.port} {self._host_key.export_public_key().decode().strip()}"

    def url(self, name: str) -> str:
        """The address of a repository."""
        return f"ssh://git@127.0.0.1:{self.port}/{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[self._host_key], authorized_client_keys=self._authorized,
            process_factory=self._run, encoding=None,
        )  # fmt: skip

    async def _end(self) -> None:
        self._acceptor.close()
        await self._acceptor.wait_closed()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.commands.append(process.command or "")
        program, *arguments = shlex.split(process.command or "")
        if program == "git-lfs-authenticate":
            process.stdout.write(self._lfs.encode())
            process.exit(0)
            return
        directory = self.root / arguments[-1].strip("/")
        if program != "git-upload-pack" or not directory.is_dir():
            process.stderr.write(b"ERROR: Repository not found.\n")
            process.exit(1)
            return
        child = await asyncio.create_subprocess_exec(
            "git", "upload-pack", str(directory), env=_environment(process),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        given = asyncio.create_task(_copy(process.stdin, child.stdin))
        await asyncio.gather(_copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr))
        code = await child.wait()
        given.cancel()
        process.exit(code)


async def _copy(source: Any, goal: Any) -> None:
    """Hand on bytes to the end; a goal that does not read any more is given none."""
    with contextlib.suppress(ConnectionError, asyncssh.Error):
        while data := await source.read(1 << 16):
            goal.write(data)
            await goal.drain()
        if isinstance(goal, asyncio.StreamWriter):
            goal.close()


def _environment(process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
    settings = {"uploadpack.allowFilter": "true", "safe.directory": "*"}
    found = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    protocol: str | bytes = process.env.get("GIT_PROTOCOL", "")
    return found | {"GIT_PROTOCOL": protocol if isinstance(protocol, str) else protocol.decode()}
