"""Who may write to a target: one process at a time, on file systems whose locks and clocks cannot be trusted.

The lock is a file with a random token and a counter that its holder rewrites every few seconds. Who waits watches the
counter on its own monotonic clock and takes over when it has stood still for too long. Every holder works in an epoch
of its own, a directory whose mkdir only one can win: a holder that was paused and wakes up finds a newer epoch, or its
own gone, and stops before it journals or publishes anything.

NFS and Lustre may lie about flock(2), and cache a directory's negative look-ups: so a plain file, reopened every time.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from datafetch.errors import DataFetchError, InterruptedByRequestError, SourceUnavailableError
from datafetch.sink.directory import Directory, refusals

LOCK = "lock"
EPOCHS = "epochs"
HEARTBEAT_SECONDS = 5.0
STILL_SECONDS = 30.0


class FencedError(SourceUnavailableError):
    """Another process has taken the target over: this one must not write to it any more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What the lock's file says of who holds it."""

    token: str
    counter: int
    host: str
    boot: str
    process_namespace: str
    process: int

    @classmethod
    def here(cls) -> "Holder":
        """Return this process as a holder with a new token."""
        return cls(os.urandom(8).hex(), 0, os.uname().nodename, boot_id(), _process_namespace(), os.getpid())

    @property
    def is_dead(self) -> bool:
        """Whether it surely is gone: it ran on this machine, in sight of us, and does not run any more."""
        if (self.boot, self.process_namespace) != (boot_id(), _process_namespace()) or not self.boot:
            return False
        return not os.path.exists(f"/proc/{self.process}")

    def to_bytes(self) -> bytes:
        """Return it as the lock's content."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Holder | None":
        """Return the holder that a lock's content names; None where it is torn."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None


def boot_id() -> str:
    """Return what names this boot of this machine; empty where there is no such thing."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _process_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


class TargetLock:
    """The lock of one state directory, and the epoch that came with it."""

    def __init__(
        self,
        state: Directory,
        *,
        still_seconds: float = STILL_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._still_seconds = still_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._holder = Holder.here()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.epoch = 0

    def acquire(
        self,
        cancel: threading.Event,
        waiting: Callable[[str], None],
        unneeded: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait for the lock; `waiting` is told for whom. Raises InterruptedByRequestError when cancelled.

        `unneeded` is asked each time that a holder has gone: where it says that nothing is left to do, the wait ends
        without the lock, and False is returned. So many that wait need not come one after the other.
        """
        self._state.make(EPOCHS)
        watched: str | None = None
        seen: bytes | None = None
        since, last_epoch = self._clock(), self._last_epoch()
        while True:
            content = self._state.read(LOCK)
            holder = None if content is None else Holder.from_bytes(content)
            token = holder.token if holder else ""
            if watched not in (None, token) and unneeded():
                return False
            watched = token
            if content is None:
                if self._take_free():
                    return True
                continue
            if content != seen:
                # The epoch to win is the one after the last that there was when the counter was seen to stand: of
                # many that see it stand still, one makes that directory, and the others begin to watch again.
                seen, since, last_epoch = content, self._clock(), self._last_epoch()
            if (holder is not None and holder.is_dead) or self._clock() - since >= self._still_seconds:
                if self._begin(last_epoch + 1):
                    return True
                seen = None
                continue
            waiting(f"another process ({holder.host if holder else 'unknown'}) is fetching to this target")
            if cancel.wait(min(1.0, self._still_seconds / 10)):
                raise InterruptedByRequestError("stopped while waiting for another process that holds the target")

    def check(self) -> None:
        """Raise FencedError where a newer epoch exists or ours is gone: somebody has taken over."""
        names = self._state.names(EPOCHS)
        if str(self.epoch) in names and all(int(name) <= self.epoch for name in names if name.isdigit()):
            return
        raise FencedError(
            "another process has taken this target over, because this one stood still for too long; "
            "nothing is lost, run it again"
        )

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        # Where it cannot be removed it goes stale, and the next one takes it over: no reason to fail.
        with contextlib.suppress(OSError, DataFetchError):
            content = self._state.read(LOCK)
            holder = Holder.from_bytes(content) if content else None
            if holder is not None and holder.token == self._holder.token:
                self._state.remove(LOCK)

    def _take_free(self) -> bool:
        """Create the lock's file, which only one of many can; then our epoch, unless a takeover was faster."""
        epoch = self._last_epoch() + 1
        temporary = f"{LOCK}.{self._holder.token}"
        self._state.replace(temporary, self._holder.to_bytes())
        try:
            if not self._link_exclusively(temporary):
                return False
        finally:
            self._state.remove(temporary)
        return self._begin(epoch)

    def _link_exclusively(self, temporary: str) -> bool:
        try:
            os.link(temporary, LOCK, src_dir_fd=self._state.descriptor, dst_dir_fd=self._state.descriptor)
        except FileExistsError:
            return False
        except OSError:
            # No hard links here: an exclusive create does as well, but may be seen empty for a moment.
            with refusals(self._state.full(LOCK)):
                return self._create_exclusively()
        return True

    def _create_exclusively(self) -> bool:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(LOCK, flags, 0o644, dir_fd=self._state.descriptor)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._holder.to_bytes())
        return True

    def _last_epoch(self) -> int:
        return max((int(name) for name in self._state.names(EPOCHS) if name.isdigit()), default=0)

    def _begin(self, epoch: int) -> bool:
        """Win an epoch by mkdir, write ourselves into the lock and keep it fresh."""
        if not self._state.make(f"{EPOCHS}/{epoch}"):
            return False
        self.epoch = epoch
        self._beat()
        self._thread = threading.Thread(target=self._keep_fresh, name="lock", daemon=True)
        self._thread.start()
        return True

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self._heartbeat_seconds):
            try:
                self.check()
                self._beat()
            except FencedError:
                return  # the main thread meets the same before it writes anything that counts
            except (OSError, DataFetchError):
                continue  # a full volume or a network file system that is away: the next beat may do

    def _beat(self) -> None:
        self._holder = replace(self._holder, counter=self._holder.counter + 1)
        # Not flushed: beside gigabytes on their way to the disk that may take longer than the others wait.
        self._state.replace(LOCK, self._holder.to_bytes())
