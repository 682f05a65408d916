"""The chart's webhook configuration on a real API server: whom it asks about what, and what becomes of pods without it.

The server behind it is a recorder of this machine (`reviews.py`). What the real one answers is `test_injection.py`'s.
"""

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import Any

import pytest
from kubernetes import client

from crd.configurations import ASKING, Pods, applied, await_true, make_namespace, only_in, pod
from crd.conftest import SYSTEM, Render
from crd.fetches import Json, Kubectl
from crd.reviews import MARK, Recorder, make_certificate, serve

WEBHOOK = "inject.datafetch.io"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
Unanswered = Callable[[int], AbstractContextManager[Pods]]


@dataclass(frozen=True)
class Namespaces:
    users: str
    system: str
    """The release's own namespace."""


@dataclass(frozen=True)
class Asked:
    """A configuration in force, and the requests that came of it."""

    api: client.ApiClient
    recorder: Recorder
    namespaces: Namespaces

    def pods(self, namespace: str = "") -> Pods:
        return Pods(self.api, namespace or self.namespaces.users)

    def count(self, act: Callable[[], Any]) -> int:
        """Return how many requests an act leads to."""
        before = len(self.recorder.requests)
        act()
        return len(self.recorder.requests) - before


@pytest.fixture(scope="module")
def namespaces(kubectl: Kubectl) -> Iterator[Namespaces]:
    run = uuid.uuid4().hex[:8]
    made = Namespaces(f"crd-webhook-{run}", f"crd-webhook-{run}-system")
    for name in (made.users, made.system):
        make_namespace(kubectl, name)
    yield made
    kubectl("delete", "namespace", made.users, made.system, "--wait=false")


@pytest.fixture(scope="module")
def configuration(render: Render, namespaces: Namespaces) -> Json:
    """Render the chart's configuration of a release in the tests' system namespace."""
    documents = render("--namespace", namespaces.system)
    [found] = [document for document in documents if document["kind"] == "MutatingWebhookConfiguration"]
    return only_in(found, (namespaces.users, namespaces.system, "kube-system"))


@pytest.fixture(scope="module")
def asked(
    api: client.ApiClient,
    kubectl: Kubectl,
    host: str,
    namespaces: Namespaces,
    configuration: Json,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Asked]:
    certificate, key = make_certificate(tmp_path_factory.mktemp("recorder"), host)
    recorder = Recorder()
    with (
        serve(recorder, host, certificate, key) as port,
        applied(kubectl, configuration, f"https://{host}:{port}/inject", certificate),
    ):
        pods = Pods(api, namespaces.users)
        await_true(lambda: MARK in pods.create(ASKING)["metadata"].get("labels", {}), "the webhook is never asked")
        yield Asked(api, recorder, namespaces)


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"example.com/fetch": "weights"},
        {"datafetch.io": "weights"},
        {"fetch.datafetch.io/weights": "uid"},
        {"mydatafetch.io/fetch": "weights"},
        {"Datafetch.io/fetch": "weights"},
    ],
    ids=lambda annotations: next(iter(annotations), "none"),
)
def test_a_pod_without_an_annotation_of_ours_causes_no_request(asked: Asked, annotations: Json) -> None:
    assert asked.count(lambda: asked.pods().create(annotations)) == 0


def test_our_labels_on_a_pod_cause_no_request(asked: Asked) -> None:
    labels = {"datafetch.io/role": "download", "fetch.datafetch.io/weights": "uid"}
    assert asked.count(lambda: asked.pods().create({}, name="download", labels=labels)) == 0


@pytest.mark.parametrize("key", ["fetch", "uri", "config", "fetsh"])
def test_a_pod_with_an_annotation_of_ours_is_asked_about(asked: Asked, key: str) -> None:
    """Also one that we don't know: it has to be refused."""
    assert asked.count(lambda: asked.pods().create({"example.com/a": "b", f"datafetch.io/{key}": "weights"})) >= 1


def test_a_dry_run_is_answered_like_any_other(asked: Asked) -> None:
    made = asked.pods().create(ASKING)
    assert made["metadata"]["labels"] == {MARK: "yes"}
    assert asked.recorder.requests[-1]["dryRun"] is True


def test_a_pod_of_a_controller_has_its_namespace_in_the_request_only(asked: Asked) -> None:
    asked.pods().create(ASKING, generateName="consumer-")
    request = asked.recorder.requests[-1]
    assert request["namespace"] == asked.namespaces.users
    assert request["operation"] == "CREATE"
    assert request["object"]["metadata"]["generateName"] == "consumer-"


@pytest.fixture
def running(asked: Asked, kubectl: Kubectl) -> Iterator[str]:
    """Make a pod that asks for data and is there for good, but on no node."""
    name = f"there-{uuid.uuid4().hex[:8]}"
    asked.pods().create(ASKING, spec={"nodeSelector": {"no": "node"}}, dry_run=False, name=name)
    yield name
    kubectl("delete", "pod", name, "-n", asked.namespaces.users, "--grace-period=0", "--force", "--wait=false")


def test_what_happens_to_a_pod_later_causes_no_request(asked: Asked, kubectl: Kubectl, running: str) -> None:
    there = ("-n", asked.namespaces.users)
    core: Any = client.CoreV1Api(asked.api)  # its types know models only

    def update() -> None:
        kubectl("annotate", "pod", running, "datafetch.io/mount-path=/other", *there)
        kubectl("label", "pod", running, "a=b", *there)

    def debug() -> None:
        kubectl("debug", running, "--image=busybox", "--attach=false", "--profile=restricted", *there)

    def write_status() -> None:
        status = {"status": {"message": "still here"}}
        core.patch_namespaced_pod_status(running, asked.namespaces.users, status)

    def evict() -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": running}}
        core.create_namespaced_pod_eviction(running, asked.namespaces.users, eviction, dry_run="All")

    for act in (update, debug, write_status, evict):
        assert asked.count(act) == 0, act.__name__


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job", "ConfigMap", "PersistentVolumeClaim"])
def test_other_resources_cause_no_request(asked: Asked, kubectl: Kubectl, kind: str) -> None:
    """Their pods are asked about when they are made; here nobody makes any."""
    api_version, spec = _OTHERS[kind]
    metadata = {"name": "other", "annotations": ASKING}
    manifest = json.dumps({"apiVersion": api_version, "kind": kind, "metadata": metadata, **spec})
    create = ("create", "--dry-run=server", "-n", asked.namespaces.users, "-f", "-")
    assert asked.count(lambda: kubectl(*create, stdin=manifest)) == 0


def _template(**spec: Any) -> Json:
    return {"metadata": {"labels": {"a": "b"}, "annotations": ASKING}, "spec": {**pod()["spec"], **spec}}


_SELECTED = {"selector": {"matchLabels": {"a": "b"}}, "template": _template()}
_OTHERS: dict[str, tuple[str, Json]] = {
    "Deployment": ("apps/v1", {"spec": _SELECTED}),
    "StatefulSet": ("apps/v1", {"spec": {**_SELECTED, "serviceName": "a"}}),
    "Job": ("batch/v1", {"spec": {"template": _template(restartPolicy="Never")}}),
    "ConfigMap": ("v1", {}),
    "PersistentVolumeClaim": (
        "v1",
        {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}},
    ),
}


def test_pods_of_the_system_and_of_the_release_are_never_asked_about(asked: Asked) -> None:
    for namespace in ("kube-system", asked.namespaces.system):
        pods = asked.pods(namespace)
        assert asked.count(partial(pods.create, ASKING)) == 0


def test_named_namespaces_are_the_only_ones_asked_about(render: Render) -> None:
    [found] = [
        document
        for document in render("--set", "watchNamespaces={research}")
        if document["kind"] == "MutatingWebhookConfiguration"
    ]
    rules = {rule["operator"]: rule for rule in found["webhooks"][0]["namespaceSelector"]["matchExpressions"]}
    assert {rule["key"] for rule in rules.values()} == {"kubernetes.io/metadata.name"}
    assert rules["In"]["values"] == ["research"]
    assert set(rules["NotIn"]["values"]) == {"kube-system", SYSTEM}


@pytest.fixture(scope="module")
def unanswered(
    api: client.ApiClient,
    kubectl: Kubectl,
    host: str,
    render: Render,
    tmp_path_factory: pytest.TempPathFactory,
) -> Unanswered:
    """Give namespaces whose webhook is at a port that does not answer."""
    certificate, _ = make_certificate(tmp_path_factory.mktemp("nobody"), host)
    [chart] = [document for document in render() if document["kind"] == "MutatingWebhookConfiguration"]
    chart["webhooks"][0]["timeoutSeconds"] = 1

    @contextmanager
    def at(port: int) -> Iterator[Pods]:
        name = f"crd-webhook-{uuid.uuid4().hex[:8]}"
        make_namespace(kubectl, name)
        try:
            with applied(kubectl, only_in(chart, [name]), f"https://{host}:{port}/inject", certificate):
                pods = Pods(api, name)
                await_true(lambda: pods.is_refused(ASKING), "pods are created although nobody answers")
                yield pods
        finally:
            kubectl("delete", "namespace", name, "--wait=false")

    return at


def test_without_the_webhook_only_pods_that_ask_are_refused(unanswered: Unanswered, host: str) -> None:
    with socket.socket() as taken:
        taken.bind((host, 0))  # nobody else can listen there, and this one does not
        with unanswered(taken.getsockname()[1]) as pods:
            said = pods.refusal(ASKING)
            assert f'failed calling webhook "{WEBHOOK}"' in said
            assert "connection refused" in said
            assert pods.create({"example.com/fetch": "weights"})["metadata"]["name"] == "consumer"
            # The condition has a budget, and a pod over it would be refused: each key costs some of it.
            many = {"".join(key): "" for key in islice(product(_LETTERS, repeat=3), 20_000)}
            assert len(pods.create(many)["metadata"]["annotations"]) == len(many)


def test_a_webhook_that_hangs_holds_up_only_pods_that_ask_and_not_for_long(unanswered: Unanswered, host: str) -> None:
    with socket.create_server((host, 0)) as silent, unanswered(silent.getsockname()[1]) as pods:
        started = time.monotonic()
        said = pods.refusal(ASKING)
        assert 0.9 < time.monotonic() - started < 3
        assert f'failed calling webhook "{WEBHOOK}"' in said
        assert "context deadline exceeded" in said
        started = time.monotonic()
        pods.create()
        assert time.monotonic() - started < 0.9
