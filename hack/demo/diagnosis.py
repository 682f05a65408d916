"""What the cluster says when a step has failed: statuses, events and logs, as far as there are any."""

from cluster.errors import ClusterError
from demo import place
from deploy import chart
from deploy.kubectl import Kubectl, of_cluster

_TAIL = "--tail=60"


def show() -> None:
    """Print it all; where the cluster itself is missing, there is nothing to print."""
    try:
        kubectl = of_cluster()
    except ClusterError:
        return
    operator = ("--namespace", chart.NAMESPACE)
    demo = ("--namespace", place.NAMESPACE)
    _print(kubectl, "the DataFetch", "describe", "datafetch", *demo)
    _print(kubectl, "its claims, Jobs and pods", "get", "pvc,jobs,pods", *demo, "-o", "wide")
    _print(kubectl, "events", "get", "events", *demo, "--sort-by=.lastTimestamp")
    _print(kubectl, "its pods", "describe", "pods", *demo)
    _print(kubectl, "the download's log", "logs", *demo, "-l", "app.kubernetes.io/name=datafetch", "--prefix", _TAIL)
    asking = ("-l", "datafetch.io/role=consumer", "--all-containers", "--prefix", _TAIL)
    _print(kubectl, "pods that ask for data", "logs", *demo, *asking)
    _print(kubectl, "the operator's pods", "describe", "pods", *operator)
    _print(kubectl, "the operator's log", "logs", *operator, "-l", "app.kubernetes.io/component=operator", _TAIL)
    _print(kubectl, "the webhook's log", "logs", *operator, "-l", "app.kubernetes.io/component=webhook", _TAIL)


def _print(kubectl: Kubectl, title: str, *arguments: str) -> None:
    done = kubectl.attempt(*arguments)
    said = (done.stdout or done.stderr).strip()
    print(f"\n--- {title} (kubectl {' '.join(arguments)})\n{said or '(nothing)'}", flush=True)
