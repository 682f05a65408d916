"""What only AWS has, at a server that checks every signature: roles, profiles, payers, versions, archives, regions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from component.places import STALL_TIMEOUT, S3Place, by_path, read
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceNotFoundError, SourceUnavailableError
from datafetch.sources import Source, open_source
from datafetch_api.config import S3Item
from servers.aws import BUCKET, ROLE, Aws, Keys
from servers.emulators import versitygw
from servers.plans import Fault

DATA = b"forty-two bytes, all of them accounted for"
ALL = ({"path": "."},)


@pytest.fixture
def aws(only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with Aws({"a": DATA, "b": b"b"}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        yield server


@contextmanager
def opened(aws: Aws, *selections: dict[str, Any], **settings: Any) -> Iterator[Source]:
    items = [{"bucket": BUCKET, "items": list(selections or ALL)}]
    item = S3Item.model_validate({"name": "src", "type": "s3", "endpoint_url": aws.url, "items": items, **settings})
    source = open_source(item, stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


def write_secret(directory: Path, keys: Keys) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "AWS_ACCESS_KEY_ID").write_text(keys.access_key)
    (directory / "AWS_SECRET_ACCESS_KEY").write_text(keys.secret_key)
    if keys.token:
        (directory / "AWS_SESSION_TOKEN").write_text(keys.token)
    return str(directory)


@pytest.fixture
def secret(aws: Aws, tmp_path: Path) -> str:
    return write_secret(tmp_path / "secret", aws.issue())


def signed(aws: Aws) -> list[dict[str, str]]:
    """Headers of the requests for the bucket."""
    return [e.headers for e in aws.traffic.exchanges if e.path.startswith(f"/{BUCKET}")]


# --- whose keys ---


def test_session_keys_in_files_that_are_rotated_reach_a_source_in_use(aws: Aws, secret: str, tmp_path: Path) -> None:
    with opened(aws, credentials_dir=secret) as source:
        entry = by_path(source)["a"]
        aws.withdraw()
        write_secret(tmp_path / "secret", aws.issue())
        assert read(source, entry) == DATA


@pytest.fixture
def role(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file with the token of a service account, as EKS gives it to a pod with a role (IRSA)."""
    token = tmp_path / "web-identity-token"
    token.write_text("eyJ.first-token-of-the-pod")
    aws.web_identity_tokens = {"eyJ.first-token-of-the-pod"}
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    return token


def test_a_role_of_the_service_account_signs_and_is_renewed_with_the_token_of_that_moment(aws: Aws, role: Path) -> None:
    aws.lifetime = 60  # less than the SDK lets pass before it asks anew
    with opened(aws) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        assert all("x-amz-security-token" in headers for headers in signed(aws))
        role.write_text("eyJ.second-token-of-the-pod")
        aws.web_identity_tokens = {"eyJ.second-token-of-the-pod"}
        aws.withdraw()
        assert read(source, entry) == DATA


def test_a_role_that_gives_no_keys_is_told_with_what_to_check(aws: Aws, role: Path) -> None:
    aws.web_identity_tokens = set()
    with opened(aws) as source, pytest.raises(CredentialsRejectedError, match="trust policy") as raised:
        list(source.list())
    assert "InvalidIdentityToken" in str(raised.value)
    assert "first-token" not in str(raised.value)
    role.unlink()
    with opened(aws) as source, pytest.raises(CredentialsRejectedError, match=role.name):
        list(source.list())


@pytest.fixture
def agent(aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file with the token for the agent that EKS Pod Identity runs on each node."""
    token = tmp_path / "eks-pod-identity-token"
    token.write_text(aws.container_token)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    return token


def test_pod_identity_asks_the_agent_with_the_token_in_its_file(aws: Aws, agent: Path) -> None:
    with opened(aws) as source:
        assert read(source, by_path(source)["a"]) == DATA
    assert aws.traffic.exchanges[0].headers["authorization"] == aws.container_token


def test_an_agent_that_refuses_ends_it_and_one_that_is_away_does_not(aws: Aws, agent: Path) -> None:
    agent.write_text("wr0ng-and-secret")
    with pytest.raises(CredentialsRejectedError, match="pod identity association") as raised, opened(aws):
        pass
    assert "wr0ng" not in str(raised.value)
    aws.faults.add(Fault(status=500), times=None, path="/container")
    with pytest.raises(SourceUnavailableError, match="container-role"), opened(aws):
        pass


def test_the_instance_s_role_is_asked_with_a_session_of_its_service(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{aws.url}/")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with opened(aws) as source:
        assert read(source, by_path(source)["a"]) == DATA
    assert aws.traffic.exchanges[0].target == "/latest/api/token"


def profiles(keys: Keys, name: str = "research") -> str:
    token = f"aws_session_token = {keys.token}\n" if keys.token else ""
    return (
        f"[{name}]\naws_access_key_id = {keys.access_key}\naws_secret_access_key = {keys.secret_key}\n{token}"
        "[default]\naws_access_key_id = NOBODY\naws_secret_access_key = nobody-s-secret\n"
    )


@pytest.mark.parametrize("place", ["secret", "home"])
def test_a_profile_of_the_shared_files_signs_and_is_read_again(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    directory = tmp_path / place
    directory.mkdir()
    (directory / "credentials").write_text(profiles(aws.issue()))
    (directory / "config").write_text("[profile research]\nregion = eu-north-1\n")
    aws.region = "eu-north-1"
    settings = {"credentials_dir": str(directory)}
    if place == "home":
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "config"))
        settings = {}
    # The keys of the environment are somebody else's.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-s-secret")
    with opened(aws, profile="research", **settings) as source:
        entry = by_path(source)["a"]
        assert read(source, entry) == DATA
        assert all("/eu-north-1/s3/" in headers["authorization"] for headers in signed(aws))
        aws.withdraw()
        (directory / "credentials").write_text(profiles(aws.issue()))
        assert read(source, entry) == DATA


def test_a_secret_with_shared_files_alone_means_their_default_profile(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody-s-secret")
    keys = aws.issue(temporary=False)
    content = f"[default]\naws_access_key_id = {keys.access_key}\naws_secret_access_key = {keys.secret_key}\n"
    (tmp_path / "secret" / "credentials").write_text(content)
    with opened(aws, credentials_dir=str(tmp_path / "secret")) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_a_profile_that_is_not_there_is_named(aws: Aws, secret: str) -> None:
    with pytest.raises(InvalidConfigError, match="nosuch"), opened(aws, credentials_dir=secret, profile="nosuch"):
        pass
    with pytest.raises(ValueError, match="profile or access_key_id_file"):
        S3Item.model_validate(
            {"name": "s", "type": "s3", "items": [{"bucket": "b", "items": [{}]}], "profile": "p"}
            | {"access_key_id_file": "a", "secret_key_file": "b"}
        )


# --- what is asked ---


@pytest.mark.parametrize("selection", [{"path": "."}, {"path": "a", "target_path": "a"}], ids=["listing", "object"])
def test_who_agrees_to_pay_says_so_in_every_request(aws: Aws, secret: str, selection: dict[str, Any]) -> None:
    aws.requester_pays = True
    with opened(aws, selection, credentials_dir=secret) as source, pytest.raises(CredentialsRejectedError):
        list(source.list())
    with opened(aws, selection, credentials_dir=secret, requester_pays=True) as source:
        entry = by_path(source)["a"]
        aws.traffic.clear()
        assert read(source, entry) == DATA
        assert read(source, entry, 3, 9) == DATA[3:9]
        assert source.look_up(entry) == entry
        assert [headers["x-amz-request-payer"] for headers in signed(aws)] == ["requester"] * 3


def test_a_version_is_listed_and_fetched_whatever_became_of_the_object(aws: Aws, secret: str) -> None:
    old, version = b"as it was then, which is what the paper used", "3/L4kqt+JlcpXroDTDmJ=rmSpXd3dIbrHY"
    aws.versions["a", version] = old
    aws.deleted.add(("a", "marker"))
    pinned = {"path": "a", "version_id": version, "target_path": "old"}
    with opened(aws, pinned, {"path": "a", "target_path": "new"}, credentials_dir=secret) as source:
        entries = by_path(source)
        assert entries["old"].size == len(old)
        assert version in entries["old"].identity
        assert {path: read(source, entry) for path, entry in entries.items()} == {"old": old, "new": DATA}
        assert read(source, entries["old"], 3, 9) == old[3:9]
        assert source.look_up(entries["old"]) == entries["old"]
        del aws.objects["a"]
        assert read(source, entries["old"]) == old
    for missing in ("no-such-version", "marker"):
        wanted = {"path": "a", "version_id": missing, "target_path": "a"}
        with opened(aws, wanted, credentials_dir=secret) as source, pytest.raises(SourceNotFoundError, match=missing):
            list(source.list())


def test_two_versions_do_not_land_in_one_place(aws: Aws, secret: str) -> None:
    aws.versions |= {("a", "1"): b"one", ("a", "2"): b"two"}
    both = [{"path": "a", "version_id": version, "target_path": "a"} for version in "12"]
    with opened(aws, *both, credentials_dir=secret) as source, pytest.raises(InvalidConfigError, match="two versions"):
        list(source.list())


def test_versions_of_a_real_server(s3: S3Place) -> None:
    s3.server.store.enable_versioning(s3.bucket)
    s3.fill({"a": DATA})
    with s3.source() as source:
        client = source._client  # type: ignore[attr-defined]  # to learn the version's name
        version = client.head_object(Bucket=s3.bucket, Key="a")["VersionId"]
    s3.fill({"a": DATA[::-1]})
    pinned = {"path": "a", "version_id": version, "target_path": "a"}
    with s3.source(pinned) as source:
        assert read(source, by_path(source)["a"]) == DATA
        assert read(source, by_path(source)["a"], 1, 5) == DATA[1:5]
    with s3.source() as source:
        assert read(source, by_path(source)["a"]) == DATA[::-1]


@pytest.mark.parametrize("selection", [{"path": "."}, {"path": "a", "target_path": "a"}], ids=["listing", "object"])
@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_named_before_anything_is_fetched(
    aws: Aws, secret: str, storage_class: str, selection: dict[str, Any]
) -> None:
    aws.archived["a"] = storage_class
    with opened(aws, selection, credentials_dir=secret) as source:
        with pytest.raises(SourceNotFoundError, match="restore-object") as raised:
            list(source.list())
        assert raised.value.code == 11
        assert not raised.value.retryable
        assert "'a'" in str(raised.value)
        assert storage_class in str(raised.value)
        aws.restored["a"] = True
        with pytest.raises(SourceNotFoundError, match="its restore is under way"):
            list(source.list())
        aws.restored["a"] = False
        assert read(source, by_path(source)["a"]) == DATA


def test_archived_objects_that_nobody_asked_for_are_in_nobodys_way(aws: Aws, secret: str) -> None:
    aws.archived["a"] = "GLACIER"
    with opened(aws, {"path": ".", "exclude": ["a"]}, credentials_dir=secret) as source:
        assert sorted(by_path(source)) == ["b"]
    aws.archived["a"] = "GLACIER_IR"
    with opened(aws, credentials_dir=secret) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_a_server_that_reads_archived_objects_like_others_is_asked_once(aws: Aws, secret: str) -> None:
    aws.archived = {"a": "GLACIER", "b": "GLACIER"}
    aws.keeps_archives_away = False
    with opened(aws, credentials_dir=secret) as source:
        assert {path: read(source, entry) for path, entry in by_path(source).items()} == aws.objects
    asked = [exchange.headers.get("range") for exchange in aws.traffic.exchanges]
    assert asked.count("bytes=0-0") == 1


def test_an_object_that_was_archived_meanwhile_is_named_too(aws: Aws, secret: str) -> None:
    with opened(aws, credentials_dir=secret) as source:
        entry = by_path(source)["a"]
        aws.archived["a"] = "GLACIER"
        with pytest.raises(SourceNotFoundError, match="archived"):
            read(source, entry)


@pytest.mark.parametrize("tells_region", [True, False])
@pytest.mark.parametrize("selection", [{"path": "."}, {"path": "a", "target_path": "a"}], ids=["listing", "object"])
def test_a_bucket_of_another_region_is_found_there(
    aws: Aws, secret: str, selection: dict[str, Any], tells_region: bool
) -> None:
    aws.region, aws.tells_region = "ap-south-2", tells_region
    with opened(aws, selection, credentials_dir=secret, region="us-west-2") as source:
        entry = by_path(source)["a"]
        aws.traffic.clear()
        assert read(source, entry) == DATA
        assert len(aws.traffic.exchanges) == 1
    # Who resumes has not listed.
    with opened(aws, selection, credentials_dir=secret, region="us-west-2") as source:
        assert read(source, entry) == DATA


@pytest.mark.parametrize("path", [".", "a"], ids=["listing", "object"])
def test_a_wrong_region_at_a_compatible_server_is_put_right(s3: S3Place, path: str) -> None:
    s3.fill({"a": DATA})
    with s3.source({"path": path, "target_path": "./"}, region="us-west-2") as source:
        assert read(source, by_path(source)["a"]) == DATA
    missing = s3.source({"path": "nosuch", "target_path": "a"}, region="us-west-2")
    with missing as source, pytest.raises(SourceNotFoundError, match="nosuch"):
        list(source.list())


KEYS = (
    "a//b", "//lead", "tail//", "plus+plus", "a+b c", " two  spaces ", "ünï/côdé", "日本語.txt", "e\u0301", "%2F%20",
    "a=b&c?d#e", "~tilde", "semi;colon", "star*", "quote'\"", "back\\slash", "{brace}", "new\nline", "dot/./../x",
)  # fmt: skip


def test_keys_of_every_kind_are_signed_as_they_are_sent(aws: Aws, secret: str) -> None:
    aws.objects = {key: key.encode() for key in KEYS}
    with opened(aws, credentials_dir=secret) as source:
        entries = {entry.key.removeprefix(f"{BUCKET}/"): entry for entry in source.list()}
        assert sorted(entries) == sorted(KEYS)
        for key, entry in entries.items():
            assert read(source, entry) == key.encode()
    for key in ("plus+plus", "a+b c", "日本語.txt", "a//b"):
        with opened(aws, {"path": key, "target_path": "x"}, credentials_dir=secret) as source:
            assert read(source, by_path(source)["x"]) == key.encode()


def test_the_sdk_asks_compatible_servers_for_no_checksums_of_newer_years(aws: Aws, secret: str) -> None:
    with opened(aws, credentials_dir=secret) as source:
        list(source.list())
    with opened(aws, {"path": "a", "target_path": "a"}, credentials_dir=secret) as source:
        list(source.list())
    for headers in signed(aws):
        assert not any("checksum" in name for name in headers)


# --- certificates of one's own ---


def test_a_ca_bundle_counts_beside_the_authorities_of_everybody(
    only_loopback: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with versitygw(tls=True) as ours, versitygw(tls=True) as theirs:
        assert ours.ca_file is not None
        assert theirs.ca_file is not None
        for server in (ours, theirs):
            server.store.create(BUCKET)
            server.store.put(BUCKET, "a", DATA)
        keys = Keys(ours.access_key, ours.secret_key, None)
        settings: dict[str, Any] = {"credentials_dir": write_secret(tmp_path / "secret", keys)}
        items = [{"bucket": BUCKET, "items": list(ALL)}]

        def fetch(url: str, **more: str) -> bytes:
            item = {"name": "src", "type": "s3", "endpoint_url": url, "items": items, **settings, **more}
            source = open_source(S3Item.model_validate(item), stall_timeout=STALL_TIMEOUT)
            try:
                return read(source, by_path(source)["a"])
            finally:
                source.close()

        assert fetch(ours.url, ca_bundle_file=str(ours.ca_file)) == DATA
        with pytest.raises(InvalidConfigError, match="ca_bundle_file"):
            fetch(theirs.url, ca_bundle_file=str(ours.ca_file))
        monkeypatch.setenv("SSL_CERT_FILE", str(theirs.ca_file))
        assert fetch(theirs.url, ca_bundle_file=str(ours.ca_file)) == DATA
        assert fetch(ours.url, ca_bundle_file=str(ours.ca_file)) == DATA
    for content, said in (("no certificate", "no certificates in PEM"), (None, "no such file")):
        path = tmp_path / "broken.pem"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        with pytest.raises(InvalidConfigError, match=said):
            fetch("https://127.0.0.1:1", ca_bundle_file=str(path))


# --- clocks ---


@pytest.mark.parametrize("ahead", [3600.0, -3600.0], ids=["ahead", "behind"])
@pytest.mark.parametrize("selection", [{"path": "."}, {"path": "a", "match": "object"}], ids=["listed", "one object"])
def test_a_server_whose_clock_is_an_hour_off_is_signed_for_by_its_own_clock(
    aws: Aws, secret: str, ahead: float, selection: dict[str, Any]
) -> None:
    aws.ahead = ahead
    with opened(aws, selection, credentials_dir=secret) as source:
        entry = next(entry for entry in source.list() if entry.key == f"{BUCKET}/a")
        assert read(source, entry) == DATA
        refused = sum(exchange.status == 403 for exchange in aws.traffic.exchanges)
        assert refused <= 2, "once it is known, every signature has the right time"


def test_a_clock_that_goes_wrong_in_between_is_learned_by_what_reads(aws: Aws, secret: str) -> None:
    with opened(aws, credentials_dir=secret) as source:
        entry = next(entry for entry in source.list() if entry.key == f"{BUCKET}/a")
        aws.ahead = 3600.0
        assert read(source, entry) == DATA


def test_keys_that_are_wrong_stay_wrong_whatever_the_clock_says(aws: Aws, secret: str) -> None:
    aws.ahead = 3600.0
    aws.withdraw()
    with opened(aws, credentials_dir=secret) as source, pytest.raises(CredentialsRejectedError):
        list(source.list())
