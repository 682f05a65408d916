"""The operator is killed at random moments: nobody but its log can tell. Each of these tests runs alone."""

import random
import time

import pytest

from chaos.record import Record
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow
from e2e.faults.faulting import await_bytes, await_operators, kill_operators, renew_operators
from e2e.faults.settled import assert_settled, watching
from e2e.tenant import Tenant
from e2e.workloads import GATE, find_pod, finish, get_pod, pod, template

pytestmark = pytest.mark.alone

SIZE = 12 << 20


@pytest.mark.scenario("Operator killed (SIGKILL) at its start, in the transfer and after the last byte of a fetch")
@pytest.mark.rounds(7)
def test_killed_again_and_again_the_operator_starts_one_job_and_tells_its_end(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, chance: random.Random, record: Record
) -> None:
    renew_operators(kubectl)
    content = put_slow(bucket, SIZE, seconds=15, seed=chance.randrange(1 << 16))
    tenant.claim("data")
    kills = 0
    try:
        tenant.fetch("model", bucket.source())
        with watching(tenant, "model") as seen:
            time.sleep(chance.uniform(0, 1.5))
            kills += kill_operators(kubectl)
            await_bytes(bucket, content.size * chance.uniform(0.05, 0.95))
            kills += kill_operators(kubectl)
            await_bytes(bucket, content.size)
            time.sleep(chance.uniform(0, 2))
            kills += kill_operators(kubectl)
            assert_settled(tenant, "model", content)
        assert "Failed" not in seen.phases
        assert seen.phases[-1] == "Ready"
    finally:
        await_operators(kubectl)
    record.add("kills", kills)
    record.add("MiB of content", content.size / (1 << 20))
    record.add("MiB sent again", (bucket.bytes_read() - content.size) / (1 << 20))


@pytest.mark.scenario("Operator killed (SIGKILL) while a pod waits by gate")
def test_an_operator_killed_while_a_pod_is_gated_opens_the_gate_when_it_is_back(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, chance: random.Random, record: Record
) -> None:
    renew_operators(kubectl)
    content = put_slow(bucket, SIZE, seconds=30)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.apply(pod("train", template({"fetch": "model", "wait": "gate"})))
    assert get_pod(tenant, find_pod(tenant, "app=consumer"))["spec"]["schedulingGates"] == [{"name": GATE}]
    try:
        await_bytes(bucket, content.size * chance.uniform(0.05, 0.5))
        record.add("kills", kill_operators(kubectl))
        bucket.proxy.pace.rate = None
        assert finish(tenant, "train", 120) == content.digests
        assert_settled(tenant, "model", content)
    finally:
        await_operators(kubectl)
