"""Globs over paths whose segments are separated by slashes: one rule everywhere. Pure.

    *        any characters inside one segment, also none
    **       any characters, slashes too; as a whole segment (`**/x`, `a/**/x`) also no segment at all
    ?        one character that is no slash
    [abc]    one of these, [a-z] a range, [!abc] or [^abc] none of these; never a slash
    {a,b}    either of these, not nested

A pattern matches a whole path; one that ends at a slash matches everything below. Letter case counts, names that begin
with a dot are as others. A path also matches the pattern that spells it out: a file named `a[1].txt` can be named.

Paths come from outside: a name made for it must not keep a pattern busy for minutes. Patterns of up to two stars are
regular expressions; those of more, which a regular expression would try in every combination, are automata, whose time
grows with the path's length alone.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

_SPECIAL = frozenset("*?[{")
_MOST_STARS = 2
"""With two, a path of 1,024 characters takes a regular expression some milliseconds at worst; with four, minutes."""
_MOST_STEPS = 1 << 16
"""Steps that an automaton remembers; it begins to learn them anew after that."""


class Globs:
    """A choice of paths: taken where one of `include` matches (or there are none) and none of `exclude` does."""

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = _compile_all(tuple(include))
        self._exclude = _compile_all(tuple(exclude))

    def takes(self, path: str) -> bool:
        """Return whether the path is chosen."""
        if self._include is not None and not self._include(path):
            return False
        return self._exclude is None or not self._exclude(path)


def matches(pattern: str, path: str) -> bool:
    """Return whether one pattern matches a path."""
    compiled = _compile_all((pattern,))
    return compiled is not None and compiled(path)


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
def _compile_all(patterns: tuple[str, ...]) -> Callable[[str], bool] | None:
    if not patterns:
        return None
    plain = [_plain(pattern) for pattern in patterns]
    few = [pattern for pattern in plain if len(re.findall(r"\*+", pattern)) <= _MOST_STARS]
    forms = {form: None for pattern in few for form in (_translate(pattern), re.escape(pattern))}
    expression = re.compile("|".join(forms), re.DOTALL) if forms else None
    many = [pattern for pattern in plain if pattern not in few]
    spelled = frozenset(many)
    automata = [_Automaton(pattern) for pattern in many]

    def takes(path: str) -> bool:
        if expression is not None and expression.fullmatch(path):
            return True
        return path in spelled or any(automaton.takes(path) for automaton in automata)

    return takes


class _Automaton:
    """One pattern as a nondeterministic automaton; the sets of states that it meets become states, once met."""

    def __init__(self, pattern: str) -> None:
        self._free: list[list[int]] = []
        """By state: where it may go without a character."""
        self._moves: list[list[tuple[Callable[[str], object], int]]] = []
        """By state: which characters lead where."""
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        start = self._add_state()
        self._end = self._build(pattern, start)
        self._start = self._reached((start,))

    def takes(self, path: str) -> bool:
        states = self._start
        for character in path:
            states = self._steps.get((states, character)) or self._step(states, character)
            if not states:
                return False
        return self._end in states

    def _step(self, states: frozenset[int], character: str) -> frozenset[int]:
        if len(self._steps) >= _MOST_STEPS:
            self._steps.clear()
        following = (goal for state in states for accepts, goal in self._moves[state] if accepts(character))
        found = self._steps[states, character] = self._reached(following)
        return found

    def _reached(self, states: Iterable[int]) -> frozenset[int]:
        waiting, found = list(states), set[int]()
        while waiting:
            state = waiting.pop()
            if state not in found:
                found.add(state)
                waiting.extend(self._free[state])
        return frozenset(found)

    def _add_state(self) -> int:
        self._free.append([])
        self._moves.append([])
        return len(self._free) - 1

    def _build(self, pattern: str, state: int) -> int:
        """Add what a pattern takes after a state; return the state that it ends in."""
        index = 0
        while index < len(pattern):
            text, following = _translate_next(pattern, index)
            goal = self._add_state()
            if text.startswith("(?:") and pattern[index] == "{":
                for alternative in pattern[index + 1 : following - 1].split(","):
                    self._free[self._build(alternative, state)].append(goal)
            elif text.endswith("*") or text == "(?:.*/)?":
                self._add_stars(text, state, goal)
            else:
                self._moves[state].append((re.compile(text, re.DOTALL).fullmatch, goal))
            state, index = goal, following
        return state

    def _add_stars(self, text: str, state: int, goal: int) -> None:
        self._free[state].append(goal)
        if text == "(?:.*/)?":
            inside = self._add_state()
            self._free[state].append(inside)
            self._moves[inside] += [(_any, inside), ("/".__eq__, goal)]
        else:
            self._moves[goal].append((_any if text == ".*" else "/".__ne__, goal))


def _any(_: str) -> bool:
    return True


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
