"""Whose turn it is, among tests of several processes: most run side by side, a few need the cluster to themselves."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """Two file locks: the running tests share one; whoever wants to begin passes the other first.

    One lock would not do: flock(2) lets newcomers share it for ever while somebody waits to have it alone.
    """

    def __init__(self, directory: Path) -> None:
        self._door = directory / "turns-door.lock"
        self._room = directory / "turns-room.lock"

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Run while others do, after whoever wants to be alone."""
        with contextlib.ExitStack() as inside:
            with _locked(self._door, fcntl.LOCK_EX):
                inside.enter_context(_locked(self._room, fcntl.LOCK_SH))
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody begin, and run when all others have ended."""
        with _locked(self._door, fcntl.LOCK_EX), _locked(self._room, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, operation)
        yield
