"""The operator is killed or stopped at random moments: nobody but its log can tell. Each of these tests runs alone."""

import random
import time

import pytest

from chaos.record import Record
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow
from e2e.faults.faulting import await_bytes, await_operators, kill_operators, renew_operators
from e2e.faults.settled import assert_settled, watching
from e2e.leader import container, leader, process_of, stopped, wait_for_another_leader, wait_for_restart
from e2e.tenant import Tenant
from e2e.workloads import GATE, find_pod, finish, get_pod, pod, template

pytestmark = pytest.mark.alone

SIZE = 12 << 20
PAUSE_SECONDS = 60.0


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


@pytest.mark.chaos
@pytest.mark.scenario("Leader stopped (SIGSTOP) for 60 s in a fetch, and woken (SIGCONT)")
def test_a_leader_that_wakes_up_after_a_minute_finds_the_fetch_ended_and_writes_nothing(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, chance: random.Random, record: Record
) -> None:
    renew_operators(kubectl)
    content = put_slow(bucket, SIZE, seconds=30, seed=chance.randrange(1 << 16))
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * chance.uniform(0.1, 0.6))
        paused = leader(kubectl)
        restarts = container(kubectl, paused)["restartCount"]
        with stopped(process_of(paused)) as stopped_at:
            record.add("seconds until the takeover", wait_for_another_leader(kubectl, paused) - stopped_at)
            tenant.wait_for_phase("model", "Ready", 120)
            version = resource_version(tenant, "model")
            time.sleep(max(0.0, stopped_at + PAUSE_SECONDS - time.monotonic()))
        assert wait_for_restart(kubectl, paused, restarts)["exitCode"] == 1
        assert resource_version(tenant, "model") == version
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert seen.phases[-1] == "Ready"


def resource_version(tenant: Tenant, name: str) -> str:
    found = tenant.kubectl.get("datafetch", name, tenant.namespace)
    assert found is not None
    return str(found["metadata"]["resourceVersion"])
