"""Pods of a tenant that ask for data by annotation, and the Deployments, StatefulSets and Jobs that make such pods.

Every one of them prints the sha256 of each file that it finds at `/data`: what it reads is what the tests compare.
"""

import time
from typing import Any

from e2e.tenant import CONSUMER_IMAGE, RESTRICTED_CONTAINER, RESTRICTED_POD, Json, Tenant

PREFIX = "datafetch.io/"
GATE = "datafetch.io/data"
MAIN = "main"
SMALL = {"cpu": "10m", "memory": "64Mi"}
"""Modifiers for pods of which many have to fit on a small node."""
_LIST = "find -L . -name .datafetch -prune -o -type f -exec sha256sum {} +"


def checksums(path: str = "/data") -> str:
    """Return the shell command that prints what `checksums_of` reads."""
    return f"cd {path} && {_LIST}"


def checksums_of(log: str) -> dict[str, str]:
    """Return the sha256 of each file by its path, from what a container printed."""
    lines = (line.split("  ./", 1) for line in log.splitlines() if "  ./" in line)
    return {path: digest for digest, path in lines}


def container(command: str = "", *, name: str = MAIN, **more: Any) -> Json:
    """Return a container that fits `restricted`, and prints what it finds at /data unless it is told otherwise."""
    return {
        "name": name,
        "image": CONSUMER_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", command or checksums()],
        "securityContext": RESTRICTED_CONTAINER,
        **more,
    }


def annotations(requests: Json) -> dict[str, str]:
    """Return annotations from keys without their prefix; `_` stands for `-`."""
    return {PREFIX + key.replace("_", "-"): value for key, value in requests.items()}


def template(requests: Json, *containers: Json, stays: bool = False, **spec: Any) -> Json:
    """Return a pod template that asks for data; `stays` for pods that are not to end."""
    command = f"{checksums()}; sleep 600" if stays else checksums()
    return {
        "metadata": {"annotations": annotations(requests), "labels": {"app": "consumer"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Always" if stays else "Never",
            "securityContext": RESTRICTED_POD,
            "containers": list(containers) or [container(command)],
            **spec,
        },
    }


def pod(name: str, made: Json) -> Json:
    """Return a bare pod of a template."""
    metadata = {key: value for key, value in made["metadata"].items() if value is not None}
    return {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {**metadata, "name": name}}


def deployment(name: str, made: Json, replicas: int = 1) -> Json:
    return _set("Deployment", name, made, {"replicas": replicas})


def stateful_set(name: str, made: Json, replicas: int = 1) -> Json:
    return _set("StatefulSet", name, made, {"replicas": replicas, "serviceName": name})


def job(name: str, made: Json, pods: int = 1) -> Json:
    spec = {"template": made, "backoffLimit": 0, "parallelism": pods, "completions": pods}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def cron_job(name: str, made: Json) -> Json:
    """Return a CronJob that never runs by itself."""
    spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": job(name, made)["spec"]}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


def _set(kind: str, name: str, made: Json, more: Json) -> Json:
    labels = {"app": name}
    made = {**made, "metadata": {**made["metadata"], "labels": labels}}
    spec = {"selector": {"matchLabels": labels}, "template": made, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


# --- what they see ---


def pods_of(tenant: Tenant, selector: str) -> list[Json]:
    """Return the pods of a selector that are not on their way out."""
    found = tenant.kubectl.objects("pods", tenant.namespace, selector)
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def find_pod(tenant: Tenant, selector: str, seconds: float = 30) -> str:
    """Wait for a pod of a selector, and return its name."""
    deadline = time.monotonic() + seconds
    while not (found := pods_of(tenant, selector)):
        assert time.monotonic() < deadline, f"no pod of {selector}"
        time.sleep(0.3)
    return str(found[0]["metadata"]["name"])


def get_pod(tenant: Tenant, name: str) -> Json:
    """Return a pod that must be there."""
    found = tenant.kubectl.get("pod", name, tenant.namespace)
    assert found is not None
    return found


def wait_for_pod_phase(tenant: Tenant, name: str, phase: str, seconds: int = 90) -> None:
    """Wait until a pod has a phase."""
    condition = f"--for=jsonpath={{.status.phase}}={phase}"
    tenant.kubectl.run("wait", condition, f"pod/{name}", "--namespace", tenant.namespace, f"--timeout={seconds}s")


def read_log(tenant: Tenant, name: str, of_container: str = MAIN) -> str:
    """Return what a container has printed."""
    return tenant.kubectl.run("logs", name, "--container", of_container, "--namespace", tenant.namespace)


def finish(tenant: Tenant, name: str, seconds: int = 90) -> dict[str, str]:
    """Wait until a pod has succeeded, and return what its main container has read."""
    wait_for_pod_phase(tenant, name, "Succeeded", seconds)
    return checksums_of(read_log(tenant, name))


def read_of(tenant: Tenant, name: str, files: int, seconds: float = 60) -> dict[str, str]:
    """Return what a pod that stays has read, once it has read that many files."""
    wait_for_pod_phase(tenant, name, "Running", int(seconds))
    deadline = time.monotonic() + seconds
    while len(found := checksums_of(read_log(tenant, name))) < files:
        assert time.monotonic() < deadline, f"{name} has read {found}"
        time.sleep(0.3)
    return found


def describe_pod(tenant: Tenant, name: str) -> str:
    """Return what `kubectl describe pod` says: where the owner of a pod looks."""
    return tenant.kubectl.run("describe", "pod", name, "--namespace", tenant.namespace)


def wait_for_words(tenant: Tenant, name: str, *words: str, seconds: float = 40) -> str:
    """Wait until `kubectl describe pod` says all of these, and return it."""
    deadline = time.monotonic() + seconds
    while missing := [word for word in words if word not in (said := describe_pod(tenant, name))]:
        assert time.monotonic() < deadline, f"{missing} not in:\n{said}"
        time.sleep(0.5)
    return said


def waits_in_init(found: Json, of_container: str) -> bool:
    """Return whether an init container of that name runs now."""
    statuses = found["status"].get("initContainerStatuses", [])
    return any(one["name"] == of_container and "running" in one["state"] for one in statuses)


def wait_until_init_runs(tenant: Tenant, name: str, of_container: str, seconds: float = 60) -> None:
    """Wait until an init container of a pod runs."""
    deadline = time.monotonic() + seconds
    while not waits_in_init(get_pod(tenant, name), of_container):
        assert time.monotonic() < deadline, describe_pod(tenant, name)
        time.sleep(0.3)
