"""DataFetch resources in one namespace of a real API server."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from kubernetes import client

from datafetch_api import API_VERSION, GROUP, KIND, PLURAL, VERSION

Kubectl = Callable[..., str]
Json = dict[str, Any]
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


class Fetches:
    """DataFetch resources in one namespace, as kubectl would send them: with strict decoding.

    An operator may run on the same cluster and write statuses in between. So changes are JSON patches, which carry no
    resourceVersion to conflict over, and dry runs, whose answer nobody else can change.
    """

    def __init__(self, objects: client.CustomObjectsApi, namespace: str) -> None:
        self._objects = objects
        self._where: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": PLURAL, "namespace": namespace}

    def create(self, spec: Json, name: str = "fetch", *, dry_run: bool = True) -> Any:
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
        dry: Json = {"dry_run": "All"} if dry_run else {}
        return self._objects.create_namespaced_custom_object(**self._where, body=body, field_validation="Strict", **dry)

    def replace(self, there: Any, **parts: Json) -> Any:
        """Return what would be there with other parts: spec, status."""
        return self._objects.patch_namespaced_custom_object(**self._patch(there, parts))

    def replace_status(self, there: Any, **parts: Json) -> Any:
        """Return what would be there after a write through the status endpoint."""
        return self._objects.patch_namespaced_custom_object_status(**self._patch(there, parts))

    def show(self, there: Any, status: Json) -> dict[str, tuple[int, Any]]:
        """Return priority and content of each column that kubectl would show with this status."""
        patch = self._objects.patch_namespaced_custom_object_status
        table: Any = patch(**self._patch(there, {"status": status}), _headers={"Accept": _TABLE})
        cells = zip(table["columnDefinitions"], table["rows"][0]["cells"], strict=True)
        return {column["name"]: (column["priority"], cell) for column, cell in cells}

    def _patch(self, there: Any, parts: Mapping[str, Json]) -> Json:
        return {
            **self._where,
            "name": there["metadata"]["name"],
            "body": [{"op": "add", "path": f"/{name}", "value": part} for name, part in parts.items()],
            "field_validation": "Strict",
            "dry_run": "All",
            "_content_type": "application/json-patch+json",
        }

    def delete(self, there: Any) -> None:
        self._objects.delete_namespaced_custom_object(**self._where, name=there["metadata"]["name"])


def refusal_of(error: client.ApiException) -> str:
    """Return the sentence that kubectl would print."""
    return str(json.loads(error.body or "{}")["message"])
