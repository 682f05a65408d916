"""Pods that download for themselves: recipes and sources that stand in their annotations."""

import time
from collections.abc import Iterator

import pytest

from deploy import storage
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, random_bytes
from e2e.tenant import SECRET, Json, Tenant
from e2e.workloads import (
    SMALL,
    checksums,
    container,
    deployment,
    describe_pod,
    find_pod,
    finish,
    job,
    pod,
    pods_of,
    read_log,
    read_of,
    template,
    wait_for_pod_phase,
    wait_for_words,
    wait_until_init_runs,
)
from servers.http import StaticServer
from servers.plans import Fault

CONTENT = {"README.md": b"# hello\n", "data/part-1.bin": random_bytes(300_000, 1)}
SHARED = "ReadWriteMany"
CROWD = 50


@pytest.fixture
def web(kubectl: Kubectl, host: str, tenant: Tenant) -> Iterator[tuple[StaticServer, str]]:
    """Run a web server, and give it a name in the test's namespace."""
    with StaticServer(host) as server:
        port = int(server.url.rpartition(":")[2])
        yield server, storage.publish(kubectl, "web", host, port, tenant.namespace)


def inline(bucket: Bucket) -> str:
    """Return a downloader config as it stands in an annotation."""
    return f"""
download_items:
  - type: s3
    name: objects
    endpoint_url: {bucket.endpoint}
    access_key_id_file: AWS_ACCESS_KEY_ID
    secret_key_file: AWS_SECRET_ACCESS_KEY
    items:
      - bucket: {bucket.name}
        items:
          - path: data/
            target_path: from/$(HOME)/$$x
"""


def test_a_recipe_is_downloaded_into_the_pods_own_volume_and_tells_how_far_it_is(
    tenant: Tenant, bucket: Bucket
) -> None:
    digests = bucket.put({f"shard-{n}.bin": random_bytes(2 << 20, n) for n in range(8)})
    bucket.proxy.pace.rate = 1 << 20
    tenant.recipe("model", bucket.source())
    assert tenant.wait_for_phase("model", "Recipe")
    tenant.apply(deployment("web", template({"fetch": "model", "size": "64Mi"}, stays=True)))
    name = find_pod(tenant, "app=web")

    def downloads(status: Json) -> bool:
        pods = status.get("consumers", {}).get("pods", [])
        return any(
            one["name"] == name and one["phase"] == "Fetching" and 0 < one.get("percent", 0) < 100 for one in pods
        )

    tenant.wait("model", downloads, 60)
    assert '"datafetch":"v1"' in read_log(tenant, name, "datafetch-get-model").replace(" ", "")
    bucket.proxy.pace.rate = None
    assert read_of(tenant, name, len(digests)) == digests
    # Who only restarts starts with what is there, also while the source is down.
    bucket.proxy.faults.add(Fault(status=500), times=1000)
    before = bucket.bytes_read()
    # Its answer is lost where the container ends before it: judged by what comes of it.
    tenant.kubectl.attempt("exec", name, "-c", "main", "--namespace", tenant.namespace, "--", "sh", "-c", "kill -9 -1")
    deadline = time.monotonic() + 60
    while not _restarted(tenant, name):
        assert time.monotonic() < deadline, describe_pod(tenant, name)
        time.sleep(0.5)
    assert read_of(tenant, name, len(digests)) == digests
    assert bucket.bytes_read() == before


def _restarted(tenant: Tenant, name: str) -> bool:
    found = tenant.kubectl.get("pod", name, tenant.namespace)
    assert found is not None
    main = found["status"]["containerStatuses"][0]
    return bool(main["restartCount"] > 0 and "running" in main["state"])


def test_a_volume_that_is_too_small_is_said_once_and_nothing_is_evicted(tenant: Tenant, bucket: Bucket) -> None:
    bucket.put({"big.bin": random_bytes(3 << 20)})
    tenant.recipe("model", bucket.source())
    tenant.apply(deployment("web", template({"fetch": "model", "size": "1Mi"}, stays=True)))
    name = find_pod(tenant, "app=web")
    said = wait_for_words(tenant, name, "DownloadFailed", str(3 << 20), str(1 << 20), seconds=60)
    assert "Evicted" not in said
    time.sleep(3)
    assert [one["metadata"]["name"] for one in pods_of(tenant, "app=web")] == [name]
    assert "Evicted" not in tenant.kubectl.run("get", "events", "--namespace", tenant.namespace)


@pytest.mark.timeout(420)
def test_fifty_pods_at_once_on_one_claim_share_one_download(tenant: Tenant, bucket: Bucket) -> None:
    contents = {f"shard-{n}.bin": random_bytes(2 << 20, n) for n in range(4)}
    digests = bucket.put(contents)
    bucket.proxy.pace.rate = 1 << 20
    tenant.claim("shared", mode=SHARED)
    tenant.recipe("model", bucket.source())
    request = {"fetch": "model", "volume": "shared", "path": "models/llama", **SMALL}
    tenant.apply(job("crowd", template(request), pods=CROWD))
    selector = "batch.kubernetes.io/job-name=crowd"
    complete = ("wait", "--for=condition=Complete", "job/crowd", "--namespace", tenant.namespace)
    tenant.kubectl.run(*complete, "--timeout=240s")
    assert bucket.bytes_read() == sum(map(len, contents.values()))
    logs = ("logs", f"--selector={selector}", "--container=main", "--tail=-1", f"--max-log-requests={CROWD}")
    lines = tenant.kubectl.run(*logs, "--namespace", tenant.namespace).splitlines()
    assert sorted(lines) == sorted(f"{digest}  ./{name}" for name, digest in digests.items() for _ in range(CROWD))
    # One that comes when the source is gone finds what they left.
    bucket.proxy.faults.add(Fault(status=500), times=1000)
    tenant.apply(pod("late", template(request)))
    assert finish(tenant, "late") == digests


def test_a_uri_needs_no_resource(tenant: Tenant, web: tuple[StaticServer, str]) -> None:
    server, url = web
    for path, content in CONTENT.items():
        server.put(f"/files/{path}", content)
    uris = f"{url}/files/README.md\n{url}/files/data/part-1.bin weights\n"
    made = template(
        {"uri": uris, "mount_path": "/models", "read_only": "false"},
        container(f"{checksums('/models')}; echo mine >/models/note"),
    )
    tenant.apply(pod("reader", made))
    found = finish(tenant, "reader")
    assert sorted(found) == ["README.md", "weights/part-1.bin"]
    assert '"datafetch":"v1"' in read_log(tenant, "reader", "datafetch-inline").replace(" ", "")


def test_a_config_in_the_annotation_reads_its_secret_and_shows_nothing_of_it(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.recipe("docs", bucket.source(include=["**/*.md"]))
    made = template({"fetch": "docs=/docs", "config": inline(bucket), "secret": SECRET}, container(_both()))
    tenant.apply(pod("reader", made))
    assert finish(tenant, "reader") == {
        "from/$(HOME)/$$x/part-1.bin": digests["data/part-1.bin"],
        "README.md": digests["README.md"],
    }
    found = tenant.kubectl.get("secret", SECRET, tenant.namespace)
    assert found is not None
    shown = tenant.kubectl.run("get", "pod", "reader", "-o", "yaml", "--namespace", tenant.namespace)
    assert found["data"]["AWS_SECRET_ACCESS_KEY"] not in shown


def _both() -> str:
    return f"{checksums('/data/inline')}; {checksums('/docs')}"


def test_a_download_that_fails_is_said_in_the_pods_events_and_goes_on_when_its_cause_is_gone(
    tenant: Tenant, bucket: Bucket
) -> None:
    tenant.recipe("model", bucket.source())
    # One that kubelet tries again, and one that is over with its first failure.
    tenant.apply(pod("reader", template({"fetch": "model"}, stays=True)), pod("once", template({"fetch": "model"})))
    for name in ("reader", "once"):
        wait_for_words(tenant, name, "DownloadFailed", bucket.name, seconds=60)
    wait_for_pod_phase(tenant, "once", "Failed")
    digests = bucket.put(CONTENT)
    assert read_of(tenant, "reader", len(digests)) == digests


def test_the_pods_own_init_containers_come_first_where_it_says_so(tenant: Tenant, bucket: Bucket) -> None:
    digests = bucket.put(CONTENT)
    tenant.recipe("model", bucket.source())
    bucket.proxy.pace.rate = 1000
    made = template({"fetch": "model", "after": "own"}, initContainers=[container("true", name="own")])
    tenant.apply(pod("reader", made))
    wait_until_init_runs(tenant, "reader", "datafetch-get-model")
    bucket.proxy.pace.rate = None
    wait_for_pod_phase(tenant, "reader", "Succeeded")
    assert finish(tenant, "reader") == digests
