"""Many processes on one directory, as pods that share a claim: one downloads for all, whoever each of them is."""

import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.commands import Run, datafetch, environment, tree
from servers.http import Exchange, StaticServer
from servers.plans import Fault
from unit.downloader.memory_source import Fetch, MemoryBucket, in_place

FILES = {"a.txt": b"alpha\n", "deep/b.bin": os.urandom(200_000), "deep/empty": b""}
WAITERS = 4
GROUP = 61_003
FIRST, SECOND = 61_001, 61_002
"""Users who have nothing in common but the group."""


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as server:
        publish(server, FILES)
        yield server


@pytest.fixture
def volume() -> Iterator[Path]:
    """Make a directory that every user can reach; pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        volume = Path(directory, "volume")
        volume.mkdir()
        yield volume


def publish(server: StaticServer, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        server.put(f"/{name}", content)


def config(server: StaticServer, root: Path) -> str:
    urls = "".join(f"\n      - {{url: {server.url}/{name}, target_path: {name}}}" for name in FILES)
    return f"download_root: {root}\ndownload_items:\n  - type: http\n    name: files\n    items:{urls}\n"


class Gate:
    """Lets the server answer for one of the files only once it is opened."""

    def __init__(self, server: StaticServer) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()
        self.open = self._opened.set
        server.faults.add(Fault(), path="/deep/b.bin", when=self._wait)

    def _wait(self, exchange: Exchange) -> bool:
        self._reached.set()
        return self._opened.wait(60)

    def await_request(self) -> None:
        """Wait until somebody stands before it."""
        assert self._reached.wait(40)


def await_waiting(directory: Path, number: int) -> None:
    """Wait until a process says that it waits."""
    deadline = time.monotonic() + 40
    while b'"Waiting"' not in (directory / f"{number}.out").read_bytes():
        assert time.monotonic() < deadline, f"process {number} does not wait"
        time.sleep(0.02)


def start(directory: Path, text: str, number: int = 0) -> subprocess.Popen[bytes]:
    with (directory / f"{number}.out").open("wb") as out, (directory / f"{number}.err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "datafetch", "run", "--skip-if-complete", "--json"],
            cwd=directory,
            env=environment(directory, {"DATAFETCH_CONFIG": text}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


# --- one download for all --------------------------------------------------------------------------------------------


def test_who_waits_for_another_s_download_asks_the_source_for_nothing(server: StaticServer, tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert datafetch("run", "-", cwd=tmp_path, stdin=config(server, tmp_path / "alone")).code == 0
    asked_alone = len(server.traffic.exchanges)

    gate = Gate(server)
    processes = [start(tmp_path, config(server, root))]
    try:
        gate.await_request()
        processes += [start(tmp_path, config(server, root), number) for number in range(1, WAITERS + 1)]
        for number in range(1, WAITERS + 1):
            await_waiting(tmp_path, number)
        gate.open()
        codes = [processes[0].wait(30)]
        ended = time.monotonic()
        codes += [process.wait(30) for process in processes[1:]]
        took = time.monotonic() - ended
    finally:
        gate.open()
        for process in processes:
            process.kill()
            process.wait()

    assert codes == [0] * (WAITERS + 1), (tmp_path / "1.err").read_text()
    assert len(server.traffic.exchanges) - asked_alone == asked_alone
    assert tree(root) == FILES
    assert took < 4.0, f"the last of them ended {took:.1f} s after the download"
    assert os.listdir(root / ".datafetch/epochs") == ["1"], "nobody else took the lock"
    said = Run(0, (tmp_path / "1.out").read_text(), "").result
    assert (said.completed_files, said.reused_bytes) == (3, sum(map(len, FILES.values())))


def test_who_waited_in_vain_downloads(server: StaticServer, tmp_path: Path) -> None:
    gate = Gate(server)
    processes = [start(tmp_path, config(server, tmp_path / "data"))]
    try:
        gate.await_request()
        processes.append(start(tmp_path, config(server, tmp_path / "data"), 1))
        await_waiting(tmp_path, 1)
        processes[0].kill()
        processes[0].wait()
        gate.open()
        assert processes[1].wait(30) == 0, (tmp_path / "1.err").read_text()
    finally:
        gate.open()
        for process in processes:
            process.kill()
            process.wait()
    assert tree(tmp_path / "data") == FILES


# --- users who share a group; root is needed -------------------------------------------------------------------------


def run_as(user: int, text: str, cwd: Path) -> Run:
    script = Path(__file__).with_name("another_user.py")
    done = subprocess.run(
        [sys.executable, script, str(user), str(GROUP), "run"],
        cwd="/",
        env={**environment(cwd, {"DATAFETCH_CONFIG": text}), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def give(volume: Path, mode: int, owner: int = 0, group: int = GROUP) -> None:
    os.chown(volume, owner, group)
    volume.chmod(mode)


@pytest.mark.parametrize(("mode", "group"), [(0o2775, GROUP), (0o777, 0)], ids=["fsGroup", "for everybody"])
def test_the_download_of_one_user_is_refreshed_by_another(
    server: StaticServer, volume: Path, mode: int, group: int
) -> None:
    give(volume, mode, group=group)
    root = volume / "below/it"
    assert run_as(FIRST, config(server, root), volume).code == 0
    publish(server, {"deep/b.bin": b"new", "a.txt": b"newer"})

    second = run_as(SECOND, config(server, root), volume)

    assert second.code == 0, second.stderr
    assert tree(root) == {**FILES, "deep/b.bin": b"new", "a.txt": b"newer"}
    assert {path.stat().st_uid for path in root.rglob("*.*") if path.is_file()} >= {SECOND}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in root.rglob("*") if path.is_file())


def test_what_one_user_has_left_unfinished_another_goes_on_with(server: StaticServer, volume: Path) -> None:
    give(volume, 0o2775)
    large = os.urandom(3 << 20)
    server.put("/deep/b.bin", large)
    server.faults.add(Fault(cut_after=2 << 20), path="/deep/b.bin")
    server.faults.add(Fault(status=403), times=None, path="/deep/b.bin")
    assert run_as(FIRST, config(server, volume), volume).code != 0
    server.faults.clear()
    sent = server.traffic.bytes_sent

    second = run_as(SECOND, config(server, volume), volume)

    assert second.code == 0, second.stderr
    assert tree(volume) == {**FILES, "deep/b.bin": large}
    assert server.traffic.bytes_sent - sent < 2 << 20, "what had arrived was not asked for again"


def test_a_directory_of_one_user_alone_is_refused_to_another_with_what_to_do(
    server: StaticServer, volume: Path
) -> None:
    give(volume, 0o755, owner=FIRST)
    assert run_as(FIRST, config(server, volume), volume).code == 0
    assert not stat.S_IMODE((volume / ".datafetch").stat().st_mode) & 0o022

    second = run_as(SECOND, config(server, volume), volume)

    assert second.code == 16
    assert f"belongs to {FIRST}" in second.sentence
    assert f"we run as {SECOND}" in second.sentence
    assert "fsGroup" in second.sentence


def test_a_sticky_directory_opens_nothing_to_others(volume: Path) -> None:
    volume.chmod(0o1777)
    Fetch(MemoryBucket.of({"d/a": b"a"}), in_place(str(volume))).run()
    assert not any(path.stat().st_mode & 0o022 for path in volume.rglob("*"))
