"""The command line of the peer benchmark.

    .venv-downloader/bin/python bench/peers --shape medium --server nginx --target tmpfs --runs 3
    .venv-downloader/bin/python bench/peers --shape large,small --tls --clients datafetch,limit
    .venv-downloader/bin/python bench/peers --shape large --target disk --runs 7 --save
    .venv-downloader/bin/python bench/peers --all --runs 7 --save

Every combination of what is named is one cell. Prints each run, and a table for each cell. With --save a cell takes
the place of its older measurement in bench/results.json, and the tables of docs/performance.md are written anew.
"""

import argparse
import fcntl
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError
from storage.install import InstallError, cache_directory
from storage.servers import ServerError

from . import hashing, install, results, tables, tampering
from .cells import Bench, Cell, Runs, measure_cell
from .clients import CLIENTS
from .content import library
from .document import write
from .shapes import SHAPES


def main() -> int:
    """Run the benchmark; return its exit code."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _end)
    if options.render:
        _write()
        return 0
    try:
        with _alone():
            return _run(options)
    except (ClusterError, InstallError, ServerError) as error:
        print(f"bench/peers: {error}", file=sys.stderr)
        return 1


def _end(number: int, _: object) -> None:
    """Leave all blocks, which end what they started and remove what they wrote; not disturbed by a second signal."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _run(options: argparse.Namespace) -> int:
    programs = install.programs()
    if options.flip or options.all:
        _say("which clients notice a changed byte")
        noticed = tampering.try_all(programs, options.tmpfs, options.clients, _say)
        if options.save:
            results.save_noticed(noticed)
    cells = [] if options.flip else _everything() if options.all else _named(options)
    trees = library([SHAPES[name] for name in dict.fromkeys(cell.shape for cell in cells)], options.tmpfs)
    failed = False
    with (
        tempfile.TemporaryDirectory(prefix="datafetch-bench-", dir=options.tmpfs) as on_tmpfs,
        tempfile.TemporaryDirectory(prefix="target-", dir=options.disk or _cache()) as on_disk,
    ):
        targets = {"tmpfs": Path(on_tmpfs), "disk": Path(on_disk)}
        bench = Bench(trees, programs, targets, options.runs, options.budget)
        for number, cell in enumerate(cells, start=1):
            _say(f"{number}/{len(cells)} {cell.name}")
            failed = _measure(bench, cell, options) or failed
    if options.save:
        _write()
    return int(failed)


def _measure(bench: Bench, cell: Cell, options: argparse.Namespace) -> bool:
    """Measure one cell; return whether a client failed."""
    load = os.getloadavg()[0]
    shape = SHAPES[cell.shape]
    clients: dict[str, Runs] = measure_cell(bench, cell, options.clients, _say)
    cost = hashing.seconds(shape, bench.trees.stored(shape), cell.protocol)
    measured = results.measurement(cell, clients, load=load, hashing=cost)
    _say(f"\n{tables.text(tables.cell_table(measured))}\n")
    if options.save:
        results.save(measured)
    return any(runs.failure for runs in clients.values())


def _write() -> None:
    write(tables.markdown(results.load(), results.noticed()))


def _named(options: argparse.Namespace) -> list[Cell]:
    ways = itertools.product(options.server, options.target, options.shape)
    return [Cell(shape, server, options.tls, options.link, target) for server, target, shape in ways]


def _everything() -> list[Cell]:
    """Return the cells of `make bench`: every shape over every protocol, way and target. nginx where one will do."""
    return [
        *(Cell(shape, "nginx", tls, False, "tmpfs") for tls in (False, True) for shape in SHAPES),
        *(Cell(shape, "versitygw", False, False, "tmpfs") for shape in SHAPES),
        Cell("mixed", "hub", False, False, "tmpfs"),
        *(Cell(shape, "nginx", False, False, "disk") for shape in SHAPES),
        *(Cell(shape, "nginx", False, True, "tmpfs") for shape in SHAPES),
    ]


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for another benchmark of this user to end: both would measure the other, and share the served files."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another benchmark to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    return cache_directory().parent / "bench"


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=_names(SHAPES), default=["medium"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--server", type=_names(("nginx", "versitygw", "hub")), default=["nginx"])
    parser.add_argument("--target", type=_names(("tmpfs", "disk")), default=["tmpfs"])
    parser.add_argument("--clients", type=_names(CLIENTS), default=list(CLIENTS), help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--tls", action="store_true", help="speak TLS")
    parser.add_argument("--link", action="store_true", help="over a link with delay and a cap")
    parser.add_argument("--all", action="store_true", help="every cell of docs/performance.md, about an hour")
    parser.add_argument("--flip", action="store_true", help="only try which clients notice a changed byte")
    parser.add_argument("--runs", type=int, default=3, help="of each client (default: %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds of a cell after which slow clients stop at three runs"
    )
    parser.add_argument("--save", action="store_true", help="keep the results and write docs/performance.md")
    parser.add_argument("--render", action="store_true", help="only write docs/performance.md from bench/results.json")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="directory on a tmpfs")  # noqa: S108
    parser.add_argument("--disk", type=Path, help="directory on a disk; default: the cache's")
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    names = list(known)

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(names)}")
        return chosen

    return parse
