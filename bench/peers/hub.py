"""The Hugging Face Hub's protocol over a tree, as prepared pages and nginx directives: the bytes come at line rate.

What huggingface_hub 2.4 and `datafetch` ask is answered as in tests/servers/hub.py: the repository's commit, its tree,
and for each file either the bytes with X-Repo-Commit or, for large ones, a redirect with the LFS headers.
Writes below the directories that it is given.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .shapes import File, Shape

REPOSITORY = "bench/model"
COMMIT = hashlib.sha1(b"bench", usedforsecurity=False).hexdigest()
_LFS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Blob:
    """What the Hub knows of a file: git's id, and of a large one the SHA-256 of its bytes."""

    path: str
    size: int
    oid: str
    sha256: str | None

    @property
    def pointer(self) -> bytes:
        """What git stores for a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def entry(self) -> dict[str, object]:
        """Return the file as the tree lists it."""
        entry: dict[str, object] = {"type": "file", "oid": self.oid, "size": self.size, "path": self.path}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return entry


def is_repository(shape: Shape) -> bool:
    """Whether a tree is a model repository: it has weights."""
    return any(is_large(file) for file in shape.files)


def is_large(file: File) -> bool:
    """Whether the Hub stores the file by LFS."""
    return file.key.endswith(_LFS_SUFFIX)


def blobs(shape: Shape, record: Path) -> list[Blob]:
    """Return the tree's files with their digests, computed once and kept in `record`."""
    if record.exists():
        return [Blob(**row) for row in json.loads(record.read_text())]
    made = [_blob(file) for file in shape.files]
    record.write_text(json.dumps([asdict(blob) for blob in made]))
    return made


def write_pages(made: list[Blob], directory: Path) -> None:
    """Write the answers of the API."""
    directory.mkdir(parents=True, exist_ok=True)
    siblings = [{"rfilename": blob.path} for blob in made]
    info = {"id": REPOSITORY, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings}
    (directory / "info.json").write_text(json.dumps(info))
    (directory / "tree.json").write_text(json.dumps([blob.entry() for blob in made]))


def maps(made: list[Blob]) -> str:
    """Return nginx's maps of what answers carry, by the file's path."""
    etags = "".join(f'"{blob.path}" \'"{blob.oid}"\';\n' for blob in made if not blob.sha256)
    digests = "".join(f'"{blob.path}" \'"{blob.sha256}"\';\n' for blob in made if blob.sha256)
    sizes = "".join(f'"{blob.path}" {blob.size};\n' for blob in made if blob.sha256)
    return (
        f"map $file $blob_etag {{\n{etags}}}\nmap $file $linked_etag {{\n{digests}}}\n"
        f'map $file $linked_size {{\ndefault "";\n{sizes}}}\n'
        # The CDN is another host than the Hub: clients follow a redirect to the same one before they read its headers.
        'map $http_host $cdn { "~:(?<cdn_port>[0-9]+)$" localhost:$cdn_port; }\n'
    )


def locations(pages: Path, tree: Path, bucket: str) -> str:
    """Return nginx's locations of API and files."""
    api = f"/api/models/{REPOSITORY}"
    return f"""\
    location ~ ^{api}/revision/ {{ default_type application/json; alias {pages}/info.json; }}
    location ~ ^{api}/tree/ {{ default_type application/json; alias {pages}/tree.json; }}
    location ~ ^/{REPOSITORY}/resolve/[^/]+/(?<file>.+)$ {{
      add_header X-Repo-Commit {COMMIT} always;
      add_header X-Linked-Etag $linked_etag always;
      add_header X-Linked-Size $linked_size always;
      add_header ETag $blob_etag;
      more_clear_input_headers If-Match;
      if ($linked_size) {{ return 302 $scheme://$cdn/{bucket}/$file; }}
      alias {tree}/$file;
    }}
"""


def _blob(file: File) -> Blob:
    if not is_large(file):
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        for piece in file.content():
            digest.update(piece)
        return Blob(file.key, file.size, digest.hexdigest(), None)
    whole = hashlib.sha256()
    for piece in file.content():
        whole.update(piece)
    named = Blob(file.key, file.size, "", whole.hexdigest())
    pointer = b"blob %d\0" % len(named.pointer) + named.pointer
    return Blob(file.key, file.size, hashlib.sha1(pointer, usedforsecurity=False).hexdigest(), named.sha256)
