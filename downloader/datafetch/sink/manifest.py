"""The manifest of a published tree: whose it is, of what, and every file with its identity at the source.

One JSON document, one file a line, so that it can be written without holding it whole. The header stands in the first
line: who only asks whose it is reads no more. Archives that were unpacked come before the files; each file that came
out of one names it.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

from datafetch.marker import ENTRIES, ManifestHeader, parse_header
from datafetch.plan import safe_path
from datafetch.records import ManifestFile, UnpackedArchive
from datafetch.sink.directory import Directory

_BATCH = 256
_ARCHIVE = b'{"unpacked":'


class DamagedManifestError(Exception):
    """A manifest that does not hold what its header says."""


def now() -> str:
    """Return the present time as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_manifest(
    directory: Directory,
    path: str,
    header: ManifestHeader,
    files: Iterable[ManifestFile],
    archives: Iterable[UnpackedArchive] = (),
) -> None:
    """Write a manifest, flushed before it gets its name."""
    directory.write_atomically(path, _lines(header, files, archives))


def _lines(
    header: ManifestHeader, files: Iterable[ManifestFile], archives: Iterable[UnpackedArchive]
) -> Iterator[bytes]:
    yield json.dumps(asdict(header))[:-1].encode() + ENTRIES + b"\n"
    batch: list[str] = []
    separator = ""
    for archive in archives:
        yield (separator + _archive_entry(archive)).encode()
        separator = ",\n"
    for file in files:
        batch.append(separator + _entry(file))
        separator = ",\n"
        if len(batch) >= _BATCH:
            yield "".join(batch).encode()
            batch.clear()
    yield ("".join(batch) + "\n]}\n").encode()


def _entry(file: ManifestFile) -> str:
    checksum = "null" if file.checksum is None else quoted(file.checksum)
    member = "" if file.archive is None else f',"archive":{quoted(file.archive)}'
    return (
        f'{{"path":{quoted(file.path)},"size":{file.size},"identity":{quoted(file.identity)},"checksum":{checksum},'
        f'"modified":{file.modified}{member}}}'
    )


def _archive_entry(archive: UnpackedArchive) -> str:
    record = asdict(archive)
    return json.dumps({"unpacked": record.pop("path"), **record}, separators=(",", ":"))


def read_header(directory: Directory, path: str) -> ManifestHeader | None:
    """Return a manifest's header, or None where there is none that can be read."""
    with directory.lines(path) as lines:
        return parse_header(next(lines, b""))


@contextmanager
def read_manifest(directory: Directory, path: str) -> Iterator[tuple[ManifestHeader, Iterator[ManifestFile]] | None]:
    """Yield a manifest's header and its files, read as they are asked for; None where there is no header.

    The files raise DamagedManifestError where what follows is not the whole of a manifest.
    """
    with directory.lines(path) as lines:
        header = parse_header(next(lines, b""))
        yield None if header is None else (header, _parse_files(header, lines))


def read_archives(directory: Directory, path: str) -> Iterator[UnpackedArchive]:
    """Yield the archives that a manifest's files came out of: they stand before the files.

    Raises DamagedManifestError.
    """
    with directory.lines(path) as lines:
        next(lines, b"")
        for line in lines:
            if not line.startswith(_ARCHIVE):
                return
            try:
                record = json.loads(line.rstrip(b",\n"))
                yield UnpackedArchive(path=record.pop("unpacked"), **record)
            except (ValueError, TypeError):
                raise DamagedManifestError(path) from None


def _parse_files(header: ManifestHeader, lines: Iterator[bytes]) -> Iterator[ManifestFile]:
    count = 0
    for line in lines:
        if not line.startswith(b"{") or line.startswith(_ARCHIVE):
            continue  # an archive, the end, or the blank line of a manifest without files
        try:
            file = ManifestFile(**json.loads(line.rstrip(b",\n")))
            if safe_path(file.path) != file.path:
                raise DamagedManifestError(header.revision)
        except (ValueError, TypeError, AttributeError):
            raise DamagedManifestError(header.revision) from None
        yield file
        count += 1
    if count != header.files:
        raise DamagedManifestError(header.revision)


__all__ = [
    "DamagedManifestError",
    "ManifestFile",
    "now",
    "quoted",
    "read_archives",
    "read_header",
    "read_manifest",
    "write_manifest",
]
