"""Where downloads are limited: who may start, fairly between namespaces, and what the others are told."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_api.resource import Source
from datafetch_operator.budget import Contender, Limits, admit, fair_order, source_hosts
from datafetch_operator.observation import Key

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def waiting(namespace: str, name: str, minute: int, *hosts: str) -> Contender:
    return Contender(Key(namespace, name), START + timedelta(minutes=minute), hosts)


def active(namespace: str, name: str, *hosts: str) -> Contender:
    return Contender(Key(namespace, name), START, hosts, active=True)


def _names(keys: Sequence[Key]) -> list[str]:
    return [f"{key.namespace}/{key.name}" for key in keys]


# --- who may start ---------------------------------------------------------------------------------------------------


def test_without_limits_everybody_starts_the_longest_waiting_first() -> None:
    admission = admit([waiting("a", "late", 2), waiting("a", "early", 1), active("a", "running")], Limits())
    assert _names(admission.start) == ["a/early", "a/late"]
    assert admission.queue == {}


def test_the_namespace_with_the_fewest_downloads_goes_first_and_of_several_the_longest_waiting() -> None:
    contenders = [
        *[waiting("greedy", f"g{n}", n) for n in range(4)],
        waiting("modest", "m", 10),
        waiting("late", "l", 20),
        active("greedy", "running"),
    ]
    order = [contender.key for contender in fair_order(contenders)]
    assert _names(order) == ["modest/m", "late/l", "greedy/g0", "greedy/g1", "greedy/g2", "greedy/g3"]


def test_who_waits_is_told_for_what_and_where_in_the_queue_it_stands() -> None:
    contenders = [active("a", f"r{n}") for n in range(20)] + [waiting("b", f"w{n:02}", n) for n in range(31)]
    admission = admit(contenders, Limits(active=20))
    assert admission.start == ()
    place = admission.queue[Key("b", "w06")]
    assert (place.position, place.waiting) == (7, 31)
    assert place.sentence == "waits for a free download: 20 of 20 are active; position 7 of 31"


def test_a_host_that_is_full_holds_up_nobody_who_needs_another() -> None:
    contenders = [active("a", "r", "hub"), waiting("a", "w1", 1, "hub"), waiting("a", "w2", 2, "minio")]
    admission = admit(contenders, Limits(per_host=1))
    assert _names(admission.start) == ["a/w2"]
    assert admission.queue[Key("a", "w1")].sentence == (
        "waits for a free download from hub: 1 of 1 are active; position 1 of 1"
    )


def test_who_needs_two_hosts_is_not_overtaken_at_the_one_that_is_free() -> None:
    contenders = [
        active("a", "r", "hub"),
        waiting("a", "both", 1, "hub", "minio"),
        waiting("a", "minio", 2, "minio"),
        waiting("a", "other", 3, "elsewhere"),
    ]
    admission = admit(contenders, Limits(per_host=1))
    assert _names(admission.start) == ["a/other"]
    assert admission.queue[Key("a", "minio")].sentence == (
        "waits for a free download from minio: 0 of 1 are active, and the next place is for one ahead of it; "
        "position 2 of 2"
    )


def test_a_host_is_kept_free_for_one_that_waits_and_not_for_all_of_them() -> None:
    both = [waiting("a", f"both{n}", n, "hub", "minio") for n in range(5)]
    admission = admit([active("a", "r", "hub"), *both, waiting("b", "m", 9, "minio")], Limits(per_host=2))
    assert _names(admission.start) == ["b/m", "a/both0"]
    admission = admit(
        [*(active("a", f"r{n}", "hub") for n in range(2)), *both, waiting("a", "m", 9, "minio")], Limits(None, 2)
    )
    assert _names(admission.start) == ["a/m"]


def test_what_is_active_stays_where_a_limit_is_lowered() -> None:
    admission = admit([*(active("a", f"r{n}", "hub") for n in range(5)), waiting("b", "w", 1)], Limits(active=3))
    assert admission.start == ()
    assert admission.queue[Key("b", "w")].sentence.startswith("waits for a free download: 5 of 3 are active")


# --- properties ------------------------------------------------------------------------------------------------------

HOSTS = ["hub", "minio", "s3"]
CONTENDERS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(0, 99),
        st.integers(0, 20),
        st.lists(st.sampled_from(HOSTS), min_size=1, unique=True),
        st.booleans(),
    ),
    max_size=30,
    unique_by=lambda row: row[:2],
).map(
    lambda rows: [
        Contender(Key(namespace, str(name)), START + timedelta(minutes=minute), tuple(hosts), is_active)
        for namespace, name, minute, hosts, is_active in rows
    ]
)
LIMITS = st.builds(Limits, st.none() | st.integers(1, 12), st.none() | st.integers(1, 5))


@settings(max_examples=200)
@given(CONTENDERS, LIMITS, st.randoms(use_true_random=False))
def test_limits_hold_everybody_is_answered_and_the_order_of_asking_does_not_matter(
    contenders: list[Contender], limits: Limits, dice: random.Random
) -> None:
    admission = admit(contenders, limits)
    wanting = {contender.key for contender in contenders if not contender.active}
    assert set(admission.start) | set(admission.queue) == wanting
    assert not set(admission.start) & set(admission.queue)
    assert sorted(place.position for place in admission.queue.values()) == list(range(1, len(admission.queue) + 1))
    before = [contender for contender in contenders if contender.active]
    started = [contender for contender in contenders if contender.key in admission.start]
    if limits.active is not None:
        assert len(before) + len(started) <= max(limits.active, len(before))
    for host in HOSTS if limits.per_host is not None else ():
        there, more = (sum(host in contender.hosts for contender in group) for group in (before, started))
        assert not more or there + more <= (limits.per_host or 0)
    shuffled = dice.sample(contenders, len(contenders))
    assert admit(shuffled, limits) == admission


@settings(max_examples=200)
@given(CONTENDERS, st.integers(1, 12))
def test_no_place_stays_free_and_no_namespace_gets_two_ahead_of_one_that_waits(
    contenders: list[Contender], limit: int
) -> None:
    admission = admit(contenders, Limits(active=limit))
    running = Counter(contender.key.namespace for contender in contenders if contender.active)
    free = max(0, limit - running.total())
    assert len(admission.start) == min(free, len(admission.start) + len(admission.queue))
    running.update(key.namespace for key in admission.start)
    for waiter in admission.queue:
        for starter in admission.start:
            assert running[starter.namespace] <= running[waiter.namespace] + 1


@settings(max_examples=200)
@given(CONTENDERS)
def test_when_the_first_starts_all_others_move_up_by_one(contenders: list[Contender]) -> None:
    order = fair_order(contenders)
    if not order:
        return
    after = [replace(c, active=True) if c.key == order[0].key else c for c in contenders]
    assert fair_order(after) == order[1:]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 3))
def test_nobody_waits_for_ever_whoever_else_keeps_coming(seed: int, most: int, per_host: int) -> None:
    """Twelve wait at any time, each runs for at most five minutes: nobody waits for more than a hundred and fifty."""
    dice, limits = random.Random(seed), Limits(most, per_host)
    contenders: dict[Key, Contender] = {}
    ends: dict[Key, int] = {}
    for minute in range(400):
        for key in [key for key, end in ends.items() if end <= minute]:
            del contenders[key], ends[key]
        while sum(not contender.active for contender in contenders.values()) < 12:
            key = Key(dice.choice("abcde"), f"{minute}-{len(contenders)}-{dice.random()}")
            hosts = tuple(dice.sample(HOSTS, dice.choice([1, 1, 1, 1, 3])))
            contenders[key] = Contender(key, START + timedelta(minutes=minute), hosts)
        for key in admit(contenders.values(), limits).start:
            contenders[key] = replace(contenders[key], active=True)
            ends[key] = minute + dice.randint(1, 5)
        oldest = min(contender.since for contender in contenders.values() if not contender.active)
        assert START + timedelta(minutes=minute) - oldest < timedelta(minutes=150)


def test_one_that_needs_two_hosts_starts_although_each_is_taken_as_soon_as_it_is_free() -> None:
    contenders = {Key("a", "both"): waiting("a", "both", 0, "hub", "minio")}
    ends: dict[Key, int] = {}
    for minute in range(12):
        for key in [key for key, end in ends.items() if end <= minute]:
            del contenders[key], ends[key]
        for host in ("hub", "minio"):
            contenders[Key("a", f"{host}{minute}")] = waiting("a", f"{host}{minute}", minute, host)
        for key in admit(contenders.values(), Limits(per_host=1)).start if minute else [Key("a", "hub0")]:
            contenders[key] = replace(contenders[key], active=True)
            ends[key] = minute + 2  # One ends in odd minutes and one in even ones: never both at a time.
        if contenders.get(Key("a", "both"), active("a", "gone")).active:
            return
    pytest.fail("it was overtaken again and again")


# --- where data comes from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ({"s3": {"bucket": "b"}}, "s3.amazonaws.com"),
        ({"s3": {"bucket": "b", "endpoint": "https://MinIO.data.svc:9000/"}}, "minio.data.svc"),
        ({"s3": {"bucket": "b", "endpoint": "http://[2001:db8::1]:9000"}}, "2001:db8::1"),
        ({"s3": {"bucket": "b", "endpoint": "http://[2001"}}, "[2001"),
        ({"gcs": {"bucket": "b"}}, "storage.googleapis.com"),
        ({"gcs": {"bucket": "b", "endpoint": "http://gcs.test"}}, "gcs.test"),
        ({"azureBlob": {"container": "c", "account": "models"}}, "models.blob.core.windows.net"),
        ({"azureBlob": {"container": "c"}}, "blob.core.windows.net"),
        ({"azureBlob": {"container": "c", "account": "m", "endpoint": "http://azurite:10000/m"}}, "azurite"),
        ({"huggingFace": {"repo": "a/b"}}, "huggingface.co"),
        ({"huggingFace": {"repo": "a/b", "endpoint": "https://hub.mirror"}}, "hub.mirror"),
        ({"http": {"url": "https://example.org:8443/file"}}, "example.org"),
        ({"http": {"index": {"url": "https://example.org/SHA256SUMS"}}}, "example.org"),
        ({"lakeFS": {"repository": "models", "endpoint": "https://lake.svc/api/v1"}}, "lake.svc"),
        ({"lakeFS": {"repository": "models"}}, "lakefs"),
        ({"git": {"url": "https://git.example.org/team/repo.git"}}, "git.example.org"),
        ({"git": {"url": "ssh://git@git.example.org:2222/team/repo"}}, "git.example.org"),
        ({"git": {"url": "git@git.example.org:team/repo.git"}}, "git.example.org"),
        ({"uri": "lakefs://models/main/"}, "lakefs"),
        ({"uri": "git+https://git.example.org/team/repo@v1"}, "git.example.org"),
        ({"uri": "s3://bucket/key"}, "s3.amazonaws.com"),
        ({"uri": "gs://bucket/key"}, "storage.googleapis.com"),
        ({"uri": "az://container/key"}, "blob.core.windows.net"),
        ({"uri": "hf://a/b@main/c"}, "huggingface.co"),
        ({"uri": "https://example.org/file"}, "example.org"),
    ],
)
def test_a_source_has_a_host(source: dict[str, Any], host: str) -> None:
    assert source_hosts([Source.model_validate({"name": "x", **source})]) == (host,)


def test_a_host_of_two_sources_counts_once() -> None:
    sources = [{"name": "a", "uri": "hf://a/b"}, {"name": "b", "uri": "hf://c/d"}, {"name": "c", "uri": "gs://e/f"}]
    assert source_hosts(map(Source.model_validate, sources)) == ("huggingface.co", "storage.googleapis.com")


def test_files_of_an_http_source_count_at_each_of_their_hosts() -> None:
    files = [{"url": f"https://{host}.example.org/{n}"} for host in "ba" for n in range(3)]
    source = Source.model_validate({"name": "x", "http": {"files": files}})
    assert source_hosts([source]) == ("a.example.org", "b.example.org")
