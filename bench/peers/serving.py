"""The servers: versitygw (a real S3 server) and nginx (the same objects at line rate), plain or with TLS, or by a link.

Starts processes that listen on loopback and ends them; all state lies in the directory that the caller names.
"""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.emulators import make_certificates
from storage import processes, servers

from . import hub, install
from .content import Library, Stored
from .ports import HOST, free_port
from .shapes import Shape

LINK_RTT_SECONDS = 0.040
LINK_BYTES_PER_SECOND = 500_000_000
"""The link: 4 Gbit/s with 40 ms from one end to the other and back."""


@dataclass(frozen=True)
class Endpoint:
    """Where clients ask."""

    url: str
    ca_file: Path | None
    """Authority of the server's certificate."""


@contextmanager
def serve(server: str, trees: Library, shape: Shape, state: Path, *, tls: bool, link: bool) -> Iterator[Endpoint]:
    """Run `versitygw`, `nginx`, or nginx as the `hub`; behind the link if asked for."""
    with ExitStack() as stack:
        pair = _certificates(state / "tls") if tls else None
        start = _versitygw if server == "versitygw" else _nginx
        port = stack.enter_context(start(trees, shape, state, pair))
        if link:
            port = stack.enter_context(_link(state, port))
        yield Endpoint(f"{'https' if tls else 'http'}://{HOST}:{port}", state / "tls" / "ca.crt" if tls else None)


@contextmanager
def _versitygw(trees: Library, shape: Shape, state: Path, pair: servers.Tls | None) -> Iterator[int]:
    del shape  # it serves them all
    port = free_port()
    del state  # versitygw's root, log and pid file lie together
    running = servers.start_versitygw(trees.directory, HOST, port, pair)
    try:
        yield port
    finally:
        running.stop()


@contextmanager
def _nginx(trees: Library, shape: Shape, state: Path, pair: servers.Tls | None) -> Iterator[int]:
    install.ensure_nginx()
    port = free_port()
    directory = state / "nginx"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "etags.map").write_text(_etags(shape, trees.stored(shape)))
    hub_pages = directory / "hub"
    blobs = hub.blobs(shape, trees.directory / f"{shape.name}-hub.json") if hub.is_repository(shape) else []
    hub.write_pages(blobs, hub_pages)
    config = directory / "nginx.conf"
    as_hub = (hub.maps(blobs), hub.locations(hub_pages, trees.buckets / shape.name, shape.name))
    config.write_text(_nginx_config(trees, directory, port, pair, as_hub))
    with _running(["nginx", "-e", str(directory / "error.log"), "-c", str(config)], directory / "nginx", port):
        yield port


def _etags(shape: Shape, stored: list[Stored]) -> str:
    return "".join(f'"/{shape.name}/{one.key}" \'"{one.etag}"\';\n' for one in stored)


def _nginx_config(trees: Library, directory: Path, port: int, pair: servers.Tls | None, as_hub: tuple[str, str]) -> str:
    # Workers that are nobody could not read the cache of root.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    tls = ""
    if pair:
        tls = f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key}; ssl_session_cache shared:s:8m;"
    return f"""\
load_module {install.HEADERS_MODULE};
daemon off;
{user}
pid {directory}/pid;
worker_processes 2;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  error_log {directory}/error.log;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 10000000;
  keepalive_timeout 75s;
  types {{ }}
  default_type binary/octet-stream;
  map_hash_max_size 262144;
  map_hash_bucket_size 256;
  map $uri $object_etag {{ include {directory}/etags.map; }}
  map $args $page {{ default 000000; "~continuation-token=(?<token>[0-9]+)" $token; }}
{as_hub[0]}
  server {{
    listen {HOST}:{port}{" ssl" if pair else ""} backlog=4096;
    {tls}
    etag off;
{as_hub[1]}
    location ~ ^/(?<bucket>[a-z]+)/?$ {{
      default_type application/xml;
      alias {trees.pages}/$bucket/$page.xml;
    }}
    location / {{
      root {trees.buckets};
      # nginx would compare it with an ETag of its own making; the objects do not change here.
      more_clear_input_headers If-Match;
      add_header ETag $object_etag;
    }}
  }}
}}
"""


@contextmanager
def _link(state: Path, upstream: int) -> Iterator[int]:
    port = free_port()
    command = [
        str(install.link()), "-listen", f"{HOST}:{port}", "-upstream", f"{HOST}:{upstream}",
        "-rtt", f"{LINK_RTT_SECONDS}s", "-rate", str(LINK_BYTES_PER_SECOND),
    ]  # fmt: skip
    with _running(command, state / "link", port):
        yield port


@contextmanager
def _running(command: list[str], state: Path, port: int) -> Iterator[None]:
    """Run a server until the end of the block; it has to listen within READY_SECONDS."""
    state.mkdir(parents=True, exist_ok=True)
    log = state / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_for(process, port, log)
        yield
    finally:
        process.terminate()
        process.wait(processes.STOP_SECONDS)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + servers.READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _listens(port):
            return
        time.sleep(processes.POLL_SECONDS)
    raise servers.ServerError(f"{process.args!r} does not listen; it says:\n{log.read_text(errors='replace')[-2000:]}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _certificates(directory: Path) -> servers.Tls:
    """Make an authority and a certificate for loopback, valid for two days."""
    made = make_certificates(directory, HOST)
    return servers.Tls(made.certificate, made.key)
