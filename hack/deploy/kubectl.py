"""kubectl, as built by hack/cluster, against the cluster of hack/cluster. It knows nothing of DataFetch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen

from cluster import binaries, provider, shell
from cluster.api import Object

FIELD_MANAGER = "datafetch-deploy"
POD_SECURITY = "pod-security.kubernetes.io/enforce"


@dataclass(frozen=True)
class Kubectl:
    """One kubectl and one administrator's kubeconfig."""

    program: Path
    kubeconfig: Path

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """Return what kubectl wrote. Raises ClusterError with its words where it fails."""
        return shell.run(*self._command(), *arguments, stdin=stdin)

    def attempt(self, *arguments: str, stdin: str | None = None) -> CompletedProcess[str]:
        """Run kubectl where the caller judges the failure."""
        return shell.attempt(*self._command(), *arguments, stdin=stdin)

    def open(self, *arguments: str) -> Popen[str]:
        """Start kubectl for a caller that reads its output as it comes; its errors are not kept."""
        command = [str(part) for part in (*self._command(), *arguments)]
        return Popen(command, stdout=PIPE, stderr=DEVNULL, text=True)

    def apply(self, *objects: Object) -> None:
        """Create or change objects by server-side apply."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        options = ("--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}")
        self.run("apply", *options, "-f", "-", stdin=listed)

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """Return an object, or None where there is none of that name."""
        found = self.run("get", kind, name, *_in(namespace), "--ignore-not-found", "-o", "json")
        return dict(json.loads(found)) if found.strip() else None

    def objects(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """Return the objects of a namespace, or those that belong to none."""
        listed = self.run("get", kind, *_in(namespace), f"--selector={selector}", "-o", "json")
        return [dict(item) for item in json.loads(listed)["items"]]

    def ensure_namespace(self, name: str, enforce: str = "restricted") -> None:
        """Create a namespace, or see that it enforces this Pod Security Standard."""
        metadata = {"name": name, "labels": {POD_SECURITY: enforce}}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object and wait until it is gone; one that is not there is fine."""
        self.run("delete", kind, name, *_in(namespace), "--ignore-not-found", "--timeout=120s")

    def _command(self) -> Iterator[str | Path]:
        yield from (self.program, "--kubeconfig", self.kubeconfig)


def of_cluster() -> Kubectl:
    """Return kubectl for the cluster that runs. Raises ClusterError where `make cluster-up` has not been run."""
    return Kubectl(binaries.program("kubectl"), provider.choose().kubeconfig())


def _in(namespace: str) -> tuple[str, ...]:
    return ("--namespace", namespace) if namespace else ()
