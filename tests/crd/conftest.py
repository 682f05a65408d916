"""A real API server that knows the CRD, and a namespace of our own in it."""

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from crd.fetches import Fetches, Kubectl
from datafetch_api import GROUP, PLURAL

ROOT = Path(__file__).resolve().parents[2]


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
def fetches(kubeconfig: str, namespace: str, definition: None) -> Iterator[Fetches]:
    settings = client.Configuration()
    load: Callable[..., None] = config.load_kube_config  # it has no types of its own
    load(config_file=kubeconfig, client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield Fetches(client.CustomObjectsApi(api), namespace)
