"""Whatever a pod holds: injected twice is injected once, nothing of the user's is lost, and the pod is valid."""

import copy
import json
from base64 import b64decode
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from unit.operator.asking import Json, Known, claim, patched, pod, recipe, review, target

KNOWN = Known(
    {
        "shared": target("shared"),
        "published": target("published", ready=True),
        "gated": target("gated", "block"),
        "recipe": recipe("recipe"),
        "secret": recipe("secret", sources=[{"name": "s", "secretRef": {"name": "x.y"}, "uri": "s3://b/p/"}]),
    },
    {"data": claim(), "block": claim("block", "ReadWriteOnce")},
)
URI = "hf://a/b"
CONFIG = "download_items: [{type: hf, name: x, repo_id: a/b}]"
PATHS = st.sampled_from(["/data", "/data/sub", "/models", "/cache", "/work"])
VOLUMES: list[Json] = [
    {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
    {"name": "mine", "persistentVolumeClaim": {"claimName": "data"}},
    {"name": "settings", "configMap": {"name": "c"}},
]
NAMES = st.sampled_from([str(volume["name"]) for volume in VOLUMES])


@st.composite
def containers(draw: st.DrawFn, names: list[str]) -> list[Json]:
    made = []
    for name in names:
        container: Json = {"name": name, "image": f"{name}:1", "env": [{"name": "A", "value": "$(B)"}]}
        mounts = draw(st.lists(st.tuples(NAMES, PATHS), max_size=1))
        empty = draw(st.booleans())
        if mounts or empty:
            container["volumeMounts"] = [{"name": volume, "mountPath": path} for volume, path in mounts]
        if draw(st.booleans()):
            container["resources"] = {"limits": {"nvidia.com/gpu": 1}}
        made.append(container)
    return made


FETCHES = st.lists(st.sampled_from(sorted(KNOWN.fetches)), min_size=1, max_size=4, unique=True).map(", ".join)
REQUESTS = st.one_of(
    st.fixed_dictionaries({"fetch": FETCHES}),
    st.fixed_dictionaries({"uri": st.just(URI)}, optional={"fetch": FETCHES, "secret": st.just("s")}),
    st.fixed_dictionaries({"config": st.just(CONFIG)}, optional={"fetch": FETCHES, "secret": st.just("s")}),
)
PLACES = st.one_of(
    st.fixed_dictionaries({}, optional={"size": st.sampled_from(["1Gi", "1024Mi"])}),
    st.fixed_dictionaries(
        {"volume": st.sampled_from(["cache", "mine", "data", "settings"])},
        optional={"path": st.sampled_from(["p", "p/q"])},
    ),
)
REST: dict[str, st.SearchStrategy[str]] = {
    "mount-path": PATHS,
    "containers": st.sampled_from(["app", "side", "app,side", "prepare"]),
    "wait": st.sampled_from(["init", "gate", "none"]),
    "read-only": st.sampled_from(["true", "false"]),
    "after": st.sampled_from(["prepare", "*", "late"]),
    "run-as-user": st.just("1337"),
    "memory": st.just("1Gi"),
}


@st.composite
def annotations(draw: st.DrawFn) -> dict[str, str]:
    """Most of them make sense together; the others are refused."""
    asked: dict[str, str] = dict(draw(REQUESTS))
    if asked.keys() & {"uri", "config"} or "recipe" in asked["fetch"] or "secret" in asked["fetch"]:
        asked |= draw(PLACES)
    for key in draw(st.lists(st.sampled_from(sorted(REST)), max_size=3, unique=True)):
        asked[key] = draw(REST[key])
    return asked


@st.composite
def pods(draw: st.DrawFn) -> Json:
    spec: dict[str, Any] = {"containers": draw(containers(["app", "side"]))}
    init = draw(st.lists(st.sampled_from(["prepare", "migrate"]), unique=True))
    if init:
        spec["initContainers"] = draw(containers(init))
    spec["volumes"] = VOLUMES
    if draw(st.booleans()):
        spec["schedulingGates"] = [{"name": "other.io/gate"}]
    if draw(st.booleans()):
        spec["imagePullSecrets"] = [{"name": "registry"}]
    if draw(st.booleans()):
        spec["securityContext"] = draw(st.sampled_from([{}, {"runAsUser": 0}, {"runAsUser": 5, "fsGroup": 6}]))
    return copy.deepcopy(pod(draw(annotations()), **spec))


def answered(asking: Json) -> Json | None:
    """Return the pod as it is stored, or None where it is refused."""
    response = review(asking, KNOWN)
    if not response["allowed"]:
        assert response["status"]["message"]
        return None
    return patched(asking, json.loads(b64decode(response["patch"])) if "patch" in response else [])


def stored(admitted: Json) -> Json:
    """Return the pod with what the API server and other webhooks add before they ask again."""
    seen = copy.deepcopy(admitted)
    for container in (*seen["spec"]["containers"], *seen["spec"].get("initContainers", ())):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("imagePullPolicy", "Always")
        container.setdefault("volumeMounts", []).append({"name": "token", "mountPath": "/var/run/secrets/token"})
    seen["spec"]["volumes"].append({"name": "token", "projected": {"sources": []}})
    for volume in seen["spec"]["volumes"]:
        if volume.get("emptyDir", {}).get("sizeLimit") == "1024Mi":
            volume["emptyDir"]["sizeLimit"] = "1Gi"
    return seen


def is_ours(thing: Json) -> bool:
    return str(thing["name"]).startswith("datafetch")


@settings(max_examples=400, deadline=None)
@given(pods())
def test_injected_twice_is_injected_once(asking: Json) -> None:
    once = answered(asking)
    if once is None:
        return
    assert answered(once) == once
    again = stored(once)
    assert answered(again) == again


@settings(max_examples=400, deadline=None)
@given(pods())
def test_nothing_of_the_users_is_lost(asking: Json) -> None:
    admitted = answered(asking)
    if admitted is None:
        return
    before, after = asking["spec"], admitted["spec"]
    assert admitted["metadata"]["annotations"] == asking["metadata"]["annotations"]
    assert asking["metadata"]["labels"].items() <= admitted["metadata"]["labels"].items()
    for kind in ("volumes", "schedulingGates", "imagePullSecrets"):
        assert [thing for thing in after.get(kind, []) if not is_ours(thing)] == before.get(kind, [])
    for kind in ("containers", "initContainers"):
        kept = [container for container in after.get(kind, []) if not is_ours(container)]
        for old, new in zip(before.get(kind, []), kept, strict=True):
            mounts = old.get("volumeMounts", [])
            assert new.get("volumeMounts", [])[: len(mounts)] == mounts
            assert {**new, "volumeMounts": mounts} == {**old, "volumeMounts": mounts}
    others = {key: value for key, value in before.items() if key not in ("volumes", "containers", "initContainers")}
    assert {key: after[key] for key in others if key not in ("schedulingGates", "imagePullSecrets")} == {
        key: value for key, value in others.items() if key not in ("schedulingGates", "imagePullSecrets")
    }


@settings(max_examples=400, deadline=None)
@given(pods())
def test_what_is_admitted_is_a_valid_pod(asking: Json) -> None:
    admitted = answered(asking)
    if admitted is None:
        return
    spec = admitted["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    every = [*spec["containers"], *spec.get("initContainers", ())]
    names = [container["name"] for container in every]
    assert len(set(volumes)) == len(volumes)
    assert len(set(names)) == len(names)
    claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
    assert len(set(claims)) == len(claims), "kubelet never mounts the second volume of one claim"
    for container in every:
        mounts = container.get("volumeMounts", [])
        paths = [mount["mountPath"] for mount in mounts]
        assert len(set(paths)) == len(paths)
        assert {mount["name"] for mount in mounts} <= set(volumes)
    for container in filter(is_ours, every):
        assert "nvidia.com/gpu" not in json.dumps(container)
        assert not container["args"][0].startswith("-")
    if asking["metadata"]["annotations"]:
        assert admitted["metadata"]["labels"]["datafetch.io/role"] == "consumer"
