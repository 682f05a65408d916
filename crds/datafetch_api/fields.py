"""The scalars of the resource's fields, and how CEL rules and list types are written beside them. Pure.

What a rule says about one object without its past, the models check too: `datafetch run` reads resources that no API
server has seen.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel

from datafetch_api.quantities import BYTES_PATTERN, DURATION_PATTERN, parse_bytes, parse_duration


def rule(rule: str, message: str, **more: str) -> dict[str, str]:
    """Return one CEL rule, as it stands in a CRD."""
    return {"rule": rule, "message": message, **more}


def rules(*rules: dict[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schema values
    """Return what a model or a field says beside its schema: its CEL rules, and more."""
    return {"x-kubernetes-validations": list(rules), **more}


_SAFE_PATH = rule(
    "!self.startsWith('/') && self.split('/').all(s, s != '' && s != '.' && s != '..' && s != '.datafetch')",
    "must be a relative path without empty, '.', '..' or '.datafetch' segments",
)
_SOME_BYTES = rule("quantity(string(self)).isGreaterThan(quantity('0'))", "must be more than 0")
_SOME_TIME = rule("duration(self) > duration('0s')", "must be longer than 0s")


def default_is(value: object) -> AfterValidator:
    """Return a validator that takes the default, where somebody writes it, for what it is: nothing was said."""
    return AfterValidator(lambda given: None if given == value else given)


def require_safe_path(path: str) -> str:
    """Return a path that stays below its directory, and touches nothing of ours; raises ValueError."""
    if any(segment in ("", ".", "..", ".datafetch") for segment in path.split("/")):
        raise ValueError(_SAFE_PATH["message"])
    return path


def _require_some_bytes(text: str) -> str:
    if parse_bytes(text) == 0:
        raise ValueError(_SOME_BYTES["message"])
    return text


def _require_some_time(text: str) -> str:
    if parse_duration(text) == 0:
        raise ValueError(_SOME_TIME["message"])
    return text


def _from_number(value: object) -> object:
    """Return a plain number as a string: it is a quantity too, and YAML reads it as an integer."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ATOMIC = {"x-kubernetes-list-type": "atomic"}

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DnsLabel = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]
DnsSubdomain = Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
PATH_PATTERN = r"^[^\x00-\x1f\x7f]+$"
RelativePath = Annotated[
    str,
    StringConstraints(pattern=PATH_PATTERN, min_length=1, max_length=1024),
    AfterValidator(require_safe_path),
    Field(json_schema_extra=rules(_SAFE_PATH)),
]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Bytes = Annotated[
    str,
    StringConstraints(pattern=BYTES_PATTERN, max_length=32),
    BeforeValidator(_from_number),
    AfterValidator(_require_some_bytes),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "pattern": BYTES_PATTERN, "maxLength": 32, **rules(_SOME_BYTES)}
    ),
]
Duration = Annotated[
    str,
    StringConstraints(pattern=DURATION_PATTERN, min_length=2, max_length=16),
    AfterValidator(_require_some_time),
    Field(json_schema_extra=rules(_SOME_TIME)),
]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s@]+(/\S*)?$", max_length=2048)]
ObjectKey = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
OpenObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class ApiModel(BaseModel):
    """A model in the Kubernetes style: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )
