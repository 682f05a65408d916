import stat
from pathlib import Path

import pytest

from datafetch import report, termination
from datafetch.engine import FetchOutcome
from datafetch.errors import InsufficientSpaceError, SourceNotFoundError
from datafetch.progress import ProgressTracker
from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import SourceSummary, parse_result


def outcome(size: int = 2**30, reused: int = 0, files: int = 3) -> FetchOutcome:
    sources = (SourceSummary(name="corpus", files=files, bytes=size),)
    return FetchOutcome(files, size, reused, "sha256:ab", "20260131-1", "Link", sources)


def test_a_success_says_what_is_there() -> None:
    result = report.success(outcome(reused=7), ProgressTracker(), "v1:cd")

    assert (result.exit_code, result.failure) == (0, None)
    assert (result.total_bytes, result.completed_bytes, result.reused_bytes) == (2**30, 2**30, 7)
    assert (result.total_files, result.completed_files) == (3, 3)
    assert (result.manifest_digest, result.revision, result.publication) == ("sha256:ab", "20260131-1", "Link")
    assert result.spec_hash == "v1:cd"
    assert [source.name for source in result.sources] == ["corpus"]


def test_a_failure_says_why_and_how_far_it_came() -> None:
    tracker = ProgressTracker()
    tracker.totals(10, 1000)
    tracker.received(300, "weights")
    error = InsufficientSpaceError("10 GiB are needed and 1 GiB is free", source="corpus")

    result = report.failure(error, tracker)

    assert result.exit_code == ExitCode.INSUFFICIENT_SPACE
    assert result.failure is not None
    assert (result.failure.reason, result.failure.retryable, result.failure.source) == (
        "InsufficientSpace",
        False,
        "corpus",
    )
    assert result.failure.message == "source 'corpus': 10 GiB are needed and 1 GiB is free"
    assert (result.total_bytes, result.completed_bytes) == (1000, 300)


def test_a_failure_shows_neither_tokens_nor_control_characters() -> None:
    error = SourceNotFoundError("GET https://me:pw@host/x?X-Amz-Signature=abc said\n\x1b[31mno", key="a\nb")

    failure = report.failure(error, ProgressTracker()).failure

    assert failure is not None
    assert "pw" not in failure.message
    assert "Signature" not in failure.message
    assert failure.message.isprintable()
    assert failure.key == r"a\nb"


def test_the_termination_message_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "message"
    result = report.success(outcome(), ProgressTracker(), None)

    termination.leave(report.termination_message(result, None), str(path))

    assert parse_result(path.read_text()) == result


def test_a_termination_message_is_short_and_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "message"
    error = SourceNotFoundError("no such thing " * 1000, source="corpus")

    termination.leave(report.termination_message(report.failure(error, ProgressTracker()), None), str(path))

    assert len(path.read_bytes()) <= 3500
    parsed = parse_result(path.read_text())
    assert parsed is not None
    assert parsed.failure is not None
    assert parsed.failure.reason == "SourceNotFound"


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    termination.leave("{}", str(tmp_path / "no/where"))

    assert "cannot write the termination message" in caplog.text


def test_without_the_default_place_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setattr(termination, "DEFAULT_PATH", str(path))

    termination.leave("{}", None)
    assert not path.exists()

    path.touch()
    termination.leave("{}", None)
    assert path.read_text() == "{}"
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.parametrize(
    ("done", "seconds", "sentence"),
    [
        (outcome(), 4.0, "3 files, 1.00 GiB, in data after 4.0 s (256 MiB/s)"),
        (outcome(files=1, size=10), 0.2, "1 file, 10 B, in data after 0.2 s"),
        (
            outcome(reused=2**29),
            4.0,
            "3 files, 1.00 GiB, in data after 4.0 s (128 MiB/s); 512 MiB of it was there already",
        ),
        (outcome(reused=2**30), 4.0, "3 files, 1.00 GiB, were all there already in data"),
    ],
)
def test_the_last_sentence_for_people(done: FetchOutcome, seconds: float, sentence: str) -> None:
    assert report.summary(done, seconds, "data") == sentence
