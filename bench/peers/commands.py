"""The command line of the peer benchmark.

    .venv-downloader/bin/python bench/peers --shape medium --server nginx --target tmpfs --runs 3
    .venv-downloader/bin/python bench/peers --shape large,small --tls --clients datafetch,limit

Every combination of what is named is one cell. Prints each run and a table for each cell.
"""

import argparse
import itertools
import signal
import sys
import tempfile
from pathlib import Path

from storage.install import InstallError, cache_directory
from storage.servers import ServerError

from . import install
from .cells import Bench, Cell, measure_cell
from .clients import CLIENTS
from .content import library
from .shapes import SHAPES
from .tables import text_table


def main() -> int:
    """Run the benchmark; return its exit code."""
    options = _parser().parse_args()
    # What runs then is ended by the blocks that started it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _run(options)
    except (InstallError, ServerError) as error:
        print(f"bench/peers: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    programs = install.programs()
    trees = library([SHAPES[name] for name in options.shape], options.tmpfs)
    disk = options.disk or cache_directory().parent / "bench"
    failed = False
    with (
        tempfile.TemporaryDirectory(prefix="datafetch-bench-", dir=options.tmpfs) as on_tmpfs,
        tempfile.TemporaryDirectory(prefix="target-", dir=disk) as on_disk,
    ):
        targets = {"tmpfs": Path(on_tmpfs), "disk": Path(on_disk)}
        bench = Bench(trees, programs, targets, options.runs, options.budget)
        for cell in _cells(options):
            print(cell.name, flush=True)
            results = measure_cell(bench, cell, options.clients, lambda line: print(line, flush=True))
            print(f"\n{text_table(results)}\n", flush=True)
            failed = failed or any(runs.failure for runs in results.values())
    return int(failed)


def _cells(options: argparse.Namespace) -> list[Cell]:
    ways = itertools.product(options.shape, options.server, options.target)
    return [Cell(shape, server, options.tls, options.link, target) for shape, server, target in ways]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=_names(SHAPES), default=["medium"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--server", type=_names(("nginx", "versitygw")), default=["nginx"], help="nginx, versitygw")
    parser.add_argument("--target", type=_names(("tmpfs", "disk")), default=["tmpfs"], help="tmpfs, disk")
    parser.add_argument("--clients", type=_names(CLIENTS), default=list(CLIENTS), help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--tls", action="store_true", help="speak TLS")
    parser.add_argument("--link", action="store_true", help="over a link with delay and a cap")
    parser.add_argument("--runs", type=int, default=3, help="of each client (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=180.0, help="seconds a cell, then slow clients stop early")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="directory on a tmpfs")  # noqa: S108
    parser.add_argument("--disk", type=Path, help="directory on a disk; default: the cache's")
    return parser


def _names(known: object) -> object:
    names = list(known)  # type: ignore[call-overload]

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return chosen

    return parse
