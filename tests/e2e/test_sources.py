"""Each provider once, over the whole path; what they can do in depth is the component tests' matter."""

import hashlib

import pytest

from e2e.conftest import Publish, free_port, random_bytes
from e2e.tenant import Json, Tenant
from servers.http import StaticServer
from servers.hub import Hub
from storage import fill, servers

CONTENT = {"config.json": b"{}", "weights/model.safetensors": random_bytes(200_000, 7)}
DIGESTS = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENT.items()}


def arrives(tenant: Tenant, source: Json) -> Json:
    """Fetch a source into a claim and compare what a pod reads there; return the status."""
    tenant.claim("data")
    tenant.fetch("model", {"name": "all", **source})
    status = tenant.wait_for_phase("model", "Ready")
    assert tenant.consume("data", "model") == DIGESTS
    return status


def test_google_cloud_storage(
    tenant: Tenant, publish: Publish, host: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    running = servers.start_fake_gcs_server(tmp_path_factory.mktemp("gcs"), host, free_port(host))
    try:
        store = fill.Gcs(running.url)
        store.create("models")
        for key, content in CONTENT.items():
            store.put("models", f"llama/{key}", content)
        endpoint = publish("gcs", running.url)
        member = {"bucket": "models", "prefix": "llama", "endpoint": endpoint, "anonymous": True}
        arrives(tenant, {"gcs": member})
    finally:
        running.stop()


def test_azure_blob_storage(
    tenant: Tenant, publish: Publish, host: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    running = servers.start_azurite(tmp_path_factory.mktemp("azure"), host, free_port(host))
    try:
        store = fill.Azure(running.url)
        store.create("models")
        for key, content in CONTENT.items():
            store.put("models", f"llama/{key}", content)
        endpoint = f"{publish('azure', running.url)}/{servers.AZURE_ACCOUNT}"
        account = f"AccountName={servers.AZURE_ACCOUNT};AccountKey={servers.AZURE_KEY}"
        connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={endpoint};"
        tenant.secret("azure", AZURE_STORAGE_CONNECTION_STRING=connection)
        member = {"container": "models", "prefix": "llama/"}
        arrives(tenant, {"azureBlob": member, "secretRef": {"name": "azure"}})
    finally:
        running.stop()


def test_a_private_repository_of_the_hub(tenant: Tenant, publish: Publish, host: str) -> None:
    with Hub(host, cdn_host=host) as hub:
        repository = hub.create("org/model", CONTENT, private=True)
        hub.add_token("hf_e2e", "org/model")
        tenant.secret("hub", HF_TOKEN="hf_e2e")
        member = {"repo": "org/model", "endpoint": publish("hub", hub.url)}
        status = arrives(tenant, {"huggingFace": member, "secretRef": {"name": "hub"}})
        assert status["sources"][0]["resolvedRevision"] == repository.head


def test_a_file_of_a_web_server_by_its_uri(tenant: Tenant, publish: Publish, host: str) -> None:
    with StaticServer(host) as server:
        server.put("/files/config.json", CONTENT["config.json"])
        tenant.claim("data")
        tenant.fetch("model", {"name": "one", "uri": f"{publish('web', server.url)}/files/config.json"})
        tenant.wait_for_phase("model", "Ready")
        assert tenant.consume("data", "model") == {"config.json": DIGESTS["config.json"]}
