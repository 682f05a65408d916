"""Pods that ask for a DataFetch with a target: they wait for it, see why, and read what it brought."""

import pytest

from e2e.conftest import Bucket, random_bytes
from e2e.tenant import CONSUMER_IMAGE, RESTRICTED_CONTAINER, Tenant
from e2e.workloads import (
    GATE,
    checksums,
    checksums_of,
    container,
    cron_job,
    deployment,
    describe_pod,
    find_pod,
    finish,
    get_pod,
    job,
    pod,
    read_log,
    read_of,
    stateful_set,
    template,
    wait_for_words,
    wait_until_init_runs,
)

SHARED = "ReadWriteMany"
CONTENT = {"README.md": b"# hello\n", "data/part-1.bin": random_bytes(300_000, 1)}
WAITER = "datafetch-wait"


def slow(bucket: Bucket, rate: float = 300_000) -> dict[str, str]:
    """Fill the bucket with what takes minutes until its proxy is let go, and return the sha256 of every file."""
    digests = bucket.put({f"shard-{n}.bin": random_bytes(4 << 20, n) for n in range(8)})
    bucket.proxy.pace.rate = rate
    return digests


def test_pods_of_every_kind_wait_in_an_init_container_for_what_is_on_its_way(tenant: Tenant, bucket: Bucket) -> None:
    digests = slow(bucket)
    tenant.claim("data", mode=SHARED)
    tenant.fetch("model", bucket.source())
    request = {"fetch": "model"}
    tenant.apply(
        deployment("web", template(request, stays=True)),
        stateful_set("ring", template(request, stays=True)),
        job("once", template(request)),
        cron_job("nightly", template(request)),
    )
    there = ("--namespace", tenant.namespace)
    tenant.kubectl.run("create", "job", "tonight", "--from=cronjob/nightly", *there)
    stay = [find_pod(tenant, "app=web"), find_pod(tenant, "app=ring")]
    end = [find_pod(tenant, f"batch.kubernetes.io/job-name={name}") for name in ("once", "tonight")]
    for name in (*stay, *end):
        wait_until_init_runs(tenant, name, WAITER)
    wait_for_words(tenant, stay[0], "WaitingForData", "model")
    tenant.wait("model", lambda seen: seen.get("consumers", {}).get("count") == 4, 30)
    bucket.proxy.pace.rate = None
    for name in end:
        assert finish(tenant, name) == digests
    for name in stay:
        assert read_of(tenant, name, len(digests)) == digests
    tenant.wait(
        "model", lambda seen: {one["phase"] for one in seen.get("consumers", {}).get("pods", [])} == {"Started"}, 60
    )


def test_a_gated_job_holds_no_node_until_the_data_is_there(tenant: Tenant, bucket: Bucket) -> None:
    digests = slow(bucket)
    tenant.claim("data")
    tenant.fetch("model", bucket.source())
    # A claim that one node mounts: without a word about waiting it is the gate.
    tenant.apply(job("train", template({"fetch": "model"})))
    name = find_pod(tenant, "batch.kubernetes.io/job-name=train")
    gated = get_pod(tenant, name)
    assert gated["spec"]["schedulingGates"] == [{"name": GATE}]
    assert "nodeName" not in gated["spec"]
    wait_for_words(tenant, name, "WaitingForData", "model")
    consumers = tenant.wait("model", lambda seen: seen.get("consumers", {}).get("count") == 1, 30)["consumers"]
    assert [(one["name"], one["phase"]) for one in consumers["pods"]] == [(name, "Gated")]
    bucket.proxy.pace.rate = None
    assert finish(tenant, name) == digests
    assert "DataReady" in describe_pod(tenant, name)


def test_a_gate_says_when_its_data_does_not_come_and_opens_when_it_does(tenant: Tenant, bucket: Bucket) -> None:
    tenant.claim("data", mode=SHARED)
    tenant.fetch("model", bucket.source(include=["*.bin"]))
    tenant.apply(pod("train", template({"fetch": "model", "wait": "gate"})))
    tenant.wait_for_phase("model", "Failed")
    # The sentence of the fetch itself: its pattern, and that nothing matched.
    wait_for_words(tenant, "train", "DataNotComing", "*.bin")
    digests = bucket.put({"a.bin": b"a"})
    tenant.fetch("model", bucket.source(include=["*.bin"]), refresh={"trigger": "again"})
    assert finish(tenant, "train") == digests


def test_only_the_named_containers_get_it_and_what_is_ready_is_not_waited_for(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.claim("data")
    tenant.fetch("model", bucket.source(), suspend=True)
    refused = tenant.rehearse(pod("early", template({"fetch": "model", "wait": "none"})))
    assert "not Ready" in refused.stderr
    tenant.fetch("model", bucket.source(), suspend=False)
    tenant.wait_for_phase("model", "Ready")
    request = {"fetch": "model=/models", "containers": "main, prepare", "wait": "none"}
    there = checksums("/models")
    made = template(
        request,
        container(f"{there}; ! touch /models/mine"),
        container("test ! -e /models", name="other"),
        initContainers=[container(there, name="prepare"), container("test ! -e /models", name="check")],
    )
    tenant.apply(pod("reader", made))
    assert finish(tenant, "reader") == digests
    assert checksums_of(read_log(tenant, "reader", "prepare")) == digests
    assert [one["name"] for one in get_pod(tenant, "reader")["spec"]["initContainers"]] == ["prepare", "check"]


def test_several_fetches_in_one_pod_with_its_own_init_container_and_another_user(
    tenant: Tenant, bucket: Bucket
) -> None:
    digests = bucket.put(CONTENT)
    tenant.claim("data", mode=SHARED)
    tenant.claim("more", mode=SHARED)
    tenant.fetch("one", bucket.source(include=["**/*.md"]))
    tenant.fetch("two", bucket.source(include=["**/*.bin"]))
    tenant.fetch("three", bucket.source(include=["**/*.md"]), claim="more", path="deep/three")
    tenant.recipe("four", bucket.source(include=["**/*.bin"]))
    own = {
        "name": "own",
        "image": CONSUMER_IMAGE,
        "command": ["sh", "-ec", "id -u"],
        "securityContext": RESTRICTED_CONTAINER,
    }
    other_user = {**RESTRICTED_CONTAINER, "runAsUser": 2345, "runAsGroup": 2345, "readOnlyRootFilesystem": True}
    made = template(
        {"fetch": "one, two=/second, three, four", "mount_path": "/models"},
        container(f"id -u; {checksums('/models')}; {checksums('/second')}", securityContext=other_user),
        initContainers=[own],
        securityContext={"runAsNonRoot": True, "fsGroup": 3456, "seccompProfile": {"type": "RuntimeDefault"}},
    )
    made["spec"]["initContainers"][0]["securityContext"] = {**RESTRICTED_CONTAINER, "runAsUser": 4567}
    tenant.apply(pod("reader", made))
    assert finish(tenant, "reader") == {
        "one/README.md": digests["README.md"],
        "three/README.md": digests["README.md"],
        "four/data/part-1.bin": digests["data/part-1.bin"],
        "data/part-1.bin": digests["data/part-1.bin"],
    }
    assert read_log(tenant, "reader").splitlines()[0] == "2345"
    assert read_log(tenant, "reader", "own").strip() == "4567"
    assert [one["name"] for one in get_pod(tenant, "reader")["spec"]["initContainers"]][-1] == "own"


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteOncePod"])
def test_a_pod_that_would_hold_the_claim_away_from_its_download_is_refused(
    tenant: Tenant, bucket: Bucket, mode: str
) -> None:
    bucket.put(CONTENT)
    tenant.claim("data", mode=mode)
    tenant.fetch("model", bucket.source(), suspend=True)
    refused = tenant.rehearse(pod("early", template({"fetch": "model", "wait": "init"})))
    assert refused.returncode != 0
    assert "gate" in refused.stderr
    assert "data" in refused.stderr
