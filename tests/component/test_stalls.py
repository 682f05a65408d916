"""Servers that fall silent, drip, or hang up: what is stuck is asked for again elsewhere; patience has an end."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from component.commands import Run, datafetch, tree
from servers.drip import DrippingServer
from servers.plans import Fault

STALL_TIMEOUT = 1
RANGE_BYTES = 32 << 20
"""As large files are asked for."""
BIG = random.Random(4).randbytes(40 << 20)
"""Two ranges."""
SMALL = {f"small-{number:02}.bin": random.Random(number).randbytes(20_000) for number in range(20)}
FILES = {"big.bin": BIG, **SMALL}


@pytest.fixture
def server() -> Iterator[DrippingServer]:
    with DrippingServer() as running:
        for name, data in FILES.items():
            running.put(f"/{name}", data)
        yield running


def config(server: DrippingServer, names: list[str]) -> str:
    item = {"type": "http", "name": "files", "items": [{"url": f"{server.url}/{name}"} for name in names]}
    return json.dumps({"download_root": "data", "download_items": [item], "transfer": {"stall_timeout": STALL_TIMEOUT}})


def fetch(server: DrippingServer, cwd: Path, names: list[str] | None = None) -> Run:
    return datafetch("run", "-", "--json", cwd=cwd, stdin=config(server, names or list(FILES)))


def silent_after_accept(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.faults.add(Fault(latency=3600), times=times, skip=skip, path=path)


def silent_after_head(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.faults.add(Fault(stall_after=0), times=times, skip=skip, path=path)


def silent_in_the_middle(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.faults.add(Fault(stall_after=5_000), times=times, skip=skip, path=path)


def a_byte_a_second(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.drip(path, after=5_000, every=1.0, times=times, skip=skip)


def a_byte_now_and_then(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.drip(path, after=0, every=0.2, times=times, skip=skip)


def closes_in_the_middle(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.faults.add(Fault(cut_after=5_000), times=times, skip=skip, path=path)


def resets_in_the_middle(server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None:
    server.faults.add(Fault(cut_after=5_000, reset=True), times=times, skip=skip, path=path)


class Misbehave(Protocol):
    """Makes the server misbehave in the next `times` answers for a path (None: in all), after `skip` good ones."""

    def __call__(self, server: DrippingServer, path: str, times: int | None, skip: int = 0) -> None: ...


ALL: list[Misbehave] = [
    silent_after_accept,
    silent_after_head,
    silent_in_the_middle,
    a_byte_a_second,
    a_byte_now_and_then,
    closes_in_the_middle,
    resets_in_the_middle,
]


@pytest.mark.parametrize("misbehave", ALL)
def test_what_is_stuck_is_asked_for_again_and_the_whole_arrives_soon(
    server: DrippingServer, tmp_path: Path, misbehave: Misbehave
) -> None:
    misbehave(server, "/big.bin", 1)
    misbehave(server, "/small-07.bin", 1)
    started = time.monotonic()

    run = fetch(server, tmp_path)

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == FILES
    # The command's own start, the fetch, and at most a few timeouts, not one after the other for every file.
    assert time.monotonic() - started <= 6 + 3 * STALL_TIMEOUT
    assert len(server.traffic.select("GET", "/small-07.bin")) == 2
    assert server.traffic.bytes_sent <= sum(map(len, FILES.values())) + (4 << 20), (
        "what had arrived is not fetched again"
    )


def test_many_that_are_stuck_at_once_cost_one_timeout_together(server: DrippingServer, tmp_path: Path) -> None:
    silent_in_the_middle(server, "/big.bin", 2)
    silent_after_accept(server, "/small-0?.bin", 10)
    started = time.monotonic()

    run = fetch(server, tmp_path)

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == FILES
    assert STALL_TIMEOUT <= time.monotonic() - started <= 6 + 3 * STALL_TIMEOUT


def test_the_same_file_may_be_stuck_twice_in_a_row(server: DrippingServer, tmp_path: Path) -> None:
    silent_in_the_middle(server, "/small-00.bin", 2)

    run = fetch(server, tmp_path, ["small-00.bin"])

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == {"small-00.bin": FILES["small-00.bin"]}
    assert len(server.traffic.select("GET", "/small-00.bin")) == 3


@pytest.mark.parametrize(
    ("name", "misbehave"),
    [
        ("big.bin", silent_in_the_middle),
        ("big.bin", a_byte_a_second),
        ("small-00.bin", silent_after_accept),
        ("small-00.bin", a_byte_a_second),
    ],
)
def test_a_server_that_stays_silent_ends_the_fetch_after_its_patience_and_the_next_run_goes_on(
    server: DrippingServer, tmp_path: Path, misbehave: Misbehave, name: str
) -> None:
    names = ["big.bin", "small-00.bin", "small-01.bin"]
    # Of the big file, the range that is asked for first comes.
    misbehave(server, f"/{name}", None, skip=1 if name == "big.bin" else 0)
    started = time.monotonic()

    stalled = fetch(server, tmp_path, names)

    assert stalled.code == 15, stalled.stderr
    assert stalled.result.failure is not None
    assert stalled.result.failure.reason == "Stalled"
    assert name in stalled.sentence
    assert 3 * STALL_TIMEOUT <= time.monotonic() - started <= 8 + 6 * STALL_TIMEOUT, (
        "more than one try, and then an end"
    )
    assert name not in tree(tmp_path / "data")

    server.faults.clear()
    server.stop_dripping()
    server.traffic.clear()
    again = fetch(server, tmp_path, names)
    assert again.code == 0, again.stderr
    assert tree(tmp_path / "data") == {name: FILES[name] for name in names}
    missing = RANGE_BYTES + (1 << 20) if name == "big.bin" else 20_000
    assert server.traffic.bytes_sent <= missing, "only what had not arrived"


def test_a_slow_server_is_no_stalled_one(server: DrippingServer, tmp_path: Path) -> None:
    server.faults.add(Fault(bytes_per_second=40_000), times=None, path="/slow.bin")
    data = BIG[:200_000]
    server.put("/slow.bin", data)

    run = fetch(server, tmp_path, ["slow.bin"])

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == {"slow.bin": data}
    assert len(server.traffic.select("GET", "/slow.bin")) == 1, "40 kB/s is slow, and steady"
