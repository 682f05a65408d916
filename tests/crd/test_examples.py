"""A real API server accepts every manifest that users are told to copy, in a namespace that enforces `restricted`."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from crd.fetches import Kubectl

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS = [EXAMPLES / "datafetch.yaml", *sorted((EXAMPLES / "kubernetes").glob("*.yaml"))]


@pytest.fixture(scope="module")
def restricted(kubectl: Kubectl, definition: None) -> Iterator[str]:
    name = f"crd-examples-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    # The admission of pods asks for this account, which the controller manager makes a moment after the namespace.
    kubectl("wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout=30s")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_api_server_accepts_the_example(manifest: Path, restricted: str, kubectl: Kubectl) -> None:
    try:
        said = kubectl("apply", "--dry-run=server", "--validate=strict", "--namespace", restricted, "-f", str(manifest))
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{manifest.name}: {error.stderr.strip()}", pytrace=False)
    assert said.count("(server dry run)") == manifest.read_text().count("\nkind: ")


def test_there_is_an_example_for_each_way_that_the_guide_names() -> None:
    names = {manifest.stem for manifest in MANIFESTS}
    fetches = {"datafetch", "existing-claim", "huggingface", "workload-identity"}
    pods = {"consumer-pod", "deployment", "inline", "gpu-job", "recipe"}
    assert fetches | pods <= names
