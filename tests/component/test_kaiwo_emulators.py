"""`make emulators`, on free ports: the Kaiwo downloader's test config runs word for word, as its document says."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from component.commands import Run, datafetch, environment, tree
from emulators.commands import down, up
from emulators.place import PROJECT, Place, Ports
from storage.servers import ServerError
from unit.downloader.kaiwo_examples import EXAMPLES, config_with

KAIWO = PROJECT / "examples" / "kaiwo"
CONFIG = "test/test_download_task.yaml"
SECRETS = ("s3/endpoint", "s3/access_key_id", "s3/secret_key", "azure/connection_string", "gcs/credentials.json")


def free_ports() -> Ports:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        return Ports(*(int(probe.getsockname()[1]) for probe in probes))


def copied(directory: Path) -> Path:
    """A copy of the examples as they are committed, without what a developer's runs have left there."""
    return Path(shutil.copytree(KAIWO, directory, ignore=shutil.ignore_patterns("output", "secrets")))


@pytest.fixture(scope="module")
def ports() -> Ports:
    return free_ports()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ports: Ports) -> Iterator[Place]:
    place = Place(copied(tmp_path_factory.mktemp("kaiwo") / "kaiwo"), tmp_path_factory.mktemp("state"))
    up(place, ports)
    yield place
    down(place)


def run(place: Place, ports: Ports, program: list[str] | None = None) -> Run:
    """The document's command, with the ports of this test."""
    servers = {
        "STORAGE_EMULATOR_HOST": f"http://localhost:{ports.gcs}",
        "HF_ENDPOINT": f"http://localhost:{ports.hub}",
    }
    if program is None:
        return datafetch("run", CONFIG, cwd=place.directory, **servers)
    done = subprocess.run(
        [*program, "run", CONFIG],
        cwd=place.directory,
        env=environment(place.directory, servers),
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def expected(place: Place) -> dict[str, bytes]:
    """What the config asks for, from the sample data as it lies there."""
    everything = tree(place.data)
    below = {path.removeprefix("subdir/"): data for path, data in everything.items() if path.startswith("subdir/")}
    files = {f"gcs/glob/{path}": data for path, data in everything.items() if path.endswith(".md")}
    for provider in ("gcs", "s3", "azure"):
        files |= {f"{provider}/all/{path}": data for path, data in everything.items()}
        files |= {f"{provider}/sub/{path}": data for path, data in below.items()}
        files[f"{provider}/single.txt"] = everything["subdir/file02.txt"]
    return files


def test_the_whole_test_config_leaves_its_tree(place: Place, ports: Ports) -> None:
    done = run(place, ports)

    assert done.code == 0, done.stderr
    output = tree(place.directory / "test/output")
    readme = output.pop("TinyLlama/TinyLlama-1.1B-Chat-v1.0/README.md")
    assert readme.startswith(b"# TinyLlama")
    assert output == expected(place)
    assert not (place.directory / ".cache").exists(), "no cache of the Hub is filled"


def test_the_installed_command_does_the_same(place: Place, ports: Ports) -> None:
    done = run(place, ports, [str(Path(sys.executable).with_name("datafetch"))])

    assert done.code == 0, done.stderr
    assert tree(place.directory / "test/output").items() >= expected(place).items()


def test_the_test_config_is_the_document_s_examples_word_for_word() -> None:
    lines = [line for line in (KAIWO / CONFIG).read_text().splitlines(keepends=True) if not line.startswith("#")]

    assert "".join(lines) == config_with(*EXAMPLES.values())


def test_what_was_written_is_for_its_owner_alone_and_what_was_started_listens_here_alone(
    place: Place, ports: Ports
) -> None:
    for name in SECRETS:
        assert (place.secrets / name).stat().st_mode & 0o077 == 0
    for port in (ports.s3, ports.gcs, ports.azure, ports.hub):
        with socket.create_connection(("127.0.0.1", port)):
            assert listening_addresses(port) == {"0100007F"}


def listening_addresses(port: int) -> set[str]:
    """The addresses that something listens on at a port, in hexadecimal as proc_pid_net(5) has them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def test_down_ends_exactly_what_up_started(tmp_path: Path) -> None:
    place, ports = Place(copied(tmp_path / "kaiwo"), tmp_path / "state"), free_ports()
    own = place.secrets / "s3" / "mine"
    with socket.create_server(("127.0.0.1", 0)) as other:
        up(place, ports)
        up(place, ports)
        own.write_text("of somebody else")
        assert down(place) == ["versitygw", "fake-gcs-server", "azurite", "hub"]
        assert down(place) == []
        with socket.create_connection(other.getsockname()):
            assert os.listdir(place.secrets) == ["s3"]
    assert own.read_text() == "of somebody else"
    for port in (ports.s3, ports.gcs, ports.azure, ports.hub):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    place, ports = Place(copied(tmp_path / "kaiwo"), tmp_path / "state"), free_ports()
    with socket.create_server(("127.0.0.1", ports.s3)), pytest.raises(ServerError, match="versitygw cannot listen on"):
        up(place, ports)
