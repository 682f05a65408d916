"""Where the data comes from: a web server and a real S3 server behind a proxy, with one way to fill and to count."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from chaos.content import Files
from servers.emulators import S3Server
from servers.faults import FaultProxy
from servers.http import StaticServer
from servers.serving import Server
from servers.traffic import Exchange


class Origin(Protocol):
    """A source of files, and the server at which its bytes are counted."""

    server: Server
    lists: bool
    """Whether the source lists what is there; otherwise the config names each file."""

    def publish(self, files: Mapping[str, bytes]) -> None:
        """Hold exactly these files from now on; what did not change is left alone."""

    def put(self, name: str, data: bytes) -> None:
        """Replace one file."""

    def item(self) -> dict[str, Any]:
        """The download item that names all files."""

    def name_of(self, exchange: Exchange) -> str | None:
        """The file whose content an exchange was about; None for a listing."""


class Web:
    """Files at URLs, each named in the config."""

    lists = False

    def __init__(self, server: StaticServer) -> None:
        self.server: Server = server
        self._static = server
        self._files: Files = {}

    def publish(self, files: Mapping[str, bytes]) -> None:
        for name in self._files.keys() - files.keys():
            self._static.remove(f"/{name}")
        for name, data in files.items():
            if self._files.get(name) != data:
                self._static.put(f"/{name}", data)
        self._files = dict(files)

    def put(self, name: str, data: bytes) -> None:
        self._files[name] = data
        self._static.put(f"/{name}", data)

    def item(self) -> dict[str, Any]:
        urls = [{"url": f"{self.server.url}/{quote(name)}", "target_path": name} for name in sorted(self._files)]
        return {"type": "http", "name": "files", "items": urls}

    def name_of(self, exchange: Exchange) -> str | None:
        return exchange.path.removeprefix("/") if exchange.method == "GET" else None


class Bucket:
    """Objects below a prefix of a bucket, listed."""

    lists = True

    def __init__(self, s3: S3Server, proxy: FaultProxy, bucket: str, directory: Path) -> None:
        self.server: Server = proxy
        self._s3 = s3
        self._bucket = bucket
        self._directory = directory
        self._files: Files = {}
        s3.store.create(bucket)

    def publish(self, files: Mapping[str, bytes]) -> None:
        for name in self._files.keys() - files.keys():
            self._s3.store.delete(self._bucket, f"data/{name}")
        for name, data in files.items():
            if self._files.get(name) != data:
                self.put(name, data)
        self._files = dict(files)

    def put(self, name: str, data: bytes) -> None:
        self._files[name] = data
        self._s3.store.put(self._bucket, f"data/{name}", data)

    def item(self) -> dict[str, Any]:
        return {
            "type": "s3",
            "name": "bucket",
            "endpoint_url": self.server.url,
            "access_key_id_file": self._secret("access_key_id", self._s3.access_key),
            "secret_key_file": self._secret("secret_key", self._s3.secret_key),
            "items": [{"bucket": self._bucket, "items": [{"path": "data/", "glob": "**", "target_path": "./"}]}],
        }

    def _secret(self, name: str, value: str) -> str:
        path = self._directory / name
        path.write_text(value + "\n")
        return str(path)

    def name_of(self, exchange: Exchange) -> str | None:
        prefix = f"/{self._bucket}/data/"
        return exchange.path.removeprefix(prefix) if exchange.path.startswith(prefix) else None


@contextmanager
def web() -> Iterator[Web]:
    """Run a web server."""
    with StaticServer() as server:
        yield Web(server)


@contextmanager
def bucket(s3: S3Server, name: str, directory: Path) -> Iterator[Bucket]:
    """Make a bucket, with a proxy in front of its server."""
    address, _, port = s3.url.rpartition("/")[2].partition(":")
    with FaultProxy(address, int(port)) as proxy:
        yield Bucket(s3, proxy, name, directory)
