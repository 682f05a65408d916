"""Servers for the tests of the sources, each started once, and a place of its own at each for every test."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.places import (
    AzurePlace,
    GCSPlace,
    GitPlace,
    HttpPlace,
    HubPlace,
    IndexPlace,
    LakeFSPlace,
    LfsPlace,
    Place,
    S3Place,
)
from servers.emulators import AzureServer, GcsServer, S3Server, azurite, fake_gcs_server, versitygw
from servers.git import GitServer
from servers.http import StaticServer
from servers.hub import Hub
from servers.lakefs import LakeFS

_numbers = itertools.count()
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_SAS_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST",
    "HF_TOKEN", "HF_ENDPOINT", "LAKECTL_SERVER_ENDPOINT_URL", "LAKECTL_CREDENTIALS_ACCESS_KEY_ID",
    "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY", "LAKECTL_CREDENTIALS_SESSION_TOKEN", "LAKECTL_CONFIG_FILE",
    "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST", "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@pytest.fixture
def only_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without credentials of the developer, and with no way to a cloud's metadata address."""
    for name in _CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    # google-auth asks iamcredentials.googleapis.com, in the background, where a service account may be used from.
    look_up = "CredentialsWithRegionalAccessBoundary._maybe_start_regional_access_boundary_refresh"
    monkeypatch.setattr(f"google.auth.credentials.{look_up}", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with versitygw() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    with fake_gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    with azurite() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def web() -> Iterator[StaticServer]:
    with StaticServer() as server:
        yield server


@pytest.fixture
def s3(only_loopback: None, tmp_path: Path, s3_server: S3Server) -> S3Place:
    return S3Place(tmp_path, f"bucket-{next(_numbers)}", s3_server)


@pytest.fixture
def gcs(only_loopback: None, tmp_path: Path, gcs_server: GcsServer) -> GCSPlace:
    return GCSPlace(tmp_path, f"bucket-{next(_numbers)}", gcs_server)


@pytest.fixture
def azure(only_loopback: None, tmp_path: Path, azure_server: AzureServer) -> AzurePlace:
    return AzurePlace(tmp_path, f"bucket-{next(_numbers)}", azure_server)


@pytest.fixture
def hf(only_loopback: None, tmp_path: Path, hub: Hub) -> HubPlace:
    return HubPlace(tmp_path, f"repo-{next(_numbers)}", hub)


@pytest.fixture
def lake() -> Iterator[LakeFS]:
    with LakeFS() as server:
        yield server


@pytest.fixture
def lakefs(only_loopback: None, tmp_path: Path, lake: LakeFS) -> LakeFSPlace:
    return LakeFSPlace(tmp_path, f"repo-{next(_numbers)}", lake)


@pytest.fixture
def presigned(only_loopback: None, tmp_path: Path, lake: LakeFS) -> LakeFSPlace:
    lake.presign = True
    return LakeFSPlace(tmp_path, f"repo-{next(_numbers)}", lake)


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    with GitServer(tmp_path) as server:
        yield server


@pytest.fixture
def git(only_loopback: None, tmp_path: Path, git_server: GitServer) -> GitPlace:
    return GitPlace(tmp_path, f"repo-{next(_numbers)}", git_server)


@pytest.fixture
def lfs(only_loopback: None, tmp_path: Path, git_server: GitServer) -> LfsPlace:
    return LfsPlace(tmp_path, f"repo-{next(_numbers)}", git_server)


@pytest.fixture
def http(only_loopback: None, tmp_path: Path, web: StaticServer) -> HttpPlace:
    return HttpPlace(tmp_path, f"site-{next(_numbers)}", web)


@pytest.fixture
def index(only_loopback: None, tmp_path: Path, web: StaticServer) -> IndexPlace:
    return IndexPlace(tmp_path, f"site-{next(_numbers)}", web)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """The place that the test's parameter names: s3, gcs, azure, hf, lakefs, presigned, git, lfs, http or index."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found
