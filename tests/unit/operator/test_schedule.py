"""Schedules: cron's rules in a time zone, also on the days when clocks change; each resource at its own moment."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_operator.schedule import JITTER_SHARE, MOST_JITTER, next_time, read_schedule

HELSINKI = "Europe/Helsinki"
UNDELAYED = "uid-2822"
"""A uid whose share of the jitter is next to nothing."""


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _times(text: str, zone: str | None, after: str, count: int, uid: str = UNDELAYED) -> list[str]:
    schedule, at, found = read_schedule(text, zone), _utc(after), []
    for _ in range(count):
        following = next_time(schedule, at, uid)
        assert following is not None
        at = following
        found.append(at.astimezone(schedule.zone).strftime("%Y-%m-%d %H:%M %Z"))
    return found


# --- cron's rules ----------------------------------------------------------------------------------------------------


def test_without_a_time_zone_it_is_utc() -> None:
    assert _times("0 3 * * *", None, "2026-01-31T02:59", 2) == ["2026-01-31 03:00 UTC", "2026-02-01 03:00 UTC"]


def test_the_hour_is_that_of_the_time_zone_in_summer_and_winter() -> None:
    assert _times("0 3 * * *", HELSINKI, "2026-01-31T00:00", 1) == ["2026-01-31 03:00 EET"]
    assert _times("0 3 * * *", HELSINKI, "2026-07-31T00:00", 1) == ["2026-08-01 03:00 EEST"]


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("@hourly", "2026-01-31 13:00 UTC"),
        ("@daily", "2026-02-01 00:00 UTC"),
        ("@Midnight", "2026-02-01 00:00 UTC"),
        ("@weekly", "2026-02-01 00:00 UTC"),
        ("@monthly", "2026-02-01 00:00 UTC"),
        ("@yearly", "2027-01-01 00:00 UTC"),
    ],
)
def test_the_usual_macros_are_known(macro: str, expected: str) -> None:
    assert _times(macro, None, "2026-01-31T12:30", 1) == [expected]


def test_a_run_at_the_very_moment_is_not_after_it() -> None:
    assert _times("0 3 * * *", None, "2026-01-31T03:00", 1) == ["2026-02-01 03:00 UTC"]


def test_the_29th_of_february_comes_in_leap_years_only() -> None:
    assert _times("30 4 29 2 *", HELSINKI, "2026-01-01T00:00", 2) == ["2028-02-29 04:30 EET", "2032-02-29 04:30 EET"]


def test_the_last_day_of_a_month_can_be_named() -> None:
    assert _times("0 0 L * *", None, "2026-02-01T00:00", 2) == ["2026-02-28 00:00 UTC", "2026-03-31 00:00 UTC"]


# --- clocks change in Helsinki: 2026-03-29 03:00 becomes 04:00, 2026-10-25 04:00 becomes 03:00 -----------------------


def test_what_falls_into_the_skipped_hour_runs_right_after_it_and_once() -> None:
    expected = ["2026-03-28 03:30 EET", "2026-03-29 04:00 EEST", "2026-03-30 03:30 EEST"]
    assert _times("30 3 * * *", HELSINKI, "2026-03-27T12:00", 3) == expected


def test_what_falls_into_the_hour_that_comes_twice_runs_in_the_first_one_only() -> None:
    expected = ["2026-10-24 03:30 EEST", "2026-10-25 03:30 EEST", "2026-10-26 03:30 EET"]
    assert _times("30 3 * * *", HELSINKI, "2026-10-23T12:00", 3) == expected


@pytest.mark.parametrize("after", ["2026-10-25T00:45", "2026-10-25T01:10", "2026-10-25T01:45"])
def test_asked_within_the_hour_that_comes_twice_the_run_that_has_passed_does_not_come_again(after: str) -> None:
    assert _times("30 3 * * *", HELSINKI, after, 1) == ["2026-10-26 03:30 EET"]


def test_every_hour_goes_by_real_time_when_clocks_change() -> None:
    spring = ["2026-03-29 02:00 EET", "2026-03-29 04:00 EEST", "2026-03-29 05:00 EEST"]
    assert _times("0 * * * *", HELSINKI, "2026-03-28T23:30", 3) == spring
    autumn = ["2026-10-25 03:00 EEST", "2026-10-25 03:00 EET", "2026-10-25 04:00 EET"]
    assert _times("0 * * * *", HELSINKI, "2026-10-24T23:30", 3) == autumn


def test_a_midnight_that_does_not_exist_runs_when_the_day_begins() -> None:
    """In Beirut, clocks go forward at midnight."""
    expected = ["2026-03-28 00:00 EET", "2026-03-29 01:00 EEST", "2026-03-30 00:00 EEST"]
    assert _times("@daily", "Asia/Beirut", "2026-03-27T12:00", 3) == expected


# --- each resource at its own moment ---------------------------------------------------------------------------------


def test_a_uid_has_its_own_moment_and_keeps_it() -> None:
    schedule, after = read_schedule("0 3 * * *"), _utc("2026-01-31T00:00")
    moments = [next_time(schedule, after, f"uid-{number}") for number in range(400)]
    assert moments == [next_time(schedule, after, f"uid-{number}") for number in range(400)]
    assert len(set(moments)) > 200, "four hundred resources are spread over ten minutes"
    assert all(m is not None and _utc("2026-01-31T03:00") <= m < _utc("2026-01-31T03:10") for m in moments)


def test_a_frequent_schedule_is_put_off_by_a_tenth_of_its_interval_at_most() -> None:
    schedule, after = read_schedule("*/10 * * * *"), _utc("2026-01-31T00:01")
    moments = [next_time(schedule, after, f"uid-{number}") for number in range(200)]
    assert all(m is not None and _utc("2026-01-31T00:10") <= m <= _utc("2026-01-31T00:11") for m in moments)


def test_a_run_that_was_put_off_is_still_to_come_after_its_plain_time() -> None:
    schedule = read_schedule("0 3 * * *")
    moment = next_time(schedule, _utc("2026-01-31T00:00"), "uid-1")
    assert moment is not None
    assert moment > _utc("2026-01-31T03:01")
    assert next_time(schedule, _utc("2026-01-31T03:00"), "uid-1") == moment


TIMES = st.integers(0, 4 * 365 * 86_400).map(lambda seconds: _utc("2025-01-01") + timedelta(seconds=seconds))
ZONES = st.sampled_from([None, HELSINKI, "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Beirut", "America/New_York"])
MINUTES = st.one_of(st.integers(0, 59).map(str), st.sampled_from(["*", "*/7", "0,30", "15-20", "*/59"]))
HOURS = st.one_of(st.integers(0, 23).map(str), st.sampled_from(["*", "*/3", "1-4", "3,4", "0,23"]))
DAYS = st.one_of(st.integers(1, 28).map(str), st.sampled_from(["*", "*/10", "29,31", "L", "LW"]))
MONTHS = st.one_of(st.integers(1, 12).map(str), st.sampled_from(["*", "3,10", "*/5", "mar"]))
WEEKDAYS = st.sampled_from(["*", "0", "7", "mon-fri", "1,3", "5L", "tue#2"])
SCHEDULES = st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(SCHEDULES, ZONES, TIMES, st.uuids().map(str), st.floats(0, 1))
def test_a_run_comes_at_one_moment_whenever_one_asks(
    text: str, zone: str | None, after: datetime, uid: str, share: float
) -> None:
    """What comes next stays what comes next until it comes: else it would be missed, or come twice."""
    try:
        schedule = read_schedule(text, zone)
    except ValueError:
        return
    first = next_time(schedule, after, uid)
    if first is None:
        return
    assert first > after
    assert first.microsecond == 0
    between = after + share * (first - after)
    if between < first:
        assert next_time(schedule, between, uid) == first
    second = next_time(schedule, first, uid)
    assert second is None or second > first


@settings(max_examples=100, deadline=None)
@given(SCHEDULES, ZONES, TIMES, st.uuids().map(str))
def test_jitter_keeps_the_order_and_its_bounds(text: str, zone: str | None, after: datetime, uid: str) -> None:
    try:
        schedule = read_schedule(text, zone)
    except ValueError:
        return
    put_off = next_time(schedule, after, uid)
    if put_off is None:
        return
    plain, following = after, next_time(schedule, put_off - MOST_JITTER, UNDELAYED)
    while following is not None and following <= put_off:
        plain, following = following, next_time(schedule, following, UNDELAYED)
    assert following is not None
    assert timedelta(0) <= put_off - plain <= min(MOST_JITTER, JITTER_SHARE * (following - plain))


# --- what cannot be carried out --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 fields instead of 5"),
        ("0 3 * *", "4 fields instead of 5"),
        ("0 0 3 * * *", "6 fields instead of 5"),
        ("60 * * * *", "its minute"),
        ("0 24 * * *", "its hour"),
        ("0 0 0 * *", "its day-of-month"),
        ("0 0 30 2 *", "its day-of-month"),
        ("0 0 31 4,6,9,11 *", "its day-of-month"),
        ("0 0 1 13 *", "its month"),
        ("0 0 * * 8", "its day-of-week"),
        ("0 0 * * friday", "its day-of-week"),
        ("0 0 * * 5-1", "its day-of-week"),
        ("*/0 * * * *", "its minute"),
        ("1/2/3 * * * *", "its minute"),
        ("²L * * * *", "its minute"),
        ("* * */20 * 1L", "never come"),
        ("@every 1h", "none of @yearly"),
        ("@reboot", "none of @yearly"),
        ("TZ=Europe/Helsinki 0 3 * * *", "spec.refresh.timeZone"),
    ],
)
def test_what_is_no_schedule_becomes_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"spec\.refresh\.schedule") as refused:
        read_schedule(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Europe/Helsinky", "europe/helsinki", "Europe", "../UTC", "/etc/passwd", "a\0b", "x" * 300]
)
def test_what_is_no_time_zone_becomes_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"spec\.refresh\.timeZone") as refused:
        read_schedule("0 3 * * *", name)
    assert "for example Europe/Helsinki" in str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("0123456789*/,-#LWMONJA @", max_size=40)), st.text(max_size=20))
def test_whatever_is_written_it_is_a_schedule_or_a_sentence(text: str, zone: str) -> None:
    for schedule, time_zone in ((text, None), ("0 3 * * *", zone)):
        with suppress(ValueError):
            first = next_time(read_schedule(schedule, time_zone), _utc("2026-01-31T00:00"), UNDELAYED)
            assert first is not None
