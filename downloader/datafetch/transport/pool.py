"""Connections kept alive between requests, one stack for each destination; proxies and TLS.

Opens sockets; raises OSError, ssl.SSLError and InvalidConfigError (a proxy or certificate file that cannot work). What
goes over a connection is `connection`'s and `client`'s business.
"""

import base64
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from datafetch.errors import InvalidConfigError
from datafetch.transport.addresses import may_redirect, reach
from datafetch.transport.authorities import ca_bundle
from datafetch.transport.connection import Connection, render_head
from datafetch.transport.tls import TlsLayer
from datafetch_api.uris import redact_uri

CONNECT_SECONDS = 10.0
_MOST_IDLE = 256
"""Idle connections kept for one destination; more are closed."""
_IDLE_SECONDS = 30.0
"""An older idle connection is not used: a gateway on the way may have dropped it without a word, which only shows as a
stall."""


class ProxyRefusedError(Exception):
    """The proxy did not open a tunnel; says what it answered."""


class ForbiddenRedirectError(Exception):
    """A redirect leads to where its sender may not send us; says what is there."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy and how to log in to it."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class Destination:
    """Where requests go; connections are shared among those with the same one.

    Made by a pool, and the same only as itself: another source may trust other certificates for the same host.
    """

    scheme: str
    host: str
    port: int
    proxy: Proxy | None

    @property
    def authority(self) -> str:
        """Host and port as they stand in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


class Pool:
    """The connections of one source. Thread-safe. `silence` is the seconds that a peer may stay silent."""

    def __init__(self, *, silence: float, ca_file: str | None, environment: Mapping[str, str] = os.environ) -> None:
        self.receive_buffer_bytes: int | None = None
        """What the kernel may hold of each new connection; None leaves it to the kernel."""
        self._silence = silence
        self._patience = min(CONNECT_SECONDS, silence)
        self._ca_file = ca_file
        self._environment = environment
        self._lock = threading.Lock()
        self._idle: dict[Destination, list[Connection]] = {}
        self._busy: set[Connection] = set()
        self._closed = False
        self._context: ssl.SSLContext | None = None
        self._destinations: dict[tuple[str, str, int], Destination] = {}

    def destination(self, scheme: str, host: str, port: int | None) -> Destination:
        """Return the destination of requests to a host, by way of the proxy that the environment names for it."""
        port = port or _default_port(scheme)
        place = (scheme, host, port)
        with self._lock:
            found = self._destinations.get(place)
            if found is None:
                proxy = proxy_for(scheme, host, port, self._environment)
                found = self._destinations[place] = Destination(scheme, host, port, proxy)
            return found

    def take(self, destination: Destination, *, sender: str | None = None, fresh: bool = False) -> Connection:
        """Return a connection for one request: an idle one, unless `fresh`, or a new one.

        `sender` is the `Connection.address` of the server whose redirect is followed. Raises ForbiddenRedirectError
        before anything is sent.
        """
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the source is closed")
            kept = None if fresh else self._take_idle(destination, sender)
            if kept is not None:
                self._busy.add(kept)
                return kept
        connection = self._connect(destination, sender)
        with self._lock:
            if not self._closed:
                self._busy.add(connection)
                return connection
        connection.close()
        raise ConnectionAbortedError("the source is closed")

    def give_back(self, destination: Destination, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end for the next request."""
        connection.reused = True
        connection.idle_since = time.monotonic()
        with self._lock:
            self._busy.discard(connection)
            idle = self._idle.setdefault(destination, [])
            if not self._closed and len(idle) < _MOST_IDLE:
                idle.append(connection)
                return
        connection.close()

    def discard(self, connection: Connection) -> None:
        """Close a connection that cannot be used again."""
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close idle connections and wake up who waits for a busy one."""
        with self._lock:
            self._closed = True
            idle = [connection for stack in self._idle.values() for connection in stack]
            self._idle.clear()
            for connection in self._busy:
                connection.abort()
        for connection in idle:
            connection.close()

    def _take_idle(self, destination: Destination, sender: str | None) -> Connection | None:
        """Return the connection that was used last, where that is not long ago; the lock is held."""
        idle = self._idle.get(destination)
        if not idle:
            return None
        if time.monotonic() - idle[-1].idle_since < _IDLE_SECONDS:
            _check_redirect(sender, idle[-1].address)
            return idle.pop()
        # The last is the youngest: all are too old.
        for connection in idle:
            connection.close()
        idle.clear()
        return None

    def _connect(self, destination: Destination, sender: str | None) -> Connection:
        proxy = destination.proxy
        context = self.tls_context() if destination.scheme == "https" else None
        if proxy:
            _check_redirect(sender, destination.host)
            sock, address = self._open(proxy.host, proxy.port, None)[0], destination.host
        else:
            sock, address = self._open(destination.host, destination.port, sender)
        try:
            tls = None if context is None else self._secure(sock, destination, context)
            connection = Connection(sock, self._silence, tls)
        except BaseException:
            sock.close()
            raise
        connection.address = address
        return connection

    def _open(self, host: str, port: int, sender: str | None) -> tuple[socket.socket, str]:
        """Return a socket that is connected to the first of a host's addresses that answers, and that address."""
        failure = OSError(f"{host} has no address")
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = str(place[0])
            _check_redirect(sender, address)
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.receive_buffer_bytes is not None:
                    # Only what is set before the handshake bounds the window that is offered (tcp(7), SO_RCVBUF).
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
                sock.settimeout(self._patience)
                sock.connect(place)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock, address
        if isinstance(failure, TimeoutError):
            raise ConnectionError(f"no connection to {host}:{port} within {self._patience:g} s")
        raise failure

    def _secure(self, sock: socket.socket, destination: Destination, context: ssl.SSLContext) -> TlsLayer:
        if destination.proxy:
            self._open_tunnel(sock, destination, destination.proxy)
        sock.settimeout(self._patience)
        tls = TlsLayer(sock, context, destination.host)
        tls.shake_hands()
        return tls

    def _open_tunnel(self, sock: socket.socket, destination: Destination, proxy: Proxy) -> None:
        tunnel = Connection(sock, self._silence)
        host = f"[{destination.host}]" if ":" in destination.host else destination.host
        authority = f"{host}:{destination.port}"
        tunnel.send(render_head("CONNECT", authority, {"Host": authority, **proxy.headers}))
        head = tunnel.read_head()
        if head.status != 200:
            raise ProxyRefusedError(f"the proxy {proxy.host}:{proxy.port} answered {head.status} {head.reason}")
        tunnel.detach()

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings of this source, made at first use."""
        with self._lock:
            if self._context is None:
                self._context = tls_context(self._ca_file, self._environment)
            return self._context


def _check_redirect(sender: str | None, goal: str) -> None:
    if sender is not None and not may_redirect(sender, goal):
        raise ForbiddenRedirectError(reach(goal).value)


def tls_context(ca_file: str | None, environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS settings: the environment's authorities, else the system's, else certifi's; and the CA file's.

    Raises InvalidConfigError where a CA file cannot be read.
    """
    named = ca_bundle(environment)
    if named is None and not environment.get("SSL_CERT_DIR"):
        named = _bundled_ca_file()
    trusted = named
    try:
        directory = named is not None and os.path.isdir(named)
        context = ssl.create_default_context(
            cafile=None if directory else named,
            capath=named if directory else None,
        )
        if ca_file is not None:
            trusted = ca_file
            context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificates in PEM"
        raise InvalidConfigError(f"cannot use the CA certificates in {trusted!r}: {reason}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` name for a host, or None.

    `HTTP_PROXY` in capitals is left out for http, as in curl: a web server's CGI sets it from a request's header.
    """
    names = [f"{scheme}_proxy", *([] if scheme == "http" else [f"{scheme.upper()}_PROXY"]), "all_proxy", "ALL_PROXY"]
    url = next((environment[name] for name in names if environment.get(name)), None)
    if url is None or _is_exempt(host, port, environment.get("no_proxy") or environment.get("NO_PROXY") or ""):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise InvalidConfigError(f"the proxy {redact_uri(url)!r} cannot be used; name one as http://HOST:PORT")
    headers = {}
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return Proxy(parts.hostname, parts.port or 80, headers)


def _is_exempt(host: str, port: int, no_proxy: str) -> bool:
    for raw in no_proxy.split(","):
        entry = raw.strip().lower().removeprefix("*").removeprefix(".")
        if raw.strip() == "*":
            return True
        if entry and (host == entry or f"{host}:{port}" == entry or host.endswith("." + entry)):
            return True
    return _is_in_network(host, no_proxy)


def _is_in_network(host: str, no_proxy: str) -> bool:
    if "/" not in no_proxy:
        return False
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if "/" in entry and address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def _bundled_ca_file() -> str | None:
    """Return certifi's certificates where the system has none, as in a slim image."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return None
    import certifi

    return certifi.where()


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


__all__ = [
    "CONNECT_SECONDS",
    "Destination",
    "ForbiddenRedirectError",
    "Pool",
    "Proxy",
    "ProxyRefusedError",
    "proxy_for",
]
