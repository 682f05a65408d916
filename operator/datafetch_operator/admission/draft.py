"""A pod that is being changed: adds what is not there yet, and refuses what would take the place of the user's. Pure.

Everything is added once, however often: the API server asks a second time after other webhooks had their turn, and a
copy of an injected pod (`kubectl debug --copy-to`) brings along what was added before.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from datafetch_api.annotations import PodAnnotation
from datafetch_api.quantities import parse_bytes
from datafetch_operator.admission.refusal import Refusal, listed, suggest
from datafetch_operator.admission.request import LAST
from datafetch_operator.render.init_container import CONTAINER_PREFIX, derived_name, marker, with_allowance

Json = dict[str, Any]


class Draft:
    """A copy of a pod that grows."""

    def __init__(self, pod: Mapping[str, Any]) -> None:
        self.pod: Json = deepcopy(dict(pod))
        self.metadata: Json = self.pod.setdefault("metadata", {})
        self.spec: Json = self.pod.setdefault("spec", {})

    # --- volumes ---

    def volume(self, name: str) -> Json | None:
        """Return the pod's volume of that name."""
        return next((volume for volume in self.spec.get("volumes") or () if volume["name"] == name), None)

    def claim_volume(self, claim: str) -> Json | None:
        """Return the pod's volume that is this claim."""
        volumes = self.spec.get("volumes") or ()
        return next((v for v in volumes if (v.get("persistentVolumeClaim") or {}).get("claimName") == claim), None)

    def add_volume(self, volume: Json) -> str:
        """Add a volume that is not there yet; return its name."""
        found = self.volume(volume["name"])
        if found is None:
            self._list("volumes").append(volume)
        elif not _holds(found, volume):
            raise Refusal(
                f"the pod has a volume {volume['name']!r} of its own, which is what ours is called; names that begin "
                f"with {CONTAINER_PREFIX!r} are ours, so rename it"
            )
        return str(volume["name"])

    def add_claim(self, claim: str) -> str:
        """Return the name of the volume that is this claim, added where the pod has none.

        Never a second volume of one claim: kubelet waits for ever for one of the two.
        """
        found = self.claim_volume(claim)
        if found is not None:
            return str(found["name"])
        name = derived_name("claim", claim)
        return self.add_volume({"name": name, "persistentVolumeClaim": {"claimName": claim}})

    # --- mounts ---

    def containers(self, names: Iterable[str]) -> list[Json]:
        """Return the containers of these names, init containers too; without names all but init containers."""
        wanted = list(names)
        regular: list[Json] = list(self.spec.get("containers") or ())
        if not wanted:
            return regular
        users = [container for container in self.spec.get("initContainers") or () if marker(container) is None]
        known = {container["name"]: container for container in (*regular, *users)}
        for name in wanted:
            if name not in known:
                near = suggest(name, known) or f"; it has {listed(known)}"
                raise Refusal(f"annotation {PodAnnotation.CONTAINERS}: the pod has no container {name!r}{near}")
        return [known[name] for name in wanted]

    def mount(self, container: Json, mount: Json, what: str) -> None:
        """Mount a volume in a container, where nothing else is mounted; `what` says of whom to tell."""
        path = mount["mountPath"]
        mounts: list[Json] = container.setdefault("volumeMounts", [])
        for other in mounts:
            if _same_mount(other, mount):
                return
            taken = other["mountPath"].rstrip("/") or "/"
            if taken == path or taken.startswith(f"{path}/"):
                raise Refusal(
                    f"container {container['name']!r} mounts volume {other['name']!r} at {taken}, where {what} would "
                    f"be ({path}); choose another place with {PodAnnotation.MOUNT_PATH} or NAME=PATH"
                )
        mounts.append(mount)

    # --- the rest ---

    def add_labels(self, labels: Mapping[str, str]) -> None:
        """Set labels, over what is there."""
        self.metadata["labels"] = {**(self.metadata.get("labels") or {}), **labels}

    def add_gate(self, name: str) -> None:
        """Let the scheduler wait."""
        gates = self._list("schedulingGates")
        if name not in [gate["name"] for gate in gates]:
            gates.append({"name": name})

    def add_pull_secrets(self, names: Iterable[str]) -> None:
        """Add Secrets for pulling our image after the pod's own."""
        known = [secret["name"] for secret in self.spec.get("imagePullSecrets") or ()]
        missing = [name for name in dict.fromkeys(names) if name not in known]
        if missing:
            self._list("imagePullSecrets").extend({"name": name} for name in missing)

    def place(self, ours: list[Json], after: str | None) -> None:
        """Put our init containers in, in this order, in the place of those that were put in before."""
        before, regular = self.spec.get("initContainers") or [], self.spec.get("containers") or []
        there = {container["name"]: container for container in before if marker(container) is not None}
        users = [container for container in before if container["name"] not in there]
        for container in (*users, *regular):
            if container["name"] in [our["name"] for our in ours]:
                raise Refusal(
                    f"the pod has a container {container['name']!r} of its own, which is what ours is called; names "
                    f"that begin with {CONTAINER_PREFIX!r} are ours, so rename it"
                )
        if not ours and not there:
            return
        count = len(users) + len(ours) + len(regular)
        kept = [_keep(there.get(our["name"]), with_allowance(our, count)) for our in ours]
        position = _position(users, after)
        self.spec["initContainers"] = [*users[:position], *kept, *users[position:]]

    def _list(self, name: str) -> list[Json]:
        found: list[Json] | None = self.spec.get(name)
        if found is None:
            found = self.spec[name] = []
        return found


def _keep(there: Json | None, rendered: Json) -> Json:
    """Return the container that is there, where it was rendered as the same: others may have added to it since."""
    return there if there is not None and marker(there) == marker(rendered) else rendered


def _position(users: list[Json], after: str | None) -> int:
    names = [container["name"] for container in users]
    if after is None:
        return 0
    return names.index(after) + 1 if after != LAST and after in names else len(names)


def _holds(found: object, wanted: object) -> bool:
    """Return whether everything wanted is there; the API server adds defaults to what it stores."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and _holds(found[name], value) for name, value in wanted.items()
        )
    return found == wanted or _is_same_size(found, wanted)


def _is_same_size(one: object, other: object) -> bool:
    """Return whether two quantities are the same: the API server writes 1024Mi as 1Gi."""
    try:
        return parse_bytes(str(one)) == parse_bytes(str(other))
    except ValueError:
        return False


def _same_mount(one: Json, other: Json) -> bool:
    def essence(mount: Json) -> tuple[str, str, str, bool]:
        return (
            mount["name"],
            mount["mountPath"].rstrip("/"),
            mount.get("subPath") or "",
            bool(mount.get("readOnly", False)),
        )

    return essence(one) == essence(other)
