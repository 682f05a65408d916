"""Kubernetes' own parts go and come back, nodes are emptied, the CRD changes. Each of these tests runs alone."""

import random
import time

import pytest

from chaos.record import Record
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow, shards
from e2e.faults.faulting import await_bytes, await_operators, cordoned, download_pod, restart
from e2e.faults.settled import assert_settled, uid_of, watching
from e2e.tenant import Tenant, condition

pytestmark = pytest.mark.alone

SIZE = 12 << 20
DEFINITION = "datafetches.datafetch.io"
FIELD = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/laterVersion"


@pytest.mark.scenario("Process of Kubernetes restarted")
@pytest.mark.rounds(2)
@pytest.mark.parametrize("process", ["kube-apiserver", pytest.param("kubelet", marks=pytest.mark.chaos)])
def test_a_part_of_kubernetes_that_restarts_ends_no_fetch(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, chance: random.Random, record: Record, process: str
) -> None:
    content = put_slow(bucket, SIZE, seconds=20)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * chance.uniform(0.02, 0.98))
        began = time.monotonic()
        restart(process)
        record.most("seconds until the cluster could be used", time.monotonic() - began)
        bucket.proxy.pace.rate = None
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    await_operators(kubectl)
    record.add(f"restarts of {process}", 1)


@pytest.mark.chaos
@pytest.mark.scenario("Node drained (the only one), and taken back")
def test_a_drained_download_waits_for_a_node_with_the_schedulers_words_and_goes_on(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    content = put_slow(bucket, SIZE, seconds=60)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), job={"backoffLimit": 0})
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * 0.3)
        node = download_pod(tenant)["spec"]["nodeName"]
        with cordoned(kubectl):
            only = f"--pod-selector=datafetch.io/uid={uid_of(kubectl, tenant.namespace, 'model')}"
            kubectl.run("drain", node, only, "--delete-emptydir-data", "--timeout=60s")
            status = tenant.wait(
                "model", lambda now: condition(now, "Progressing").get("reason") == "Unschedulable", 60
            )
            assert "unschedulable" in condition(status, "Progressing")["message"]
            assert condition(status, "Failed")["status"] == "False"
        bucket.proxy.pace.rate = None
        status = assert_settled(tenant, "model", content)
    assert status["progress"]["reusedBytes"] > 0
    assert "Failed" not in seen.phases


@pytest.mark.scenario("CRD upgraded with objects present, one of them fetching")
def test_an_upgrade_of_the_crd_leaves_what_is_ready_alone_and_disturbs_no_fetch(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    tenant.claim("data")
    there = shards(1 << 20)
    bucket.put(there)
    tenant.fetch("there", bucket.source())
    tenant.wait_for_phase("there", "Ready")
    content = put_slow(bucket, SIZE, seconds=30)
    tenant.fetch("model", bucket.source())
    await_bytes(bucket, content.size * 0.3)
    before = version_of(tenant, "there")
    patch(kubectl, f'[{{"op": "add", "path": "{FIELD}", "value": {{"type": "string"}}}}]')
    try:
        progress = tenant.status("model")["progress"]["completedBytes"]
        tenant.wait("model", lambda seen: seen["progress"]["completedBytes"] > progress)
        bucket.proxy.pace.rate = None
        tenant.wait_for_phase("model", "Ready")
        # The new field can be used, and no word is lost of what was there.
        tenant.kubectl.run(
            "patch", "datafetch", "there", "--namespace", tenant.namespace, "--type=merge", "--patch", '{"spec": {}}'
        )
        assert version_of(tenant, "there") == before
    finally:
        patch(kubectl, f'[{{"op": "remove", "path": "{FIELD}"}}]')
    status = tenant.wait_for_phase("model", "Ready")
    assert status["attempts"] == 1
    assert tenant.consume("data", "model") == content.digests
    assert version_of(tenant, "there") == before


def patch(kubectl: Kubectl, operations: str) -> None:
    kubectl.run("patch", "crd", DEFINITION, "--type=json", f"--patch={operations}")


def version_of(tenant: Tenant, name: str) -> str:
    """Return the resourceVersion, which every write changes."""
    found = tenant.kubectl.get("datafetch", name, tenant.namespace)
    assert found is not None
    return str(found["metadata"]["resourceVersion"])
