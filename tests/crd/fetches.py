"""DataFetch resources in one namespace of a real API server."""

import json
from collections.abc import Callable
from typing import Any

from kubernetes import client

from datafetch_api import API_VERSION, GROUP, KIND, PLURAL, VERSION

Kubectl = Callable[..., str]


class Fetches:
    """DataFetch resources in one namespace, as kubectl would send them: with strict decoding."""

    def __init__(self, objects: client.CustomObjectsApi, namespace: str) -> None:
        self._objects = objects
        self._where: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": PLURAL, "namespace": namespace}

    def create(self, spec: dict[str, Any], name: str = "fetch", *, dry_run: bool = True) -> Any:
        dry: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        return self._objects.create_namespaced_custom_object(
            **self._where, body=self._body(name, spec), field_validation="Strict", **dry
        )

    def replace(self, there: Any, spec: dict[str, Any]) -> Any:
        body = {**there, "spec": spec}
        return self._objects.replace_namespaced_custom_object(
            **self._where, name=there["metadata"]["name"], body=body, field_validation="Strict", dry_run="All"
        )

    def write_status(self, there: Any, status: dict[str, Any], *, dry_run: bool = True) -> Any:
        dry: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        body = {**there, "status": status}
        return self._objects.replace_namespaced_custom_object_status(
            **self._where, name=there["metadata"]["name"], body=body, field_validation="Strict", **dry
        )

    def delete(self, there: Any) -> None:
        self._objects.delete_namespaced_custom_object(**self._where, name=there["metadata"]["name"])

    def _body(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


def refusal_of(error: client.ApiException) -> str:
    """Return the sentence that kubectl would print."""
    return str(json.loads(error.body or "{}")["message"])
