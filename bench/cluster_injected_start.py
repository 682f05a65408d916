"""How much later a pod starts that downloads 1 MiB first, in a real cluster.

    python3 bench/cluster_injected_start.py [--runs 10]

Two kinds of pods in turn, with the same image: one asks for a file of 1 MiB by `datafetch.io/uri`, the other has an
init container of its own that only ends (`datafetch --version`), with the same resources and volumes. Timed is from
before the pod is created until kubelet says that its main container runs. The chart of this work tree is installed
first, with the images that `make images-load` loaded. Prints both medians and their difference, and exits 1 where that
misses its goal.
"""

import argparse
import http.server
import json
import os
import statistics
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "hack"))

from cluster import provider
from deploy import chart, storage
from deploy.kubectl import Kubectl, of_cluster
from images import builder

GOAL = 1.5
"""Seconds later."""
SIZE = 1 << 20
TIMEOUT = 60
CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
_BODY = bytes(range(256)) * (SIZE // 256)

Json = dict[str, Any]


class File(http.server.BaseHTTPRequestHandler):
    """One file of 1 MiB at every path, with the ranges and the validator that a web server has."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer with the head alone."""
        self._head(200, SIZE)

    def do_GET(self) -> None:
        """Answer with the file, or the range of it that was asked for."""
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            self._head(200, SIZE)
            self.wfile.write(_BODY)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or SIZE - 1), SIZE - 1)
        self._head(206, end + 1 - start, ("Content-Range", f"bytes {start}-{end}/{SIZE}"))
        self.wfile.write(_BODY[start : end + 1])

    def _head(self, status: int, length: int, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Accept-Ranges", "bytes"), ("ETag", '"bench"'), *more):
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing for each request."""


def pod(name: str, namespace: str) -> Json:
    _, downloader = builder.IMAGES
    main = {"name": "main", "image": downloader.name, "command": ["sleep", "600"], "securityContext": CONTAINER}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [main],
        },
    }


def injected(kubectl: Kubectl, name: str, namespace: str, uri: str) -> Json:
    """Return a pod that asks for the file."""
    del kubectl
    made = pod(name, namespace)
    made["metadata"]["annotations"] = {"datafetch.io/uri": uri}
    return made


def only_ends(kubectl: Kubectl, name: str, namespace: str, uri: str) -> Json:
    """Return the pod as the webhook makes it, without its annotations, and with an init container that only ends."""
    asked = json.dumps(injected(kubectl, name, namespace, uri))
    made: Json = json.loads(kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=asked))
    kept = {key: made["spec"][key] for key in ("containers", "volumes", "initContainers")}
    (waiter,) = kept["initContainers"]
    waiter["args"] = ["--version"]
    waiter["env"] = [entry for entry in waiter["env"] if not entry["name"].startswith("DATAFETCH_")]
    plain = pod(name, namespace)
    plain["spec"] |= kept
    return plain


def time_one(kubectl: Kubectl, manifest: Json) -> float:
    """Create a pod, wait until its main container runs, and remove it; return the seconds."""
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    body = json.dumps(manifest)
    started = time.perf_counter()
    kubectl.run("create", "-f", "-", stdin=body)
    running = "--for=jsonpath={.status.phase}=Running"
    kubectl.run("wait", running, f"pod/{name}", "--namespace", namespace, f"--timeout={TIMEOUT}s")
    seconds = time.perf_counter() - started
    kubectl.run("delete", "pod", name, "--namespace", namespace, "--grace-period=0", "--force")
    return seconds


def measure(kubectl: Kubectl, namespace: str, uri: str, runs: int) -> dict[str, list[float]]:
    """Time both kinds in turn, after one of each that does not count."""
    kinds = {"ends": only_ends, "downloads": injected}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(runs + 1):
        for kind, make in kinds.items():
            seconds = time_one(kubectl, make(kubectl, f"{kind}-{number}", namespace, uri))
            if number > 0:
                times[kind].append(seconds)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    kubectl = of_cluster()
    chart.install_chart(kubectl)
    host = provider.choose().host_ip()
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    load = os.getloadavg()
    with http.server.ThreadingHTTPServer((host, 0), File) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = storage.publish(kubectl, "web", host, server.server_address[1], namespace)
            kubectl.run("wait", "--for=create", "serviceaccount/default", "--namespace", namespace, "--timeout=30s")
            times = measure(kubectl, namespace, f"{url}/weights.bin", runs)
        finally:
            server.shutdown()
            kubectl.attempt("delete", "namespace", namespace, "--wait=false")
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    later = medians["downloads"] - medians["ends"]
    print(f"from creation to the main container, median of {runs}, load average before {load[0]:.1f}:")
    for kind, found in times.items():
        print(f"  its init container {kind}: {medians[kind]:.2f} s ({min(found):.2f} to {max(found):.2f})")
    print(f"  later with 1 MiB of data: {later:.2f} s (goal up to {GOAL} s)")
    print(f"command: python3 bench/{Path(__file__).name} --runs {runs}")
    sys.exit(later > GOAL)


if __name__ == "__main__":
    main()
