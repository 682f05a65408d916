"""What the status says of a download that stands still, of each source, and of the object that a failure is about."""

from datetime import timedelta
from typing import Any

import pytest

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Failure, Progress, Result, SourceProgress, Stage, to_termination_message
from datafetch_api.resource import SourceStatus
from datafetch_operator.status import events
from unit.operator.world import START, World, fetch, some_progress, success_message


def _running(**spec: Any) -> World:
    world = World(fetch(**spec))
    world.settle()
    world.run_pod()
    world.reconcile(_news(idle=0))
    return world


def _news(idle: float, **more: object) -> Progress:
    """Return a line of a downloader to which nothing has come for so many seconds."""
    told = {"time": START + timedelta(seconds=600), "last_progress_time": START + timedelta(seconds=600 - idle), **more}
    return some_progress().model_copy(update=told)


def test_a_download_that_stands_still_is_stalled_and_goes_on_by_itself() -> None:
    world = _running()
    world.reconcile(_news(idle=59))
    assert world.condition("Progressing")[:2] == ("True", "Fetching")
    world.reconcile(_news(idle=60))
    truth, reason, message = world.condition("Progressing")
    assert (truth, reason) == ("False", "Stalled")
    assert "since 2026-01-31 12:09:00 UTC" in message
    assert "stallTimeout (60s)" in message
    assert (world.status.phase, world.status.reason) == ("Fetching", "Stalled")
    writes = len(world.writes)
    world.reconcile(_news(idle=60))
    world.reconcile()
    assert len(world.writes) == writes, "as long as nothing changes, nothing is written"
    world.reconcile(_news(idle=1, completed_bytes=501))
    assert world.condition("Progressing")[:2] == ("True", "Fetching")


def test_what_counts_as_standing_still_is_for_the_user_to_say() -> None:
    world = _running(transfer={"stallTimeout": "5m"})
    world.reconcile(_news(idle=299))
    assert world.status.reason == "Fetching"
    world.reconcile(_news(idle=300))
    assert world.status.reason == "Stalled"


def test_a_stalled_download_is_told_once_as_an_event() -> None:
    world = _running()
    before = world.status
    world.reconcile(_news(idle=60))
    assert [(event.kind, str(event.reason)) for event in events(before, world.status)] == [("Warning", "Stalled")]
    before = world.status
    world.reconcile(_news(idle=60))
    assert events(before, world.status) == []


@pytest.mark.parametrize(
    "news",
    [
        _news(idle=600, stage=Stage.LISTING),
        _news(idle=600, stage=Stage.WAITING),
        _news(idle=600, stage=Stage.PUBLISHING),
        _news(idle=600, total_bytes=None),
        _news(idle=600, completed_bytes=1000),
        _news(idle=0, last_progress_time=None),
    ],
)
def test_who_lists_verifies_or_waits_does_not_stand_still(news: Progress) -> None:
    world = _running()
    world.reconcile(news)
    assert world.status.reason != "Stalled"


def test_a_downloader_that_says_nothing_any_more_stands_still_whatever_its_clock_shows() -> None:
    world = _running()
    world.pass_time(86_400)
    world.reconcile(_news(idle=9))
    assert world.status.reason == "Fetching", "clocks differ"
    world.silence = 51.0
    world.reconcile(_news(idle=9))
    assert world.status.reason == "Stalled"


# --- sources ---------------------------------------------------------------------------------------------------------

SOURCES = [
    {"name": "weights", "s3": {"bucket": "models", "prefix": "llama/"}},
    {"name": "corpus", "s3": {"bucket": "training"}},
]


def _of_sources(*sources: SourceProgress) -> Progress:
    return _news(idle=0, sources=sources)


def _told(world: World) -> list[tuple[str, str | None, int | None]]:
    return [(source.name, source.state, source.completed_bytes) for source in world.status.sources]


def test_each_source_says_how_far_it_is_while_the_download_runs() -> None:
    world = _running(sources=SOURCES)
    assert _told(world) == [("weights", "Listing", None), ("corpus", "Listing", None)]
    weights = SourceProgress(name="weights", state="Fetching", completed_bytes=300, total_bytes=700)
    world.reconcile(_of_sources(weights, SourceProgress(name="nobody", state="Complete")))
    assert _told(world) == [("weights", "Fetching", 300), ("corpus", "Listing", None)]
    world.reconcile()
    assert _told(world)[0] == ("weights", "Fetching", 300), "no news takes nothing away"
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    world.reconcile()
    (source,) = world.status.sources
    assert source == SourceStatus(name="weights", resolved_revision="abc123", files=2, bytes=1000)


def test_who_waits_for_the_lock_has_not_begun_and_a_refresh_keeps_what_was_found() -> None:
    world = _running()
    world.end_pod(0, success_message(), "Completed")
    world.end_job("Complete")
    world.settle()
    world.change(refresh={"trigger": "again"})
    world.settle()
    world.run_pod()
    world.reconcile(_news(idle=0, stage=Stage.WAITING))
    (source,) = world.status.sources
    assert (source.state, source.resolved_revision, source.files) == ("Pending", "abc123", 2)


def test_what_fails_or_is_suspended_has_no_source_under_way() -> None:
    world = _running()
    world.reconcile(_of_sources(SourceProgress(name="weights", state="Fetching", completed_bytes=300)))
    world.change(suspend=True)
    world.settle()
    assert _told(world) == [("weights", None, None)]


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "kept"), [("llama/a.bin", "llama/a.bin"), ("k" * 2000, "k" * 1024), (None, None)])
def test_a_failure_names_the_object(key: str | None, kept: str | None) -> None:
    code = ExitCode.INTEGRITY_MISMATCH
    failure = Failure(reason=code.reason, message="it went wrong", retryable=False, source="weights", key=key)
    world = _running()
    world.end_pod(code, to_termination_message(Result(exit_code=code, failure=failure), limit=10_000))
    world.end_job("Failed", "PodFailurePolicy")
    world.reconcile()
    assert world.status.last_failure is not None
    assert (world.status.last_failure.source, world.status.last_failure.key) == ("weights", kept)
