"""Sources that go away, come back, slow down or change their keys, and Secrets that are late or change."""

import time

import pytest

from chaos.record import Record
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket
from e2e.faults.content import put_slow, shards
from e2e.faults.faulting import download_pod, until
from e2e.faults.origin import Origin
from e2e.faults.settled import assert_settled, watching
from e2e.tenant import SECRET, Json, Tenant, condition
from servers.plans import Fault

SIZE = 12 << 20
SLOWLY = {"bandwidthLimit": "1Mi"}
NEW_KEYS = {"AWS_ACCESS_KEY_ID": "rotated", "AWS_SECRET_ACCESS_KEY": "rotated-secret-key"}
AWAY_SECONDS = 30.0


def has_begun(seen: Json) -> bool:
    """Return whether bytes have arrived, and not all of them."""
    completed: int = seen.get("progress", {}).get("completedBytes", 0)
    return 1 << 20 < completed < SIZE * 0.9


@pytest.mark.scenario("Credentials rotated in the middle: Secret changed, then the old keys end")
def test_keys_that_are_rotated_in_the_middle_of_a_download_are_picked_up(
    tenant: Tenant, origin: Origin, kubectl: Kubectl
) -> None:
    content = origin.put(shards(SIZE))
    tenant.claim("data")
    tenant.fetch("model", origin.source(SECRET), transfer={"bandwidthLimit": "512Ki"})
    with watching(tenant, "model") as seen:
        tenant.wait("model", lambda now: now.get("progress", {}).get("totalBytes", 0) > 0)
        found = download_pod(tenant)
        tenant.secret(SECRET, **NEW_KEYS)
        await_in_pod(tenant, kubectl, found["metadata"]["name"], NEW_KEYS["AWS_ACCESS_KEY_ID"])
        # The server knows the new keys and no others.
        origin.stop()
        origin.start(NEW_KEYS["AWS_ACCESS_KEY_ID"], NEW_KEYS["AWS_SECRET_ACCESS_KEY"])
        assert tenant.status("model")["phase"] == "Fetching"
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert [one["metadata"]["name"] for one in downloads(tenant)] == [found["metadata"]["name"]]


@pytest.mark.chaos
@pytest.mark.scenario("Source gone for 30 s")
def test_a_source_that_is_away_for_half_a_minute_is_waited_for(tenant: Tenant, origin: Origin, record: Record) -> None:
    content = origin.put(shards(SIZE))
    tenant.claim("data")
    tenant.fetch("model", origin.source(SECRET), transfer=SLOWLY)
    with watching(tenant, "model") as seen:
        tenant.wait("model", has_begun)
        origin.stop()
        time.sleep(AWAY_SECONDS)
        origin.start()
        status = assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    record.add("pods", len(downloads(tenant)))
    record.add("MiB reused", status["progress"]["reusedBytes"] / (1 << 20))


@pytest.mark.chaos
@pytest.mark.timeout(500)
@pytest.mark.scenario("Source gone for good, and back after all")
def test_a_source_that_is_gone_for_good_fails_with_a_sentence_and_publishes_nothing(
    tenant: Tenant, origin: Origin
) -> None:
    content = origin.put(shards(SIZE))
    tenant.claim("data")
    job = {"backoffLimit": 1}
    tenant.fetch("model", origin.source(SECRET), transfer=SLOWLY, job=job)
    with watching(tenant, "model") as seen:
        tenant.wait("model", has_begun)
        origin.stop()
        status = tenant.wait_for_phase("model", "Failed", 280)
        assert seen.phases.count("Failed") == 1
    failure = status["lastFailure"]
    assert (failure["reason"], failure["source"], failure["retryable"]) == ("SourceUnavailable", "objects", True)
    assert failure["message"] in tenant.describe("model")
    assert condition(status, "Ready")["status"] == "False"
    assert "artifact" not in status
    assert not [path for path in tenant.consume("data", "") if not path.startswith(".datafetch/")]
    origin.start()
    tenant.fetch("model", origin.source(SECRET), job=job, refresh={"trigger": "it is back"})
    status = assert_settled(tenant, "model", content)
    assert status["progress"]["reusedBytes"] > 0


@pytest.mark.chaos
@pytest.mark.scenario("Source throttles: 503 with Retry-After")
def test_a_source_that_says_when_to_come_back_is_asked_again_then(tenant: Tenant, bucket: Bucket) -> None:
    content = put_slow(bucket, SIZE, seconds=2)
    bucket.proxy.faults.add(Fault(status=503, retry_after="3"), times=20)
    tenant.claim("data")
    with watching(tenant, "model") as seen:
        tenant.fetch("model", bucket.source())
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases
    assert len(downloads(tenant)) == 1


@pytest.mark.chaos
@pytest.mark.scenario("Secret created after the fetch")
def test_a_secret_that_comes_late_lets_the_fetch_go_on_by_itself(tenant: Tenant, bucket: Bucket) -> None:
    content = put_slow(bucket, SIZE, seconds=1)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(secret="later"))
    with watching(tenant, "model") as seen:
        status = tenant.wait("model", lambda now: condition(now, "Progressing").get("reason") == "SecretNotFound")
        assert status["phase"] == "Pending"
        assert "later" in condition(status, "Progressing")["message"]
        found = tenant.kubectl.get("secret", SECRET, tenant.namespace)
        assert found is not None
        tenant.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "data": found["data"]})
        assert_settled(tenant, "model", content)
    assert "Failed" not in seen.phases


def await_in_pod(tenant: Tenant, kubectl: Kubectl, pod: str, access_key: str) -> None:
    """Wait until kubelet has brought a changed Secret to a pod: at once to one that is changed itself."""
    there = ("--namespace", tenant.namespace)
    kubectl.run("annotate", "pod", pod, *there, f"looked-at={time.time()}")
    show = ("exec", pod, *there, "--", "cat", "/etc/datafetch/secrets/objects/AWS_ACCESS_KEY_ID")
    until(lambda: kubectl.attempt(*show).stdout.strip() == access_key, 90, "the pod has the new keys", 0.5)


def downloads(tenant: Tenant) -> list[Json]:
    return tenant.kubectl.objects("pods", tenant.namespace, "datafetch.io/role=download")
