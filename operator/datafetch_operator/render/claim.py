"""The claim of a DataFetch whose target says `create`. Pure."""

from typing import Any

from datafetch_api.resource import DataFetch
from datafetch_operator.render.metadata import object_metadata


def render_claim(fetch: DataFetch) -> dict[str, Any]:
    """Return the PersistentVolumeClaim to create.

    It belongs to the DataFetch, and goes with it, only where `deletionPolicy` is Delete. Raises ValueError where the
    target has no `create`.
    """
    target = fetch.spec.target
    if target is None or target.persistent_volume_claim.create is None:
        raise ValueError("the target names no claim to create")
    claim = target.persistent_volume_claim
    template = target.persistent_volume_claim.create
    spec: dict[str, Any] = {
        "accessModes": list(template.access_modes),
        "resources": {"requests": {"storage": template.size}},
    }
    if template.storage_class_name is not None:
        spec["storageClassName"] = template.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": object_metadata(fetch, claim.claim_name, owned=template.deletion_policy == "Delete"),
        "spec": spec,
    }
