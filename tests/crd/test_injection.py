"""The real webhook behind the chart's configuration: what becomes of pods on their way through a real API server.

It runs on this machine, as the service account and with the rights and settings that the chart gives it. Pods are
created dry, so that no kubelet is needed; what they do when they run is e2e's. What the webhook decides is tested by
`tests/unit/operator/test_admission.py`, purely: here is what only an API server adds to it, which asks twice, fills in
defaults, and has other admission plugins.
"""

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kubernetes import client

from crd.configurations import Pods, applied, await_true, make_namespace, only_in, pod
from crd.conftest import Helm, Render
from crd.fetches import Json, Kubectl
from crd.reviews import make_certificate
from crd.served import Server, kubeconfig_of, rights, serve

HUB = "hf://hf-internal-testing/tiny-random-gpt2"
ENFORCE = {"pod-security.kubernetes.io/enforce": "restricted"}
SOURCES = [{"name": "weights", "uri": HUB}]


@dataclass(frozen=True)
class Injecting:
    """The webhook in force in some namespaces."""

    api: client.ApiClient
    server: Server
    users: str
    restricted: str
    limited: str
    """With a LimitRange."""
    counted: str
    """With a ResourceQuota."""

    def pods(self, namespace: str) -> Pods:
        return Pods(self.api, namespace)


def _fetch(name: str, modes: list[str] | None = None) -> Json:
    """Return a recipe, or with access modes a fetch whose claim is to be created; suspended, so that nobody does."""
    spec: Json = {"sources": SOURCES}
    if modes:
        claim = {"claimName": name, "create": {"size": "1Gi", "accessModes": modes}}
        spec |= {"target": {"persistentVolumeClaim": claim}, "suspend": True}
    return {"apiVersion": "datafetch.io/v1alpha1", "kind": "DataFetch", "metadata": {"name": name}, "spec": spec}


FETCHES = [_fetch("recipe"), _fetch("shared", ["ReadWriteMany"]), _fetch("single", ["ReadWriteOnce"])]
LIMITS = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "limits"},
    "spec": {
        "limits": [
            {
                "type": "Container",
                "default": {"cpu": "500m", "memory": "64Mi"},
                "defaultRequest": {"cpu": "50m", "memory": "32Mi"},
                "max": {"memory": "600Mi"},
            }
        ]
    },
}
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "quota"},
    "spec": {"hard": {"limits.cpu": "4", "limits.memory": "4Gi"}},
}


@pytest.fixture(scope="module")
def injecting(
    api: client.ApiClient,
    helm: Helm,
    kubectl: Kubectl,
    render: Render,
    host: str,
    definition: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Injecting]:
    folder = tmp_path_factory.mktemp("webhook")
    run = f"crd-injection-{uuid.uuid4().hex[:8]}"
    names = [run, f"{run}-restricted", f"{run}-limited", f"{run}-counted"]
    documents = render()
    [configuration] = [document for document in documents if document["kind"] == "MutatingWebhookConfiguration"]
    certificate, _ = make_certificate(folder, host)
    try:
        for name in names:
            make_namespace(kubectl, name, **(ENFORCE if name.endswith("restricted") else {}))
            listed = {"apiVersion": "v1", "kind": "List", "items": FETCHES}
            kubectl("create", "-n", name, "-f", "-", stdin=json.dumps(listed))
        kubectl("create", "-n", names[2], "-f", "-", stdin=json.dumps(LIMITS))
        kubectl("create", "-n", names[3], "-f", "-", stdin=json.dumps(QUOTA))
        kubectl("wait", "resourcequota/quota", "-n", names[3], "--for=jsonpath={.status.hard}", "--timeout=30s")
        with (
            rights(helm, kubectl, run, run),
            serve(
                _environment(documents),
                kubeconfig_of(kubectl, run, f"{run}-webhook", folder / "kubeconfig"),
                folder,
                host,
                folder / "log",
            ) as server,
            applied(kubectl, only_in(configuration, names), server.url, certificate),
        ):
            pods = Pods(api, run)
            await_true(lambda: "initContainers" in pods.create(_uri())["spec"], "the webhook is never asked")
            yield Injecting(api, server, *names)
    finally:
        kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait=false")


def _environment(documents: list[Json]) -> dict[str, str]:
    [deployment] = [
        document
        for document in documents
        if document["kind"] == "Deployment" and document["metadata"]["name"].endswith("-webhook")
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"]}


def _uri(**more: str) -> dict[str, str]:
    return {"datafetch.io/uri": HUB, **{f"datafetch.io/{key}": value for key, value in more.items()}}


def _ours(made: Json) -> list[str]:
    return [c["name"] for c in made["spec"].get("initContainers", []) if c["name"].startswith("datafetch-")]


MODES = [
    ("a recipe", {"fetch": "recipe"}, ["datafetch-get-recipe"], []),
    ("an inline source", {"uri": HUB}, ["datafetch-inline"], []),
    ("a fetch that many nodes can mount", {"fetch": "shared"}, ["datafetch-wait"], []),
    ("a fetch that one node can mount", {"fetch": "single"}, [], ["datafetch.io/data"]),
    ("a gate", {"fetch": "shared", "wait": "gate"}, [], ["datafetch.io/data"]),
    (
        "all at once",
        {"fetch": "recipe,shared,single", "uri": HUB},
        ["datafetch-get-recipe", "datafetch-inline", "datafetch-wait"],
        ["datafetch.io/data"],
    ),
]


@pytest.mark.parametrize("namespace", ["users", "restricted", "limited"])
@pytest.mark.parametrize(("asks", "containers", "gates"), [row[1:] for row in MODES], ids=[row[0] for row in MODES])
def test_a_pod_gets_each_container_and_gate_exactly_once(
    injecting: Injecting, namespace: str, asks: dict[str, str], containers: list[str], gates: list[str]
) -> None:
    """The API server asks again where one of its plugins added to our containers, as LimitRanger does."""
    annotations = {f"datafetch.io/{key}": value for key, value in asks.items()}
    before = injecting.server.admissions()
    made = injecting.pods(getattr(injecting, namespace)).create(annotations, generateName="consumer-")
    after = injecting.server.admissions()
    assert sorted(_ours(made)) == containers
    assert [gate["name"] for gate in made["spec"].get("schedulingGates", [])] == gates
    assert made["metadata"]["labels"]["datafetch.io/role"] == "consumer"
    mounts = [mount["mountPath"] for mount in made["spec"]["containers"][0]["volumeMounts"]]
    assert len(mounts) == len(set(mounts))
    assert after["injected"] - before.get("injected", 0) == 1
    asked_again = bool(containers) and namespace == "limited"
    assert after.get("unchanged", 0) - before.get("unchanged", 0) == asked_again


def test_a_restricted_namespace_takes_a_pod_whose_containers_say_all_themselves(injecting: Injecting) -> None:
    spec = pod()["spec"]
    [app] = spec["containers"]
    itself = {**app, "securityContext": {**app["securityContext"], **spec["securityContext"]}}
    made = injecting.pods(injecting.restricted).create(
        {**_uri(), "datafetch.io/fetch": "shared"}, spec={"containers": [itself], "securityContext": {}}
    )
    assert len(_ours(made)) == 2


def test_our_containers_get_no_token_of_the_service_account(injecting: Injecting) -> None:
    [app] = pod()["spec"]["containers"]
    spec = {"containers": [app], "automountServiceAccountToken": True}
    made = injecting.pods(injecting.users).create({**_uri(), "datafetch.io/fetch": "shared"}, spec=spec)
    projected = {volume["name"] for volume in made["spec"]["volumes"] if "projected" in volume}
    mounted = [{mount["name"] for mount in c["volumeMounts"]} for c in made["spec"]["initContainers"]]
    assert projected, "the cluster has the admission plugin that mounts it"
    assert projected <= {mount["name"] for mount in made["spec"]["containers"][0]["volumeMounts"]}
    assert not any(projected & names for names in mounted)


OWNERS: dict[str, Json] = {
    "ReplicaSet": {"generateName": "app-5d9c-", "labels": {"pod-template-hash": "5d9c"}},
    "Job": {"generateName": "train-", "labels": {"batch.kubernetes.io/job-name": "train"}},
    "StatefulSet": {"name": "db-0", "labels": {"apps.kubernetes.io/pod-index": "0"}},
}


@pytest.mark.parametrize("kind", OWNERS)
def test_pods_as_controllers_make_them_get_their_data(injecting: Injecting, kind: str) -> None:
    owner = {"apiVersion": "v1", "kind": kind, "name": "owner", "uid": "1-2-3", "controller": True}
    own = [{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}] if kind == "StatefulSet" else []
    made = injecting.pods(injecting.users).create(
        {"datafetch.io/fetch": "recipe,shared"},
        spec={"restartPolicy": "Never" if kind == "Job" else "Always", "volumes": own},
        ownerReferences=[owner],
        **OWNERS[kind],
    )
    assert sorted(_ours(made)) == ["datafetch-get-recipe", "datafetch-wait"]
    labels = made["metadata"]["labels"]
    assert {name: labels[name] for name in OWNERS[kind]["labels"]} == OWNERS[kind]["labels"]
    assert {"fetch.datafetch.io/recipe", "fetch.datafetch.io/shared"} < set(labels)


TAKEN = {"volumes": [{"name": "v", "emptyDir": {}}]}
REFUSALS: list[tuple[str, dict[str, str], Json, str]] = [
    (
        "an unknown fetch",
        {"fetch": "recip"},
        {},
        "there is no DataFetch 'recip' in namespace '{namespace}'; did you mean 'recipe'?",
    ),
    ("a fetch of another namespace", {"fetch": "default/recipe"}, {}, "its own namespace only"),
    (
        "a mount path that is taken",
        {"fetch": "shared"},
        {"mount": "/data"},
        "container 'app' mounts volume 'v' at /data, where DataFetch 'shared' would be (/data); choose another place",
    ),
    (
        "wait: init on a claim of one node",
        {"fetch": "single", "wait": "init"},
        {},
        "annotation datafetch.io/wait says init, and only one node can mount claim 'single'",
    ),
    (
        "a malformed config",
        {"config": "download_items:\n- type: hf\n  name: a\n  repo: b/c\n"},
        {},
        "annotation datafetch.io/config:4:3",
    ),
    (
        "a volume of our name",
        {"uri": HUB},
        {"volumes": [{"name": "datafetch-inline", "hostPath": {"path": "/"}}]},
        "the pod has a volume 'datafetch-inline' of its own",
    ),
    (
        "an unknown annotation",
        {"fetsh": "recipe"},
        {},
        "annotation datafetch.io/fetsh is unknown; did you mean 'datafetch.io/fetch'",
    ),
    (
        "more memory than the chart allows",
        {"uri": HUB, "memory-limit": "9Gi"},
        {},
        "asks for 9Gi, and this installation allows 8Gi",
    ),
]


@pytest.mark.parametrize(("asks", "spec", "sentence"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_refusal_is_a_sentence_in_kubectl_s_output(
    injecting: Injecting, kubectl: Kubectl, asks: dict[str, str], spec: Json, sentence: str
) -> None:
    manifest = pod({f"datafetch.io/{key}": value for key, value in asks.items()}, {**TAKEN, **spec})
    if path := manifest["spec"].pop("mount", None):
        manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": path}]
    create = ("create", "--dry-run=server", "-n", injecting.users, "-f", "-")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl(*create, stdin=json.dumps(manifest))
    said = refused.value.stderr.strip()
    assert 'admission webhook "inject.datafetch.io" denied the request: ' in said
    assert sentence.format(namespace=injecting.users) in said
    assert "\n" not in said


def test_limits_of_the_namespace_fill_in_what_ours_leave_open(injecting: Injecting) -> None:
    made = injecting.pods(injecting.limited).create(_uri())
    [ours] = made["spec"]["initContainers"]
    assert ours["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}


def test_a_limit_of_the_namespace_below_ours_is_met_by_an_annotation(injecting: Injecting) -> None:
    pods = injecting.pods(injecting.limited)
    assert "maximum memory usage per Container is 600Mi, but limit is 1Gi" in pods.refusal(_uri(memory="1Gi"))
    made = pods.create(_uri(**{"memory-limit": "96Mi"}))
    assert made["spec"]["initContainers"][0]["resources"]["limits"]["memory"] == "96Mi"


def test_a_quota_counts_ours_and_is_met_by_annotations(injecting: Injecting) -> None:
    pods = injecting.pods(injecting.counted)
    given = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    [app] = pod()["spec"]["containers"]
    spec = {"containers": [{**app, "resources": given}]}
    assert pods.create({}, spec=spec)
    assert "must specify limits.cpu for: datafetch-inline" in pods.refusal(_uri(), spec=spec)
    assert _ours(pods.create(_uri(**{"cpu-limit": "1"}), spec=spec)) == ["datafetch-inline"]
    assert "exceeded quota: quota" in pods.refusal(_uri(**{"cpu-limit": "4", "memory-limit": "8Gi"}), spec=spec)


@pytest.fixture
def there(injecting: Injecting, kubectl: Kubectl) -> Iterator[str]:
    """Make a pod with its data's container, for good but on no node."""
    name = f"there-{uuid.uuid4().hex[:8]}"
    injecting.pods(injecting.users).create(_uri(), spec={"nodeSelector": {"no": "node"}}, dry_run=False, name=name)
    yield name
    gone = ("--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
    kubectl("delete", "pod", name, f"{name}-copy", "-n", injecting.users, *gone)


def test_a_pod_that_is_there_is_changed_and_debugged_like_any_other(
    injecting: Injecting, kubectl: Kubectl, there: str
) -> None:
    before = injecting.server.admissions()
    kubectl("annotate", "pod", there, "datafetch.io/nonsense=1", "-n", injecting.users)
    kubectl("annotate", "pod", there, "datafetch.io/nonsense-", "-n", injecting.users)
    kubectl("debug", there, "--image=busybox", "--attach=false", "--profile=restricted", "-n", injecting.users)
    assert injecting.server.admissions() == before


@pytest.mark.parametrize("kept", [(), ("--keep-annotations", "--keep-labels")], ids=["bare", "with annotations"])
def test_a_copy_for_debugging_has_its_data_s_container_once(
    injecting: Injecting, kubectl: Kubectl, there: str, kept: tuple[str, ...]
) -> None:
    copy = f"{there}-copy"
    debug = ("debug", there, f"--copy-to={copy}", "--image=busybox", "--attach=false", "--profile=restricted")
    kubectl(*debug, *kept, "-n", injecting.users)
    made = json.loads(kubectl("get", "pod", copy, "-n", injecting.users, "-o", "json"))
    assert made["metadata"].get("annotations", {}) == (_uri() if kept else {})
    assert _ours(made) == ["datafetch-inline"]
