"""A second node that is drained or lost with the download pod on it. Each of these tests runs alone."""

import random
from collections.abc import Iterator

import pytest

from chaos.record import Record
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow
from e2e.faults.faulting import await_bytes, download_pod, lose_second_node, second_node, until
from e2e.faults.settled import assert_settled, watching
from e2e.tenant import Json, Tenant, condition

pytestmark = [pytest.mark.alone, pytest.mark.chaos, pytest.mark.timeout(400)]

SIZE = 12 << 20


@pytest.fixture
def node() -> Iterator[str]:
    """Return a node that may be lost."""
    with second_node() as name:
        yield name


@pytest.mark.scenario("One of two nodes drained")
def test_a_drained_node_s_download_goes_on_at_the_other_one(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, node: str, chance: random.Random, record: Record
) -> None:
    content = put_slow(bucket, SIZE, seconds=30, seed=chance.randrange(1 << 16))
    tenant.claim("data", mode="ReadWriteMany")
    tenant.fetch("model", bucket.source(), job={"backoffLimit": 0, "affinity": preferring(node)})
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * chance.uniform(0.1, 0.6))
        assert node_of(download_pod(tenant)) == node
        only = "--pod-selector=datafetch.io/role=download"
        kubectl.run("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", only, "--timeout=60s")
        assert node_of(download_pod(tenant)) != node
        status = assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert status["progress"]["reusedBytes"] > 0
    record.add("MiB sent again", (bucket.bytes_read() - content.size) / (1 << 20))


@pytest.mark.scenario("One of two nodes lost, as by a loss of power")
def test_a_lost_node_s_download_goes_on_at_the_other_one(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, node: str, chance: random.Random, record: Record
) -> None:
    content = put_slow(bucket, SIZE, seconds=30, seed=chance.randrange(1 << 16))
    tenant.claim("data", mode="ReadWriteMany")
    tenant.fetch("model", bucket.source(), job={"backoffLimit": 0, "affinity": preferring(node)})
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * chance.uniform(0.1, 0.6))
        assert node_of(download_pod(tenant)) == node
        lose_second_node()
        until(lambda: not is_ready(kubectl, node), 90, f"{node} is not Ready")
        assert condition(tenant.status("model"), "Ready")["status"] == "False"
        kubectl.run("delete", "node", node)
        status = assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert status["progress"]["reusedBytes"] > 0
    record.add("MiB sent again", (bucket.bytes_read() - content.size) / (1 << 20))


def preferring(node: str) -> Json:
    """Return an affinity to a node that is not a condition."""
    terms = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
    preferred = [{"weight": 100, "preference": {"matchExpressions": terms}}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def node_of(pod: Json) -> str:
    return str(pod["spec"]["nodeName"])


def is_ready(kubectl: Kubectl, name: str) -> bool:
    [found] = [one for one in kubectl.objects("nodes") if one["metadata"]["name"] == name]
    return condition(found["status"], "Ready").get("status") == "True"
