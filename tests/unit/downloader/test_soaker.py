"""Super Obj Soaker's command lines and environment variables, as `datafetch get` understands them."""

import logging
from collections.abc import Mapping

import pytest

from datafetch.api import config_for
from datafetch.cli import parse
from datafetch.commands.options import with_transfer
from datafetch.commands.soaker import with_environment
from datafetch.errors import InvalidConfigError
from datafetch_api.config import TransferSettings
from unit.downloader.soaker_examples import DEFAULTS, EXAMPLES, arguments


def settings(environment: Mapping[str, str], *flags: str) -> TransferSettings:
    """What `datafetch get` makes of an environment and its options."""
    options = parse(["get", "s3://b/p", "d", *flags])
    return with_transfer(with_environment(config_for("s3://b/p", "d"), environment, options), options).transfer


@pytest.mark.parametrize("example", EXAMPLES.splitlines())
def test_its_examples_are_command_lines_of_get(example: str) -> None:
    options = parse(["get", *arguments(example)])

    assert (options.uri, options.dest) == ("s3://mybucket/data", "/local/path")
    assert options.region in (None, "us-west-2")
    assert options.log_level in ("INFO", "DEBUG")
    assert options.endpoint_url in (None, "http://localhost:8333")


def test_every_variable_reaches_its_setting() -> None:
    given = {
        "MIN_PROCESSES": "2",
        "MAX_PROCESSES": "8",
        "MAX_SPEED": "12.5",
        "OPTIMIZATION_INTERVAL": "3",
        "MAX_RETRIES": "5",
        "RETRY_DELAY": "0.25",
    }
    assert set(given) == set(DEFAULTS)
    assert settings(given) == TransferSettings(
        min_concurrency=2,
        max_concurrency=8,
        bandwidth_limit=12_500_000,
        tuning_interval=3,
        max_retries=5,
        retry_delay=0.25,
    )


def test_its_own_defaults_are_values_that_can_be_given() -> None:
    assert settings(DEFAULTS) == TransferSettings(
        min_concurrency=1, max_concurrency=16, tuning_interval=10, max_retries=3, retry_delay=5
    )


def test_without_them_nothing_is_changed_and_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "datafetch"):
        assert settings({"PATH": "/bin", "MAX_SPEED": ""}) == TransferSettings()

    assert caplog.messages == []


def test_what_was_found_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "datafetch"):
        settings({"MAX_SPEED": "50", "MAX_PROCESSES": "8", "RETRY_DELAY": "x"}, "--retry-delay", "1")

    (line,) = caplog.messages
    assert line == (
        "from the environment: MAX_PROCESSES=8 (most requests at a time), MAX_SPEED=50 (most MB/s), "
        "RETRY_DELAY (not read: --retry-delay is given)"
    )


def test_options_win_over_the_environment() -> None:
    flags = "--min-workers 3 --max-workers 5 --bandwidth-limit 2Mi --max-retries 1 --retry-delay 0"
    unreadable = dict.fromkeys(DEFAULTS, "unreadable") | {"OPTIMIZATION_INTERVAL": "7"}

    assert settings(unreadable, *flags.split()) == TransferSettings(
        min_concurrency=3,
        max_concurrency=5,
        bandwidth_limit=2 << 20,
        tuning_interval=7,
        max_retries=1,
        retry_delay=0,
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MIN_PROCESSES", "0", "'0' is not a number from 1 to 1024; correct it or unset it, or give --min-workers"),
        ("MAX_PROCESSES", "2000", "'2000' is not a number from 1 to 1024"),
        ("MAX_SPEED", "fast", "'fast' is not a number of MB/s above 0; correct it or unset it, or give --bandwidth-"),
        ("MAX_SPEED", "0", "'0' is not a number of MB/s above 0"),
        ("MAX_SPEED", "nan", "'nan' is not a number of MB/s"),
        ("OPTIMIZATION_INTERVAL", "-1", "'-1' is not a number of seconds above 0, up to 3600; correct it or unset it"),
        ("MAX_RETRIES", "3.5", "'3.5' is not a number from 0 to 1000"),
        ("RETRY_DELAY", "5s", "'5s' is not a number of seconds from 0 to 3600"),
        ("RETRY_DELAY", "1e99", "'1e99' is not a number of seconds"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_sentence_that_names_it(variable: str, value: str, said: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        settings({variable: value})

    assert str(caught.value).startswith(f"the environment variable {variable}: {said}")
    assert "\n" not in str(caught.value)


def test_a_floor_above_the_ceiling_is_refused_wherever_they_come_from() -> None:
    with pytest.raises(InvalidConfigError, match=r"at least 8 requests at a time .* and at most 4 .* cannot be"):
        settings({"MIN_PROCESSES": "8", "MAX_PROCESSES": "4"})
    with pytest.raises(InvalidConfigError, match=r"at least 8 requests at a time .* and at most 4 .* cannot be"):
        settings({"MIN_PROCESSES": "8"}, "--max-workers", "4")
