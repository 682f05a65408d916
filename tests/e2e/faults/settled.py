"""What has to hold when all is over, and what may never be seen before."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from deploy.kubectl import Kubectl
from e2e.faults.content import Content
from e2e.faults.faulting import until
from e2e.tenant import Json, Tenant, condition

_COLUMNS = "{.metadata.uid} {.status.phase} {.status.attempts} {.status.progress.percent}{'\\n'}"


@dataclass
class Seen:
    """What a watcher of a DataFetch has seen of it, each once and in order."""

    lines: list[str] = field(default_factory=list)

    @property
    def phases(self) -> list[str]:
        """The phases, in order, without repetitions."""
        found = [words[1] for line in self.lines if len(words := line.split(" ")) > 1 and words[1]]
        return [phase for n, phase in enumerate(found) if n == 0 or found[n - 1] != phase]


@contextlib.contextmanager
def watching(tenant: Tenant, name: str) -> Iterator[Seen]:
    """Watch a DataFetch by `kubectl get --watch`, which begins again whenever it ends."""
    seen, over = Seen(), threading.Event()
    running: list[subprocess.Popen[str]] = []

    def watch() -> None:
        while not over.is_set():
            options = ("--watch", "--namespace", tenant.namespace, "-o", f"jsonpath={_COLUMNS}")
            with tenant.kubectl.open("get", "datafetch", name, *options) as process:
                running[:] = [process]
                assert process.stdout is not None
                seen.lines.extend(line.rstrip("\n") for line in process.stdout)
            over.wait(0.3)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        while thread.is_alive():
            for process in running:
                process.terminate()
            thread.join(0.2)


def assert_settled(tenant: Tenant, name: str, content: Content, *, attempts: int = 1, claim: str = "data") -> Json:
    """Check that status, cluster and volume say the same: all is there, and nothing is left over."""
    status = tenant.wait_for_phase(name, "Ready", 180)
    _assert_true(status, content)
    assert status["attempts"] == attempts
    _assert_nothing_stray(tenant, name, status["jobRef"]["name"])
    assert tenant.consume(claim, name) == content.digests
    return status


def _assert_true(status: Json, content: Content) -> None:
    assert {kind: condition(status, kind)["status"] for kind in ("Ready", "UpToDate", "Failed", "Progressing")} == {
        "Ready": "True",
        "UpToDate": "True",
        "Failed": "False",
        "Progressing": "False",
    }
    assert "lastFailure" not in status
    progress, artifact = status["progress"], status["artifact"]
    assert progress["percent"] == 100
    assert progress["completedBytes"] == progress["totalBytes"] == artifact["sizeBytes"] == content.size
    assert progress["completedFiles"] == progress["totalFiles"] == artifact["files"] == len(content.digests)


def _assert_nothing_stray(tenant: Tenant, name: str, job: str) -> None:
    """One Job and one ConfigMap stay, both of this DataFetch; all their pods have ended."""
    uid = uid_of(tenant.kubectl, tenant.namespace, name)
    selector = "app.kubernetes.io/managed-by=datafetch-operator"

    def only_ours() -> bool:
        return tenant.ours("job") == [job] and tenant.ours("configmap") == [job]

    # What belonged to an object of the same name that was deleted goes by garbage collection.
    until(only_ours, 60, f"nothing but {job} is left: {tenant.ours('job')}, {tenant.ours('configmap')}")
    [found] = tenant.kubectl.objects("jobs", tenant.namespace, selector)
    assert found["metadata"]["ownerReferences"][0]["uid"] == uid
    for pod in tenant.kubectl.objects("pods", tenant.namespace, selector):
        assert pod["status"]["phase"] in ("Succeeded", "Failed"), pod["metadata"]["name"]
        assert pod["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]


def uid_of(kubectl: Kubectl, namespace: str, name: str) -> str:
    """Return the uid of a DataFetch that must be there."""
    found = kubectl.get("datafetch", name, namespace)
    assert found is not None
    return str(found["metadata"]["uid"])
