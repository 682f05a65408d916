"""The development cluster's dynamic provisioner: `-m cluster.provisioner KUBECTL KUBECONFIG VOLUMES [ON_NODE...]`.

A pending claim of our class, for which the scheduler has chosen a node, gets a folder with mode 0777 (the
controller-manager's own host path provisioner makes 0750, where a pod that doesn't run as root can't write) and a
volume that allows every access mode. A claim that asks for more gets more. A released volume goes, with its folder.
"""

import http.client
import posixpath
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import addons, shell
from cluster.api import Api, ApiError, Object, connect
from cluster.errors import ClusterError

_POLL_SECONDS = 0.5
_SELECTED_NODE = "volume.kubernetes.io/selected-node"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_FOLDER = re.compile(r"pvc-[0-9a-f-]{36}")
_VOLUMES = "/api/v1/persistentvolumes"


@dataclass(frozen=True)
class Node:
    """Where folders are made: below `volumes`, by commands with `prefix` before them."""

    volumes: str
    prefix: tuple[str, ...]

    def make_folder(self, path: str) -> None:
        """Make a folder that every user may write; chmod, because umask cuts the mode of mkdir."""
        shell.run(*self.prefix, "mkdir", "-p", "--", path)
        shell.run(*self.prefix, "chmod", "0777", "--", path)

    def remove_folder(self, path: str) -> None:
        """Remove a folder that `make_folder` made, and no other."""
        parent, name = posixpath.split(posixpath.normpath(path))
        if parent != posixpath.normpath(self.volumes) or not _FOLDER.fullmatch(name):
            raise ClusterError(f"{path} is not a folder of this provisioner; it is left as it is.")
        shell.run(*self.prefix, "rm", "-rf", "--one-file-system", "--", path)


def serve(api: Api, node: Node) -> None:
    """Reconcile for ever; a failure is said once a round and tried again."""
    print("ready", flush=True)
    while True:
        try:
            reconcile(api, node)
        except (ApiError, ClusterError, OSError, http.client.HTTPException, KeyError) as error:
            print(f"trying again: {error!r}", flush=True)
            time.sleep(1)
        time.sleep(_POLL_SECONDS)


def reconcile(api: Api, node: Node) -> None:
    """One round over all claims and volumes of our class."""
    # resourceVersion=0: from the API server's memory, which is cheap; a stale answer only delays.
    claims = [item for item in api.get("/api/v1/persistentvolumeclaims?resourceVersion=0")["items"] if _is_ours(item)]
    volumes = [item for item in api.get(f"{_VOLUMES}?resourceVersion=0")["items"] if _is_ours(item)]
    by_name = {volume["metadata"]["name"]: volume for volume in volumes}
    for claim in claims:
        volume = by_name.get(_volume_name(claim))
        if volume is None and _waits_for_volume(claim):
            _provision(api, node, claim)
        if volume is not None and _wants_more(claim):
            _expand(api, claim)
    for volume in volumes:
        if volume["status"].get("phase") == "Released" and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            _remove(api, node, volume)


def _is_ours(item: Object) -> bool:
    return bool(item["spec"].get("storageClassName") == addons.STORAGE_CLASS)


def _volume_name(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def _waits_for_volume(claim: Object) -> bool:
    return (
        claim["status"].get("phase") == "Pending"
        and not claim["spec"].get("volumeName")
        and "deletionTimestamp" not in claim["metadata"]
        and _SELECTED_NODE in claim["metadata"].get("annotations", {})
    )


def _requested(claim: Object) -> str:
    return str(claim["spec"]["resources"]["requests"]["storage"])


def _wants_more(claim: Object) -> bool:
    status = claim["status"]
    return status.get("phase") == "Bound" and bool(status["capacity"]["storage"] != _requested(claim))


def _provision(api: Api, node: Node, claim: Object) -> None:
    path = posixpath.join(node.volumes, _volume_name(claim))
    node.make_folder(path)
    api.request("POST", _VOLUMES, volume_for(claim, path))
    print(f"provisioned {path} for {claim['metadata']['namespace']}/{claim['metadata']['name']}", flush=True)


def volume_for(claim: Object, path: str) -> Object:
    """Return the volume that binds to this claim and no other."""
    metadata, spec = claim["metadata"], claim["spec"]
    host = {"key": "kubernetes.io/hostname", "operator": "In", "values": [metadata["annotations"][_SELECTED_NODE]]}
    # All nodes are on this machine: a volume that several may mount is, like a network file system, at each of them.
    bound = {} if "ReadWriteMany" in spec["accessModes"] else {"nodeAffinity": _on_node(host)}
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": _volume_name(claim), "annotations": {_PROVISIONED_BY: addons.PROVISIONER}},
        "spec": {
            "capacity": {"storage": _requested(claim)},
            "accessModes": spec["accessModes"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": addons.STORAGE_CLASS,
            "claimRef": {**reference, **{key: metadata[key] for key in ("namespace", "name", "uid")}},
            "hostPath": {"path": path, "type": "Directory"},
            **bound,
        },
    }


def _on_node(host: Object) -> Object:
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}}


def _expand(api: Api, claim: Object) -> None:
    capacity = {"capacity": {"storage": _requested(claim)}}
    merge = "application/merge-patch+json"
    api.request("PATCH", f"{_VOLUMES}/{_volume_name(claim)}", {"spec": capacity}, merge)
    metadata = claim["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/persistentvolumeclaims/{metadata['name']}/status"
    api.request("PATCH", path, {"status": {**capacity, "conditions": None}}, merge)
    print(f"expanded {metadata['namespace']}/{metadata['name']} to {_requested(claim)}", flush=True)


def _remove(api: Api, node: Node, volume: Object) -> None:
    node.remove_folder(volume["spec"]["hostPath"]["path"])
    name = volume["metadata"]["name"]
    if "deletionTimestamp" not in volume["metadata"]:
        api.request("DELETE", f"{_VOLUMES}/{name}")
    print(f"removed {name}", flush=True)


if __name__ == "__main__":
    kubectl, kubeconfig, volumes, *prefix = sys.argv[1:]
    serve(connect(Path(kubectl), Path(kubeconfig)), Node(volumes, tuple(prefix)))
