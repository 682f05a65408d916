"""Globs against paths that are made to hurt them, and the two ways of matching against each other."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch.globs import Globs, _Automaton, _plain, _translate, matches

PIECES = [
    "*",
    "**",
    "**/",
    "?",
    "a",
    "b",
    "/",
    "[ab]",
    "[!a]",
    "[^/b]",
    "{a,b/c}",
    "{*a,?}",
    "{,x}",
    "[",
    "{",
    "]",
    ".",
    "\n",
]
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
PATHS = st.text(st.sampled_from("ab/cx.[\n"), max_size=10)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(PATTERNS, PATHS)
def test_the_automaton_takes_what_the_regular_expression_takes(pattern: str, path: str) -> None:
    plain = _plain(pattern)
    expected = re.compile(_translate(plain), re.DOTALL).fullmatch(path) is not None
    assert _Automaton(plain).takes(path) == expected


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a*a*a*b", "a" * 1000),
        ("*_*_*_*_*.parquet", "_" * 1000),
        ("**/*a*a*a*b", "a" * 1000),
        ("**/a/**/a/**/a/**/b", "a/" * 500),
        ("**a**a**a**a**b", "a" * 1000),
        ("{*a,*b}*{*a,*b}*{*a,*b}*c", "ab" * 500),
        ("**/*x", "a/" * 500),
        ("*a*b", "a" * 1000),
    ],
)
def test_no_name_keeps_a_pattern_busy(pattern: str, path: str) -> None:
    began = time.process_time()
    assert not matches(pattern, path)
    assert time.process_time() - began < 0.5


def test_a_pattern_of_many_stars_can_be_spelled_out_too() -> None:
    assert matches("[*]*[*]*", "[*]*[*]*")
    assert Globs(["*a*b*c*"], ["*a*b*c*d"]).takes("1a2b3c4")
    assert not Globs(["*a*b*c*"], ["*a*b*c*d"]).takes("1a2b3c4d")
