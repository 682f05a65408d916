"""Which clients notice that one byte of what they got is wrong: tried, not looked up.

A byte of one object is changed on the server's disk behind its back, sizes and ETags stay; a client that ends well has
not noticed. Changes the stored objects of its own small bucket, and puts them right again.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import measure
from .clients import CLIENTS, Task, environment
from .content import library
from .install import Programs
from .serving import serve
from .shapes import MIB, File, Shape

_ONE_PART = File("one-part.json", MIB)
_MANY_PARTS = File("parts.safetensors", 24 * MIB)
SHAPE = Shape("flipped", "one byte changed", (_ONE_PART, _MANY_PARTS))
SERVERS = {"versitygw": "s3", "nginx": "s3", "hub": "hub"}
"""The servers and the protocol of each."""
_OBJECTS = {"one part": _ONE_PART, "several parts": _MANY_PARTS}
_TIMEOUT_SECONDS = 120.0

Noticed = dict[str, dict[str, bool]]
"""By client, and by server and object: whether the run failed."""


def try_all(programs: Programs, staging: Path, clients: Sequence[str], say: Callable[[str], None]) -> Noticed:
    """Return who noticed what."""
    trees = library([SHAPE], staging)
    found: Noticed = {}
    with tempfile.TemporaryDirectory(prefix="datafetch-bench-", dir=staging) as directory:
        for server, protocol in SERVERS.items():
            state = Path(directory) / server
            state.mkdir()
            with serve(server, trees, SHAPE, state, tls=False, link=False) as endpoint:
                for name in clients:
                    if protocol not in CLIENTS[name].protocols:
                        continue
                    target = state / "target"
                    home = state / name
                    home.mkdir()
                    task = Task(endpoint, SHAPE.name, trees.stored(SHAPE), target, home, programs, protocol, link=False)
                    for title, file in _OBJECTS.items():
                        with _flipped(trees.buckets / SHAPE.name / file.key):
                            noticed = _fails(task, name, trees.buckets / SHAPE.name)
                        found.setdefault(name, {})[f"{server}, {title}"] = noticed
                        say(f"  {name:16} {server}, {title}: {'noticed' if noticed else 'not noticed'}")
    return found


def _fails(task: Task, name: str, objects: Path) -> bool:
    shutil.rmtree(task.target, ignore_errors=True)
    task.target.mkdir()
    command = CLIENTS[name].command(task)
    log = task.state / "output.log"
    return bool(
        measure.run(
            command, environment(task), objects=objects, log=log, flush=None, timeout=_TIMEOUT_SECONDS
        ).exit_code
    )


@contextmanager
def _flipped(path: Path) -> Iterator[None]:
    """Change a byte in the middle of a file until the end of the block."""
    position = path.stat().st_size // 2
    _flip(path, position)
    try:
        yield
    finally:
        _flip(path, position)


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
