"""Unpacks one archive: each member to its place, nothing beyond the limits, every byte verified before it counts.

Limits hold while it goes on: a member is taken account of before its first byte is written.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from datafetch.checksums import new_hasher
from datafetch.errors import (
    DataFetchError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    InvalidConfigError,
    UnsafePathError,
)
from datafetch.plan import Plan
from datafetch.records import PlannedFile, UnpackedArchive
from datafetch.sink import Archives
from datafetch.sink.directory import close_quietly, refusals, write_all
from datafetch.sources import ChecksumAlgorithm
from datafetch.unpacking.formats import MAGIC_BYTES, Format, archive_format
from datafetch.unpacking.members import DamagedError, Member, MemberKind, Reader, UnsupportedError
from datafetch_api.items import Unpack
from datafetch_api.quantities import format_bytes

_READ_BYTES = 1 << 20
_BATCH = 256
_LEAST_BYTES = 16 << 10
"""What an archive counts for at least where it is held against its content: a few zeros are no bomb."""
_AS_IT_IS = "or fetch it as it is, without unpack"


class _Limits:
    """What an archive may still hold. Raises UnsafePathError where that is too little."""

    def __init__(self, archive: PlannedFile, size: int, settings: Unpack) -> None:
        self._archive = archive
        self._size = max(size, _LEAST_BYTES)
        self._settings = settings
        self.files = 0
        self.bytes = 0

    def take(self, files: int, size: int) -> None:
        """Take account of members before they are written."""
        self.check(self.files + files, self.bytes + size)
        self.files += files
        self.bytes += size

    def check(self, files: int, size: int) -> None:
        """Raise where so many files and bytes are too many."""
        settings = self._settings
        if files > settings.max_files:
            self._refuse(f"more than {settings.max_files:,} members", "max_files")
        if size > settings.max_bytes:
            self._refuse(f"more than {format_bytes(settings.max_bytes)}", "max_bytes")
        if size > settings.max_ratio * self._size:
            self._refuse(f"more than {settings.max_ratio:,} times as many bytes as it has itself", "max_ratio")

    def _refuse(self, what: str, key: str) -> None:
        archive = self._archive
        raise UnsafePathError(
            f"the archive {archive.key!r} holds {what}; if that is right, raise {key} of its unpacking, {_AS_IT_IS}",
            source=archive.source,
            key=archive.key,
        )


@dataclass(frozen=True, slots=True)
class Extraction:
    """What the unpacking of archives needs. `reserve` takes account of bytes that will be written, or raises."""

    plan: Plan
    archives: Archives
    reserve: Callable[[int], None]
    is_stopped: Callable[[], bool]

    def unpack(self, archive: PlannedFile, settings: Unpack) -> UnpackedArchive:
        """Unpack an archive that is whole. Where that fails, nothing that came out of it is left.

        Raises IntegrityMismatchError where it is damaged (it goes, too), UnsafePathError where a member cannot become
        a file or a limit is passed, InvalidConfigError where it is of a kind that cannot be unpacked,
        InsufficientSpaceError, InterruptedByRequestError (what it has written is left for the next run to remove).
        """
        try:
            files, size = self._unpack(archive, settings)
        except InterruptedByRequestError:
            raise
        except DamagedError as error:
            self.archives.discard(archive, too=True)
            raise IntegrityMismatchError(
                f"the archive {archive.key!r} {error}; put it right at its source, {_AS_IT_IS}",
                source=archive.source,
                key=archive.key,
            ) from None
        except UnsupportedError as error:
            self.archives.discard(archive, too=False)
            raise InvalidConfigError(
                f"the archive {archive.key!r} cannot be unpacked: it {error}, {_AS_IT_IS}",
                source=archive.source,
                key=archive.key,
            ) from None
        except DataFetchError as error:
            self.archives.discard(archive, too=False)
            raise error.at(archive.source, archive.key) from error.__cause__
        return self.archives.finish(archive, files, size, keep=settings.keep_archive)

    def _unpack(self, archive: PlannedFile, settings: Unpack) -> tuple[int, int]:
        found = archive_format(archive.path)
        if found is None:
            raise ValueError(archive.path)
        descriptor = self.archives.open(archive)
        try:
            size = os.fstat(descriptor).st_size
            reader = _open(descriptor, size, found)
            limits = _Limits(archive, size, settings)
            if reader.promised is not None:
                limits.check(*reader.promised)
                self.reserve(reader.promised[1])
            return self._write_all(archive, reader, limits)
        finally:
            os.close(descriptor)

    def _write_all(self, archive: PlannedFile, reader: Reader, limits: _Limits) -> tuple[int, int]:
        files = size = 0
        whole: list[tuple[PlannedFile, str | None]] = []
        for member in reader:
            limits.take(1, member.size)
            self._raise_if_stopped()
            written = self._write(archive, member, reader, limits)
            if written is None:
                continue
            whole.append(written)
            if len(whole) == _BATCH:
                files, size = files + len(whole), size + self.archives.add(whole)
                whole = []
        if whole:
            files, size = files + len(whole), size + self.archives.add(whole)
        return files, size

    def _raise_if_stopped(self) -> None:
        if self.is_stopped():
            raise InterruptedByRequestError("stopped; what was fetched is kept")

    def _write(
        self, archive: PlannedFile, member: Member, reader: Reader, limits: _Limits
    ) -> tuple[PlannedFile, str | None] | None:
        """Write a member; None for a directory, which is made where a file lies in it."""
        match member.kind:
            case MemberKind.DIRECTORY:
                if member.name.strip("./"):
                    self.plan.member_path(archive, member.name.rstrip("/"))
                return None
            case MemberKind.SYMBOLIC_LINK | MemberKind.DEVICE:
                raise _refusal(archive, member, f"is a {member.kind}", "files, directories and hard links are unpacked")
            case MemberKind.SAME:
                return self._write_same(archive, member, limits)
        (file,) = self.plan.add_members(archive, [member.name])
        if reader.promised is None:
            self.reserve(member.size)

        def pieces() -> Iterator[bytes | memoryview]:
            while piece := reader.read(_READ_BYTES):
                yield piece

        return file, self._store(file, pieces(), executable=member.executable)

    def _write_same(self, archive: PlannedFile, member: Member, limits: _Limits) -> tuple[PlannedFile, str | None]:
        """Write a hard link as a copy of the earlier member: what changes one must not change another."""
        path = self.plan.member_path(archive, member.target)
        if not self.plan.is_member(archive, path):
            raise _refusal(
                archive,
                member,
                f"is a hard link to {member.target!r}",
                "only one to an earlier member is the same file",
            )
        (file,) = self.plan.add_members(archive, [member.name])
        descriptor = self.archives.read(path)
        with closing(os.fdopen(descriptor, "rb", buffering=0)) as original:
            status = os.fstat(descriptor)
            limits.take(0, status.st_size)
            self.reserve(status.st_size)
            pieces = iter(lambda: original.read(_READ_BYTES), b"")
            return file, self._store(file, pieces, executable=bool(status.st_mode & 0o100))

    def _store(self, file: PlannedFile, pieces: Iterator[bytes | memoryview], *, executable: bool) -> str | None:
        """Write a file, and return its checksum as the manifest has it: tars have none of their own."""
        hasher = new_hasher(ChecksumAlgorithm.CRC32, None)
        descriptor = self.archives.create(file)
        try:
            for piece in pieces:
                with refusals(self.archives.full(file)):
                    write_all(descriptor, piece)
                if hasher is not None:
                    hasher.update(memoryview(piece))
                self._raise_if_stopped()
        except BaseException:
            close_quietly(descriptor)
            raise
        self.archives.close(file, descriptor, executable=executable)
        return None if hasher is None else f"{ChecksumAlgorithm.CRC32}:{hasher.hexdigest()}"


def _open(descriptor: int, size: int, found: Format) -> Reader:
    """Return the reader of an archive. Raises DamagedError where it does not begin as its name says."""
    head = os.pread(descriptor, MAGIC_BYTES, 0)
    if found.magics and not head.startswith(found.magics):
        begins = f"begins with {head[:4].hex(' ')}" if head else "is empty"
        raise DamagedError(f"is no {found.name} archive, as its name says: it {begins}")
    if found.compression is None:
        from datafetch.unpacking.zip import ZipReader

        return ZipReader(descriptor, size)
    from datafetch.unpacking.streams import open_stream
    from datafetch.unpacking.tar import TarReader

    return TarReader(open_stream(descriptor, found.compression))


def _refusal(archive: PlannedFile, member: Member, what: str, rule: str) -> UnsafePathError:
    to = f" to {member.target!r}" if member.kind is MemberKind.SYMBOLIC_LINK and member.target else ""
    return UnsafePathError(
        f"the member {member.name!r} of the archive {archive.key!r} {what}{to}; {rule}: pack it again (tar: with "
        f"--dereference), {_AS_IT_IS}",
        source=archive.source,
        key=archive.key,
    )
