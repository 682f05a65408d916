"""The storage servers for tests: S3 (versitygw), GCS (fake-gcs-server), Azure Blob (azurite), each on a free port.

    with versitygw() as s3:
        s3.store.create("training")
        s3.store.put("training", "corpus/a.txt", b"...")
        client = boto3.client("s3", endpoint_url=s3.url, ...)

The servers are those of `hack/storage` (the package `storage`: `hack/` is on the tests' path), installed on first
use; `store` puts objects in without any SDK. Each one has a directory of its own that goes with it.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage import fill, servers

HOST = "127.0.0.1"
ATTEMPTS = 3
"""A port that was free may be taken before the server has it: how often to try with another."""


@dataclass(frozen=True)
class Certificates:
    """A throwaway certificate authority and a server certificate that it signed, as PEM files."""

    ca_file: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; path-style addressing."""

    url: str
    store: fill.S3
    ca_file: Path | None
    """Authority to trust, when the server speaks TLS."""
    objects: Path
    """Its objects as files, BUCKET/KEY: their times are the objects'."""
    access_key: str = servers.S3_ACCESS_KEY
    secret_key: str = servers.S3_SECRET_KEY
    region: str = servers.S3_REGION


@dataclass(frozen=True)
class GcsServer:
    """A running GCS server; for the SDK: `STORAGE_EMULATOR_HOST=url` and anonymous credentials."""

    url: str
    store: fill.Gcs
    project: str = servers.GCS_PROJECT

    def advertise(self, url: str) -> None:
        """Let the links in the server's answers begin with `url`: the SDK follows them past a proxy otherwise."""
        body = json.dumps({"externalUrl": url}).encode()
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=10)
        try:
            connection.request("PUT", "/_internal/config", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != 200:
            raise RuntimeError(f"fake-gcs-server answered {status} to a change of its external URL")


@dataclass(frozen=True)
class AzureServer:
    """A running Azure Blob server; `url` ends with the account's name."""

    url: str
    store: fill.Azure
    account: str = servers.AZURE_ACCOUNT
    key: str = servers.AZURE_KEY
    ca_file: Path | None = None
    """Authority to trust, when the server speaks TLS."""

    @property
    def connection_string(self) -> str:
        """What `BlobServiceClient.from_connection_string` takes."""
        scheme = self.url.partition(":")[0]
        head = f"DefaultEndpointsProtocol={scheme};AccountName={self.account};AccountKey={self.key}"
        return f"{head};BlobEndpoint={self.url};"


@contextmanager
def versitygw(*, tls: bool = False) -> Iterator[S3Server]:
    """Run an S3 server, with TLS by a throwaway authority if asked for."""
    with tempfile.TemporaryDirectory(prefix="datafetch-s3-") as directory:
        state = Path(directory)
        made = make_certificates(state / "tls") if tls else None
        pair = servers.Tls(made.certificate, made.key) if made else None
        running = _on_free_port(lambda port: servers.start_versitygw(state, HOST, port, pair))
        try:
            ca_file = made.ca_file if made else None
            yield S3Server(running.url, fill.S3(running.url, ca_file=ca_file), ca_file, state / "s3")
        finally:
            running.stop()


@contextmanager
def fake_gcs_server() -> Iterator[GcsServer]:
    """Run a GCS server. It ignores preconditions on reads: test 412 with another server."""
    with tempfile.TemporaryDirectory(prefix="datafetch-gcs-") as directory:
        running = _on_free_port(lambda port: servers.start_fake_gcs_server(Path(directory), HOST, port))
        try:
            yield GcsServer(running.url, fill.Gcs(running.url))
        finally:
            running.stop()


@contextmanager
def azurite(*, tls: bool = False) -> Iterator[AzureServer]:
    """Run an Azure Blob server, with TLS by a throwaway authority if asked for: it then takes tokens of Entra ID too.

    Names of containers need three characters.
    """
    with tempfile.TemporaryDirectory(prefix="datafetch-azure-") as directory:
        made = make_certificates(Path(directory) / "tls") if tls else None
        pair = servers.Tls(made.certificate, made.key) if made else None
        running = _on_free_port(lambda port: servers.start_azurite(Path(directory), HOST, port, pair))
        try:
            ca_file = made.ca_file if made else None
            yield AzureServer(running.url, fill.Azure(running.url, ca_file=ca_file), ca_file=ca_file)
        finally:
            running.stop()


def make_certificates(directory: Path, host: str = HOST) -> Certificates:
    """Make an authority and a certificate for `host` (an IP address) and localhost, valid for two days."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
    ca_key = directory / "ca.key"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority = ["-subj", "/CN=DataFetch test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl("req", "-x509", *key, *authority, "-keyout", str(ca_key), "-out", str(made.ca_file))
    names = ["-addext", f"subjectAltName=IP:{host},DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
    signer = ["-CA", str(made.ca_file), "-CAkey", str(ca_key)]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    _openssl("req", "-x509", *key, "-subj", f"/CN={host}", *names, *signer, *files)
    return made


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")


def _on_free_port(start: Callable[[int], servers.RunningServer]) -> servers.RunningServer:
    for _ in range(ATTEMPTS - 1):
        try:
            return start(_free_port())
        except servers.ServerError:
            continue
    return start(_free_port())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
