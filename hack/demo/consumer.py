"""The pods that use the data, told to checksum everything that they find.

One mounts the claim by hand (examples/kubernetes/consumer-pod.yaml); that of a Deployment asks for it by annotation
(examples/kubernetes/deployment.yaml).
"""

import hashlib
import json
import time
from pathlib import Path

from cluster.api import Object
from cluster.errors import ClusterError
from demo import place
from demo.content import Item
from deploy.kubectl import Kubectl
from images import builder

_CHECKSUMS = "find -L . -type f -exec sha256sum {} +"
_END = "That is all."
_SECONDS = 180
_POLL_SECONDS = 0.3
_SHOWN = 5


def checksums(kubectl: Kubectl) -> dict[str, str]:
    """Run the pod; return the SHA-256 of every file on the volume, by path. Raises ClusterError where the pod fails."""
    pod = _pod(kubectl)
    name = pod["metadata"]["name"]
    kubectl.delete("pod", name, place.NAMESPACE)
    kubectl.run("create", "--namespace", place.NAMESPACE, "-f", "-", stdin=json.dumps(pod))
    phase = _await_end(kubectl, name)
    said = kubectl.run("logs", name, "--namespace", place.NAMESPACE)
    if phase != "Succeeded":
        raise ClusterError(f"The pod {name} ended as {phase}: {said.strip()[-2000:]}")
    return _read(said)


def checksums_of_deployment(kubectl: Kubectl) -> dict[str, str]:
    """Apply the Deployment; return the SHA-256 of every file that its pod finds where its annotation says."""
    asking = _deployment(kubectl)
    name, template = asking["metadata"]["name"], asking["spec"]["template"]
    for key, value in template["metadata"]["annotations"].items():
        print(f"    {key}: {value}")
    kubectl.delete("deployment", name, place.NAMESPACE)
    kubectl.run("create", "--namespace", place.NAMESPACE, "-f", "-", stdin=json.dumps(asking))
    where = ("--namespace", place.NAMESPACE)
    kubectl.run("rollout", "status", f"deployment/{name}", *where, f"--timeout={_SECONDS}s")
    deadline = time.monotonic() + _SECONDS
    while _END not in (said := kubectl.run("logs", f"deployment/{name}", *where)):
        if time.monotonic() > deadline:
            raise ClusterError(f"The Deployment {name} has not read everything after {_SECONDS} s.")
        time.sleep(_POLL_SECONDS)
    return _read(said)


def _read(said: str) -> dict[str, str]:
    lines = (line.split("  ./", 1) for line in said.splitlines() if "  ./" in line)
    return {path: digest for digest, path in lines}


def compare(found: dict[str, str], items: list[Item]) -> list[str]:
    """Return what differs between the volume and the sources, in sentences; nothing where all is right."""
    expected = {item.arrives_at: item.file for item in items if item.arrives_at is not None}
    both = expected.keys() & found.keys()
    differing = {path for path in both if _sha256(expected[path]) != found[path]}
    return [
        *_sentence("missing on the volume", expected.keys() - found.keys()),
        *_sentence("on the volume, but in no source", found.keys() - expected.keys()),
        *_sentence("of other content than its source", differing),
    ]


def _sentence(fault: str, paths: set[str]) -> list[str]:
    if not paths:
        return []
    more = ", ..." if len(paths) > _SHOWN else ""
    return [f"{len(paths)} {fault}: {', '.join(sorted(paths)[:_SHOWN])}{more}"]


def _pod(kubectl: Kubectl) -> Object:
    """Return the example's pod with an image that the nodes have, and our command."""
    read = kubectl.run("create", "--dry-run=client", "-o", "json", "-f", str(place.CONSUMER))
    pod: Object = json.loads(read)
    pod["metadata"]["namespace"] = place.NAMESPACE
    _, downloader = builder.IMAGES
    command = f"cd /data/{place.FETCH} && {_CHECKSUMS}"
    pod["spec"]["containers"][0] |= {"image": downloader.name, "args": [command]}
    return pod


def _deployment(kubectl: Kubectl) -> Object:
    """Return the example's Deployment with one pod, this fetch, an image that the nodes have, and our command."""
    documents = place.DEPLOYMENT.read_text().split("\n---\n")
    manifest = next(document for document in documents if "\nkind: Deployment\n" in document)
    deployment: Object = json.loads(kubectl.run("create", "--dry-run=client", "-o", "json", "-f", "-", stdin=manifest))
    deployment["metadata"]["namespace"] = place.NAMESPACE
    deployment["spec"]["replicas"] = 1
    template = deployment["spec"]["template"]
    template["metadata"]["annotations"]["datafetch.io/fetch"] = place.FETCH
    mount_path = template["metadata"]["annotations"]["datafetch.io/mount-path"]
    _, downloader = builder.IMAGES
    command = f"cd {mount_path} && {_CHECKSUMS} && echo {_END} && exec sleep infinity"
    template["spec"]["containers"][0] |= {"image": downloader.name, "command": ["sh", "-ec", command]}
    template["spec"]["terminationGracePeriodSeconds"] = 1
    return deployment


def _await_end(kubectl: Kubectl, name: str) -> str:
    deadline = time.monotonic() + _SECONDS
    phase = "Pending"
    while phase not in ("Succeeded", "Failed"):
        if time.monotonic() > deadline:
            raise ClusterError(f"The pod {name} is still {phase} after {_SECONDS} s.")
        time.sleep(_POLL_SECONDS)
        pod = kubectl.get("pod", name, place.NAMESPACE)
        phase = str(pod["status"]["phase"]) if pod else "gone"
    return phase


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
