"""What pydantic found wrong with a file, as sentences for people: the place, the path, what to do.

Pure: from a validation error, the model and the document to sentences; `documents.InvalidTextError` carries them.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from datafetch_api.documents import Document, Path
from datafetch_api.printable import single_line

_LONGEST_VALUE = 60
_TYPES = ("s3", "gcs", "azure-blob", "hf", "http")
_OTHER_NAMES = {
    "aws": "s3",
    "azure": "azure-blob",
    "azureblob": "azure-blob",
    "gs": "gcs",
    "https": "http",
    "huggingface": "hf",
    "hugging-face": "hf",
    "hugging_face": "hf",
    "minio": "s3",
    "repo": "repo_id",
    "url": "endpoint_url",
}
"""What people write who come from another tool."""


def problems(error: ValidationError, model: type[BaseModel], document: Document) -> list[str]:
    """Return one sentence for each place that is wrong, in the order of the file."""
    found: dict[Path, str] = {}
    details = [(detail, _path_in_file(detail, document.value)) for detail in error.errors(include_url=False)]
    guessed = {
        (*path[:-1], did_you_mean(str(path[-1]), _keys_at(model, detail["loc"][:-1])))
        for detail, path in details
        if detail["type"] == "extra_forbidden"
    }
    for detail, path in sorted(details, key=lambda each: document.position(each[1])):
        if _follows_from_another(detail, path, guessed, document):
            continue
        # A union reports once for each of its members; the first one is enough.
        found.setdefault(path, sentence(document, path, _explain(detail, path, model, document)))
    return list(found.values())


def _follows_from_another(
    detail: ErrorDetails, path: Path, guessed: Collection[tuple[str | int | None, ...]], document: Document
) -> bool:
    """Say whether a problem goes when another one does: a key that is only misspelt, a list whose entries are wrong."""
    if detail["type"] == "missing":
        return path in guessed
    return detail["type"] == "too_short" and not document.is_empty_list(path)


def sentence(document: Document, path: Path, what: str) -> str:
    """Return `FILE:LINE:COLUMN: path what`."""
    dotted = dotted_path(path)
    return f"{document.place(path)}: {dotted} {what}" if dotted else f"{document.place(path)}: {what}"


def dotted_path(path: Path) -> str:
    """Return a path as people write it: `download_items[1].items[0].bucket`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return single_line(text.removeprefix("."))


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is nearest to what was written, or None where none is near."""
    known = list(known)
    other = _OTHER_NAMES.get(word.lower())
    if other in known:
        return other
    folded = {name.replace("_", "").replace("-", "").lower(): name for name in known}
    near = difflib.get_close_matches(word.replace("_", "").replace("-", "").lower(), folded, n=1, cutoff=0.7)
    return folded[near[0]] if near else None


def _path_in_file(detail: ErrorDetails, value: Any) -> Path:  # noqa: ANN401 - any YAML value
    """Return the error's path without what is not in the file: pydantic names the members of unions in it."""
    path: list[str | int] = []
    steps = detail["loc"]
    for position, step in enumerate(steps):
        is_last = position == len(steps) - 1
        if _has(value, step):
            value = value[step]
        elif not (is_last and detail["type"] == "missing"):
            continue
        path.append(step)
    if detail["type"] == "union_tag_invalid":
        path.append(str(detail["ctx"]["discriminator"]).strip("'"))
    return tuple(path)


def _has(value: Any, step: str | int) -> bool:  # noqa: ANN401 - any YAML value
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


@dataclass(frozen=True)
class _Wrong:
    """One of pydantic's errors, with what a sentence needs."""

    kind: str
    path: Path
    value: Any
    context: dict[str, Any]
    message: str
    written: str | None
    """The scalar as it stands in the file."""
    known_keys: Sequence[str]


_SENTENCES: dict[str, Callable[[_Wrong], str]] = {
    "extra_forbidden": lambda wrong: _explain_unknown_key(str(wrong.path[-1]), wrong.known_keys),
    "missing": lambda _: "is missing; add it",
    "union_tag_not_found": lambda _: f"has no type; give one of {', '.join(_TYPES)}",
    "union_tag_invalid": lambda wrong: _explain_choice(str(wrong.context["tag"]), _TYPES),
    "literal_error": lambda wrong: _explain_choice(wrong.value, _choices(wrong)),
    "enum": lambda wrong: _explain_choice(wrong.value, _choices(wrong)),
    "string_type": lambda wrong: _explain_text(wrong.value, wrong.written),
    "too_short": lambda _: "is empty; give at least one entry",
    "string_too_short": lambda _: "is empty; give it a value or remove the key",
    "too_long": lambda wrong: f"has too many entries; at most {wrong.context['max_length']}",
    "string_too_long": lambda wrong: f"is too long; at most {wrong.context['max_length']} characters",
    "tuple_type": lambda wrong: f"is {_kind_of(wrong.value)}; it must be a list, with '- ' before each entry",
    "list_type": lambda wrong: f"is {_kind_of(wrong.value)}; it must be a list, with '- ' before each entry",
    "model_type": lambda wrong: f"is {_kind_of(wrong.value)}; it must be a mapping of keys to values",
    "model_attributes_type": lambda wrong: f"is {_kind_of(wrong.value)}; it must be a mapping of keys to values",
    "dict_type": lambda wrong: f"is {_kind_of(wrong.value)}; it must be a mapping of keys to values",
    "string_pattern_mismatch": lambda wrong: f"is {_shown(wrong.value)}; it must be {_form(wrong.context['pattern'])}",
    "value_error": lambda wrong: _from_validator(str(wrong.context["error"]), wrong.path),
    "int_type": lambda wrong: f"is {_shown(wrong.value)}; it must be a whole number",
    "int_parsing": lambda wrong: f"is {_shown(wrong.value)}; it must be a whole number",
    "int_from_float": lambda wrong: f"is {_shown(wrong.value)}; it must be a whole number",
    "bool_type": lambda wrong: f"is {_shown(wrong.value)}; it must be true or false",
    "bool_parsing": lambda wrong: f"is {_shown(wrong.value)}; it must be true or false",
    "greater_than_equal": lambda wrong: f"is {_shown(wrong.value)}; it must be at least {wrong.context['ge']}",
    "less_than_equal": lambda wrong: f"is {_shown(wrong.value)}; it must be at most {wrong.context['le']}",
}
"""By pydantic's error type, what follows the path in the sentence."""


def _explain(detail: ErrorDetails, path: Path, model: type[BaseModel], document: Document) -> str:
    wrong = _Wrong(
        detail["type"],
        path,
        detail["input"],
        detail.get("ctx", {}),
        detail["msg"],
        document.text(path),
        _keys_at(model, detail["loc"][:-1]),
    )
    return _SENTENCES.get(wrong.kind, _explain_otherwise)(wrong)


def _explain_otherwise(wrong: _Wrong) -> str:
    return f"is {_shown(wrong.value)}: {wrong.message[:1].lower()}{wrong.message[1:]}"


def _from_validator(message: str, path: Path) -> str:
    """Let `must be ...` follow the path, and set a whole sentence off from it."""
    return message if not path or message.startswith(("must ", "is ")) else f"cannot be used: {message}"


def _explain_unknown_key(key: str, known: Collection[str]) -> str:
    nearest = did_you_mean(key, known)
    if nearest is not None:
        return f"is not a known key; did you mean {nearest!r}?"
    return f"is not a known key; the keys here are {', '.join(sorted(known))}"


def _explain_choice(value: object, choices: Sequence[str]) -> str:
    nearest = did_you_mean(str(value), choices)
    if nearest is not None:
        return f"is {_shown(value)}; did you mean {nearest!r}?"
    listed = ", ".join(choices)
    return f"is {_shown(value)}; it must be {listed if len(choices) == 1 else f'one of {listed}'}"


def _choices(wrong: _Wrong) -> list[str]:
    return str(wrong.context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")


def _explain_text(value: object, written: str | None) -> str:
    if value is None:
        return "has no value; give it one or remove the key"
    if written is not None:
        return f'is {_kind_of(value)}; it must be text: write "{written[:_LONGEST_VALUE]}", with the quotes'
    return f"is {_kind_of(value)}; it must be text"


def _form(pattern: str) -> str:
    if pattern.startswith("^[a-z0-9]([-a-z0-9]*[a-z0-9])?"):
        return "lower-case letters, digits and hyphens, like my-name"
    return f"of the form {pattern}"


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return "a date"


def _shown(value: object) -> str:
    """Return a scalar for a message; never a URL, which may hold a password, and nothing long."""
    if isinstance(value, dict | list | tuple) or value is None:
        return _kind_of(value)
    text = str(value)
    if "://" in text or "@" in text:
        return "not right"
    if not isinstance(value, str):
        return text
    return repr(text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "...")


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that a file may have at one of pydantic's locations."""
    types: list[Any] = [model]
    for step in location:
        types = [inner for outer in types for inner in _step_into(outer, step)] or types
    return sorted({key for each in types for leaf in _leaves(each) if _is_model(leaf) for key in _keys(leaf)})


def _step_into(annotation: Any, step: str | int) -> Iterator[Any]:  # noqa: ANN401 - annotations have no type
    for leaf in _leaves(annotation):
        arguments = get_args(leaf)
        if get_origin(leaf) in (list, tuple, set) and isinstance(step, int):
            yield arguments[0]
        elif get_origin(leaf) is dict:
            yield arguments[1]
        elif _is_model(leaf):
            yield from _step_into_model(leaf, step)


def _step_into_model(model: type[BaseModel], step: str | int) -> Iterator[Any]:
    tag = model.model_fields.get("type")
    if tag is not None and get_args(tag.annotation) == (step,):
        yield model
        return
    for name, field in model.model_fields.items():
        if step in (name, field.alias):
            yield field.annotation


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _leaves(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - annotations have no type
    """Yield the members of unions, and what `Annotated` annotates."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _leaves(member)
    elif origin is not Literal:
        yield annotation


def _is_model(annotation: Any) -> bool:  # noqa: ANN401 - annotations have no type
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
