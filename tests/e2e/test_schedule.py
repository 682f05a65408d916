"""A schedule that comes due by itself brings what is new at the source."""

from datetime import UTC, datetime, timedelta

from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Tenant, condition

INTERVAL = timedelta(minutes=1)
JITTER = INTERVAL / 10


def test_a_run_of_the_schedule_brings_new_data_and_keeps_what_did_not_change(tenant: Tenant, bucket: Bucket) -> None:
    content = {"README.md": b"# hello\n", "data/part-1.bin": random_bytes(300_000, 1)}
    bucket.put(content)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), refresh={"schedule": "* * * * *"})
    first = tenant.wait_for_phase("model", "Ready")
    planned = datetime.fromisoformat(first["nextSyncTime"])
    assert planned - datetime.now(UTC) <= INTERVAL + JITTER
    digests = bucket.put({**content, "README.md": b"# changed\n", "new.txt": b"new"})
    status = tenant.wait(
        "model",
        lambda seen: seen["artifact"]["manifestDigest"] != first["artifact"]["manifestDigest"],
        seconds=(INTERVAL + JITTER).total_seconds() + 45,
    )
    assert datetime.fromisoformat(status["lastScheduleTime"]) == planned
    assert condition(status, "Ready")["status"] == "True"
    assert status["progress"]["reusedBytes"] == len(content["data/part-1.bin"])
    assert tenant.consume("data", "model") == digests
    status = tenant.wait("model", lambda seen: "nextSyncTime" in seen)
    assert datetime.fromisoformat(status["nextSyncTime"]) > planned
