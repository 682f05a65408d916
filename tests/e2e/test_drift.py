"""Drift checks on the cluster: what changes at the source shows, and the data stays Ready until somebody fetches it."""

from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Json, Tenant, condition

DRIFT_CHECK = {"driftCheck": {"schedule": "* * * * *"}}
CHECK_SECONDS = 60 + 15 + 6 + 40
"""Until the next run of every minute, not right after a fetch, put off by a tenth; and for its pod."""


def _checked(status: Json, *, changed: bool) -> bool:
    drift = status.get("drift") or {}
    return drift.get("changed") is changed and not drift.get("failed")


def test_a_change_at_the_source_shows_until_it_is_fetched(tenant: Tenant, bucket: Bucket) -> None:
    content = {"README.md": b"# hello\n", "data/part-1.bin": random_bytes(300_000, 1)}
    bucket.put(content)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), refresh=DRIFT_CHECK)
    first = tenant.wait_for_phase("model", "Ready")
    digest = first["artifact"]["manifestDigest"]
    jobs = tenant.ours("jobs")
    assert "drift" not in first

    status = tenant.wait("model", lambda seen: _checked(seen, changed=False), seconds=CHECK_SECONDS)
    assert status["drift"]["manifestDigest"] == digest
    assert status["drift"]["checkTime"] < status["nextDriftCheckTime"]
    assert condition(status, "UpToDate")["status"] == "True"

    digests = bucket.put({**content, "new.txt": b"new"})
    status = tenant.wait("model", lambda seen: _checked(seen, changed=True), seconds=CHECK_SECONDS)
    up_to_date = condition(status, "UpToDate")
    assert (up_to_date["status"], up_to_date["reason"]) == ("False", "Drifted")
    assert "has 3 files" in up_to_date["message"]
    assert "spec.refresh.trigger" in up_to_date["message"]
    assert (status["phase"], condition(status, "Ready")["status"]) == ("Ready", "True")
    assert status["artifact"] == first["artifact"]
    assert status["attempts"] == first["attempts"]
    assert "Drifted" in tenant.describe("model")
    tenant.wait("model", lambda _: tenant.ours("jobs") == jobs, seconds=20)

    tenant.fetch("model", bucket.source(), refresh={**DRIFT_CHECK, "trigger": "now"})
    status = tenant.wait("model", lambda seen: seen.get("lastHandledTrigger") == "now" and seen["phase"] == "Ready")
    assert condition(status, "UpToDate")["status"] == "True"
    assert "drift" not in status
    assert tenant.consume("data", "model") == digests
