"""YAML text as plain values that know where they stand in the file: `config.yaml:7:9`.

Reads what `yaml.SafeLoader` would, and refuses what it lets pass: a key given twice, anchors that unfold without end,
text that is not UTF-8. Pure; knows nothing of what the values mean: `problems` says what is wrong with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

# The C parser is ten times as fast and part of most builds of PyYAML.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LARGEST_TEXT = 8 * 2**20
"""Bytes. A list of 50,000 URLs fits; a file of weights named by mistake does not."""
_MOST_VALUES = 1_000_000
"""Values of one document with its anchors unfolded."""
_DEEPEST = 50
"""Levels of nesting; a DataFetch has nine."""

Path = tuple[str | int, ...]


class InvalidTextError(ValueError):
    """A text that cannot be used, in sentences for people: the first problem is the message, the others follow it."""

    def __init__(self, *problems: str) -> None:
        others = len(problems) - 1
        more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
        super().__init__(problems[0] + more)
        self.others = problems[1:]


@dataclass(frozen=True)
class Document:
    """One YAML document: its values, and the nodes that know their places."""

    name: str
    """The file's name, for messages."""
    value: Any
    node: Node

    def position(self, path: Path) -> tuple[int, int]:
        """Return line and column, from 1, of the value at a path, or of the nearest thing around it that is there.

        For a key that is there the place is the key's.
        """
        found, mark = self.node, self.node.start_mark
        for step in path:
            entry = _entry(found, step)
            if entry is None:
                break
            mark, found = entry[0].start_mark, entry[1]
        return mark.line + 1, mark.column + 1

    def place(self, path: Path) -> str:
        """Return `FILE:LINE:COLUMN` of the value at a path."""
        line, column = self.position(path)
        return f"{self.name}:{line}:{column}"

    def text(self, path: Path) -> str | None:
        """Return a scalar as it is written in the file, or None where the path leads to something else."""
        node = self._find(path)
        return str(node.value) if isinstance(node, ScalarNode) else None

    def is_empty_list(self, path: Path) -> bool:
        """Say whether there is a list at the path, without entries."""
        node = self._find(path)
        return isinstance(node, SequenceNode) and not node.value

    def _find(self, path: Path) -> Node | None:
        found = self.node
        for step in path:
            entry = _entry(found, step)
            if entry is None:
                return None
            found = entry[1]
        return found


def _entry(node: Node, step: str | int) -> tuple[Node, Node] | None:
    """Return key and value node of an entry of a mapping or a list; an entry of a list is its own key."""
    if isinstance(node, SequenceNode):
        return (node.value[step],) * 2 if isinstance(step, int) and step < len(node.value) else None
    if isinstance(node, MappingNode):
        # The last one counts: merged keys come first.
        return next((pair for pair in reversed(node.value) if pair[0].value == str(step)), None)
    return None


def read_documents(data: bytes, name: str) -> list[Document]:
    """Return the documents of a YAML file that are not empty.

    Raises InvalidTextError that names the place where it is not YAML.
    """
    if len(data) > LARGEST_TEXT:
        raise InvalidTextError(f"{name} has more than {LARGEST_TEXT // 2**20} MiB; it is no config")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidTextError(
            f"{name} is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x}); is it the right file?"
        ) from None
    return [document for document in _documents(text, name) if document.value is not None]


def _documents(text: str, name: str) -> Iterator[Document]:
    try:
        _refuse_deep_nesting(text, name)
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            _count_values(node, name, {}, ())
            _refuse_repeated_keys(node, name)
            yield Document(name, _construct(loader, node, name), node)
    except yaml.MarkedYAMLError as error:
        raise InvalidTextError(_explain(error, text, name)) from None
    except yaml.YAMLError as error:
        sentence = " ".join(str(error).split())
        raise InvalidTextError(f"{name} cannot be read as YAML: {sentence}") from None


def _construct(loader: Any, node: Node, name: str) -> Any:  # noqa: ANN401 - PyYAML's loaders have no common type
    try:
        return loader.construct_document(node)
    except (ValueError, OverflowError) as error:
        raise InvalidTextError(
            f"{_place(_wrong_scalar(node), name)}: YAML takes this for a date or a number, and it is none "
            f"({error}); put it in quotes"
        ) from None


def _wrong_scalar(node: Node) -> Node:
    for child in _all_nodes(node):
        try:
            if isinstance(child, ScalarNode):
                _Loader("").construct_object(child)
        except (ValueError, OverflowError):
            return child
    return node


def _all_nodes(node: Node) -> Iterator[Node]:
    waiting, seen = [node], set[int]()
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        waiting.extend(_children(current))
        yield current


def _refuse_deep_nesting(text: str, name: str) -> None:
    """Keep the parsers' recursion away from a file that is nothing but brackets."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise InvalidTextError(f"{name}: nested more than {_DEEPEST} levels deep; it is no config")


def _count_values(node: Node, name: str, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Return how many values a node holds with its anchors unfolded."""
    if id(node) in above:
        raise InvalidTextError(f"{_place(node, name)}: the anchor holds itself; write the values out")
    if id(node) not in known:
        above = (*above, id(node))
        known[id(node)] = 1 + sum(_count_values(child, name, known, above) for child in _children(node))
    if known[id(node)] > _MOST_VALUES:
        raise InvalidTextError(f"{_place(node, name)}: more than {_MOST_VALUES:,} values; it is no config")
    return known[id(node)]


def _children(node: Node) -> Sequence[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, SequenceNode) else ()


def _refuse_repeated_keys(node: Node, name: str) -> None:
    """YAML forbids them; PyYAML takes the last one in silence."""
    for current in _all_nodes(node):
        if isinstance(current, MappingNode):
            _refuse_repeated_keys_of(current, name)


def _refuse_repeated_keys_of(node: MappingNode, name: str) -> None:
    first: dict[str, Node] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise InvalidTextError(f"{_place(key, name)}: a key must be a word, not a list or a mapping")
        if key.value in first:
            line = first[key.value].start_mark.line + 1
            raise InvalidTextError(
                f"{_place(key, name)}: the key {key.value!r} is given twice (first in line {line}); remove one of them"
            )
        first[key.value] = key


def _place(node: Node, name: str) -> str:
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _explain(error: yaml.MarkedYAMLError, text: str, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{name} is not YAML: {error.problem}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    remedy = "indent with spaces, not tabs" if "\t" in indentation else "look at this line and the one before"
    return f"{name}:{mark.line + 1}:{mark.column + 1}: not YAML: {error.problem}; {remedy}"
