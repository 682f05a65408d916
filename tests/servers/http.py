"""A web server with files, and every way in which web servers differ: ranges or none, lengths or none, lies, redirects.

with StaticServer() as server:
    server.put("/a/big.bin", data)
    server.faults.add(Fault(cut_after=1000), times=2)
    fetch(server.url + "/a/big.bin")
    assert server.traffic.peak <= 4
"""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from .content import DEFAULT_MODIFIED, Content, content, serve
from .plans import Fault, FaultPlan
from .serving import Request, Response, Server, text_response
from .traffic import Exchange, Traffic

__all__ = ["Exchange", "Fault", "FaultPlan", "Manners", "StaticServer", "Traffic"]


@dataclass(frozen=True)
class Manners:
    """How a server treats one path; the default is a well-behaved one."""

    ranges: bool = True
    """False: Range is ignored, and no Accept-Ranges is sent."""
    chunked: bool = False
    """True: chunked transfer coding, no Content-Length."""
    head: bool = True
    """False: HEAD is answered with 405."""
    length_error: int = 0
    """Bytes by which the claimed Content-Length of a GET differs from what is sent."""
    headers: tuple[tuple[str, str], ...] = ()
    """More response headers, for example Content-Disposition."""


@dataclass(frozen=True)
class _Swap:
    content: Content
    after: int


class StaticServer(Server):
    """Serves what `put` gave it; paths begin with `/` and are decoded."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[Content, Manners]] = {}
        self._redirects: dict[str, tuple[int, str]] = {}
        self._swaps: dict[str, _Swap] = {}
        self._authorization: str | None = None
        super().__init__(self._page, host, port, certificate)

    def put(
        self,
        path: str,
        data: bytes,
        manners: Manners | None = None,
        *,
        etag: str | None = "",
        modified: float | None = DEFAULT_MODIFIED,
    ) -> str | None:
        """Serve `data` at `path` from the next request on; return its ETag.

        `etag` (with its quotes) is the MD5 when left out; None for either validator: that header is not sent.
        Without `manners`, a path that is there keeps its own.
        """
        made = content(data, modified)
        found = made if etag == "" else replace(made, etag=etag)
        with self._lock:
            kept = self._files[path][1] if path in self._files else Manners()
            self._files[path] = (found, manners or kept)
        return found.etag

    def content_of(self, path: str) -> bytes:
        """Return what is served at `path`."""
        with self._lock:
            return bytes(self._files[path][0].data)

    def remove(self, path: str) -> None:
        """Answer 404 for `path` from the next request on."""
        with self._lock:
            self._files.pop(path, None)

    def swap(self, path: str, data: bytes, *, after: int) -> None:
        """Replace the bytes at `path` once `after` GET requests for it have been answered with the old ones."""
        with self._lock:
            self._swaps[path] = _Swap(content(data, DEFAULT_MODIFIED + 60), after)

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        """Answer requests for `path` with a redirect."""
        with self._lock:
            self._redirects[path] = (status, location)

    def require_basic(self, user: str, password: str) -> None:
        """Answer 401 to every request without these credentials."""
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def require_bearer(self, token: str) -> None:
        """Answer 401 to every request without this token."""
        self._authorization = f"Bearer {token}"

    def _page(self, request: Request) -> Response:
        if self._authorization not in {None, request.header("authorization")}:
            scheme = str(self._authorization).split(" ", maxsplit=1)[0]
            return text_response(401, "credentials are needed", ("WWW-Authenticate", f'{scheme} realm="test"'))
        if request.method not in {"GET", "HEAD"}:
            return text_response(405, "method not allowed", ("Allow", "GET, HEAD"))
        path = request.exchange.path
        with self._lock:
            if path in self._redirects:
                status, location = self._redirects[path]
                return text_response(status, "elsewhere", ("Location", location))
            if path not in self._files:
                return text_response(404, "not found")
            self._swap_if_due(path, request.method)
            found, manners = self._files[path]
        return _with_manners(request, found, manners)

    def _swap_if_due(self, path: str, method: str) -> None:
        planned = self._swaps.get(path)
        if planned is None or method != "GET":
            return
        if planned.after > 0:
            self._swaps[path] = replace(planned, after=planned.after - 1)
            return
        self._files[path] = (planned.content, self._files[path][1])
        del self._swaps[path]


def _with_manners(request: Request, found: Content, manners: Manners) -> Response:
    if request.method == "HEAD" and not manners.head:
        return text_response(405, "method not allowed", ("Allow", "GET"))
    if manners.ranges:
        response = serve(request, found, manners.headers)
    else:
        headers = (*found.validators, *manners.headers)
        response = Response(200, headers, found.data, len(found.data))
    if response.status not in {200, 206}:
        return response
    if manners.chunked:
        return replace(response, length=None)
    if request.method == "GET" and response.length is not None:
        return replace(response, length=response.length + manners.length_error)
    return response
