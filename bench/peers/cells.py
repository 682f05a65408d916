"""One cell of the tables: a shape, a server and a target, and the runs of every client, interleaved.

The clients take turns run by run, each round beginning with another one, so that what disturbs the machine for a while
disturbs them all. Clients that are much slower than the fastest peer get fewer runs, and the tables say how many.
"""

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import measure
from .check import WrongTreeError, check
from .clients import CLIENTS, LIMIT, US, Task, environment
from .content import Library
from .install import Programs
from .serving import serve
from .shapes import SHAPES

FEWEST_RUNS = 3
_SLOW = 1.5
"""Times the fastest peer's wall: such a client stops at FEWEST_RUNS when the cell's time is spent."""
_HOPELESS = 8.0
"""Times the fastest peer's wall: such a client has one run."""
_TIMEOUT_SECONDS = 240.0


@dataclass(frozen=True)
class Cell:
    """What is downloaded from where to where."""

    shape: str
    server: str
    """versitygw, nginx, or hub: nginx with the Hugging Face Hub's protocol."""
    tls: bool
    link: bool
    target: str
    """tmpfs or disk."""

    @property
    def name(self) -> str:
        """The cell's key in the results."""
        return "/".join((self.shape, self.server, "https" if self.tls else "http", self.way, self.target))

    @property
    def protocol(self) -> str:
        """What clients have to speak."""
        return "hub" if self.server == "hub" else "s3"

    @property
    def way(self) -> str:
        """How far the server is."""
        return "link" if self.link else "loopback"


@dataclass(frozen=True)
class Sample:
    """One run."""

    wall: float
    cpu: float
    memory: int
    first_byte: float | None


@dataclass
class Runs:
    """The runs of one client in one cell."""

    samples: list[Sample] = field(default_factory=list)
    failure: str = ""
    """Why there are no further ones."""

    @property
    def wall(self) -> float:
        """Median of the walls."""
        return statistics.median(sample.wall for sample in self.samples)

    def as_json(self) -> dict[str, object]:
        """Return it for the results file."""
        return asdict(self)


@dataclass(frozen=True)
class Bench:
    """What all cells have in common."""

    trees: Library
    programs: Programs
    targets: dict[str, Path]
    """Directory on each kind of file system."""
    runs: int
    budget: float
    """Seconds that a cell should take."""


def measure_cell(bench: Bench, cell: Cell, clients: Sequence[str], say: Callable[[str], None]) -> dict[str, Runs]:
    """Return the runs of each client that speaks the server's protocol."""
    clients = [name for name in clients if cell.protocol in CLIENTS[name].protocols]
    shape = SHAPES[cell.shape]
    results = {name: Runs() for name in clients}
    with tempfile.TemporaryDirectory(prefix="datafetch-bench-") as directory:
        state = Path(directory)
        _warm(bench.trees.buckets / shape.name)
        with serve(cell.server, bench.trees, shape, state, tls=cell.tls, link=cell.link) as endpoint:
            ends = time.monotonic() + bench.budget
            for number in range(bench.runs):
                for name in turns(clients, number):
                    if not is_due(name, results, late=time.monotonic() > ends):
                        continue
                    home = state / name
                    home.mkdir(exist_ok=True)
                    target = bench.targets[cell.target] / "target"
                    stored = bench.trees.stored(shape)
                    task = Task(endpoint, shape.name, stored, target, home, bench.programs, cell.protocol, cell.link)
                    _run_once(cell, task, results[name], name, bench, say)
    return results


def _run_once(cell: Cell, task: Task, runs: Runs, name: str, bench: Bench, say: Callable[[str], None]) -> None:
    shutil.rmtree(task.target, ignore_errors=True)
    task.target.mkdir(parents=True)
    _settle(task.target.parent)
    try:
        measured = measure.run(
            CLIENTS[name].command(task),
            environment(task),
            objects=bench.trees.buckets / task.bucket,
            log=task.state / "output.log",
            flush=task.target if cell.target == "disk" else None,
            timeout=_TIMEOUT_SECONDS,
        )
        if measured.exit_code:
            runs.failure = f"exit code {measured.exit_code}: {measured.output.strip()[-300:]}"
            say(f"  {name:10} FAILED, {runs.failure}")
            return
        check(SHAPES[cell.shape], task.target)
    except WrongTreeError as error:
        runs.failure = f"left a wrong tree: {error}"
        say(f"  {name:10} FAILED, it {runs.failure}")
        return
    finally:
        shutil.rmtree(task.target)
    runs.samples.append(Sample(measured.wall, measured.cpu, measured.memory, measured.first_byte))
    first = "-" if measured.first_byte is None else f"{measured.first_byte:.3f}"
    say(
        f"  {name:10} wall {measured.wall:7.2f} s   CPU {measured.cpu:7.2f} s   "
        f"peak {measured.memory / 2**20:6.0f} MiB   first byte {first} s"
    )


def turns(clients: Sequence[str], number: int) -> list[str]:
    """Return the clients of a round, each round beginning with another one."""
    first = number % len(clients)
    return [*clients[first:], *clients[:first]]


def is_due(name: str, results: dict[str, Runs], *, late: bool) -> bool:
    """Whether a client has another run; `late` when the cell's time is spent."""
    runs = results[name]
    if runs.failure:
        return False
    peers = [other.wall for peer, other in results.items() if peer not in (US, LIMIT) and other.samples]
    if not runs.samples or not peers or name in (US, LIMIT):
        return True
    slowness = runs.wall / min(peers)
    if slowness > _HOPELESS:
        return False
    return slowness <= _SLOW or not late or len(runs.samples) < FEWEST_RUNS


def _settle(directory: Path) -> None:
    # What the deletion of the last tree left to write must not fall into this run.
    subprocess.run(["sync", "-f", str(directory)], check=True)


def _warm(tree: Path) -> None:
    """Read the served tree once, so that the server reads from memory."""
    buffer = bytearray(1 << 20)
    for path in tree.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    continue
