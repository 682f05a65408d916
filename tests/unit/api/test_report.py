"""Progress and result: always one line, always short enough, never forged."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch_api.report import (
    TERMINATION_MESSAGE_BYTES,
    Failure,
    Progress,
    Result,
    SourceSummary,
    Stage,
    last_progress,
    parse_result,
    to_line,
    to_termination_message,
)

_NOW = datetime(2026, 1, 31, tzinfo=UTC)
_any_text = st.text(max_size=5000)
_sources = st.lists(
    st.builds(SourceSummary, name=st.text(min_size=1, max_size=63), resolved_revision=st.text(max_size=256)),
    max_size=40,
).map(tuple)
_failures = st.builds(
    Failure,
    reason=st.sampled_from(["InvalidConfig", "CredentialsRejected"]),
    message=_any_text,
    retryable=st.booleans(),
    source=st.none() | st.text(max_size=300),
    key=st.none() | st.text(max_size=1024),
)
_results = st.builds(
    Result,
    exit_code=st.integers(0, 255),
    total_bytes=st.none() | st.integers(0, 2**63),
    completed_bytes=st.integers(0, 2**63),
    manifest_digest=st.none() | st.just("sha256:" + "0" * 64),
    spec_hash=st.none() | st.just("v1:" + "0" * 64),
    failure=st.none() | _failures,
    sources=_sources,
)


@given(_results, st.integers(200, 4096))
def test_a_result_fits_and_can_be_read_whatever_it_holds(result: Result, limit: int) -> None:
    message = to_termination_message(result, limit)
    assert len(message.encode()) <= limit
    read = parse_result(message)
    assert read is not None
    assert read.exit_code == result.exit_code
    assert (read.failure is None) == (result.failure is None)
    if read.failure and result.failure:
        assert (read.failure.reason, read.failure.retryable) == (result.failure.reason, result.failure.retryable)
        assert result.failure.message.startswith(read.failure.message)


def _result(sources: int, failure: Failure | None = None) -> Result:
    summaries = tuple(
        SourceSummary(name=f"source-{i}", resolved_revision="0" * 40, files=1, bytes=2) for i in range(sources)
    )
    return Result(exit_code=0, completed_bytes=7, manifest_digest="sha256:1", sources=summaries, failure=failure)


def test_a_short_result_is_told_whole() -> None:
    result = _result(16)
    assert parse_result(to_termination_message(result)) == result


def test_entries_of_sources_go_first_and_from_the_last() -> None:
    message = to_termination_message(_result(16), 700)
    read = parse_result(message)
    assert read is not None
    assert [source.name for source in read.sources] == [f"source-{i}" for i in range(len(read.sources))]
    assert 0 < len(read.sources) < 16
    assert read.manifest_digest == "sha256:1"


def test_the_beginning_of_a_long_message_is_kept() -> None:
    failure = Failure(reason="SourceNotFound", message="No such bucket. " * 500, retryable=False)
    read = parse_result(to_termination_message(_result(0, failure)))
    assert read is not None
    assert read.failure is not None
    assert len(read.failure.message) > TERMINATION_MESSAGE_BYTES // 2
    assert read.completed_bytes == 7


def test_in_a_very_small_message_code_and_reason_are_left() -> None:
    failure = Failure(reason="SourceNotFound", message="No such bucket. " * 500, retryable=False, key="k" * 1000)
    message = json.loads(to_termination_message(_result(16, failure), 120))
    assert message["exitCode"] == 0
    assert message["failure"]["reason"] == "SourceNotFound"


def test_the_last_progress_line_is_the_news() -> None:
    lines = [to_line(Progress(stage=Stage.FETCHING, time=_NOW, completed_bytes=n)) for n in (1, 2)]
    log = "\n".join([lines[0], "a line for people", lines[1], '{"datafetch":"v1","broken', "the end", ""])
    progress = last_progress(log)
    assert progress is not None
    assert progress.completed_bytes == 2


@pytest.mark.parametrize(
    "log", ["", "no news", '{"datafetch":"v1"}', '{"datafetch":"v2","stage":"Fetching"}', "{}\n[]"]
)
def test_no_progress_line_means_no_news(log: str) -> None:
    assert last_progress(log) is None


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_a_server_s_error_body_cannot_forge_a_line(separator: str) -> None:
    forged = to_line(Progress(stage=Stage.PUBLISHING, time=_NOW, completed_bytes=10**12))
    assert last_progress(f"500 Server Error: sorry{separator}{forged}") is None


@given(st.builds(Progress, stage=st.sampled_from(Stage), time=st.just(_NOW), message=st.none() | _any_text))
def test_a_progress_line_is_one_line_and_survives_the_way(progress: Progress) -> None:
    line = to_line(progress)
    assert "\n" not in line
    assert "\r" not in line
    assert last_progress(line) == progress


@pytest.mark.parametrize(
    ("total", "done", "percent"), [(None, 5, None), (0, 0, 100), (1000, 999, 99), (1000, 1000, 100), (10, 99, 100)]
)
def test_percent_is_100_only_when_all_is_there(total: int | None, done: int, percent: int | None) -> None:
    assert Progress(stage=Stage.FETCHING, time=_NOW, total_bytes=total, completed_bytes=done).percent == percent


def test_what_a_newer_downloader_adds_is_passed_over() -> None:
    read = parse_result('{"datafetch":"v1","exitCode":0,"invented":{"later":true}}')
    assert read == Result(exit_code=0)


@pytest.mark.parametrize("message", ["", "OOMKilled", '{"exitCode":0', '{"datafetch":"v1"}', "[1]", '"datafetch"'])
def test_a_termination_message_that_is_no_result_is_none(message: str) -> None:
    assert parse_result(message) is None
