"""The manifest of a published tree: whose it is, of what, and every file with its identity at the source.

One JSON document, one file a line, so that it can be written without holding it whole. The header stands in the first
line: who only asks whose it is reads no more.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

from datafetch.marker import ENTRIES, ManifestHeader, parse_header
from datafetch.plan import safe_path
from datafetch.records import ManifestFile
from datafetch.sink.directory import Directory

_BATCH = 256


class DamagedManifestError(Exception):
    """A manifest that does not hold what its header says."""


def now() -> str:
    """Return the present time as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_manifest(directory: Directory, path: str, header: ManifestHeader, files: Iterable[ManifestFile]) -> None:
    """Write a manifest, flushed before it gets its name."""
    directory.write_atomically(path, _lines(header, files))


def _lines(header: ManifestHeader, files: Iterable[ManifestFile]) -> Iterator[bytes]:
    yield json.dumps(asdict(header))[:-1].encode() + ENTRIES + b"\n"
    batch: list[str] = []
    separator = ""
    for file in files:
        batch.append(separator + _entry(file))
        separator = ",\n"
        if len(batch) >= _BATCH:
            yield "".join(batch).encode()
            batch.clear()
    yield ("".join(batch) + "\n]}\n").encode()


def _entry(file: ManifestFile) -> str:
    checksum = "null" if file.checksum is None else quoted(file.checksum)
    return (
        f'{{"path":{quoted(file.path)},"size":{file.size},"identity":{quoted(file.identity)},"checksum":{checksum},'
        f'"modified":{file.modified}}}'
    )


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


def _parse_files(header: ManifestHeader, lines: Iterator[bytes]) -> Iterator[ManifestFile]:
    count = 0
    for line in lines:
        if not line.startswith(b"{"):
            continue  # the end, or the blank line of a manifest without files
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
    "read_header",
    "read_manifest",
    "write_manifest",
]
