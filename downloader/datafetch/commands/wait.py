"""`datafetch wait`: until the data of DataFetches is there. What is looked for, and how, is `waiting`'s.

It starts in every pod that waits and then waits beside many others, so it writes its few lines of JSON by itself:
pydantic would take three times as long as all the rest, and as much memory again.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from datafetch.commands.options import (
    Commands,
    Parser,
    add_command,
    add_log_options,
    add_termination_options,
)
from datafetch.commands.session import Answer, Finish, Session

if TYPE_CHECKING:
    from datafetch.waiting import Missing, Target
    from datafetch_api.report import Failure

_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 7.5
"""Seconds after which a line is due although nothing has changed. The next look may be two seconds off, and the lines
at most ten."""
_DESCRIPTION = """\
Wait until the data of DataFetches is published on a volume. A TARGET is
DIRECTORY[=NAMESPACE/NAME[@UID]]: the path of a DataFetch's target, seen from
here, then whose data it must be, and of which resource of that name. DIRECTORY
alone waits for whatever a DataFetch publishes there. The volume may be mounted
read-only: nothing is written, made or locked."""
_EPILOG = """\
examples:
  datafetch wait /mnt/claim/tinyllama=team/tinyllama
  datafetch wait /mnt/claim/a=team/a@1f0c... /mnt/claim/b=team/b@77ab...
  datafetch wait /mnt/claim/tinyllama --timeout 10m

Data of another resource of that name (one that was deleted and made again) will
do where it is published while this command waits.

Ends with 0 when everything is there, with 15 (Stalled) after --timeout, and
with 143 when it is stopped. What stands in the way (no right to read, the data
of another DataFetch) is said, and waited out."""


def add_wait(commands: "Commands[Parser]") -> None:
    """Add `datafetch wait`."""
    wait = add_command(
        commands, "wait", "wait until the data of a DataFetch is published", description=_DESCRIPTION, epilog=_EPILOG
    )
    wait.add_argument(
        "targets",
        metavar="TARGET",
        nargs="+",
        type=_target,
        help="DIRECTORY[=NAMESPACE/NAME[@UID]]: where data will be published, and whose it must be",
    )
    wait.add_argument(
        "--timeout", metavar="DURATION", type=_duration, help="give up after this time, as 90s, 10m or 1h30m"
    )
    add_termination_options(add_log_options(wait, answer="print the result as the last line of standard output"))
    wait.set_defaults(command=_wait)


def _target(text: str) -> "Target":
    from datafetch.waiting import parse_target

    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _duration(text: str) -> tuple[str, int]:
    """Return a duration as it was written, and its seconds."""
    from datafetch_api.quantities import parse_duration

    try:
        return text, parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class _Arrived:
    """Everything is there."""

    seconds: int
    exit_code = 0
    failure: "Failure | None" = None

    def termination_message(self, _limit: int | None) -> str:
        """Return the result, which is shorter than any limit."""
        return result_line(self.seconds)

    def pieces(self) -> Iterator[str]:
        """Yield the result's line."""
        yield result_line(self.seconds)

    def lines(self) -> Iterator[str]:
        """Yield nothing: people have read the log."""
        return iter(())


def _wait(options: argparse.Namespace, session: Session) -> Answer:
    import logging

    from datafetch import logs
    from datafetch.waiting import explain_timeout, wait_for

    started, clock = time.time(), time.monotonic()
    gc.enable()  # it may stay for days
    logs.configure(options.log_level)
    session.attach(None, Finish(options.json, options.termination_log, options.termination_limit), None)
    written, seconds = options.timeout or (None, None)
    teller = Teller(show_lines=not sys.stdout.isatty())
    missing = wait_for(options.targets, session.cancel, teller.tell, started=started, timeout=seconds)
    if not missing:
        waited = time.monotonic() - clock
        logging.getLogger(__name__).info("%s", _conclude(options.targets, waited))
        return _Arrived(round(waited))
    from datafetch.errors import InterruptedByRequestError, StalledError

    if session.cancel.is_set():
        raise InterruptedByRequestError("stopped by a signal")
    raise StalledError(explain_timeout(missing, written or ""))


def _conclude(targets: "Sequence[Target]", seconds: float) -> str:
    what = f"{targets[0].directory} is published" if len(targets) == 1 else f"all {len(targets)} are published"
    return f"{what}; waited {seconds:.1f} s"


@dataclass
class Teller:
    """Says what is waited for: on standard error when it changes, on standard output at the pace of a fetch."""

    show_lines: bool
    clock: Callable[[], float] = time.monotonic
    _message: str = field(default="", init=False)
    _last: float | None = field(default=None, init=False)

    def tell(self, missing: "Sequence[Missing]") -> None:
        """Take in what is missing now."""
        import logging

        from datafetch.waiting import announce

        message, now = announce(missing), self.clock()
        pause = float("inf") if self._last is None else now - self._last
        if pause < (_LONGEST_PAUSE if message == self._message else _SHORTEST_PAUSE):
            return
        if message != self._message:
            logging.getLogger(__name__).info("%s", message)
        self._message, self._last = message, now
        if self.show_lines:
            self.show_lines = _write(progress_line(message, datetime.now(UTC)))


def _write(line: str) -> bool:
    """Write a line to standard output; False once nobody reads it any more."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def progress_line(message: str, now: datetime) -> str:
    """Return what `datafetch_api.report.Progress` would say."""
    nothing = {"completedBytes": 0, "reusedBytes": 0, "completedFiles": 0, "datafetch": "v1", "stage": "Waiting"}
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return _line({**nothing, "time": time, "bytesPerSecond": 0, "message": message, "sources": []})


def result_line(seconds: int) -> str:
    """Return what `datafetch_api.report.Result` would say of success."""
    nothing = {"completedBytes": 0, "reusedBytes": 0, "completedFiles": 0, "datafetch": "v1", "exitCode": 0}
    return _line({**nothing, "durationSeconds": seconds, "sources": []})


def _line(fields: dict[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"))
