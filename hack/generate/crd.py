"""From the pydantic models to a CustomResourceDefinition with a structural schema. Pure; writes nothing.

Pydantic's JSON schema is close to what an API server takes, and differs in these points: no `$ref`, no `anyOf` with
null (an unset field is absent), no `title`, no `additionalProperties: false` beside `properties` (unknown fields are
pruned, or refused by the client), no defaults that only say "nothing", and none in the status: its writer says all.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from datafetch_api import GROUP, KIND, PLURAL, VERSION
from datafetch_api.resource import DataFetch

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]

SHORT_NAME = "df"
CATEGORY = "datafetch"
_ORDER = ("description", "type", "format", "enum", "default", "anyOf", "pattern")
_KEPT = {
    *_ORDER,
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minimum", "maximum"),
    *("required", "properties", "items", "additionalProperties"),
}
_DROPPED = {"title", "readOnly", "const"}


def _column(name: str, kind: str, path: str, *, wide: bool = False, description: str = "") -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    if description:
        column["description"] = description
    return {**column, "priority": 1} if wide else column


COLUMNS = [
    _column("Phase", "string", ".status.phase"),
    _column("Progress", "string", ".status.progress.display", description="Percent; bytes until the total is known."),
    _column("Size", "string", ".status.size"),
    _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    _column("Age", "date", ".metadata.creationTimestamp"),
    _column("Speed", "string", ".status.progress.speed", wide=True),
    _column("ETA", "string", ".status.progress.estimatedCompletionTime", wide=True),
    _column("Claim", "string", ".spec.target.persistentVolumeClaim.claimName", wide=True),
    _column("Revision", "string", ".status.sources[0].resolvedRevision", wide=True, description="Of the first source."),
    _column("Attempts", "integer", ".status.attempts", wide=True),
    _column("Consumers", "integer", ".status.consumers.count", wide=True, description="Pods that ask for it."),
    _column("Reason", "string", ".status.reason", wide=True),
]
SELECTABLE = [".spec.target.persistentVolumeClaim.claimName", ".status.phase"]


def definition() -> Schema:
    """Return the CustomResourceDefinition of DataFetch."""
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": [SHORT_NAME],
        "categories": [CATEGORY],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": path} for path in SELECTABLE],
        "additionalPrinterColumns": COLUMNS,
        "schema": {"openAPIV3Schema": resource_schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def resource_schema() -> Schema:
    """Return the structural schema of the resource.

    Raises ValueError where a field has no description, or uses what a structural schema cannot hold.
    """
    raw = DataFetch.model_json_schema(mode="serialization")
    schema = _structural(raw, raw.pop("$defs"))
    properties = schema["properties"]
    properties["apiVersion"] = {"description": "The API's group and version.", "type": "string"}
    properties["kind"] = {"description": "The kind of the object.", "type": "string"}
    properties["metadata"] = {"type": "object"}
    _drop_defaults(properties["status"])
    for path, field in _fields(schema, ""):
        if path != "metadata" and not field.get("description"):
            raise ValueError(f"{path} has no description; give the field in datafetch_api a docstring")
    return schema


def to_yaml(document: Schema) -> str:
    """Return the document as YAML, in the order of its keys and without anchors."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Write a shared value each time in full: anchors are hard to read, and templates copy parts."""
        del data
        return True


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the node as a structural schema, without references."""
    node = _merged(node, definitions)
    if "const" in node:
        node["enum"] = [node["const"]]
    if node.get("x-kubernetes-int-or-string"):
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    elif "anyOf" in node:
        raise ValueError(f"a structural schema cannot hold this choice: {node['anyOf']}")
    if node.get("type") == "integer":
        node["format"] = "int64"
    if "description" in node:
        node["description"] = " ".join(node["description"].split())
    if "properties" in node:
        _add_properties(node, definitions)
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    else:
        node.pop("additionalProperties", None)
    if "items" in node:
        node["items"] = _structural(node["items"], definitions)
    _set_default(node)
    return _ordered(node)


def _merged(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return the node with its reference, or its one alternative beside null, put in its place."""
    node = dict(node)
    alternatives = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(alternatives) == 1:
        del node["anyOf"]
        return _merged(alternatives[0] | node, definitions)
    if alternatives and node.get("x-kubernetes-int-or-string"):
        texts = [option for option in alternatives if option["type"] == "string"]
        return {**{key: value for key, value in texts[0].items() if key != "type"}, **node}
    reference = node.pop("$ref", None)
    if reference is None:
        return node
    return _merged(definitions[reference.rpartition("/")[2]] | node, definitions)


def _add_properties(node: Schema, definitions: dict[str, Schema]) -> None:
    computed = {name for name, field in node["properties"].items() if field.get("readOnly")}
    node["properties"] = {name: _structural(field, definitions) for name, field in node["properties"].items()}
    required = [name for name in node.pop("required", ()) if name not in computed]
    if required:
        node["required"] = required


def _set_default(node: Schema) -> None:
    """Keep a default that says something; an object gets `{}` where defaults inside it wait for their parent."""
    default = node.pop("default", None)
    if isinstance(default, dict):
        if any("default" in field for field in node.get("properties", {}).values()):
            node["default"] = {}
    elif default is not None and default != []:
        node["default"] = default


def _ordered(node: Schema) -> Schema:
    unknown = {key for key in node if not key.startswith("x-kubernetes-")} - _KEPT - _DROPPED
    if unknown:
        raise ValueError(f"a structural schema cannot hold {', '.join(sorted(unknown))}: {node.get('title', node)}")
    first = {key: node[key] for key in _ORDER if key in node}
    nested = {key: node[key] for key in ("required", "properties", "items", "additionalProperties") if key in node}
    rest = {key: value for key, value in node.items() if key not in {*first, *nested, *_DROPPED}}
    return first | rest | nested


def _drop_defaults(node: Schema) -> None:
    node.pop("default", None)
    for inner in (*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")):
        if inner:
            _drop_defaults(inner)


def _fields(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for name, field in node.get("properties", {}).items():
        inner = f"{path}.{name}".removeprefix(".")
        yield inner, field
        yield from _fields(field, inner)
    if "items" in node:
        yield from _fields(node["items"], f"{path}[]")
