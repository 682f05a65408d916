"""The three storage servers: their flags, ports and development credentials, and how to tell that they answer.

Starts processes through `processes.py` from what `install.py` built; keeps all it writes below the state
directory that the caller names. Putting objects in is `fill.py`. The tests start the same servers through
`tests/servers/emulators.py`.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from . import processes
from .install import AZURITE, FAKE_GCS_SERVER, VERSITYGW, Server, install

S3_PORT = 17070
GCS_PORT = 14443
AZURE_PORT = 11000

# Well-known development values, like azurite's own account: they protect nothing and are meant to be printed.
S3_ACCESS_KEY = "datafetch"
S3_SECRET_KEY = "datafetch-development"  # noqa: S105 (see above)
S3_REGION = "us-east-1"
GCS_PROJECT = "datafetch"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

READY_SECONDS = 60.0
"""How long a server may take until it answers; node needs a few seconds on a busy machine."""


class ServerError(Exception):
    """A server could not be started, or is not running; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Tls:
    """Absolute paths of a PEM certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url`."""

    url: str
    log: Path
    process: processes.Process

    def stop(self) -> None:
        """End the server's process."""
        self.process.stop()


@dataclass(frozen=True)
class Addresses:
    """Where the three servers listen. `host` is an IP address of this machine."""

    host: str = "127.0.0.1"
    s3_port: int = S3_PORT
    gcs_port: int = GCS_PORT
    azure_port: int = AZURE_PORT

    @property
    def s3(self) -> str:
        """Endpoint of the S3 server."""
        return f"http://{self.host}:{self.s3_port}"

    @property
    def gcs(self) -> str:
        """Endpoint of the GCS server."""
        return f"http://{self.host}:{self.gcs_port}"

    @property
    def azure(self) -> str:
        """Endpoint of the Azure Blob server, with the account as the path's first segment."""
        return f"http://{self.host}:{self.azure_port}/{AZURE_ACCOUNT}"


def start_versitygw(state: Path, host: str, port: int, tls: Tls | None = None) -> RunningServer:
    """Start an S3 server whose buckets are the directories of `state`/s3; versioning is available per bucket."""
    # Relative paths are resolved inside the gateway's root, and refused there.
    root = _directory(state, "s3")
    versions = _directory(state, "s3-versions")
    options = ["--keep-alive", "--quiet", "--region", S3_REGION, "--port", f"{host}:{port}"]
    if tls:
        options += ["--cert", str(tls.certificate.resolve()), "--key", str(tls.key.resolve())]
    backend = ["posix", "--versioning-dir", str(versions), str(root)]
    keys = {"ROOT_ACCESS_KEY": S3_ACCESS_KEY, "ROOT_SECRET_KEY": S3_SECRET_KEY}
    url = f"{'https' if tls else 'http'}://{host}:{port}"
    return _start(VERSITYGW, [*options, *backend], state, url, keys)


def start_fake_gcs_server(state: Path, host: str, port: int, external_url: str | None = None) -> RunningServer:
    """Start a GCS server that keeps its objects in memory.

    Its answers hold links (`mediaLink`), and the SDK follows them: they begin with `external_url`, by default
    the server's own address. Name a proxy's address there when one stands in front.
    """
    url = f"http://{host}:{port}"
    options = ["-backend", "memory", "-scheme", "http", "-host", host, "-port", str(port)]
    options += ["-public-host", f"{host}:{port}", "-external-url", external_url or url, "-log-level", "warn"]
    return _start(FAKE_GCS_SERVER, options, state, url, {})


def start_azurite(state: Path, host: str, port: int, tls: Tls | None = None) -> RunningServer:
    """Start an Azure Blob server that keeps its blobs in memory, with azurite's well-known account.

    With TLS it takes tokens of Entra ID too, of which it checks all but the signature.
    """
    options = ["--blobHost", host, "--blobPort", str(port), "--inMemoryPersistence"]
    # Telemetry is on by default; the SDKs send newer API versions than azurite knows; a Service's DNS name must
    # not be taken for an account's.
    options += ["--disableTelemetry", "--skipApiVersionCheck", "--disableProductStyleUrl", "--silent"]
    if tls:
        options += ["--oauth", "basic", "--cert", str(tls.certificate.resolve()), "--key", str(tls.key.resolve())]
    running = _start(AZURITE, options, state, f"{'https' if tls else 'http'}://{host}:{port}", {})
    return RunningServer(f"{running.url}/{AZURE_ACCOUNT}", running.log, running.process)


def up(state: Path, addresses: Addresses) -> None:
    """Start what is not running yet of the three servers, and wait until each answers.

    Raises ServerError when they run at other addresses, when a port is taken, or when one does not answer.
    """
    with _locked(state):
        _refuse_move(state, addresses)
        _record(state).write_text(json.dumps(asdict(addresses)) + "\n")
        starters: dict[Server, Callable[[], RunningServer]] = {
            VERSITYGW: lambda: start_versitygw(state, addresses.host, addresses.s3_port),
            FAKE_GCS_SERVER: lambda: start_fake_gcs_server(state, addresses.host, addresses.gcs_port),
            AZURITE: lambda: start_azurite(state, addresses.host, addresses.azure_port),
        }
        for server, starter in starters.items():
            if processes.find(_pid_file(state, server)) is None:
                starter()


def down(state: Path) -> list[str]:
    """End the servers that `up` started with this state directory; return the names of those that ran."""
    with _locked(state):
        stopped = []
        for server in (VERSITYGW, FAKE_GCS_SERVER, AZURITE):
            process = processes.find(_pid_file(state, server))
            if process is not None:
                process.stop()
                stopped.append(server.name)
            _pid_file(state, server).unlink(missing_ok=True)
        _record(state).unlink(missing_ok=True)
        return stopped


def addresses_of(state: Path) -> Addresses:
    """Where the servers of a state directory listen. Raises ServerError when `up` has not been run."""
    try:
        return Addresses(**json.loads(_record(state).read_text()))
    except FileNotFoundError:
        raise ServerError(f"No storage servers run from {state}: start them with `hack/storage up`.") from None


def client_environment(addresses: Addresses) -> dict[str, str]:
    """Environment variables with which the SDKs and `datafetch` reach the servers, and nothing else."""
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
        f"BlobEndpoint={addresses.azure};"
    )
    return {
        "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
        "AWS_REGION": S3_REGION,
        "AWS_DEFAULT_REGION": S3_REGION,
        "AWS_ENDPOINT_URL_S3": addresses.s3,
        "STORAGE_EMULATOR_HOST": addresses.gcs,
        "GOOGLE_CLOUD_PROJECT": GCS_PROJECT,
        "AZURE_STORAGE_ACCOUNT": AZURE_ACCOUNT,
        "AZURE_STORAGE_KEY": AZURE_KEY,
        "AZURE_STORAGE_ENDPOINT": addresses.azure,
        "AZURE_STORAGE_CONNECTION_STRING": connection,
        # An SDK that finds no credentials must not ask the cloud's metadata address.
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_GCE_CHECK": "true",
    }


def _start(server: Server, options: Sequence[str], state: Path, url: str, environment: dict[str, str]) -> RunningServer:
    program = install(server)
    _require_free_port(server, url)
    log = state.resolve() / f"{server.name}.log"
    process = processes.start(
        [str(program), *options],
        log=log,
        pid_file=_pid_file(state, server),
        environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(state.resolve()), **environment},
    )
    running = RunningServer(url, log, process)
    try:
        _wait_until_it_answers(server, running)
    except BaseException:
        running.stop()
        raise
    return running


def _require_free_port(server: Server, url: str) -> None:
    host, port = _host_and_port(url)
    with socket.socket() as probe:
        # As servers do it: a connection that lingers in TIME_WAIT is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "name an address of this machine"
            if error.errno == errno.EADDRINUSE:
                remedy = f"end what listens there (`ss -ltnp sport = :{port}`)"
            raise ServerError(f"{server.name} cannot listen on {host}:{port} ({error.strerror}): {remedy}.") from None


def _wait_until_it_answers(server: Server, running: RunningServer) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(running.url):
        if not running.process.is_alive():
            raise ServerError(f"{server.name} ended while starting; its log says:\n{_tail(running.log)}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"{server.name} did not answer at {running.url} within {READY_SECONDS:.0f} s; "
                f"its log says:\n{_tail(running.log)}"
            )
        time.sleep(processes.POLL_SECONDS)


def _answers(url: str) -> bool:
    """Whether an HTTP response of any status comes back."""
    host, port = _host_and_port(url)
    # Only a sign of life; whether the certificate is right is for the clients under test.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(host, port, timeout=5, context=context)
        if url.startswith("https:")
        else http.client.HTTPConnection(host, port, timeout=5)
    )
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _host_and_port(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].partition("/")[0].rpartition(":")
    return host, int(port)


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _directory(state: Path, name: str) -> Path:
    directory = state.resolve() / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _pid_file(state: Path, server: Server) -> Path:
    return state / f"{server.name}.pid"


def _record(state: Path) -> Path:
    return state / "addresses.json"


def _refuse_move(state: Path, addresses: Addresses) -> None:
    running = [s.name for s in (VERSITYGW, FAKE_GCS_SERVER, AZURITE) if processes.find(_pid_file(state, s))]
    if running and addresses_of(state) != addresses:
        there = addresses_of(state).host
        raise ServerError(f"{', '.join(running)} of {state} already listen on {there}: run `hack/storage down` first.")


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
