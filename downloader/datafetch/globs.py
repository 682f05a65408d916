"""Globs over paths whose segments are separated by slashes: one rule everywhere. Pure.

    *        any characters inside one segment, also none
    **       any characters, slashes too; as a whole segment (`**/x`, `a/**/x`) also no segment at all
    ?        one character that is no slash
    [abc]    one of these, [a-z] a range, [!abc] or [^abc] none of these; never a slash
    {a,b}    either of these, not nested

A pattern matches a whole path; one that ends at a slash matches everything below. Letter case counts, names that begin
with a dot are as others. A path also matches the pattern that spells it out: a file named `a[1].txt` can be named.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

_SPECIAL = frozenset("*?[{")


class Globs:
    """A choice of paths: taken where one of `include` matches (or there are none) and none of `exclude` does."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = _compile_all(tuple(include))
        self._exclude = _compile_all(tuple(exclude))

    def takes(self, path: str) -> bool:
        """Return whether the path is chosen."""
        if self._include is not None and not self._include.fullmatch(path):
            return False
        return self._exclude is None or not self._exclude.fullmatch(path)


def matches(pattern: str, path: str) -> bool:
    """Return whether one pattern matches a path."""
    compiled = _compile_all((pattern,))
    return compiled is not None and compiled.fullmatch(path) is not None


def is_literal(pattern: str) -> bool:
    """Return whether a pattern names exactly one path."""
    return _SPECIAL.isdisjoint(pattern) and not pattern.endswith("/")


def common_prefix(patterns: Iterable[str]) -> str:
    """Return the longest directory, ending at a slash or empty, that holds every path one of the patterns takes."""
    heads = [_literal_directory(pattern) for pattern in patterns]
    if not heads:
        return ""
    first, last = min(heads), max(heads)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[: first.rfind("/", 0, length) + 1]


def _literal_directory(pattern: str) -> str:
    pattern = _plain(pattern)
    special = next((index for index, character in enumerate(pattern) if character in _SPECIAL), len(pattern))
    return pattern[: pattern.rfind("/", 0, special) + 1]


@lru_cache(maxsize=256)
def _compile_all(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    forms = {form: None for pattern in map(_plain, patterns) for form in (_translate(pattern), re.escape(pattern))}
    return re.compile("|".join(forms), re.DOTALL)


def _plain(pattern: str) -> str:
    pattern = pattern.removeprefix("./")
    return pattern + "**" if pattern.endswith("/") else pattern


def _translate(pattern: str) -> str:
    parts = []
    index = 0
    while index < len(pattern):
        text, index = _translate_next(pattern, index)
        parts.append(text)
    return "".join(parts)


def _translate_next(pattern: str, index: int) -> tuple[str, int]:
    """Return the regular expression of the element at `index`, and where the next one begins."""
    character = pattern[index]
    if character == "*":
        return _translate_stars(pattern, index)
    if character == "?":
        return "[^/]", index + 1
    if character == "[":
        return _translate_class(pattern, index)
    if character == "{":
        return _translate_alternatives(pattern, index)
    return re.escape(character), index + 1


def _translate_stars(pattern: str, index: int) -> tuple[str, int]:
    end = index
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    if end - index == 1:
        return "[^/]*", end
    begins_segment = index == 0 or pattern[index - 1] == "/"
    if begins_segment and pattern.startswith("/", end):
        # `**/**/` is `**/`: two of them in a row would only make the match slow.
        while pattern.startswith("**/", end + 1):
            end += 3
        return "(?:.*/)?", end + 1
    return ".*", end


def _translate_class(pattern: str, index: int) -> tuple[str, int]:
    start = index + 1
    negated = pattern[start : start + 1] in ("!", "^")
    start += negated
    # A bracket right at the start belongs to the class, as in a shell.
    end = pattern.find("]", start + 1)
    if end < 0:
        return re.escape("["), index + 1
    members = _class_members(pattern[start:end])
    if not members:
        return ("[^/]" if negated else r"(?!)"), end + 1
    return (f"[^/{members}]" if negated else f"(?!/)[{members}]"), end + 1


def _class_members(text: str) -> str:
    members = []
    index = 0
    while index < len(text):
        if text[index + 1 : index + 2] == "-" and index + 2 < len(text):
            low, high = text[index], text[index + 2]
            members.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
            index += 3
            continue
        members.append(re.escape(text[index]))
        index += 1
    return "".join(members)


def _translate_alternatives(pattern: str, index: int) -> tuple[str, int]:
    end = pattern.find("}", index)
    inside = pattern[index + 1 : end]
    if end < 0 or "," not in inside or "{" in inside:
        return re.escape("{"), index + 1
    return "(?:" + "|".join(_translate(alternative) for alternative in inside.split(",")) + ")", end + 1
