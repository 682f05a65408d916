"""A real API server that knows the CRD, a namespace of our own in it, and the chart as helm renders it."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from crd.fetches import Fetches, Json, Kubectl
from datafetch_api import GROUP, PLURAL

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/datafetch"
SYSTEM = "datafetch-system"
"""The release's namespace in what `render` renders."""
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Json]]


def _cluster(command: str) -> str:
    arguments = [sys.executable, str(ROOT / "hack/cluster"), command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the crd tests need a cluster; run `make cluster-up`: {done.stderr.strip()}", pytrace=False)
    return done.stdout.strip()


def tool(name: str) -> Path:
    """Return the path of kubectl or helm, of the version that the cluster's tooling pins."""
    return Path(_cluster("bin")) / name


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    return _cluster("kubeconfig")


@pytest.fixture(scope="session")
def host() -> str:
    """Return the address of this machine that the API server reaches."""
    return _cluster("host-ip")


@pytest.fixture(scope="session")
def kubectl(kubeconfig: str) -> Kubectl:
    binary = str(tool("kubectl"))

    def run(*arguments: str, stdin: str = "") -> str:
        command = [binary, "--kubeconfig", kubeconfig, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    return run


@pytest.fixture(scope="session")
def definition(kubectl: Kubectl) -> None:
    """Apply the CRD; whoever else uses the cluster may keep it."""
    file = ROOT / f"crds/{GROUP}_{PLURAL}.yaml"
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
    kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=60s")


@pytest.fixture(scope="session")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"crd-tests-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def api(kubeconfig: str) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    load: Callable[..., None] = config.load_kube_config  # it has no types of its own
    load(config_file=kubeconfig, client_configuration=settings)
    with client.ApiClient(settings) as connected:
        yield connected


@pytest.fixture(scope="session")
def fetches(api: client.ApiClient, namespace: str, definition: None) -> Fetches:
    return Fetches(client.CustomObjectsApi(api), namespace)


@pytest.fixture(scope="session")
def helm() -> Helm:
    binary = str(tool("helm"))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Return the objects of the chart, of the release `datafetch` in its usual namespace."""

    def documents(*arguments: str) -> list[Json]:
        common = ("--namespace", SYSTEM, "--kube-version", "1.30.0")
        done = helm("template", "datafetch", str(CHART), *common, *arguments)
        assert not done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return documents
