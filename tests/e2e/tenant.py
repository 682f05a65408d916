"""A user of the cluster: a namespace of their own, what they apply there, and what they see: by kubectl."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

from deploy.kubectl import Kubectl

Json = dict[str, Any]
SECRET = "storage"
CONSUMER_IMAGE = "docker.io/library/datafetch-downloader:dev"
LISTING = """
import hashlib, json, os, sys
root, found = sys.argv[1], {}
for directory, _, names in os.walk(root):
    for name in names:
        path = os.path.join(directory, name)
        with open(path, "rb") as file:
            found[os.path.relpath(path, root)] = hashlib.file_digest(file, "sha256").hexdigest()
print(json.dumps(found))
"""
RESTRICTED_POD = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True)
class Tenant:
    """One namespace, which enforces the restricted Pod Security Standard."""

    kubectl: Kubectl
    namespace: str

    # --- what they apply ---

    def secret(self, name: str, **values: str) -> None:
        """Create or change a Secret."""
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})

    def claim(self, name: str, size: str = "1Gi", mode: str = "ReadWriteOnce") -> None:
        """Create a claim of the default class."""
        spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
        self.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})

    def fetch(self, name: str, *sources: Json, claim: str = "data", **spec: Any) -> None:
        """Create or change a DataFetch; `create` and `path` go into its target, the rest into its spec."""
        target: Json = {"persistentVolumeClaim": {"claimName": claim}}
        if "create" in spec:
            target["persistentVolumeClaim"]["create"] = spec.pop("create")
        if "path" in spec:
            target["path"] = spec.pop("path")
        self.apply(_fetch(name, {"sources": list(sources), "target": target, **spec}))

    def recipe(self, name: str, *sources: Json, **spec: Any) -> None:
        """Create or change a DataFetch without a target: pods that ask for it download it themselves."""
        self.apply(_fetch(name, {"sources": list(sources), **spec}))

    def delete(self, name: str) -> None:
        """Delete a DataFetch."""
        self.kubectl.delete("datafetch", name, self.namespace)

    def apply(self, *manifests: Json) -> None:
        """Create or change any objects of this namespace."""
        self.kubectl.apply(*(self._mine(manifest) for manifest in manifests))

    def rehearse(self, manifest: Json) -> CompletedProcess[str]:
        """Create an object as a server-side dry run; what comes of it is JSON, or a refusal in stderr."""
        body = json.dumps(self._mine(manifest))
        return self.kubectl.attempt("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=body)

    def _mine(self, manifest: Json) -> Json:
        return {**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}}

    # --- what they see ---

    def status(self, name: str) -> Json:
        """Return a DataFetch's status."""
        found = self.kubectl.get("datafetch", name, self.namespace)
        assert found is not None
        return dict(found.get("status") or {})

    def wait(self, name: str, condition: Callable[[Json], bool], seconds: float = 90) -> Json:
        """Wait until a status meets the condition, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status(name)
            if condition(status):
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} did not get there in {seconds} s: {json.dumps(status, indent=1)}")
            time.sleep(0.3)

    def wait_for_phase(self, name: str, phase: str, seconds: float = 90) -> Json:
        """Wait for a phase, and return the status."""
        return self.wait(name, lambda status: status.get("phase") == phase, seconds)

    def describe(self, name: str) -> str:
        """Return what `kubectl describe` says of a DataFetch."""
        return self.kubectl.run("describe", "datafetch", name, "--namespace", self.namespace)

    def ours(self, kind: str) -> list[str]:
        """Return the names of the objects of a kind that the operator has made here."""
        selector = "app.kubernetes.io/managed-by=datafetch-operator"
        return [found["metadata"]["name"] for found in self.kubectl.objects(kind, self.namespace, selector)]

    def consume(self, claim: str, path: str) -> dict[str, str]:
        """Run a pod that mounts the fetch's directory by subPath, read-only, and return the sha256 of every file."""
        name = f"consumer-{time.monotonic_ns():x}"
        container = {
            "name": "consumer",
            "image": CONSUMER_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", LISTING, "/data"],
            "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": path, "readOnly": True}],
            "securityContext": RESTRICTED_CONTAINER,
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": RESTRICTED_POD,
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        }
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        phase = "--for=jsonpath={.status.phase}=Succeeded"
        self.kubectl.run("wait", phase, f"pod/{name}", "--namespace", self.namespace, "--timeout=90s")
        log = self.kubectl.run("logs", name, "--namespace", self.namespace)
        self.kubectl.delete("pod", name, self.namespace)
        return dict(json.loads(log))


def _fetch(name: str, spec: Json) -> Json:
    return {"apiVersion": "datafetch.io/v1alpha1", "kind": "DataFetch", "metadata": {"name": name}, "spec": spec}


def condition(status: Json, kind: str) -> Json:
    """Return one condition of a status; empty where there is none."""
    return next((found for found in status.get("conditions", []) if found["type"] == kind), {})
