"""Ports, directories and files of the emulators."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from cluster import paths
from storage import servers

HOST = "127.0.0.1"
NAME = "localhost"
"""What the clients are told: the name that the Kaiwo downloader's examples use."""
S3_PORT, GCS_PORT, AZURE_PORT = 9000, 9023, 10000
"""Those of the Kaiwo downloader's test/storage.docker-compose.yaml."""
HUB_PORT = 9024
BUCKET = "test"
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ports:
    """Where the four servers listen."""

    s3: int = S3_PORT
    gcs: int = GCS_PORT
    azure: int = AZURE_PORT
    hub: int = HUB_PORT

    @property
    def storage(self) -> servers.Addresses:
        """The addresses of the three storage servers."""
        return servers.Addresses(HOST, self.s3, self.gcs, self.azure)


@dataclass(frozen=True)
class Place:
    """The directory that the examples run in, and where the servers keep logs, data and pid files."""

    directory: Path = PROJECT / "examples" / "kaiwo"
    state: Path = paths.cache() / "emulators"

    @property
    def data(self) -> Path:
        """The sample data, as it is uploaded."""
        return self.directory / "test" / "data"

    @property
    def hub_pid_file(self) -> Path:
        """Who the stand-in for the Hub is."""
        return self.state / "hub.pid"

    @property
    def secrets(self) -> Path:
        """Where the files lie that the config names."""
        return self.directory / "test" / "secrets"

    def write_secrets(self, ports: Ports) -> None:
        """Write the files that the config names, readable by their owner alone."""
        for name, content in _secrets(ports).items():
            path = self.secrets / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(f"{content}\n")

    def remove_secrets(self) -> None:
        """Remove what `write_secrets` wrote, and the directories that are empty then."""
        for name in _secrets(Ports()):
            path = self.secrets / name
            path.unlink(missing_ok=True)
            for directory in (path.parent, self.secrets):
                with contextlib.suppress(OSError):
                    directory.rmdir()


def _secrets(ports: Ports) -> dict[str, str]:
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={servers.AZURE_ACCOUNT};AccountKey={servers.AZURE_KEY};"
        f"BlobEndpoint=http://{NAME}:{ports.azure}/{servers.AZURE_ACCOUNT};"
    )
    return {
        "s3/endpoint": f"http://{NAME}:{ports.s3}",
        "s3/access_key_id": servers.S3_ACCESS_KEY,
        "s3/secret_key": servers.S3_SECRET_KEY,
        "azure/connection_string": connection,
        # Nobody uses it: with STORAGE_EMULATOR_HOST, no Google credentials are sent anywhere.
        "gcs/credentials.json": json.dumps({"type": "service_account"}),
    }
