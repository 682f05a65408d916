"""What the operator costs while nothing happens: its memory and its share of a core, in a real cluster.

    python3 bench/cluster_operator_idle.py [--seconds 60]

Reads /proc of the machine that the node runs on, so the cluster must be one of `make cluster-up`. The chart of this
work tree is installed first, with the images that `make images-load` loaded. Prints both numbers, and exits 1 where one
misses its goal.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "hack"))

from deploy import chart
from deploy.kubectl import Kubectl, of_cluster

MEMORY_GOAL = 150.0
"""MiB of resident memory."""
CPU_GOAL = 1.0
"""Percent of one core."""
_BUSY = frozenset({"Pending", "Fetching", "Refreshing"})
SETTLE_SECONDS = 15
"""The first list and the probes' first minute are no idling."""


@dataclass(frozen=True)
class Usage:
    """What the processes of a container used until now."""

    resident: int
    """Bytes."""
    cpu: float
    """Seconds, user and system."""


def operator_pod(kubectl: Kubectl) -> dict[str, str]:
    pods = kubectl.objects("pods", chart.NAMESPACE, "app.kubernetes.io/component=operator")
    lease = kubectl.get("lease", "datafetch-operator", chart.NAMESPACE) or {"spec": {}}
    leader = (lease["spec"].get("holderIdentity") or "").partition("_")[0]
    running = [pod for pod in pods if pod["metadata"]["name"] == leader and "deletionTimestamp" not in pod["metadata"]]
    if len(running) != 1:
        sys.exit(f"Of {len(pods)} operator pods in {chart.NAMESPACE} none leads; wait until one does.")
    status = running[0]["status"]["containerStatuses"][0]
    return {"name": running[0]["metadata"]["name"], "container": status["containerID"].partition("://")[2]}


def processes_of(container: str) -> list[Path]:
    """Return the /proc entries of a container: its id stands in their cgroup's path, with every runtime."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cgroup = (entry / "cgroup").read_text()
        except OSError:  # It has ended meanwhile.
            continue
        if container in cgroup:
            found.append(entry)
    if not found:
        sys.exit(f"No process of container {container} runs on this machine: run this where the node is.")
    return found


def usage_of(processes: list[Path]) -> Usage:
    resident, ticks = 0, 0
    for process in processes:
        # proc(5): fields 14 and 15 are utime and stime; the name before them may hold spaces.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        resident += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(resident, ticks / os.sysconf("SC_CLK_TCK"))


def resources(kubectl: Kubectl) -> str:
    """Return how many DataFetch resources there are, and how many of them keep the operator busy."""
    phases = kubectl.run("get", "datafetch", "--all-namespaces", "-o", "jsonpath={.items[*].status.phase}").split()
    busy = sum(phase in _BUSY for phase in phases)
    return f"{len(phases)} DataFetch resources" + (f", {busy} of them NOT at rest" if busy else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    kubectl = of_cluster()
    chart.install_chart(kubectl)
    time.sleep(SETTLE_SECONDS)
    pod = operator_pod(kubectl)
    processes = processes_of(pod["container"])
    before = usage_of(processes)
    time.sleep(seconds)
    after = usage_of(processes)
    if operator_pod(kubectl) != pod:
        sys.exit("The operator's pod was replaced or restarted meanwhile: measure again.")
    memory, cpu = after.resident / (1 << 20), (after.cpu - before.cpu) / seconds * 100
    print(
        f"operator idle for {seconds} s with {resources(kubectl)}: "
        f"{memory:.0f} MiB resident (goal under {MEMORY_GOAL:.0f}), {cpu:.2f} % of a core (goal under {CPU_GOAL:.0f})"
    )
    print(f"command: python3 bench/{Path(__file__).name} --seconds {seconds}")
    sys.exit(memory >= MEMORY_GOAL or cpu >= CPU_GOAL)


if __name__ == "__main__":
    main()
