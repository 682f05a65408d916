"""What is Azure's own: connection strings, keys and tokens, folders; the rest is in `test_source_contract`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from component.places import STALL_TIMEOUT, WRONG_KEY, AzurePlace, by_path, read
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceNotFoundError
from datafetch.sources import Source, open_source
from datafetch_api.config import AzureBlobItem
from servers.faults import FaultProxy
from servers.serving import Request, Response, Server

DATA = b"forty-two bytes, all of them accounted for"


@contextmanager
def opened(container: str, **settings: Any) -> Iterator[Source]:
    items = [{"container": container, "items": [{"path": "."}]}]
    item = AzureBlobItem.model_validate({"name": "src", "type": "azure-blob", "items": items} | settings)
    source = open_source(item, stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


def sas_token(place: AzurePlace) -> str:
    token: str = generate_container_sas(
        place.server.account,
        place.bucket,
        place.server.key,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    return token


@pytest.fixture
def filled(azure: AzurePlace) -> AzurePlace:
    azure.fill({"a": DATA})
    return azure


def test_an_account_key_in_a_file(filled: AzurePlace) -> None:
    settings = {"account": filled.server.account, "account_key_file": filled.secret("key", filled.server.key)}
    with opened(filled.bucket, endpoint_url=filled.server.url, **settings) as source:
        assert read(source, by_path(source)["a"]) == DATA


@pytest.mark.parametrize("mark", ["", "?"])
def test_a_sas_token_in_a_file(filled: AzurePlace, mark: str) -> None:
    token = filled.secret("sas", mark + sas_token(filled))
    with opened(filled.bucket, endpoint_url=filled.server.url, sas_token_file=token) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_a_sas_token_in_a_connection_string(filled: AzurePlace) -> None:
    connection = f"BlobEndpoint={filled.server.url};SharedAccessSignature={sas_token(filled)}"
    with opened(filled.bucket, connection_string_file=filled.secret("cs", connection)) as source:
        assert read(source, by_path(source)["a"]) == DATA


@pytest.mark.parametrize("key", ["connection_string", "AZURE_STORAGE_CONNECTION_STRING"])
def test_a_mounted_secret_holds_the_connection_string(filled: AzurePlace, tmp_path: Path, key: str) -> None:
    (tmp_path / key).write_text(filled.server.connection_string)
    with opened(filled.bucket, credentials_dir=str(tmp_path)) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_a_mounted_secret_holds_account_and_key_or_token(filled: AzurePlace, tmp_path: Path) -> None:
    (tmp_path / "AZURE_STORAGE_ACCOUNT").write_text(filled.server.account)
    (tmp_path / "AZURE_STORAGE_KEY").write_text(filled.server.key)
    settings = {"credentials_dir": str(tmp_path), "endpoint_url": filled.server.url}
    with opened(filled.bucket, **settings) as source:
        assert read(source, by_path(source)["a"]) == DATA
    (tmp_path / "AZURE_STORAGE_KEY").unlink()
    (tmp_path / "AZURE_STORAGE_SAS_TOKEN").write_text(sas_token(filled))
    with opened(filled.bucket, **settings) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_the_environment_is_asked_last(filled: AzurePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", filled.server.connection_string)
    with opened(filled.bucket) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_without_credentials_there_is_a_sentence(azure: AzurePlace) -> None:
    nobody = opened(azure.bucket, account="acc")
    with nobody as source, pytest.raises(CredentialsRejectedError, match="no Azure credentials found"):
        list(source.list())


def test_without_an_account_there_is_a_sentence(azure: AzurePlace) -> None:
    key = azure.secret("key", azure.server.key)
    with pytest.raises(InvalidConfigError, match="account is not named"), opened(azure.bucket, account_key_file=key):
        pass


@pytest.mark.parametrize(
    "content", ["garbage", "AccountName=a;AccountKey=not base64;EndpointSuffix=x", "BlobEndpoint="]
)
def test_a_connection_string_that_cannot_be_used_is_a_config_error(azure: AzurePlace, content: str) -> None:
    path = azure.secret("cs", content)
    with pytest.raises(InvalidConfigError, match="source 'src'"), opened(azure.bucket, connection_string_file=path):
        pass


def test_anonymous_access_needs_a_public_container(filled: AzurePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", filled.server.connection_string)
    anonymous = opened(filled.bucket, endpoint_url=filled.server.url, anonymous=True)
    with anonymous as source, pytest.raises(CredentialsRejectedError):
        list(source.list())


def test_requests_for_bytes_carry_a_token_for_reading_one_container_and_no_key(filled: AzurePlace) -> None:
    host, _, port = filled.server.url.removeprefix("http://").partition("/")[0].partition(":")
    with FaultProxy(host, int(port)) as proxy:
        url = f"{proxy.url}/{filled.server.account}"
        connection = filled.server.connection_string.replace(filled.server.url, url)
        with opened(filled.bucket, connection_string_file=filled.secret("cs", connection)) as source:
            entry = by_path(source)["a"]
            proxy.traffic.clear()
            assert read(source, entry, 5, 20) == DATA[5:20]
            assert read(source, entry) == DATA
        first, second = proxy.traffic.exchanges
    assert first.query["sr"] == "c"
    assert first.query["sp"] == "r"
    assert first.query == second.query, "the token is made once"
    assert first.headers["if-match"] == entry.identity.removeprefix("etag:")
    assert "authorization" not in first.headers


def test_a_token_is_renewed_before_it_expires(filled: AzurePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled.source() as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        token = source._token(filled.bucket)  # type: ignore[attr-defined]  # what goes over the wire, without the wire
        now = time.time()
        monkeypatch.setattr("datafetch.sources.azure_blob.time.time", lambda: now + 2000)
        assert source._token(filled.bucket) == token  # type: ignore[attr-defined]  # as above
        monkeypatch.setattr("datafetch.sources.azure_blob.time.time", lambda: now + 3100)
        assert source._token(filled.bucket) != token  # type: ignore[attr-defined]  # as above


def listing(request: Request) -> Response:
    folder = "<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>"
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Content-Length>{size}</Content-Length><Etag>0x1</Etag>"
        f"<BlobType>BlockBlob</BlobType></Properties>{folder if name == 'dir' else ''}</Blob>"
        for name, size in (("dir", 0), ("dir/a", 5), ("marker/", 0), ("empty", 0))
    )
    body = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'.encode()
    return Response(200, (("Content-Type", "application/xml"),), body, len(body))


def test_folders_are_left_out(azure: AzurePlace) -> None:
    with Server(listing) as server, opened("data", endpoint_url=server.url, anonymous=True) as source:
        assert sorted(by_path(source)) == ["dir/a", "empty"]


def test_a_wrong_key_is_rejected_in_words_without_it(filled: AzurePlace) -> None:
    settings = {"account": filled.server.account, "account_key_file": filled.secret("key", WRONG_KEY)}
    wrong = opened(filled.bucket, endpoint_url=filled.server.url, **settings)
    with wrong as source, pytest.raises(CredentialsRejectedError) as raised:
        list(source.list())
    assert WRONG_KEY not in str(raised.value)
    assert "RequestId" not in str(raised.value)


# --- folders, snapshots, versions, the archive ---


def blob_xml(name: str, size: int, *properties: tuple[str, str]) -> str:
    more = "".join(f"<{tag}>{value}</{tag}>" for tag, value in properties)
    return (
        f"<Blob><Name>{name}</Name><Properties><Content-Length>{size}</Content-Length><Etag>0x1</Etag>"
        f"<BlobType>BlockBlob</BlobType>{more}</Properties></Blob>"
    )


class FakeBlobs(Server):
    """The container `data` with the blob `a`, which may be archived, and its version `V1`."""

    def __init__(self) -> None:
        self.tier: tuple[tuple[str, str], ...] = ()
        """Of `a`: AccessTier, and ArchiveStatus where it is being rehydrated."""
        self.version, self.old = "2026-01-01T00:00:00.1234567Z", b"as it was then"
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Response:
        query = request.exchange.query
        if query.get("comp") == "list":
            blobs = blob_xml("a", len(DATA), *self.tier) + blob_xml("b", len(DATA), ("AccessTier", "Cold"))
            body = f'<?xml version="1.0"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
            return Response(200, (("Content-Type", "application/xml"),), body.encode(), len(body))
        if request.exchange.path == "/data/folder":
            return Response(200, (("ETag", '"0x1"'), ("x-ms-meta-hdi_isfolder", "true")))
        if "versionid" in query:
            if query["versionid"] != self.version:
                return refused(404, "BlobNotFound")
            return Response(200, (("ETag", '"0x0"'), ("x-ms-version-id", self.version)), self.old, len(self.old))
        names = {"AccessTier": "x-ms-access-tier", "ArchiveStatus": "x-ms-archive-status"}
        headers = (("ETag", '"0x1"'), *((names[tag], value) for tag, value in self.tier))
        if request.method == "GET" and dict(self.tier).get("AccessTier") == "Archive":
            return refused(409, "BlobArchived")
        return Response(200, headers, DATA, len(DATA))


def refused(status: int, code: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>This operation is not permitted.</Message></Error>".encode()
    return Response(status, (("x-ms-error-code", code), ("Content-Type", "application/xml")), body, len(body))


@pytest.fixture
def blobs(only_loopback: None) -> Iterator[FakeBlobs]:
    with FakeBlobs() as server:
        yield server


def selecting(*selections: dict[str, Any]) -> dict[str, Any]:
    return {"anonymous": True, "items": [{"container": "data", "items": list(selections)}]}


def test_a_folder_is_no_blob_though_it_answers_like_an_empty_one(blobs: FakeBlobs) -> None:
    folder = selecting({"path": "folder", "target_path": "folder"})
    with opened("data", endpoint_url=blobs.url, **folder) as source, pytest.raises(SourceNotFoundError, match="folder"):
        list(source.list())


@pytest.mark.parametrize("selection", [{"path": "."}, {"path": "a", "target_path": "a"}], ids=["listing", "blob"])
@pytest.mark.parametrize("status", ["", "rehydrate-pending-to-hot"])
def test_an_archived_blob_is_named_before_anything_is_fetched(
    blobs: FakeBlobs, selection: dict[str, Any], status: str
) -> None:
    blobs.tier = (("AccessTier", "Archive"), *([("ArchiveStatus", status)] if status else []))
    with opened("data", endpoint_url=blobs.url, **selecting(selection)) as source:
        with pytest.raises(SourceNotFoundError, match="rehydrate it first") as raised:
            list(source.list())
        assert raised.value.code == 11
        assert not raised.value.retryable
        assert "'a'" in str(raised.value)
        assert ("under way" in str(raised.value)) is bool(status)
        assert not any(e.method == "GET" and e.path == "/data/a" for e in blobs.traffic.exchanges)
        blobs.tier = (("AccessTier", "Hot"),)
        assert read(source, by_path(source)["a"]) == DATA


def test_archived_blobs_that_nobody_asked_for_are_in_nobodys_way(blobs: FakeBlobs) -> None:
    blobs.tier = (("AccessTier", "Archive"),)
    with opened("data", endpoint_url=blobs.url, **selecting({"path": ".", "exclude": ["a"]})) as source:
        assert sorted(by_path(source)) == ["b"]


def test_a_blob_that_was_archived_meanwhile_is_named_too(blobs: FakeBlobs) -> None:
    with opened("data", endpoint_url=blobs.url, anonymous=True) as source:
        entry = by_path(source)["a"]
        blobs.tier = (("AccessTier", "Archive"),)
        with pytest.raises(SourceNotFoundError, match="is archived"):
            read(source, entry)


def test_a_version_is_named_in_every_request(blobs: FakeBlobs) -> None:
    pinned = {"path": "a", "version_id": blobs.version, "target_path": "old"}
    both = selecting(pinned, {"path": "a", "target_path": "new"})
    with opened("data", endpoint_url=blobs.url, **both) as source:
        entries = by_path(source)
        assert {path: read(source, entry) for path, entry in entries.items()} == {"old": blobs.old, "new": DATA}
        assert source.look_up(entries["old"]) == entries["old"]
    missing = selecting({**pinned, "version_id": "2025-01-01T00:00:00.0000000Z"})
    nothing = opened("data", endpoint_url=blobs.url, **missing)
    with nothing as source, pytest.raises(SourceNotFoundError, match="2025-01-01"):
        list(source.list())


def test_a_snapshot_of_a_real_server(filled: AzurePlace) -> None:
    connection = filled.server.connection_string
    with BlobServiceClient.from_connection_string(connection) as service:
        snapshot = str(service.get_blob_client(filled.bucket, "a").create_snapshot()["snapshot"])
    filled.fill({"a": DATA[::-1]})
    pinned = {"path": "a", "snapshot": snapshot, "target_path": "old"}
    with filled.source(pinned, {"path": "a", "target_path": "new"}) as source:
        entries = by_path(source)
        assert snapshot in entries["old"].identity
        assert {path: read(source, entry) for path, entry in entries.items()} == {"old": DATA, "new": DATA[::-1]}
        assert read(source, entries["old"], 5, 20) == DATA[5:20]
        assert source.look_up(entries["old"]) == entries["old"]
    missing = filled.source({**pinned, "snapshot": "2025-01-01T00:00:00.0000000Z"})
    with missing as source, pytest.raises(SourceNotFoundError, match="2025-01-01"):
        list(source.list())
    with pytest.raises(ValueError, match="version_id or snapshot"):
        filled.item({**pinned, "version_id": "x"})


def test_ten_thousand_blobs_come_page_by_page(only_loopback: None) -> None:
    names = [f"{number:05}" for number in range(10_000)]

    def page(request: Request) -> Response:
        start = int(request.exchange.query.get("marker", "0"))
        blobs = "".join(blob_xml(name, 1) for name in names[start : start + 5000])
        following = str(start + 5000) if start + 5000 < len(names) else ""
        listing = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        body = f'<?xml version="1.0"?>{listing}'.encode()
        return Response(200, (("Content-Type", "application/xml"),), body, len(body))

    with Server(page) as server, opened("data", endpoint_url=server.url, anonymous=True) as source:
        assert sorted(by_path(source)) == names
        assert len(server.traffic.exchanges) == 2
