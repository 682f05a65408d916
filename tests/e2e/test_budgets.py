"""A limit of downloads, set as an installation does it, by an upgrade of the chart. It holds for all: it runs alone."""

import contextlib
import itertools
from collections.abc import Iterator
from datetime import datetime

import pytest

from deploy import chart
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Json, Tenant, condition

pytestmark = pytest.mark.alone

NAMES = ("first", "second", "third")


def test_one_download_at_a_time_the_others_say_where_they_stand_and_all_get_there(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({f"shard-{n}.bin": random_bytes(1 << 20, n) for n in range(4)})
    tenant.claim("data")
    with limited(kubectl, 1):
        bucket.proxy.pace.rate = 100_000
        for name in NAMES:
            tenant.fetch(name, bucket.source())
            tenant.wait(name, lambda status: "reason" in status)
        tenant.wait_for_phase("first", "Fetching")
        for position, name in enumerate(NAMES[1:], 1):
            status = tenant.wait(name, lambda seen: seen.get("reason") == "Queued")
            assert status["phase"] == "Pending"
            # Whoever asks first may have been alone in the queue.
            words = f"Waits for a free download: 1 of 1 are active; position {position} of "
            assert condition(status, "Progressing")["message"].startswith(words)
            assert "Queued" in tenant.describe(name)
        assert len(tenant.ours("job")) == 1
        bucket.proxy.pace.rate = None
        for name in NAMES:
            tenant.wait_for_phase(name, "Ready")
        assert not overlapping(tenant)
        bucket.proxy.pace.rate = 100_000
        bucket.put({f"shard-{n}.bin": random_bytes(1 << 20, 10 + n) for n in range(3)})
        for name in NAMES[:2]:
            tenant.fetch(name, bucket.source(), refresh={"trigger": "again"})
            tenant.wait(name, lambda status: status["phase"] == "Refreshing")
        status = tenant.wait("second", lambda seen: seen.get("reason") == "Queued")
        assert condition(status, "Ready")["status"] == "True"
        running = tenant.wait("first", lambda seen: seen.get("reason") == "Fetching")["jobRef"]
    status = tenant.wait("second", lambda seen: seen.get("reason") not in ("Queued", None))
    assert tenant.status("first")["jobRef"] == running, "what runs goes on, whatever becomes of the limit"
    bucket.proxy.pace.rate = None
    for name in NAMES[:2]:
        tenant.wait(name, lambda seen: seen.get("lastHandledTrigger") == "again")
        assert tenant.consume("data", name).keys() == digests.keys()


@contextlib.contextmanager
def limited(kubectl: Kubectl, most: int) -> Iterator[None]:
    """Upgrade the release to a limit of downloads, and back."""
    chart.install_chart(kubectl, values={"budgets": {"maxActive": most}})
    try:
        yield
    finally:
        chart.install_chart(kubectl)


def overlapping(tenant: Tenant) -> list[str]:
    """Return the Jobs that began before the one before them had ended."""
    jobs = tenant.kubectl.objects("job", tenant.namespace)
    spans = sorted((_time(job, "startTime"), _time(job, "completionTime"), job["metadata"]["name"]) for job in jobs)
    return [name for (_, ended, _), (began, _, name) in itertools.pairwise(spans) if began < ended]


def _time(job: Json, field: str) -> datetime:
    return datetime.fromisoformat(job["status"][field])
