"""The kernel's side of a layer below a program: chosen system calls of it wait for a supervisor's word.

seccomp_unotify(2): below the program, its interpreter and every library it loads, without a debugger, a compiler or
root. As a script it is the launcher: it installs the filter, hands the listener to the supervisor, and becomes the
program. Knows numbers and structures; which call gets what answer is `faulty_disk`'s.
"""

import array
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

if platform.machine() != "x86_64":
    raise RuntimeError("the fault-injecting layer knows the system calls of x86_64 only: run these tests there")

AT_FDCWD: Final = -100
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class Syscall:
    """A system call; each letter of `arguments` is one.

    f a descriptor, d a directory's descriptor with p the path below it, P a path below the working directory, t a text
    that is no path, b a buffer with n its length, i a number, x something else in memory.
    """

    name: str
    number: int
    kind: str
    arguments: str

    @property
    def repeatable(self) -> bool:
        """Whether a supervisor can make the call in the program's place: it needs no memory of the program."""
        return self.kind not in {"open", "close"} and not set(self.arguments) & set("bx")


SYSCALLS: Final = {
    call.number: call
    for call in (
        Syscall("write", 1, "write", "fbn"),
        Syscall("pwrite64", 18, "write", "fbni"),
        Syscall("writev", 20, "write", "fxi"),
        Syscall("pwritev", 296, "write", "fxiii"),
        Syscall("pwritev2", 328, "write", "fxiiii"),
        Syscall("sendfile", 40, "write", "ffxi"),
        Syscall("copy_file_range", 326, "write", "fxfxii"),
        Syscall("splice", 275, "write", "fxfxii"),
        Syscall("open", 2, "open", "Pii"),
        Syscall("creat", 85, "open", "Pi"),
        Syscall("openat", 257, "open", "dpii"),
        Syscall("close", 3, "close", "f"),
        Syscall("fsync", 74, "flush", "f"),
        Syscall("fdatasync", 75, "flush", "f"),
        Syscall("syncfs", 306, "flush", "f"),
        Syscall("rename", 82, "rename", "PP"),
        Syscall("renameat", 264, "rename", "dpdp"),
        Syscall("renameat2", 316, "rename", "dpdpi"),
        Syscall("link", 86, "link", "PP"),
        Syscall("linkat", 265, "link", "dpdpi"),
        Syscall("symlink", 88, "symlink", "tP"),
        Syscall("symlinkat", 266, "symlink", "tdp"),
        Syscall("mkdir", 83, "mkdir", "Pi"),
        Syscall("mkdirat", 258, "mkdir", "dpi"),
        Syscall("unlink", 87, "unlink", "P"),
        Syscall("rmdir", 84, "unlink", "P"),
        Syscall("unlinkat", 263, "unlink", "dpi"),
        Syscall("truncate", 76, "truncate", "Pi"),
        Syscall("ftruncate", 77, "truncate", "fi"),
        Syscall("fallocate", 285, "truncate", "fiii"),
    )
}
KINDS: Final = frozenset(call.kind for call in SYSCALLS.values())

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_DESCRIPTOR = struct.Struct("=QIIII")
_RECEIVE, _SEND, _ADD_DESCRIPTOR = 0xC0502100, 0xC0182101, 0x40182103
_CONTINUE = 1
_ADD_AND_SEND = 2
_PIDFD_GETFD = 438
libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Notification:
    """A thread that stands at a system call."""

    id: int
    thread: int
    syscall: Syscall
    arguments: tuple[int, ...]


class Listener:
    """Where the calls arrive; every one must be answered."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def receive(self) -> Notification | None:
        """Return the next call; None where its thread died meanwhile."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer)
        except FileNotFoundError:
            return None
        identifier, thread, _flags, number, _arch, _ip, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(identifier, thread, SYSCALLS[number], tuple(arguments))

    def let_pass(self, notification: Notification) -> None:
        """Let the kernel carry the call out."""
        self._send(_ANSWER.pack(notification.id, 0, 0, _CONTINUE))

    def answer(self, notification: Notification, result: int) -> None:
        """Return that from the call, which is not carried out; below zero is an error's number."""
        self._send(_ANSWER.pack(notification.id, max(result, 0), min(result, 0), 0))

    def answer_with_descriptor(self, notification: Notification, descriptor: int) -> None:
        """Return a copy of a descriptor of ours from the call."""
        answer = bytearray(
            _DESCRIPTOR.pack(notification.id, _ADD_AND_SEND, descriptor, 0, os.O_CLOEXEC),
        )
        fcntl.ioctl(self.descriptor, _ADD_DESCRIPTOR, answer)

    def _send(self, answer: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, bytearray(answer))
        except FileNotFoundError:
            return  # the thread was killed while it stood here

    def close(self) -> None:
        """Close it; calls that come now fail with ENOSYS."""
        os.close(self.descriptor)


def copy_descriptor(process: int, descriptor: int) -> int:
    """Return a descriptor of ours for the same open file as one of another process."""
    handle = os.pidfd_open(process)
    try:
        copied = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
    finally:
        os.close(handle)
    if copied < 0:
        raise OSError(ctypes.get_errno(), f"descriptor {descriptor} of process {process} cannot be had")
    return int(copied)


def call(syscall: Syscall, arguments: Iterable[int | bytes]) -> int:
    """Make a system call; return its result, or an error's number below zero."""
    given = [ctypes.c_char_p(it) if isinstance(it, bytes) else ctypes.c_long(it) for it in arguments]
    result = libc.syscall(ctypes.c_long(syscall.number), *given)
    return int(result) if result >= 0 else -ctypes.get_errno()


_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X86_64 = 0xC000003E


def _program(kinds: frozenset[str], *, reading: bool) -> bytes:
    """Return the filter: ask about calls of these kinds, and about opening for reading if that is wanted."""
    code = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER_AT)]
    for found in SYSCALLS.values():
        if found.kind not in kinds and not (reading and found.kind == "open"):
            continue
        if found.kind == "open" and "i" in found.arguments[1:-1] and not reading:
            flags_at = _FIRST_ARGUMENT_AT + 8 * found.arguments.index("i")
            code += [(_EQUAL, 0, 4, found.number), (_LOAD, 0, 0, flags_at), (_ANY_BIT, 0, 1, WRITING)]
            code += [(_RETURN, 0, 0, _ASK), (_RETURN, 0, 0, _ALLOW)]
        else:
            code += [(_EQUAL, 0, 1, found.number), (_RETURN, 0, 0, _ASK)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in code)


_SECCOMP, _SET_FILTER, _NO_NEW_PRIVILEGES = 317, 1, 38
_NEW_LISTENER, _ONLY_KILLS_INTERRUPT = 1 << 3, 1 << 5


def _install(program: bytes) -> int:
    """Put this thread, and what it becomes, under the filter; return the listener."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    flags = _NEW_LISTENER | _ONLY_KILLS_INTERRUPT
    descriptor = libc.syscall(_SECCOMP, _SET_FILTER, flags, ctypes.c_char_p(header))
    if descriptor < 0:
        number = ctypes.get_errno()
        hint = "a kernel of 5.19 or newer is needed" if number == errno.EINVAL else os.strerror(number)
        raise OSError(number, f"seccomp(SECCOMP_SET_MODE_FILTER): {hint}")
    return int(descriptor)


def launcher(channel: int, kinds: Iterable[str], *, reading: bool) -> list[str]:
    """Return what stands before a command line to run it under the filter; the listener comes through the channel."""
    return [sys.executable, "-I", "-S", __file__, str(channel), ",".join(sorted(kinds)), "reading" if reading else "-"]


def receive_listener(channel: socket.socket) -> Listener | None:
    """Wait for the launcher's listener; None where it failed before."""
    received = array.array("i")
    _data, ancillary, _flags, _address = channel.recvmsg(1, socket.CMSG_LEN(received.itemsize))
    for _level, _kind, data in ancillary:
        received.frombytes(data[: received.itemsize])
    return Listener(received[0]) if received else None


def _main() -> None:
    channel, kinds, reading, *command = sys.argv[1:]
    with socket.socket(fileno=int(channel)) as sender:
        listener = _install(_program(frozenset(kinds.split(",")), reading=reading == "reading"))
        sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.execv(command[0], command)


if __name__ == "__main__":
    _main()
