"""Object keys come from outside: whatever they are, a fetch ends with exactly the safe ones on the volume, or with
UnsafePath and none of them; around the target nothing changes.

`DATAFETCH_KEY_EXAMPLES=5000` tries that many sets of keys, new ones each time.
"""

import os
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datafetch.errors import UnsafePathError
from datafetch.ledger import Ledger
from datafetch.plan import Plan, fold_case
from datafetch.sources import Entry
from datafetch_api.config import DownloadConfig
from unit.downloader.canary import Canary
from unit.downloader.memory_source import Fetch, MemoryBucket, in_place, managed
from unit.downloader.tree import tree

_EXAMPLES = os.environ.get("DATAFETCH_KEY_EXAMPLES")
some = settings(
    max_examples=int(_EXAMPLES or 40),
    derandomize=_EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

ORDINARY = ["a", "b", "c", "A", "model.safetensors", "data-00001-of-00002.parquet", "ünï", "e\u0301", "é", "日本", "🎉"]
UNUSUAL = [
    "x" * 255,
    "é" * 127,
    " ",
    "a ",
    "-rf",
    "~",
    "*",
    "a\\b",
    "C:",
    "CON",
    "%2e%2e",
    "...",
    "a\u2028",
    "\u202e",
    "\x9b",
]
UNSAFE = ["", ".", "..", "nul\0", "\x1b[2J", "\n", "\r", "\x7f", "x" * 256, "é" * 128, "\ud800", "\udcff"]
SAFE_SEGMENTS = st.sampled_from([*ORDINARY, *UNUSUAL, ".datafetch-not", "lock", "tree", ".hidden"])
ANY_SEGMENTS = st.one_of(SAFE_SEGMENTS, st.sampled_from([*UNSAFE, ".datafetch"]), st.text(max_size=6))
SAFE_KEYS = st.lists(SAFE_SEGMENTS, min_size=1, max_size=4).map("/".join)
ANY_KEYS = st.one_of(SAFE_KEYS, st.lists(ANY_SEGMENTS, min_size=1, max_size=4).map("/".join))
CONTENTS = st.binary(max_size=30)


def is_unsafe(key: str) -> bool:
    """The rule as docs/security.md has it, written down once more."""
    try:
        segments = [segment.encode() for segment in key.split("/")]
    except UnicodeEncodeError:
        return True
    return segments[0] == b".datafetch" or any(
        segment in (b"", b".", b"..") or len(segment) > 255 or any(byte < 0x20 or byte == 0x7F for byte in segment)
        for segment in segments
    )


def collide(keys: Collection[str]) -> bool:
    """Whether one would be a file and a directory."""
    return any(other.startswith(key + "/") for key in keys for other in keys)


@pytest.fixture(params=["managed", "in place"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config_of(layout: str, volume: Path) -> tuple[DownloadConfig, Path]:
    if layout == "managed":
        return managed(str(volume)), volume / "team/model"
    return in_place(str(volume / "model")), volume / "model"


def fetch(contents: Mapping[str, bytes], layout: str) -> tuple[UnsafePathError | None, dict[str, bytes]]:
    """Run a fetch of these keys within surroundings that must not change; return how it ended, and the tree."""
    with tempfile.TemporaryDirectory(dir=_memory()) as base:
        canary = Canary.around(Path(base))
        config, target = config_of(layout, canary.volume)
        error = None
        try:
            Fetch(MemoryBucket.of(dict(contents)), config).run()
        except UnsafePathError as refused:
            error = refused
        assert canary.is_untouched()
        names = {path.relative_to(canary.volume).parts[0] for path in canary.volume.rglob("*")}
        assert names <= {"team", "model"}, "beside the target and our own directory nothing is made"
        return error, tree(target)


def _memory() -> str | None:
    """Where flushing costs nothing."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@some
@given(contents=st.dictionaries(ANY_KEYS, CONTENTS, min_size=1, max_size=6))
def test_whatever_the_keys_the_tree_is_exactly_the_safe_ones_or_empty(layout: str, contents: dict[str, bytes]) -> None:
    error, found = fetch(contents, layout)
    if collide(contents) or any(map(is_unsafe, contents)):
        assert error is not None
        assert found == {}
        assert error.code == 18
        assert error.key in contents
        assert repr(error.key) in str(error)
        assert "rename the object or exclude it" in str(error) or "give one of them another path" in str(error)
    else:
        assert error is None
        assert found == contents


@some
@given(contents=st.dictionaries(SAFE_KEYS, CONTENTS, min_size=1, max_size=8))
def test_unusual_names_empty_objects_and_the_longest_segments_arrive_as_they_are(
    layout: str, contents: dict[str, bytes]
) -> None:
    while collide(contents):
        contents.pop(max(contents))
    error, found = fetch(contents, layout)
    assert error is None
    assert found == contents


@pytest.mark.parametrize(
    "key", [*(f"d/{segment}" for segment in UNSAFE), "/etc/passwd", "//x", "a/../../b", "d/", ".."]
)
def test_one_unsafe_key_is_named_with_its_reason_and_stops_the_good_ones(layout: str, key: str) -> None:
    error, found = fetch({"good.txt": b"good", key: b"bad", "z.txt": b"good too"}, layout)
    assert error is not None
    assert found == {}
    assert (error.code, error.key, error.source) == (18, key, "memory")
    reasons = ("empty path segment", "path segment '.", "control character", "not valid UTF-8", "more than 255 bytes")
    assert any(reason in str(error) for reason in reasons)
    assert error.to_failure().model_dump_json().isascii() or "é" in key


@pytest.mark.parametrize("pair", [("a", "a/b"), ("a/b", "a/b/c/d"), ("é/x", "é")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_key_beside_one_below_it_is_refused_and_both_are_named(
    layout: str, pair: tuple[str, str], turned: bool
) -> None:
    error, found = fetch(dict.fromkeys(reversed(pair) if turned else pair, b"x"), layout)
    assert error is not None
    assert found == {}
    assert all(repr(key) in str(error) for key in pair)


def alike() -> st.SearchStrategy[tuple[str, str]]:
    """Two spellings of a name that a folding file system takes for one."""
    marks = ["\u0301", "\u0307"]
    odd = ["\u017f", "\u03bd", "\u212a", "\u0130", "\u00df", "\u03a3"]
    letters = st.text(st.sampled_from([*"aBcéÅKfi", *odd, *marks]), min_size=1, max_size=6)
    turns: list[Callable[[str], str]] = [str.upper, str.swapcase, str.casefold, _normal("NFC"), _normal("NFD")]
    return st.tuples(letters, st.sampled_from(turns)).map(lambda drawn: (drawn[0], drawn[1](drawn[0])))


def _normal(form: Literal["NFC", "NFD"]) -> Callable[[str], str]:
    return lambda text: unicodedata.normalize(form, text)


@some
@example(names=("s\u0301", "\u017f\u0301"), head="", below=False)
@given(names=alike(), head=st.sampled_from(["", "dir/", "Dir/"]), below=st.booleans())
def test_names_alike_after_folding_collide_where_the_file_system_folds(
    names: tuple[str, str], head: str, below: bool
) -> None:
    first, second = head + names[0], head.lower() + names[1] + ("/child" if below else "")
    if first == second:
        return
    plan = Plan(Ledger(), ["s"], fold_case)
    plan.add(0, [Entry(first, first, 1, "id")])
    with pytest.raises(UnsafePathError, match="collide"):
        plan.add(0, [Entry(second, second, 1, "id")])


def test_a_process_may_run_any_number_of_fetches(layout: str) -> None:
    fetch({"d/a": b"a", "e/f/b": b"b"}, layout)
    before = len(os.listdir("/proc/self/fd"))
    for key in ("a", "b", "../c"):
        fetch({f"d/{key}": b"x"}, layout)
    assert len(os.listdir("/proc/self/fd")) <= before, "open descriptors are left behind"


@pytest.mark.parametrize("key", [".DataFetch/lock", ".DATAFETCH", ".datafetch/lock"])
def test_our_own_directory_is_refused_in_every_spelling_where_the_file_system_folds(key: str) -> None:
    with pytest.raises(UnsafePathError, match="our own directory"):
        Plan(Ledger(), ["s"], fold_case).add(0, [Entry(key, key, 1, "id")])
