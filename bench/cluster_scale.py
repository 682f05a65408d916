"""A thousand DataFetches at once, against a real API server.

    .venv-operator/bin/python bench/cluster_scale.py [--count 1000]

The operator of this work tree runs as a process of this machine, for one namespace. Scheduler and Job controller are
the cluster's; the node that the pods go to is played (`kubelet_player`). In this order: all DataFetches are created at
once; all downloads run for a while side by side; the operator is killed and started again; all downloads end; their
Jobs are removed. An operator that is installed in the cluster is scaled to 0 for that time, and back at the end: nobody
else may use it meanwhile. Prints each number beside its goal, and exits 1 where one misses it.
"""

import argparse
import json
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "hack"))

from bench import request_counts
from bench.kubelet_player import LABEL, KubeletPlayer, watch
from bench.request_counts import Life, Requests

from cluster import provider
from cluster.api import Api, connect
from deploy import chart
from deploy.kubectl import Kubectl, of_cluster

JOBS_GOAL, WRITES_GOAL, MEMORY_GOAL = 60.0, 12.0, 250.0
"""Seconds until all Jobs are there; writes per fetch besides progress; MiB resident."""
PACE_SECONDS, PACE_PER_SECOND = 10, 20
RESTART_SECONDS = 30
TTL_SECONDS = 10
"""How long a finished Job stays: its removal belongs to the life that is counted."""
_PAGE = 500
"""The operator lists in pages of so many objects, each a request."""
_KINDS = ("datafetches", "jobs", "persistentvolumeclaims", "pods")
_RESOURCES = (
    *_KINDS,
    "configmaps",
    "datafetches/status",
    "events",
    "jobs/status",
    "pods/binding",
    "pods/log",
    "pods/status",
)
_CRD = Path(__file__).resolve().parents[1] / "crds" / "datafetch.io_datafetches.yaml"
_FETCHES = "/apis/datafetch.io/v1alpha1/namespaces"
_CREATORS = 16
_LEISURE = 900
"""Seconds that the cluster's own controllers may take for their part."""

Json = dict[str, Any]


class Operator:
    """The operator as a process, from one start to its end."""

    def __init__(self, kubectl: Kubectl, namespace: str, log: Path) -> None:
        self._port = _free_port()
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubectl.kubeconfig),
            "DATAFETCH_WATCH_NAMESPACES": namespace,
            "DATAFETCH_NAMESPACE": namespace,
            "DATAFETCH_DOWNLOADER_IMAGE": "bench.invalid/never-pulled:1",
            "DATAFETCH_HEALTH_ADDRESS": f"127.0.0.1:{self._port}",
        }
        with log.open("ab") as stderr:
            command = [sys.executable, "-m", "datafetch_operator"]
            self._process = Popen(command, env=environment, stderr=stderr, start_new_session=True)
        self._proc = Path("/proc", str(self._process.pid))

    def wait_until_ready(self) -> None:
        """Return once it watches."""
        wait_for("the operator to be ready", lambda: self._ask("/readyz") is not None, 60)

    def metrics(self) -> str:
        """Return its metrics as Prometheus scrapes them."""
        return self._ask("/metrics") or ""

    def peak(self) -> float:
        """Return the most resident memory until now, in MiB."""
        lines = (self._proc / "status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024

    def cpu(self) -> float:
        """Return the processor time until now, in seconds."""
        # proc(5): fields 14 and 15 are utime and stime; the name before them may hold spaces.
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self, number: signal.Signals) -> None:
        """End it by a signal and wait for that."""
        self._process.send_signal(number)
        self._process.wait()

    def _ask(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except OSError:
            if self._process.poll() is not None:
                sys.exit(f"The operator ended with {self._process.returncode}; its log says why.")
            return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Observer:
    """What watches of the namespace say: each version of each DataFetch, and when each Job came."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl = kubectl
        self.lives: dict[str, Life] = {}
        self.jobs: dict[str, float] = {}
        """When each Job was seen first, by time.monotonic()."""
        self.jobs_left: set[str] = set()
        self._stopping = threading.Event()
        for path, note in (
            (f"{_FETCHES}/{namespace}/datafetches", self._note_fetch),
            (f"/apis/batch/v1/namespaces/{namespace}/jobs", self._note_job),
        ):
            threading.Thread(target=self._follow, args=(path, note), daemon=True).start()

    def phases(self) -> Counter[str]:
        """Return how many DataFetches are in which phase."""
        return Counter(life.phase for life in list(self.lives.values()))

    def stop(self) -> None:
        """End the watches."""
        self._stopping.set()

    def _follow(self, path: str, note: Callable[[str, Json], None]) -> None:
        for event in watch(self._kubectl, path, self._stopping):
            note(event["type"], event["object"])

    def _note_fetch(self, kind: str, body: Json) -> None:
        if kind in {"ADDED", "MODIFIED"}:
            life = self.lives.setdefault(body["metadata"]["name"], Life())
            life.note(body.get("status") or {}, time.monotonic())

    def _note_job(self, kind: str, body: Json) -> None:
        name = body["metadata"]["name"]
        self.jobs.setdefault(name, time.monotonic())
        if kind == "DELETED":
            self.jobs_left.discard(name)
        else:
            self.jobs_left.add(name)


# --- the scene -------------------------------------------------------------------------------------------------------


@contextmanager
def installed_operator_off(kubectl: Kubectl) -> Iterator[None]:
    """Scale the installed operator to 0, wait until it is gone, and scale it back at the end."""
    selector = "app.kubernetes.io/component=operator"
    found = kubectl.objects("deployments", chart.NAMESPACE, selector)
    replicas = {item["metadata"]["name"]: item["spec"].get("replicas", 1) for item in found}
    try:
        for name in replicas:
            kubectl.run("scale", f"deployment/{name}", "-n", chart.NAMESPACE, "--replicas=0")
        wait_for("the installed operator to go", lambda: not kubectl.objects("pods", chart.NAMESPACE, selector), 90)
        yield
    finally:
        for name, number in replicas.items():
            kubectl.run("scale", f"deployment/{name}", "-n", chart.NAMESPACE, f"--replicas={number}")


def prepare(kubectl: Kubectl, namespace: str, claims: int, mode: str) -> None:
    """Make the namespace, and claims that are bound to volumes which nobody will mount."""
    kubectl.ensure_namespace(namespace)
    kubectl.run("wait", "--for=create", "serviceaccount/default", "--namespace", namespace, "--timeout=60s")
    for number in range(claims):
        name = f"{namespace}-{number}"
        shape = {"accessModes": [mode], "storageClassName": ""}
        reference = {"namespace": namespace, "name": f"claim-{number}"}
        volume = {
            **shape,
            "capacity": {"storage": "100Ti"},
            "claimRef": reference,
            "nfs": {"server": "192.0.2.1", "path": "/"},
            "persistentVolumeReclaimPolicy": "Retain",
        }
        claim = {**shape, "volumeName": name, "resources": {"requests": {"storage": "100Ti"}}}
        kubectl.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": _volume(name, namespace), "spec": volume},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": reference, "spec": claim},
        )

    def are_bound() -> bool:
        found = kubectl.objects("persistentvolumeclaims", namespace)
        return [claim["status"].get("phase") for claim in found] == ["Bound"] * claims

    wait_for("the claims to be bound", are_bound, 60)


def _volume(name: str, namespace: str) -> Json:
    return {"name": name, "labels": {LABEL: namespace}}


def remove(kubectl: Kubectl, namespace: str) -> None:
    """Remove all that was made. The player has to go on until then, because kubelet ends pods."""
    kubectl.attempt("delete", "namespace", namespace, f"--timeout={_LEISURE}s")
    kubectl.attempt("delete", "persistentvolumes", f"--selector={LABEL}={namespace}", "--timeout=60s")


def manifest(number: int, namespace: str, claims: int) -> Json:
    toleration = {"key": LABEL, "operator": "Equal", "value": namespace, "effect": "NoSchedule"}
    return {
        "apiVersion": "datafetch.io/v1alpha1",
        "kind": "DataFetch",
        "metadata": {"name": f"fetch-{number}", "namespace": namespace},
        "spec": {
            "sources": [{"name": "data", "s3": {"bucket": "bench", "prefix": f"{number}/", "anonymous": True}}],
            "target": {"persistentVolumeClaim": {"claimName": f"claim-{number % claims}"}},
            "job": {
                "nodeSelector": {LABEL: namespace},
                "tolerations": [toleration],
                "ttlSecondsAfterFinished": TTL_SECONDS,
            },
        },
    }


def create_all(kubectl: Kubectl, namespace: str, count: int, claims: int) -> None:
    """Create the DataFetches, as fast as the API server takes them."""
    local = threading.local()

    def create(number: int) -> None:
        if not hasattr(local, "api"):
            local.api = connect(kubectl.program, kubectl.kubeconfig)
        api: Api = local.api
        api.request("POST", f"{_FETCHES}/{namespace}/datafetches", manifest(number, namespace, claims))

    with ThreadPoolExecutor(_CREATORS) as pool:
        for _ in pool.map(create, range(count)):
            pass


def wait_for(what: str, is_there: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > end:
            sys.exit(f"Waited {seconds:.0f} s for {what}.")
        time.sleep(0.2)


# --- the measurement -------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """The numbers of a run."""

    count: int
    created: float = 0.0
    """Seconds until all DataFetches were there."""
    jobs: float = 0.0
    """Seconds until all Jobs were."""
    running: float = 0.0
    """Seconds until all pods ran: the Job controller's pace, not the operator's."""
    ended: float = 0.0
    """Seconds from when all downloads ended until all were Ready."""
    quiet: tuple[float, float] = (0.0, 0.0)
    """When all downloads ran and nothing else happened, by time.monotonic()."""
    restarted: float = 0.0
    restart: Requests = field(default_factory=Counter)
    whole: Requests = field(default_factory=Counter)
    own_writes: int = 0
    peaks: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cpu_quiet: float = 0.0
    """Share of a core in the quiet time."""
    events: Counter[str] = field(default_factory=Counter)
    load: list[float] = field(default_factory=list)

    def note_end(self, operator: Operator) -> None:
        """Note what a process has done and used, before it ends."""
        self.own_writes += request_counts.own_writes(operator.metrics())
        self.peaks.append(operator.peak())
        self.cpu.append(operator.cpu())


def measure(
    kubectl: Kubectl, namespace: str, player: KubeletPlayer, observer: Observer, arguments: argparse.Namespace
) -> Found:
    found, log = Found(arguments.count), Path(arguments.log)
    first = operator = Operator(kubectl, namespace, log)
    try:
        operator.wait_until_ready()
        before = _requests(kubectl)
        found.load.append(os.getloadavg()[0])
        _until_all_run(kubectl, namespace, player, observer, found, arguments.claims)
        _watch_progress(operator, found, arguments.seconds)
        found.note_end(operator)
        operator.end(signal.SIGKILL)
        operator = _restart(kubectl, namespace, log, found)
        _until_all_end(player, observer, found)
        found.note_end(operator)
        found.whole = request_counts.since(before, _requests(kubectl))
        found.events = _events(kubectl, namespace)
    finally:
        for process in {first, operator}:
            process.end(signal.SIGKILL)
    return found


def _until_all_run(
    kubectl: Kubectl, namespace: str, player: KubeletPlayer, observer: Observer, found: Found, claims: int
) -> None:
    started = time.monotonic()
    create_all(kubectl, namespace, found.count, claims)
    found.created = time.monotonic() - started
    wait_for("all Jobs", lambda: len(observer.jobs) >= found.count, _LEISURE)
    found.jobs = max(observer.jobs.values()) - started
    print(f"all Jobs after {found.jobs:.1f} s", flush=True)
    wait_for("all pods to run", lambda: player.running() >= found.count, _LEISURE)
    wait_for("all to be Fetching", lambda: observer.phases()["Fetching"] >= found.count, 120)
    found.running = time.monotonic() - started
    found.load.append(os.getloadavg()[0])
    print(f"all pods run after {found.running:.1f} s", flush=True)


def _watch_progress(operator: Operator, found: Found, seconds: float) -> None:
    cpu, started = operator.cpu(), time.monotonic()
    time.sleep(seconds)
    found.quiet = started, time.monotonic()
    found.cpu_quiet = (operator.cpu() - cpu) / seconds


def _restart(kubectl: Kubectl, namespace: str, log: Path, found: Found) -> Operator:
    time.sleep(1)  # The API server notices only then that the watches have ended.
    # Other clients poll the whole cluster; this operator lists in its namespace.
    before = _requests(kubectl, "namespace")
    found.restarted = time.monotonic()
    operator = Operator(kubectl, namespace, log)
    operator.wait_until_ready()
    time.sleep(max(0.0, found.restarted + RESTART_SECONDS - time.monotonic()))
    found.restart = request_counts.since(before, _requests(kubectl, "namespace"))
    found.load.append(os.getloadavg()[0])
    return operator


def _until_all_end(player: KubeletPlayer, observer: Observer, found: Found) -> None:
    started = time.monotonic()
    player.release()
    wait_for("all to be Ready", lambda: observer.phases()["Ready"] >= found.count, _LEISURE)
    found.ended = time.monotonic() - started
    print(f"all Ready after {found.ended:.1f} s", flush=True)
    wait_for("the Jobs to be removed", lambda: not observer.jobs_left, _LEISURE)
    found.load.append(os.getloadavg()[0])


def _requests(kubectl: Kubectl, scope: str = "") -> Requests:
    return request_counts.requests_of(kubectl.run("get", "--raw", "/metrics"), scope)


def _events(kubectl: Kubectl, namespace: str) -> Counter[str]:
    """Return how many events the operator posted about each DataFetch."""
    listed = json.loads(kubectl.run("get", "--raw", f"/api/v1/namespaces/{namespace}/events"))["items"]
    return Counter(
        event["involvedObject"]["name"] for event in listed if event["involvedObject"]["kind"] == "DataFetch"
    )


# --- the report ------------------------------------------------------------------------------------------------------


def report(found: Found, observer: Observer, player: KubeletPlayer) -> bool:
    """Print all numbers; return whether all goals are met."""
    count = found.count
    progress = sum(len(life.progress) for life in observer.lives.values())
    lives = observer.lives.items()
    # Of what is not the status, each fetch has a ConfigMap and a Job, which are created and deleted.
    most = max(life.others + found.events[name] + 4 for name, life in lives)
    mean = (found.own_writes - progress) / count
    pages = math.ceil(count / _PAGE)
    lists = {kind: found.restart[request_counts.Request("LIST", kind)] for kind in _KINDS}
    lists["datafetches"] -= 1  # Whether they are served is asked by a list of one, before anything is watched.
    watches = {kind: found.restart[request_counts.Request("WATCH", kind)] for kind in _KINDS}
    print(f"{count} DataFetches; load average {', '.join(f'{load:.1f}' for load in found.load)}")
    goals = [
        _goal("all Jobs are there", found.jobs, JOBS_GOAL, "s"),
        _goal("writes per fetch besides progress, by the operator's count", mean, WRITES_GOAL, ""),
        _goal("the same, most of one fetch, by what became of them", most, WRITES_GOAL, ""),
        *_progress_goals(found, observer, player),
        _goal(f"lists after a restart, of each kind in pages of {_PAGE}", max(lists.values()), pages, f"{lists}"),
        _goal("watches after a restart, of each kind", max(watches.values()), 1, f"{watches}"),
        _goal("operator's peak memory", max(found.peaks), MEMORY_GOAL, "MiB"),
    ]
    print(f"  DataFetches created after {found.created:.1f} s; all pods ran after {found.running:.1f} s")
    print(f"  all Ready {found.ended:.1f} s after all downloads ended; {progress} writes of progress in all")
    print(f"  operator's processor time {_listed(found.cpu)} s, {found.cpu_quiet * 100:.0f} % of a core while all run")
    print(f"  operator's peak memory before and after its restart: {_listed(found.peaks)} MiB")
    if player.failures:
        print(f"  THE PLAYER FAILED {len(player.failures)} times, first: {player.failures[0][:300]}")
    _print_requests(
        f"lists and watches in the namespace in the first {RESTART_SECONDS} s after the restart", found.restart
    )
    _print_requests("requests in all, of all clients", found.whole)
    return all(goals) and not player.failures


def _progress_goals(found: Found, observer: Observer, player: KubeletPlayer) -> list[bool]:
    """Judge the pace of progress, apart for when the operator was restarted: it has forgotten when it wrote what."""
    first, last = found.quiet
    lives = [life.progress for life in observer.lives.values()]
    quiet = [[moment for moment in times if first <= moment <= last] for times in lives]
    reads = [moment for moment, _ in player.reads.times]
    again = [moment for moment in reads if found.restarted <= moment <= found.restarted + RESTART_SECONDS]
    gap = request_counts.shortest_gap(lives)
    before = request_counts.shortest_gap([[moment for moment in times if moment <= last] for times in lives])
    window = PACE_SECONDS * PACE_PER_SECOND
    writes = request_counts.busiest((moment for times in quiet for moment in times), PACE_SECONDS)
    steady = request_counts.busiest((moment for moment in reads if first <= moment <= last), PACE_SECONDS)
    after = request_counts.busiest(again, PACE_SECONDS)
    # Half a second is how early a write may be; the rest, how much later one of two was seen here.
    least = PACE_SECONDS - 1.0
    met = gap is None or gap >= least
    apart = ", ".join("none" if seconds is None else f"{seconds:.1f} s" for seconds in (gap, before))
    what = "least between two writes of one progress, in all and before the restart"
    print(f"  {_verdict(met)}  {what}: {apart} (goal from {least:.0f} s)")
    return [
        met,
        _goal(f"writes of progress in {PACE_SECONDS} s while all run", writes, window, ""),
        _goal(f"logs read in {PACE_SECONDS} s while all run", steady, window, ""),
        _goal(f"logs read in {PACE_SECONDS} s after a restart", after, window, ""),
    ]


def _goal(what: str, measured: float, goal: float, unit: str) -> bool:
    met = measured <= goal
    print(f"  {_verdict(met)}  {what}: {measured:.1f} (goal up to {goal:g}) {unit}")
    return met


def _verdict(met: bool) -> str:
    return "PASS" if met else "MISS"


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.1f}" for number in numbers)


def _print_requests(title: str, requests: Requests) -> None:
    print(f"  {title}:")
    for verb, found in request_counts.by_verb(requests, _RESOURCES).items():
        print(f"    {verb}: " + ", ".join(f"{request.resource} {number}" for request, number in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--claims", type=int, default=10, help="claims that the DataFetches share (default 10)")
    parser.add_argument("--access-mode", default="ReadWriteMany", help="of the claims (default ReadWriteMany)")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long all downloads run side by side")
    parser.add_argument("--log", default=os.devnull, help="where the operator's log goes (default: nowhere)")
    arguments = parser.parse_args()
    kubectl = of_cluster()
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(_CRD))
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    with installed_operator_off(kubectl), tempfile.TemporaryDirectory() as state:
        player = KubeletPlayer(kubectl, namespace, provider.choose().host_ip(), Path(state))
        try:
            prepare(kubectl, namespace, arguments.claims, arguments.access_mode)
            player.start()
            observer = Observer(kubectl, namespace)
            found = measure(kubectl, namespace, player, observer, arguments)
            observer.stop()
        finally:
            player.release()
            remove(kubectl, namespace)
            player.stop()
    met = report(found, observer, player)
    options = f"--count {arguments.count} --claims {arguments.claims} --access-mode {arguments.access_mode}"
    print(f"command: bench/{Path(__file__).name} {options} --seconds {arguments.seconds:g}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
