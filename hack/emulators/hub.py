"""The stand-in for the Hugging Face Hub, for machines that cannot reach it: one repository, one small file.

The server is the one of the tests (`tests/servers/hub.py`); this is the process around it. It is used only where
HF_ENDPOINT says so.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path

from storage import processes
from storage.servers import ServerError

from .place import HOST, HUB_PORT, PROJECT, Place

REPOSITORY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
README = b"# TinyLlama, or rather a stand-in for it\n\nThis file came from `make emulators`, not from the Hub.\n"
_READY_SECONDS = 30.0


def start(place: Place, port: int) -> None:
    """Start the stand-in unless it runs, and wait until it listens. Raises ServerError."""
    if processes.find(place.hub_pid_file) is not None:
        return
    if _listens(port):
        raise ServerError(f"the stand-in for the Hub cannot listen on {HOST}:{port}: something else does already.")
    log = place.state.resolve() / "hub.log"
    program = [sys.executable, str(Path(__file__).parent.resolve()), "hub", "--hub-port", str(port)]
    process = processes.start(program, log=log, pid_file=place.hub_pid_file, environment={"PYTHONUNBUFFERED": "1"})
    deadline = time.monotonic() + _READY_SECONDS
    while not _listens(port):
        if not process.is_alive() or time.monotonic() > deadline:
            process.stop()
            raise ServerError(f"the stand-in for the Hub did not start; its log says:\n{log.read_text()}")
        time.sleep(processes.POLL_SECONDS)


def stop(place: Place) -> bool:
    """End the stand-in; return whether it ran."""
    process = processes.find(place.hub_pid_file)
    if process is not None:
        process.stop()
    place.hub_pid_file.unlink(missing_ok=True)
    return process is not None


def serve(port: int = HUB_PORT) -> None:
    """Be the stand-in until SIGTERM or SIGINT."""
    sys.path.append(str(PROJECT / "tests"))
    from servers.hub import Hub

    ends = {signal.SIGTERM, signal.SIGINT}
    # Before the server's threads are made: they inherit it, and only sigwait takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Hub(HOST, port) as hub:
        hub.create(REPOSITORY, {"README.md": README})
        signal.sigwait(ends)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
