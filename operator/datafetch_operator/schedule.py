"""When `spec.refresh.schedule` comes due: cron's five fields in a time zone, spread out by the resource's uid. Pure.

cronsim owns the fields and the days on which clocks change: as in Debian's cron, what would run in the hour that is
skipped runs right after it, what would run in the hour that comes twice runs once, and a schedule with `*` as its
minute or hour goes by real time. What a run that is due starts, and when it counts as handled, is `lifecycle`'s.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MOST_JITTER = timedelta(minutes=10)
JITTER_SHARE = 0.1
"""Most that a run is put off, as a share of the time until the next one."""
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = 5
_HOW_TO = "write minute, hour, day of month, month and day of week, for example '0 3 * * *', or @daily"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that can be carried out."""

    fields: str
    """Cron's five fields."""
    zone: ZoneInfo


@lru_cache(maxsize=1024)
def read_schedule(text: str, time_zone: str | None = None, field: str = "spec.refresh.schedule") -> Schedule:
    """Return the schedule that stands in a field; without a time zone it is UTC.

    Raises ValueError with a sentence where there is no such schedule or zone, or none of its days ever comes.
    """
    schedule = Schedule(_read_fields(text, field), _read_zone(time_zone or "UTC"))
    try:
        first = next(_runs(schedule, datetime(2024, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        part = str(error).removeprefix("Bad ")
        message = f"{field} {text!r}: its {part} is none that ever comes; {_HOW_TO}"
        raise ValueError(message) from error
    if first is None:
        raise ValueError(f"{field} {text!r} names days that never come; {_HOW_TO}")
    return schedule


def next_time(schedule: Schedule, after: datetime, uid: str) -> datetime | None:
    """Return the first run after this time, in UTC; None where none comes within 50 years.

    A run is put off by a share of the time until the following one that only the uid decides: a hundred resources with
    one schedule do not come at one moment, and each of them comes at the same moment whoever asks, and whenever.
    """
    share = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) / 2**64
    runs = _runs(schedule, after - MOST_JITTER)
    for run, following in pairwise(runs):
        put_off = run + _whole_seconds(share * min(MOST_JITTER, JITTER_SHARE * (following - run)))
        if put_off > after:
            return put_off
    return None


def _runs(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Give the runs after this time in UTC, as cron has them.

    Asked within the hour that comes twice, cronsim may begin with a run in the first of the two, which has passed.
    """
    return (run.astimezone(UTC) for run in CronSim(schedule.fields, after.astimezone(schedule.zone)))


def _read_fields(text: str, field: str) -> str:
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) == _FIELDS:
        return " ".join(fields)
    if fields and fields[0].startswith(("TZ=", "CRON_TZ=")):
        raise ValueError(f"{field} {text!r} holds a time zone; name it in spec.refresh.timeZone instead")
    if fields and fields[0].startswith("@"):
        raise ValueError(f"{field} {text!r} is none of {', '.join(_MACROS)}; take one of them, or {_HOW_TO}")
    raise ValueError(f"{field} {text!r} has {len(fields)} fields instead of {_FIELDS}; {_HOW_TO}")


def _read_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # OSError: the name of a directory, or too long a one.
        how_to = "write a name of the IANA database, for example Europe/Helsinki"
        raise ValueError(f"spec.refresh.timeZone {name!r} is no time zone; {how_to}") from error


def _whole_seconds(amount: timedelta) -> timedelta:
    return timedelta(seconds=int(amount.total_seconds()))
