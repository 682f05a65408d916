"""docs/sources/{hugging-face,http}.md: the examples are valid, the links lead somewhere, what they count is so."""

import re
from pathlib import Path

import pytest

from datafetch.config import ConfigText, load
from datafetch.sources.weights import is_left_out
from datafetch_api.fields import ApiModel
from datafetch_api.sources import HttpFileSource, HttpIndex, HttpSource, HuggingFaceSource

SOURCES = Path(__file__).parents[3] / "docs/sources"
PAGES = {name: (SOURCES / f"{name}.md").read_text() for name in ("hugging-face", "http")}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_examples_are_valid(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert blocks
    for secret in re.findall(r"secretRef:\n\s+name: (\w+)", page):
        (tmp_path / secret).mkdir()
    for block in blocks:
        text = ConfigText("docs", block.encode())
        of_resource = {"target_dir": str(tmp_path), "secrets_dir": str(tmp_path)} if "apiVersion" in block else {}
        assert load(text, **of_resource).download_items


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("hugging-face", HuggingFaceSource),
        ("http", HttpSource),
        ("http", HttpIndex),
        ("http", HttpFileSource),
    ],
)
def test_every_field_of_the_resource_is_documented(page: str, model: type[ApiModel]) -> None:
    names = [field.alias or name for name, field in model.model_fields.items()]
    assert not [name for name in names if f"`{name}" not in PAGES[page]]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_links_lead_to_headings(page: str) -> None:
    for target, _, heading in re.findall(r"\]\(([^)#]+)(#([^)]+))?\)", page):
        text = (SOURCES / target).read_text()
        headings = [re.sub(r"[^\w -]", "", line).strip() for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        assert not heading or heading in [found.lower().replace(" ", "-") for found in headings]


def test_every_ending_that_is_said_to_be_left_out_is() -> None:
    section = PAGES["hugging-face"].partition("## `formats: Safetensors`")[2].partition("## ")[0]
    table = section.partition("| left out |")[2].partition("\n\n")[0]
    endings = set(re.findall(r"`(\.[a-z0-9_]+)`", table)) - {".index"}
    assert len(endings) > 25
    assert [ending for ending in endings if not is_left_out(f"dir/model{ending}")] == []
    assert is_left_out("model.mlpackage/x")
    assert is_left_out("model.ckpt.index")
