"""Events are told on transitions, and only then."""

import pytest

from datafetch_api.exit_codes import ExitCode
from datafetch_api.resource import DataFetchStatus
from datafetch_operator.status import describe_unreadable, events
from unit.operator.world import START, World, failure_message, some_progress, success_message


def _told(world: World) -> list[tuple[str, str]]:
    """Return what is told while the world comes to rest."""
    told: list[tuple[str, str]] = []
    for _ in range(6):
        before = world.status
        world.reconcile()
        told += [(event.kind, str(event.reason)) for event in events(before, world.status)]
    return told


def test_a_whole_life_is_told_once() -> None:
    world = World()
    assert _told(world) == [("Normal", "FetchStarted")]
    world.run_pod()
    assert _told(world) == []
    world.end_pod(14, failure_message(ExitCode.SOURCE_UNAVAILABLE))
    assert _told(world) == [("Warning", "FetchRetrying")]
    world.run_pod()
    assert _told(world) == []
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    assert _told(world) == [("Normal", "FetchCompleted")]
    world.change(suspend=True)
    assert _told(world) == [("Normal", "Suspended")]
    world.change(suspend=False)
    assert _told(world) == [("Normal", "Resumed")]
    world.claim = None
    assert set(_told(world)) == {("Warning", "ClaimNotFound"), ("Warning", "ClaimReplaced")}


def test_a_failure_is_told_with_its_reason() -> None:
    world = World()
    world.settle()
    world.fail()
    before = world.status
    world.reconcile()
    (event,) = events(before, world.status)
    assert (event.kind, event.reason) == ("Warning", "FetchFailed")
    assert event.message == "SourceNotFound: source 'weights': it went wrong"


def test_progress_is_no_event() -> None:
    world = World()
    world.settle()
    world.run_pod()
    world.settle()
    before = world.status
    world.reconcile(some_progress())
    assert world.status != before
    assert events(before, world.status) == []


@pytest.mark.parametrize("twice", [False, True])
def test_a_spec_that_cannot_be_read_is_told_in_accepted_and_the_rest_stays(twice: bool) -> None:
    world = World()
    world.settle()
    new = describe_unreadable(world.fetch.metadata, world.status, "spec.sources: unknown", START)
    if twice:
        later = START.replace(hour=13)
        assert describe_unreadable(world.fetch.metadata, new, "spec.sources: unknown", later) == new
    assert (new.phase, new.reason) == ("Failed", "InvalidSpec")
    assert len(new.conditions) == 6
    assert new.conditions[0].message == "spec.sources: unknown"
    assert [str(event.reason) for event in events(world.status, new)] == ["InvalidSpec"]


def test_the_status_survives_the_way_through_the_api() -> None:
    world = World()
    world.settle()
    world.run_pod()
    world.reconcile(some_progress())
    sent = world.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert DataFetchStatus.model_validate(sent) == world.status
