"""What is refused is refused in a sentence, where the owner looks; and pods stay what their owners made of them."""

import json
import time
from pathlib import Path

import pytest

from e2e.conftest import Bucket
from e2e.tenant import CONSUMER_IMAGE, Json, Tenant
from e2e.workloads import (
    checksums,
    container,
    deployment,
    find_pod,
    finish,
    get_pod,
    pod,
    pods_of,
    read_of,
    template,
    wait_for_pod_phase,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"
CONTENT = {"README.md": b"# hello\n"}
TYPO = """download_items:
  - type: hf
    name: weights
    repo_id: org/model
    revison: main
"""
CLASH = {"volumes": [{"name": "datafetch-inline", "emptyDir": {}}]}
MOUNTED = container(volumeMounts=[{"name": "own", "mountPath": "/data"}])


def test_a_refused_pod_of_a_deployment_shows_in_the_events_of_its_replica_set(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put(CONTENT)
    tenant.recipe("tinyllama", bucket.source())
    tenant.apply(deployment("web", template({"fetch": "tinylama"}, stays=True)))
    there = ("--namespace", tenant.namespace)
    deadline = time.monotonic() + 30
    while "FailedCreate" not in (said := tenant.kubectl.run("describe", "replicaset", *there)):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert "tinylama" in said
    assert "'tinyllama'" in said
    assert not pods_of(tenant, "app=web")
    # Mended where it stands, the rest happens by itself.
    tenant.apply(deployment("web", template({"fetch": "tinyllama"}, stays=True)))
    assert read_of(tenant, find_pod(tenant, "app=web"), 1)


@pytest.mark.parametrize(
    ("requests", "spec", "words"),
    [
        ({"fetch": "elsewhere/model"}, {}, ["elsewhere"]),
        ({"fetch": "model", "mountpath": "/x"}, {}, ["datafetch.io/mountpath", "datafetch.io/mount-path"]),
        ({"mount_path": "/x"}, {}, ["datafetch.io/fetch"]),
        ({"uri": "https://example.org/a"}, CLASH, ["datafetch-inline"]),
        ({"uri": "ftp://example.org/a"}, {}, ["ftp://example.org/a"]),
        ({"config": TYPO}, {}, [":5:", "revison", "'revision'"]),
        ({"uri": "https://example.org/a", "volume": "nosuch"}, {}, ["nosuch"]),
        ({"uri": "https://example.org/a", "containers": "mian"}, {}, ["mian", "main"]),
        ({"uri": "https://example.org/a", "memory": "900Gi"}, {}, ["900Gi"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and value else None,
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    tenant: Tenant, requests: Json, spec: Json, words: list[str]
) -> None:
    refused = tenant.rehearse(pod("refused", template(requests, **spec)))
    assert refused.returncode != 0
    for word in words:
        assert word in refused.stderr
    assert refused.stderr.count("\n") <= 1


def test_a_mount_path_that_is_taken_is_refused(tenant: Tenant) -> None:
    made = template({"uri": "https://example.org/a"}, MOUNTED, volumes=[{"name": "own", "emptyDir": {}}])
    refused = tenant.rehearse(pod("refused", made))
    assert "/data" in refused.stderr
    assert "main" in refused.stderr
    assert "mount-path" in refused.stderr


def test_a_dry_run_shows_what_would_be_and_leaves_nothing(tenant: Tenant) -> None:
    gpu = {"limits": {"nvidia.com/gpu": "1", "memory": "1Gi"}, "requests": {"memory": "1Gi"}}
    made = template({"uri": "https://example.org/a"}, container(resources=gpu))
    seen = tenant.rehearse(pod("dry", made))
    assert seen.returncode == 0, seen.stderr
    (ours,) = json.loads(seen.stdout)["spec"]["initContainers"]
    assert ours["name"] == "datafetch-inline"
    assert "nvidia.com/gpu" not in json.dumps(ours["resources"])
    assert not pods_of(tenant, "app=consumer")


@pytest.mark.parametrize("example", ["deployment", "inline", "gpu-job", "recipe"])
def test_the_pods_of_every_example_are_admitted(tenant: Tenant, example: str) -> None:
    documents = (EXAMPLES / f"{example}.yaml").read_text().split("\n---\n")
    there = ("--namespace", tenant.namespace)
    read = ("create", "--dry-run=client", "-o", "json", *there, "-f", "-")
    found = [json.loads(tenant.kubectl.run(*read, stdin=document)) for document in documents]
    (workload,) = [one for one in found if "template" in one["spec"]]
    for one in found:
        if one["kind"] == "DataFetch":
            # Not on its way to a source that is not ours.
            one["spec"]["suspend"] = "target" in one["spec"]
        if one is not workload:
            tenant.apply(one)
    seen = tenant.rehearse(pod("example", workload["spec"]["template"]))
    assert seen.returncode == 0, seen.stderr
    spec = json.loads(seen.stdout)["spec"]
    assert spec["containers"][0]["volumeMounts"]
    assert spec.get("initContainers") or spec.get("schedulingGates")


def test_pods_stay_what_they_are_when_they_are_changed_copied_or_debugged(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.recipe("model", bucket.source())
    made = template({"fetch": "model"}, container(f"{checksums()}; sleep 600"), terminationGracePeriodSeconds=0)
    tenant.apply(pod("web", made))
    assert read_of(tenant, "web", 1) == digests
    before = get_pod(tenant, "web")
    there = ("--namespace", tenant.namespace)
    tenant.kubectl.run("label", "pod", "web", "team=a", *there)
    tenant.kubectl.run("annotate", "pod", "web", "--overwrite", "datafetch.io/mount-path=/elsewhere", "mine=1", *there)
    assert get_pod(tenant, "web")["spec"] == before["spec"]
    tenant.kubectl.run("annotate", "pod", "web", "datafetch.io/mount-path-", *there)

    # An ephemeral container in it, and two copies: one that drops its annotations, one that keeps them.
    debug = ("debug", "web", f"--image={CONSUMER_IMAGE}", "--image-pull-policy=IfNotPresent", "--profile=restricted")
    tenant.kubectl.run(*debug, *there, "--container=look", "--target=main", "--", "true")
    again = ("--container=main", "--same-node", "--", "sh", "-ec", checksums())
    tenant.kubectl.run(*debug, *there, "--copy-to=copy", *again)
    tenant.kubectl.run(*debug, *there, "--copy-to=same", "--keep-annotations", "--keep-labels", *again)
    for name in ("copy", "same"):
        wait_for_pod_phase(tenant, name, "Succeeded")
        assert finish(tenant, name) == digests
        names = [one["name"] for one in get_pod(tenant, name)["spec"]["initContainers"]]
        assert names == ["datafetch-get-model"]
    statuses = get_pod(tenant, "web")["status"]
    assert [one["name"] for one in statuses["ephemeralContainerStatuses"]] == ["look"]
    assert statuses["phase"] == "Running"
