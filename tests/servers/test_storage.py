"""`hack/storage` installs once, starts and ends exactly its own processes, and puts real files where it says."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage import processes
from storage.install import GoServer, InstallError, NpmServer, install

COMMAND = [sys.executable, str(Path(__file__).parents[2] / "hack" / "storage")]


def run(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def free_ports(count: int) -> list[str]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_servers_go_up_are_filled_and_go_down(tmp_path: Path) -> None:
    state = ["--state", str(tmp_path / "state")]
    s3, gcs, azure = free_ports(3)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "a b.txt").write_text("text")
    (tree / "link").symlink_to("sub")
    up = ["up", *state, "--s3-port", s3, "--gcs-port", gcs, "--azure-port", azure]
    try:
        run(*up)
        run(*up)
        assert "run `hack/storage down` first" in run("up", *state, status=1)
        stores = ["--s3", f"training/x={tree}", "--gcs", f"models={tree}", "--azure", f"tables/y/={tree}"]
        filled = run("fill", *state, *stores).splitlines()
        assert [line.partition(" in ")[0] for line in filled] == [
            "s3://training/x/: 1 files, 0.0 MB",
            "gs://models/: 1 files, 0.0 MB",
            "az://tables/y/: 1 files, 0.0 MB",
        ]
        assert (tmp_path / "state" / "s3" / "training" / "x" / "sub" / "a b.txt").read_text() == "text"
        environment = json.loads(run("env", *state, "--json"))
        assert environment["AWS_ENDPOINT_URL_S3"] == f"http://127.0.0.1:{s3}"
        url = f"{environment['STORAGE_EMULATOR_HOST']}/download/storage/v1/b/models/o/sub%2Fa%20b.txt?alt=media"
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.read() == b"text"
    finally:
        ended = run("down", *state)
    assert ended == "ended versitygw, fake-gcs-server, azurite\n"
    assert run("down", *state) == "nothing was running\n"
    assert "start them with" in run("env", *state, status=1)
    for port in (s3, gcs, azure):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_a_taken_port_is_refused_with_a_sentence(tmp_path: Path) -> None:
    s3, gcs, azure = free_ports(3)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(s3)))
        other.listen()
        ports = ["--s3-port", s3, "--gcs-port", gcs, "--azure-port", azure]
        said = run("up", "--state", str(tmp_path), *ports, status=1)
    assert f"versitygw cannot listen on 127.0.0.1:{s3}" in said
    assert run("down", "--state", str(tmp_path)) == "nothing was running\n"


def test_fill_names_what_it_cannot_use(tmp_path: Path) -> None:
    assert "start them with" in run("fill", "--state", str(tmp_path), "--s3", f"b={tmp_path}", status=1)


def start(tmp_path: Path, *command: str) -> processes.Process:
    environment = {"PATH": os.environ["PATH"]}
    return processes.start(command, log=tmp_path / "log", pid_file=tmp_path / "pid", environment=environment)


def test_a_process_is_ended_with_what_it_started(tmp_path: Path) -> None:
    process = start(tmp_path, "/bin/sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait")
    deadline = time.monotonic() + 5
    while not (tmp_path / "log").read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.01)
    child = int((tmp_path / "log").read_text())
    processes.STOP_SECONDS, kept = 0.3, processes.STOP_SECONDS
    try:
        process.stop()
    finally:
        processes.STOP_SECONDS = kept
    assert processes.find(tmp_path / "pid") is None
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


def test_a_later_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    process = start(tmp_path, "/bin/sleep", "1000")
    try:
        (tmp_path / "pid").write_text(json.dumps({"pid": process.pid, "startTime": process.start_time - 1}))
        assert processes.find(tmp_path / "pid") is None
        processes.Process(process.pid, process.start_time - 1).stop()
        assert process.is_alive()
    finally:
        process.stop()


@dataclass(frozen=True)
class CountingServer:
    name: str = "counting"
    version: str = "1"
    executable: str = "program"
    builds: list[Path] = field(default_factory=list)

    def build(self, directory: Path) -> None:
        self.builds.append(directory)
        time.sleep(0.1)
        (directory / self.executable).write_text("")


def test_two_installations_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = CountingServer()
    threads = [threading.Thread(target=install, args=(server,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.builds) == 1
    assert install(server) == tmp_path / "datafetch" / "storage" / "counting-1" / "program"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (GoServer("none", "1.0.0", "example.com/none"), "go is not on PATH"),
        (NpmServer("none", "1.0.0", "none"), "npm is not on PATH"),
    ],
)
def test_a_missing_tool_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: GoServer, said: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=f"{said}.*install"):
        install(server)
    assert not (tmp_path / "datafetch" / "storage" / "none-1.0.0").exists()
