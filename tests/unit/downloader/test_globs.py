"""Globs: the rule of the design, one row each, and what must hold for any pattern and path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch.globs import Globs, common_prefix, is_literal, matches


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.md", "README.md", True),
        ("*.md", "docs/README.md", False),
        ("**/*.md", "README.md", True),
        ("**/*.md", "a/b/README.md", True),
        ("**/*.md", "a/b/README.mdx", False),
        ("**/*", "file", True),
        ("**/*", "a/b/c", True),
        ("**", "a/b/c", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**", "ab/c", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "az", False),
        ("**/b/**", "a/b/c", True),
        ("**/**/z", "z", True),
        ("a**z", "a/b/z", True),
        ("**.py", "a/b.py", True),
        ("data/*/x", "data/1/x", True),
        ("data/*/x", "data//x", True),
        ("data/*/x", "data/1/2/x", False),
        ("?.txt", "a.txt", True),
        ("?.txt", "ab.txt", False),
        ("a?b", "a/b", False),
        ("[abc].txt", "b.txt", True),
        ("[a-c].txt", "d.txt", False),
        ("[!a-c].txt", "d.txt", True),
        ("[^a-c].txt", "a.txt", False),
        ("a[/]b", "a/b", False),
        ("a[!x]b", "a/b", False),
        ("[]x].txt", "].txt", True),
        ("[a-].txt", "-.txt", True),
        ("[z-a].txt", "m.txt", False),
        ("[unclosed", "[unclosed", True),
        ("a[1].txt", "a[1].txt", True),
        ("a[1].txt", "a1.txt", True),
        ("*.{json,safetensors}", "model.safetensors", True),
        ("*.{json,safetensors}", "model.bin", False),
        ("{a,b/c}/*.txt", "b/c/x.txt", True),
        ("{single}", "{single}", True),
        ("{unclosed,x", "{unclosed,x", True),
        ("dir/", "dir/a/b", True),
        ("dir/", "dir", False),
        ("./*.md", "README.md", True),
        ("*", ".hidden", True),
        ("*.MD", "a.md", False),
        ("a.c", "abc", False),
        ("*", "two\nlines", True),
        ("ü/*.txt", "ü/ñ.txt", True),
    ],
)
def test_a_pattern_matches_whole_paths(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_a_choice_takes_any_of_include_and_none_of_exclude() -> None:
    globs = Globs(include=("*.json", "**/*.bin"), exclude=("secret/**",))
    assert [path for path in ("a.json", "x/a.json", "x/a.bin", "secret/a.bin") if globs.takes(path)] == [
        "a.json",
        "x/a.bin",
    ]
    assert Globs(exclude=("*.bin",)).takes("a.json")
    assert Globs().takes("anything/at/all")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), ""),
        (("*.md",), ""),
        (("data/2024/*.csv",), "data/2024/"),
        (("data/2024/*.csv", "data/2025/**"), "data/"),
        (("data/a.txt",), "data/"),
        (("data/", "data/x/*"), "data/"),
        (("da[t]a/x",), ""),
        (("data/x{a,b}/y",), "data/"),
        (("./data/*",), "data/"),
        (("ab/x", "ac/x"), ""),
    ],
)
def test_the_common_directory_of_patterns_narrows_a_listing(patterns: tuple[str, ...], expected: str) -> None:
    assert common_prefix(patterns) == expected


def test_a_literal_pattern_names_one_path() -> None:
    assert is_literal("config.json")
    assert not any(map(is_literal, ("*.json", "dir/", "a?", "[a]", "{a,b}")))


PATHS = st.lists(st.text(alphabet="ab.[]{},-!*?ü\n", min_size=1, max_size=4), min_size=1, max_size=4).map("/".join)
PATTERNS = st.text(alphabet="ab/.*?[]{},-!^ü", max_size=12)


@given(PATHS)
def test_every_path_matches_itself_and_the_globs_for_everything(path: str) -> None:
    assert matches(path, path) or path.startswith("./") or path.endswith("/")
    assert matches("**", path)
    assert matches("**/*", path)


@given(PATTERNS, PATHS)
def test_no_pattern_crashes_and_what_it_takes_lies_in_its_directory(pattern: str, path: str) -> None:
    if matches(pattern, path):
        assert path.startswith(common_prefix((pattern,)))


@given(PATHS, PATHS)
def test_a_star_never_crosses_a_slash(left: str, right: str) -> None:
    assert matches("*", f"{left}/{right}") is False
    assert matches("**", f"{left}/{right}") is True
