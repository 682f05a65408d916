"""What follows for a pod that asks for data: its gate, the events that its owner reads, its row in a status."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datafetch_api.resource import ConsumerPhase
from datafetch_operator.consumers import (
    Consumer,
    ConsumerPod,
    PodDecision,
    decide_pod,
    index_entries,
    read_consumer,
    read_fetch_state,
    summarize,
)
from datafetch_operator.observation import Key
from datafetch_operator.render.labels import GATE
from unit.operator.consumer_pods import (
    DONE,
    OTHER_GATE,
    WAITING,
    backing_off,
    condition,
    consumer,
    ended,
    fetch_body,
    gated,
    init_container,
    ready,
    result,
    running,
    waiting,
)
from unit.operator.world import NAMESPACE

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(seconds=10)
FETCHING = fetch_body("a", "Fetching", condition("Ready", "False"), condition("Progressing", "True"))

Json = dict[str, Any]


def _pod(body: Json) -> ConsumerPod:
    pod = read_consumer(body)
    assert pod is not None
    return pod


def _decide(body: Json, *fetches: Json | None, now: datetime = LATER) -> PodDecision:
    pod = _pod(body)
    states = zip(pod.fetches, fetches, strict=True)
    return decide_pod(pod, {name: read_fetch_state(Key(NAMESPACE, name), fetch) for name, fetch in states}, now)


def _told(decision: PodDecision) -> list[tuple[str, str, str]]:
    return [(t.event.kind, t.event.reason, t.event.message) for t in decision.tell]


def _only(decision: PodDecision) -> tuple[str, str, str]:
    (told,) = _told(decision)
    return told


# --- gates -----------------------------------------------------------------------------------------------------------


def test_the_gate_goes_when_the_fetch_is_ready_and_that_is_told() -> None:
    decision = _decide(gated("a"), ready("a"))
    assert decision.open_gate
    assert _only(decision)[:2] == ("Normal", "DataReady")


def test_the_gate_goes_when_all_fetches_are_ready_and_not_before() -> None:
    decision = _decide(gated("a", "b"), ready("a"), fetch_body("b", "Pending"))
    assert not decision.open_gate
    assert "'b' is Pending" in _only(decision)[2]
    assert _decide(gated("a", "b"), ready("a"), ready("b")).open_gate


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (None, ("Warning", "DataNotComing", "There is no DataFetch 'a' in namespace 'team'; create it; ")),
        (fetch_body("a"), ("Normal", "WaitingForData", "DataFetch 'a' is new; ")),
        (FETCHING, ("Normal", "WaitingForData", "DataFetch 'a' is Fetching; kubectl get datafetch a shows")),
        (
            fetch_body("a", "Failed", condition("Failed", "True", "SourceNotFound", "No such bucket.")),
            (
                "Warning",
                "DataNotComing",
                "DataFetch 'a' has failed: SourceNotFound: No such bucket. Correct it, or set ",
            ),
        ),
        (
            fetch_body("a", "Suspended"),
            ("Warning", "DataNotComing", "DataFetch 'a' is suspended; set its spec.suspend to false; "),
        ),
        (
            fetch_body("a", "Pending", condition("Accepted", "False", "TargetConflict", "Another has the path.")),
            ("Warning", "DataNotComing", "DataFetch 'a' is refused: TargetConflict: Another has the path; "),
        ),
        (
            fetch_body("a", "Pending", condition("Progressing", "False", "SecretNotFound", "Secret 'hf' is missing.")),
            ("Normal", "WaitingForData", "DataFetch 'a' waits: SecretNotFound: Secret 'hf' is missing; "),
        ),
        (
            fetch_body(
                "a",
                "Pending",
                condition("TargetReady", "False", "ClaimNotFound", "There is no claim 'data'."),
                condition("Progressing", "False", "TargetNotReady", "It goes on by itself."),
            ),
            ("Normal", "WaitingForData", "DataFetch 'a' waits: ClaimNotFound: There is no claim 'data'; "),
        ),
    ],
)
def test_a_gated_pod_says_what_it_waits_for_and_what_to_do(body: Json | None, event: tuple[str, str, str]) -> None:
    decision = _decide(gated("a"), body)
    kind, reason, message = _only(decision)
    assert (kind, reason) == event[:2]
    assert message.startswith(event[2])
    assert message.endswith("the pod is then scheduled by itself.")
    assert not decision.open_gate


def test_a_fetch_on_its_way_out_is_gone() -> None:
    body = ready("a")
    body["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert _only(_decide(gated("a"), body))[1] == "DataNotComing"


def test_another_fetch_of_the_same_name_counts() -> None:
    body = ready("a")
    body["metadata"]["uid"] = "another"
    assert _decide(gated("a"), body).open_gate


def test_a_recipe_is_not_waited_for_there_or_not() -> None:
    recipe = fetch_body("a", "Recipe", target=False)
    pod = gated("a", "b", containers=[init_container("datafetch-get-a")])
    assert _decide(pod, recipe, ready("b")).open_gate
    assert _decide(pod, None, ready("b")).open_gate, "the pod carries all it needs for that"
    assert not _decide(pod, recipe, None).open_gate


def test_gates_of_others_are_no_reason_to_do_anything() -> None:
    pod = _pod(consumer("a", gates=[OTHER_GATE]))
    assert (pod.gated, pod.wants_a_look(LATER)) == (False, False)
    assert _pod(consumer("a", gates=[OTHER_GATE, GATE])).gated


def test_our_gate_without_a_fetch_stays_and_says_so() -> None:
    decision = _decide(gated())
    assert not decision.open_gate
    assert _only(decision)[1] == "DataNotComing"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_left_alone(phase: str) -> None:
    assert _decide(gated("a", phase=phase), ready("a")) == PodDecision()
    assert not _pod(gated("a", phase=phase)).wants_a_look(LATER)


def test_a_pod_that_is_being_deleted_is_left_alone() -> None:
    body = gated("a")
    body["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert _decide(body, ready("a")) == PodDecision()


def test_pods_of_others_are_none_of_ours() -> None:
    body = gated("a")
    body["metadata"]["labels"]["datafetch.io/role"] = "download"
    assert read_consumer(body) is None
    del body["metadata"]["labels"]
    assert read_consumer(body) is None


def test_names_come_from_the_labels_and_long_ones_from_the_annotation() -> None:
    long = "a" * 80
    assert _pod(gated(long, "b")).fetches == (long, "b")
    body = gated("b")
    body["metadata"]["annotations"]["datafetch.io/fetch"] = "b, added/later ="
    assert _pod(body).fetches == ("b",), "an annotation that was edited since says nothing"
    body["metadata"]["annotations"]["datafetch.io/fetch"] = "b=/models, added-later"
    assert _pod(body).fetches == ("b",)


# --- init containers -------------------------------------------------------------------------------------------------


def test_a_pod_that_waits_in_init_says_so_after_ten_seconds() -> None:
    early = _decide(waiting("a"), FETCHING, now=NOON + timedelta(seconds=4))
    assert (early.tell, early.look_again_seconds) == ((), 6)
    kind, reason, message = _only(_decide(waiting("a"), FETCHING))
    assert (kind, reason) == ("Normal", "WaitingForData")
    assert message.endswith("the pod then goes on by itself.")


def test_of_several_fetches_only_those_that_are_awaited_and_missing_are_told() -> None:
    pod = consumer(
        *("a", "b", "c"),
        containers=[init_container("datafetch-wait", "a", "b")],
        statuses={"datafetch-wait": running()},
    )
    assert "'b'" in _only(_decide(pod, ready("a"), fetch_body("b", "Pending"), fetch_body("c", "Pending")))[2]


def test_a_pod_whose_data_is_there_needs_no_words() -> None:
    assert _decide(waiting("a"), ready("a")) == PodDecision()


def _fails(status: Json) -> Json:
    return consumer("a", containers=[init_container("datafetch-get-a")], statuses={"datafetch-get-a": status})


MISSING = result(11, "SourceNotFound", "source 'weights': there is no bucket 'models'")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ended(11, MISSING), "SourceNotFound: source 'weights': there is no bucket 'models'"),
        (backing_off(11, MISSING), "SourceNotFound: source 'weights': there is no bucket 'models'"),
        (running() | {"lastState": ended(11, MISSING)["state"]}, "SourceNotFound: source 'weights'"),
        (ended(14), "SourceUnavailable: Network errors"),
        (ended(137, reason="OOMKilled"), "OOMKilled: The download ran out of memory; raise the pod's annotation"),
        (ended(1, "boom"), "ContainerFailed: The download container ended with exit code 1. boom"),
    ],
)
def test_a_download_that_failed_is_told_in_its_own_words(status: Json, words: str) -> None:
    kind, reason, message = _only(_decide(_fails(status), fetch_body("a", "Recipe", target=False)))
    assert (kind, reason) == ("Warning", "DownloadFailed")
    assert message.startswith("Init container 'datafetch-get-a' ended with code ")
    assert words in message


def test_a_pod_that_failed_by_its_download_says_so_once_it_has_ended() -> None:
    status = ended(11, MISSING)
    status["state"]["terminated"]["finishedAt"] = "2026-01-31T12:00:00Z"
    body = _fails(status)
    body["status"]["phase"] = "Failed"
    recipe = fetch_body("a", "Recipe", target=False)
    assert _only(_decide(body, recipe))[1] == "DownloadFailed"
    an_hour_later = NOON + timedelta(hours=1)
    assert _decide(body, recipe, now=an_hour_later) == PodDecision()
    assert (_pod(body).wants_a_look(LATER), _pod(body).wants_a_look(an_hour_later)) == (True, False)
    body["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert _decide(body, recipe) == PodDecision()


def test_an_init_container_of_the_user_is_none_of_ours_whatever_its_name() -> None:
    body = _fails(ended(1))
    del body["spec"]["initContainers"][0]["env"]
    assert not _pod(body).wants_a_look(LATER)
    assert _decide(body, ready("a")) == PodDecision()


def test_what_was_told_has_the_same_name_again_and_what_is_new_another() -> None:
    pod, other = _pod(gated("a")), _pod(gated("a", uid="pod-2"))
    (telling,) = _decide(gated("a"), FETCHING).tell
    (again,) = _decide(gated("a"), FETCHING).tell
    assert telling.name(pod) == again.name(pod)
    assert telling.name(pod) != telling.name(other)
    (failed,) = _decide(gated("a"), fetch_body("a", "Failed")).tell
    assert failed.name(pod) != telling.name(pod)
    fetching_again = fetch_body("a", "Fetching", condition("Progressing", "True", since="2026-01-31T13:00:00Z"))
    (later,) = _decide(gated("a"), fetching_again).tell
    assert later.name(pod) != telling.name(pod), "after a failure in between it is news again"


def test_progress_is_no_news_for_a_pod() -> None:
    states = []
    for percent in (1, 99):
        body = fetch_body("a", "Fetching", condition("Progressing", "True", "Fetching", f"Pod x runs. {percent}"))
        body["status"]["progress"] = {"percent": percent}
        states.append(read_fetch_state(Key(NAMESPACE, "a"), body))
    assert states[0] == states[1]


# --- rows ------------------------------------------------------------------------------------------------------------

GET_A, GET_B, WAIT_C = (
    init_container("datafetch-get-a"),
    init_container("datafetch-get-b"),
    init_container("datafetch-wait", "c"),
)


@pytest.mark.parametrize(
    ("body", "phases"),
    [
        (gated("a"), {"": "Gated", "a": "Gated"}),
        (consumer("a"), {"": "Pending", "a": "Pending"}),
        (consumer("a", phase="Running"), {"": "Started", "a": "Started"}),
        (waiting("a"), {"": "Waiting", "a": "Waiting"}),
        (_fails(running()), {"": "Fetching", "a": "Fetching"}),
        (_fails(backing_off(14)), {"": "Failed", "a": "Failed"}),
        (_fails(running() | {"lastState": ended(14)["state"]}), {"": "Fetching", "a": "Fetching"}),
        (_fails(DONE), {"": "Started", "a": "Started"}),
        (consumer(containers=[init_container("datafetch-inline")]), {"": "Pending"}),
        (
            consumer(containers=[init_container("datafetch-inline")], statuses={"datafetch-inline": running()}),
            {"": "Fetching"},
        ),
        (
            consumer(
                *("a", "b", "c"),
                containers=[GET_A, GET_B, WAIT_C],
                statuses={"datafetch-get-a": DONE, "datafetch-get-b": running(), "datafetch-wait": WAITING},
            ),
            {"": "Fetching", "a": "Started", "b": "Fetching", "c": "Pending"},
        ),
        (gated("a", phase="Failed"), {}),
    ],
)
def test_what_became_of_each_request(body: Json, phases: dict[str, str]) -> None:
    entries = index_entries(read_consumer(body))
    assert {key.name: consumer.phase for key, consumer in entries.items()} == phases


def test_the_status_counts_all_and_names_twenty_those_first_that_failed_or_wait() -> None:
    started = [Consumer(f"app-{number:03}", f"u{number}", ConsumerPhase.STARTED) for number in range(500)]
    late = [
        Consumer("zz-waits", "w", ConsumerPhase.WAITING),
        Consumer("zz-failed", "f", ConsumerPhase.FAILED),
        Consumer("zz-fetches", "x", ConsumerPhase.FETCHING),
    ]
    status = summarize([*started, *late], {"zz-fetches": 40, "app-000": 100})
    assert status is not None
    assert (status.count, len(status.pods)) == (503, 20)
    assert [(pod.name, pod.phase, pod.percent) for pod in status.pods[:4]] == [
        ("zz-failed", "Failed", None),
        ("zz-waits", "Waiting", None),
        ("zz-fetches", "Fetching", 40),
        ("app-000", "Started", None),
    ]


def test_one_name_stands_once_in_the_status() -> None:
    twice = [Consumer("app-0", uid, ConsumerPhase.STARTED) for uid in ("missed its deletion", "new")]
    status = summarize(twice, {})
    assert status is not None
    assert (status.count, len(status.pods)) == (1, 1)


def test_nobody_who_asks_is_no_status() -> None:
    assert summarize([], {}) is None
