"""`python3 hack/storage`: install, start, fill and end the local storage servers.

    python3 hack/storage install
    python3 hack/storage up --host 127.0.0.1 --state DIR
    python3 hack/storage fill --state DIR --s3 training/corpus=./corpus --gcs models=./models --azure tables=./tables
    eval "$(python3 hack/storage env --state DIR)"
    python3 hack/storage down --state DIR

What was filled into S3 lies in DIR/s3 and stays; GCS and Azure keep it in memory until `down`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # started as `python3 hack/storage`: make the package importable by its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cluster import packages
from cluster.errors import ClusterError
from storage import fill, install, servers

_PROGRAMS = {"git": "git", "ssh": "openssh-client"}
"""What the tests of sources run beside the servers -> the package that brings it."""


def main() -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args()
    commands = {"install": _install, "up": _up, "down": _down, "env": _env, "fill": _fill}
    try:
        commands[arguments.command](arguments)
    except (install.InstallError, servers.ServerError, fill.FillError, ClusterError) as error:
        print(f"hack/storage {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/storage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("install", help="build the pinned servers into the cache; quick when they are there")
    up = commands.add_parser("up", help="start the servers and wait until each answers")
    up.add_argument("--host", default="127.0.0.1", help="IP address to listen on (default: %(default)s)")
    up.add_argument("--s3-port", type=int, default=servers.S3_PORT, help="default: %(default)s")
    up.add_argument("--gcs-port", type=int, default=servers.GCS_PORT, help="default: %(default)s")
    up.add_argument("--azure-port", type=int, default=servers.AZURE_PORT, help="default: %(default)s")
    down = commands.add_parser("down", help="end the servers that `up` started with this state directory")
    env = commands.add_parser("env", help="print endpoints and development credentials as shell exports")
    env.add_argument("--json", action="store_true", help="print one JSON object instead")
    filling = commands.add_parser("fill", help="store every file below a directory")
    for option, bucket in (("--s3", "BUCKET"), ("--gcs", "BUCKET"), ("--azure", "CONTAINER")):
        filling.add_argument(option, action="append", default=[], metavar=f"{bucket}[/PREFIX]=PATH")
    for command in (up, down, env, filling):
        command.add_argument("--state", type=Path, required=True, help="directory for data, logs and pid files")
    return parser


def _install(_: argparse.Namespace) -> None:
    packages.ensure(_PROGRAMS)
    for server in install.SERVERS:
        started = time.monotonic()
        program = install.install(server)
        print(f"{server.name} {server.version}: {program} ({time.monotonic() - started:.1f} s)", flush=True)


def _up(arguments: argparse.Namespace) -> None:
    addresses = servers.Addresses(arguments.host, arguments.s3_port, arguments.gcs_port, arguments.azure_port)
    servers.up(arguments.state, addresses)
    print(f"S3 at {addresses.s3}, GCS at {addresses.gcs}, Azure Blob at {addresses.azure}")


def _down(arguments: argparse.Namespace) -> None:
    stopped = servers.down(arguments.state)
    print(f"ended {', '.join(stopped)}" if stopped else "nothing was running")


def _env(arguments: argparse.Namespace) -> None:
    environment = servers.client_environment(servers.addresses_of(arguments.state))
    if arguments.json:
        print(json.dumps(environment, indent=2))
        return
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")


def _fill(arguments: argparse.Namespace) -> None:
    addresses = servers.addresses_of(arguments.state)
    jobs: list[tuple[fill.Store, list[str]]] = [
        (fill.S3(addresses.s3), arguments.s3),
        (fill.Gcs(addresses.gcs), arguments.gcs),
        (fill.Azure(addresses.azure), arguments.azure),
    ]
    if not any(trees for _, trees in jobs):
        raise fill.FillError("nothing to fill: name at least one of --s3, --gcs and --azure.")
    for store, trees in jobs:
        for tree in trees:
            destination, separator, source = tree.partition("=")
            if not separator or not Path(source).exists():
                raise fill.FillError(f"{tree!r} is not BUCKET[/PREFIX]=PATH with a PATH that exists.")
            done = fill.fill(store, destination, Path(source))
            print(f"{done.location}: {done.files} files, {done.size / 1e6:.1f} MB in {done.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
