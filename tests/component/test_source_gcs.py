"""What is GCS's own: tokens, the emulator, stored encodings; the rest is in `test_source_contract`."""

import base64
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs

import google_crc32c
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from component.commands import datafetch
from component.places import STALL_TIMEOUT, GCSPlace, by_path, checksum_of, read
from datafetch.errors import (
    CredentialsRejectedError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
)
from datafetch.sources import Entry, Source, open_source
from datafetch_api.config import GCSItem
from servers.serving import Request, Response, Server

DATA = b"forty-two bytes, all of them accounted for"


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class FakeGcs(Server):
    """A bucket `data` with one object, for whoever brings a token that it gave out and that has not expired."""

    def __init__(self, data: bytes = DATA, *headers: tuple[str, str]) -> None:
        self.data = data
        self.headers = headers
        self.valid: set[str] = set()
        self.given = 0
        self.lifetime = 3600
        self.subject_token = "eyJ.token-of-the-pod"
        self.billed: str | None = None
        """The project that has to pay for each request of the bucket."""
        super().__init__(self._answer)

    def service_account(self, private_key: str) -> str:
        account = {
            "type": "service_account",
            "project_id": "test",
            "private_key_id": "1",
            "private_key": private_key,
            "client_email": "tests@test.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
        }
        return json.dumps(account)

    def external_account(self, subject_token: Path, *, impersonated: bool = False) -> str:
        """The file of workload identity federation, as `gcloud iam workload-identity-pools` writes it."""
        pool = "projects/1/locations/global/workloadIdentityPools/cluster/providers/oidc"
        account = {
            "type": "external_account",
            "audience": f"//iam.googleapis.com/{pool}",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/sts",
            "credential_source": {"file": str(subject_token)},
        }
        if impersonated:
            account["service_account_impersonation_url"] = f"{self.url}/v1/sa@test:generateAccessToken"
        return json.dumps(account)

    def _exchange(self, request: Request) -> Response:
        """Answer as Google's Security Token Service does (RFC 8693)."""
        form = {name: values[0] for name, values in parse_qs(b"".join(request.body).decode()).items()}
        if (
            form["grant_type"] != "urn:ietf:params:oauth:grant-type:token-exchange"
            or "/providers/" not in form["audience"]
        ):
            return _json({"error": "invalid_request"}, 400)
        if form["subject_token"] != self.subject_token:
            return _json({"error": "invalid_grant", "error_description": "ID Token was issued by nobody"}, 400)
        return self._give()

    def _give(self) -> Response:
        self.given += 1
        token = f"ya29.secret-{self.given}"
        self.valid.add(token)
        return _json({"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"})

    def _impersonate(self, request: Request) -> Response:
        if (request.header("authorization") or "").removeprefix("Bearer ") not in self.valid:
            return _json({"error": {"code": 401, "message": "Invalid Credentials"}}, 401)
        self.valid = {"ya29.of-the-service-account"}
        return _json({"accessToken": "ya29.of-the-service-account", "expireTime": "2099-01-01T00:00:00Z"})

    def _answer(self, request: Request) -> Response:
        path = request.exchange.path
        return self._answer_for_identity(request, path) or self._answer_for_bucket(request, path)

    def _answer_for_identity(self, request: Request, path: str) -> Response | None:
        if path == "/sts":
            return self._exchange(request)
        if path.endswith(":generateAccessToken"):
            return self._impersonate(request)
        if path == "/computeMetadata/v1/instance/service-accounts/default/token":
            right = request.header("metadata-flavor") == "Google"
            return self._give() if right else _json({}, 403)
        if path.startswith("/computeMetadata/v1/universe/"):
            return _json({}, 404)
        if path.startswith("/computeMetadata/") or path == "/":
            body = b'{"email": "pod@test.iam.gserviceaccount.com", "scopes": []}'
            return Response(200, (("Metadata-Flavor", "Google"), ("Content-Type", "application/json")), body, len(body))
        if path == "/token":
            self.given += 1
            self.valid.add(f"ya29.secret-{self.given}")
            return _json(
                {"access_token": f"ya29.secret-{self.given}", "expires_in": self.lifetime, "token_type": "Bearer"}
            )
        return None

    def _answer_for_bucket(self, request: Request, path: str) -> Response:
        if (request.header("authorization") or "").removeprefix("Bearer ") not in self.valid:
            return _json({"error": {"code": 401, "message": "Invalid Credentials"}}, 401)
        if self.billed is not None and request.exchange.query.get("userProject") != self.billed:
            message = "Bucket is a requester pays bucket but no user project provided."
            return _json({"error": {"code": 400, "message": message}}, 400)
        if path == "/storage/v1/b/data/o/a":
            return _json(self._resource())
        if path == "/storage/v1/b/data/o":
            return _json({"items": [self._resource()]})
        if path == "/download/storage/v1/b/data/o/a":
            return Response(200, (("x-goog-generation", "7"), *self.headers), self.data, len(self.data))
        return _json({"error": {"code": 404, "message": "Not Found"}}, 404)

    def _resource(self) -> dict[str, str]:
        crc32c = base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()
        return {"name": "a", "size": str(len(self.data)), "generation": "7", "crc32c": crc32c}


def _json(value: object, status: int = 200) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json"),), body, len(body))


@contextmanager
def opened(endpoint: str | None, **settings: object) -> Iterator[Source]:
    item = {"name": "src", "type": "gcs", "items": [{"bucket": "data", "items": [{"path": "."}]}], **settings}
    if endpoint:
        item["endpoint_url"] = endpoint
    source = open_source(GCSItem.model_validate(item), stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def fake(only_loopback: None) -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.mark.parametrize("field", ["application_credentials_path", "application_credentials_file"])
def test_a_service_account_s_token_goes_with_every_request(
    fake: FakeGcs, tmp_path: Path, private_key: str, field: str
) -> None:
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, **{field: str(path)}) as source:
        entry = by_path(source)["a"]
        for _ in range(3):
            assert read(source, entry) == DATA
    assert fake.given == 1
    asked = [exchange for exchange in fake.traffic.exchanges if exchange.path != "/token"]
    assert {exchange.headers["authorization"] for exchange in asked} == {"Bearer ya29.secret-1"}


@pytest.mark.parametrize("key", ["GOOGLE_APPLICATION_CREDENTIALS", "key.json", "service-account.json"])
def test_a_mounted_secret_holds_the_service_account(fake: FakeGcs, tmp_path: Path, private_key: str, key: str) -> None:
    (tmp_path / key).write_text(fake.service_account(private_key))
    with opened(fake.url, credentials_dir=str(tmp_path)) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_an_expired_token_is_renewed(fake: FakeGcs, tmp_path: Path, private_key: str) -> None:
    fake.lifetime = 1
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, application_credentials_path=str(path)) as source:
        entry = by_path(source)["a"]
        before = fake.given
        time.sleep(1.1)
        fake.valid.clear()
        assert read(source, entry) == DATA
        assert fake.given > before


def test_a_refused_token_is_named_and_stays_secret(fake: FakeGcs, tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, application_credentials_path=str(path)) as source:
        entry = by_path(source)["a"]
        fake.valid.clear()
        with pytest.raises(CredentialsRejectedError, match="Invalid Credentials") as raised:
            read(source, entry)
    assert "ya29" not in str(raised.value)


def test_a_rotated_file_reaches_a_source_that_is_in_use(fake: FakeGcs, tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, application_credentials_path=str(path)) as source:
        entry = by_path(source)["a"]
        fake.valid.clear()
        path.write_text(fake.service_account(private_key) + "\n")
        assert read(source, entry) == DATA


@pytest.mark.parametrize("content", ["{}", "no json", "[]", '{"type": "service_account", "private_key": "x"}'])
def test_a_file_that_is_no_credentials_file_is_a_config_error(
    only_loopback: None, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "account.json"
    path.write_text(content)
    with (
        pytest.raises(InvalidConfigError, match="no credentials file of Google"),
        opened(None, application_credentials_path=str(path)),
    ):
        pass


def test_without_credentials_there_is_a_sentence(only_loopback: None) -> None:
    with pytest.raises(CredentialsRejectedError, match="anonymous: true"), opened(None):
        pass


def test_the_emulator_of_the_environment_is_asked_without_credentials(
    gcs: GCSPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_key: str
) -> None:
    gcs.fill({"a": DATA})
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.server.url)
    path = tmp_path / "account.json"
    path.write_text(FakeGcs.service_account(_Anywhere(), private_key))  # type: ignore[arg-type]  # only its URL counts
    for settings in ({}, {"application_credentials_path": str(path)}):
        item = gcs.item(anonymous=False, endpoint_url=None, **settings)
        source = open_source(item, stall_timeout=STALL_TIMEOUT)
        assert read(source, by_path(source)["a"]) == DATA
        source.close()


class _Anywhere:
    url = "http://127.0.0.1:1"


def test_objects_stored_compressed_arrive_as_they_are_stored(fake: FakeGcs, tmp_path: Path, private_key: str) -> None:
    fake.data = gzip.compress(DATA)
    fake.headers = (("Content-Encoding", "gzip"),)
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, application_credentials_path=str(path)) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == fake.data
        assert entry.checksum is not None
        assert entry.checksum.value == checksum_of(entry.checksum, fake.data), "of the bytes as they are stored"
    # Otherwise GCS would decompress them.
    assert fake.traffic.exchanges[-1].headers["accept-encoding"] == "gzip"


def test_ten_thousand_objects_come_page_by_page(only_loopback: None) -> None:
    keys = [f"{number:05}" for number in range(10_000)]

    def page(request: Request) -> Response:
        start = int(request.exchange.query.get("pageToken", "0"))
        items = [{"name": key, "size": "1", "generation": "1"} for key in keys[start : start + 1000]]
        following = {"nextPageToken": str(start + 1000)} if start + 1000 < len(keys) else {}
        return _json({"items": items, **following})

    with Server(page) as server, opened(server.url, anonymous=True) as source:
        assert sorted(by_path(source)) == keys
        assert len(server.traffic.exchanges) == 10


def test_another_generation_is_a_change_and_none_is_missing(gcs: GCSPlace) -> None:
    gcs.fill({"a": DATA, "b": DATA})
    with gcs.source() as source:
        entry = by_path(source)["a"]
        other = Entry(entry.key, "a", entry.size, "generation:12345")
        with pytest.raises(SourceChangedError):
            read(source, other)
        gcs.server.store.delete(gcs.bucket, "b")
        with pytest.raises(SourceNotFoundError):
            read(source, Entry(f"{gcs.bucket}/b", "b", 42, "generation:12345"))


def test_an_answer_of_another_generation_is_a_change(fake: FakeGcs, tmp_path: Path, private_key: str) -> None:
    path = tmp_path / "account.json"
    path.write_text(fake.service_account(private_key))
    with opened(fake.url, application_credentials_path=str(path)) as source:
        entry = by_path(source)["a"]
        with pytest.raises(SourceChangedError, match="x-goog-generation"):
            read(source, Entry(entry.key, "a", entry.size, "generation:6"))


# --- workload identity, and who pays ---


@pytest.mark.parametrize("impersonated", [False, True])
def test_workload_identity_federation_trades_the_token_of_that_moment(
    fake: FakeGcs, tmp_path: Path, impersonated: bool
) -> None:
    token = tmp_path / "token"
    token.write_text(fake.subject_token)
    (tmp_path / "credentials.json").write_text(fake.external_account(token, impersonated=impersonated))
    fake.lifetime = 1
    with opened(fake.url, credentials_dir=str(tmp_path)) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        if impersonated:
            return
        fake.subject_token = "eyJ.another-token-of-the-pod"
        token.write_text(fake.subject_token)
        fake.valid.clear()
        time.sleep(1.1)
        assert read(source, entry) == DATA


def test_a_token_that_is_not_traded_is_named_and_stays_secret(fake: FakeGcs, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("eyJ.wr0ng-and-secret")
    (tmp_path / "key.json").write_text(fake.external_account(token))
    with opened(fake.url, credentials_dir=str(tmp_path)) as source, pytest.raises(CredentialsRejectedError) as raised:
        list(source.list())
    assert "invalid_grant" in str(raised.value)
    assert "wr0ng" not in str(raised.value)


def test_application_default_credentials_are_a_file_that_the_environment_names(
    fake: FakeGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_key: str
) -> None:
    path = tmp_path / "adc.json"
    path.write_text(fake.service_account(private_key))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with opened(fake.url) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_application_default_credentials_are_the_metadata_server_s_in_a_pod_of_gke(
    fake: FakeGcs, tmp_path: Path
) -> None:
    """In a process of its own: the SDK reads the server's address when it is imported."""
    host = fake.url.removeprefix("http://")
    config = tmp_path / "config.yaml"
    items = [{"bucket": "data", "items": [{"path": "."}]}]
    item = {"name": "src", "type": "gcs", "endpoint_url": fake.url, "items": items}
    config.write_text(json.dumps({"download_root": str(tmp_path / "root"), "download_items": [item]}))
    variables = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GCE_METADATA_ROOT": host, "NO_GCE_CHECK": "false"}
    # Whatever else the SDK would ask for goes nowhere.
    done = datafetch("run", config, cwd=tmp_path, https_proxy="http://127.0.0.1:1", **variables)
    assert done.code == 0, done.stderr
    assert (tmp_path / "root" / "a").read_bytes() == DATA


@pytest.mark.parametrize("path", [".", "a"], ids=["listing", "object"])
def test_the_project_that_pays_is_named_in_every_request(
    fake: FakeGcs, tmp_path: Path, private_key: str, path: str
) -> None:
    (tmp_path / "key.json").write_text(fake.service_account(private_key))
    fake.billed = "my-project:eu"
    items = [{"bucket": "data", "items": [{"path": path, "target_path": "./"}]}]
    settings = {"credentials_dir": str(tmp_path), "items": items}
    with opened(fake.url, **settings) as source, pytest.raises(InvalidConfigError, match="userProject"):
        list(source.list())
    with opened(fake.url, user_project=fake.billed, **settings) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        assert source.look_up(entry) == entry
        fake.billed = "another"
        with pytest.raises(InvalidConfigError, match="userProject"):
            read(source, entry)


def test_one_generation_is_fetched_whatever_became_of_the_object(gcs: GCSPlace) -> None:
    gcs.fill({"a": DATA})
    with gcs.source() as source:
        old = by_path(source)["a"]
    gcs.fill({"a": DATA[::-1]})
    generation = int(old.identity.removeprefix("generation:"))
    pinned = {"path": "a", "generation": generation, "target_path": "old"}
    with gcs.source(pinned, {"path": "a", "target_path": "new"}) as source:
        entries = by_path(source)
        assert entries["old"].identity == old.identity
        assert {path: read(source, entry) for path, entry in entries.items()} == {"old": DATA, "new": DATA[::-1]}
    with gcs.source(pinned) as source:
        assert source.look_up(by_path(source)["old"]).identity == old.identity
    missing = gcs.source({**pinned, "generation": 1})
    with missing as source, pytest.raises(SourceNotFoundError, match="version '1'"):
        list(source.list())
    with pytest.raises(ValueError, match="snapshot means nothing to gcs"):
        gcs.item({"path": "a", "snapshot": "2026-01-01", "target_path": "a"})
