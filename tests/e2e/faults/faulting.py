"""What is done to the cluster, and how a test knows that it is time for it."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster import provider, shell
from cluster.errors import ClusterError
from deploy import chart
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.tenant import Json, Tenant

OPERATOR = "app.kubernetes.io/component=operator"
SYSTEM = ("--namespace", chart.NAMESPACE)
_TOOL = Path(__file__).resolve().parents[3] / "hack" / "cluster"


def until(condition: Callable[[], bool], seconds: float, words: str, pause: float = 0.2) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {words}"
        time.sleep(pause)


# --- the operator ---


def running_operators(kubectl: Kubectl) -> list[str]:
    """Return the ids of the operator's containers that run now."""
    pods = kubectl.objects("pods", chart.NAMESPACE, OPERATOR)
    return [container for one in pods if (container := running_container(one)) is not None]


def running_container(pod: Json) -> str | None:
    """Return the id of a pod's first container, where it runs."""
    for status in pod["status"].get("containerStatuses", []):
        if "running" in status["state"] and "deletionTimestamp" not in pod["metadata"]:
            return str(status["containerID"].rpartition("//")[2])
    return None


def kill_operators(kubectl: Kubectl, seconds: float = 90) -> int:
    """SIGKILL every operator process, as soon as one runs; kubelet starts them again, after a pause that grows."""
    until(lambda: bool(running_operators(kubectl)), seconds, "the operator runs")
    killed = 0
    for container in running_operators(kubectl):
        with contextlib.suppress(ClusterError):
            # Gone by itself in between: that is not ours to count.
            provider.choose().kill_container(container)
            killed += 1
    return killed


def renew_operators(kubectl: Kubectl) -> None:
    """Give the operator new pods: kubelet lets the containers of one wait longer after each end."""
    kubectl.run("delete", "pod", *SYSTEM, f"--selector={OPERATOR}", "--grace-period=1")
    await_operators(kubectl)


def await_operators(kubectl: Kubectl) -> None:
    """Wait until the operator is ready."""
    kubectl.run("rollout", "status", "deployment/datafetch-operator", *SYSTEM, "--timeout=120s")


# --- the cluster ---


def restart(process: str) -> None:
    """Restart one of Kubernetes' own processes; whoever asks hack/cluster for something meanwhile waits."""
    shell.run(sys.executable, _TOOL, "restart", process)


@contextlib.contextmanager
def second_node() -> Iterator[str]:
    """Have a second node, which is as good as the first."""
    try:
        yield shell.run(sys.executable, _TOOL, "node", "add").strip()
    finally:
        shell.run(sys.executable, _TOOL, "node", "remove")


def lose_second_node() -> None:
    """End all that runs on the second node at once, as a loss of power does."""
    shell.run(sys.executable, _TOOL, "node", "lose")


@contextlib.contextmanager
def cordoned(kubectl: Kubectl) -> Iterator[None]:
    """Let no node take pods."""
    nodes = [node["metadata"]["name"] for node in kubectl.objects("nodes")]
    try:
        kubectl.run("cordon", *nodes)
        yield
    finally:
        kubectl.run("uncordon", *nodes)


# --- the download ---


def download_pod(tenant: Tenant) -> Json:
    """Return the download pod that runs."""
    found: list[Json] = []

    def runs() -> bool:
        pods = tenant.kubectl.objects("pods", tenant.namespace, "datafetch.io/role=download")
        found[:] = [one for one in pods if running_container(one)]
        return bool(found)

    until(runs, 60, "a download pod runs")
    return found[0]


def evict(tenant: Tenant, pod: str) -> None:
    """Ask for an eviction, as `kubectl drain` does."""
    metadata = {"name": pod, "namespace": tenant.namespace}
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/{tenant.namespace}/pods/{pod}/eviction"
    tenant.kubectl.run("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def await_bytes(bucket: Bucket, count: float, seconds: float = 120) -> None:
    """Wait until that many bytes of objects have left the server."""
    until(lambda: bucket.bytes_read() >= count, seconds, f"{count:.0f} bytes have left the server", 0.02)
