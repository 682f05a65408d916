"""The completion marker of the managed layout, as it lies on a volume: a link, and the head of the manifest behind it.

    NAME -> .datafetch/NAME/revisions/ID            the link
    .datafetch/NAME/manifests/ID.json               its first line says whose the revision is, and of what

Names and texts only: `sink` writes them, `waiting` watches for them. It imports next to nothing, because a container
that waits starts with it.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime

STATE_DIRECTORY = ".datafetch"
MANIFESTS = "manifests"
REVISIONS = "revisions"
MANIFEST_VERSION = 1
ENTRIES = b', "entries": ['
"""How the first line of a manifest ends; the files follow, one a line."""
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,79}")


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
    version: int = MANIFEST_VERSION

    @property
    def published(self) -> datetime:
        """When it was published."""
        return datetime.fromisoformat(self.time)


def parse_header(line: bytes) -> ManifestHeader | None:
    """Return what the first line of a manifest says, or None where it is none."""
    try:
        document = json.loads(line.rstrip(b"\n").removesuffix(ENTRIES) + b"}")
        return ManifestHeader(**document)
    except (ValueError, TypeError):
        return None


def is_revision(text: str) -> bool:
    """Say whether a text may be the id of a revision."""
    return _REVISION.fullmatch(text) is not None


def link_text(name: str, revision: str) -> str:
    """Return what the link of that name says while the revision is published."""
    return f"{STATE_DIRECTORY}/{name}/{REVISIONS}/{revision}"


def linked_revision(name: str, text: str) -> str | None:
    """Return the revision that the link of that name leads to, or None where it is no link of ours."""
    revision = text.removeprefix(link_text(name, ""))
    return revision if revision != text and is_revision(revision) else None


def manifest_path(name: str, revision: str) -> str:
    """Return where the manifest of a revision lies, seen from the directory that the link is in."""
    return f"{STATE_DIRECTORY}/{name}/{MANIFESTS}/{revision}.json"
