"""docs/commands.md, docs/config.md and the example configs say what the code does."""

import argparse
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from datafetch.cli import make_parser
from datafetch.config import ConfigText, load
from datafetch_api import config as models

ROOT = Path(__file__).parents[3]
COMMANDS = (ROOT / "docs/commands.md").read_text()
CONFIG = (ROOT / "docs/config.md").read_text()
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("config*.yaml"))


def options() -> set[str]:
    found: set[str] = set()
    waiting: list[argparse.ArgumentParser] = [make_parser()]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting.extend(action.choices.values())
            found.update(option for option in action.option_strings if option.startswith("--"))
    return found


def test_every_option_is_documented_and_every_documented_one_is_there() -> None:
    assert set(re.findall(r"--[a-z][a-z-]+", COMMANDS)) == options()


@pytest.mark.parametrize(
    "model", [value for value in vars(models).values() if isinstance(value, type) and issubclass(value, BaseModel)]
)
def test_every_key_of_the_config_is_documented(model: type[BaseModel]) -> None:
    missing = [name for name in model.model_fields if not re.search(rf"`(transfer\.)?{name}`", CONFIG)]
    assert not set(missing) - {"transfer"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_config_can_be_run(path: Path) -> None:
    assert load(ConfigText(path.name, path.read_bytes())).download_items


def test_the_example_config_has_every_kind_of_source() -> None:
    config = load(ConfigText("config.yaml", (ROOT / "examples/config.yaml").read_bytes()))

    assert {item.type for item in config.download_items} == {"s3", "gcs", "azure-blob", "hf", "http"}


def test_the_configs_in_the_docs_can_be_run() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", CONFIG, re.DOTALL)

    assert blocks
    for block in blocks:
        load(ConfigText("docs", block.encode()))


@pytest.mark.parametrize("text", [COMMANDS, CONFIG], ids=["commands", "config"])
def test_links_lead_to_files(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / "docs" / target).exists(), target
