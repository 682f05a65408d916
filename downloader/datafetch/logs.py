"""Log lines for people, on stderr: one line a message, and nothing in it that could be taken for anything else.

Standard output belongs to progress lines and the result (`progress`, `report`). What servers answer ends up in
messages, so every line passes through `redaction`, whatever a caller forgot; so does what ends a thread without being
caught, which Python would print as it is.
"""

import logging
import sys
import threading
import time
from types import TracebackType

from datafetch.redaction import redacted, shortened
from datafetch_api.printable import single_line

_LOGGER = "datafetch"
_LINE_CHARACTERS = 16_000
"""A traceback fits; a key of ten megabytes does not."""


class _PlainFormatter(logging.Formatter):
    """`message`, or `WARNING: message`: whoever sits at a terminal knows the time."""

    def format(self, record: logging.LogRecord) -> str:
        text = _printable(super().format(record))
        return text if record.levelno == logging.INFO else f"{record.levelname}: {text}"


class _LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z INFO message`, with a traceback folded into the same line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return time.strftime(datefmt or self.default_time_format, time.gmtime(record.created))

    def format(self, record: logging.LogRecord) -> str:
        return _printable(super().format(record))


def _printable(text: str) -> str:
    return single_line(shortened(redacted(text), _LINE_CHARACTERS))


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
    _catch_the_uncaught()


def ensure_configured() -> None:
    """Send our log to stderr, unless somebody has said already where it goes."""
    if not logging.getLogger().handlers:
        configure()


def _catch_the_uncaught() -> None:
    """Make log lines of the tracebacks that Python would print itself, unless somebody else takes them already."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught_in_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    logging.getLogger(_LOGGER).error("uncaught: %s", kind.__name__, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_value is not None and not issubclass(uncaught.exc_type, SystemExit):
        name = uncaught.thread.name if uncaught.thread else "unknown"
        what = (uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)
        logging.getLogger(_LOGGER).error("uncaught in thread %s", name, exc_info=what)


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if unraisable.exc_value is not None:
        what = (unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
        logging.getLogger(_LOGGER).error("uncaught: %s", unraisable.err_msg or "in clean-up", exc_info=what)
