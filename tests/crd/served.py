"""The operator's webhook as a process of this machine, with the rights that the chart gives it and no others."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from crd.configurations import await_true
from crd.conftest import CHART, Helm
from crd.fetches import Json, Kubectl

_RIGHTS = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}


@dataclass(frozen=True)
class Server:
    """The webhook's addresses."""

    url: str
    probes: str

    def admissions(self) -> dict[str, int]:
        """Return how many reviews were answered, by result."""
        with urllib.request.urlopen(f"{self.probes}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        name = "datafetch_admissions_total{"
        counts = [line.removeprefix(name).split("} ") for line in lines if line.startswith(name)]
        return {label.split('"')[1]: int(float(count)) for label, count in counts}


@contextmanager
def rights(helm: Helm, kubectl: Kubectl, namespace: str, name: str, *values: str) -> Iterator[None]:
    """Apply the chart's accounts and roles, under that name, and nothing else of it."""
    options = ("--set", f"crds.install=false,rbac.aggregate=false,fullnameOverride={name}")
    done = helm("template", "x", str(CHART), "--namespace", namespace, "--kube-version", "1.30.0", *options, *values)
    assert not done.stderr
    documents: list[Json] = [document for document in yaml.safe_load_all(done.stdout) if document]
    manifests = yaml.safe_dump_all(document for document in documents if document["kind"] in _RIGHTS)
    try:
        kubectl("apply", "-f", "-", stdin=manifests)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=manifests)


def kubeconfig_of(kubectl: Kubectl, namespace: str, account: str, target: Path) -> Path:
    """Write a kubeconfig with which a program is that service account."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", account, "-n", namespace).strip()}
    target.write_text(json.dumps(config))
    return target


@contextmanager
def serve(environment: Json, kubeconfig: Path, certificates: Path, host: str, log: Path) -> Iterator[Server]:
    """Run the webhook with the environment that the chart gives it, but for its addresses."""
    port, probes = _free_port(host), _free_port("127.0.0.1")
    given = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DATAFETCH_")},
        **environment,
        "DATAFETCH_WEBHOOK_ADDRESS": f"{host}:{port}",
        "DATAFETCH_WEBHOOK_CERTIFICATES": str(certificates),
        "DATAFETCH_HEALTH_ADDRESS": f"127.0.0.1:{probes}",
        "KUBECONFIG": str(kubeconfig),
    }
    command = [sys.executable, "-m", "datafetch_operator", "--role", "webhook"]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=given, stdout=output, stderr=subprocess.STDOUT)
        try:
            server = Server(f"https://{host}:{port}/inject", f"http://127.0.0.1:{probes}")
            await_true(lambda: _is_ready(server, process, log), f"the webhook is not ready: {log.read_text()}")
            yield server
        finally:
            process.kill()  # after SIGTERM it would go on serving for some seconds
            process.wait()


def _is_ready(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        with urllib.request.urlopen(f"{server.probes}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
