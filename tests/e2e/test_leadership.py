"""Two replicas of the operator, one of which reconciles. Each of these tests takes it away, so they run alone."""

import os
import signal
import time

import pytest

from deploy import chart
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, random_bytes
from e2e.leader import (
    TAKEOVER_SECONDS,
    container,
    leader,
    process_of,
    stopped,
    wait_for_another_leader,
    wait_for_restart,
)
from e2e.tenant import Tenant

pytestmark = pytest.mark.alone

PAUSE_SECONDS = 20.0


def test_a_leader_that_is_killed_is_replaced_and_the_fetch_ends_well(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({f"shard-{n}.bin": random_bytes(1 << 20, n) for n in range(4)})
    bucket.proxy.pace.rate = 200_000
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    tenant.wait_for_phase("model", "Fetching")
    killed = leader(kubectl)
    killed_at = time.monotonic()
    os.kill(process_of(killed), signal.SIGKILL)
    assert wait_for_another_leader(kubectl, killed) - killed_at < TAKEOVER_SECONDS
    bucket.proxy.pace.rate = None
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == digests
    assert started(tenant, "model") == 1


def test_a_leader_that_was_stopped_wakes_up_and_ends_without_a_write(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({f"shard-{n}.bin": random_bytes(1 << 20, n) for n in range(4)})
    bucket.proxy.pace.rate = 100_000
    for name in ("before", "meanwhile"):
        tenant.claim(name)
    tenant.fetch("before", bucket.source(), claim="before")
    tenant.wait_for_phase("before", "Fetching")
    paused = leader(kubectl)
    restarts = container(kubectl, paused)["restartCount"]
    with stopped(process_of(paused)) as stopped_at:
        tenant.fetch("meanwhile", bucket.source(), claim="meanwhile")
        assert wait_for_another_leader(kubectl, paused) - stopped_at < TAKEOVER_SECONDS
        tenant.wait("meanwhile", lambda status: status.get("attempts") == 1)
        time.sleep(max(0.0, stopped_at + PAUSE_SECONDS - time.monotonic()))
    ended = wait_for_restart(kubectl, paused, restarts)
    assert ended["exitCode"] == 1
    said = kubectl.run("logs", paused, "--previous", "--tail=1", "--namespace", chart.NAMESPACE)
    assert "leads now" in said or "was not renewed" in said
    bucket.proxy.pace.rate = None
    for name in ("before", "meanwhile"):
        tenant.wait_for_phase(name, "Ready")
        assert tenant.consume(name, name) == digests
        assert started(tenant, name) == 1
    assert len(tenant.ours("job")) == 2


def started(tenant: Tenant, fetch: str) -> int:
    """Return how often a fetch was started, by the events that tell it."""
    events = tenant.kubectl.objects("event", tenant.namespace)
    return sum(event["reason"] == "FetchStarted" and event["involvedObject"]["name"] == fetch for event in events)
