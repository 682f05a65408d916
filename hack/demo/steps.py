"""The demonstration, step by step; each says what it does and how long it took."""

import contextlib
import time
from collections.abc import Iterator

from cluster import provider
from cluster.api import Object
from cluster.errors import ClusterError
from demo import consumer, content, place, removal, view
from demo.tools import run_tool
from deploy import chart, kubectl, storage
from deploy.kubectl import Kubectl
from storage import servers

_FETCH_SECONDS = 600


def run(*, keep: bool) -> None:
    """Do all of it. Raises at the first step that fails."""
    started = time.monotonic()
    with _step("A Kubernetes cluster"):
        run_tool("cluster", "up")
    client = kubectl.of_cluster()
    with _step("The operator's and the downloader's images"):
        run_tool("images", "build")
        run_tool("images", "load")
    with _step("S3, GCS and Azure storage servers with real files in them"):
        items = _serve_storage(client)
    with _step(f"The chart, installed with helm into {chart.NAMESPACE}"):
        chart.install_chart(client)
    with _step(f"Namespace {place.NAMESPACE} (enforces `restricted`), with the sources' credentials in Secrets"):
        _prepare_namespace(client, keep=keep)
    with _step("kubectl apply -f examples/datafetch.yaml"):
        client.run("apply", "--namespace", place.NAMESPACE, "-f", str(place.MANIFEST))
        view.follow(client, place.NAMESPACE, place.FETCH, _FETCH_SECONDS)
    with _step("A pod mounts the claim read-only and checksums every file; compared with the sources"):
        _check(consumer.checksums(client), items)
    with _step("A Deployment asks for the same by annotation on its pods, and checksums what it finds there"):
        _check(consumer.checksums_of_deployment(client), items)
    print(f"\nDone in {time.monotonic() - started:.0f} s.\n{_farewell(client)}", flush=True)


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"\n==> {title}", flush=True)
    started = time.monotonic()
    try:
        yield
    finally:
        print(f"    ({time.monotonic() - started:.1f} s)", flush=True)


def _serve_storage(client: Kubectl) -> list[content.Item]:
    run_tool("storage", "install")
    # From nothing: what an earlier run stored would be fetched too.
    removal.remove_servers()
    addresses = servers.Addresses(provider.choose().host_ip())
    servers.up(place.servers_state(), addresses)
    items = content.items()
    size = content.upload(items, addresses)
    print(f"    {len(items)} objects, {size / 1e6:.0f} MB: Python's standard library and {_largest(items)}")
    endpoints = storage.publish_storage(client, addresses)
    print(f"    in the cluster: {endpoints.s3}, {endpoints.gcs}, {endpoints.azure}")
    return items


def _largest(items: list[content.Item]) -> str:
    largest = max(items, key=lambda item: item.file.stat().st_size).file
    return f"{largest.name} ({largest.stat().st_size / 1e6:.0f} MB)"


def _prepare_namespace(client: Kubectl, *, keep: bool) -> None:
    if not keep:
        client.delete("namespace", place.NAMESPACE)
    client.ensure_namespace(place.NAMESPACE)
    s3 = {"AWS_ACCESS_KEY_ID": servers.S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": servers.S3_SECRET_KEY}
    azure = {"AZURE_STORAGE_CONNECTION_STRING": _azure_connection()}
    client.apply(_secret("s3", s3), _secret("azure", azure))


def _azure_connection() -> str:
    inside = f"http://azure.{storage.NAMESPACE}.svc/{servers.AZURE_ACCOUNT}"
    account = f"AccountName={servers.AZURE_ACCOUNT};AccountKey={servers.AZURE_KEY}"
    return f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={inside};"


def _secret(name: str, data: dict[str, str]) -> Object:
    metadata = {"name": name, "namespace": place.NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def _check(found: dict[str, str], items: list[content.Item]) -> None:
    if differences := consumer.compare(found, items):
        raise ClusterError("The volume does not hold what the sources do: " + "; ".join(differences))
    left_out = sum(item.arrives_at is None for item in items)
    print(
        f"    {len(found)} files, each as in its source (SHA-256); {left_out} objects left out by include and exclude"
    )


def _farewell(client: Kubectl) -> str:
    return f"""
Look around:
  export KUBECONFIG={client.kubeconfig} PATH={client.program.parent}:$PATH
  kubectl get datafetch --all-namespaces
  kubectl describe datafetch {place.FETCH} --namespace {place.NAMESPACE}
  kubectl get pvc,jobs,deployments,pods --namespace {place.NAMESPACE}
  kubectl logs --selector=app.kubernetes.io/component=operator --namespace {chart.NAMESPACE}
Remove it, with the cluster and the storage servers:
  make demo-clean"""
