"""A volume that somebody else fills while it is written to."""

import random

import pytest

from chaos.record import Record
from e2e.conftest import Bucket
from e2e.faults.content import put_slow
from e2e.faults.faulting import await_bytes
from e2e.faults.settled import assert_settled, watching
from e2e.faults.volume import small_volume
from e2e.tenant import Tenant, condition

SIZE = 12 << 20
VOLUME = 20 << 20


@pytest.mark.chaos
@pytest.mark.scenario("Volume filled under way by somebody else")
def test_a_volume_that_is_filled_under_way_fails_with_a_sentence_and_goes_on_from_there(
    tenant: Tenant, bucket: Bucket, chance: random.Random, record: Record
) -> None:
    content = put_slow(bucket, SIZE, seconds=20, seed=chance.randrange(1 << 16))
    with small_volume(tenant, "data", VOLUME) as volume:
        tenant.fetch("model", bucket.source())
        with watching(tenant, "model") as seen:
            await_bytes(bucket, content.size * chance.uniform(0.2, 0.6))
            volume.fill(VOLUME - content.size + (2 << 20))
            status = tenant.wait_for_phase("model", "Failed", 120)
        assert seen.phases.count("Failed") == 1
        assert status["lastFailure"]["reason"] == condition(status, "Failed")["reason"] == "InsufficientSpace"
        assert status["lastFailure"]["message"] in tenant.describe("model")
        assert "artifact" not in status
        assert not [path for path in tenant.consume("data", "") if path.startswith("model/")]
        volume.free()
        bucket.proxy.pace.rate = None
        tenant.fetch("model", bucket.source(), refresh={"trigger": "there is room"})
        status = assert_settled(tenant, "model", content, attempts=1)
        assert status["progress"]["reusedBytes"] > 0
        record.add("MiB sent again", (bucket.bytes_read() - content.size) / (1 << 20))
