"""`python3 hack/emulators up|down`: the storage emulators of the Kaiwo downloader's examples.

    python3 hack/emulators up      start them, upload the sample data, write the secrets files
    python3 hack/emulators down    end exactly these processes, and remove the secrets files

S3 listens on port 9000, GCS on 9023 and Azure Blob on 10000, as in the Kaiwo downloader's own docker-compose file, and
a stand-in for the Hugging Face Hub on 9024; all on 127.0.0.1. The config that uses them is
examples/kaiwo/test/test_download_task.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from storage import fill, install, servers

from . import hub
from .place import AZURE_PORT, BUCKET, GCS_PORT, HUB_PORT, NAME, PROJECT, S3_PORT, Place, Ports


def main() -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args()
    place = Place(arguments.directory, arguments.state)
    ports = Ports(arguments.s3_port, arguments.gcs_port, arguments.azure_port, arguments.hub_port)
    commands: dict[str, Callable[[], None]] = {
        "up": lambda: _up(place, ports),
        "down": lambda: _down(place),
        "hub": lambda: hub.serve(ports.hub),
    }
    try:
        commands[arguments.command]()
    except (install.InstallError, servers.ServerError, fill.FillError) as error:
        print(f"hack/emulators {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def up(place: Place, ports: Ports) -> None:
    """Start what does not run yet, upload the sample data and write the secrets files. Raises as `storage` does."""
    servers.up(place.state, ports.storage)
    hub.start(place, ports.hub)
    addresses = ports.storage
    stores: tuple[fill.Store, ...] = (fill.S3(addresses.s3), fill.Gcs(addresses.gcs), fill.Azure(addresses.azure))
    for store in stores:
        fill.fill(store, BUCKET, place.data)
    place.write_secrets(ports)


def down(place: Place) -> list[str]:
    """End the processes that `up` started, and remove the secrets files; return the names of those that ran."""
    ended = servers.down(place.state)
    if hub.stop(place):
        ended.append("hub")
    place.remove_secrets()
    return ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/emulators", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("up", "down", "hub"), help="hub: be the stand-in for the Hub")
    for name, port in (("s3", S3_PORT), ("gcs", GCS_PORT), ("azure", AZURE_PORT), ("hub", HUB_PORT)):
        parser.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT", help="default: %(default)s")
    default = Place()
    parser.add_argument("--directory", type=Path, default=default.directory, help="where test/ lies (examples/kaiwo)")
    parser.add_argument("--state", type=Path, default=default.state, help="directory for logs, data and pid files")
    return parser


def _up(place: Place, ports: Ports) -> None:
    up(place, ports)
    print(
        f"S3 at http://{NAME}:{ports.s3}, GCS at http://{NAME}:{ports.gcs}, Azure Blob at http://{NAME}:{ports.azure}; "
        f"in each, bucket {BUCKET!r} with the files of {_shown(place.data)}.\n"
        f"The secrets files that the config names are in {_shown(place.data.parent / 'secrets')}. Now:\n\n"
        f"  cd {_shown(place.directory)}\n"
        f"  STORAGE_EMULATOR_HOST=http://{NAME}:{ports.gcs} datafetch run test/test_download_task.yaml\n\n"
        f"Where the Hugging Face Hub is out of reach, put HF_ENDPOINT=http://{NAME}:{ports.hub} in front: a stand-in.\n"
        "`make emulators-down` ends them."
    )


def _down(place: Place) -> None:
    ended = down(place)
    print(f"ended {', '.join(ended)}" if ended else "nothing was running")


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)
