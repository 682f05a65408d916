"""Log lines for people, on stderr: one line a message, and nothing in it that could be taken for anything else.

Standard output belongs to progress lines and the result (`progress`, `report`). What servers answer ends up in
messages, so control characters are escaped and the parts of URLs that may hold tokens are cut here, whatever a caller
forgot.
"""

import logging
import re
import sys
import time

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LOGGER = "datafetch"


def single_line(text: str) -> str:
    r"""Return the text with control characters, line breaks and direction marks escaped: `\n`, `\x1b`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redacted(text: str) -> str:
    """Return the text with user-info, query and fragment of every URL in it cut out: those may hold tokens."""
    return _URL.sub(lambda match: _redact_url(match[0]), text)


def _redact_url(url: str) -> str:
    url = _USER_INFO.sub("", url) if not url.startswith("hf://") else url
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    return head if head == url else f"{head}?..."


class _PlainFormatter(logging.Formatter):
    """`message`, or `WARNING: message`: whoever sits at a terminal knows the time."""

    def format(self, record: logging.LogRecord) -> str:
        text = single_line(redacted(super().format(record)))
        return text if record.levelno == logging.INFO else f"{record.levelname}: {text}"


class _LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z INFO message`, with a traceback folded into the same line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return time.strftime(datefmt or self.default_time_format, time.gmtime(record.created))

    def format(self, record: logging.LogRecord) -> str:
        return single_line(redacted(super().format(record)))


class _StandardErrorHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is now: progress bars stand in for it while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Do nothing: with stderr gone there is nowhere left to say so, and the download goes on."""


def configure(level: str = "INFO") -> None:
    """Send our log to stderr from `level` on, and other packages' from WARNING on.

    SDKs write requests with their headers at DEBUG; those stay out whatever the level, since headers hold credentials.
    """
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _StandardErrorHandler)]:
        root.removeHandler(old)
    handler = _StandardErrorHandler()
    handler.setFormatter(_PlainFormatter() if sys.stderr.isatty() else _LineFormatter())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_LOGGER).setLevel(level)
    logging.captureWarnings(True)


def ensure_configured() -> None:
    """Send our log to stderr, unless somebody has said already where it goes."""
    if not logging.getLogger().handlers:
        configure()
