"""Refreshes by schedule: what comes due is fetched once, beside all else that may happen to a fetch."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_api.exit_codes import ExitCode
from datafetch_api.resource import Phase
from datafetch_operator.schedule import next_time, read_schedule
from unit.operator.world import START, UID, World, fetch

DAILY = {"schedule": "0 3 * * *", "timeZone": "Europe/Helsinki"}
OTHER_SOURCES = [{"name": "weights", "s3": {"bucket": "models", "prefix": "mistral/"}}]


def phase(world: World) -> Phase | None:
    return world.status.phase


def ready(**refresh: str) -> World:
    world = World(fetch(refresh=refresh or DAILY))
    world.settle()
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY
    return world


def due(world: World) -> World:
    """Return the world at the moment of the next run, before anybody has looked."""
    assert world.status.next_sync_time is not None
    world.now = world.status.next_sync_time
    return world


def refreshing() -> World:
    world = due(ready())
    world.settle()
    world.run_pod()
    world.settle()
    assert phase(world) == Phase.REFRESHING
    return world


def failed() -> World:
    world = refreshing()
    world.pass_time(60)
    world.end_pod(ExitCode.SOURCE_NOT_FOUND)
    world.end_job("Failed", "PodFailurePolicy")
    world.settle()
    return world


def test_a_ready_fetch_says_when_it_is_fetched_again_and_looks_then() -> None:
    world = ready()
    run = next_time(read_schedule("0 3 * * *", "Europe/Helsinki"), START, UID)
    assert run is not None
    assert datetime(2026, 2, 1, 1, 0, tzinfo=UTC) <= run < datetime(2026, 2, 1, 1, 10, tzinfo=UTC)
    assert world.status.next_sync_time == run
    assert world.decide().requeue_seconds == (run - START).total_seconds()
    assert f"again at {run:%Y-%m-%d %H:%M:%S} UTC" in world.condition("Progressing")[2]
    assert world.decide().start is None


def test_a_run_that_comes_due_starts_a_refresh_and_the_data_stays_ready_meanwhile() -> None:
    world = due(ready())
    world.settle()
    assert (phase(world), world.status.attempts) == (Phase.REFRESHING, 1)
    assert [world.condition(kind)[0] for kind in ("Ready", "UpToDate")] == ["True", "True"]
    assert world.status.next_sync_time is None
    assert len(world.jobs) == 1, "the Job before is gone"


def test_a_refresh_that_ends_well_is_handled_and_the_next_one_comes_a_day_later() -> None:
    world = refreshing()
    run = world.job.scheduled
    assert run is not None
    world.pass_time(60)
    world.pods.clear()
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY
    assert world.status.last_schedule_time == run
    assert world.status.last_sync_time == world.now
    assert world.status.next_sync_time == run + timedelta(days=1)
    assert world.status.last_handled_trigger is None


def test_runs_that_were_missed_are_one() -> None:
    world = ready()
    jobs = world.jobs_made
    world.pass_time(10 * 86_400)
    world.settle()
    world.succeed()
    world.settle()
    assert world.jobs_made == jobs + 1
    assert world.status.next_sync_time is not None
    assert world.status.next_sync_time > world.now


def test_a_run_that_comes_due_while_another_fetch_is_under_way_interrupts_nothing_and_is_covered_by_it() -> None:
    world = ready()
    world.change(sources=OTHER_SOURCES)
    world.settle()
    world.run_pod()
    name = world.job.name
    world.pass_time(2 * 86_400)
    world.settle()
    assert world.job.name == name
    world.pods.clear()
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY
    assert world.jobs_made == 2


def test_a_run_that_comes_due_while_a_refresh_takes_longer_than_a_day_interrupts_nothing() -> None:
    world = refreshing()
    name = world.job.name
    world.pass_time(86_400 + 3600)
    world.settle()
    assert world.job.name == name
    world.pods.clear()
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY


def test_a_refresh_that_failed_stays_failed_with_its_data_ready_until_the_next_run() -> None:
    world = failed()
    assert phase(world) == Phase.FAILED
    assert world.condition("Ready")[0] == "True"
    assert world.status.last_failure is not None
    run = world.status.next_sync_time
    assert run is not None
    assert world.status.last_failure.scheduled == run - timedelta(days=1)
    assert "the schedule at" in world.condition("Progressing")[2]
    jobs = world.jobs_made
    world.now = run - timedelta(seconds=1)
    world.settle()
    assert (phase(world), world.jobs_made) == (Phase.FAILED, jobs)
    world.now = run
    world.settle()
    assert (phase(world), world.jobs_made) == (Phase.REFRESHING, jobs + 1)
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY


def test_a_first_fetch_that_failed_is_tried_again_by_the_schedule() -> None:
    world = World(fetch(refresh=DAILY))
    world.settle()
    assert world.status.next_sync_time is None
    world.fail()
    world.settle()
    assert phase(world) == Phase.FAILED
    due(world).settle()
    assert phase(world) == Phase.PENDING
    world.succeed()
    world.settle()
    assert phase(world) == Phase.READY


def test_a_trigger_works_beside_a_schedule() -> None:
    world = ready()
    world.change(refresh={**DAILY, "trigger": "now"})
    world.settle()
    assert phase(world) == Phase.REFRESHING
    world.succeed()
    world.settle()
    assert world.status.last_handled_trigger == "now"
    due(world).settle()
    assert phase(world) == Phase.REFRESHING


def test_what_is_suspended_is_not_refreshed_and_comes_once_afterwards() -> None:
    world = ready()
    world.change(suspend=True)
    world.settle()
    jobs = world.jobs_made
    world.pass_time(5 * 86_400)
    assert world.settle() == 0
    assert world.status.next_sync_time is None
    world.change(suspend=False)
    world.settle()
    assert (phase(world), world.jobs_made) == (Phase.REFRESHING, jobs + 1)


def test_a_schedule_that_is_taken_away_ends_its_refresh() -> None:
    world = refreshing()
    world.change(refresh={})
    world.settle()
    assert phase(world) == Phase.READY
    assert not [job for job in world.jobs.values() if job.finished is None]
    assert world.status.next_sync_time is None


def test_a_job_that_says_it_ended_before_it_was_due_is_handled_all_the_same() -> None:
    """The clock of the controller that says when a Job ended may be behind ours."""
    world = refreshing()
    run = world.job.scheduled
    world.now -= timedelta(hours=1)
    world.pods.clear()
    world.succeed()
    world.now += timedelta(hours=1)
    world.settle()
    assert phase(world) == Phase.READY
    assert world.status.last_schedule_time == run


def test_a_schedule_that_never_comes_is_refused_with_a_sentence() -> None:
    world = World(fetch(refresh={"schedule": "0 0 30 2 *"}))
    world.settle()
    assert phase(world) == Phase.FAILED
    assert world.condition("Accepted")[:2] == ("False", "InvalidSpec")
    assert "day-of-month" in world.condition("Accepted")[2]
    world.change(refresh={"schedule": "@daily", "timeZone": "Europe/Helsinky"})
    world.settle()
    assert "'Europe/Helsinky' is no time zone" in world.condition("Accepted")[2]
    world.change(refresh={"schedule": "@daily"})
    world.settle()
    assert world.condition("Accepted")[0] == "True"


def _a_pod_ends(world: World, how: Callable[[World], object]) -> None:
    if [job for job in world.jobs.values() if job.finished is None]:
        world.pods.clear()
        how(world)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 100_000), st.sampled_from(["ends well", "fails", "goes on"]), st.booleans()),
        min_size=1,
        max_size=15,
    )
)
def test_however_long_fetches_take_and_the_operator_is_away_a_run_starts_one_job_at_most(
    happenings: list[tuple[int, str, bool]],
) -> None:
    world = ready(schedule="0 */6 * * *")
    for seconds, how, looks in happenings:
        world.pass_time(seconds)
        if how != "goes on":
            _a_pod_ends(world, World.succeed if how == "ends well" else World.fail)
        if looks:
            jobs = world.jobs_made
            world.settle()
            assert world.jobs_made <= jobs + 1
            assert len([job for job in world.jobs.values() if job.finished is None]) <= 1
    runs = sum(seconds for seconds, _, _ in happenings) // (6 * 3600) + 1
    assert world.jobs_made <= 1 + runs
