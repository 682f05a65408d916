"""Azure without keys: workload, managed and service principal's identity, at a server that takes their tokens."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from component.places import STALL_TIMEOUT, by_path, read
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceUnavailableError
from datafetch.sources import Source, open_source
from datafetch_api.config import AzureBlobItem
from servers.emulators import AzureServer, azurite, make_certificates
from servers.entra import CLIENT, TENANT, Entra

DATA = b"forty-two bytes, all of them accounted for"
CONTAINER = "data"


@pytest.fixture(scope="module")
def server() -> Iterator[AzureServer]:
    with azurite(tls=True) as running:
        running.store.create(CONTAINER)
        running.store.put(CONTAINER, "a", DATA)
        yield running


@pytest.fixture
def entra(only_loopback: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entra]:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = make_certificates(tmp_path / "entra")
    with Entra((made.certificate, made.key)) as running:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", running.url)
        yield running


@pytest.fixture
def authorities(server: AzureServer, entra: Entra, tmp_path: Path) -> str:
    """One file with the authorities of both servers, as an organisation has it."""
    assert server.ca_file is not None
    path = tmp_path / "authorities.pem"
    path.write_text(server.ca_file.read_text() + (tmp_path / "entra" / "ca.crt").read_text())
    return str(path)


@contextmanager
def opened(server: AzureServer, authorities: str | None, **settings: Any) -> Iterator[Source]:
    items = [{"container": CONTAINER, "items": [{"path": "."}]}]
    item = {"name": "src", "type": "azure-blob", "items": items, "endpoint_url": server.url, **settings}
    source = open_source(
        AzureBlobItem.model_validate({**item, "ca_bundle_file": authorities}), stall_timeout=STALL_TIMEOUT
    )
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def workload(entra: Entra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the webhook of Azure workload identity gives a pod; the file with its token."""
    token = tmp_path / "azure-identity-token"
    token.write_text(entra.assertion)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(token))
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    return token


def test_a_workload_s_identity_lists_and_reads(
    server: AzureServer, entra: Entra, authorities: str, workload: Path
) -> None:
    with opened(server, authorities) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        assert read(source, entry, 5, 20) == DATA[5:20]
        assert source.look_up(entry) == entry
    assert entra.given == 1, "a token is used until it expires"


def test_a_workload_s_identity_gets_another_token_where_one_has_expired(
    server: AzureServer, entra: Entra, authorities: str, workload: Path
) -> None:
    entra.lifetime = 1
    with opened(server, authorities) as source:
        entry = by_path(source)["a"]
        given = entra.given
        time.sleep(1.1)
        assert read(source, entry) == DATA
        assert entra.given > given


def test_an_identity_that_gets_no_token_is_told_in_entra_s_words(
    server: AzureServer, entra: Entra, authorities: str, workload: Path
) -> None:
    workload.write_text("eyJ.wr0ng-and-secret")
    with opened(server, authorities) as source, pytest.raises(CredentialsRejectedError, match="AADSTS70021") as raised:
        list(source.list())
    assert "workload identity" in str(raised.value)
    assert "wr0ng" not in str(raised.value)


def test_an_authority_that_is_away_is_no_refusal(
    server: AzureServer, entra: Entra, authorities: str, workload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1")
    with opened(server, authorities) as source, pytest.raises(SourceUnavailableError, match="Connection refused"):
        list(source.list())


@pytest.mark.parametrize("client", [None, CLIENT])
def test_a_machine_s_identity_is_asked_of_its_metadata_service(
    server: AzureServer, entra: Entra, authorities: str, monkeypatch: pytest.MonkeyPatch, client: str | None
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.url)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    if client is not None:
        monkeypatch.setenv("AZURE_CLIENT_ID", client)
    with opened(server, authorities) as source:
        assert read(source, by_path(source)["a"]) == DATA
    entra.has_identity = False
    with opened(server, authorities) as source, pytest.raises(CredentialsRejectedError, match="Identity not found"):
        list(source.list())


def test_a_service_principal_in_the_secret(server: AzureServer, entra: Entra, authorities: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    for name, value in (("TENANT_ID", TENANT), ("CLIENT_ID", CLIENT), ("CLIENT_SECRET", entra.client_secret)):
        (secret / f"AZURE_{name}").write_text(value)
    with opened(server, authorities, credentials_dir=str(secret)) as source:
        assert read(source, by_path(source)["a"]) == DATA
    (secret / "AZURE_CLIENT_SECRET").write_text("wr0ng-and-secret")
    wrong = opened(server, authorities, credentials_dir=str(secret))
    with wrong as source, pytest.raises(CredentialsRejectedError, match="AADSTS") as raised:
        list(source.list())
    assert "wr0ng" not in str(raised.value)


def test_keys_and_certificates_go_together(
    server: AzureServer, authorities: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datafetch.sources.azure_blob._RETRIES", {"retry_total": 0})
    (tmp_path / "connection").write_text(server.connection_string)
    settings = {"connection_string_file": str(tmp_path / "connection")}
    with opened(server, authorities, **settings) as source:
        assert read(source, by_path(source)["a"]) == DATA
    with opened(server, None, **settings) as source, pytest.raises(InvalidConfigError, match="ca_bundle_file"):
        list(source.list())


def test_an_identity_s_token_goes_over_https_alone(only_loopback: None) -> None:
    items = [{"container": CONTAINER, "items": [{"path": "."}]}]
    item = {"name": "src", "type": "azure-blob", "items": items, "endpoint_url": "http://127.0.0.1:1/account"}
    with pytest.raises(InvalidConfigError, match="no https"):
        open_source(AzureBlobItem.model_validate(item), stall_timeout=STALL_TIMEOUT)
