"""What readers of archives say: members one after the other, and what is wrong with an archive. Data only."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class DamagedError(Exception):
    """The archive is not whole, or no archive; the text says how, and follows 'it'."""


class UnsupportedError(Exception):
    """The archive may be good, but it is not to be had here; the text says why, and follows 'it'."""


class MemberKind(StrEnum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SAME = "hard link"
    """The same file as an earlier member."""
    SYMBOLIC_LINK = "symbolic link"
    DEVICE = "device or pipe"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, as its header says."""

    name: str
    kind: MemberKind
    size: int = 0
    """Bytes of its content, of which no more come."""
    executable: bool = False
    target: str = ""
    """What a link leads to."""


class Reader(Protocol):
    """An archive that is read from its beginning to its end, once."""

    @property
    def promised(self) -> tuple[int, int] | None:
        """Files and bytes of all members, where the archive says so before them."""

    def __iter__(self) -> Iterator[Member]:
        """Yield its members. Raises DamagedError, UnsupportedError."""

    def read(self, most: int) -> bytes | memoryview:
        """Return the next bytes of the member that was yielded last; none after its end, when they are verified."""
