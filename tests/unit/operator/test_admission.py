"""Pods that ask for data: what they become, and why they are refused."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from datafetch_api.config import DownloadConfig
from datafetch_operator.settings import Injection
from unit.operator.asking import Json, Known, admit, claim, pod, recipe, refusal, review, target
from unit.operator.refused_pods import REFUSALS
from unit.operator.world import SETTINGS, UID

GOLDEN = Path(__file__).parent / "golden"
SHARED = Known({"tinyllama": target()}, {"data": claim()})
ONE_NODE = Known({"tinyllama": target()}, {"data": claim("data", "ReadWriteOnce")})
READY_ONE_NODE = Known({"tinyllama": target(ready=True)}, {"data": claim("data", "ReadWriteOnce")})
RECIPE = Known({"tinyllama": recipe(), "corpus": recipe("corpus")}, {"scratch": claim("scratch")})
NOTHING = Known()
HF = "hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SECRET_SOURCES = [
    {"name": "weights", "secretRef": {"name": "hf"}, "huggingFace": {"repo": "a/b"}},
    {"name": "corpus", "path": "corpus", "secretRef": {"name": "minio.team"}, "s3": {"bucket": "training"}},
]
CONFIG = """\
download_items:
- type: s3
  name: corpus
  access_key_id_file: id
  secret_key_file: key
  items:
  - bucket: training
    items: [{path: corpus/, target_path: corpus}]
"""
CASES: dict[str, tuple[Json, Known]] = {
    "fetch": (pod({"fetch": "tinyllama"}), SHARED),
    "gate": (pod({"fetch": "tinyllama", "mount-path": "/models"}), ONE_NODE),
    "recipe": (
        pod({"fetch": "tinyllama", "size": "20Gi"}, securityContext={"runAsUser": 1000, "fsGroup": 2000}),
        Known(
            {"tinyllama": recipe(sources=SECRET_SOURCES, job={"env": [{"name": "HTTPS_PROXY", "value": "http://p:1"}]})}
        ),
    ),
    "inline-uri": (pod({"uri": HF, "mount-path": "/models", "secret": "hf"}), NOTHING),
    "inline-config": (pod({"config": CONFIG, "secret": "minio", "volume": "scratch", "path": "here"}), RECIPE),
}


def containers(admitted: Json) -> list[Json]:
    return list(admitted["spec"].get("initContainers") or ())


def ours(admitted: Json) -> dict[str, Json]:
    return {c["name"]: c for c in containers(admitted) if c["name"].startswith("datafetch-")}


def environment(container: Json) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def config_of(container: Json) -> DownloadConfig:
    """Return the config as the process reads it, after kubelet has expanded the variable."""
    first = container["env"][0]
    assert first["name"] == "DATAFETCH_CONFIG", "$(VAR) sees the variables before it"
    return DownloadConfig.model_validate(yaml.safe_load(expanded(first["value"])))


def expanded(value: str) -> str:
    """Return a value as kubelet does where no variable is known before it: $$ is $, $(X) stays."""
    return re.sub(r"\$\$|\$\([^)]*\)", lambda found: "$" if found[0] == "$$" else found[0], value)


def mounts(admitted: Json, number: int = 0) -> list[Json]:
    return list(admitted["spec"]["containers"][number].get("volumeMounts") or ())


@pytest.mark.parametrize("name", CASES)
def test_a_pod_becomes_what_the_golden_file_says(name: str) -> None:
    text = yaml.safe_dump(admit(*CASES[name]), sort_keys=False, width=120)
    file = GOLDEN / f"injected-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


# --- fetches with a target ---


def test_a_fetch_on_a_shared_claim_is_awaited_by_an_init_container() -> None:
    admitted = admit(pod({"fetch": "tinyllama"}), SHARED)
    wait = ours(admitted)["datafetch-wait"]
    assert wait["args"] == ["wait", f"/datafetch/claims/0/tinyllama=team/tinyllama@{UID}"]
    assert wait["volumeMounts"][0] == {
        "name": "datafetch-claim-data",
        "mountPath": "/datafetch/claims/0",
        "readOnly": True,
    }
    assert mounts(admitted) == [
        {"name": "datafetch-claim-data", "mountPath": "/data", "subPath": "tinyllama", "readOnly": True}
    ]
    assert "schedulingGates" not in admitted["spec"]
    assert admitted["metadata"]["labels"] == {
        "app": "app",
        "datafetch.io/role": "consumer",
        "fetch.datafetch.io/tinyllama": UID,
    }


def test_a_fetch_on_a_claim_of_one_node_is_awaited_by_a_gate() -> None:
    admitted = admit(pod({"fetch": "tinyllama"}), ONE_NODE)
    assert admitted["spec"]["schedulingGates"] == [{"name": "datafetch.io/data"}]
    assert not containers(admitted)


@pytest.mark.parametrize("wait", [None, "none", "gate"])
def test_a_published_fetch_on_a_claim_of_one_node_is_not_waited_for(wait: str | None) -> None:
    admitted = admit(pod({"fetch": "tinyllama"} | ({"wait": wait} if wait else {})), READY_ONE_NODE)
    assert "schedulingGates" not in admitted["spec"]
    assert not containers(admitted)
    assert mounts(admitted)[0]["subPath"] == "tinyllama"


def test_data_of_a_replaced_claim_does_not_count_as_published() -> None:
    known = Known(READY_ONE_NODE.fetches, {"data": replace(claim("data", "ReadWriteOnce"), uid="another")})
    assert admit(pod({"fetch": "tinyllama"}), known)["spec"]["schedulingGates"]


def test_a_claim_that_is_not_there_yet_is_judged_by_how_it_will_be_created() -> None:
    create = {"size": "1Gi", "accessModes": ["ReadWriteMany"]}
    shared = target()
    shared["spec"]["target"]["persistentVolumeClaim"]["create"] = create
    assert "datafetch-wait" in ours(admit(pod({"fetch": "tinyllama"}), Known({"tinyllama": shared})))
    assert admit(pod({"fetch": "tinyllama"}), Known({"tinyllama": target()}))["spec"]["schedulingGates"]


def test_a_claim_that_the_pod_mounts_already_is_not_mounted_by_a_second_volume() -> None:
    volumes = [{"name": "mine", "persistentVolumeClaim": {"claimName": "data"}}]
    admitted = admit(pod({"fetch": "tinyllama"}, volumes=volumes), SHARED)
    claims = [v for v in admitted["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == volumes
    assert mounts(admitted)[0]["name"] == "mine"


def test_only_named_containers_get_the_data() -> None:
    two = [{"name": "app", "image": "app:1"}, {"name": "sidecar", "image": "sidecar:1"}]
    asking = pod({"fetch": "tinyllama", "containers": "app, prepare"}, containers=two)
    asking["spec"]["initContainers"] = [{"name": "prepare", "image": "prepare:1"}]
    admitted = admit(asking, SHARED)
    assert mounts(admitted, 0)
    assert not mounts(admitted, 1)
    assert next(c for c in containers(admitted) if c["name"] == "prepare")["volumeMounts"][0]["mountPath"] == "/data"


def test_several_fetches_each_get_a_place_and_one_container_waits_for_all() -> None:
    known = Known({"a": target("a"), "b": target("b", "other")}, {"data": claim(), "other": claim("other")})
    admitted = admit(pod({"fetch": "a, b=/elsewhere", "mount-path": "/models"}), known)
    assert [mount["mountPath"] for mount in mounts(admitted)] == ["/models/a", "/elsewhere"]
    assert len(ours(admitted)["datafetch-wait"]["args"]) == 3


def test_a_pod_waits_with_a_warning_for_a_fetch_that_has_failed() -> None:
    failed = target()
    failed["status"] = {"phase": "Failed", "reason": "SourceNotFound"}
    response = review(pod({"fetch": "tinyllama"}), Known({"tinyllama": failed}, {"data": claim()}))
    assert response["allowed"]
    assert "Failed (SourceNotFound)" in response["warnings"][0]


# --- recipes and inline sources ---


def test_a_recipe_is_downloaded_into_a_volume_of_the_pod_that_has_a_limit() -> None:
    admitted = admit(pod({"fetch": "tinyllama", "size": "1024Mi"}), RECIPE)
    container = ours(admitted)["datafetch-get-tinyllama"]
    assert container["args"] == ["run", "--skip-if-complete"]
    config = config_of(container)
    assert config.download_root == "/datafetch/data"
    assert config.capacity_bytes == 1 << 30
    assert {"name": "datafetch-data-tinyllama", "emptyDir": {"sizeLimit": "1024Mi"}} in admitted["spec"]["volumes"]
    assert mounts(admitted) == [{"name": "datafetch-data-tinyllama", "mountPath": "/data", "readOnly": True}]


def test_a_recipes_secrets_are_mounted_where_its_config_looks_for_them() -> None:
    admitted = admit(*CASES["recipe"])
    container = ours(admitted)["datafetch-get-tinyllama"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in admitted["spec"]["volumes"] if "secret" in v}
    places = {m["mountPath"]: secrets[m["name"]] for m in container["volumeMounts"] if m["name"] in secrets}
    wanted = {item.credentials_dir: item.name for item in config_of(container).download_items}
    assert places == {"/etc/datafetch/secrets/weights": "hf", "/etc/datafetch/secrets/corpus": "minio.team"}
    assert set(wanted) == set(places)
    assert not any(m["name"] in secrets for m in mounts(admitted)), "the main container has no business with them"


def test_a_recipes_certificates_are_mounted_where_its_config_looks_for_them() -> None:
    sources = [
        {"name": "corpus", "caBundle": {"configMapName": "corp-ca"}, "s3": {"bucket": "training"}},
        {"name": "lake", "caBundle": {"configMapName": "corp-ca", "key": "b.pem"}, "lakeFS": {"repository": "lake"}},
        {"name": "more", "caBundle": {"configMapName": "corp-ca"}, "gcs": {"bucket": "training"}},
    ]
    admitted = admit(pod({"fetch": "tinyllama"}), Known({"tinyllama": recipe(sources=sources)}))
    container = ours(admitted)["datafetch-get-tinyllama"]
    volumes = {v["name"]: v["configMap"] for v in admitted["spec"]["volumes"] if "configMap" in v}
    places = {f"{m['mountPath']}/ca.crt": volumes[m["name"]] for m in container["volumeMounts"] if m["name"] in volumes}
    wanted = {item.ca_bundle_file: item.name for item in config_of(container).download_items}
    assert set(wanted) == set(places)
    keys = {wanted[place]: (volume["name"], volume["items"][0]["key"]) for place, volume in places.items()}
    assert keys == {"corpus": ("corp-ca", "ca.crt"), "lake": ("corp-ca", "b.pem"), "more": ("corp-ca", "ca.crt")}
    assert len(volumes) == 2, "one volume for one key"


def test_certificates_of_an_inline_config_come_from_the_mounted_secret_and_its_keys_count_too() -> None:
    def config(path: str) -> str:
        return CONFIG.replace("  access_key_id_file: id\n  secret_key_file: key\n", f"  ca_bundle_file: {path}\n")

    admitted = admit(pod({"config": config("corp.pem"), "secret": "minio"}), NOTHING)
    (item,) = config_of(ours(admitted)["datafetch-inline"]).download_items
    assert item.ca_bundle_file == "/etc/datafetch/secrets/inline/corp.pem"
    assert item.credentials_dir == "/etc/datafetch/secrets/inline", "certificates are no credentials"
    for path in ("/etc/ssl/certs/ca-certificates.crt", "../../config/x"):
        said = refusal(pod({"config": config(path), "secret": "minio"}), NOTHING)
        assert "ca_bundle_file" in said
        assert "that alone is mounted" in said
    assert "no Secret is mounted" in refusal(pod({"config": config("corp.pem")}), NOTHING)


def test_pods_that_name_a_claim_share_a_directory_on_it() -> None:
    admitted = admit(pod({"fetch": "tinyllama", "volume": "scratch", "path": "models/llama/"}), RECIPE)
    assert {"name": "datafetch-claim-scratch", "persistentVolumeClaim": {"claimName": "scratch"}} in (
        admitted["spec"]["volumes"]
    )
    config = config_of(ours(admitted)["datafetch-get-tinyllama"])
    assert config.download_root == "/datafetch/data/models/llama"
    assert config.capacity_bytes == 10 << 30
    assert mounts(admitted)[0]["subPath"] == "models/llama"


def test_several_downloads_on_one_volume_each_have_a_directory() -> None:
    admitted = admit(pod({"fetch": "tinyllama, corpus", "uri": HF, "volume": "scratch"}), RECIPE)
    roots = {name: config_of(container).download_root for name, container in ours(admitted).items()}
    assert roots == {
        "datafetch-get-tinyllama": "/datafetch/data/tinyllama",
        "datafetch-get-corpus": "/datafetch/data/corpus",
        "datafetch-inline": "/datafetch/data/inline",
    }
    assert {m["mountPath"]: m["subPath"] for m in mounts(admitted)} == {
        "/data/tinyllama": "tinyllama",
        "/data/corpus": "corpus",
        "/data/inline": "inline",
    }


def test_a_container_that_mounts_the_volume_itself_keeps_its_own_mount() -> None:
    volumes = [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}]
    app = {"name": "app", "image": "app:1", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}
    other = {"name": "other", "image": "app:1"}
    admitted = admit(pod({"uri": HF, "volume": "cache"}, volumes=volumes, containers=[app, other]), NOTHING)
    assert mounts(admitted, 0) == app["volumeMounts"]
    assert mounts(admitted, 1) == [{"name": "cache", "mountPath": "/data", "readOnly": True}]
    assert config_of(ours(admitted)["datafetch-inline"]).capacity_bytes == 1 << 30


def test_data_is_writable_where_that_is_asked_for() -> None:
    assert "readOnly" not in mounts(admit(pod({"uri": HF, "read-only": "false"}), NOTHING))[0]


def test_inline_uris_land_in_their_directories_with_the_secrets_credentials() -> None:
    admitted = admit(pod({"uri": f"{HF}\ns3://bucket/prefix/ corpus/v1\n", "secret": "both"}), NOTHING)
    items = config_of(ours(admitted)["datafetch-inline"]).download_items
    assert [item.name for item in items] == ["uri-1", "uri-2"]
    assert {item.credentials_dir for item in items} == {"/etc/datafetch/secrets/inline"}
    assert "corpus/v1/" in str(items[1])


def test_an_inline_configs_files_are_below_its_mount_and_its_secret() -> None:
    admitted = admit(pod({"config": "download_root: sub/dir\n" + CONFIG, "secret": "minio"}), NOTHING)
    config = config_of(ours(admitted)["datafetch-inline"])
    assert config.download_root == "/datafetch/data/sub/dir"
    item: Any = config.download_items[0]
    assert item.access_key_id_file == "/etc/datafetch/secrets/inline/id"
    assert item.credentials_dir is None


@pytest.mark.parametrize("text", ["$(HOME)", "$$(HOME)", "a$b$$c", "$", "$$$", "$(DATAFETCH_INJECTED)"])
def test_dollars_arrive_as_they_were_written(text: str) -> None:
    asking = pod({"config": yaml.safe_dump({"download_items": [{"type": "hf", "name": text, "repo_id": "a/b"}]})})
    admitted = admit(asking, NOTHING)
    assert config_of(ours(admitted)["datafetch-inline"]).download_items[0].name == text


# --- what our containers look like ---


def test_ours_come_first_or_where_they_are_told_to() -> None:
    def order(**annotations: str) -> list[str]:
        own = [{"name": "istio-proxy", "image": "i", "restartPolicy": "Always"}, {"name": "migrate", "image": "m"}]
        return [c["name"] for c in containers(admit(pod({"uri": HF, **annotations}, initContainers=own), NOTHING))]

    assert order() == ["datafetch-inline", "istio-proxy", "migrate"]
    assert order(after="istio-proxy") == ["istio-proxy", "datafetch-inline", "migrate"]
    assert order(after="*") == ["istio-proxy", "migrate", "datafetch-inline"]
    assert order(after="vault") == ["istio-proxy", "migrate", "datafetch-inline"]


def test_a_sidecar_that_comes_later_is_still_waited_for() -> None:
    asking = pod({"uri": HF, "after": "istio-proxy"}, initContainers=[{"name": "migrate", "image": "m"}])
    once = admit(asking, NOTHING)
    once["spec"]["initContainers"].insert(0, {"name": "istio-proxy", "image": "i", "restartPolicy": "Always"})
    assert [c["name"] for c in containers(admit(once, NOTHING))] == ["istio-proxy", "datafetch-inline", "migrate"]


def test_what_another_webhook_adds_to_our_container_stays() -> None:
    once = admit(pod({"uri": HF}), NOTHING)
    container = containers(once)[0]
    container["env"].append({"name": "HTTPS_PROXY", "value": "http://proxy:3128"})
    container["image"] = "mirror.example.org/downloader:1"
    assert containers(admit(once, NOTHING)) == [container]


def test_the_messages_of_many_containers_fit_into_what_kubelet_keeps() -> None:
    def limit(count: int) -> int:
        many = [{"name": f"c{number}", "image": "app:1"} for number in range(count)]
        (container,) = ours(admit(pod({"uri": HF}, containers=many), NOTHING)).values()
        return int(environment(container)["DATAFETCH_TERMINATION_LIMIT"])

    assert limit(1) == 3500
    assert limit(4) == 2400
    assert limit(100) == 200


@pytest.mark.parametrize(
    ("pod_user", "main_user", "annotation", "expected"),
    [
        ({}, {}, None, {"runAsNonRoot": True}),
        ({"runAsUser": 1000}, {}, None, {"runAsNonRoot": True}),
        ({"runAsUser": 0}, {}, None, {}),
        ({}, {"runAsUser": 1001, "runAsGroup": 5}, None, {"runAsUser": 1001, "runAsGroup": 5, "runAsNonRoot": True}),
        ({}, {"runAsUser": 0}, None, {"runAsUser": 0}),
        ({"runAsUser": 1000}, {"runAsUser": 1001}, "1337", {"runAsUser": 1337, "runAsNonRoot": True}),
    ],
)
def test_our_container_runs_as_the_one_who_reads_the_data(
    pod_user: Json, main_user: Json, annotation: str | None, expected: Json
) -> None:
    main = {"name": "app", "image": "app:1", "securityContext": main_user}
    asked = {"uri": HF} | ({"run-as-user": annotation} if annotation else {})
    admitted = admit(pod(asked, containers=[main], securityContext=pod_user), NOTHING)
    context = containers(admitted)[0]["securityContext"]
    assert {name: context[name] for name in ("runAsUser", "runAsGroup", "runAsNonRoot") if name in context} == expected
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    assert admitted["spec"]["securityContext"] == pod_user


def test_resources_are_the_installations_unless_the_pod_says_otherwise() -> None:
    def resources(**annotations: str) -> Json:
        return dict(containers(admit(pod({"uri": HF, **annotations}), NOTHING))[0]["resources"])

    default = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    assert resources() == default
    assert resources(cpu="2") == {"requests": {"cpu": "2", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    assert resources(memory="2Gi")["limits"] == {"memory": "2Gi"}
    assert resources(**{"memory-limit": "64Mi"})["requests"] == {"cpu": "100m", "memory": "64Mi"}
    assert resources(**{"cpu-limit": "1"})["limits"] == {"memory": "512Mi", "cpu": "1"}


def test_gpus_are_never_asked_for() -> None:
    gpu = {"name": "app", "image": "app:1", "resources": {"limits": {"nvidia.com/gpu": 8}}}
    resources = {"requests": {"nvidia.com/gpu": 1, "cpu": "1"}, "limits": {"nvidia.com/gpu": 1}}
    known = Known({"tinyllama": recipe(job={"resources": resources})})
    admitted = admit(pod({"fetch": "tinyllama"}, containers=[gpu]), known)
    assert containers(admitted)[0]["resources"] == {"requests": {"cpu": "1"}}
    assert admitted["spec"]["containers"][0]["resources"] == gpu["resources"]


def test_a_pod_with_resources_of_its_own_shares_them_with_us() -> None:
    admitted = admit(pod({"uri": HF}, resources={"requests": {"cpu": "50m"}}), NOTHING)
    assert containers(admitted)[0]["resources"] == {}


def test_pull_secrets_are_added_after_the_pods_own() -> None:
    settings = replace(SETTINGS, downloader_pull_secrets=("ours", "theirs"))
    admitted = admit(pod({"uri": HF}, imagePullSecrets=[{"name": "theirs"}]), NOTHING, settings)
    assert admitted["spec"]["imagePullSecrets"] == [{"name": "theirs"}, {"name": "ours"}]


def test_long_names_and_dots_make_valid_names_that_differ() -> None:
    names = ["a" * 60, "a" * 60 + ".b", "a.b", "a-b"]
    known = Known({name: recipe(name) for name in names})
    admitted = admit(pod({"fetch": ",".join(names)}), known)
    made = [*ours(admitted), *(volume["name"] for volume in admitted["spec"]["volumes"])]
    assert len(set(made)) == len(made) == 4 + 4 + 1
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in made)


# --- what is left alone ---


def test_a_pod_without_our_annotations_is_left_as_it_is() -> None:
    assert review(pod({}), NOTHING) == {"uid": "review-1", "allowed": True}


def test_a_copy_of_an_injected_pod_without_its_labels_is_admitted_as_it_is() -> None:
    injected = admit(*CASES["recipe"])
    copy = {**injected, "metadata": {**injected["metadata"], "labels": {}}}
    assert admit(copy, CASES["recipe"][1])["spec"] == injected["spec"]


# --- refusals ---

INSTALLATION = replace(SETTINGS, injection=Injection(most_size="20Gi", gates=False))


@pytest.mark.parametrize(("asking", "known", "words"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_pod_is_refused_with_a_sentence(asking: Json, known: Known, words: str) -> None:
    message = refusal(asking, known)
    assert words in message
    assert "\n" not in message


def test_a_fetch_that_is_being_deleted_is_no_longer_given() -> None:
    leaving = target(ready=True)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert "is being deleted" in refusal(pod({"fetch": "tinyllama"}), Known({"tinyllama": leaving}))


def test_a_fetch_of_another_version_is_refused_and_says_where() -> None:
    other = recipe()
    other["spec"]["sources"][0]["lakefs"] = {}
    assert "cannot be read by this version" in refusal(pod({"fetch": "tinyllama"}), Known({"tinyllama": other}))


def test_an_installation_without_gates_says_so() -> None:
    assert "switched off" in refusal(pod({"fetch": "tinyllama"}), ONE_NODE, INSTALLATION)


def test_an_installation_bounds_the_size() -> None:
    assert "asks for 30Gi, and this installation allows 20Gi" in refusal(
        pod({"uri": HF, "size": "30Gi"}), NOTHING, INSTALLATION
    )


def test_nothing_secret_stands_in_a_refusal() -> None:
    message = refusal(pod({"uri": "s3://key:hunter2@bucket/x"}), NOTHING)
    assert "hunter2" not in message
