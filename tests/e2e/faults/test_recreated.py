"""A DataFetch that is deleted and created again at once: the same name, another object."""

import pytest

from e2e.conftest import Bucket, random_bytes
from e2e.faults.content import Content, put_slow
from e2e.faults.faulting import await_bytes
from e2e.faults.settled import assert_settled
from e2e.tenant import Tenant

SIZE = 12 << 20


@pytest.mark.scenario("Deleted and created again with the same name within a second")
@pytest.mark.parametrize("when", ["Fetching", "Ready"])
def test_a_fetch_deleted_and_created_again_at_once_is_the_new_one(tenant: Tenant, bucket: Bucket, when: str) -> None:
    content = put_slow(bucket, SIZE, seconds=20)
    extra = {"late.txt": random_bytes(100)}
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    if when == "Ready":
        bucket.proxy.pace.rate = None
        tenant.wait_for_phase("model", "Ready")
        digests = bucket.put(extra)
        content = Content(content.digests | digests, content.size + sum(map(len, extra.values())))
    else:
        await_bytes(bucket, content.size * 0.3)
    tenant.kubectl.run("delete", "datafetch", "model", "--namespace", tenant.namespace, "--wait=false")
    tenant.fetch("model", bucket.source())
    bucket.proxy.pace.rate = None
    assert_settled(tenant, "model", content)
