"""From `kubectl apply` of a DataFetch to the first byte of its data, in a real cluster.

    python3 bench/cluster_apply_to_first_byte.py [--runs 5]

The claim exists and is bound, and the node has the image. A proxy between the pods and an S3 server notes when the
server's answer to the first GET of the object begins. The chart of this work tree is installed first, with the images
that `make images-load` loaded. Prints the median in seconds, and exits 1 where it misses its goal.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "hack"))

from cluster import provider
from deploy import chart, storage
from deploy.kubectl import Kubectl, of_cluster
from images import builder
from storage import fill, servers

GOAL = 4.0
"""Seconds."""
SERVER_PORT, PROXY_PORT = 17071, 17072
BUCKET, KEY = "bench", "data/object.bin"
CLAIM = "bench"
TIMEOUT = 120


@dataclass
class FirstByte:
    """A proxy in front of the S3 server, on a thread of its own, that notes when the object's data begins to flow."""

    host: str
    seen: threading.Event = field(default_factory=threading.Event)
    at: float = 0.0

    def start(self) -> None:
        """Return once it listens."""
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True).start()
        listening.wait(TIMEOUT)

    async def _serve(self, listening: threading.Event) -> None:
        server = await asyncio.start_server(self._connect, self.host, PROXY_PORT)
        listening.set()
        async with server:
            await server.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(self.host, SERVER_PORT)
        asked = asyncio.Event()
        await asyncio.gather(self._requests(reader, downstream, asked), self._answers(upstream, writer, asked))

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if data.startswith(f"GET /{BUCKET}/{KEY} ".encode()):
                asked.set()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if asked.is_set() and not self.seen.is_set():
                self.at = time.perf_counter()
                self.seen.set()
            writer.write(data)
            await writer.drain()
        writer.close()


def make_bound_claim(kubectl: Kubectl, namespace: str) -> None:
    """Make the claim, and a pod that mounts it: a volume that waits for its first consumer is bound by it."""
    metadata = {"name": CLAIM, "namespace": namespace}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    _, downloader = builder.IMAGES
    container = {
        "name": "bind",
        "image": downloader.name,
        "args": ["--version"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "name": "bind"}, "spec": pod},
    )
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl.run("wait", "pod/bind", "--namespace", namespace, succeeded, f"--timeout={TIMEOUT}s")


def manifest(name: str, namespace: str, endpoint: str) -> dict[str, Any]:
    s3 = {"bucket": BUCKET, "prefix": "data/", "endpoint": endpoint}
    return {
        "apiVersion": "datafetch.io/v1alpha1",
        "kind": "DataFetch",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "sources": [{"name": "data", "secretRef": {"name": "s3"}, "s3": s3}],
            "target": {"persistentVolumeClaim": {"claimName": CLAIM}},
        },
    }


def time_one(kubectl: Kubectl, proxy: FirstByte, fetch: dict[str, Any]) -> float:
    name, namespace = fetch["metadata"]["name"], fetch["metadata"]["namespace"]
    body = json.dumps(fetch)
    proxy.seen.clear()
    started = time.perf_counter()
    kubectl.run("apply", "-f", "-", stdin=body)
    if not proxy.seen.wait(TIMEOUT):
        sys.exit(
            f"{namespace}/{name} asked for nothing in {TIMEOUT} s:\n{kubectl.run('describe', 'df', '-n', namespace)}"
        )
    seconds = proxy.at - started
    kubectl.run("wait", f"datafetch/{name}", "-n", namespace, "--for=condition=Ready", f"--timeout={TIMEOUT}s")
    return seconds


def measure(kubectl: Kubectl, host: str, runs: int) -> list[float]:
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    proxy = FirstByte(host)
    with tempfile.TemporaryDirectory() as state:
        server = servers.start_versitygw(Path(state), host, SERVER_PORT)
        try:
            store = fill.S3(server.url)
            store.create(BUCKET)
            store.put(BUCKET, KEY, bytes(8 << 20))
            proxy.start()
            endpoint = storage.publish(kubectl, "s3", host, PROXY_PORT, namespace)
            keys = {"AWS_ACCESS_KEY_ID": servers.S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": servers.S3_SECRET_KEY}
            secret = {"name": "s3", "namespace": namespace}
            kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": keys})
            make_bound_claim(kubectl, namespace)
            fetches = [manifest(f"run-{number}", namespace, endpoint) for number in range(runs)]
            return [time_one(kubectl, proxy, fetch) for fetch in fetches]
        finally:
            server.stop()
            kubectl.attempt("delete", "namespace", namespace, "--wait=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    kubectl = of_cluster()
    chart.install_chart(kubectl)
    times = measure(kubectl, provider.choose().host_ip(), runs)
    median = statistics.median(times)
    spread = f"{min(times):.2f} to {max(times):.2f}"
    print(f"apply to first byte: median {median:.2f} s of {runs} ({spread}), goal under {GOAL:.0f} s")
    print(f"command: python3 bench/{Path(__file__).name} --runs {runs}")
    sys.exit(median >= GOAL)


if __name__ == "__main__":
    main()
