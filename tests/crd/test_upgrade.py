"""`helm upgrade` on a real API server, of a release whose pods are never scheduled: what others wrote has to stay."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator

import pytest

from crd.conftest import CHART, Helm
from crd.fetches import Json, Kubectl

BUNDLE = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nnobody reads it here\n-----END CERTIFICATE-----\n").decode()
Install = Callable[..., Json]


@pytest.fixture
def install(helm: Helm, kubectl: Kubectl, kubeconfig: str, definition: None) -> Iterator[Install]:
    """Install or upgrade one release, and return its webhook configuration, empty where there is none."""
    name = f"crd-upgrade-{uuid.uuid4().hex[:8]}"
    where = ("--kubeconfig", kubeconfig, "--namespace", name)
    values = {
        "crds": {"install": False},
        "rbac": {"aggregate": False},
        "watchNamespaces": [name],
        "fullnameOverride": name,
        "operator": {"nodeSelector": {"no": "node"}},
        "injection": {"webhook": {"nodeSelector": {"no": "node"}}},
    }
    options = (
        "--install",
        name,
        str(CHART),
        *(f"--set-json={key}={json.dumps(value)}" for key, value in values.items()),
    )

    def upgrade(*more: str) -> Json:
        done = helm("upgrade", *where, *options, *more)
        assert done.returncode == 0, done.stderr
        get = ("get", "mutatingwebhookconfiguration", f"{name}-webhook", "--ignore-not-found", "-o", "json")
        return dict(json.loads(kubectl(*get) or "{}"))

    kubectl("create", "namespace", name)
    yield upgrade
    helm("uninstall", *where, name, "--ignore-not-found")
    kubectl("delete", "namespace", name, "--wait=false")


def test_an_upgrade_leaves_the_ca_bundle_alone(install: Install, kubectl: Kubectl) -> None:
    made = install()
    [webhook] = made["webhooks"]
    assert "caBundle" not in webhook["clientConfig"]
    patch = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BUNDLE}]
    kind, name = "mutatingwebhookconfiguration", made["metadata"]["name"]
    kubectl("patch", kind, name, "--type=json", f"--patch={json.dumps(patch)}", "--field-manager=datafetch-operator")
    [after] = install("--set", "injection.webhook.timeoutSeconds=7,injection.webhook.port=10250")["webhooks"]
    assert after["timeoutSeconds"] == 7
    assert after["clientConfig"] == {**webhook["clientConfig"], "caBundle": BUNDLE}


def test_injection_can_be_switched_off_and_on_again(install: Install) -> None:
    before = install()
    assert install("--set", "injection.enabled=false") == {}
    assert install()["webhooks"] == before["webhooks"]
