"""What goes wrong is said in one sentence, where its owner looks, and ends or waits as it should."""

import pytest

from e2e.conftest import Bucket, random_bytes
from e2e.tenant import SECRET, Tenant, condition


def assert_failed(tenant: Tenant, name: str, reason: str, *words: str) -> None:
    """Wait for the failure, and see the same sentence in status and describe."""
    status = tenant.wait_for_phase(name, "Failed")
    failure = status["lastFailure"]
    assert failure["reason"] == reason
    assert condition(status, "Failed")["reason"] == reason
    assert condition(status, "Ready")["status"] == "False"
    for word in words:
        assert word in failure["message"]
    assert failure["message"] in tenant.describe(name)


def test_a_bucket_that_is_not_there_ends_at_once(tenant: Tenant, bucket: Bucket) -> None:
    tenant.claim("data")
    tenant.fetch("model", bucket.source(bucket="no-such-bucket"))
    assert_failed(tenant, "model", "SourceNotFound", "no-such-bucket", "objects")
    assert len(tenant.ours("pod")) == 1


def test_nothing_matched_ends_at_once(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put({"a.txt": b"a"})
    tenant.claim("data")
    tenant.fetch("model", bucket.source(include=["*.safetensors"]))
    assert_failed(tenant, "model", "SourceNotFound", "*.safetensors")


def test_wrong_credentials_end_at_once_and_do_not_show(tenant: Tenant, bucket: Bucket) -> None:
    tenant.secret("wrong", AWS_ACCESS_KEY_ID="datafetch", AWS_SECRET_ACCESS_KEY="not-the-secret-key")
    tenant.claim("data")
    tenant.fetch("model", bucket.source(secret="wrong"))
    assert_failed(tenant, "model", "CredentialsRejected", "objects")
    shown = tenant.describe("model") + tenant.kubectl.run(
        "logs", "--selector=app.kubernetes.io/managed-by=datafetch-operator", "--namespace", tenant.namespace
    )
    assert "not-the-secret-key" not in shown


def test_colliding_sources_are_refused_with_both_names(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put({"a.txt": b"a"})
    tenant.claim("data")
    tenant.fetch("model", bucket.source("one"), bucket.source("two"))
    assert_failed(tenant, "model", "UnsafePath", "'one'", "'two'")


def test_a_claim_that_is_too_small_is_named_with_both_numbers(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put({"big.bin": random_bytes(3 << 20)})
    tenant.claim("data", size="1Mi")
    tenant.fetch("model", bucket.source())
    assert_failed(tenant, "model", "InsufficientSpace", str(3 << 20), str(1 << 20))


def test_a_created_claim_that_is_made_larger_lets_the_fetch_go_on_by_itself(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put({"big.bin": random_bytes(3 << 20)})
    tenant.fetch("model", bucket.source(), create={"size": "1Mi"})
    assert_failed(tenant, "model", "InsufficientSpace", str(3 << 20), str(1 << 20))
    tenant.fetch("model", bucket.source(), create={"size": "1Gi"})
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == digests


def test_a_missing_secret_is_waited_for(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put({"a.txt": b"a"})
    tenant.claim("data")
    tenant.fetch("model", bucket.source(secret="later"))
    status = tenant.wait("model", lambda seen: condition(seen, "Progressing").get("reason") == "SecretNotFound", 60)
    assert status["phase"] == "Pending"
    assert "later" in condition(status, "Progressing")["message"]
    assert "later" in tenant.describe("model")
    found = tenant.kubectl.get("secret", SECRET, tenant.namespace)
    assert found is not None
    tenant.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "later", "namespace": tenant.namespace},
            "data": found["data"],
        }
    )
    tenant.wait_for_phase("model", "Ready", 180)
    assert tenant.consume("data", "model") == digests


def test_a_claim_that_is_not_there_is_waited_for(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put({"a.txt": b"a"})
    tenant.fetch("model", bucket.source())
    status = tenant.wait("model", lambda seen: condition(seen, "TargetReady").get("status") == "False")
    assert condition(status, "TargetReady")["reason"] == "ClaimNotFound"
    assert status["phase"] == "Pending"
    tenant.claim("data")
    tenant.wait_for_phase("model", "Ready")


@pytest.mark.parametrize("change", ["trigger", "spec"])
def test_a_failure_ends_by_a_change(tenant: Tenant, bucket: Bucket, change: str) -> None:
    tenant.claim("data")
    tenant.fetch("model", bucket.source(include=["*.txt"]))
    tenant.wait_for_phase("model", "Failed")
    digests = bucket.put({"a.txt": b"a", "a.md": b"b"})
    if change == "trigger":
        tenant.fetch("model", bucket.source(include=["*.txt"]), refresh={"trigger": "again"})
        expected = {"a.txt": digests["a.txt"]}
    else:
        tenant.fetch("model", bucket.source(include=["*.md"]))
        expected = {"a.md": digests["a.md"]}
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == expected


def test_a_source_that_throttles_slows_the_fetch_and_does_not_end_it(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put({f"part-{number}": random_bytes(10_000, number) for number in range(40)})
    bucket.proxy.max_concurrency = 3
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait_for_phase("model", "Ready", 120)
    assert tenant.consume("data", "model") == digests
