"""What is the Hub's own: revisions, tokens, gates, links to the CDN; the rest is in `test_source_contract`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from component.places import STALL_TIMEOUT, by_path, read
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceNotFoundError, SourceUnavailableError
from datafetch.sources import Source, open_source
from datafetch_api.config import HuggingFaceItem
from servers.hub import Hub
from servers.plans import Fault

WEIGHTS = os.urandom(3_000_000)
FILES = {"config.json": b"{}", "README.md": b"# hi\n", "sub/vocab.txt": b"one\n", "model.safetensors": WEIGHTS}

Secret = Callable[[str, str], str]

pytestmark = pytest.mark.usefixtures("only_loopback")


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    """Writes a mounted Secret with one key; returns its directory."""

    def write(key: str, value: str) -> str:
        (tmp_path / key).write_text(value)
        return str(tmp_path)

    return write


@contextmanager
def opened(hub: Hub, repo_id: str = "org/model", **settings: object) -> Iterator[Source]:
    item = {"name": "src", "type": "hf", "repo_id": repo_id, "endpoint_url": hub.url, **settings}
    source = open_source(HuggingFaceItem.model_validate(item), stall_timeout=STALL_TIMEOUT)
    try:
        yield source
    finally:
        source.close()


def test_everything_lands_below_the_repository_s_name_and_is_of_one_commit(hub: Hub) -> None:
    repo = hub.create("org/model", FILES)
    commit = repo.head
    with opened(hub) as source:
        assert source.resolved_revision is None
        entries = by_path(source)
        assert sorted(entries) == sorted(f"org/model/{path}" for path in FILES)
        assert source.resolved_revision == commit
        repo.commit({"config.json": b"other"})
        assert read(source, entries["org/model/config.json"]) == b"{}"


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_every_type_of_repository(hub: Hub, repo_type: str) -> None:
    hub.create("org/model", FILES, repo_type=repo_type)  # type: ignore[arg-type]  # one of the three literals
    with opened(hub, repo_type=repo_type) as source:
        assert {path: read(source, entry) for path, entry in by_path(source).items()} == {
            f"org/model/{path}": data for path, data in FILES.items()
        }


def test_revisions_are_branches_tags_requests_and_commits(hub: Hub) -> None:
    repo = hub.create("org/model", {"a": b"main"})
    first = repo.head
    repo.commit({"a": b"branch"}, branch="dev")
    repo.tag("v1", first)
    repo.open_pull_request(1, {"a": b"request"})
    repo.commit({"a": b"newer"})
    expected_by_revision = {"main": b"newer", "dev": b"branch", "v1": b"main", "refs/pr/1": b"request", first: b"main"}
    for revision, expected in expected_by_revision.items():
        with opened(hub, revision=revision) as source:
            assert read(source, by_path(source)["org/model/a"]) == expected


def test_named_files_and_globs(hub: Hub) -> None:
    hub.create("org/model", FILES)
    with opened(hub, files=["README.md", "*.safetensors"], target_path="weights") as source:
        assert sorted(by_path(source)) == ["weights/README.md", "weights/model.safetensors"]
    with opened(hub, exclude=["*.safetensors", "sub/**"]) as source:
        assert sorted(by_path(source)) == ["org/model/README.md", "org/model/config.json"]
    with opened(hub, path="sub/vocab.txt", match="object") as source:
        assert sorted(by_path(source)) == ["org/model/vocab.txt"]


def test_a_named_file_that_is_missing_is_an_error_though_others_match(hub: Hub) -> None:
    hub.create("org/model", FILES)
    named = opened(hub, files=["config.json", "tokenizer.json"])
    with named as source, pytest.raises(SourceNotFoundError, match=r"no file 'tokenizer\.json'"):
        list(source.list())


def test_the_ranges_of_a_large_file_share_one_link(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    with opened(hub, credentials_dir=secret("token", "hf_reader")) as source:
        entry = by_path(source)["org/model/model.safetensors"]
        hub.traffic.clear()
        for start in range(0, len(WEIGHTS), 500_000):
            assert read(source, entry, start, start + 500_000) == WEIGHTS[start : start + 500_000]
        assert len(hub.traffic.exchanges) == 1
        assert hub.traffic.exchanges[0].headers["authorization"] == "Bearer hf_reader"
        assert not any("authorization" in exchange.headers for exchange in hub.cdn.traffic.exchanges)
        hub.expire_links()
        assert read(source, entry, 7, 99) == WEIGHTS[7:99]
        assert len(hub.traffic.exchanges) == 2


def test_small_files_may_come_by_a_redirect_on_the_hub(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    hub.relative_redirects = True
    with opened(hub, credentials_dir=secret("HF_TOKEN", "hf_reader")) as source:
        assert read(source, by_path(source)["org/model/config.json"]) == b"{}"


@pytest.mark.parametrize("key", ["HF_TOKEN", "token"])
def test_a_mounted_secret_holds_the_token(hub: Hub, secret: Secret, key: str) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    with opened(hub, credentials_dir=secret(key, "hf_reader")) as source:
        assert len(by_path(source)) == len(FILES)


def test_the_environment_s_token_is_the_last(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with opened(hub) as source:
        assert len(by_path(source)) == len(FILES)


def test_a_private_repository_asks_for_a_token(hub: Hub) -> None:
    hub.create("org/model", FILES, private=True)
    with opened(hub) as source, pytest.raises(SourceNotFoundError, match=r"give a token \(HF_TOKEN\)"):
        list(source.list())


def test_a_gated_repository_says_where_its_conditions_are(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, gated=True)
    hub.add_token("hf_stranger")
    for settings, said in (({}, "give a token"), ({"credentials_dir": secret("token", "hf_stranger")}, "the token's")):
        with opened(hub, **settings) as source:
            entry = by_path(source)["org/model/config.json"]
            with pytest.raises(CredentialsRejectedError, match=said) as raised:
                read(source, entry)
        assert f"accept the conditions at {hub.url}/org/model" in str(raised.value)


def test_a_token_that_nobody_knows_is_rejected(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES)
    unknown = opened(hub, credentials_dir=secret("token", "hf_secret-unknown"))
    with unknown as source, pytest.raises(CredentialsRejectedError, match="check the token") as raised:
        list(source.list())
    assert "hf_secret-unknown" not in str(raised.value)


def test_a_revision_that_is_not_there_is_named(hub: Hub) -> None:
    hub.create("org/model", FILES)
    with opened(hub, revision="v99") as source, pytest.raises(SourceNotFoundError, match="no revision 'v99'"):
        list(source.list())


def test_what_is_no_repository_id_is_a_config_error(hub: Hub) -> None:
    with opened(hub, repo_id="not a repo") as source, pytest.raises(InvalidConfigError, match="Repo id"):
        list(source.list())


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub: Hub) -> None:
    hub.create("org/model", FILES)
    hub.faults.add(Fault(status=502), times=1)
    hub.faults.add(Fault(status=503), path="*/tree/*", times=1)
    with opened(hub) as source:
        assert len(by_path(source)) == len(FILES)


def test_a_file_s_refusal_is_not_asked_again(hub: Hub) -> None:
    hub.create("org/model", FILES)
    with opened(hub) as source:
        entry = by_path(source)["org/model/config.json"]
        hub.faults.add(Fault(status=429, retry_after="5"))
        with pytest.raises(SourceUnavailableError) as raised:
            read(source, entry)
        assert raised.value.throttled
        assert raised.value.retry_after == 5
