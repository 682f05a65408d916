"""What passes between plan, scheduler and sink: a file as it is planned, published, or staged. Data only.

Nobody changes a record; they are not frozen because making a frozen one takes three times as long, and each of millions
of files is made several times.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from datafetch.sources import Checksum, Entry


class Kind(IntEnum):
    """How a planned file will come to its place; it decides who takes it up."""

    SMALL = 0
    """In one request, of which many are under way at a time."""
    LARGE = 1
    """In ranges, or of unknown size."""
    KNOWN = 2
    """Perhaps without the network: the volume holds it, or parts of it, by what was noted."""
    ARCHIVE = 3
    """As a large one; then it is unpacked."""
    MEMBER = 4
    """Out of an archive: nobody takes it up."""


@dataclass(slots=True)
class PlannedFile:
    """One file that the finished tree will hold."""

    source_index: int
    source: str
    key: str
    path: str
    size: int | None
    identity: str
    checksum: Checksum | None
    id: int = 0
    """Its place in the ledger."""
    archive: str | None = None
    """Path of the archive that it comes out of; its key, size and identity are that one's."""

    @property
    def entry(self) -> Entry:
        """The file in the source's own terms."""
        return Entry(self.key, self.path, self.size, self.identity, self.checksum)


@dataclass(slots=True)
class ManifestFile:
    """One file of a published tree."""

    path: str
    size: int
    identity: str
    """Its identity at the source; empty where the source gives none."""
    checksum: str | None = None
    """`algorithm:value`, as it was verified."""
    modified: int = 0
    """mtime in nanoseconds when it was published."""
    archive: str | None = None
    """Path of the archive that it came out of; its identity is that one's."""

    def is_of(self, file: PlannedFile) -> bool:
        """Whether it is of exactly this object; one without identity never is."""
        same_size = file.size is None or self.size == file.size
        return self.archive is None and bool(file.identity) and self.identity == file.identity and same_size


@dataclass(slots=True)
class StagedFile:
    """A file in an epoch's tree, whole or in part."""

    path: str
    size: int | None
    identity: str
    epoch: int
    whole: bool = False
    checksum: str | None = None
    """`algorithm:value` of a whole file that was verified."""
    modified: int = 0
    """mtime of a whole file, in nanoseconds: whoever changes it changes that."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """What has arrived of a part: (start, end), end excluded."""
    archive: str | None = None
    """Path of the archive that it came out of."""
    home: str = ""
    """Below which directory of the state the epoch is: empty, or `shards/3/` where one of several wrote it."""

    def is_of(self, file: PlannedFile) -> bool:
        """Whether it holds bytes of exactly that object. An object without identity is never taken up again."""
        if self.archive is not None:
            return False
        return bool(file.identity) and self.identity == file.identity and self.size == file.size


class ArchiveState(StrEnum):
    """What is known of an archive that was unpacked."""

    PUBLISHED = "published"
    """Its files are in the last published tree."""
    STAGED = "staged"
    """An earlier run has unpacked it, all of it."""
    UNPACKED = "unpacked"
    """Its files are part of the tree that is being made."""


@dataclass(slots=True)
class UnpackedArchive:
    """An archive all of whose files are there; itself it may be gone."""

    path: str
    size: int
    identity: str
    """Its identity at the source; empty where the source gives none."""
    checksum: str | None
    """`algorithm:value`, as it was verified."""
    files: int
    bytes: int
    """Of its files together."""

    def is_of(self, file: PlannedFile) -> bool:
        """Whether it is of exactly this object; one without identity never is."""
        same_size = file.size is None or self.size == file.size
        return bool(file.identity) and self.identity == file.identity and same_size
