"""The command line: `python3 hack/demo [--keep]` and `python3 hack/demo clean`."""

import argparse
import sys

from cluster.errors import ClusterError
from demo import diagnosis, removal, steps
from storage.fill import FillError
from storage.install import InstallError
from storage.servers import ServerError

_FAILURES = (ClusterError, FillError, InstallError, ServerError)


def main() -> int:
    """Run the demonstration or remove it; 1, the reason and what the cluster says about it, if anything is off."""
    arguments = _parser().parse_args()
    if arguments.command == "clean":
        return _clean(keep_cluster=arguments.keep_cluster)
    return _run(keep=arguments.keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 hack/demo",
        description="Cluster, storage, chart, a DataFetch, and a pod that checks what it got against the sources.",
    )
    parser.add_argument("--keep", action="store_true", help="go on with what the last run fetched, not from nothing")
    commands = parser.add_subparsers(dest="command", metavar="[COMMAND]")
    clean = commands.add_parser("clean", help="remove what the demonstration left, and end the cluster")
    clean.add_argument("--keep-cluster", action="store_true", help="leave the cluster running")
    return parser


def _run(*, keep: bool) -> int:
    try:
        steps.run(keep=keep)
    except _FAILURES as error:
        print(f"\nFAILED: {error}", flush=True)
        diagnosis.show()
        # Once more, for who reads the end of a long output first.
        print(f"\nFAILED: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run it again, or remove what there is with `python3 hack/demo clean`", file=sys.stderr)
        return 130
    return 0


def _clean(*, keep_cluster: bool) -> int:
    try:
        removal.clean(keep_cluster=keep_cluster)
    except _FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
