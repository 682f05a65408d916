"""The operator's log: a record is a line, whatever stands in it."""

import json
import logging

import pytest

from datafetch_operator import logs


@pytest.mark.usefixtures("restore_logging")
def test_a_record_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("datafetch_operator").warning("%s/%s: %s", "team", "a", 'x\n{"level":"forged"}')
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    record = json.loads(lines[0])
    assert (record["level"], record["logger"]) == ("warning", "datafetch_operator")
    assert record["message"].startswith("team/a: x\n")


@pytest.mark.usefixtures("restore_logging")
def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    nothing: dict[str, str] = {}
    try:
        nothing["here"]
    except KeyError:
        logging.getLogger("datafetch_operator").exception("a defect")
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'here'" in json.loads(line)["exception"]


@pytest.mark.usefixtures("restore_logging")
def test_what_kopf_says_of_every_event_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("kopf.objects").info("Handler 'fetch_changed' succeeded.")
    logging.getLogger("kopf.objects").warning("Something is wrong.")
    assert "succeeded" not in (text := capsys.readouterr().err)
    logging.getLogger().handlers[0].flush()
    assert "Something is wrong." in text
