"""Who leads among the operator's replicas, and its process: killed, stopped, woken."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import chart
from deploy.kubectl import Kubectl
from e2e.tenant import Json

LEASE = "datafetch-operator"
TAKEOVER_SECONDS = 15.0


def leader(kubectl: Kubectl) -> str:
    """Return the name of the pod that leads."""
    found = kubectl.get("lease", LEASE, chart.NAMESPACE)
    assert found is not None
    return str(found["spec"]["holderIdentity"]).partition("_")[0]


def wait_for_another_leader(kubectl: Kubectl, before: str) -> float:
    """Return when, by this machine's monotonic clock, another pod was seen to lead."""
    deadline = time.monotonic() + 2 * TAKEOVER_SECONDS
    while leader(kubectl) in (before, ""):
        assert time.monotonic() < deadline, f"{before} still leads"
        time.sleep(0.2)
    return time.monotonic()


def process_of(pod: str) -> int:
    """Return the operator's process in a pod, by its number on this machine, where the nodes run as well."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            if f"HOSTNAME={pod}".encode() in environment:
                return int(process.name)
    raise AssertionError(f"pod {pod} has no process on this machine")


@contextlib.contextmanager
def stopped(process: int) -> Iterator[float]:
    """Stop a process, and let it go on afterwards; give when it was stopped."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        os.kill(process, signal.SIGCONT)


def container(kubectl: Kubectl, pod: str) -> Json:
    """Return the state of the operator's container."""
    found = kubectl.get("pod", pod, chart.NAMESPACE)
    assert found is not None
    return dict(found["status"]["containerStatuses"][0])


def wait_for_restart(kubectl: Kubectl, pod: str, restarts: int) -> Json:
    """Wait until the container was started again, and return how it had ended."""
    deadline = time.monotonic() + 60
    while (state := container(kubectl, pod))["restartCount"] == restarts:
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.5)
    return dict(state["lastState"]["terminated"])
