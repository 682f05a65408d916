"""From a pod and what it asks for to the pod that gets it: `inject`, pure.

Fetches with a target are mounted and waited for; recipes and inline sources are downloaded by an init container into a
volume of the pod. What cannot be done is refused here, before the pod exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datafetch_api.annotations import FetchRequest, PodAnnotation
from datafetch_api.config import DownloadConfig
from datafetch_api.quantities import parse_bytes
from datafetch_api.rendering import transfer_settings
from datafetch_api.resource import ConditionType, DataFetch, Phase, Resources
from datafetch_api.sources import CaBundle
from datafetch_operator.admission import dressing
from datafetch_operator.admission.draft import Draft
from datafetch_operator.admission.inline import SECRET_DIRECTORY, read_inline
from datafetch_operator.admission.refusal import Refusal, listed, suggest
from datafetch_operator.admission.request import DEFAULT_MOUNT_PATH, LAST, PodRequest, Wait, check_mount_path
from datafetch_operator.observation import Claim
from datafetch_operator.render.config_map import claim_capacity, download_items
from datafetch_operator.render.container import as_json
from datafetch_operator.render.container import authorities as render_authorities
from datafetch_operator.render.init_container import (
    DATA_PATH,
    INLINE_CONTAINER,
    SCRATCH_VOLUME,
    Awaited,
    Dressing,
    derived_name,
    render_download,
    render_wait,
)
from datafetch_operator.render.labels import CONSUMER_ROLE, GATE, ROLE_LABEL, fetch_label
from datafetch_operator.settings import Settings

Json = dict[str, Any]
_INLINE = "inline"
_SECRET_MODE = 0o444
"""Readable by whatever user the pod runs as; only our own container mounts it."""
_UNWRITABLE = ("configMap", "secret", "projected", "downwardAPI", "image")


@dataclass(frozen=True, slots=True)
class World:
    """What the cluster holds of the things that a pod names."""

    namespace: str
    fetches: Mapping[str, DataFetch] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """Those that exist."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A pod with its data."""

    pod: Json
    warnings: tuple[str, ...] = ()
    """What its owner should know; `kubectl` prints them."""


@dataclass(frozen=True, slots=True)
class _Volume:
    """A volume of the pod that data is downloaded into."""

    name: str
    capacity: int | None
    """Bytes; None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A recipe, or the inline sources: what one init container downloads."""

    container: str
    title: str
    directory: str | None
    mount_path: str
    volume: _Volume
    config: DownloadConfig
    secrets: Mapping[str, str]
    """Names of Secrets, by their directory in the container."""
    authorities: Mapping[str, CaBundle] = field(default_factory=dict)
    """Certificates, by their directory in the container."""
    env: tuple[Json, ...] = ()
    resources: Resources | None = None


def inject(pod: Mapping[str, Any], request: PodRequest, world: World, settings: Settings) -> Injected:
    """Return the pod with what it asks for. Raises Refusal with a sentence for its owner."""
    injection = _Injection(pod, request, world, settings)
    return injection.carry_out()


def volume_claims(pod: Mapping[str, Any], request: PodRequest) -> tuple[str, ...]:
    """Return the names of claims that `datafetch.io/volume` may mean."""
    if request.volume is None:
        return ()
    found = Draft(pod).volume(request.volume)
    if found is None:
        return (request.volume,)
    claim = (found.get("persistentVolumeClaim") or {}).get("claimName")
    return (claim,) if claim else ()


def is_ready(fetch: DataFetch, claim: Claim | None) -> bool:
    """Return whether the fetch's data is on that claim."""
    artifact = fetch.status.artifact
    told = any(c.type == ConditionType.READY and c.status == "True" for c in fetch.status.conditions)
    return told and artifact is not None and claim is not None and artifact.claim_uid == claim.uid


class _Injection:
    def __init__(self, pod: Mapping[str, Any], request: PodRequest, world: World, settings: Settings) -> None:
        self._draft = Draft(pod)
        self._request = request
        self._world = world
        self._settings = settings
        self._warnings: list[str] = []
        self._containers: list[Json] = []
        self._mounted_before = {
            (container["name"], mount["name"])
            for kind in ("containers", "initContainers")
            for container in self._draft.spec.get(kind) or ()
            for mount in container.get("volumeMounts") or ()
        }

    def carry_out(self) -> Injected:
        _refuse_windows(self._draft.spec)
        self._refuse_useless()
        users = self._draft.containers(self._request.containers)
        paths = self._mount_paths()
        awaited: list[Awaited] = []
        for wanted in self._request.fetches:
            fetch = self._world.fetches[wanted.name]
            if fetch.spec.target is None:
                self._add(self._recipe(wanted.name, fetch, paths[wanted.name]), users)
            else:
                awaited += self._mount_target(fetch, paths[wanted.name], users)
        if self._request.has_inline:
            self._add(self._inline(paths[_INLINE]), users)
        if awaited:
            base = self._settings.injection.resources
            self._containers.append(render_wait(awaited, dressing=self._dressing(base, users), settings=self._settings))
        if self._containers:
            self._draft.add_volume({"name": SCRATCH_VOLUME, "emptyDir": {}})
            self._draft.add_pull_secrets(self._pull_secrets())
        self._place()
        self._draft.add_labels({ROLE_LABEL: CONSUMER_ROLE, **self._fetch_labels()})
        return Injected(self._draft.pod, tuple(self._warnings))

    # --- what is refused at once ---

    def _refuse_useless(self) -> None:
        """Refuse what would be passed over in silence."""
        request = self._request
        targets = [f.name for f in request.fetches if self._world.fetches[f.name].spec.target is not None]
        if request.wait is not None and not targets:
            raise Refusal(
                f"annotation {PodAnnotation.WAIT} is for DataFetches with a target, and this pod names none; remove it"
            )
        if len(targets) < len(request.fetches) or request.has_inline:
            return
        ours = {
            PodAnnotation.VOLUME: request.volume,
            PodAnnotation.SIZE: request.size,
            PodAnnotation.READ_ONLY: request.read_only,
        }
        for key, value in ours.items():
            if value is not None:
                raise Refusal(
                    f"annotation {key} is for data that is downloaded into a volume of the pod; DataFetch "
                    f"{targets[0]!r} has a target, whose claim is mounted read-only, so remove it"
                )

    def _mount_paths(self) -> dict[str, str]:
        """Return where each request is mounted: at the mount path, or below it by name where there are several."""
        root = self._request.mount_path or DEFAULT_MOUNT_PATH
        paths = {wanted.name: self._mount_path(wanted, root) for wanted in self._request.fetches}
        if self._request.has_inline:
            inline = f"{root}/{_INLINE}" if self._request.several else root
            taken = next((name for name in paths if name == _INLINE), None)
            if taken is not None:
                raise Refusal(
                    f"DataFetch {_INLINE!r} and the inline sources have the same name in this pod; use one of them"
                )
            paths[_INLINE] = inline
        self._refuse_nested(paths)
        return paths

    def _mount_path(self, wanted: FetchRequest, root: str) -> str:
        if wanted.mount_path is None:
            return f"{root}/{wanted.name}" if self._request.several else root
        try:
            return check_mount_path(wanted.mount_path)
        except ValueError as error:
            raise Refusal(f"annotation {PodAnnotation.FETCH}: {error}") from None

    def _refuse_nested(self, paths: Mapping[str, str]) -> None:
        for name, path in paths.items():
            for other, outer in paths.items():
                if name != other and f"{path}/".startswith(f"{outer}/"):
                    raise Refusal(
                        f"{name!r} would be mounted at {path}, in {other!r} ({outer}); give each a place of its own, "
                        "as NAME=PATH"
                    )

    # --- fetches with a target ---

    def _mount_target(self, fetch: DataFetch, path: str, users: Sequence[Json]) -> list[Awaited]:
        target = fetch.spec.target
        if target is None:
            raise TypeError("a recipe has no target")
        name, directory = fetch.metadata.name, target.path or fetch.metadata.name
        claim_name = target.persistent_volume_claim.claim_name
        claim = self._world.claims.get(claim_name)
        mode = self._mode(fetch, claim)
        volume = self._draft.add_claim(claim_name)
        mount = {"name": volume, "mountPath": path, "subPath": directory, "readOnly": True}
        for container in users:
            self._draft.mount(container, mount, f"DataFetch {name!r}")
        self._warn_of_trouble(fetch, claim)
        if mode == "gate":
            self._gate(name)
        if mode != "init":
            return []
        return [Awaited(self._world.namespace, name, fetch.metadata.uid, volume, directory)]

    def _mode(self, fetch: DataFetch, claim: Claim | None) -> Wait:
        """Return how the pod waits for the fetch."""
        name, ready = fetch.metadata.name, is_ready(fetch, claim)
        shared = _many_nodes_mount(fetch, claim)
        asked = self._request.wait
        if asked == "none" and not ready:
            raise Refusal(
                f"annotation {PodAnnotation.WAIT} says none, and DataFetch {name!r} is not Ready: its directory does "
                "not exist yet; wait until it is Ready, or remove the annotation"
            )
        if asked == "init" and not shared:
            raise Refusal(
                f"annotation {PodAnnotation.WAIT} says init, and only one node can mount {_claim_title(fetch, claim)}: "
                f"a waiting pod would keep the download of {name!r} from it; write gate, or remove the annotation"
            )
        if asked in ("init", "none"):
            return asked
        if asked is None and shared:
            return "init"
        if ready:
            return "none"
        if not self._settings.injection.gates:
            raise Refusal(
                f"DataFetch {name!r} is not Ready, and a pod can wait for {_claim_title(fetch, claim)} by a scheduling "
                "gate only, which this installation has switched off; wait until it is Ready, or use a claim that is "
                "ReadWriteMany"
            )
        return "gate"

    def _gate(self, name: str) -> None:
        if self._draft.spec.get("nodeName"):
            raise Refusal(
                f"the pod has a spec.nodeName and passes the scheduler by, so it cannot wait for DataFetch {name!r} by "
                "a scheduling gate; use a nodeSelector instead"
            )
        self._draft.add_gate(GATE)

    def _warn_of_trouble(self, fetch: DataFetch, claim: Claim | None) -> None:
        status = fetch.status
        if is_ready(fetch, claim) or status.phase not in (Phase.FAILED, Phase.SUSPENDED):
            return
        self._warnings.append(
            f"DataFetch {fetch.metadata.name!r} is {status.phase} ({status.reason}): the pod waits until it is Ready"
        )

    # --- recipes and inline sources ---

    def _recipe(self, name: str, fetch: DataFetch, path: str) -> _Source:
        if fetch.spec.suspend:
            raise Refusal(f"DataFetch {name!r} is suspended and downloads nothing; set its spec.suspend to false")
        directory = self._directory(name)
        volume = self._data_volume(derived_name("data", name))
        try:
            items = download_items(fetch.spec.sources)
        except ValueError as error:
            raise Refusal(f"DataFetch {name!r} cannot be carried out: {error}") from None
        config = DownloadConfig(
            download_root=_root(directory), download_items=items, transfer=transfer_settings(fetch.spec.transfer)
        )
        sources = [source for source in fetch.spec.sources if source.secret_ref is not None]
        return _Source(
            container=derived_name("get", name),
            title=f"DataFetch {name!r}",
            directory=directory,
            mount_path=path,
            volume=volume,
            config=config,
            secrets={source.name: source.secret_ref.name for source in sources if source.secret_ref is not None},
            authorities={source.name: source.ca_bundle for source in fetch.spec.sources if source.ca_bundle},
            env=tuple(map(as_json, fetch.spec.job.env)),
            resources=fetch.spec.job.resources,
        )

    def _inline(self, path: str) -> _Source:
        directory = self._directory(_INLINE)
        secret = self._request.secret
        return _Source(
            container=INLINE_CONTAINER,
            title="the inline sources",
            directory=directory,
            mount_path=path,
            volume=self._data_volume(INLINE_CONTAINER),
            config=read_inline(self._request, _root(directory)),
            secrets={SECRET_DIRECTORY: secret} if secret else {},
        )

    def _directory(self, name: str) -> str | None:
        """Return the directory on a named volume; on an emptyDir of ours it is the root."""
        request = self._request
        if request.volume is None or not request.several:
            return request.path
        return f"{request.path}/{name}" if request.path else name

    def _data_volume(self, name: str) -> _Volume:
        if self._request.volume is not None:
            return self._named_volume(self._request.volume)
        settings = self._settings.injection
        size = self._request.size or settings.size
        if settings.most_size is not None and parse_bytes(size) > parse_bytes(settings.most_size):
            raise Refusal(
                f"annotation {PodAnnotation.SIZE} asks for {size}, and this installation allows {settings.most_size}; "
                f"ask for less, or use a claim with {PodAnnotation.VOLUME}"
            )
        self._draft.add_volume({"name": name, "emptyDir": {"sizeLimit": size}})
        return _Volume(name, parse_bytes(size))

    def _named_volume(self, wanted: str) -> _Volume:
        """Return the pod's volume of that name, or that is the claim of that name."""
        found = self._draft.volume(wanted) or self._draft.claim_volume(wanted)
        if found is None and wanted not in self._world.claims:
            names = [volume["name"] for volume in self._draft.spec.get("volumes") or ()]
            near = suggest(wanted, names) or (f"; its volumes are {listed(names)}" if names else "")
            raise Refusal(
                f"annotation {PodAnnotation.VOLUME}: neither the pod has a volume {wanted!r}, nor is there a claim of "
                f"that name in namespace {self._world.namespace!r}{near}"
            )
        if found is None:
            claim = self._world.claims[wanted]
            self._refuse_read_only_claim(claim)
            return _Volume(self._draft.add_claim(wanted), claim_capacity(claim))
        return _Volume(str(found["name"]), self._capacity(wanted, found))

    def _capacity(self, wanted: str, volume: Json) -> int | None:
        """Return the bytes that a volume of the pod holds, where that can be told. Refuses what cannot be written."""
        unwritable = next((kind for kind in _UNWRITABLE if kind in volume), None)
        mounted = volume.get("persistentVolumeClaim") or {}
        if unwritable is not None or mounted.get("readOnly"):
            why = f"a {unwritable}" if unwritable else "mounted read-only"
            raise Refusal(
                f"annotation {PodAnnotation.VOLUME}: volume {wanted!r} is {why} and cannot be written; name an "
                "emptyDir or a claim"
            )
        if "emptyDir" in volume:
            return _bytes((volume["emptyDir"] or {}).get("sizeLimit"))
        claim = self._world.claims.get(mounted.get("claimName", ""))
        if claim is None:
            return None
        self._refuse_read_only_claim(claim)
        return claim_capacity(claim)

    def _refuse_read_only_claim(self, claim: Claim) -> None:
        if claim.access_modes == ("ReadOnlyMany",):
            raise Refusal(
                f"annotation {PodAnnotation.VOLUME}: claim {claim.name!r} is ReadOnlyMany and cannot be written; name "
                "another one"
            )

    def _add(self, source: _Source, users: Sequence[Json]) -> None:
        """Mount a source's data, and render the container that downloads it."""
        request, volume = self._request, source.volume
        for container in users:
            if (container["name"], volume.name) in self._mounted_before and request.mount_path is None:
                continue  # It mounts the volume itself, where it wants to.
            mount: Json = {"name": volume.name, "mountPath": source.mount_path}
            mount |= {"subPath": source.directory} if source.directory else {}
            mount |= {"readOnly": True} if request.read_only is not False else {}
            self._draft.mount(container, mount, source.title)
        secrets = {directory: self._secret(name) for directory, name in source.secrets.items()}
        authorities = {directory: self._authorities(bundle) for directory, bundle in source.authorities.items()}
        base = self._settings.injection.resources
        if source.resources is not None:
            base = as_json(source.resources)
        try:
            rendered = render_download(
                source.container,
                source.config.model_copy(update={"capacity_bytes": volume.capacity}),
                volume=volume.name,
                secrets=secrets,
                authorities=authorities,
                env=source.env,
                dressing=self._dressing(base, users),
                settings=self._settings,
            )
        except ValueError as error:
            raise Refusal(f"{source.title} cannot be put into a pod: {error}") from None
        self._containers.append(rendered)

    def _secret(self, name: str) -> str:
        secret = {"secretName": name, "defaultMode": _SECRET_MODE}
        return self._draft.add_volume({"name": derived_name("secret", name), "secret": secret})

    def _authorities(self, bundle: CaBundle) -> str:
        name = derived_name("authorities", f"{bundle.config_map_name}.{bundle.key}")
        return self._draft.add_volume(render_authorities(name, bundle))

    # --- what all have in common ---

    def _dressing(self, base: Mapping[str, Any], users: Sequence[Json]) -> Dressing:
        spec, request = self._draft.spec, self._request
        main: Json = users[0] if users else {}
        return Dressing(
            resources=dressing.resources(request, base, spec, self._settings.injection),
            security=dressing.security(spec, main, request.run_as_user),
        )

    def _pull_secrets(self) -> list[str]:
        jobs = (self._world.fetches[wanted.name].spec.job for wanted in self._request.fetches)
        ours = [secret.name for job in jobs for secret in job.image_pull_secrets]
        return [*ours, *self._settings.downloader_pull_secrets]

    def _fetch_labels(self) -> dict[str, str]:
        return {fetch_label(f.name): self._world.fetches[f.name].metadata.uid for f in self._request.fetches}

    def _place(self) -> None:
        after = self._request.after
        self._draft.place(self._containers, after)
        known = [container["name"] for container in self._draft.spec.get("initContainers") or ()]
        if self._containers and after not in (None, LAST, *known):
            self._warnings.append(
                f"annotation {PodAnnotation.AFTER}: the pod has no init container {after!r} yet; ours come last"
            )


def _root(directory: str | None) -> str:
    return f"{DATA_PATH}/{directory}" if directory else DATA_PATH


def _many_nodes_mount(fetch: DataFetch, claim: Claim | None) -> bool:
    """Return whether pods on several nodes can mount the fetch's claim, as it is or as it will be created."""
    if claim is not None:
        return claim.shared
    target = fetch.spec.target
    template = target.persistent_volume_claim.create if target else None
    modes = template.access_modes if template else ()
    return not {"ReadWriteMany", "ReadOnlyMany"}.isdisjoint(modes)


def _claim_title(fetch: DataFetch, claim: Claim | None) -> str:
    name = fetch.spec.target.persistent_volume_claim.claim_name if fetch.spec.target else ""
    modes = ", ".join(claim.access_modes) if claim else "which does not exist yet"
    return f"claim {name!r} ({modes})"


def _bytes(quantity: object) -> int | None:
    try:
        return parse_bytes(str(quantity)) if quantity is not None else None
    except ValueError:
        return None  # `1e9` and the like: the file system's word must do.


def _refuse_windows(spec: Mapping[str, Any]) -> None:
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if system == "windows":
        raise Refusal(
            "the pod is for Windows nodes, and the downloader runs on Linux; remove the datafetch.io annotations"
        )
