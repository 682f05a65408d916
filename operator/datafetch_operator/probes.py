"""The HTTP server for kubelet's probes and for Prometheus: /healthz, /readyz and /metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from datafetch_operator.errors import OperatorError

_STUCK_SECONDS = 300


@asynccontextmanager
async def serve_probes(
    host: str, port: int, longest_work: Callable[[], float], is_ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve as long as the context is open."""

    async def healthz(_: web.Request) -> web.Response:
        seconds = longest_work()
        if seconds < _STUCK_SECONDS:
            return web.Response(text="ok\n")
        return web.Response(status=503, text=f"one reconcile has been running for {seconds:.0f} s\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if is_ready() else web.Response(status=503, text="not ready\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise OperatorError(f"the probes cannot listen on {host}:{port}: {error.strerror or error}") from error
        yield
    finally:
        await runner.cleanup()
