"""A disk that fails on demand, below the program: every call that changes a volume is seen, answered, and recorded.

The supervisor makes the calls in the program's place, one at a time, so that the record is the order in which things
happened, with their results. Only writes, opens and closes are left to the kernel: those are recorded as they begin.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from component import seccomp
from component.commands import Run, environment
from component.seccomp import AT_FDCWD, Listener, Notification, Syscall

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class Call:
    """A call that changes the volume."""

    index: int
    """Counted from 1 over all calls on the volume."""
    nth: int
    """Counted from 1 over those of its kind."""
    name: str
    kind: str
    """One of `seccomp.KINDS`; `reopen` for opening a file that is there already, which needs no room."""
    path: str
    """Below the volume, `.` the volume itself. Of a rename or link: the old name."""
    to: str | None = None
    """The new name of a rename or link; what a symbolic link says."""
    size: int | None = None
    """Bytes that a write asks for."""
    result: int = 0
    """An error's number is below zero. Of a write that was left to the kernel: not known, 0."""

    @property
    def done(self) -> bool:
        """Whether it was carried out."""
        return self.result >= 0


@dataclass(frozen=True, slots=True)
class Fail:
    """The call is not carried out and ends with an error."""

    number: int


@dataclass(frozen=True, slots=True)
class Short:
    """A write takes only so many of its bytes; at least one."""

    bytes: int


@dataclass(frozen=True, slots=True)
class PowerOff:
    """The program ends before the call, at once, with all that is in memory."""


Verdict = Fail | Short | PowerOff | None
Rule = Callable[[Call], Verdict]
"""Says what becomes of a call before it is made; None lets it be."""


def healthy(call: Call) -> Verdict:
    """Let every call be."""
    return None


@dataclass
class Disk:
    """A volume with a layer below the programs that `run` starts."""

    volume: Path
    rule: Rule = healthy
    after: Callable[[Call, Path], None] = lambda call, path: None
    """Told of every call that was made, with the full path."""
    kinds: frozenset[str] = seccomp.KINDS - {"close"}
    boot_id: str | None = None
    """What the program reads as the name of this boot of the machine; None is the real one."""
    calls: list[Call] = field(default_factory=list)

    def datafetch(self, *arguments: str | Path, home: Path) -> Run:
        """Run the command over this disk."""
        return self.run([sys.executable, "-m", "datafetch", *map(str, arguments)], home=home)

    def run(self, command: Sequence[str], *, home: Path) -> Run:
        """Run a program over this disk."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            before = seccomp.launcher(theirs.fileno(), self.kinds, reading=self.boot_id is not None)
            process = subprocess.Popen(
                [*before, *command],
                cwd=home,
                env=environment(home, {}),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            theirs.close()
            supervisor = _Supervisor(self, process.pid)
            thread = threading.Thread(target=supervisor.serve, args=(ours,), name="disk", daemon=True)
            thread.start()
            try:
                stdout, stderr = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                process.communicate()
                raise
            thread.join(timeout=10)
        if supervisor.error is not None:
            raise supervisor.error
        return Run(process.returncode, stdout, stderr)


class _Supervisor:
    def __init__(self, disk: Disk, process: int) -> None:
        self._disk = disk
        self._root = os.path.realpath(disk.volume)
        self._process = process
        self._counts: Counter[str] = Counter()
        self._dead = False
        self.error: BaseException | None = None

    def serve(self, channel: socket.socket) -> None:
        """Answer every call until the program has ended."""
        listener = seccomp.receive_listener(channel)
        if listener is None:
            return
        poll = select.poll()
        poll.register(listener.descriptor, select.POLLIN)
        try:
            while True:
                ((_descriptor, event),) = poll.poll()
                if not event & select.POLLIN:
                    return
                if (notification := listener.receive()) is not None:
                    self._answer(listener, notification)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self.error = error
            os.kill(self._process, signal.SIGKILL)
        finally:
            listener.close()

    def _answer(self, listener: Listener, notification: Notification) -> None:
        if self._dead:
            return  # killed: its threads die where they stand
        try:
            call, full = self._describe(notification)
        except (FileNotFoundError, ProcessLookupError):
            listener.let_pass(notification)  # a descriptor that is not open: the kernel says so
            return
        if full == BOOT_ID and self._disk.boot_id is not None:
            self._answer_boot_id(listener, notification)
            return
        if call is None:
            listener.let_pass(notification)
            return
        self._disk.calls.append(call)
        self._carry_out(listener, notification, call)
        if call.done and not self._dead:
            self._disk.after(call, Path(full))

    def _carry_out(self, listener: Listener, notification: Notification, call: Call) -> None:
        verdict = self._disk.rule(call)
        if isinstance(verdict, PowerOff):
            self._dead = True
            os.kill(self._process, signal.SIGKILL)
        elif isinstance(verdict, Fail):
            call.result = -verdict.number
            listener.answer(notification, call.result)
        elif isinstance(verdict, Short) and "b" in notification.syscall.arguments:
            call.result = self._write(notification, verdict.bytes)
            listener.answer(notification, call.result)
        elif notification.syscall.repeatable:
            call.result = self._make(notification)
            listener.answer(notification, call.result)
        else:
            listener.let_pass(notification)

    def _answer_boot_id(self, listener: Listener, notification: Notification) -> None:
        reader, writer = os.pipe()
        os.write(writer, f"{self._disk.boot_id}\n".encode())
        os.close(writer)
        listener.answer_with_descriptor(notification, reader)
        os.close(reader)

    def _describe(self, notification: Notification) -> tuple[Call | None, str]:
        """Return the call, None where it does not change the volume, and the full path of its first object."""
        syscall = notification.syscall
        paths = self._paths(notification)
        target = paths[-1] if syscall.name in {"copy_file_range", "splice"} else paths[0]
        harmless = syscall.kind in {"open", "close"} and not self._writes(notification)
        if harmless or not any(self._below(path) for path in (paths[0], target)):
            return None, target
        kind = "reopen" if syscall.kind == "open" and os.path.lexists(target) else syscall.kind
        self._counts[kind] += 1
        call = Call(len(self._disk.calls) + 1, self._counts[kind], syscall.name, kind, "")
        call.path = os.path.relpath(target, self._root)
        if syscall.kind in {"rename", "link"}:
            call.to = os.path.relpath(paths[1], self._root)
        if syscall.kind == "symlink":
            call.to = self._text(notification, notification.arguments[syscall.arguments.index("t")])
        if "n" in syscall.arguments:
            call.size = notification.arguments[syscall.arguments.index("n")]
        return call, target

    def _below(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    @staticmethod
    def _writes(notification: Notification) -> bool:
        """Whether a file is opened to be written, or one that was is closed: network file systems refuse it then."""
        syscall, arguments = notification.syscall, notification.arguments
        if syscall.kind == "close":
            lines = Path(f"/proc/{notification.thread}/fdinfo/{_signed(arguments[0])}").read_text().splitlines()
            flags = int(dict(line.split(":", 1) for line in lines)["flags"], 8)
        elif syscall.name == "creat":
            return True
        else:
            flags = arguments[syscall.arguments.index("i")]
        return bool(flags & seccomp.WRITING)

    def _paths(self, notification: Notification) -> list[str]:
        """Return the full path of every object of the call, in the order of its arguments."""
        found = []
        base = ""
        for letter, value in zip(notification.syscall.arguments, notification.arguments, strict=False):
            if letter == "f":
                found.append(os.readlink(f"/proc/{notification.thread}/fd/{_signed(value)}"))
            elif letter == "d":
                at = "cwd" if _signed(value) == AT_FDCWD else f"fd/{_signed(value)}"
                base = os.readlink(f"/proc/{notification.thread}/{at}")
            elif letter == "p":
                found.append(os.path.normpath(os.path.join(base, self._text(notification, value))))
            elif letter == "P":
                here = os.readlink(f"/proc/{notification.thread}/cwd")
                found.append(os.path.normpath(os.path.join(here, self._text(notification, value))))
        return found

    @staticmethod
    def _memory(notification: Notification, address: int, size: int) -> bytes:
        descriptor = os.open(f"/proc/{notification.thread}/mem", os.O_RDONLY)
        try:
            return os.pread(descriptor, size, address)
        finally:
            os.close(descriptor)

    def _text(self, notification: Notification, address: int) -> str:
        """Return the text at an address; read up to the end of its page, and of the next one where it goes on."""
        content = b""
        while b"\0" not in content:
            content += self._memory(notification, address + len(content), 4096 - (address + len(content)) % 4096)
        return os.fsdecode(content.partition(b"\0")[0])

    def _make(self, notification: Notification) -> int:
        """Make the call in the program's place."""
        opened: list[int] = []
        arguments: list[int | bytes] = []
        try:
            for letter, value in zip(notification.syscall.arguments, notification.arguments, strict=False):
                arguments.append(self._translated(notification, letter, value, opened))
            return seccomp.call(notification.syscall, arguments)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _translated(self, notification: Notification, letter: str, value: int, opened: list[int]) -> int | bytes:
        if letter == "i":
            return _signed64(value)
        if letter in "pt":
            return os.fsencode(self._text(notification, value))
        if letter == "P":
            here = os.readlink(f"/proc/{notification.thread}/cwd")
            return os.fsencode(os.path.join(here, self._text(notification, value)))
        if letter == "d" and _signed(value) == AT_FDCWD:
            opened.append(os.open(f"/proc/{notification.thread}/cwd", os.O_PATH | os.O_DIRECTORY))
        else:
            opened.append(seccomp.copy_descriptor(self._process, _signed(value)))
        return opened[-1]

    def _write(self, notification: Notification, size: int) -> int:
        """Write the first bytes of what the program asked for; return how many."""
        syscall, arguments = notification.syscall, notification.arguments
        wanted = arguments[syscall.arguments.index("n")]
        content = self._memory(notification, arguments[syscall.arguments.index("b")], max(1, min(size, wanted)))
        descriptor = seccomp.copy_descriptor(self._process, _signed(arguments[0]))
        try:
            if "i" not in syscall.arguments:
                return os.write(descriptor, content)
            return os.pwrite(descriptor, content, arguments[syscall.arguments.index("i")])
        finally:
            os.close(descriptor)


def _signed(value: int) -> int:
    """Return an int argument as the kernel reads it: the lower half of the register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


__all__ = ["Call", "Disk", "Fail", "PowerOff", "Rule", "Short", "Syscall", "Verdict", "healthy"]
