import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import pytest

from datafetch import logs
from datafetch.redaction import redacted

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What a configured log has written to stderr; the loggers are as before afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("datafetch")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    logs.configure("INFO")
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\x85b", "a\u2028b", "a\u202eb", "a\x00b", "a\x7fb"])
def test_a_message_is_one_line_without_control_characters(written: Written, text: str) -> None:
    logging.getLogger("datafetch").info("server said %s", text)

    (line,) = written().splitlines()
    assert line.isprintable()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO server said a.*b", line)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("written")
def test_on_a_terminal_a_message_stands_alone_and_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    logs.configure("INFO")
    logging.getLogger("datafetch").info("server said a\x1b[2Jb")
    logging.getLogger("datafetch").error("GET https://h/x?sig=secret failed")

    assert terminal.getvalue() == "server said a\\x1b[2Jb\nERROR: GET https://h/x?... failed\n"


def test_a_traceback_is_one_line_too(written: Written) -> None:
    try:
        int("first\nsecond")
    except ValueError:
        logging.getLogger("datafetch").warning("failed", exc_info=True)

    assert written().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://host/key?X-Amz-Signature=abc failed", "GET https://host/key?... failed"),
        ("https://user:secret@host/key", "https://host/key"),
        ("'https://a/x?sig=1', 'https://b/y#t'", "'https://a/x?...', 'https://b/y?...'"),
        ("hf://ORG/NAME@v1/x", "hf://ORG/NAME@v1/x"),
        ("is it there? yes", "is it there? yes"),
    ],
)
def test_what_may_be_secret_in_a_url_is_cut(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_other_packages_are_heard_from_warning_on_whatever_the_level(written: Written) -> None:
    logs.configure("DEBUG")
    logging.getLogger("botocore.endpoint").debug("Authorization: AWS4-HMAC-SHA256 secret")
    logging.getLogger("datafetch.x").debug("ours")
    logging.getLogger("urllib3").warning("theirs")

    assert [line.split(" ", 1)[1] for line in written().splitlines()] == ["DEBUG ours", "WARNING theirs"]


def test_the_level_holds(written: Written) -> None:
    logs.configure("ERROR")
    logging.getLogger("datafetch").warning("no")
    logging.getLogger("datafetch").error("yes")

    (line,) = written().splitlines()
    assert line.endswith("ERROR yes")


def test_a_python_warning_is_a_log_line(written: Written) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old API\nused", stacklevel=1)

    assert len(written().splitlines()) == 1


@pytest.mark.usefixtures("written")
def test_a_closed_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)

    logging.getLogger("datafetch").info("into the void")
