"""The process: its exit code, its signals, and the last word of a run.

`datafetch --version` imports nothing but this. Signals are caught before anything slow is imported: as the first
process of a container it would not be ended by them otherwise.
"""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from datafetch import __version__

if TYPE_CHECKING:
    from datafetch.commands.session import Answer, Finish
    from datafetch.errors import DataFetchError
    from datafetch.progress import ProgressTracker

_PATIENCE_SECONDS = 1.6
"""How long a run may take to end by itself once it is told to. A pod's grace is longer, but nothing is gained by it:
the state on disk is good at every moment."""
_FAREWELL_SECONDS = 0.2
_INTERRUPTED = 143
_SHOW_CURSOR = b"\x1b[?25h"
logger = logging.getLogger("datafetch")


class _Process:
    """What outlives a command: the request to stop, and the last word, which is said once."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self._said = threading.Lock()
        self._tracker: ProgressTracker | None = None
        self._finish: Finish | None = None
        self._spec_hash: str | None = None

    def catch_signals(self) -> None:
        """Let SIGTERM and SIGINT ask the run to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def attach(self, tracker: "ProgressTracker | None", finish: "Finish", spec_hash: str | None) -> None:
        """Take in where this run's result comes from and where it goes, should it end early."""
        self._tracker, self._finish, self._spec_hash = tracker, finish, spec_hash

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ask the run to end; end it at the second signal, or when it takes too long."""
        if self.cancel.is_set():
            _exit_at_once()
        self.cancel.set()
        timer = threading.Timer(_PATIENCE_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()

    def _give_up(self) -> None:
        self.fail(_interrupted())
        time.sleep(_FAREWELL_SECONDS)
        _exit_at_once()

    def fail(self, error: "DataFetchError") -> int:
        """Say in one sentence why the run failed, and return its exit code."""
        from datafetch import logs, report
        from datafetch.progress import ProgressTracker
        from datafetch_api.report import to_line

        if not self._said.acquire(blocking=False):
            return error.code
        logs.ensure_configured()
        logger.error("%s: %s", error.code.reason, error)
        for problem in getattr(error, "others", ()):
            logger.error("also: %s", problem)
        result = report.failure(error, self._tracker or ProgressTracker(), self._spec_hash)
        if self._leave(lambda limit: report.termination_message(result, limit)).json:
            _write(to_line(result) + "\n")
        return result.exit_code

    def succeed(self, answer: "Answer") -> int:
        """Hand on what a command has done or found, and return its exit code."""
        if not self._said.acquire(blocking=False):
            return _INTERRUPTED
        finish = self._leave(answer.termination_message)
        for piece in answer.pieces() if finish.json else (f"{line}\n" for line in answer.lines()):
            _write(piece)
        if finish.json:
            _write("\n")
        if answer.failure is not None:
            from datafetch import logs

            logs.ensure_configured()
            logger.error("%s: %s", answer.failure.reason, answer.failure.message)
        return answer.exit_code

    def _leave(self, message: Callable[[int | None], str]) -> "Finish":
        """Leave the termination message; return how the run ends for those who read its result."""
        from datafetch import termination
        from datafetch.commands.options import termination_allowance
        from datafetch.commands.session import Finish

        finish = self._finish or Finish("--json" in sys.argv, None, termination_allowance(os.environ))
        termination.leave(message(finish.termination_limit), finish.termination_log)
        return finish


def _exit_at_once() -> NoReturn:
    """End without waiting for any thread; give a terminal the cursor back that a progress bar hides."""
    if os.isatty(2):
        with contextlib.suppress(OSError):
            os.write(2, _SHOW_CURSOR)
    os._exit(_INTERRUPTED)


def main() -> NoReturn:
    """Run the command line and exit."""
    if sys.argv[1:2] in (["--version"], ["-V"]):
        _write(f"datafetch {__version__}\n")
        code = 0
    else:
        # Until the first source is open nearly everything that is made stays: a tenth of the start-up.
        gc.disable()
        # Pydantic would read the metadata of every installed package in search of plugins; we have none.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
        process = _Process()
        process.catch_signals()
        code = _run(process)
    _close_standard_output()
    # All is said: a signal that comes while the interpreter ends must not turn success into death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _run(process: _Process) -> int:
    from datafetch import cli

    try:
        options = cli.parse(sys.argv[1:])
    except cli.CommandLineError as error:
        from datafetch.errors import InvalidConfigError

        return process.fail(InvalidConfigError(str(error)))
    except SystemExit:  # --help has been printed
        return 0
    try:
        return process.succeed(options.command(options, process))
    except Exception as error:  # noqa: BLE001 - the last resort: whatever happened becomes a sentence and a code
        return process.fail(_as_ours(error, cancelled=process.cancel.is_set()))


def _as_ours(error: Exception, *, cancelled: bool) -> "DataFetchError":
    """Return the error with its exit code; what comes of being told to stop is no failure of its own."""
    from datafetch.errors import DataFetchError, InternalError

    if isinstance(error, DataFetchError):
        return _interrupted() if cancelled and error.retryable else error
    if cancelled:
        return _interrupted()
    for line in "".join(traceback.format_exception(error)).splitlines():
        logger.debug("%s", line)
    if isinstance(error, ModuleNotFoundError):
        return InternalError(f"the Python package {error.name!r} is missing; install datafetch[downloader]")
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return InternalError(f"a defect in datafetch ({what}); please report it with the output of --log-level DEBUG")


def _interrupted() -> "DataFetchError":
    from datafetch.errors import InterruptedByRequestError

    return InterruptedByRequestError("stopped by a signal; what was fetched is kept, run it again to go on")


def _write(text: str) -> None:
    """Write to standard output, which may be closed already: `datafetch run ... | head -1`."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _close_standard_output() -> None:
    """Flush, and keep the interpreter from complaining at its end about a reader that has gone."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
