"""`datafetch.fetch` in a program: what Ctrl-C and the program's end leave, and what the next one makes of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import datafetch
from component.commands import environment, tree
from servers.http import Manners, StaticServer
from servers.serving import wait_until

DATA = os.urandom(80 << 20)
PROGRAM = """
import sys, datafetch
task = datafetch.fetch(sys.argv[1], "data")
{use}
"""


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as server:
        server.put("/big.bin", DATA, Manners())
        yield server


def start(server: StaticServer, directory: Path, use: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(use=use), f"{server.url}/big.bin"],
        cwd=directory,
        env=environment(directory, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("use", "signals", "said"),
    [
        ("task.run(progress=True)", [signal.SIGINT], "KeyboardInterrupt"),
        ("task.start(); import time; time.sleep(2); print(task.status)", [], ""),
    ],
    ids=["interrupted", "ended"],
)
def test_a_program_that_is_interrupted_or_ends_leaves_parts_and_the_next_goes_on(
    server: StaticServer, tmp_path: Path, use: str, signals: list[signal.Signals], said: str
) -> None:
    server.pace.rate = 30_000_000
    program = start(server, tmp_path, use)
    wait_until(lambda: sum(one.sent for one in server.traffic.exchanges) > 36 << 20, 30)
    for one in signals:
        program.send_signal(one)
    _, err = program.communicate(timeout=20)

    assert said in err, err
    assert program.returncode == (0 if not signals else -signal.SIGINT)
    assert tree(tmp_path / "data") == {}
    server.pace.rate = None
    server.traffic.clear()
    outcome = datafetch.fetch(f"{server.url}/big.bin", tmp_path / "data").run()
    assert tree(tmp_path / "data") == {"big.bin": DATA}
    assert outcome.reused_bytes >= 8 << 20
    assert sum(one.sent for one in server.traffic.exchanges) == len(DATA) - outcome.reused_bytes
