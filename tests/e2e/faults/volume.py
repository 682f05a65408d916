"""A volume of one test's own that is really as small as it says: a tmpfs on the node."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster import provider
from e2e.tenant import Tenant

_FOLDER = "/var/lib/datafetch-small-volumes"


@dataclass(frozen=True)
class SmallVolume:
    """Where it is mounted on the node."""

    path: str

    def fill(self, size: int) -> None:
        """Take away that many bytes."""
        provider.choose().run_on_node("fallocate", "--length", str(size), f"{self.path}/somebody-else-s")

    def free(self) -> None:
        """Give them back."""
        provider.choose().run_on_node("rm", f"{self.path}/somebody-else-s")


@contextmanager
def small_volume(tenant: Tenant, claim: str, size: int) -> Iterator[SmallVolume]:
    """Make a claim whose volume holds `size` bytes and no more."""
    node, name = provider.choose(), f"small-{uuid.uuid4().hex[:8]}"
    path = f"{_FOLDER}/{name}"
    node.run_on_node("mkdir", "-p", path)
    node.run_on_node("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", path)
    capacity = {"storage": str(size)}
    try:
        tenant.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": capacity,
                    "claimRef": {"namespace": tenant.namespace, "name": claim},
                    "hostPath": {"path": path, "type": "Directory"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "",
                },
            }
        )
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": capacity},
            "storageClassName": "",
            "volumeName": name,
        }
        tenant.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": spec})
        yield SmallVolume(path)
    finally:
        tenant.kubectl.run("delete", "persistentvolume", name, "--ignore-not-found", "--wait=false")
        # A pod of the test may still have it.
        node.run_on_node("umount", "--lazy", path)
        node.run_on_node("rmdir", path)
