"""What a command sees of the running process, and what it hands back to it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datafetch.progress import ProgressTracker
    from datafetch_api.report import Failure


@dataclass(frozen=True)
class Finish:
    """How the run ends for those who read its result."""

    json: bool = False
    termination_log: str | None = None
    termination_limit: int | None = None
    """Most bytes of the termination message. Default: what a container alone in its pod may leave."""


class Session(Protocol):
    """The running process, as a command sees it."""

    @property
    def cancel(self) -> threading.Event:
        """Set once the run is to stop."""

    def attach(self, tracker: "ProgressTracker | None", finish: Finish, spec_hash: str | None) -> None:
        """Take in where this run's result comes from and where it goes, should it end early."""


class Answer(Protocol):
    """What a command has done or found."""

    @property
    def exit_code(self) -> int:
        """The process's."""

    @property
    def failure(self) -> "Failure | None":
        """What is wrong with what was found, where something is."""

    def termination_message(self, limit: int | None) -> str:
        """Return the result in at most `limit` bytes; without one, in what a container alone in its pod may leave."""

    def pieces(self) -> Iterator[str]:
        """Yield the text of one JSON object in one line, piece by piece, for `--json`."""

    def lines(self) -> Iterator[str]:
        """Yield what people read on standard output without `--json`."""
