"""Pods that ask for data, and a cluster that knows what they ask for."""

import asyncio
import base64
import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from datafetch_operator.admission import answer
from datafetch_operator.observation import Claim, Key
from datafetch_operator.settings import Settings
from unit.operator.world import NAMESPACE, SETTINGS, START, UID, resource

Json = dict[str, Any]


@dataclass
class Known:
    """What the cluster holds."""

    fetches: dict[str, Json] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)

    async def read_fetch(self, key: Key) -> Json | None:
        return self.fetches.get(key.name) if key.namespace == NAMESPACE else None

    async def list_fetch_names(self, namespace: str) -> tuple[str, ...]:
        return tuple(self.fetches) if namespace == NAMESPACE else ()

    async def read_claim(self, namespace: str, name: str) -> Claim | None:
        return self.claims.get(name) if namespace == NAMESPACE else None


def claim(name: str = "data", *modes: str) -> Claim:
    return Claim(name, f"{name}-uid", "Bound", START, capacity="10Gi", access_modes=modes or ("ReadWriteMany",))


def target(name: str = "tinyllama", claim_name: str = "data", *, ready: bool = False, **spec: Any) -> Json:
    """Return a DataFetch with a target, published or not."""
    made = resource(name, target={"persistentVolumeClaim": {"claimName": claim_name}}, **spec)
    if ready:
        made["status"] = {
            "phase": "Ready",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "observedGeneration": 1,
                    "lastTransitionTime": "2026-01-31T12:00:00Z",
                    "reason": "Published",
                    "message": "",
                }
            ],
            "artifact": {
                "specHash": "v1:0",
                "manifestDigest": "sha256:0",
                "claimUID": f"{claim_name}-uid",
                "sizeBytes": 1,
                "files": 1,
                "completionTime": "2026-01-31T12:00:00Z",
            },
        }
    return made


def recipe(name: str = "tinyllama", **spec: Any) -> Json:
    made = resource(name, **spec)
    made["spec"].pop("target", None)
    return made


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Json:
    """Return a pod with one container; annotation keys without the prefix."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "app-",
            "labels": {"app": "app"},
            "annotations": {f"datafetch.io/{key}": value for key, value in (annotations or {}).items()},
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}], **spec},
    }


def review(asking: Json, known: Known, settings: Settings = SETTINGS) -> Json:
    """Return the response to an AdmissionReview of the pod's creation."""
    request = {"uid": "review-1", "namespace": NAMESPACE, "operation": "CREATE", "object": copy.deepcopy(asking)}
    answered = asyncio.run(answer({"request": request}, known, settings))
    assert answered["response"]["uid"] == "review-1"
    return dict(answered["response"])


def admit(asking: Json, known: Known, settings: Settings = SETTINGS) -> Json:
    """Return the pod as it is stored."""
    response = review(asking, known, settings)
    assert response["allowed"], response.get("status")
    operations = json.loads(base64.b64decode(response["patch"])) if "patch" in response else []
    return patched(asking, operations)


def refusal(asking: Json, known: Known, settings: Settings = SETTINGS) -> str:
    """Return why the pod is refused."""
    response = review(asking, known, settings)
    assert not response["allowed"], "it was admitted"
    assert response["status"]["code"] == 403
    assert "patch" not in response
    return str(response["status"]["message"])


def patched(document: Json, operations: Iterable[Json]) -> Json:
    """Return the document after a JSON patch that only adds."""
    document = copy.deepcopy(document)
    for operation in operations:
        assert operation["op"] == "add"
        *path, last = operation["path"].split("/")[1:]
        place: Any = document
        for step in path:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[last] = operation["value"]
    return document


__all__ = [
    "NAMESPACE",
    "UID",
    "Json",
    "Known",
    "admit",
    "claim",
    "patched",
    "pod",
    "recipe",
    "refusal",
    "review",
    "target",
]
