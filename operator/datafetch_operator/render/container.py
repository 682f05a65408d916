"""What every container with the downloader has, in our own pods and in others'. Pure."""

from typing import Any

from datafetch_api.fields import ApiModel
from datafetch_api.sources import CaBundle
from datafetch_operator.render.config_map import AUTHORITIES_FILE

SCRATCH_PATH = "/tmp"  # noqa: S108 - the mount path of a volume of the pod's own
SCRATCH_ENV = {"HOME": SCRATCH_PATH, "TMPDIR": SCRATCH_PATH}
"""The root file system is read-only, and SDKs keep caches at home."""
RESTRICTED_CONTAINER: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context that the `restricted` Pod Security Standard asks of a container."""


def as_json(model: ApiModel) -> dict[str, Any]:
    """Return a part of a resource as it stands in a pod: what was not set is left out."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def authorities(volume: str, bundle: CaBundle) -> dict[str, Any]:
    """Return the volume with a source's certificates: one key of a ConfigMap."""
    items = [{"key": bundle.key, "path": AUTHORITIES_FILE}]
    return {"name": volume, "configMap": {"name": bundle.config_map_name, "items": items}}
