"""docs/python.md and docs/sources/manifests.md: every block is run, and prints what stands below it."""

import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it has none
import pytest
import yaml
from pyarrow import parquet

from component.commands import tree
from datafetch.sources.membership import parse_manifest
from datafetch_api.rendering import download_item
from datafetch_api.resource import DataFetch
from servers.emulators import S3Server

DOCS = Path(__file__).parents[2] / "docs"
PYTHON = (DOCS / "python.md").read_text()
MANIFESTS = (DOCS / "sources/manifests.md").read_text()
ROWS = [f"{number},name {number}" for number in range(2000)]


@pytest.fixture
def training(
    s3_server: S3Server, only_loopback: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The bucket that the pages speak of, found by AWS's own variables; the working directory is empty."""
    table = io.BytesIO()
    parquet.write_table(pa.table({"id": range(4000), "text": ["text"] * 4000}), table, row_group_size=1000)
    files = {
        "index.csv": "\n".join(["id,name", *ROWS]).encode(),
        "images/0.bin": os.urandom(1_000_000),
        "images/1.bin": os.urandom(1_000_000),
        "notes.txt": b"what stands in a note\n",
        "tables/t.parquet": table.getvalue(),
    }
    s3_server.store.create("training")
    for key, data in files.items():
        s3_server.store.put("training", f"corpus/{key}", data)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.chdir(tmp_path)
    return files


def test_every_block_of_the_page_runs_and_prints_what_stands_below_it(
    training: dict[str, bytes], tmp_path: Path
) -> None:
    blocks = list(re.finditer(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PYTHON, re.DOTALL))
    names: dict[str, Any] = {"__name__": "docs"}
    assert len(blocks) > 12
    for block in blocks:
        line = PYTHON[: block.start(1)].count("\n")
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile("\n" * line + block[1], "docs/python.md", "exec"), names)
        assert printed.getvalue() == (block[2] or ""), f"docs/python.md:{line}"

    assert tree(tmp_path / "data/corpus") == training
    assert set(tree(tmp_path / "data/some")) == {"notes.txt", "tables/t.parquet"}
    assert tree(tmp_path / "data/slow") == {}


def test_the_fetch_with_a_manifest_is_one_and_the_forms_are_read() -> None:
    (resource, *_) = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", MANIFESTS, re.DOTALL)]
    (source,) = DataFetch.model_validate(resource).spec.sources
    item = download_item(source)
    assert (item.manifest, item.max_timestamp_spread) == ("manifest", 7200)

    (forms,) = re.findall(r"```json\n(.*?)```", MANIFESTS, re.DOTALL)
    assert [len(parse_manifest(form.encode(), "manifest")) for form in forms.splitlines()] == [1, 2, 2]


@pytest.mark.parametrize("page", ["python.md", "sources/manifests.md"])
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text()):
        assert (DOCS / page).parent.joinpath(target).exists(), target
