"""What is the Hub's own: revisions, tokens, gates, links to the CDN; the rest is in `test_source_contract`.

Its cache's layout is in `test_hub_cache`.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from component.commands import datafetch, tree
from component.places import STALL_TIMEOUT, by_path, read
from datafetch import transfer
from datafetch.engine import run_fetch
from datafetch.errors import CredentialsRejectedError, InvalidConfigError, SourceNotFoundError, SourceUnavailableError
from datafetch.progress import ProgressTracker
from datafetch.sources import Source, open_source
from datafetch_api.config import DownloadConfig, HuggingFaceItem
from servers.emulators import make_certificates
from servers.hub import Hub
from servers.plans import Fault
from servers.serving import Server, text_response

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


def test_a_private_repository_of_others_asks_for_the_right_kind_of_token(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_stranger")
    stranger = opened(hub, credentials_dir=secret("token", "hf_stranger"))
    with stranger as source, pytest.raises(SourceNotFoundError, match="a fine-grained one has to name it"):
        list(source.list())


def test_a_gated_repository_says_where_its_conditions_are(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, gated=True)
    hub.add_token("hf_stranger")
    granted = "read access to public gated repositories"
    for settings, said in (({}, "give a token"), ({"credentials_dir": secret("token", "hf_stranger")}, granted)):
        with opened(hub, **settings) as source:
            entry = by_path(source)["org/model/config.json"]
            with pytest.raises(CredentialsRejectedError, match=said) as raised:
                read(source, entry)
        assert f"accept the conditions at {hub.url}/org/model" in str(raised.value)


def test_a_request_that_waits_for_the_authors_is_said_to(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, gated=True).awaiting = True
    hub.add_token("hf_applicant")
    with opened(hub, credentials_dir=secret("token", "hf_applicant")) as source:
        entry = by_path(source)["org/model/config.json"]
        with pytest.raises(CredentialsRejectedError, match="its authors have to grant the request first"):
            read(source, entry)


def test_a_repository_that_the_hub_has_disabled_is_said_to_be(hub: Hub) -> None:
    repo = hub.create("org/model", FILES)
    with opened(hub) as source:
        entry = by_path(source)["org/model/config.json"]
        repo.disabled = True
        with pytest.raises(SourceNotFoundError, match="the Hub has disabled the repository"):
            read(source, entry)
    with opened(hub) as source, pytest.raises(SourceNotFoundError, match="the Hub has disabled the repository"):
        list(source.list())


def test_a_token_that_was_rotated_reaches_the_listing(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_stranger")
    hub.add_token("hf_reader", "org/model")
    for old in ("hf_revoked", "hf_stranger"):
        with opened(hub, credentials_dir=secret("token", old)) as source:
            secret("token", "hf_reader")
            assert len(by_path(source)) == len(FILES)


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


def test_a_hub_that_limits_requests_is_left_alone_for_as_long_as_it_says(hub: Hub) -> None:
    hub.create("org/model", FILES)
    with opened(hub) as source:
        entry = by_path(source)["org/model/config.json"]
        for header in (("RateLimit", '"resolvers";r=0;t=37'), ("Retry-After", "37")):
            hub.refusals.append(text_response(429, "", header))
            with pytest.raises(SourceUnavailableError) as raised:
                read(source, entry)
            assert (raised.value.throttled, raised.value.retry_after) == (True, 37)


# --- large files ---


def test_a_file_in_xet_storage_comes_as_plain_bytes_with_its_sha256(hub: Hub, secret: Secret) -> None:
    hub.create("org/model", FILES, private=True)
    hub.add_token("hf_reader", "org/model")
    hub.xet = True
    with opened(hub, credentials_dir=secret("token", "hf_reader")) as source:
        entry = by_path(source)["org/model/model.safetensors"]
        assert entry.checksum is not None
        assert entry.checksum.value == hashlib.sha256(WEIGHTS).hexdigest()
        assert read(source, entry) == WEIGHTS
        assert read(source, entry, 1_000_000, 2_000_000) == WEIGHTS[1_000_000:2_000_000]
    assert {exchange.path.split("/")[1] for exchange in hub.cdn.traffic.exchanges} == {"xet-bridge-us"}
    assert not any("authorization" in exchange.headers for exchange in hub.cdn.traffic.exchanges)


def fetch(hub: Hub, root: Path, **transfer_settings: object) -> ProgressTracker:
    item = {"name": "src", "type": "hf", "repo_id": "org/model", "endpoint_url": hub.url, "target_path": "./"}
    config = DownloadConfig.model_validate(
        {"download_root": str(root), "download_items": [item], "transfer": transfer_settings}
    )
    observer = ProgressTracker()
    run_fetch(config, observer=observer, cancel=threading.Event())
    return observer


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_links_that_expire_during_a_transfer_are_renewed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 500_000)
    hub.create("org/model", FILES)
    hub.xet = xet
    expired = threading.Event()

    def expire(_: object) -> bool:
        if len(hub.cdn.traffic.exchanges) >= 3 and not expired.is_set():
            expired.set()
            hub.expire_links()
        return False

    hub.cdn.faults.add(Fault(), times=None, when=expire)
    fetch(hub, tmp_path / "root")
    assert expired.is_set()
    assert any(exchange.status == 403 for exchange in hub.cdn.traffic.exchanges)
    assert tree(tmp_path / "root") == FILES


def test_a_file_that_broke_off_is_resumed_by_the_next_run(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 500_000)
    hub.create("org/model", FILES)
    hub.xet = True
    hub.cdn.faults.add(Fault(status=500), times=None, when=lambda _: hub.cdn.traffic.bytes_sent >= 1_500_000)
    with pytest.raises(SourceUnavailableError):
        fetch(hub, tmp_path / "root", max_retries=0)
    hub.cdn.faults.clear()
    came = hub.cdn.traffic.bytes_sent
    fetch(hub, tmp_path / "root")
    assert tree(tmp_path / "root") == FILES
    assert came >= 1_500_000
    assert hub.cdn.traffic.bytes_sent - came <= len(WEIGHTS) - 500_000, "what had arrived is not asked for again"


# --- formats ---

ALL_FORMATS = {
    "config.json": b"{}",
    "tokenizer.model": b"words",
    "model.safetensors": b"weights",
    "model.safetensors.index.json": b"{}",
    "pytorch_model-00001-of-00001.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "training_args.bin": b"pickle",
    "original/consolidated.00.PTH": b"pickle",
    "tf_model.h5": b"keras",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
    "onnx/model.onnx_data": b"onnx",
    "model.Q4_K_M.gguf": b"llama.cpp",
    "model.ckpt.data-00000-of-00001": b"tensorflow",
    "model.ckpt.index": b"tensorflow",
    "coreml/text.mlpackage/Data/weights.json": b"core ml",
    "openvino/openvino_model.xml": b"openvino",
}


def test_safetensors_alone_leave_out_pickles_and_copies_for_other_frameworks(hub: Hub) -> None:
    hub.create("org/model", ALL_FORMATS)
    with opened(hub, formats="safetensors", target_path="./") as source:
        assert sorted(by_path(source)) == [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "tokenizer.model",
        ]
    with opened(hub, formats="all", target_path="./") as source:
        assert by_path(source).keys() == ALL_FORMATS.keys()


def test_a_model_without_safetensors_is_an_error_that_names_what_there_is(hub: Hub) -> None:
    hub.create("org/model", {"config.json": b"{}", "pytorch_model.bin": b"pickle", "tf_model.h5": b"keras"})
    with opened(hub, formats="safetensors") as source, pytest.raises(SourceNotFoundError) as raised:
        list(source.list())
    assert re.search(
        r"no weights in safetensors .* 'pytorch_model\.bin', 'tf_model\.h5'.* formats: all", str(raised.value)
    )
    with opened(hub, formats="safetensors", files=["*.json"]) as source:
        assert sorted(by_path(source)) == ["org/model/config.json"], "nobody asked for weights"


@pytest.mark.parametrize("settings", [{"files": ["old.bin"]}, {"path": "old.bin", "match": "object"}])
def test_a_file_that_is_named_and_left_out_by_its_format_is_a_config_error(hub: Hub, settings: dict[str, Any]) -> None:
    hub.create("org/model", ALL_FORMATS)
    contradiction = opened(hub, formats="safetensors", **settings)
    with contradiction as source, pytest.raises(InvalidConfigError, match=r"'old\.bin' is asked for by name"):
        list(source.list())


# --- where the Hub is ---


def test_a_mirror_is_named_by_the_environment_or_the_config(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", {"config.json": b"{}"})
    run = datafetch("get", "hf://org/model", "out", cwd=tmp_path, HF_ENDPOINT=hub.url + "/")
    assert run.code == 0, run.stderr
    assert tree(tmp_path / "out") == {"config.json": b"{}"}


def test_a_mirror_with_certificates_of_one_s_own(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/model", FILES)
    made = make_certificates(tmp_path / "tls")
    with Server(hub.handle, certificate=(made.certificate, made.key)) as mirror:
        with opened(hub, endpoint_url=mirror.url) as source, pytest.raises(InvalidConfigError, match="not trusted"):
            list(source.list())
        with opened(hub, endpoint_url=mirror.url, ca_bundle_file=str(made.ca_file)) as source:
            entries = by_path(source)
            assert entries.keys() == {f"org/model/{path}" for path in FILES}
            assert read(source, entries["org/model/config.json"]) == b"{}"
    # The SDK's client goes on as before elsewhere.
    with opened(hub) as source:
        assert len(by_path(source)) == len(FILES)
