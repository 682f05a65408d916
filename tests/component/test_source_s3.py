"""What is S3's own: keys from everywhere, addresses, encryption, its codes; the rest is in `test_source_contract`."""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import botocore.session
import pytest
from botocore.config import Config

from component.places import STALL_TIMEOUT, S3Place, by_path, checksum_of, read
from datafetch.engine import run_fetch
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    IntegrityMismatchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, Source, open_source
from datafetch_api.config import DownloadConfig, S3Item
from servers.emulators import versitygw
from servers.faults import FaultProxy
from servers.plans import Fault
from servers.serving import Request, Response, Server

DATA = b"forty-two bytes, all of them accounted for"
MD5 = hashlib.md5(DATA).hexdigest()


@contextmanager
def opened(endpoint: str | None, bucket: str = "data", **settings: object) -> Iterator[Source]:
    selection = {"path": settings.pop("path", ".")}
    item = {"name": "src", "type": "s3", "items": [{"bucket": bucket, "items": [selection]}], **settings}
    if endpoint is not None:
        item["endpoint_url"] = endpoint
    source = open_source(S3Item.model_validate(item), stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


# --- where the keys come from ---


def write_secret(directory: Path, **values: str) -> str:
    directory.mkdir()
    for key, value in values.items():
        (directory / key).write_text(value)
    return str(directory)


@pytest.mark.parametrize(
    ("access", "secret", "endpoint"),
    [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"),
        ("access_key_id", "secret_key", "endpoint"),
    ],
)
def test_a_mounted_secret_holds_keys_endpoint_and_region(
    s3: S3Place, tmp_path: Path, access: str, secret: str, endpoint: str
) -> None:
    s3.fill({"a": DATA})
    keys = {access: s3.server.access_key, secret: s3.server.secret_key, endpoint: s3.server.url, "region": "us-east-1"}
    directory = write_secret(tmp_path / "secret", **keys)
    with opened(None, s3.bucket, credentials_dir=directory) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_without_files_the_sdk_s_own_chain_is_asked(s3: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.fill({"a": DATA})
    with opened(s3.server.url, s3.bucket) as source, pytest.raises(CredentialsRejectedError, match="no credentials"):
        list(source.list())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.server.secret_key)
    with opened(s3.server.url, s3.bucket) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_an_endpoint_in_a_file_is_used(s3: S3Place) -> None:
    s3.fill({"a": DATA})
    item = s3.item(endpoint_url=None, endpoint_url_file=s3.secret("endpoint", s3.server.url))
    source = open_source(item, stall_timeout=STALL_TIMEOUT)
    assert read(source, by_path(source)["a"]) == DATA
    source.close()


def test_one_key_without_the_other_is_a_config_error(tmp_path: Path, only_loopback: None) -> None:
    directory = write_secret(tmp_path / "secret", AWS_ACCESS_KEY_ID="k")
    with (
        pytest.raises(InvalidConfigError, match="AWS_SECRET_ACCESS_KEY is missing"),
        opened("http://127.0.0.1:1", credentials_dir=directory),
    ):
        pass


def test_an_access_key_that_nobody_knows_is_rejected(s3: S3Place) -> None:
    settings = {"access_key_id_file": s3.secret("unknown", "NOBODY"), "secret_key_file": s3.secret("s", "wr0ng-secret")}
    for path in (".", "a"):
        source_with_it = opened(s3.server.url, s3.bucket, path=path, **settings)
        with source_with_it as source, pytest.raises(CredentialsRejectedError, match="check the keys"):
            list(source.list())


def test_anonymous_access_is_unsigned(only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with fake({"a": DATA}) as server, opened(server.url, anonymous=True) as source:
        assert read(source, by_path(source)["a"]) == DATA
        assert not any("authorization" in exchange.headers for exchange in server.traffic.exchanges)


def test_a_session_token_goes_with_every_request(s3: S3Place) -> None:
    settings = {
        "access_key_id_file": s3.secret("k", "ASIAKEY"),
        "secret_key_file": s3.secret("s", "secret-secret"),
        "session_token_file": s3.secret("t", "t0ken-t0ken"),
    }
    with fake({"a": DATA}) as server, opened(server.url, region="eu-north-1", **settings) as source:
        assert read(source, by_path(source)["a"]) == DATA
        for exchange in server.traffic.exchanges:
            assert exchange.headers["x-amz-security-token"] == "t0ken-t0ken"
            assert "/eu-north-1/s3/aws4_request" in exchange.headers["authorization"]
        server.refusals["/data/a"] = (403, "ExpiredToken", "The token t0ken-t0ken has expired")
        with pytest.raises(CredentialsRejectedError) as raised:
            read(source, Entry("data/a", "a", 42, ""))
        assert "t0ken-t0ken" not in str(raised.value)


# --- a server that says what real ones of another kind say ---


class FakeS3(Server):
    def __init__(self, objects: dict[str, bytes], *headers: tuple[str, str]) -> None:
        self.objects = objects
        self.headers = headers
        self.refusals: dict[str, tuple[int, str, str]] = {}
        self.etags: dict[str, str] = {}
        self.listings: list[bytes] = []
        """Answers to the next listings, before the true one."""
        super().__init__(self._answer)

    def _answer(self, request: Request) -> Response:
        path = request.exchange.path
        if path in self.refusals:
            status, code, message = self.refusals[path]
            body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
            return Response(status, (*self.headers, ("Content-Type", "application/xml")), body, len(body))
        if "list-type" in request.exchange.query and self.listings:
            body = self.listings.pop(0)
            return Response(200, (("Content-Type", "application/xml"),), body, len(body))
        if "list-type" in request.exchange.query:
            contents = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{self._etag(key)}</ETag></Contents>"
                for key, data in self.objects.items()
            )
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()
            return Response(200, (("Content-Type", "application/xml"),), body, len(body))
        data = self.objects[path.removeprefix("/data/")]
        return Response(200, (("ETag", self._etag(path.removeprefix("/data/"))), *self.headers), data, len(data))

    def _etag(self, key: str) -> str:
        return self.etags.get(key, f'"{hashlib.md5(self.objects[key]).hexdigest()}"')


@contextmanager
def fake(objects: dict[str, bytes], *headers: tuple[str, str]) -> Iterator[FakeS3]:
    with FakeS3(objects, *headers) as server:
        yield server


@pytest.fixture
def keys(only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("headers", "holds"),
    [
        ((), True),
        ((("x-amz-server-side-encryption", "AES256"),), True),
        ((("x-amz-server-side-encryption", "aws:kms"),), False),
        ((("x-amz-server-side-encryption", "aws:kms:dsse"),), False),
        ((("x-amz-server-side-encryption-customer-algorithm", "AES256"),), False),
    ],
)
def test_an_encrypted_object_s_etag_is_no_checksum(headers: tuple[tuple[str, str], ...], holds: bool) -> None:
    with fake({"a": DATA}, *headers) as server, opened(server.url) as source:
        entry = by_path(source)["a"]
        assert entry.checksum is not None
        assert entry.checksum.value == MD5
        with source.open(entry, ByteRange(0, entry.size)) as reader:
            assert (reader.checksum is not None) is holds


@pytest.mark.usefixtures("keys")
def test_an_object_in_parts_has_no_checksum_but_its_identity(s3: S3Place) -> None:
    part = bytes(5 << 20)
    etag = s3.server.store.put_in_parts(s3.bucket, "parts", [part, b"tail"])
    with s3.source() as source:
        entry = by_path(source)["parts"]
        assert entry.checksum is None
        assert entry.identity.strip('etag:"') == etag.strip('"')
        assert read(source, entry, len(part)) == b"tail"


# --- checksums that objects were stored with ---

CHECKSUMS = {
    "crc32": ChecksumAlgorithm.CRC32,
    "crc32c": ChecksumAlgorithm.CRC32C,
    "crc64nvme": ChecksumAlgorithm.CRC64NVME,
    "sha1": ChecksumAlgorithm.SHA1,
    "sha256": ChecksumAlgorithm.SHA256,
}
PART_BYTES = 5 << 20


def client(place: S3Place) -> Any:
    return botocore.session.get_session().create_client(
        "s3",
        region_name=place.server.region,
        endpoint_url=place.server.url,
        aws_access_key_id=place.server.access_key,
        aws_secret_access_key=place.server.secret_key,
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )


def checksum_field(name: str, data: bytes) -> dict[str, str]:
    """The checksum of some data as a parameter of the SDK."""
    algorithm = CHECKSUMS[name]
    return {f"Checksum{name.upper()}": base64.b64encode(bytes.fromhex(computed(algorithm, data))).decode()}


def computed(algorithm: ChecksumAlgorithm, data: bytes) -> str:
    return checksum_of(Checksum(algorithm, ""), data)


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_that_the_object_was_stored_with_counts_more_than_its_md5(s3: S3Place, name: str) -> None:
    client(s3).put_object(Bucket=s3.bucket, Key="a", Body=DATA, **checksum_field(name, DATA))
    with s3.source() as source:
        entry = by_path(source)["a"]
        assert entry.checksum == Checksum(ChecksumAlgorithm.MD5, MD5)
        with source.open(entry, ByteRange(0, entry.size)) as reader:
            assert reader.checksum == Checksum(CHECKSUMS[name], computed(CHECKSUMS[name], DATA))
        with source.open(entry, ByteRange(5, 10)) as reader:
            assert reader.checksum == entry.checksum, "a small object is no reason for another request"


def store_in_parts(place: S3Place, key: str, parts: list[bytes], name: str, kind: str) -> None:
    """Store an object in parts, with a checksum of all its bytes (FULL_OBJECT) or of its parts' (COMPOSITE)."""
    sdk, where = client(place), {"Bucket": place.bucket, "Key": key}
    upload = sdk.create_multipart_upload(**where, ChecksumAlgorithm=name.upper(), ChecksumType=kind)["UploadId"]
    done = []
    for number, part in enumerate(parts, start=1):
        fields = checksum_field(name, part)
        answer = sdk.upload_part(**where, UploadId=upload, PartNumber=number, Body=part, **fields)
        done.append({"PartNumber": number, "ETag": answer["ETag"], **fields})
    sdk.complete_multipart_upload(**where, UploadId=upload, ChecksumType=kind, MultipartUpload={"Parts": done})


@pytest.mark.parametrize(
    ("name", "kind"), [("crc32", "FULL_OBJECT"), ("crc64nvme", "FULL_OBJECT"), ("crc32", "COMPOSITE")]
)
def test_an_object_in_parts_is_verified_by_the_checksum_of_all_its_bytes(s3: S3Place, name: str, kind: str) -> None:
    parts = [os.urandom(PART_BYTES), b"tail"]
    data = b"".join(parts)
    store_in_parts(s3, "parts", parts, name, kind)
    expected = Checksum(CHECKSUMS[name], computed(CHECKSUMS[name], data)) if kind == "FULL_OBJECT" else None
    with proxied(s3) as proxy, s3.source(endpoint_url=proxy.url) as source:
        entry = by_path(source)["parts"]
        assert entry.checksum is None
        proxy.traffic.clear()
        with source.open(entry, ByteRange(0, entry.size)) as reader:
            assert reader.checksum == expected
        assert [exchange.method for exchange in proxy.traffic.exchanges] == ["GET"]
        # S3 gives no checksum of the object with a range of it: one HEAD tells, however many ranges there are.
        proxy.traffic.clear()
        with ThreadPoolExecutor(4) as pool:

            def ask(start: int) -> Checksum | None:
                with source.open(entry, ByteRange(start, start + 1000)) as reader:
                    return reader.checksum

            assert set(pool.map(ask, range(0, PART_BYTES, PART_BYTES // 8))) == {expected}
        methods = [exchange.method for exchange in proxy.traffic.exchanges]
        assert methods.count("HEAD") == 1
        assert methods.count("GET") == len(methods) - 1


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("status", "code", "fails"), [(403, "AccessDenied", False), (501, "NotImplemented", False), (503, "SlowDown", True)]
)
def test_a_server_that_tells_no_checksum_is_asked_in_vain(s3: S3Place, status: int, code: str, fails: bool) -> None:
    s3.server.store.put_in_parts(s3.bucket, "parts", [bytes(PART_BYTES), b"tail"])
    with proxied(s3) as proxy, s3.source(endpoint_url=proxy.url) as source:
        entry = by_path(source)["parts"]
        proxy.faults.add(Fault(status=status), times=None, methods=("HEAD",))
        if fails:
            with pytest.raises(SourceUnavailableError):
                read(source, entry, PART_BYTES)
        else:
            assert read(source, entry, PART_BYTES) == b"tail"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("x-amz-checksum-type", "FULL_OBJECT"), ("x-amz-checksum-crc32", "AAAAAQ==")), "00000001"),
        ((("x-amz-checksum-type", "COMPOSITE"), ("x-amz-checksum-crc32", "AAAAAQ==-2")), MD5),
        # S3 leaves the number of parts out where a range covers the whole object.
        ((("x-amz-checksum-type", "COMPOSITE"), ("x-amz-checksum-crc32", "AAAAAQ==")), MD5),
        ((("x-amz-checksum-crc32", "AAAAAQ=="),), MD5),
        ((("x-amz-checksum-type", "FULL_OBJECT"), ("x-amz-checksum-crc32", "no base64")), MD5),
        ((("x-amz-checksum-type", "FULL_OBJECT"), ("x-amz-checksum-crc32", "AAAA")), MD5),
        ((("x-amz-checksum-type", "FULL_OBJECT"), ("x-amz-checksum-crc128", "AAAAAQ==")), MD5),
        (
            (
                ("x-amz-server-side-encryption", "aws:kms"),
                ("x-amz-checksum-type", "FULL_OBJECT"),
                ("x-amz-checksum-crc32", "AAAAAQ=="),
            ),
            "00000001",
        ),
        # To a range that is one part S3 gives the part's.
        (
            (
                ("content-range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
                ("x-amz-checksum-type", "FULL_OBJECT"),
                ("x-amz-checksum-crc32", "AAAAAQ=="),
            ),
            MD5,
        ),
    ],
)
def test_only_a_checksum_of_all_bytes_is_taken_for_one(headers: tuple[tuple[str, str], ...], expected: str) -> None:
    with fake({"a": DATA}, *headers) as server, opened(server.url) as source:
        entry = by_path(source)["a"]
        with source.open(entry, ByteRange(0, entry.size)) as reader:
            assert reader.checksum is not None
            assert reader.checksum.value == expected


@pytest.mark.usefixtures("keys")
def test_markers_of_directories_are_left_out() -> None:
    with fake({"dir/": b"", "dir/a": DATA, "b": DATA}) as server, opened(server.url) as source:
        assert sorted(by_path(source)) == ["b", "dir/a"]


@pytest.mark.usefixtures("keys")
def test_odd_keys_crash_nothing() -> None:
    objects = {"a//b": DATA, "../up": DATA, "/lead": DATA, "dot/./x": DATA, "tab\tkey": DATA, " space ": DATA}
    with fake(objects) as server, opened(server.url) as source:
        entries = by_path(source)
        assert sorted(entries) == sorted(objects)
        for entry in entries.values():
            assert read(source, entry) == DATA


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("status", "code", "expected", "said"),
    [
        (400, "ExpiredToken", CredentialsRejectedError, "check the keys"),
        (403, "RequestTimeTooSkewed", CredentialsRejectedError, "check the keys"),
        (403, "InvalidObjectState", SourceNotFoundError, "archived"),
        (503, "SlowDown", SourceUnavailableError, "fewer requests"),
        (400, "AuthorizationHeaderMalformed", InvalidConfigError, "set region to 'eu-north-1'"),
        (301, "PermanentRedirect", InvalidConfigError, "set region to 'eu-north-1'"),
        (403, "KMS.DisabledException", CredentialsRejectedError, "check the keys"),
    ],
)
def test_a_code_of_s3_says_more_than_its_status(
    status: int, code: str, expected: type[DataFetchError], said: str
) -> None:
    with fake({"a": DATA}, ("x-amz-bucket-region", "eu-north-1")) as server, opened(server.url) as source:
        entry = by_path(source)["a"]
        server.refusals["/data/a"] = (status, code, "No.")
        with pytest.raises(expected, match=said) as raised:
            read(source, entry)
        assert f"{status} {code}: No" in str(raised.value)


def test_buckets_of_another_kind_are_refused(only_loopback: None) -> None:
    directory_bucket = opened("http://127.0.0.1:1", "data--use1-az4--x-s3", anonymous=True)
    with directory_bucket as source, pytest.raises(InvalidConfigError, match="directory bucket"):
        list(source.list())


@pytest.mark.parametrize("endpoint", ["minio:9000", "not a url"])
def test_an_endpoint_that_is_no_url_is_a_config_error(only_loopback: None, endpoint: str) -> None:
    with pytest.raises(InvalidConfigError, match="source 'src'"), opened(endpoint, anonymous=True):
        pass


# --- the network ---


def proxied(place: S3Place) -> FaultProxy:
    host, _, port = place.server.url.removeprefix("http://").partition(":")
    return FaultProxy(host, int(port))


def test_a_listing_that_is_throttled_is_asked_for_again(s3: S3Place) -> None:
    s3.fill({"a": DATA})
    with proxied(s3) as proxy, s3.source(endpoint_url=proxy.url) as source:
        proxy.faults.add(Fault(status=503), times=2)
        assert sorted(by_path(source)) == ["a"]
        assert len(proxy.traffic.exchanges) == 3


@pytest.mark.parametrize("path", [".", "a"], ids=["a page", "one object"])
def test_a_listing_waits_as_long_as_a_throttling_server_says(s3: S3Place, path: str) -> None:
    """The SDK gives up after five tries of its own, which do not heed Retry-After."""
    s3.fill({"a": DATA})
    selection = [{"bucket": s3.bucket, "items": [{"path": path}]}]
    with proxied(s3) as proxy, s3.source(endpoint_url=proxy.url, items=selection) as source:
        proxy.faults.add(Fault(status=503, retry_after="1"), times=8, methods=("HEAD", "GET"))
        assert sorted(by_path(source)) == ["a"]
        assert len(proxy.traffic.exchanges) > 8


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("body", [b"<Error><Code>InternalError</Code></Error>", b"<ListBucketResult><Contents>"])
def test_a_listing_that_is_no_whole_one_is_asked_for_again(body: bytes) -> None:
    with fake({"a": DATA}) as server, opened(server.url) as source:
        server.listings = [body]
        assert sorted(by_path(source)) == ["a"]
        server.listings = [body] * 9
        with pytest.raises(SourceUnavailableError):
            list(source.list())


@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_byte_that_was_flipped_in_one_of_many_ranges_is_in_no_file(
    s3: S3Place, tmp_path: Path, times: int | None
) -> None:
    data = os.urandom(40 << 20)
    s3.server.store.put_in_parts(s3.bucket, "big", [data[: 20 << 20], data[20 << 20 :]])
    with proxied(s3) as proxy:
        flip = Fault(flip_at=1000)
        proxy.faults.add(flip, times=times, when=lambda found: "range" in found.headers)
        item = s3.item(endpoint_url=proxy.url)
        config = DownloadConfig.model_validate({"download_root": str(tmp_path / "root"), "download_items": [item]})
        if times is None:
            with pytest.raises(IntegrityMismatchError, match="crc64nvme"):
                run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
            assert not (tmp_path / "root" / "big").exists()
        else:
            run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
            assert (tmp_path / "root" / "big").read_bytes() == data


def test_each_range_is_one_request_with_a_precondition(s3: S3Place) -> None:
    s3.fill({"a": DATA})
    with proxied(s3) as proxy, s3.source(endpoint_url=proxy.url) as source:
        entry = by_path(source)["a"]
        proxy.traffic.clear()
        assert read(source, entry, 5, 20) == DATA[5:20]
        (exchange,) = proxy.traffic.exchanges
        assert exchange.headers["range"] == "bytes=5-19"
        assert exchange.headers["if-match"] == f'"{MD5}"'
        assert "authorization" in exchange.headers
        proxy.faults.add(Fault(status=503, retry_after="3"))
        with pytest.raises(SourceUnavailableError) as raised:
            read(source, entry)
        assert raised.value.throttled
        assert raised.value.retry_after == 3
        assert len(proxy.traffic.exchanges) == 2


def test_a_server_with_a_ca_of_its_own(only_loopback: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with versitygw(tls=True) as server:
        assert server.ca_file is not None
        server.store.create("data")
        server.store.put("data", "a", DATA)
        keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
        directory = write_secret(tmp_path / "secret", **keys, **{"ca.crt": server.ca_file.read_text()})
        with opened(server.url, credentials_dir=directory) as source:
            assert read(source, by_path(source)["a"]) == DATA
        (tmp_path / "secret" / "ca.crt").unlink()
        without = opened(server.url, credentials_dir=directory)
        with without as source, pytest.raises(InvalidConfigError, match=r"ca\.crt"):
            list(source.list())
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        with opened(server.url, credentials_dir=directory) as source:
            assert read(source, by_path(source)["a"]) == DATA
