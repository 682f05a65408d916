"""What a webhook asks of the text of a config. That `datafetch run` says the same is tested with its command line."""

import pytest

from datafetch_api.config_text import read_config
from datafetch_api.documents import InvalidTextError

NAME = "datafetch.io/config"
ITEMS = "download_items:\n  - type: hf\n    name: x\n    repo_id: a/b\n"


def refusal(text: str, default_root: str | None = None) -> InvalidTextError:
    with pytest.raises(InvalidTextError) as caught:
        read_config(text.encode(), NAME, default_root=default_root)
    return caught.value


def test_the_default_root_stands_only_where_the_text_names_no_place() -> None:
    managed = "managed: {volume: /v, path: p, namespace: n, name: n, uid: u, spec_hash: s}\n"

    assert read_config(ITEMS.encode(), NAME, default_root="/data").download_root == "/data"
    assert read_config(f"download_root: sub\n{ITEMS}".encode(), NAME, default_root="/data").download_root == "sub"
    assert read_config((managed + ITEMS).encode(), NAME, default_root="/data").download_root is None


def test_without_a_default_the_text_must_name_its_place() -> None:
    assert str(refusal(ITEMS)) == f"{NAME}:1:1: download_root is missing; name the directory that the data goes to"


def test_a_mistake_is_named_with_its_place_the_nearest_key_and_the_others() -> None:
    error = refusal(ITEMS.replace("repo_id", "repo_idd") + "transfers: {}\n", "/data")

    assert str(error) == (
        f"{NAME}:4:5: download_items[0].repo_idd is not a known key; did you mean 'repo_id'? (and 1 more problem)"
    )
    assert error.others == (f"{NAME}:5:1: transfers is not a known key; did you mean 'transfer'?",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"{NAME} is empty; write download_items"),
        ("- a\n", f"{NAME}:1:1: a config is a mapping with download_items, not this"),
        (f"{ITEMS}---\n{ITEMS}", f"{NAME}:6:1: {NAME} holds 2 documents; a config is one, so remove '---'"),
        ("kind: DataFetch\n", f"{NAME}:1:1: kind is 'DataFetch': a config has no kind, only download_items"),
        ("a: b: c\n", f"{NAME}:1:5: not YAML: mapping values are not allowed in this context"),
        ("a: 1\na: 2\n", f"{NAME}:2:1: the key 'a' is given twice (first in line 1)"),
    ],
)
def test_what_is_no_config_is_refused_with_a_sentence(text: str, said: str) -> None:
    assert str(refusal(text, "/data")).startswith(said)
