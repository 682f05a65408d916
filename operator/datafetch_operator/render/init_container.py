"""The init containers that are put into users' pods: one that downloads, and one that waits for DataFetches. Pure.

They fit the `restricted` Pod Security Standard and carry all they need with them: the config is a literal environment
variable, so that nothing has to be written from a webhook and nothing can change afterwards.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datafetch_api.config import DownloadConfig
from datafetch_api.report import TERMINATION_MESSAGE_BYTES
from datafetch_operator.render.config_map import AUTHORITIES_PATH, SECRETS_PATH, to_yaml
from datafetch_operator.render.container import SCRATCH_ENV, SCRATCH_PATH
from datafetch_operator.settings import Settings

Json = dict[str, Any]

CONTAINER_PREFIX = "datafetch-"
"""Names of containers and volumes that begin like this are ours."""
WAIT_CONTAINER = f"{CONTAINER_PREFIX}wait"
INLINE_CONTAINER = f"{CONTAINER_PREFIX}inline"
SCRATCH_VOLUME = f"{CONTAINER_PREFIX}scratch"
DATA_PATH = "/datafetch/data"
"""Where a download container mounts the root of the volume that it fills."""
CLAIMS_PATH = "/datafetch/claims"
"""Where the waiting container mounts the roots of claims."""
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a mount path
"""Where every container of a pod gets the token of its service account, unless something is mounted there already."""
MARKER = "DATAFETCH_INJECTED"
"""Environment variable by which our containers are known again; its value is a hash of what was rendered."""
CONFIG_VARIABLE = "DATAFETCH_CONFIG"
LIMIT_VARIABLE = "DATAFETCH_TERMINATION_LIMIT"
LARGEST_CONFIG = 100 * 1024
"""Bytes of a config in a pod. One environment variable of a process ends at 128 KiB."""
_POD_MESSAGE_BYTES = 12_000
"""kubelet shares this many bytes of termination messages among all containers of a pod."""
_SHORTEST_MESSAGE_BYTES = 200
_NAME_LENGTH = 63
_DIGEST_LENGTH = 8
_OURS = (*SCRATCH_ENV, CONFIG_VARIABLE, MARKER, LIMIT_VARIABLE)


@dataclass(frozen=True, slots=True)
class Dressing:
    """What our containers in one pod have in common."""

    resources: Mapping[str, Any]
    security: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Awaited:
    """A DataFetch that a pod waits for in an init container."""

    namespace: str
    name: str
    uid: str
    volume: str
    """The pod's volume that is its claim."""
    path: str
    """The fetch's directory on the claim."""


def derived_name(kind: str, name: str) -> str:
    """Return `datafetch-KIND-NAME` as a DNS label: cut and hashed where the name is long or holds a dot."""
    whole = f"{CONTAINER_PREFIX}{kind}-{name}"
    if len(whole) <= _NAME_LENGTH and "." not in name:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]
    stem = re.sub(r"\.", "-", whole)[: _NAME_LENGTH - _DIGEST_LENGTH - 1].rstrip("-")
    return f"{stem}-{digest}"


def termination_allowance(containers: int) -> int:
    """Return how many bytes of message each of so many containers may leave, so that kubelet cuts none."""
    return max(_SHORTEST_MESSAGE_BYTES, min(TERMINATION_MESSAGE_BYTES, _POD_MESSAGE_BYTES // max(1, containers)))


def render_download(
    name: str,
    config: DownloadConfig,
    *,
    volume: str,
    secrets: Mapping[str, str],
    authorities: Mapping[str, str],
    env: Sequence[Mapping[str, Any]],
    dressing: Dressing,
    settings: Settings,
) -> Json:
    """Return the container that downloads what the config says.

    `secrets` and `authorities` are the pod's volumes of Secrets and of certificates, by their directories below where
    these are mounted. Raises ValueError where the config is too long.
    """
    text = to_yaml(config)
    if len(text.encode()) > LARGEST_CONFIG:
        raise ValueError(
            f"its config has {len(text.encode())} bytes, and a pod can carry {LARGEST_CONFIG}; make it shorter, for "
            "example with globs, or give the DataFetch a target"
        )
    # kubelet expands $(VAR) in values, and $$ to $: doubled, every $ arrives as it is.
    first = {"name": CONFIG_VARIABLE, "value": text.replace("$", "$$")}
    mounts: list[Json] = [{"name": volume, "mountPath": DATA_PATH}]
    mounts += [
        {"name": secret, "mountPath": f"{SECRETS_PATH}/{directory}", "readOnly": True}
        for directory, secret in secrets.items()
    ]
    mounts += [
        {"name": bundle, "mountPath": f"{AUTHORITIES_PATH}/{directory}", "readOnly": True}
        for directory, bundle in authorities.items()
    ]
    return _container(name, ["run", "--skip-if-complete"], [first], env, mounts, dressing, settings)


def render_wait(awaited: Sequence[Awaited], *, dressing: Dressing, settings: Settings) -> Json:
    """Return the container that waits until all of these are published."""
    places = {
        volume: f"{CLAIMS_PATH}/{number}" for number, volume in enumerate(dict.fromkeys(a.volume for a in awaited))
    }
    targets = [f"{places[a.volume]}/{a.path}={a.namespace}/{a.name}@{a.uid}" for a in awaited]
    mounts = [{"name": volume, "mountPath": place, "readOnly": True} for volume, place in places.items()]
    return _container(WAIT_CONTAINER, ["wait", *targets], [], [], mounts, dressing, settings)


def with_allowance(container: Json, containers: int) -> Json:
    """Return the container with its share of the pod's termination messages."""
    limit = {"name": LIMIT_VARIABLE, "value": str(termination_allowance(containers))}
    others = [variable for variable in container["env"] if variable["name"] != LIMIT_VARIABLE]
    marker = next(number for number, variable in enumerate(others) if variable["name"] == MARKER)
    return {**container, "env": [*others[: marker + 1], limit, *others[marker + 1 :]]}


def marker(container: Mapping[str, Any]) -> str | None:
    """Return what a container of ours was rendered as; None for anybody else's."""
    if not str(container.get("name", "")).startswith(CONTAINER_PREFIX):
        return None
    return next((v.get("value") for v in container.get("env") or () if v.get("name") == MARKER), None)


def _container(
    name: str,
    args: Sequence[str],
    first: Sequence[Json],
    env: Sequence[Mapping[str, Any]],
    mounts: Sequence[Json],
    dressing: Dressing,
    settings: Settings,
) -> Json:
    rendered: Json = {
        "name": name,
        "image": settings.downloader_image,
        "imagePullPolicy": settings.downloader_pull_policy,
        "args": list(args),
        "env": [
            *first,
            *({"name": name, "value": value} for name, value in SCRATCH_ENV.items()),
            *(dict(variable) for variable in env if variable["name"] not in _OURS),
        ],
        "resources": dict(dressing.resources),
        "securityContext": dict(dressing.security),
        "volumeMounts": [
            *mounts,
            {"name": SCRATCH_VOLUME, "mountPath": SCRATCH_PATH},
            # The downloader never asks the Kubernetes API: the token is kept out.
            {"name": SCRATCH_VOLUME, "mountPath": TOKEN_PATH, "readOnly": True},
        ],
    }
    mark = hashlib.sha256(json.dumps(rendered, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
    # After the config, which has to be the first: `$(VAR)` in a value sees the variables before it.
    rendered["env"].insert(len(first), {"name": MARKER, "value": mark})
    return rendered
