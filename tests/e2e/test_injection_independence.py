"""What goes on when a part of DataFetch is away, or changes its certificates. Each of these tests runs alone."""

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from deploy import chart
from deploy.kubectl import Kubectl
from e2e.conftest import Bucket, free_port, random_bytes
from e2e.tenant import Json, Tenant
from e2e.workloads import container, finish, pod, read_of, template, wait_for_pod_phase, wait_until_init_runs

pytestmark = pytest.mark.alone

OPERATOR, WEBHOOK = "datafetch-operator", "datafetch-webhook"
SYSTEM = ("--namespace", chart.NAMESPACE)
SHARED = "ReadWriteMany"
LEAST_RATE = 2.0
"""Pods asked for per second while certificates change."""
SERVED_BEYOND = 5.0
"""Seconds for which the stream goes on after the new certificate is served."""


@contextlib.contextmanager
def away(kubectl: Kubectl, deployment: str) -> Iterator[None]:
    """Scale a Deployment to nothing, and back."""
    before = kubectl.run("get", "deployment", deployment, *SYSTEM, "-o", "jsonpath={.spec.replicas}")
    kubectl.run("scale", "deployment", deployment, "--replicas=0", *SYSTEM)
    try:
        kubectl.run(
            "wait", "--for=delete", "pod", f"--selector={selector(kubectl, deployment)}", *SYSTEM, "--timeout=60s"
        )
        yield
    finally:
        kubectl.run("scale", "deployment", deployment, f"--replicas={before}", *SYSTEM)
        kubectl.run("rollout", "status", f"deployment/{deployment}", *SYSTEM, "--timeout=90s")


def test_without_the_webhook_other_pods_start_and_annotated_ones_are_told_why_they_cannot(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({"big.bin": random_bytes(4 << 20)})
    bucket.proxy.pace.rate = 100_000
    tenant.recipe("model", bucket.source())
    tenant.apply(pod("admitted", template({"fetch": "model"})))
    wait_until_init_runs(tenant, "admitted", "datafetch-get-model")
    with away(kubectl, WEBHOOK):
        refused = tenant.rehearse(pod("late", template({"fetch": "model"})))
        assert refused.returncode != 0
        assert "inject.datafetch.io" in refused.stderr
        plain = template({}, container("true"))
        plain["metadata"]["annotations"] = {"example.org/datafetch.io": "no request", "prometheus.io/scrape": "true"}
        tenant.apply(pod("plain", plain))
        bucket.proxy.pace.rate = None
        assert finish(tenant, "admitted") == digests
        wait_for_pod_phase(tenant, "plain", "Succeeded")
    assert tenant.rehearse(pod("late", template({"fetch": "model"}))).returncode == 0


def test_without_the_operator_pods_are_admitted_and_run_to_their_end(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    digests = bucket.put({f"shard-{n}.bin": random_bytes(1 << 20, n) for n in range(4)})
    bucket.proxy.pace.rate = 100_000
    tenant.claim("data", mode=SHARED)
    tenant.fetch("model", bucket.source())
    tenant.recipe("recipe", bucket.source())
    tenant.wait("model", lambda seen: seen.get("progress", {}).get("completedBytes", 0) > 0)
    tenant.apply(pod("before", template({"fetch": "model"})))
    with away(kubectl, OPERATOR):
        tenant.apply(pod("waits", template({"fetch": "model"})), pod("gets", template({"fetch": "recipe"})))
        bucket.proxy.pace.rate = None
        for name in ("before", "waits", "gets"):
            assert finish(tenant, name) == digests
    tenant.wait_for_phase("model", "Ready")


def test_certificates_change_under_a_stream_of_pods_and_none_is_refused(
    tenant: Tenant, bucket: Bucket, kubectl: Kubectl
) -> None:
    bucket.put({"a.txt": b"a"})
    tenant.recipe("model", bucket.source())
    assert tenant.rehearse(pod("first", template({"fetch": "model"}))).returncode == 0
    old = served_certificates(kubectl)
    authority = setting(kubectl, "DATAFETCH_WEBHOOK_CA_SECRET")
    with stream(tenant, pod("stream", template({"fetch": "model"}))) as asked:
        issued = key_pair(kubectl)
        kubectl.run("delete", "secret", authority, *SYSTEM)
        deadline = time.monotonic() + 200
        while key_pair(kubectl) == issued:
            assert time.monotonic() < deadline, "no new certificate was issued"
            time.sleep(1)
        # kubelet brings a changed Secret to its pods about once a minute, and at once to a pod that has changed.
        kubectl.run("annotate", "pod", f"--selector={selector(kubectl, WEBHOOK)}", *SYSTEM, f"looked-at={time.time()}")
        while served_certificates(kubectl) & old:
            assert time.monotonic() < deadline, "a webhook pod goes on serving the old certificate"
            time.sleep(1)
        time.sleep(SERVED_BEYOND)
    assert not asked.refusals
    assert asked.answers / asked.seconds >= LEAST_RATE
    # Deleted, made anew, and used: the chain that is served now is of the new authority.
    found = kubectl.get("secret", authority, chart.NAMESPACE)
    assert found is not None
    tenant.apply(pod("after", template({"fetch": "model"}, stays=True)))
    assert read_of(tenant, "after", 1)


def setting(kubectl: Kubectl, name: str) -> str:
    """Return a setting of the operator as the chart has written it."""
    found = kubectl.get("deployment", OPERATOR, chart.NAMESPACE)
    assert found is not None
    environment = found["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(str(one["value"]) for one in environment if one["name"] == name)


def key_pair(kubectl: Kubectl) -> str:
    """Return the certificate that the webhook's Secret holds; empty while there is no such Secret."""
    found = kubectl.get("secret", setting(kubectl, "DATAFETCH_WEBHOOK_TLS_SECRET"), chart.NAMESPACE)
    return str(found["data"]["tls.crt"]) if found is not None else ""


def served_certificates(kubectl: Kubectl) -> set[str]:
    """Return what the webhook's pods serve, in PEM."""
    found = set()
    for one in kubectl.objects("pods", chart.NAMESPACE, selector(kubectl, WEBHOOK)):
        port = free_port("127.0.0.1")
        with kubectl.open("port-forward", f"pod/{one['metadata']['name']}", f"{port}:9443", *SYSTEM) as forwarding:
            assert forwarding.stdout is not None
            # Its first line says that it listens.
            forwarding.stdout.readline()
            try:
                found.add(ssl.get_server_certificate(("127.0.0.1", port), timeout=10))
            finally:
                forwarding.terminate()
    return found


def selector(kubectl: Kubectl, deployment: str) -> str:
    """Return the label selector of a Deployment's pods."""
    found = kubectl.get("deployment", deployment, chart.NAMESPACE)
    assert found is not None
    return ",".join(f"{key}={value}" for key, value in found["spec"]["selector"]["matchLabels"].items())


@dataclass
class Asked:
    """What became of a stream of pods."""

    answers: int = 0
    refusals: list[str] = field(default_factory=list)
    seconds: float = 0.0


@contextlib.contextmanager
def stream(tenant: Tenant, manifest: Json) -> Iterator[Asked]:
    """Ask for pods, as dry runs, two at a time and one after another, as long as the block lasts."""
    asked, lock, over = Asked(), threading.Lock(), threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = tenant.rehearse(manifest)
            with lock:
                asked.answers += 1
                if answer.returncode != 0:
                    asked.refusals.append(answer.stderr)
            over.wait(0.2)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join()
        asked.seconds = time.monotonic() - started
