"""Download pods that are evicted, deleted, killed, or run out of memory or space."""

import random

import pytest

from chaos.record import Record
from cluster import provider
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow
from e2e.faults.faulting import await_bytes, download_pod, evict, running_container
from e2e.faults.settled import assert_settled, watching
from e2e.tenant import Tenant, condition

SIZE = 12 << 20
TOO_LITTLE = {"limits": {"memory": "24Mi"}, "requests": {"memory": "24Mi"}}
ENOUGH = {"limits": {"memory": "512Mi"}, "requests": {"memory": "128Mi"}}


@pytest.mark.scenario("Download pod evicted, twice")
def test_an_eviction_counts_for_nothing_and_the_next_pod_goes_on(
    tenant: Tenant, bucket: Bucket, chance: random.Random, record: Record
) -> None:
    content = put_slow(bucket, SIZE, seconds=30, seed=chance.randrange(1 << 16))
    tenant.claim("data")
    # With no retry at all, one failure that counted would be the end.
    tenant.fetch("model", bucket.source(), job={"backoffLimit": 0})
    sent = 0.0
    with watching(tenant, "model") as seen:
        for _ in range(2):
            sent += content.size * chance.uniform(0.1, 0.3)
            await_bytes(bucket, sent)
            evict(tenant, download_pod(tenant)["metadata"]["name"])
        bucket.proxy.pace.rate = None
        status = assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert status["progress"]["reusedBytes"] > 0
    record.add("evictions", 2)
    record.add("MiB sent again", (bucket.bytes_read() - content.size) / (1 << 20))


@pytest.mark.chaos
@pytest.mark.scenario("Download pod deleted, deleted by force, or killed")
@pytest.mark.parametrize("how", ["deleted", "forced", "killed"])
def test_a_download_pod_that_goes_is_followed_by_one_that_goes_on(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl, chance: random.Random, record: Record, how: str
) -> None:
    content = put_slow(bucket, SIZE, seconds=60, seed=chance.randrange(1 << 16))
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    with watching(tenant, "model") as seen:
        await_bytes(bucket, content.size * chance.uniform(0.1, 0.6))
        found = download_pod(tenant)
        if how == "killed":
            container = running_container(found)
            assert container is not None
            provider.choose().kill_container(container)
        else:
            force = ("--force", "--grace-period=0") if how == "forced" else ()
            kubectl.run("delete", "pod", found["metadata"]["name"], "--namespace", tenant.namespace, *force)
        bucket.proxy.pace.rate = None
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    record.add(how, 1)


@pytest.mark.scenario("Download out of memory, then given more")
def test_a_download_out_of_memory_says_what_to_raise_and_goes_on_when_it_is(tenant: Tenant, bucket: Bucket) -> None:
    content = put_slow(bucket, SIZE, seconds=1)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), job={"resources": TOO_LITTLE, "backoffLimit": 0})
    status = tenant.wait_for_phase("model", "Failed", 120)
    assert status["lastFailure"]["reason"] == condition(status, "Failed")["reason"] == "OOMKilled"
    assert "spec.job.resources.limits.memory" in status["lastFailure"]["message"]
    assert status["lastFailure"]["message"] in tenant.describe("model")
    tenant.fetch("model", bucket.source(), job={"resources": ENOUGH, "backoffLimit": 0})
    assert_settled(tenant, "model", content, attempts=2)


@pytest.mark.chaos
@pytest.mark.scenario("Claim too small, then grown by its owner")
def test_a_claim_of_the_users_that_grows_starts_the_fetch_again(tenant: Tenant, bucket: Bucket) -> None:
    content = put_slow(bucket, SIZE, seconds=1)
    tenant.claim("data", size="1Mi")
    tenant.fetch("model", bucket.source())
    status = tenant.wait_for_phase("model", "Failed")
    assert status["lastFailure"]["reason"] == "InsufficientSpace"
    for number in (content.size, 1 << 20):
        assert str(number) in status["lastFailure"]["message"]
    tenant.claim("data", size="1Gi")
    assert_settled(tenant, "model", content, attempts=2)
