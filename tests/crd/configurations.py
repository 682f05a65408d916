"""The chart's MutatingWebhookConfiguration on a real API server, pointed at a server of the tests' own.

It is restricted to the namespaces that a test names, so that nobody else's pods on the same cluster are ever affected.
"""

import base64
import copy
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client

from crd.fetches import Json, Kubectl, refusal_of
from deploy.chart import OWN_WEBHOOK_LABEL

ASKING = {"datafetch.io/fetch": "weights"}
_ACTIVE_SECONDS = 30


def make_namespace(kubectl: Kubectl, name: str, **labels: str) -> None:
    """Create a namespace that is left to the tests' own webhook, and wait until pods can be created in it."""
    metadata = {"name": name, "labels": {OWN_WEBHOOK_LABEL: "yes", **labels}}
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")


def only_in(configuration: Json, namespaces: Sequence[str]) -> Json:
    """Return the chart's configuration under a name of its own, restricted to these namespaces."""
    changed = copy.deepcopy(configuration)
    changed["metadata"]["name"] = f"crd-tests-{uuid.uuid4().hex[:8]}"
    [webhook] = changed["webhooks"]
    here = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    webhook["namespaceSelector"]["matchExpressions"].append(here)
    return changed


@contextmanager
def applied(kubectl: Kubectl, configuration: Json, url: str, certificate: Path) -> Iterator[None]:
    """Have the API server ask that URL as long as the context is open."""
    bundle = base64.b64encode(certificate.read_bytes()).decode()
    configuration["webhooks"][0]["clientConfig"] = {"url": url, "caBundle": bundle}
    kind, name = "mutatingwebhookconfiguration", configuration["metadata"]["name"]
    try:
        kubectl("create", "-f", "-", stdin=json.dumps(configuration))
        yield
    finally:
        kubectl("delete", kind, name, "--ignore-not-found")


class Pods:
    """Pods in one namespace, created as kubectl would; dry unless told otherwise, which admission sees all the same."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._core: Any = client.CoreV1Api(api)  # its types know models only, and plain objects are taken too
        self._plain: Callable[[Any], Json] = api.sanitize_for_serialization  # it has no types of its own
        self.namespace = namespace

    def create(self, annotations: Json | None = None, *, dry_run: bool = True, **more: Any) -> Json:
        """Return the pod as the API server would keep it. Raises ApiException."""
        body = pod(annotations, **more)
        dry: Json = {"dry_run": "All"} if dry_run else {}
        made = self._core.create_namespaced_pod(self.namespace, body, field_validation="Strict", **dry)
        return self._plain(made)

    def is_refused(self, annotations: Json | None = None) -> bool:
        """Whether the pod is refused."""
        try:
            self.create(annotations)
        except client.ApiException:
            return True
        return False

    def refusal(self, annotations: Json | None = None, **more: Any) -> str:
        """Return the sentence with which the pod is refused."""
        try:
            there = self.create(annotations, **more)
        except client.ApiException as error:
            return refusal_of(error)
        raise AssertionError(f"the pod was not refused: {there['spec']}")


def pod(annotations: Json | None = None, spec: Json | None = None, **metadata: Any) -> Json:
    """Return a pod that a namespace of any Pod Security Standard accepts."""
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "app", "image": "app", "securityContext": secure}
    context = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    base = {"containers": [container], "securityContext": context}
    named = metadata or {"name": "consumer"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**named, "annotations": annotations or {}},
        "spec": {**base, **(spec or {})},
    }


def await_true(condition: Callable[[], bool], what: str) -> None:
    """Wait until the API server has noticed: it takes up a configuration a moment after it was created."""
    deadline = time.monotonic() + _ACTIVE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
