"""Runs a command to which the kernel refuses link(2) with EPERM, as file systems without hard links do.

    python refuse_links.py COMMAND...

A seccomp filter does it: it outlives exec, and nothing in the command can tell it from such a file system.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_LINK_CALLS = {"x86_64": (86, 265), "aarch64": (37,)}
"""Numbers of link(2) and linkat(2)."""
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def _refuse_links() -> None:
    calls = _LINK_CALLS[platform.machine()]
    # Load the call's number; jump to the last line where it is one of ours; else allow.
    lines = [(_LOAD, 0, 0, 0)]
    lines += [(_JUMP_IF_EQUAL, len(calls) - index, 0, number) for index, number in enumerate(calls)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    _refuse_links()
    os.execvp(sys.argv[1], sys.argv[1:])
