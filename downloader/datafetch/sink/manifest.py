"""The manifest of a published tree: whose it is, of what, and every file with its identity at the source.

One JSON document, one file a line, so that it can be written without holding it whole. The header stands in the first
line: who only asks whose it is reads no more.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from datafetch.sink.directory import Directory

_VERSION = 1


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """What a manifest says beside its files."""

    revision: str
    spec_hash: str
    manifest_digest: str
    files: int
    bytes: int
    time: str
    """When it was published, RFC 3339 in UTC."""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    """Whose data it is; empty for a directory that no DataFetch owns."""
    version: int = _VERSION

    @property
    def published(self) -> datetime:
        """When it was published."""
        return datetime.fromisoformat(self.time)


def now() -> str:
    """Return the present time as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_manifest(directory: Directory, path: str, header: ManifestHeader, files: Iterable[ManifestFile]) -> None:
    """Write a manifest, flushed before it gets its name."""
    directory.write_atomically(path, _lines(header, files))


def _lines(header: ManifestHeader, files: Iterable[ManifestFile]) -> Iterator[bytes]:
    yield json.dumps(asdict(header))[:-1].encode() + b', "entries": [\n'
    separator = b""
    for file in files:
        yield separator + json.dumps(asdict(file), separators=(",", ":")).encode()
        separator = b",\n"
    yield b"\n]}\n"


def read_header(directory: Directory, path: str) -> ManifestHeader | None:
    """Return a manifest's header, or None where there is none that can be read."""
    content = directory.read(path)
    if content is None:
        return None
    return _parse_header(content.partition(b"\n")[0])


def _parse_header(line: bytes) -> ManifestHeader | None:
    try:
        document = json.loads(line.removesuffix(b', "entries": [') + b"}")
        return ManifestHeader(**document)
    except (ValueError, TypeError):
        return None


def read_manifest(directory: Directory, path: str) -> tuple[ManifestHeader, list[ManifestFile]] | None:
    """Return a manifest, or None where there is none that can be read whole."""
    content = directory.read(path)
    if content is None:
        return None
    header = _parse_header(content.partition(b"\n")[0])
    if header is None:
        return None
    try:
        return header, [ManifestFile(**entry) for entry in json.loads(content)["entries"]]
    except (ValueError, TypeError, KeyError):
        return None


def owned_by(header: ManifestHeader, *, uid: str) -> ManifestHeader:
    """Return the header with another owner: a resource that was deleted and made again under the same name."""
    return replace(header, uid=uid)
