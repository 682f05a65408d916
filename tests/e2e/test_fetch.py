"""The whole path on a real cluster: from `kubectl apply` to files that another pod reads."""

import time

import pytest

from deploy import chart
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Tenant, condition

CONTENT = {"README.md": b"# hello\n", "data/part-1.bin": random_bytes(300_000, 1), "data/deep/er/empty": b""}


def slow(bucket: Bucket, megabytes: int = 24, seconds: float = 20) -> dict[str, str]:
    """Fill the bucket with what takes a while behind its proxy, and return the sha256 of every file."""
    digests = bucket.put({f"shard-{n}.bin": random_bytes(megabytes << 17, n) for n in range(8)})
    bucket.proxy.pace.rate = (megabytes << 20) / seconds
    return digests


def test_an_existing_claim_is_filled_and_another_pod_reads_it(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    status = tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == digests
    assert condition(status, "Ready")["status"] == "True"
    assert condition(status, "UpToDate")["status"] == "True"
    assert condition(status, "Failed")["status"] == "False"
    assert status["progress"]["percent"] == 100
    assert status["artifact"]["files"] == 3
    assert status["artifact"]["sizeBytes"] == sum(map(len, CONTENT.values()))
    assert status["target"]["publication"] == "Link"
    events = tenant.describe("model")
    assert "FetchStarted" in events
    assert "FetchCompleted" in events


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_claim_is_created_and_goes_only_where_that_was_asked_for(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, policy: str
) -> None:
    digests = bucket.put(CONTENT)
    tenant.fetch("model", bucket.source(path="in/here"), create={"size": "1Gi", "deletionPolicy": policy})
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model/in/here") == digests
    assert tenant.ours("job")
    assert tenant.ours("configmap")
    tenant.delete("model")
    deadline = time.monotonic() + 60
    while tenant.ours("job") or tenant.ours("configmap") or tenant.ours("pod"):
        assert time.monotonic() < deadline, "Job, ConfigMap and pods go with the DataFetch"
        time.sleep(0.5)
    if policy == "Retain":
        claim = kubectl.get("pvc", "data", tenant.namespace)
        assert claim is not None
        assert "deletionTimestamp" not in claim["metadata"]
        assert tenant.consume("data", "model/in/here") == digests
    else:
        kubectl.run("wait", "--for=delete", "pvc/data", "--namespace", tenant.namespace, "--timeout=60s")


def test_globs_and_several_sources_land_where_they_should(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch(
        "model",
        bucket.source("docs", include=["**/*.md"], path="docs"),
        bucket.source("one", key="data/part-1.bin", path="one"),
        path="team/a",
    )
    tenant.wait_for_phase("model", "Ready")
    expected = {"docs/README.md": digests["README.md"], "one/part-1.bin": digests["data/part-1.bin"]}
    assert tenant.consume("data", "team/a") == expected


def test_progress_is_seen_while_it_runs(tenant: Tenant, bucket: Bucket) -> None:
    digests = slow(bucket)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    status = tenant.wait("model", lambda seen: 0 < seen.get("progress", {}).get("percent", 0) < 100)
    progress = status["progress"]
    assert status["phase"] == "Fetching"
    assert progress["totalBytes"] == 24 << 20
    assert progress["totalFiles"] == 8
    assert progress["bytesPerSecond"] > 0
    assert condition(status, "Progressing")["status"] == "True"
    assert condition(status, "Ready")["status"] == "False"
    bucket.proxy.pace.rate = None
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == digests


def test_other_content_is_fetched_and_other_settings_are_not(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    first = tenant.wait_for_phase("model", "Ready")
    jobs = tenant.ours("job")

    tenant.fetch("model", bucket.source(), transfer={"maxConcurrency": 2})
    tenant.wait("model", lambda seen: seen["observedGeneration"] == 2)
    time.sleep(3)
    assert tenant.ours("job") == jobs
    assert tenant.status("model")["artifact"] == first["artifact"]

    tenant.fetch("model", bucket.source(exclude=["data/**"]), transfer={"maxConcurrency": 2})
    tenant.wait("model", lambda seen: seen.get("artifact", {}).get("specHash") != first["artifact"]["specHash"])
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == {"README.md": digests["README.md"]}


def test_a_new_trigger_looks_again_and_brings_what_changed(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), refresh={"trigger": "one"})
    first = tenant.wait_for_phase("model", "Ready")
    digests = bucket.put({**CONTENT, "README.md": b"# changed\n"})
    tenant.fetch("model", bucket.source(), refresh={"trigger": "two"})
    status = tenant.wait("model", lambda seen: seen.get("lastHandledTrigger") == "two" and seen["phase"] == "Ready")
    assert status["artifact"]["manifestDigest"] != first["artifact"]["manifestDigest"]
    assert status["progress"]["reusedBytes"] == len(CONTENT["data/part-1.bin"])
    assert tenant.consume("data", "model") == digests


def test_an_operator_that_restarts_in_the_middle_finds_the_download_where_it_is(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = slow(bucket, seconds=40)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes", 0) > 0)
    jobs, pods = tenant.ours("job"), tenant.ours("pod")
    there = ("--namespace", chart.NAMESPACE)
    selector = "--selector=app.kubernetes.io/component=operator"
    kubectl.run("delete", "pod", *there, selector, "--grace-period=0", "--force")
    kubectl.run("rollout", "status", "deployment/datafetch-operator", *there, "--timeout=90s")
    before = tenant.status("model")["progress"]["completedBytes"]
    tenant.wait("model", lambda seen: seen["progress"]["completedBytes"] > before)
    assert (tenant.ours("job"), tenant.ours("pod")) == (jobs, pods)
    bucket.proxy.pace.rate = None
    status = tenant.wait_for_phase("model", "Ready")
    assert status["attempts"] == 1
    assert tenant.consume("data", "model") == digests


def test_a_download_pod_that_is_deleted_is_replaced_and_goes_on(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = slow(bucket, seconds=120)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes", 0) > 1 << 20)
    kubectl.run("delete", "pod", *tenant.ours("pod"), "--namespace", tenant.namespace)
    bucket.proxy.pace.rate = None
    status = tenant.wait_for_phase("model", "Ready", 120)
    assert status["progress"]["reusedBytes"] > 0
    assert tenant.consume("data", "model") == digests


def test_deletion_in_the_middle_leaves_nothing_running(tenant: Tenant, bucket: Bucket) -> None:
    slow(bucket, seconds=60)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes", 0) > 0)
    tenant.delete("model")
    deadline = time.monotonic() + 60
    while tenant.ours("job") or tenant.ours("configmap") or tenant.ours("pod"):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_suspend_stops_and_goes_on(tenant: Tenant, bucket: Bucket) -> None:
    digests = slow(bucket, seconds=120)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes", 0) > 1 << 20)
    tenant.fetch("model", bucket.source(), suspend=True)
    tenant.wait_for_phase("model", "Suspended")
    deadline = time.monotonic() + 60
    while tenant.ours("pod"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    bucket.proxy.pace.rate = None
    tenant.fetch("model", bucket.source(), suspend=False)
    status = tenant.wait_for_phase("model", "Ready")
    assert status["progress"]["reusedBytes"] > 0
    assert tenant.consume("data", "model") == digests


def test_two_fetches_of_one_directory_the_older_wins(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch("first", bucket.source(), path="shared")
    tenant.wait_for_phase("first", "Ready")
    tenant.fetch("second", bucket.source(), path="shared/nested")
    status = tenant.wait("second", lambda seen: condition(seen, "Accepted").get("status") == "False")
    assert condition(status, "Accepted")["reason"] == "TargetConflict"
    assert "first" in condition(status, "Accepted")["message"]
