"""Why a pod is not admitted: one sentence, which its owner reads in `kubectl`, or in the events of its controller."""

import difflib
from collections.abc import Iterable


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error
    """The pod is refused; the message says what, where, and what to do."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` where something known is near, else nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return names for a sentence, the first few of them."""
    quoted = [repr(name) for name in sorted(names)]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more
