"""`--role webhook` as it runs in its pod: two processes, an API server, and a stream of questions that never stops."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from unit.operator import pki
from unit.operator.kubeconfig import write_kubeconfig

Json = dict[str, Any]


def _review(fetch: str) -> bytes:
    pod = {
        "metadata": {"generateName": "app-", "annotations": {"datafetch.io/fetch": fetch}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    request = {"uid": "u1", "namespace": "team", "operation": "CREATE", "object": pod}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return json.dumps(review).encode()


@dataclass
class Replica:
    """One process of the webhook, as its Service and kubelet see it."""

    process: asyncio.subprocess.Process
    directory: Path
    port: int
    health_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/inject"

    async def is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"http://127.0.0.1:{self.health_port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def serves_what(self, bundle: bytes) -> bool:
        """Say whether a new connection gets a certificate by this CA."""
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=pki.trust(bundle), server_hostname=pki.NAME
            )
        except OSError:
            return False
        writer.close()
        return True


class Stream:
    """Asks without a pause, as the API server does: connections are kept, new ones go to what is ready."""

    def __init__(self, replicas: list[Replica], bundle: bytes) -> None:
        self._replicas = replicas
        self._context = pki.trust(bundle)
        self._ready: list[Replica] = []
        self.answered = {replica.port: 0 for replica in replicas}

    @asynccontextmanager
    async def flow(self) -> AsyncIterator[None]:
        """Ask as long as the context is open; any question without an answer fails it."""
        async with aiohttp.ClientSession() as session:
            await self._look(session)
            tasks = [asyncio.create_task(self._keep_looking(session))]
            tasks += [asyncio.create_task(self._ask(keeps)) for keeps in [1, 3, 1000, 1000]]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                unanswered = [each for each in ended if not isinstance(each, asyncio.CancelledError)]
            assert unanswered == []

    async def _keep_looking(self, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self._look(session)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        """Find out who is ready; the nodes of a cluster hear of it about that late."""
        self._ready = [replica for replica in self._replicas if await replica.is_ready(session)]

    async def _ask(self, keeps: int) -> None:
        """Ask again and again, with so many questions on a connection, unless the answer says that it ends."""
        turn = 0
        while True:
            turn += 1
            replica = self._ready[turn % len(self._ready)]
            async with aiohttp.ClientSession() as session:
                for _ in range(keeps):
                    if await self._question(session, replica) == "close":
                        break

    async def _question(self, session: aiohttp.ClientSession, replica: Replica) -> str | None:
        request = session.post(replica.url, data=_review("missing"), ssl=self._context, server_hostname=pki.NAME)
        async with request as answer:
            response = (await answer.json())["response"]
        assert "no DataFetch 'missing'" in response["status"]["message"], response
        self.answered[replica.port] += 1
        await asyncio.sleep(0.01)  # Two processors are shared with other tests.
        return answer.headers.get("Connection")


@asynccontextmanager
async def _api_server() -> AsyncIterator[str]:
    """Serve an API that has no DataFetch, and gives no answer about one."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/datafetches/slow"):
            await asyncio.Event().wait()
        if request.path.endswith("/datafetches"):
            return web.json_response({"items": []})
        return web.json_response({"kind": "Status", "reason": "NotFound", "message": "not found"}, status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _prepare(directory: Path, api_server: str) -> dict[str, str]:
    """Make the directory and a kubeconfig; return the environment that names them."""
    directory.mkdir()
    kubeconfig = directory.with_suffix(".yaml")
    write_kubeconfig(kubeconfig, api_server)
    return {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(kubeconfig),
        "DATAFETCH_DOWNLOADER_IMAGE": "example.org/df:1",
        "DATAFETCH_WEBHOOK_CERTIFICATES": str(directory),
    }


@asynccontextmanager
async def _replica(directory: Path, api_server: str) -> AsyncIterator[Replica]:
    port, health_port = _free_ports(2)
    environ = _prepare(directory, api_server) | {
        "DATAFETCH_WEBHOOK_ADDRESS": f"127.0.0.1:{port}",
        "DATAFETCH_HEALTH_ADDRESS": f"127.0.0.1:{health_port}",
    }
    command = [sys.executable, "-m", "datafetch_operator", "--role", "webhook"]
    with directory.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=log)
    try:
        yield Replica(process, directory, port, health_port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process cannot set an event
            await asyncio.sleep(0.05)


async def _wait_until_ready(replicas: list[Replica]) -> None:
    async with aiohttp.ClientSession() as session:
        for replica in replicas:
            await _until(partial(replica.is_ready, session), 60)


@pytest.mark.timeout(120)
def test_none_is_refused_while_certificates_rotate_and_a_replica_ends(tmp_path: Path) -> None:
    old, new = pki.new_pair(), pki.new_pair()

    async def run() -> None:
        async with AsyncExitStack() as stack:
            api_server = await stack.enter_async_context(_api_server())
            replicas = [await stack.enter_async_context(_replica(tmp_path / name, api_server)) for name in ("a", "b")]
            for replica in replicas:
                pki.mount(replica.directory, old)
            await _wait_until_ready(replicas)
            # The bundle has both CAs before the first pod serves by the new one.
            stream = Stream(replicas, old["ca.crt"] + new["ca.crt"])
            async with stream.flow():
                await _rotate(replicas, new)
                await _end(replicas[0], stream)
            assert stream.answered[replicas[1].port] > 50

    asyncio.run(run())
    assert "Traceback" not in (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()


async def _rotate(replicas: list[Replica], new: Any) -> None:
    for replica in replicas:
        pki.mount(replica.directory, new)
        await _until(partial(replica.serves_what, new["ca.crt"]), 20)


async def _end(replica: Replica, stream: Stream) -> None:
    """Send SIGTERM: no longer ready at once, but serving for a while; then everything ends by itself."""
    replica.process.send_signal(signal.SIGTERM)
    async with aiohttp.ClientSession() as session:

        async def is_unready() -> bool:
            return not await replica.is_ready(session)

        await _until(is_unready, 2)
    answered = dict(stream.answered)
    await asyncio.sleep(0.5)
    context = pki.trust(*[(replica.directory / "ca.crt").read_bytes()])
    async with (
        aiohttp.ClientSession() as session,
        session.post(replica.url, data=_review("missing"), ssl=context, server_hostname=pki.NAME) as answer,
    ):
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await asyncio.wait_for(replica.process.wait(), 30) == 0
    assert stream.answered != answered


@pytest.mark.timeout(60)
def test_an_api_server_that_does_not_answer_is_said_before_the_question_times_out(tmp_path: Path) -> None:
    pair = pki.new_pair()

    async def run() -> tuple[float, Json]:
        async with _api_server() as api_server, _replica(tmp_path / "a", api_server) as replica:
            pki.mount(replica.directory, pair)
            await _wait_until_ready([replica])
            context = pki.trust(pair["ca.crt"])
            started = time.monotonic()
            async with (
                aiohttp.ClientSession() as session,
                session.post(replica.url, data=_review("slow"), ssl=context, server_hostname=pki.NAME) as answer,
            ):
                return time.monotonic() - started, (await answer.json())["response"]

    seconds, response = asyncio.run(run())
    assert seconds < 5
    assert (response["allowed"], response["status"]["code"]) == (False, 503)


def test_the_role_knows_nothing_of_kopf_nor_of_how_certificates_are_made() -> None:
    program = (
        "import sys; from datafetch_operator import __main__, admission, cluster, probes, webhook;"
        "print({'kopf', 'cryptography', 'datafetch_operator.reconcile'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "set()\n"
