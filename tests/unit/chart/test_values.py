"""The chart's values and their schema, which refuses keys that it does not know: the two have to name the same keys.

What the chart renders needs Helm, and is tested with the CRD in `tests/crd/test_chart.py`.
"""

import json
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[3] / "helm/datafetch"


def test_every_value_is_described_and_every_description_has_a_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"].pop("global")) == {"description", "type"}
    assert _described(schema) == _valued(values, schema)


def _described(schema: dict[str, Any], path: str = "") -> set[str]:
    found = set[str]()
    for name, inner in schema.get("properties", {}).items():
        assert inner["description"], f"{path}{name}"
        found |= {f"{path}{name}"} | _described(inner, f"{path}{name}.")
    return {name for name in found if not name.endswith("resources.claims")}


def _valued(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> set[str]:
    found = set[str]()
    for name, value in values.items():
        found.add(f"{path}{name}")
        inner = schema["properties"][name]
        if "properties" in inner:
            found |= _valued(value, inner, f"{path}{name}.")
    return found
