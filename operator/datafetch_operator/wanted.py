"""What is wanted of a fetch at this moment, and what its status says of that: done, failed, or under way. Pure.

A fetch is wanted for its sources, a claim, and whatever asks for a refresh: a trigger that is not handled yet, or a run
of the schedule that has come due. `lifecycle` says what follows; `schedule` knows when runs come.
"""

from dataclasses import replace
from datetime import datetime

from datafetch_api.resource import DataFetch, DataFetchStatus
from datafetch_api.spec_hash import spec_hash
from datafetch_operator.render.labels import Wanted, object_name
from datafetch_operator.schedule import Schedule, next_time, read_schedule


def wanted_now(fetch: DataFetch, status: DataFetchStatus, claim_uid: str, now: datetime) -> Wanted:
    """Return what is wanted. A run that comes due interrupts no attempt that is under way, and is covered by it."""
    base = Wanted(spec_hash(fetch.spec.sources), pending_trigger(fetch, status), claim_uid)
    if schedule_of(fetch) is None:
        return base
    failed = replace(base, scheduled=status.last_failure.scheduled if status.last_failure else None)
    under_way = next((one for one in (base, failed) if is_under_way(fetch, status, one)), None)
    if under_way is not None:
        return under_way
    due = next_run(fetch, status)
    # Until the next run comes, the one that failed stays what is wanted: so it stays failed.
    return failed if due is None or due > now else replace(base, scheduled=due)


def next_run(fetch: DataFetch, status: DataFetchStatus) -> datetime | None:
    """Return the first run of the schedule since the last fetch ended, well or not; None before one has.

    Runs that were missed since then are one, because it is the first of them that counts until it is handled.
    """
    schedule, failure = schedule_of(fetch), status.last_failure
    handled = [status.last_sync_time, status.last_schedule_time]
    handled += [failure.time, failure.scheduled] if failure else []
    since = max((time for time in handled if time is not None), default=None)
    return None if schedule is None or since is None else next_time(schedule, since, fetch.metadata.uid)


def schedule_of(fetch: DataFetch) -> Schedule | None:
    """Return the schedule, if there is one. Raises ValueError with a sentence where it cannot be carried out."""
    refresh = fetch.spec.refresh
    return read_schedule(refresh.schedule, refresh.time_zone) if refresh.schedule else None


def pending_trigger(fetch: DataFetch, status: DataFetchStatus) -> str | None:
    """Return the trigger that no finished fetch has handled yet."""
    trigger = fetch.spec.refresh.trigger
    return trigger if trigger and trigger != status.last_handled_trigger else None


def is_done(status: DataFetchStatus, wanted: Wanted) -> bool:
    """Return whether the published revision is what is wanted."""
    artifact = status.artifact
    return (
        artifact is not None
        and artifact.spec_hash == wanted.spec_hash
        and artifact.claim_uid == wanted.claim_uid
        and wanted.trigger is None
        and wanted.scheduled is None
    )


def is_failed(fetch: DataFetch, status: DataFetchStatus, wanted: Wanted) -> bool:
    """Return whether the current attempt failed: then nothing but a change of what is wanted starts it again."""
    failure = status.last_failure
    return (
        failure is not None
        and failure.attempt == status.attempts
        and failure.generation == fetch.metadata.generation
        and failure.spec_hash == wanted.spec_hash
        and failure.trigger == wanted.trigger
        and failure.scheduled == wanted.scheduled
    )


def is_under_way(fetch: DataFetch, status: DataFetchStatus, wanted: Wanted) -> bool:
    """Return whether the status speaks of an attempt at this that has not ended."""
    is_current = current_attempt(fetch, status, wanted) > 0
    return is_current and not is_done(status, wanted) and not is_failed(fetch, status, wanted)


def current_attempt(fetch: DataFetch, status: DataFetchStatus, wanted: Wanted) -> int:
    """Return the number of the attempt that the status speaks of; 0 where that was for something else."""
    if status.job_ref is None or not status.attempts:
        return 0
    name = object_name(fetch.metadata.name, fetch.metadata.uid, wanted, status.attempts)
    return status.attempts if name == status.job_ref.name else 0
