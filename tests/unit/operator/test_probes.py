"""What kubelet and Prometheus see."""

import asyncio
import socket

import aiohttp

from datafetch_operator.probes import serve_probes


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _ask(path: str, seconds: float = 0, *, ready: bool = True) -> tuple[int, str]:
    async def run() -> tuple[int, str]:
        port = _free_port()
        async with (
            serve_probes("127.0.0.1", port, lambda: seconds, lambda: ready),
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    return asyncio.run(run())


def test_alive_unless_a_reconcile_never_ends() -> None:
    assert _ask("/healthz") == (200, "ok\n")
    status, text = _ask("/healthz", 301)
    assert (status, "301 s" in text) == (503, True)


def test_ready_once_it_watches() -> None:
    assert _ask("/readyz")[0] == 200
    assert _ask("/readyz", ready=False)[0] == 503


def test_metrics_are_there_to_scrape() -> None:
    status, text = _ask("/metrics")
    assert status == 200
    for name in ("datafetch_reconciles_total", "datafetch_fetches", "datafetch_api_requests_total"):
        assert f"# HELP {name}" in text
    assert "_created" not in text
