"""The metadata that claim, ConfigMap and Job share. Pure."""

from collections.abc import Mapping
from typing import Any

from datafetch_api import API_VERSION, KIND
from datafetch_api.resource import DataFetch
from datafetch_operator.render.labels import labels


def object_metadata(
    fetch: DataFetch,
    name: str,
    *,
    owned: bool,
    more_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return metadata with our labels on top of others, and the DataFetch as controlling owner where it is owned."""
    ours = labels(fetch.metadata.name, fetch.metadata.uid)
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": fetch.metadata.namespace,
        "labels": {**(more_labels or {}), **ours},
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    if owned:
        metadata["ownerReferences"] = [_owner(fetch)]
    return metadata


def _owner(fetch: DataFetch) -> dict[str, Any]:
    # Not blockOwnerDeletion: where OwnerReferencesPermissionEnforcement is on, that needs the right to set finalizers.
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": fetch.metadata.name,
        "uid": fetch.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
