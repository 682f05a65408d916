"""What may become a file: property tests over object keys from outside."""

import contextlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch.errors import InsufficientSpaceError, UnsafePathError
from datafetch.ledger import Ledger
from datafetch.plan import Plan, check_space, fold_case, manifest_digest, safe_path
from datafetch.records import ManifestFile
from datafetch.sources import Entry

SEGMENTS = st.one_of(
    st.sampled_from(
        ["", ".", "..", ".datafetch", "a", "A", "é", "e\u0301", "x" * 255, "x" * 256, "\ud800", "nul\0", "\x1b"]
    ),
    st.text(max_size=8),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join)
PATHS = st.text(
    st.characters(min_codepoint=0x21, exclude_categories=["Cs", "Cc"], exclude_characters="/."), min_size=1, max_size=4
)


def plan_of(*sources: str, fold: Callable[[str], str] = str) -> Plan:
    return Plan(Ledger(), sources, fold)


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
    plan, taken = plan_of("source", fold=fold), list[str]()
    for key in keys:
        try:
            path = fold(safe_path(key))
        except ValueError:
            continue
        collides = any(a == path or a.startswith(path + "/") or path.startswith(a + "/") for a in taken)
        with pytest.raises(UnsafePathError) if collides else contextlib.nullcontext():
            plan.add(0, [Entry(key, key, 1, "id")])
        if collides:
            return  # a refusal ends the fetch, and with it the plan
        taken.append(path)
    assert sorted(fold(file.path) for file in plan) == sorted(taken)


@given(st.lists(KEYS, max_size=12), st.sampled_from([str, fold_case]))
def test_what_is_listed_at_once_is_refused_like_what_is_listed_one_by_one(keys: list[str], fold: type[str]) -> None:
    entries = [Entry(key, key, 1, "id") for key in keys]
    refused = []
    for batches in ([entries], [[entry] for entry in entries]):
        plan = plan_of("source", fold=fold)
        try:
            for batch in batches:
                plan.add(0, batch)
        except UnsafePathError:
            refused.append(True)
        else:
            refused.append(False)
    assert refused[0] == refused[1]


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a/b/c")])
def test_a_collision_names_both_sources_and_what_to_do(first: str, second: str) -> None:
    plan = plan_of("one", "two")
    plan.add(0, [Entry(first, first, 1, "id")])
    with pytest.raises(UnsafePathError, match=r"sources 'one' and 'two' collide.*another path"):
        plan.add(1, [Entry(second, second, 1, "id")])


def test_names_that_differ_in_case_collide_only_where_the_file_system_folds() -> None:
    entries = [Entry(key, key, 1, "id") for key in ("README", "readme")]
    plan = plan_of("s")
    plan.add(0, entries)
    assert len(plan) == 2
    folding = plan_of("s", fold=fold_case)
    folding.add(0, entries[:1])
    with pytest.raises(UnsafePathError):
        folding.add(0, entries[1:])


@given(st.lists(st.tuples(PATHS, st.integers(0, 9), st.text("abc", max_size=5)), max_size=6, unique_by=lambda f: f[0]))
def test_the_digest_does_not_depend_on_the_order_of_the_listing(files: list[tuple[str, int, str]]) -> None:
    digests = set()
    for order in (files, files[::-1]):
        ledger = Ledger()
        plan = Plan(ledger, ["s"])
        plan.add(0, [Entry(path, path, size, identity) for path, size, identity in order])
        for file in plan:
            ledger.finish_file(file.id, file.size or 0, None, 1)
        digests.add(manifest_digest(ledger.finished_files()))
    assert len(digests) == 1
    in_order = sorted(files, key=lambda file: file[0].encode())
    assert digests == {manifest_digest(ManifestFile(*file) for file in in_order)}


def test_too_little_space_names_both_numbers() -> None:
    check_space(needed=10, free=10, total=10, capacity=10)
    with pytest.raises(InsufficientSpaceError, match=r"11 bytes.*10 bytes"):
        check_space(needed=11, free=10, total=11, capacity=None)
    with pytest.raises(InsufficientSpaceError, match=r"12 bytes.*11 bytes.*grow the claim"):
        check_space(needed=1, free=10, total=12, capacity=11)
