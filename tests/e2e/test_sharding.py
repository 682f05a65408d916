"""Several pods share one download: on the real cluster, over one ReadWriteMany claim."""

import time

from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, random_bytes
from e2e.tenant import Json, Tenant, condition

COUNT = 3
INDEX = "batch.kubernetes.io/job-completion-index"


def shard_pods(tenant: Tenant) -> dict[str, Json]:
    """Return the newest pod of each shard, by its index."""
    pods = tenant.kubectl.objects("pod", tenant.namespace, f"datafetch.io/role=download,{INDEX}")
    ordered = sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    return {pod["metadata"]["labels"][INDEX]: pod for pod in ordered if "deletionTimestamp" not in pod["metadata"]}


def test_three_pods_share_a_download_and_one_that_is_lost_is_replaced_alone(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({f"deep/{number}.bin": random_bytes(1 << 20, number) for number in range(24)})
    digests |= bucket.put({f"small/{number}.txt": random_bytes(100, number) for number in range(60)})
    bucket.proxy.pace.rate = (24 << 20) / 90
    tenant.claim("data", mode="ReadWriteMany")
    tenant.fetch("model", bucket.source(), job={"shards": COUNT})

    seen = tenant.wait("model", lambda status: 3 < (status.get("progress", {}).get("percent") or 0) < 90)
    assert seen["progress"]["totalFiles"] == len(digests), "all shards' files"
    before = shard_pods(tenant)
    assert sorted(before) == ["0", "1", "2"]
    assert condition(seen, "Ready")["status"] == "False"
    kubectl.run("delete", "pod", before["1"]["metadata"]["name"], "--namespace", tenant.namespace)
    bucket.proxy.pace.rate = None
    status = tenant.wait_for_phase("model", "Ready")

    assert tenant.consume("data", "model") == digests
    after = shard_pods(tenant)
    assert after["1"]["metadata"]["uid"] != before["1"]["metadata"]["uid"]
    assert [after[shard]["metadata"]["uid"] for shard in "02"] == [before[shard]["metadata"]["uid"] for shard in "02"]
    assert len(tenant.ours("job")) == 2, "the Indexed Job, and the one that publishes"
    assert status["attempts"] == 1
    assert "lastFailure" not in status
    assert status["artifact"]["files"] == status["progress"]["completedFiles"] == len(digests)
    assert (status["progress"]["percent"], status["progress"]["totalBytes"]) == (100, (24 << 20) + 6000)

    # A refresh brings only what has changed, and its revision is of all shards too.
    digests |= bucket.put({"deep/7.bin": random_bytes(1 << 20, 99)})
    tenant.fetch("model", bucket.source(), job={"shards": 2}, refresh={"trigger": "again"})
    tenant.wait("model", lambda now: now.get("lastHandledTrigger") == "again" and now["phase"] == "Ready")
    status = tenant.status("model")
    assert status["progress"]["reusedBytes"] == status["progress"]["totalBytes"] - (1 << 20)
    assert tenant.consume("data", "model") == digests


def test_a_claim_that_one_node_can_mount_is_refused_until_one_pod_is_enough(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put({"a.txt": b"alpha"})
    tenant.claim("data", mode="ReadWriteOnce")
    tenant.fetch("model", bucket.source(), job={"shards": 2})
    status = tenant.wait("model", lambda seen: condition(seen, "Accepted").get("status") == "False")
    assert condition(status, "Accepted")["reason"] == "InvalidSpec"
    assert "ReadWriteMany" in condition(status, "Accepted")["message"]
    time.sleep(1)
    assert not tenant.ours("job")
    tenant.fetch("model", bucket.source(), job={"shards": 1})
    tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == digests
