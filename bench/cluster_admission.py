"""What the webhook adds to the creation of a pod, in a real cluster.

    python3 bench/cluster_admission.py [--rate 50] [--seconds 60]

Asks the API server for pods, as server-side dry runs, at a fixed rate whatever the answers take (open loop), first
without an annotation, then with one that asks for a DataFetch with a target: the dearest kind, because the webhook
looks up the DataFetch and its claim. The webhook's latency is the API server's own histogram of it,
`apiserver_admission_webhook_admission_duration_seconds`, before and after; p50 and p99 are interpolated in its buckets,
so they are no finer than these. Beside it stands what the client sees of the whole request. The chart of this work tree
is installed first, with the images that `make images-load` loaded. Exits 1 where the webhook's p99 misses its goal, or
a request failed.
"""

import argparse
import itertools
import math
import os
import queue
import re
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "hack"))

from cluster.api import Api, ApiError, connect
from deploy import chart
from deploy.kubectl import Kubectl, of_cluster
from images import builder

GOAL = 0.050
"""Seconds: p99 of the webhook."""
WEBHOOK = "inject.datafetch.io"
HISTOGRAM = "apiserver_admission_webhook_admission_duration_seconds_bucket"
CONNECTIONS = 16
"""Requests that may be open at a time, each on a connection of its own."""
WARM_UP = 50
"""Requests before each measurement."""
FETCH, CLAIM = "bench", "bench"

Json = dict[str, Any]
Buckets = dict[float, int]
"""Cumulated counts by the bucket's upper bound in seconds."""


@dataclass
class Answers:
    """What became of the requests of one measurement."""

    latencies: list[float] = field(default_factory=list)
    """Seconds from when a request was due, in no order."""
    failures: list[str] = field(default_factory=list)


def buckets_of(metrics: str, webhook: str) -> Buckets:
    """Return a webhook's histogram, all operations and outcomes together."""
    found: Buckets = {}
    for line in metrics.splitlines():
        if not line.startswith(HISTOGRAM + "{") or f'name="{webhook}"' not in line:
            continue
        bound = re.search(r'le="([^"]+)"', line)
        if bound is not None:
            seconds = math.inf if bound[1] == "+Inf" else float(bound[1])
            found[seconds] = found.get(seconds, 0) + int(float(line.rpartition(" ")[2]))
    return found


def difference(before: Buckets, after: Buckets) -> Buckets:
    return {bound: count - before.get(bound, 0) for bound, count in sorted(after.items())}


def quantile(buckets: Buckets, share: float) -> float:
    """Return a quantile in seconds, by straight lines through the buckets, as Prometheus does it."""
    total = buckets.get(math.inf, 0)
    if total == 0:
        return math.nan
    wanted, lower, below = share * total, 0.0, 0
    for bound, count in buckets.items():
        if count >= wanted:
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / max(1, count - below)
        lower, below = bound, count
    return lower


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def prepare(kubectl: Kubectl, namespace: str) -> None:
    """Make a namespace with a DataFetch that never fetches, and its claim."""
    kubectl.ensure_namespace(namespace)
    # Pods are refused before this account is there, which the controller-manager makes a moment later.
    kubectl.run("wait", "--for=create", "serviceaccount/default", "--namespace", namespace, "--timeout=30s")
    metadata = {"name": CLAIM, "namespace": namespace}
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    sources = [{"name": "data", "s3": {"bucket": "bench", "anonymous": True}}]
    target = {"persistentVolumeClaim": {"claimName": CLAIM}}
    spec = {"sources": sources, "target": target, "suspend": True}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
        {
            "apiVersion": "datafetch.io/v1alpha1",
            "kind": "DataFetch",
            "metadata": {**metadata, "name": FETCH},
            "spec": spec,
        },
    )


def pod(annotations: dict[str, str]) -> Json:
    _, downloader = builder.IMAGES
    container = {
        "name": "main",
        "image": downloader.name,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "bench-", "annotations": annotations},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        },
    }


def ask(kubectl: Kubectl, namespace: str, manifest: Json, rate: float, count: int) -> Answers:
    """Ask for so many pods at that rate, and wait for all answers."""
    due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    answers, lock = Answers(), threading.Lock()
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"

    def work(api: Api) -> None:
        while (at := due.get()) is not None:
            failure = _post(api, path, manifest)
            seconds = time.perf_counter() - at
            with lock:
                answers.latencies.append(seconds)
                if failure:
                    answers.failures.append(failure)

    connections = [connect(kubectl.program, kubectl.kubeconfig) for _ in range(CONNECTIONS)]
    threads = [threading.Thread(target=work, args=(api,)) for api in connections]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for number in range(count):
        at = started + number / rate
        time.sleep(max(0.0, at - time.perf_counter()))
        due.put(at)
    for _ in threads:
        due.put(None)
    for thread in threads:
        thread.join()
    return answers


def _post(api: Api, path: str, manifest: Json) -> str:
    try:
        api.request("POST", path, manifest)
    except (ApiError, OSError, HTTPException) as error:
        return str(error)
    return ""


def report(title: str, answers: Answers) -> None:
    half, most = percentile(answers.latencies, 0.5), percentile(answers.latencies, 0.99)
    print(f"  {title}: p50 {half * 1000:.1f} ms, p99 {most * 1000:.1f} ms, {len(answers.failures)} failed")
    for failure, _ in itertools.groupby(sorted(answers.failures)[:3]):
        print(f"    {failure[:300]}")


def measure(kubectl: Kubectl, namespace: str, rate: float, seconds: float) -> bool:
    """Print the numbers; return whether the goal is met."""
    count = round(rate * seconds)
    plain, annotated = pod({}), pod({"datafetch.io/fetch": FETCH})
    ask(kubectl, namespace, plain, rate, WARM_UP)
    without = ask(kubectl, namespace, plain, rate, count)
    ask(kubectl, namespace, annotated, rate, WARM_UP)
    before = buckets_of(kubectl.run("get", "--raw", "/metrics"), WEBHOOK)
    load = os.getloadavg()
    with_it = ask(kubectl, namespace, annotated, rate, count)
    calls = difference(before, buckets_of(kubectl.run("get", "--raw", "/metrics"), WEBHOOK))
    p50, p99 = quantile(calls, 0.5), quantile(calls, 0.99)
    print(f"{count} pods at {rate:.0f}/s, load average before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}")
    print(f"  the webhook, by the API server's histogram of {calls.get(math.inf, 0)} calls: p50 {p50 * 1000:.1f} ms, ")
    print(f"    p99 {p99 * 1000:.1f} ms (goal under {GOAL * 1000:.0f} ms)")
    print(f"    calls up to: {', '.join(f'{bound:g} s {number}' for bound, number in calls.items())}")
    report("the whole request without annotation, from when it was due", without)
    report("the whole request with annotation", with_it)
    return p99 < GOAL and not with_it.failures and not without.failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    kubectl = of_cluster()
    chart.install_chart(kubectl)
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    prepare(kubectl, namespace)
    try:
        met = measure(kubectl, namespace, arguments.rate, arguments.seconds)
    finally:
        kubectl.attempt("delete", "namespace", namespace, "--wait=false")
    print(f"command: python3 bench/{Path(__file__).name} --rate {arguments.rate:g} --seconds {arguments.seconds:g}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
