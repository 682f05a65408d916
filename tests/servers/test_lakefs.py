"""The lakeFS of the tests answers what the SDK's generated client, with its strict models, takes for an answer."""

from collections.abc import Iterator

import pytest
from lakefs_sdk.client import LakeFSClient
from lakefs_sdk.configuration import Configuration
from lakefs_sdk.exceptions import ApiException
from lakefs_sdk.models.commit import Commit
from lakefs_sdk.models.object_stats import ObjectStats
from lakefs_sdk.models.object_stats_list import ObjectStatsList

from servers.lakefs import LakeFS


@pytest.fixture
def lake() -> Iterator[LakeFS]:
    with LakeFS() as server:
        server.add_key("id", "key")
        server.create("models", {"a": b"abc", "b/c": b"", "b/d": b"d"})
        yield server


@pytest.fixture
def client(lake: LakeFS) -> LakeFSClient:
    configuration = Configuration(host=lake.url, username="id", password="key")
    return LakeFSClient(configuration)  # type: ignore[no-untyped-call]  # the SDK has no types there


def test_commits_objects_and_configuration_are_what_the_models_say(lake: LakeFS, client: LakeFSClient) -> None:
    commit = client.commits_api.get_commit("models", "main")
    assert isinstance(commit, Commit)
    page = client.objects_api.list_objects("models", commit.id, amount=2)
    assert isinstance(page, ObjectStatsList)
    assert [found.path for found in page.results] == ["a", "b/c"]
    assert page.pagination.has_more
    rest = client.objects_api.list_objects("models", commit.id, amount=2, after=page.pagination.next_offset)
    assert [found.path for found in rest.results] == ["b/d"]
    assert not rest.pagination.has_more
    assert [found.path for found in client.objects_api.list_objects("models", commit.id, prefix="b/").results] == [
        "b/c",
        "b/d",
    ]
    assert isinstance(client.objects_api.stat_object("models", "main", "a"), ObjectStats)
    assert bytes(client.objects_api.get_object("models", "main", "a")) == b"abc"
    config = client.config_api.get_config()
    assert config.storage_config is not None
    assert config.storage_config.pre_sign_support is False
    lake.presign = True
    stats = client.objects_api.stat_object("models", "main", "a", presign=True)
    assert stats.physical_address.startswith(lake.storage.url)
    assert stats.physical_address_expiry


@pytest.mark.parametrize(("ref", "path", "status"), [("main", "nothing", 404), ("nowhere", "a", 404)])
def test_refusals_are_the_sdk_s_errors(client: LakeFSClient, ref: str, path: str, status: int) -> None:
    with pytest.raises(ApiException) as raised:
        client.objects_api.stat_object("models", ref, path)
    assert raised.value.status == status
