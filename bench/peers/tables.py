"""Results as tables: of one cell for a terminal, of all for docs/performance.md. Pure."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .cells import Cell, Runs, Sample
from .clients import CLIENTS, LIMIT, US
from .results import Measurement
from .shapes import SHAPES
from .tampering import Noticed

FULL_RUNS = 7
"""Of datafetch, in a cell of a full benchmark."""
_LIMIT_GOAL = 1.2
"""Times the limit's CPU, on large files."""
_MEMORY_GOAL = 150 * 2**20
_TRIED = (
    "Tried: one byte of an object is changed on the server's disk, size and ETag stay. Does the client fail? Objects "
    "in several parts have no MD5 of the whole; nginx sends no checksums, versitygw sends those of the upload."
)


@dataclass(frozen=True)
class Goal:
    """What a cell is held to; None where nothing is."""

    wall: float
    cpu: float | None


def goal(cell: Cell) -> Goal:
    """Return the goals, as ratios to the best peer; CPU without hashing."""
    if cell.target == "disk":
        return Goal(1.0, None)
    return Goal(0.9 if cell.shape in ("large", "mixed") else 1.0, 0.9 if cell.shape == "large" else 1.0)


@dataclass(frozen=True)
class Row:
    """The medians of one client in one cell."""

    name: str
    runs: int
    wall: float
    fastest: float
    slowest: float
    cpu: float
    hashing: float
    """Processor seconds of `cpu` that hashing takes by itself; 0 where the client hashes nothing."""
    memory: float
    first_byte: float | None

    @property
    def bare_cpu(self) -> float:
        """CPU without hashing."""
        return self.cpu - self.hashing


def rows(measured: Measurement) -> list[Row]:
    """Return the rows of a cell whose clients ended well."""
    return [
        _row(name, runs, measured.hashing if measured.cell.protocol in CLIENTS[name].hashes else 0.0)
        for name, runs in measured.clients.items()
        if runs.samples
    ]


def _row(name: str, runs: Runs, hashing: float) -> Row:
    samples = runs.samples
    walls = [sample.wall for sample in samples]
    return Row(
        name,
        len(samples),
        statistics.median(walls),
        min(walls),
        max(walls),
        _median(samples, lambda sample: sample.cpu) or 0.0,
        hashing,
        _median(samples, lambda sample: float(sample.memory)) or 0.0,
        _median(samples, lambda sample: sample.first_byte),
    )


def _median(samples: Iterable[Sample], field: Callable[[Sample], float | None]) -> float | None:
    values = [value for sample in samples if (value := field(sample)) is not None]
    return statistics.median(values) if values else None


def best_peer(found: Sequence[Row], field: Callable[[Row], float]) -> float | None:
    """Return the best peer's value: neither datafetch nor the limit counts."""
    return min((field(row) for row in found if row.name not in (US, LIMIT)), default=None)


_HEAD = (
    "client", "runs", "wall s", "fastest to slowest", "wall / best peer", "CPU s", "CPU / best peer", "CPU / limit",
    "of it hashing", "peak MiB", "first byte s",
)  # fmt: skip


def cell_table(measured: Measurement) -> list[tuple[str, ...]]:
    """Return the rows of a cell as text, the head first."""
    found = rows(measured)
    wall, cpu = best_peer(found, lambda row: row.wall), best_peer(found, lambda row: row.cpu)
    limit = next((row.cpu for row in found if row.name == LIMIT), None)
    table: list[tuple[str, ...]] = [_HEAD]
    table += [
        (
            row.name,
            str(row.runs),
            f"{row.wall:.2f}",
            f"{row.fastest:.2f} to {row.slowest:.2f}",
            _ratio(row.wall, wall),
            f"{row.cpu:.2f}",
            _ratio(row.cpu, cpu),
            _ratio(row.cpu, limit),
            f"{row.hashing:.2f}" if row.hashing else "",
            f"{row.memory / 2**20:.0f}",
            "" if row.first_byte is None else f"{row.first_byte:.2f}",
        )
        for row in found
    ]
    blank = ("",) * (len(_HEAD) - 2)
    table += [(name, "failed", *blank) for name, runs in measured.clients.items() if not runs.samples]
    return table


def text(table: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def markdown(measurements: Sequence[Measurement], noticed: Noticed) -> str:
    """Return the part of docs/performance.md that is between the markers."""
    ordered = sorted(measurements, key=_order)
    parts = [_provenance(ordered), *_short(ordered), "### Goals", _goals(ordered)]
    for title, chosen in _groups(ordered):
        parts.append(f"### {title}")
        for measured in chosen:
            parts += [f"{_cell_title(measured.cell)}:", _markdown_table(cell_table(measured))]
            parts += [_failures(measured)] if any(runs.failure for runs in measured.clients.values()) else []
    parts += ["### How each client ran", _markdown_table(_client_rows())]
    if noticed:
        parts += [
            "### What each client verifies",
            _TRIED,
            _markdown_table(_noticed_rows(noticed)),
        ]
    return "\n\n".join(parts) + "\n"


def _order(measured: Measurement) -> tuple[object, ...]:
    cell = measured.cell
    return (cell.target != "tmpfs", cell.link, cell.server, cell.tls, list(SHAPES).index(cell.shape))


def _groups(ordered: Sequence[Measurement]) -> list[tuple[str, list[Measurement]]]:
    titles = {
        ("tmpfs", False): "To tmpfs: what the client costs",
        ("disk", False): "To disk, with `sync -f` of the target inside every wall",
        ("tmpfs", True): "Over a link of 40 ms and 4 Gbit/s, to tmpfs",
        ("disk", True): "Over a link of 40 ms and 4 Gbit/s, to disk with `sync -f`",
    }
    grouped = [
        (title, [one for one in ordered if (one.cell.target, one.cell.link) == key]) for key, title in titles.items()
    ]
    return [(title, chosen) for title, chosen in grouped if chosen]


def _cell_title(cell: Cell) -> str:
    server = {"nginx": "nginx", "versitygw": "versitygw", "hub": "nginx with the Hub's protocol"}[cell.server]
    return f"**{SHAPES[cell.shape].title}** from {server}, {'TLS' if cell.tls else 'plain HTTP'}"


def _provenance(measurements: Sequence[Measurement]) -> str:
    """Say when and where: once for all cells that have it in common."""
    said: dict[tuple[str, str], list[Measurement]] = {}
    for measured in measurements:
        said.setdefault((measured.machine, measured.versions), []).append(measured)
    lines = []
    for (machine, versions), chosen in said.items():
        dates = sorted(measured.when for measured in chosen)
        commits = ", ".join(sorted({measured.commit for measured in chosen}))
        loads = [measured.load for measured in chosen]
        lines.append(
            f"Cells: {len(chosen)}; first measured {dates[0]}, last {dates[-1]}; commit {commits}; {machine}; load "
            f"average before each cell {min(loads):.1f} to {max(loads):.1f}. {versions}."
        )
    return "\n\n".join(lines)


def _short(measurements: Sequence[Measurement]) -> list[str]:
    """Say which cells are no measurement to rely on: of fewer runs than a full benchmark's."""
    short = [one.cell.name for one in measurements if len(one.clients.get(US, Runs()).samples) < FULL_RUNS]
    return [f"**Short runs, not to be relied on:** {', '.join(short)}."] if short else []


def _goals(measurements: Sequence[Measurement]) -> str:
    table = [("cell", "wall / best peer", "goal", "CPU without hashing / best peer", "goal", "peak MiB", "missed")]
    for measured in measurements:
        found = rows(measured)
        ours = next((row for row in found if row.name == US), None)
        wall, cpu = best_peer(found, lambda row: row.wall), best_peer(found, lambda row: row.bare_cpu)
        if ours is None or wall is None or cpu is None:
            continue
        wanted = goal(measured.cell)
        missed = [
            *(["wall"] if ours.wall / wall > wanted.wall else []),
            *(["CPU"] if wanted.cpu is not None and ours.bare_cpu / cpu > wanted.cpu else []),
            *(["CPU of the limit"] if _exceeds_limit(measured.cell, ours, found) else []),
            *(["memory"] if ours.memory > _MEMORY_GOAL else []),
        ]
        table.append(
            (
                measured.cell.name.replace("/loopback", ""),
                _ratio(ours.wall, wall),
                f"{wanted.wall:.1f}",
                _ratio(ours.bare_cpu, cpu),
                "" if wanted.cpu is None else f"{wanted.cpu:.1f}",
                f"{ours.memory / 2**20:.0f}",
                ", ".join(missed),
            )
        )
    return _markdown_table(table)


def _exceeds_limit(cell: Cell, ours: Row, found: Sequence[Row]) -> bool:
    limit = next((row.cpu for row in found if row.name == LIMIT), None)
    counts = cell.shape == "large" and cell.target == "tmpfs" and limit is not None
    return counts and ours.bare_cpu > _LIMIT_GOAL * (limit or 0.0)


def _client_rows() -> list[tuple[str, ...]]:
    return [("client", "run as"), *((one.name, one.flags) for one in CLIENTS.values())]


def _noticed_rows(noticed: Noticed) -> list[tuple[str, ...]]:
    columns = list(dict.fromkeys(column for found in noticed.values() for column in found))
    words = {True: "noticed", False: "no", None: ""}
    table = [("client", *columns, "from its documents or source")]
    for name, found in noticed.items():
        table.append((name, *(words[found.get(column)] for column in columns), CLIENTS[name].verifies))
    return table


def _failures(measured: Measurement) -> str:
    said = [f"{name}: {_one_line(runs.failure)}" for name, runs in measured.clients.items() if runs.failure]
    return "Ended early: " + "; ".join(said) + "."


def _one_line(message: str) -> str:
    return " ".join(message.split())[:160]


def _markdown_table(table: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])


def _ratio(value: float, best: float | None) -> str:
    return "" if not best else f"{value / best:.2f}"
