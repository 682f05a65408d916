"""Sizes and durations: what Kubernetes reads is read the same, anything else is a sentence."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch_api.quantities import BYTES_PATTERN, DURATION_PATTERN, format_bytes, parse_bytes, parse_duration

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "E": 10**18, "Ei": 2**60}


@given(st.integers(0, 10**9), st.sampled_from(sorted(_UNITS)))
def test_a_whole_quantity_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * _UNITS[unit]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.5Gi", 1_610_612_736), ("0.1", 1), ("0.3k", 300), ("1.0001Ki", 1025), ("0", 0), ("200Gi", 214_748_364_800)],
)
def test_a_fraction_is_rounded_up_to_whole_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "ten", "10 Gi", "-1", "1e3", "1GiB", "1gi", "1K", "500m", ".5", "1.", "\u0661"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it like 200Gi"):
        parse_bytes(text)


@given(st.from_regex(re.compile(BYTES_PATTERN, re.ASCII), fullmatch=True))
def test_whatever_the_api_server_lets_through_can_be_read(text: str) -> None:
    assert parse_bytes(text) >= 0


@given(st.integers(0, 99), st.integers(0, 999), st.integers(0, 9999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.from_regex(re.compile(DURATION_PATTERN, re.ASCII), fullmatch=True).filter(lambda text: len(text.strip()) > 1))
def test_whatever_duration_the_api_server_lets_through_can_be_read(text: str) -> None:
    assert parse_duration(text) >= 0


@pytest.mark.parametrize("text", ["", "60", "1.5h", "1m1h", "1d", "-1s", "1 s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 60s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10_189, "9.95 KiB"),
        (10_239, "10.0 KiB"),
        (102_297, "99.9 KiB"),
        (102_400, "100 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (1_471_026_594, "1.37 GiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_a_size_is_printed_with_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text


@given(st.integers(0, 2**60))
def test_a_printed_size_is_within_half_a_percent(size: int) -> None:
    number, unit = format_bytes(size).split()
    assert abs(parse_bytes(number + unit.removesuffix("B")) - size) <= max(1, size * 0.0051)
