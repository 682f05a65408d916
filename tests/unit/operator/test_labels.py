"""Names of objects: derived, short enough, and the same for ever."""

import re

import pytest

from datafetch_operator.render.labels import NAME_LABEL, Wanted, labels, object_name

WANTED = Wanted("v1:abc", None, "claim-1")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def test_a_name_never_changes() -> None:
    # Jobs in flight would be replaced by an upgrade.
    assert object_name("tinyllama", "uid-1", WANTED, 1) == "tinyllama-f3c3416e83"


@pytest.mark.parametrize(
    "name",
    ["a", "x" * 253, "a.b.c", "y" * 39 + ".z" + "w" * 20, "q" * 39 + "-" + "r" * 9],
)
def test_a_name_is_a_dns_label_whatever_the_resource_is_called(name: str) -> None:
    made = object_name(name, "uid-1", WANTED, 1)
    assert len(made) <= 51
    assert DNS_LABEL.fullmatch(made)
    value = labels(name, "uid-1")[NAME_LABEL]
    assert len(value) <= 63
    assert re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", value)


def test_names_differ_with_everything_an_attempt_is_for() -> None:
    names = {
        object_name("a", "uid-1", WANTED, 1),
        object_name("a", "uid-2", WANTED, 1),
        object_name("a", "uid-1", Wanted("v1:abd", None, "claim-1"), 1),
        object_name("a", "uid-1", Wanted("v1:abc", "t", "claim-1"), 1),
        object_name("a", "uid-1", Wanted("v1:abc", None, "claim-2"), 1),
        object_name("a", "uid-1", WANTED, 2),
        object_name("a.b", "uid-1", WANTED, 1),
    }
    assert len(names) == 7


def test_long_names_that_begin_alike_have_labels_that_differ() -> None:
    assert labels("x" * 100 + "a", "u")[NAME_LABEL] != labels("x" * 100 + "b", "u")[NAME_LABEL]
