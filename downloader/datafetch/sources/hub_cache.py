"""How huggingface_hub lays out its cache, and the files of one commit in it. Pure.

    models--ORG--NAME/refs/REVISION             a file that holds the commit; none where the revision is the commit
    models--ORG--NAME/snapshots/COMMIT/...      the files of the commit, by their paths in the repository

The library makes the files below `snapshots` links into `blobs`. It reads regular files as well: that is how it works
itself where links are not supported (its guide "Understand caching", and `hf_hub_download`).
"""

import hashlib
from types import TracebackType
from typing import Self

from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry

_COMMIT = "commit:"


def repository_folder(repo_type: str, repo_id: str) -> str:
    """Return the directory of a repository below the cache's root."""
    return "--".join([f"{repo_type}s", *repo_id.split("/")])


def snapshot_path(folder: str, commit: str, path: str) -> str:
    """Return where a repository's file lies below the cache's root."""
    return f"{folder}/snapshots/{commit}/{path}"


def ref_entry(root: str, folder: str, revision: str, commit: str) -> Entry:
    """Return the file that says which commit a revision stood for. Its bytes stand in its identity."""
    content = commit.encode()
    checksum = Checksum(ChecksumAlgorithm.SHA256, hashlib.sha256(content).hexdigest())
    # No path in a repository begins with a slash: the key is nobody else's.
    return Entry(f"/refs/{revision}", f"{root}{folder}/refs/{revision}", len(content), f"{_COMMIT}{commit}", checksum)


def is_ref(entry: Entry) -> bool:
    """Return whether an entry was made by `ref_entry`."""
    return entry.key.startswith("/refs/") and entry.identity.startswith(_COMMIT)


class RefReader:
    """The bytes of a ref, which come from nowhere."""

    def __init__(self, entry: Entry, byte_range: ByteRange) -> None:
        content = entry.identity.removeprefix(_COMMIT).encode()
        self._rest = content[byte_range.start : byte_range.end]
        self.checksum = entry.checksum

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes there were."""
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: nothing is open."""
