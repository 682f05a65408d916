import logging
import re
import textwrap
from pathlib import Path

import pytest

from datafetch.config import ConfigText, load
from datafetch.errors import InvalidConfigError
from datafetch_api.config import DownloadConfig, HuggingFaceItem, S3Item

RESOURCE = """\
apiVersion: datafetch.io/v1alpha1
kind: DataFetch
metadata: {name: tinyllama}
spec:
  sources:
  - name: weights
    path: model
    include: ["*.json"]
    secretRef: {name: hf}
    huggingFace: {repo: TinyLlama/TinyLlama-1.1B-Chat-v1.0}
  - name: corpus
    s3: {bucket: training, prefix: corpus/v3/, endpoint: https://minio.data.svc}
  target:
    persistentVolumeClaim: {claimName: data}
    path: elsewhere
  transfer: {maxConcurrency: 8, bandwidthLimit: 200Mi, stallTimeout: 90s}
"""


def read(text: str, **options: str) -> DownloadConfig:
    return load(ConfigText("datafetch.yaml", textwrap.dedent(text).encode()), **options)


def refusal(text: str, **options: str) -> str:
    with pytest.raises(InvalidConfigError) as caught:
        read(text, **options)
    return str(caught.value)


def test_the_data_lands_directly_in_the_target_directory() -> None:
    config = read(RESOURCE, target_dir="data")

    assert config.download_root == "data"
    assert config.managed is None
    weights, corpus = config.download_items
    assert isinstance(weights, HuggingFaceItem)
    assert isinstance(corpus, S3Item)
    assert weights.selection.target_path == "model/"
    assert corpus.items[0].items[0].target_path == "./"


def test_the_sources_keep_their_names_and_settings() -> None:
    weights, corpus = read(RESOURCE, target_dir="data").download_items

    assert isinstance(weights, HuggingFaceItem)
    assert isinstance(corpus, S3Item)
    assert (weights.name, weights.repo_id, weights.files) == (
        "weights",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        ("*.json",),
    )
    assert (corpus.name, corpus.endpoint_url, corpus.items[0].bucket) == (
        "corpus",
        "https://minio.data.svc",
        "training",
    )


def test_the_limits_of_the_transfer_hold_here_too() -> None:
    transfer = read(RESOURCE, target_dir="data").transfer

    assert (transfer.max_concurrency, transfer.bandwidth_limit, transfer.stall_timeout) == (8, 200 * 2**20, 90)


def test_without_a_target_directory_the_remedy_is_named() -> None:
    assert "say where its data goes here with --target-dir DIR" in refusal(RESOURCE)


def test_a_secret_is_the_directory_of_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "hf").mkdir()
    with caplog.at_level(logging.INFO):
        weights, corpus = read(RESOURCE, target_dir="data", secrets_dir=str(tmp_path)).download_items

    assert weights.credentials_dir == str(tmp_path / "hf")
    assert corpus.credentials_dir is None
    assert f"source 'weights': credentials from {tmp_path}/hf" in caplog.text
    assert "source 'corpus': credentials from the SDK's own chain" in caplog.text


def test_a_secret_that_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    sentence = refusal(RESOURCE, target_dir="data", secrets_dir=str(tmp_path))

    assert sentence.startswith("datafetch.yaml:9:17: spec.sources[0].secretRef.name names the Secret 'hf'")
    assert f"{tmp_path}/hf is not a directory" in sentence


def test_without_a_secrets_directory_the_sdk_s_chain_is_used_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        weights, _ = read(RESOURCE, target_dir="data").download_items

    assert weights.credentials_dir is None
    assert (
        "source 'weights': no --secrets-dir for the Secret 'hf', so credentials from the SDK's own chain" in caplog.text
    )


def test_other_documents_of_the_file_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n"
    with caplog.at_level(logging.INFO):
        config = read(f"{claim}---\n{RESOURCE}---\n# nothing\n", target_dir="data")

    assert len(config.download_items) == 2
    assert "datafetch.yaml:1:1: PersistentVolumeClaim is left out" in caplog.text


def test_two_resources_in_one_file_are_refused() -> None:
    sentence = refusal(f"{RESOURCE}---\n{RESOURCE}", target_dir="data")

    assert sentence.startswith("datafetch.yaml:19:1: a second DataFetch in one file")


def test_a_resource_read_back_from_a_cluster_is_accepted() -> None:
    text = RESOURCE.replace("{name: tinyllama}", "{name: tinyllama, uid: 1-2, managedFields: [], generation: 2}")
    text += "status: {phase: SomethingNew, conditions: [{unknown: true}]}\n"

    assert len(read(text, target_dir="data").download_items) == 2


# One row for each mistake: what is replaced by what, and the sentence.
MISTAKES = {
    "a misspelt field": (
        "bucket: training",
        "bukcet: training",
        r"12:10: spec\.sources\[1\]\.s3\.bukcet is not a known key; did you mean 'bucket'\?$",
    ),
    "a snake_case field": (
        "claimName: data",
        "claim_name: data",
        r"14:29: spec\.target\.persistentVolumeClaim\.claim_name .* did you mean 'claimName'\?",
    ),
    "another version": ("v1alpha1", "v1", r"1:1: apiVersion is 'datafetch\.io/v1'; write datafetch\.io/v1alpha1"),
    "no version": ("apiVersion: datafetch.io/v1alpha1\n", "", r"1:1: apiVersion is missing; write datafetch\.io"),
    "a kind of another spelling": ("kind: DataFetch", "kind: Datafetch", "2:1: kind is 'Datafetch'; did you mean"),
    "two providers": ("s3: {", "gcs: {bucket: b}\n    s3: {", r"11:5: spec\.sources\[1\] .*exactly one of s3"),
    "no provider": ("    huggingFace: {repo: TinyLlama/TinyLlama-1.1B-Chat-v1.0}\n", "", "exactly one of s3"),
    "key and prefix": ("prefix: corpus/v3/", "prefix: a/, key: b", "either key or prefix, not both"),
    "a path out of the target": ("path: model", "path: ../model", r"7:5: spec\.sources\[0\]\.path must be a relative"),
    "a duration without a unit": ("90s", '"90"', r"spec\.transfer\.stallTimeout is '90'; it must be of the form"),
    "two sources of one name": ("name: corpus", "name: weights", "cannot be used: .*weights"),
    "a URI that is none": ("s3: {bucket: training, prefix: corpus/v3/, endpoint: https://minio.data.svc}",
                           "uri: ftp://x/y", r"spec\.sources\[1\]\.uri is not right"),
    "no bucket in a URI": ("s3: {bucket: training, prefix: corpus/v3/, endpoint: https://minio.data.svc}",
                           "uri: s3:///y", r"12:5|11:5"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_dotted_path(mistake: str) -> None:
    old, new, said = MISTAKES[mistake]
    assert old in RESOURCE

    sentence = refusal(RESOURCE.replace(old, new, 1), target_dir="data")

    assert sentence.startswith("datafetch.yaml:")
    assert re.search(said, sentence)
    assert "\n" not in sentence


def test_a_password_in_a_uri_is_never_repeated() -> None:
    text = RESOURCE.replace("https://minio.data.svc", "https://user:hunter2@minio.data.svc")

    assert "hunter2" not in refusal(text, target_dir="data")
