"""What is GCS's own: tokens, the emulator, stored encodings; the rest is in `test_source_contract`."""

import base64
import gzip
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from component.places import STALL_TIMEOUT, GCSPlace, by_path, read
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

    def _answer(self, request: Request) -> Response:
        path = request.exchange.path
        if path == "/token":
            self.given += 1
            self.valid.add(f"ya29.secret-{self.given}")
            return _json(
                {"access_token": f"ya29.secret-{self.given}", "expires_in": self.lifetime, "token_type": "Bearer"}
            )
        if (request.header("authorization") or "").removeprefix("Bearer ") not in self.valid:
            return _json({"error": {"code": 401, "message": "Invalid Credentials"}}, 401)
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
    # Otherwise GCS would decompress them.
    assert fake.traffic.exchanges[-1].headers["accept-encoding"] == "gzip"


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
