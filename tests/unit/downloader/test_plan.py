"""What may become a file: property tests over object keys from outside."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch.errors import InsufficientSpaceError, UnsafePathError
from datafetch.plan import Plan, check_space, fold_case, manifest_digest, safe_path
from datafetch.sources import Entry

SEGMENTS = st.one_of(
    st.sampled_from(
        ["", ".", "..", ".datafetch", "a", "A", "é", "e\u0301", "x" * 255, "x" * 256, "\ud800", "nul\0", "\x1b"]
    ),
    st.text(max_size=8),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join)


@given(KEYS)
def test_a_safe_path_stays_below_the_target(key: str) -> None:
    try:
        path = safe_path(key)
    except ValueError:
        return
    root = "/target"
    joined = os.path.normpath(os.path.join(root, path))
    assert joined == f"{root}/{path}"
    assert joined.startswith(f"{root}/")
    assert all(0 < len(segment.encode()) <= 255 for segment in path.split("/"))
    assert not any(ord(character) < 0x20 for character in path)


@given(st.lists(KEYS, max_size=12), st.sampled_from([str, fold_case]))
def test_a_plan_never_holds_two_files_that_collide(keys: list[str], fold: type[str]) -> None:
    plan = Plan(fold)
    for key in keys:
        with contextlib.suppress(UnsafePathError):
            plan.add(0, "source", Entry(key, key, 1, "id"))
    paths = [fold(file.path) for file in plan]
    assert len(set(paths)) == len(paths)
    assert not any(a != b and b.startswith(a + "/") for a in paths for b in paths)


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a/b/c")])
def test_a_collision_names_both_sources_and_what_to_do(first: str, second: str) -> None:
    plan = Plan()
    plan.add(0, "one", Entry(first, first, 1, "id"))
    with pytest.raises(UnsafePathError, match=r"sources 'one' and 'two' collide.*another path"):
        plan.add(1, "two", Entry(second, second, 1, "id"))


def test_names_that_differ_in_case_collide_only_where_the_file_system_folds() -> None:
    entries = [Entry(key, key, 1, "id") for key in ("README", "readme")]
    plan = Plan()
    for entry in entries:
        plan.add(0, "s", entry)
    assert len(plan) == 2
    folding = Plan(fold_case)
    folding.add(0, "s", entries[0])
    with pytest.raises(UnsafePathError):
        folding.add(0, "s", entries[1])


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 9), st.text(max_size=5)), max_size=6), st.randoms())
def test_the_digest_does_not_depend_on_the_order(files: list[tuple[str, int, str]], random: object) -> None:
    unique = list({file[0]: file for file in files if file[0].isprintable()}.values())
    assert manifest_digest(unique) == manifest_digest(reversed(unique))


def test_too_little_space_names_both_numbers() -> None:
    check_space(needed=10, free=10, total=10, capacity=10)
    with pytest.raises(InsufficientSpaceError, match=r"11 bytes.*10 bytes"):
        check_space(needed=11, free=10, total=11, capacity=None)
    with pytest.raises(InsufficientSpaceError, match=r"12 bytes.*11 bytes.*grow the claim"):
        check_space(needed=1, free=10, total=12, capacity=11)
