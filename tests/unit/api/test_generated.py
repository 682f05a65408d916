"""What is generated from the models is up to date, and says something about every field."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[3]


def _generate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(_ROOT / "hack/generate"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_generated_is_stale() -> None:
    done = _generate("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    document = yaml.safe_load((_ROOT / "crds/datafetch.io_datafetches.yaml").read_text())
    found: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _nodes(node: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)]
    for name, inner in node.get("properties", {}).items():
        found += _nodes(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            found += _nodes(node[name], f"{path}[]")
    return found


def test_every_field_has_a_text_of_whole_words(schema: dict[str, Any]) -> None:
    fields = [(path, node) for path, node in _nodes(schema, "") if not path.endswith(("[]", ".metadata"))]
    assert len(fields) > 100
    assert [path for path, node in fields if not node.get("description", "").endswith(".")] == []
    assert [path for path, node in fields if "\n" in node["description"]] == []


_BORN_WITH_A_DEFAULT = {
    "spec.job",
    "spec.job.backoffLimit",
    "spec.sources[].azureBlob.anonymous",
    "spec.sources[].caBundle.key",
    "spec.sources[].gcs.anonymous",
    "spec.sources[].git.lfs",
    "spec.sources[].git.revision",
    "spec.sources[].git.submodules",
    "spec.sources[].http.index.format",
    "spec.sources[].huggingFace.repoType",
    "spec.sources[].huggingFace.revision",
    "spec.sources[].lakeFS.ref",
    "spec.sources[].s3.addressingStyle",
    "spec.sources[].s3.anonymous",
    "spec.sources[].unpackLimits.maxBytes",
    "spec.sources[].unpackLimits.maxFiles",
    "spec.sources[].unpackLimits.maxRatio",
    "spec.suspend",
    "spec.target.keepRevisions",
    "spec.target.persistentVolumeClaim.create.accessModes",
    "spec.target.persistentVolumeClaim.create.deletionPolicy",
    "spec.transfer",
    "spec.transfer.maxConcurrency",
    "spec.transfer.stallTimeout",
    "spec.transfer.verify",
}


def test_no_field_that_is_added_later_has_a_default_in_the_crd(schema: dict[str, Any]) -> None:
    """The API server fills it in for objects that are there, and the operator before the upgrade refuses them all.

    Only the fields of an object that is new with them may join this list.
    """
    found = {path for path, node in _nodes(schema["properties"]["spec"], "spec") if "default" in node}
    assert found == _BORN_WITH_A_DEFAULT


def test_every_string_and_list_of_the_spec_has_a_bound(schema: dict[str, Any]) -> None:
    """Without them, the cost of a rule is estimated from the largest request there can be."""
    unbounded = []
    for path, node in _nodes(schema["properties"]["spec"], "spec"):
        kind, open_ = node.get("type"), "x-kubernetes-preserve-unknown-fields" in node
        limits = {"string": {"maxLength", "enum"}, "array": {"maxItems"}, "object": {"maxProperties", "properties"}}
        if not open_ and kind in limits and not limits[kind] & set(node):
            unbounded.append(path)
    assert unbounded == []
