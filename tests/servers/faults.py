"""A reverse proxy that misbehaves as planned, in front of any HTTP server: S3, GCS, Azure.

    with FaultProxy("127.0.0.1", 17070) as proxy:
        proxy.pace.rate = 5_000_000                        # bytes/s of all responses together
        proxy.faults.add(Fault(status=503, retry_after="1"), times=3)
        proxy.max_concurrency = 4                          # 503 SlowDown to what comes above
        download(endpoint=proxy.url)

    python3 -m servers.faults --listen 127.0.0.1:17071 --upstream 127.0.0.1:17070 --rate 5M

Requests pass unchanged, the Host header too: Signature Version 4 signs it, and the server behind checks its signature
against the Host that it receives. While it runs, GET /.faults answers with what it has seen and PUT /.faults changes
the settings; no bucket can have that name.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import signal
from collections.abc import Iterator
from pathlib import Path

from .plans import Fault
from .serving import CHUNK_BYTES, Request, Response, Server, slow_down, text_response

CONTROL_PATH = "/.faults"
OPTIONS = {
    "rate": "rate",
    "latency": "latency",
    "max_concurrency": "maxConcurrency",
    "fail_first": "failFirst",
    "retry_after": "retryAfter",
    "cut_after": "cutAfter",
    "cut_first": "cutFirst",
}
"""The command's options and the names of the same settings at the control path."""
SETTINGS = frozenset(OPTIONS.values())
ENDING = frozenset({signal.SIGTERM, signal.SIGINT})

# These belong to one connection: RFC 9110, 7.6.1. Expect has been answered by this server already.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "expect"}
)


@dataclasses.dataclass(frozen=True)
class Upstream:
    """Address of the server behind, which speaks plain HTTP."""

    host: str
    port: int


class FaultProxy(Server):
    """Passes requests on to `upstream_host:upstream_port`; with a certificate it ends TLS in front of it."""

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.latency = 0.0
        """Seconds added before each request is passed on."""
        self.max_concurrency: int | None = None
        """More requests in progress than this are answered with 503 SlowDown."""
        self.retry_after: str | None = None
        """Retry-After of those answers."""
        self._upstream = Upstream(upstream_host, upstream_port)
        super().__init__(self._pass_on, host, port, certificate)

    def statistics(self) -> dict[str, int]:
        """What has passed until now."""
        exchanges = [exchange for exchange in self.traffic.exchanges if exchange.path != CONTROL_PATH]
        return {
            "requests": len(exchanges),
            "bytes": sum(exchange.sent for exchange in exchanges),
            "peakConcurrency": self.traffic.peak,
            "refused": sum(exchange.status == 503 for exchange in exchanges),
        }

    def change(self, settings: dict[str, object]) -> None:
        """Apply settings by the names of SETTINGS; rules for the first n requests begin to count anew.

        Raises ValueError for an unknown name, TypeError or ValueError for what is no number.
        """
        unknown = sorted(set(settings) - SETTINGS)
        if unknown:
            raise ValueError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(SETTINGS))}")
        if "rate" in settings:
            self.pace.rate = _number(settings, "rate")
        self.latency = _number(settings, "latency") or (0.0 if "latency" in settings else self.latency)
        if "maxConcurrency" in settings:
            limit = _number(settings, "maxConcurrency")
            self.max_concurrency = None if limit is None else int(limit)
        if "retryAfter" in settings:
            self.retry_after = None if settings["retryAfter"] is None else str(settings["retryAfter"])
        if {"failFirst", "cutAfter"} & set(settings):
            self._plan(_number(settings, "failFirst"), _number(settings, "cutAfter"), _number(settings, "cutFirst"))

    def _plan(self, fail_first: float | None, cut_after: float | None, cut_first: float | None) -> None:
        self.faults.clear()
        if fail_first:
            refusal = Fault(status=503, retry_after=self.retry_after)
            self.faults.add(refusal, times=int(fail_first), when=lambda exchange: exchange.path != CONTROL_PATH)
        if cut_after is not None:
            # Only what is longer is cut, so that listings pass.
            times = 1 if cut_first is None else int(cut_first)
            self.faults.add(Fault(cut_after=int(cut_after)), times=times, path="/?*/?*")

    def _pass_on(self, request: Request) -> Response:
        if request.exchange.path == CONTROL_PATH:
            return self._control(request)
        if self.max_concurrency is not None and request.in_progress > self.max_concurrency:
            return slow_down(503, self.retry_after)
        self.wait(self.latency)
        # A new one each time: one that was kept may have been closed by the server behind when it is needed.
        connection = http.client.HTTPConnection(
            self._upstream.host, self._upstream.port, timeout=60, blocksize=CHUNK_BYTES
        )
        try:
            return self._forward(connection, request)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return text_response(502, f"upstream {self._upstream.host}:{self._upstream.port}: {error}")

    def _control(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self.change(json.loads(b"".join(request.body)))
            except (ValueError, TypeError) as error:
                return text_response(400, str(error))
        body = json.dumps(self.statistics()).encode()
        return Response(200, (("Content-Type", "application/json"),), body, len(body))

    def _forward(self, connection: http.client.HTTPConnection, request: Request) -> Response:
        chunked = request.header("transfer-encoding") is not None
        connection.putrequest(request.method, request.exchange.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.header_items:
            if name.lower() not in _HOP_BY_HOP:
                connection.putheader(name, value)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(request.body, encode_chunked=chunked)
        answer = connection.getresponse()
        headers = tuple(
            (name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP | {"content-length"}
        )
        length = answer.headers["Content-Length"]
        return Response(
            answer.status,
            headers,
            _Body(connection, answer),
            None if length is None else int(length),
        )


@dataclasses.dataclass(frozen=True)
class _Body:
    """A response's body as it arrives from the server behind; a generator would not close what it never began."""

    connection: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    def __iter__(self) -> Iterator[bytes]:
        while data := self.answer.read1(CHUNK_BYTES):
            yield data

    def close(self) -> None:
        """Close the connection to the server behind."""
        self.answer.close()
        self.connection.close()


def _number(settings: dict[str, object], name: str) -> float | None:
    value = settings.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{name} is {value!r}, not a number")
    return size(value) if isinstance(value, str) else float(value)


def size(text: str) -> float:
    """A number with an optional decimal suffix: `5M` is 5,000,000; `5Mi` is 5,242,880."""
    factors = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    for suffix in sorted(factors, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factors[suffix]
    return float(text)


def _address(text: str) -> Upstream:
    host, _, port = text.rpartition(":")
    return Upstream(host, int(port))


def main() -> None:
    """Run a proxy until SIGTERM or SIGINT, then print what passed as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m servers.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listen", type=_address, required=True, metavar="IP:PORT")
    parser.add_argument("--upstream", type=_address, required=True, metavar="IP:PORT")
    parser.add_argument("--rate", type=size, help="bytes/s of all responses together, for example 5M")
    parser.add_argument("--latency", type=float, help="seconds added to each request")
    parser.add_argument("--max-concurrency", type=int, help="answer 503 SlowDown above this many requests at once")
    parser.add_argument("--fail-first", type=int, help="answer the first N GET requests with 503 SlowDown")
    parser.add_argument("--retry-after", help="Retry-After header of the 503 answers")
    parser.add_argument("--cut-after", type=size, help="close the connection after this many bytes of a response")
    parser.add_argument("--cut-first", type=int, help="do that to the first N GET requests for an object (default: 1)")
    arguments = vars(parser.parse_args())
    listen, upstream = arguments.pop("listen"), arguments.pop("upstream")
    settings = {name: arguments[option] for option, name in OPTIONS.items() if arguments[option] is not None}
    # Before the server's threads exist: they inherit the mask, so that the signals wait for sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    with FaultProxy(upstream.host, upstream.port, listen.host, listen.port) as proxy:
        proxy.change(settings)
        print(f"{proxy.url} -> {upstream.host}:{upstream.port}", flush=True)
        signal.sigwait(ENDING)
        print(json.dumps(proxy.statistics()), flush=True)


if __name__ == "__main__":
    main()
