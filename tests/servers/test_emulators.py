"""The providers' own SDKs read from the storage servers what was put there without them, directly and by a proxy."""

import base64
import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import botocore.config
import botocore.exceptions
import google_crc32c
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError
from azure.storage.blob import BlobServiceClient
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage

from servers.emulators import AzureServer, GcsServer, S3Server, azurite, fake_gcs_server, make_certificates, versitygw
from servers.faults import FaultProxy
from servers.plans import Fault

DATA = bytes(range(256)) * 8192  # 2 MiB
KEY = "dir/sp ace+&=ü%.bin"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with versitygw() as server:
        fill(server.store.create, server.store.put)
        yield server


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    with fake_gcs_server() as server:
        fill(server.store.create, server.store.put)
        yield server


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureServer]:
    with azurite() as server:
        fill(server.store.create, server.store.put)
        yield server


def fill(create: Callable[[str], None], put: Callable[[str, str, bytes], str]) -> None:
    create("training")
    put("training", KEY, DATA)
    put("training", "empty", b"")


@contextmanager
def s3_client(server: S3Server, url: str | None = None, verify: Path | None = None) -> Iterator[boto3.client]:
    client = boto3.client(
        "s3",
        endpoint_url=url or server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
        verify=str(verify) if verify else None,
        config=botocore.config.Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )
    try:
        yield client
    finally:
        client.close()


def gcs_client(monkeypatch: pytest.MonkeyPatch, url: str) -> google_storage.Client:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]  # google-auth has no types here
    return google_storage.Client(project="datafetch", credentials=anonymous)


def test_boto3_finds_keys_etags_and_checksums(s3: S3Server) -> None:
    with s3_client(s3) as client:
        rows = client.list_objects_v2(Bucket="training")["Contents"]
        expected = f'"{hashlib.md5(DATA).hexdigest()}"'
        assert [(row["Key"], row["Size"]) for row in rows] == [(KEY, len(DATA)), ("empty", 0)]
        assert rows[0]["ETag"] == expected
        found = client.get_object(Bucket="training", Key=KEY, ChecksumMode="ENABLED")
        assert found["Body"].read() == DATA
        assert found["ChecksumCRC32"] == base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()
        part = client.get_object(Bucket="training", Key=KEY, Range="bytes=5-8", IfMatch=expected)
        assert part["Body"].read() == DATA[5:9]
        with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
            client.get_object(Bucket="training", Key=KEY, IfMatch='"other"')


def test_a_multipart_object_has_an_etag_that_is_no_md5(s3: S3Server) -> None:
    parts = [bytes([1]) * (5 << 20), b"tail"]
    tag = s3.store.put_in_parts("training", "parts", parts)
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    assert tag == f"{hashlib.md5(digests).hexdigest()}-2"
    with s3_client(s3) as client:
        assert client.head_object(Bucket="training", Key="parts")["ETag"] == f'"{tag}"'
        assert client.get_object(Bucket="training", Key="parts")["Body"].read() == b"".join(parts)
        s3.store.delete("training", "parts")


def test_an_old_version_stays_readable_in_a_versioned_bucket(s3: S3Server) -> None:
    s3.store.create("versioned")
    s3.store.enable_versioning("versioned")
    s3.store.put("versioned", "a", b"old")
    with s3_client(s3) as client:
        version = client.head_object(Bucket="versioned", Key="a")["VersionId"]
        s3.store.put("versioned", "a", b"new")
        assert client.get_object(Bucket="versioned", Key="a", VersionId=version)["Body"].read() == b"old"


def test_s3_over_tls_is_trusted_by_its_authority_only() -> None:
    with versitygw(tls=True) as server:
        server.store.create("training")
        server.store.put("training", "a", b"secret")
        with s3_client(server, verify=server.ca_file) as client:
            assert client.get_object(Bucket="training", Key="a")["Body"].read() == b"secret"
        with s3_client(server) as client, pytest.raises(botocore.exceptions.SSLError):
            client.get_object(Bucket="training", Key="a")


def test_signed_requests_pass_a_proxy_in_both_directions(s3: S3Server) -> None:
    with proxy_to(s3.url) as proxy, s3_client(s3, proxy.url) as client:
        client.put_object(Bucket="training", Key="up/load", Body=DATA)
        assert client.get_object(Bucket="training", Key="up/load")["Body"].read() == DATA
        assert client.list_objects_v2(Bucket="training", Prefix="up/")["KeyCount"] == 1
        client.delete_object(Bucket="training", Key="up/load")
        assert proxy.statistics()["requests"] == 4
        assert proxy.traffic.exchanges[1].sent == len(DATA)


def test_signed_requests_pass_a_proxy_that_ends_tls(s3: S3Server, tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    host, port = s3.url.removeprefix("http://").split(":")
    with (
        FaultProxy(host, int(port), certificate=(made.certificate, made.key)) as proxy,
        s3_client(s3, proxy.url, verify=made.ca_file) as client,
    ):
        # Over TLS boto3 uploads in chunked transfer coding with a checksum behind the body.
        client.put_object(Bucket="training", Key="up/tls", Body=DATA)
        assert client.get_object(Bucket="training", Key="up/tls")["Body"].read() == DATA
        client.delete_object(Bucket="training", Key="up/tls")
        assert "chunked" in proxy.traffic.exchanges[0].headers.get("transfer-encoding", "")


def test_a_proxy_makes_s3_slow_down_and_boto3_tries_again(s3: S3Server) -> None:
    with proxy_to(s3.url) as proxy:
        proxy.faults.add(Fault(status=503, retry_after="0"))
        proxy.pace.rate = 10e6
        started = time.monotonic()
        with s3_client(s3, proxy.url) as client:
            assert client.get_object(Bucket="training", Key=KEY)["Body"].read() == DATA
        assert time.monotonic() - started > 0.15
        assert [exchange.status for exchange in proxy.traffic.exchanges] == [503, 200]


def test_the_google_client_finds_generations_and_checksums(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with gcs_client(monkeypatch, gcs.url) as client:
        blobs = {blob.name: blob for blob in client.list_blobs("training")}
        assert set(blobs) == {KEY, "empty"}
        found = blobs[KEY]
        assert found.crc32c == base64.b64encode(google_crc32c.value(DATA).to_bytes(4, "big")).decode()
        assert found.md5_hash == base64.b64encode(hashlib.md5(DATA).digest()).decode()
        assert found.download_as_bytes(start=5, end=8) == DATA[5:9]
        old = client.bucket("training").blob(KEY, generation=found.generation)
        gcs.store.put("training", KEY, DATA[::-1])
        assert old.download_as_bytes() == DATA
        gcs.store.put("training", KEY, DATA)


def test_google_downloads_go_through_the_advertised_proxy(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_to(gcs.url) as proxy, gcs_client(monkeypatch, proxy.url) as client:
        gcs.advertise(proxy.url)
        for blob in client.list_blobs("training", prefix="dir/"):
            assert blob.download_as_bytes() == DATA
        assert len(DATA) in [exchange.sent for exchange in proxy.traffic.exchanges]
        gcs.advertise(gcs.url)


def test_the_azure_client_finds_etags_and_md5(azure: AzureServer) -> None:
    with proxy_to(azure.url) as proxy:
        url = azure.url.replace(azure.url.split("/")[2], f"{proxy.host}:{proxy.port}")
        for endpoint in (azure.url, url):
            with BlobServiceClient(endpoint, credential=azure.key) as service:
                container = service.get_container_client("training")
                rows = {blob.name: blob for blob in container.list_blobs()}
                assert set(rows) == {KEY, "empty"}
                assert rows[KEY].content_settings.content_md5 == bytearray(hashlib.md5(DATA).digest())
                blob = container.get_blob_client(KEY)
                assert blob.download_blob(offset=5, length=4).readall() == DATA[5:9]
                assert blob.download_blob().readall() == DATA
                with pytest.raises(ResourceModifiedError):
                    blob.download_blob(etag="other", match_condition=MatchConditions.IfNotModified).readall()
        assert proxy.traffic.bytes_sent > len(DATA)


def proxy_to(url: str) -> FaultProxy:
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    return FaultProxy(host, int(port))
