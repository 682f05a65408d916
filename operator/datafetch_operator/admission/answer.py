"""From an AdmissionReview to its answer: what a pod names is looked up, the rest is `injection`'s, purely.

Never raises for what a pod holds: it is admitted as it is, admitted with a patch, or refused with a sentence.
"""

import asyncio
import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from pydantic import ValidationError

from datafetch_api.annotations import PodAnnotation
from datafetch_api.resource import DataFetch, DataFetchStatus
from datafetch_operator.admission.injection import World, inject, volume_claims
from datafetch_operator.admission.refusal import Refusal, listed, suggest
from datafetch_operator.admission.request import PodRequest, read_request
from datafetch_operator.observation import Claim, Key
from datafetch_operator.settings import Settings

Json = dict[str, Any]
_LONGEST_WARNING = 250
"""The API server cuts warnings of more than 256 characters."""
_LISTS = ("initContainers", "volumes", "schedulingGates", "imagePullSecrets")
"""What is changed of a pod's spec beside mounts: each is replaced as a whole."""


class LookUp(Protocol):
    """What is asked of the cluster; `Cluster` does it."""

    async def read_fetch(self, key: Key) -> Json | None:
        """Return the DataFetch as JSON; None where there is none."""

    async def list_fetch_names(self, namespace: str) -> tuple[str, ...]:
        """Return the names of the namespace's DataFetches."""

    async def read_claim(self, namespace: str, name: str) -> Claim | None:
        """Return the claim; None where there is none."""


async def answer(review: Mapping[str, Any], look_up: LookUp, settings: Settings) -> Json:
    """Return the AdmissionReview that answers this one. Raises what the look-ups raise, and KeyError without a pod."""
    request = review["request"]
    pod, namespace = request["object"], request.get("namespace") or "default"
    response: Json = {"uid": request["uid"], "allowed": True}
    try:
        asked = read_request((pod.get("metadata") or {}).get("annotations") or {})
        if asked is not None:
            injected = inject(pod, asked, await _look(pod, asked, namespace, look_up), settings)
            response |= _patch(list(operations(pod, injected.pod)))
            if injected.warnings:
                response["warnings"] = [warning[:_LONGEST_WARNING] for warning in injected.warnings]
    except Refusal as refusal:
        response |= {"allowed": False, "status": {"code": 403, "reason": "Forbidden", "message": f"{refusal}"}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


async def _look(pod: Mapping[str, Any], asked: PodRequest, namespace: str, look_up: LookUp) -> World:
    """Look up what the pod names."""
    names = [wanted.name for wanted in asked.fetches]
    fetches = dict(zip(names, await asyncio.gather(*(_fetch(n, namespace, look_up) for n in names)), strict=True))
    targets = [fetch.spec.target for fetch in fetches.values() if fetch.spec.target is not None]
    claims = await _claims(
        {*(target.persistent_volume_claim.claim_name for target in targets), *volume_claims(pod, asked)},
        namespace,
        look_up,
    )
    return World(namespace, fetches, claims)


async def _claims(names: Iterable[str], namespace: str, look_up: LookUp) -> dict[str, Claim]:
    found = await asyncio.gather(*(look_up.read_claim(namespace, name) for name in sorted(names)))
    return {claim.name: claim for claim in found if claim is not None}


async def _fetch(name: str, namespace: str, look_up: LookUp) -> DataFetch:
    body = await look_up.read_fetch(Key(namespace, name))
    if body is None:
        known = await look_up.list_fetch_names(namespace)
        there = f"; there are {listed(known)}" if known else f"; {namespace!r} has none, so create it first"
        raise Refusal(
            f"annotation {PodAnnotation.FETCH}: there is no DataFetch {name!r} in namespace {namespace!r}"
            f"{suggest(name, known) or there}"
        )
    if "deletionTimestamp" in body["metadata"]:
        raise Refusal(f"annotation {PodAnnotation.FETCH}: DataFetch {name!r} is being deleted")
    return _parse(name, body)


def _parse(name: str, body: Json) -> DataFetch:
    try:
        status = DataFetchStatus.model_validate(body.get("status") or {})
    except ValidationError:
        status = DataFetchStatus()  # Another version's: it counts as not Ready, and the operator writes it anew.
    try:
        return DataFetch.model_validate({**body, "status": status})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise Refusal(
            f"annotation {PodAnnotation.FETCH}: DataFetch {name!r} cannot be read by this version of the operator "
            f"({place}: {problem['msg']}); correct the field, or bring CRD and operator to one version"
        ) from None


def operations(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the operations of a JSON patch from the old pod to the new one; `add` replaces what is there (RFC 6902)."""
    labels = new["metadata"].get("labels")
    if labels != (old.get("metadata") or {}).get("labels"):
        yield {"op": "add", "path": "/metadata/labels", "value": labels}
    before: Mapping[str, Any] = old.get("spec") or {}
    for name in _LISTS:
        if new["spec"].get(name) != before.get(name):
            yield {"op": "add", "path": f"/spec/{name}", "value": new["spec"][name]}
    for number, container in enumerate(new["spec"].get("containers") or ()):
        mounts = container.get("volumeMounts")
        if mounts and mounts != before["containers"][number].get("volumeMounts"):
            yield {"op": "add", "path": f"/spec/containers/{number}/volumeMounts", "value": mounts}


def _patch(changes: list[Json]) -> Json:
    if not changes:
        return {}
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(changes).encode()).decode()}
