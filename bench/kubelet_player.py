"""A node that does not exist, and the kubelet that it would have: pods on it run and end in the API server only.

The node has a taint and a label of its own, so that only pods that ask for it are scheduled there. Its kubelet starts
each of them, serves the log that a download would write (the API server asks it for that, by HTTPS, as it asks every
kubelet), and lets all of them end with a result when told to. No container runs, and no byte is downloaded.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import quote

from cluster import shell
from cluster.api import Api, ApiError, connect
from datafetch_api.report import Progress, Result, SourceSummary, Stage, to_line, to_termination_message
from deploy.kubectl import Kubectl

LABEL = "bench.datafetch.io/node"
SIZE, FILES = 1 << 40, 1000
"""What each download says it brings."""
RATE = 100 << 20
"""Bytes a second that each one says it has: it comes nowhere near its end before it is told to end."""
_CONNECTIONS = 16
_TRIES = 5
_LEASE_SECONDS = 5
_STATUS = "application/strategic-merge-patch+json"
_MERGE = "application/merge-patch+json"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"

Json = dict[str, Any]


def watch(kubectl: Kubectl, path: str, stopping: threading.Event) -> Iterator[Json]:
    """Give the events of a watch, what is there already first. kubectl carries the stream."""
    while not stopping.is_set():
        process = kubectl.open("get", "--raw", f"{path}{'&' if '?' in path else '?'}watch=true")
        ender = threading.Thread(target=_end_when, args=(process, stopping), daemon=True)
        ender.start()
        for line in process.stdout or ():
            yield json.loads(line)
        process.wait()


def _end_when(process: Popen[str], stopping: threading.Event) -> None:
    while process.poll() is None:
        if stopping.wait(0.5):
            process.terminate()
            return


@dataclass
class Download:
    """A pod that seems to download."""

    name: str
    started: float
    """When it began to run, by time.time()."""
    released: bool = False
    """Whether its end is on its way."""


@dataclass
class Reads:
    """The logs that were asked for."""

    times: list[tuple[float, str]] = field(default_factory=list)
    """When, by time.monotonic(), and of which pod."""


class KubeletPlayer:
    """Plays node and kubelet for the download pods of one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str, host: str, state: Path) -> None:
        self._kubectl = kubectl
        self._namespace = namespace
        self._host = host
        self._state = state
        self.node = f"{namespace}-node"
        self.reads = Reads()
        self.failures: list[str] = []
        """Requests of the player's own that failed for good."""
        self._downloads: dict[str, Download] = {}
        self._removed: set[str] = set()
        self._released = False
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(_CONNECTIONS)

    # --- what the benchmark says ---

    def start(self) -> None:
        """Serve logs, register the node, and look for pods."""
        server = self._serve_logs()
        self._api().request("POST", "/api/v1/nodes", self._node_manifest(server.server_address[1]))
        self._api().request("POST", _LEASES, _lease(self.node))
        for target in (self._renew, self._follow):
            threading.Thread(target=target, daemon=True).start()

    def running(self) -> int:
        """Return how many pods seem to download, or did."""
        return len(self._downloads)

    def release(self) -> None:
        """Let all downloads end well, also those that are still to start."""
        with self._lock:
            self._released = True
            ready = [download for download in self._downloads.values() if not download.released]
            for download in ready:
                download.released = True
        for download in ready:
            self._pool.submit(self._safely, self._finish, download.name)

    def stop(self) -> None:
        """Remove the node."""
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)
        for path in (f"/api/v1/nodes/{self.node}", f"{_LEASES}/{self.node}"):
            self._safely(self._delete, path)

    # --- pods ---

    def _follow(self) -> None:
        field_selector = quote(f"spec.nodeName={self.node}")
        path = f"/api/v1/namespaces/{self._namespace}/pods?fieldSelector={field_selector}"
        for event in watch(self._kubectl, path, self._stopping):
            if event["type"] in {"ADDED", "MODIFIED"}:
                self._look(event["object"])

    def _look(self, pod: Json) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._removed:
                self._removed.add(uid)
                self._pool.submit(self._safely, self._remove, name)
        elif pod["status"].get("phase") == "Pending" and name not in self._downloads:
            self._downloads[name] = Download(name, time.time())
            self._pool.submit(self._safely, self._run, name)

    def _run(self, name: str) -> None:
        self._patch_pod(name, {"phase": "Running", "startTime": _now()}, {"running": {"startedAt": _now()}}, ready=True)
        with self._lock:
            download = self._downloads[name]
            ends = self._released and not download.released
            download.released = download.released or ends
        if ends:
            self._finish(name)

    def _finish(self, name: str) -> None:
        started = datetime.fromtimestamp(self._downloads[name].started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        terminated = {
            "exitCode": 0,
            "reason": "Completed",
            "message": to_termination_message(_result()),
            "startedAt": started,
            "finishedAt": _now(),
        }
        self._patch_pod(name, {"phase": "Succeeded"}, {"terminated": terminated}, ready=False)

    def _remove(self, name: str) -> None:
        self._delete(f"/api/v1/namespaces/{self._namespace}/pods/{name}")

    def _patch_pod(self, name: str, status: Json, state: Json, *, ready: bool) -> None:
        container = {"name": "datafetch", "image": "", "imageID": "", "restartCount": 0, "ready": ready, "state": state}
        conditions = [{"type": kind, "status": str(ready)} for kind in ("Ready", "ContainersReady")]
        body = {"status": {**status, "conditions": conditions, "containerStatuses": [container]}}
        self._api().request("PATCH", f"/api/v1/namespaces/{self._namespace}/pods/{name}/status", body, _STATUS)

    def _delete(self, path: str) -> None:
        try:
            self._api().request("DELETE", f"{path}?gracePeriodSeconds=0")
        except ApiError as error:
            if error.status != 404:
                raise

    # --- node ---

    def _node_manifest(self, port: int) -> Json:
        taint = {"key": LABEL, "value": self._namespace, "effect": "NoSchedule"}
        room = {"cpu": "100k", "memory": "100Ti", "pods": "100k", "ephemeral-storage": "100Ti"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "labels": {LABEL: self._namespace}},
            "spec": {"taints": [taint]},
            "status": {
                "capacity": room,
                "allocatable": room,
                "addresses": [{"type": "InternalIP", "address": self._host}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now()}],
            },
        }

    def _renew(self) -> None:
        while not self._stopping.wait(_LEASE_SECONDS):
            self._safely(self._renew_once)

    def _renew_once(self) -> None:
        self._api().request("PATCH", f"{_LEASES}/{self.node}", _lease(self.node), _MERGE)

    # --- logs ---

    def _serve_logs(self) -> ThreadingHTTPServer:
        """Serve logs as kubelet does; the API server trusts any certificate of a kubelet unless told otherwise."""
        certificate, key = self._state / "kubelet.crt", self._state / "kubelet.key"
        subject = ("-subj", f"/CN={self.node}", "-addext", f"subjectAltName=IP:{self._host}")
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        shell.run("openssl", "req", "-x509", *kind, *subject, "-keyout", key, "-out", certificate)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        server = ThreadingHTTPServer((self._host, 0), _log_handler(self._log))
        server.daemon_threads = True
        # A handshake on accept would let one slow client hold up all others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _log(self, pod: str) -> str | None:
        self.reads.times.append((time.monotonic(), pod))
        download = self._downloads.get(pod)
        return None if download is None else progress_log(time.time() - download.started)

    # --- transport ---

    def _api(self) -> Api:
        """Return this thread's own connection."""
        if not hasattr(self._local, "api"):
            self._local.api = connect(self._kubectl.program, self._kubectl.kubeconfig)
        api: Api = self._local.api
        return api

    def _safely(self, call: Callable[..., None], *arguments: str) -> None:
        """Try some times, because the machine is busy; note a failure that stays."""
        for number in range(_TRIES):
            try:
                call(*arguments)
            except (ApiError, OSError, HTTPException) as error:
                if number == _TRIES - 1:
                    self.failures.append(f"{call.__name__}: {error}")
                time.sleep(0.2 * 2**number)
            else:
                return


def progress_log(seconds: float) -> str:
    """Return the log of a download that has run for so long: some lines of progress."""
    lines = [_progress(max(0.0, seconds - age)) for age in (3, 2, 1, 0)]
    return "".join(to_line(line) + "\n" for line in lines)


def _progress(seconds: float) -> Progress:
    done = min(SIZE, int(seconds * RATE))
    now = datetime.now(UTC)
    return Progress(
        stage=Stage.FETCHING,
        time=now,
        bytes_per_second=RATE,
        last_progress_time=now,
        total_bytes=SIZE,
        completed_bytes=done,
        total_files=FILES,
        completed_files=FILES * done // SIZE,
    )


def _result() -> Result:
    return Result(
        exit_code=0,
        total_bytes=SIZE,
        completed_bytes=SIZE,
        total_files=FILES,
        completed_files=FILES,
        manifest_digest="sha256:" + "0" * 64,
        revision="bench",
        publication="Link",
        sources=(SourceSummary(name="data", files=FILES, bytes=SIZE),),
    )


def _log_handler(log: Callable[[str], str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            """Answer `/containerLogs/NAMESPACE/POD/CONTAINER`."""
            parts = self.path.partition("?")[0].split("/")
            text = log(parts[3]) if len(parts) == 5 and parts[1] == "containerLogs" else None
            body = (text or "").encode()
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Say nothing for each request."""

    return Handler


def _lease(node: str) -> Json:
    spec = {
        "holderIdentity": node,
        "leaseDurationSeconds": 40,
        "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
