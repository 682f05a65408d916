"""A download to which nothing comes any more says so while it runs, and goes on by itself when something comes."""

import time

from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Tenant, condition
from servers.plans import Fault

STALL_SECONDS = 10
PACE_SECONDS = 10


def test_a_source_that_falls_silent_is_told_within_the_stall_timeout(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put({"first.bin": random_bytes(300_000, 1), "second.bin": random_bytes(200_000, 2)})
    bucket.proxy.faults.add(Fault(stall_after=0), times=None, path="*second.bin")
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), transfer={"stallTimeout": f"{STALL_SECONDS}s"})
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes") == 300_000)
    silent_since = time.monotonic()
    status = tenant.wait("model", lambda seen: seen.get("reason") == "Stalled")
    assert time.monotonic() - silent_since < STALL_SECONDS + PACE_SECONDS + 5
    assert status["phase"] == "Fetching"
    assert condition(status, "Progressing")["status"] == "False"
    assert "stallTimeout (10s)" in condition(status, "Progressing")["message"]
    (source,) = status["sources"]
    assert (source["state"], source["completedBytes"]) == ("Fetching", 300_000)
    assert "Stalled" in tenant.describe("model")
    bucket.proxy.faults.clear()
    tenant.wait_for_phase("model", "Ready", 120)
    assert tenant.consume("data", "model") == digests
