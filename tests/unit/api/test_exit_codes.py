"""The table of exit codes: what users, Jobs and the documents rely on."""

from pathlib import Path

import pytest

from datafetch_api.exit_codes import ExitCode, non_retryable

_DESIGN = [
    (0, "Completed", False),
    (2, "InvalidConfig", False),
    (10, "CredentialsRejected", False),
    (11, "SourceNotFound", False),
    (12, "IntegrityMismatch", True),
    (13, "InsufficientSpace", False),
    (14, "SourceUnavailable", True),
    (15, "Stalled", True),
    (16, "TargetNotWritable", False),
    (17, "SourceChanged", True),
    (18, "UnsafePath", False),
    (19, "TargetOccupied", False),
    (70, "InternalError", True),
    (143, "Interrupted", True),
]


def test_codes_reasons_and_retries_never_change() -> None:
    assert [(code.value, code.reason, code.retryable) for code in ExitCode] == _DESIGN


def test_a_job_ends_at_once_after_what_no_retry_can_mend() -> None:
    assert non_retryable() == [2, 10, 11, 13, 16, 18, 19]


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.reason)
def test_every_code_has_a_meaning_and_stands_in_the_reference(code: ExitCode) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/exit-codes.md").read_text()
    assert code.meaning.endswith(".")
    assert f"| {code.value} | {code.reason} |" in page
    assert code.meaning in page
