import hashlib
import io
import re
import textwrap
from pathlib import Path

import pytest

from datafetch.config import ConfigText, InvalidFileError, check_digest, load, read_text
from datafetch.errors import InvalidConfigError
from datafetch_api.config import DownloadConfig, GCSItem, HuggingFaceItem, S3Item
from unit.downloader.kaiwo_examples import EXAMPLES, config_with

HF = "download_root: d\ndownload_items:\n  - type: hf\n    name: x\n    repo_id: a/b\n"


def read(text: str, **options: str) -> DownloadConfig:
    return load(ConfigText("c.yaml", textwrap.dedent(text).encode()), **options)


def refusal(text: str, **options: str) -> str:
    with pytest.raises(InvalidConfigError) as caught:
        read(text, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_example_of_the_kaiwo_downloader_is_read_as_it_stands(name: str) -> None:
    config = read(config_with(EXAMPLES[name]))

    assert config.download_root == "test/output"
    assert [item.type for item in config.download_items] == [name]


def test_all_four_examples_of_the_kaiwo_downloader_are_one_config() -> None:
    config = read(config_with(*EXAMPLES.values()))

    assert [item.name for item in config.download_items] == [
        "Hugging Face download example",
        "Test GCS",
        "Test Minio",
        "Test Azurite",
    ]


def test_kaiwo_s_hugging_face_data_goes_below_download_root_at_its_repo_id() -> None:
    item = read(config_with(EXAMPLES["hf"])).download_items[0]

    assert isinstance(item, HuggingFaceItem)
    assert item.selection.target_path == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert item.selection.patterns == ("README.md",)


def test_kaiwo_s_gcs_paths_are_prefixes_with_a_glob_and_one_object_without() -> None:
    item = read(config_with(EXAMPLES["gcs"])).download_items[0]

    assert isinstance(item, GCSItem)
    assert item.application_credentials_path == "test/secrets/gcs/credentials.json"
    chosen = [(each.path, each.effective_match, each.target_path) for each in item.items[0].items]
    assert chosen == [
        (".", "prefix", "gcs/all"),
        ("subdir", "prefix", "gcs/sub"),
        ("subdir/file02.txt", "object", "gcs/single.txt"),
        (".", "prefix", "gcs/glob"),
    ]


def test_s3_without_keys_is_not_anonymous() -> None:
    item = read(
        """
        download_root: d
        download_items:
          - {type: s3, name: x, items: [{bucket: b, items: [{path: .}]}]}
        """
    ).download_items[0]

    assert isinstance(item, S3Item)
    assert not item.anonymous


# One row for each mistake: the text, the place it is in, and what the sentence says beside it.
MISTAKES = {
    "unknown key": (HF + "    revsion: v1\n", "6:5", r"download_items\[0\]\.revsion .* did you mean 'revision'\?"),
    "key of another spelling": (HF + "    targetPath: x\n", "6:5", "did you mean 'target_path'"),
    "key that is nothing like any": (HF + "    zzz: x\n", "6:5", "the keys here are .*repo_id.*revision"),
    "misspelt key that is required": (
        "download_root: d\ndownload_items:\n- type: s3\n  name: x\n  items:\n  - bukcet: b\n    items: [{path: .}]\n",
        "6:5",
        r"download_items\[0\]\.items\[0\]\.bukcet is not a known key; did you mean 'bucket'\?$",
    ),
    "unknown type": ("download_root: d\ndownload_items:\n- {type: S3, name: x}\n", "3:4", "did you mean 's3'"),
    "type by another tool's name": (
        "download_root: d\ndownload_items:\n- {type: huggingface, name: x}\n",
        "3:4",
        "did you mean 'hf'",
    ),
    "no type": ("download_root: d\ndownload_items:\n- {name: x}\n", "3:3", "has no type; give one of s3, gcs"),
    "no task": ("download_root: d\ndownload_items: []\n", "2:1", "download_items is empty; give at least one"),
    "no list of tasks": ("download_root: d\n", "1:1", "download_items is missing"),
    "empty list of tasks": ("download_root: d\ndownload_items:\n", "2:1", "download_items is empty"),
    "no download_root": (HF.partition("\n")[2], "1:1", "download_root is missing; name the directory"),
    "no repo_id": ("download_root: d\ndownload_items:\n- {type: hf, name: x}\n", "3:3", "repo_id is missing"),
    "text that YAML takes for a number": (HF + "    revision: 1.10\n", "6:5", 'is a number; .* write "1.10"'),
    "text that YAML takes for a date": (HF + "    revision: 2024-01-01\n", "6:5", 'is a date; .*"2024-01-01"'),
    "text that YAML takes for a boolean": (HF + "    revision: no\n", "6:5", 'true or false; .* write "no"'),
    "a key without a value": (HF + "    revision:\n", "6:5", "revision has no value"),
    "text instead of a list": (HF + "    files: README.md\n", "6:5", "files is text; it must be a list"),
    "a choice that is none": (HF + "    repo_type: modle\n", "6:5", "did you mean 'model'"),
    "one of two keys that belong together": (
        HF.replace("hf", "s3").replace("repo_id: a/b", "access_key_id_file: k\n    items: [{bucket: b, items: [{}]}]"),
        "3:5",
        r"download_items\[0\] .*access_key_id_file and secret_key_file belong together",
    ),
    "two tasks of one name": (HF + HF.partition("items:\n")[2], "1:1", "two download_items are named 'x'"),
    "a limit of nothing": ("transfer: {max_concurrency: 0}\n" + HF, "1:12", "is 0; it must be at least 1"),
    "a repeated key": (HF + "    repo_id: c/d\n", "6:5", r"'repo_id' is given twice \(first in line 5\)"),
    "tabs": ("download_root: d\ndownload_items:\n\t- type: hf\n", "3:1", "indent with spaces, not tabs"),
    "no YAML": ("download_root: a: b\n", "1:17", "not YAML: mapping values are not allowed"),
    "a date that is none": ("download_root: 2026-13-45\n", "1:16", "put it in quotes"),
    "a tag that builds an object": ("a: !!python/object:os.system x\n", "1:4", "not YAML"),
    "an anchor that is not there": ("download_root: *x\n", "1:16", "undefined alias"),
    "an anchor that holds itself": ("a: &a [*a]\n", "1:4", "the anchor holds itself"),
    "a list": ("- a\n", "1:1", "a config is a mapping"),
    "a word": ("hello\n", "1:1", "a config is a mapping"),
    "two documents": ("a: 1\n---\nb: 1\n", "3:1", "holds 2 documents"),
    "a Pod": ("kind: Pod\n", "1:1", "kind is 'Pod'; this command runs a DataFetch or a config"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(mistake: str) -> None:
    text, place, said = MISTAKES[mistake]

    sentence = refusal(text)

    assert sentence.startswith(f"c.yaml:{place}: ")
    assert re.search(said, sentence)
    assert "\n" not in sentence


def test_every_mistake_of_a_file_is_listed_the_first_in_the_sentence() -> None:
    with pytest.raises(InvalidFileError) as caught:
        read(HF.removeprefix("download_root: d\n") + "    revsion: v1\n    files: 3\n")

    assert str(caught.value).endswith("download_root is missing; name the directory that the data goes to"
                                      " (and 2 more problems)")  # fmt: skip
    assert [other.split(": ", 1)[0] for other in caught.value.others] == ["c.yaml:5:5", "c.yaml:6:5"]


@pytest.mark.parametrize("value", ["https://user:hunter2@host/x", "https://host/x?X-Amz-Signature=hunter2"])
def test_a_message_never_repeats_a_url(value: str) -> None:
    sentence = refusal(HF + f"    match: {value}\n    repo_type: {value}\n")

    assert "hunter2" not in sentence


def test_anchors_that_unfold_to_millions_of_values_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    assert "more than 1,000,000 values" in refusal("\n".join(levels))


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000])
def test_a_file_of_nothing_but_brackets_is_refused(text: str) -> None:
    assert "nested more than 50 levels deep" in refusal(text)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00a", b"PK\x03\x04\xff"])
def test_a_file_that_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidConfigError, match="not text in UTF-8"):
        load(ConfigText("c.yaml", data))


def test_a_file_of_many_megabytes_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="more than 8 MiB"):
        load(ConfigText("c.yaml", b"#" * (8 * 2**20 + 1)))


def test_an_empty_file_is_refused() -> None:
    assert refusal("# nothing\n") == "c.yaml is empty; write download_root and download_items"


def test_anchors_and_merge_keys_work() -> None:
    config = read(
        """
        download_root: d
        download_items:
          - &hub {type: hf, name: one, repo_id: a/b, revision: v1}
          - {<<: *hub, name: two, repo_id: a/c}
        """
    )

    assert [(item.name, getattr(item, "revision", "")) for item in config.download_items] == [
        ("one", "v1"),
        ("two", "v1"),
    ]


def test_the_target_directory_of_the_command_line_replaces_the_config_s() -> None:
    managed = "managed: {volume: /v, path: p, namespace: n, name: n, uid: u, spec_hash: h}\n"

    assert read(HF, target_dir="elsewhere").download_root == "elsewhere"
    assert read(HF.partition("\n")[2], target_dir="elsewhere").download_root == "elsewhere"
    config = read(managed + HF.partition("\n")[2], target_dir="elsewhere")
    assert (config.managed, config.download_root) == (None, "elsewhere")


def test_a_secrets_directory_means_nothing_to_a_config() -> None:
    assert "--secrets-dir is for a DataFetch resource" in refusal(HF, secrets_dir="s")


def test_the_text_comes_from_the_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"text")

    assert read_text(str(file), {"DATAFETCH_CONFIG": "other"}) == ConfigText(str(file), b"text")


def test_the_text_comes_from_standard_input_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text")))

    assert read_text("-", {}) == ConfigText("standard input", b"text")


def test_the_text_comes_from_the_environment_where_no_file_is_named() -> None:
    assert read_text(None, {"DATAFETCH_CONFIG": "text"}) == ConfigText("DATAFETCH_CONFIG", b"text")


@pytest.mark.parametrize(("argument", "said"), [(None, "no config: name a file"), ("nope.yaml", "no config file")])
def test_without_any_text_the_remedy_is_named(argument: str | None, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        read_text(argument, {})


def test_a_directory_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="is a directory"):
        read_text(str(tmp_path), {})


def test_a_config_with_another_digest_is_refused() -> None:
    text = ConfigText("c.yaml", b"text")
    digest = f"sha256:{hashlib.sha256(b'text').hexdigest()}"

    check_digest(text, None)
    check_digest(text, digest)
    with pytest.raises(InvalidConfigError, match=f"has the digest {digest}, and --config-digest asks for sha256:00"):
        check_digest(text, "sha256:" + "0" * 64)
