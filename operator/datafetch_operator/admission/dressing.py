"""Resources and security context of our containers in somebody's pod. Pure.

The pod's own security context is honoured, so that what we write is the main container's to read; GPUs are nothing for
a download, and are never asked for.
"""

from collections.abc import Mapping
from typing import Any

from datafetch_api.annotations import PodAnnotation
from datafetch_api.quantities import parse_bytes
from datafetch_operator.admission.refusal import Refusal
from datafetch_operator.admission.request import PodRequest, cpu_millis
from datafetch_operator.render.container import RESTRICTED_CONTAINER
from datafetch_operator.settings import Injection

Json = dict[str, Any]
_ANNOTATIONS = {
    ("requests", "cpu"): PodAnnotation.CPU,
    ("requests", "memory"): PodAnnotation.MEMORY,
    ("limits", "cpu"): PodAnnotation.CPU_LIMIT,
    ("limits", "memory"): PodAnnotation.MEMORY_LIMIT,
}


def security(pod_spec: Mapping[str, Any], container: Mapping[str, Any], run_as_user: int | None) -> Json:
    """Return the security context of our containers: `restricted`, and as the user who will read the data.

    That is the one who was asked for, else the pod's, else the main container's, else the image's (65532).
    """
    pod: Mapping[str, Any] = pod_spec.get("securityContext") or {}
    main: Mapping[str, Any] = container.get("securityContext") or {}
    # A profile of the pod as a whole may be stricter than the runtime's default.
    context: Json = {key: value for key, value in RESTRICTED_CONTAINER.items() if key not in pod}
    if run_as_user is not None:
        context["runAsUser"] = run_as_user
    elif "runAsUser" not in pod:
        context |= {name: main[name] for name in ("runAsUser", "runAsGroup") if name in main}
    # A pod that runs as root runs us as root too, without any capability: its data is to be its own.
    if context.get("runAsUser", pod.get("runAsUser")) != 0:
        context["runAsNonRoot"] = True
    return context


def resources(request: PodRequest, base: Mapping[str, Any], pod_spec: Mapping[str, Any], settings: Injection) -> Json:
    """Return requests and limits of our containers. Raises Refusal where the pod asks for too much."""
    asked = {"requests": dict(request.requests or {}), "limits": dict(request.limits or {})}
    for (kind, name), annotation in _ANNOTATIONS.items():
        _refuse_too_much(annotation, name, asked[kind].get(name), settings)
    if pod_spec.get("resources") and not any(asked.values()):
        return {}  # Resources of the pod as a whole: a container without its own shares them.
    merged = {kind: {**_plain(base.get(kind)), **asked[kind]} for kind in ("requests", "limits")}
    for name in ("cpu", "memory"):
        _reconcile(name, merged, asked)
    return {kind: amounts for kind, amounts in merged.items() if amounts}


def _plain(amounts: Mapping[str, Any] | None) -> Json:
    """Return the amounts without extended resources: a GPU is nothing for a download."""
    return {name: amount for name, amount in (amounts or {}).items() if "/" not in name}


def _refuse_too_much(annotation: PodAnnotation, name: str, amount: str | None, settings: Injection) -> None:
    most = settings.most_resources.get(name)
    if amount is not None and most is not None and _amount(name, amount) > _amount(name, most):
        raise Refusal(f"annotation {annotation} asks for {amount}, and this installation allows {most}; ask for less")


def _reconcile(name: str, merged: dict[str, Json], asked: Mapping[str, Mapping[str, str]]) -> None:
    """Let a default give way to what was asked for, so that no request is above its limit."""
    request, limit = merged["requests"].get(name), merged["limits"].get(name)
    if request is None or limit is None or _amount(name, str(request)) <= _amount(name, str(limit)):
        return
    if name in asked["requests"] and name in asked["limits"]:
        lower, upper = _ANNOTATIONS["requests", name], _ANNOTATIONS["limits", name]
        raise Refusal(f"annotation {lower} asks for {request}, which is more than {upper} allows ({limit})")
    if name in asked["requests"]:
        merged["limits"][name] = request
    else:
        merged["requests"][name] = limit


def _amount(name: str, quantity: str) -> int:
    return cpu_millis(quantity) if name == "cpu" else parse_bytes(quantity)
