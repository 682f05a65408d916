"""A lakeFS server with the endpoints that a download calls, and the storage behind it, which signed URLs lead to.

    with LakeFS() as lake:
        lake.add_key("AKIA", "secret")
        repo = lake.create("models", {"config.json": b"{}"})
        repo.commit({"config.json": b"{...}"})           # main moves on; the old commit stays readable
        repo.stage({"draft.json": b"?"})                 # on the branch, and in no commit

With `lake.presign`, objects have signed URLs of `lake.storage`, another origin whose answers look like S3's. What the
answers look like is checked against the SDK's own generated models in test_lakefs.py. Writes are left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from .content import Content, serve
from .serving import Request, Response, Server, text_response

MODIFIED = 1_700_000_000
_REPOSITORY = re.compile(r"/api/v1/repositories/([^/]+)/(commits|refs)/([^/]+)(?:/(objects(?:/(?:ls|stat))?))?")


@dataclass
class Repository:
    """Commits that never change, and refs that point to them."""

    name: str
    refs: dict[str, str] = field(default_factory=dict)
    """Commit by branch or tag."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Objects by commit."""
    staged: dict[str, bytes] = field(default_factory=dict)
    collected: set[str] = field(default_factory=set)
    """Paths whose objects were collected as garbage."""

    @property
    def head(self) -> str:
        """The commit that `main` points to."""
        return self.refs["main"]

    def commit(self, changes: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Add a commit on a branch (None removes an object); return its id."""
        parent = self.refs.get(branch) or self.refs.get("main")
        objects = dict(self.commits[parent]) if parent else {}
        for path, data in changes.items():
            if data is None:
                del objects[path]
            else:
                objects[path] = data
        digests = "".join(f"{path} {hashlib.sha256(objects[path]).hexdigest()}\n" for path in sorted(objects))
        commit = hashlib.sha256(f"{self.name} {parent}\n{digests}".encode()).hexdigest()
        self.commits[commit] = objects
        self.refs[branch] = commit
        return commit

    def stage(self, changes: Mapping[str, bytes]) -> None:
        """Change the branch `main` without a commit."""
        self.staged |= changes

    def resolve(self, ref: str) -> str | None:
        """Return the commit of a branch, tag or commit id."""
        return self.refs.get(ref.removesuffix("@")) or (ref if ref in self.commits else None)

    def objects(self, ref: str) -> dict[str, bytes] | None:
        """Return what a ref holds; a branch with what is staged on it."""
        commit = self.resolve(ref)
        if commit is None:
            return None
        return self.commits[commit] | (self.staged if ref == "main" else {})


class LakeFS(Server):
    """The server; `storage` is the object store behind it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.presign = False
        """Sign URLs of the storage for who asks."""
        self.expiry_seconds = 900.0
        self.encrypted = False
        """Let the storage answer as S3 does for an object that is encrypted with a key of KMS."""
        self._guard = threading.Lock()
        self._keys: dict[str, str] = {}
        self._tokens: set[str] = set()
        self._repositories: dict[str, Repository] = {}
        self._epoch = 1
        self.storage = Server(self._stored, host, 0)
        super().__init__(self._answer, host, port)

    def stop(self) -> None:
        """Stop the server and the storage."""
        super().stop()
        self.storage.stop()

    def add_key(self, access_key: str, secret_key: str) -> None:
        """Accept an access key."""
        self._keys[access_key] = secret_key

    def add_token(self, token: str) -> None:
        """Accept a token."""
        self._tokens.add(token)

    def revoke(self, access_key: str) -> None:
        """Accept an access key no longer."""
        del self._keys[access_key]

    def expire_links(self) -> None:
        """Let every signed URL that was given out until now be refused with 403."""
        self._epoch += 1

    def create(self, name: str, objects: Mapping[str, bytes]) -> Repository:
        """Add a repository with one commit on `main`."""
        repository = Repository(name)
        repository.commit(objects)
        with self._guard:
            self._repositories[name] = repository
        return repository

    def _answer(self, request: Request) -> Response:
        if not self._knows(request.header("authorization") or ""):
            return _error(401, "error authenticating request")
        path = request.exchange.target.partition("?")[0]
        if path == "/api/v1/config":
            return _json(self._config())
        found = _REPOSITORY.fullmatch(path)
        if found is None:
            return _error(404, "invalid API endpoint")
        repository = self._repositories.get(found[1])
        if repository is None:
            return _error(404, "repository not found")
        return self._of_ref(request, repository, found[2], urllib.parse.unquote(found[3]), found[4] or "")

    def _knows(self, header: str) -> bool:
        kind, _, value = header.partition(" ")
        if kind == "Bearer":
            return value in self._tokens
        try:
            access_key, _, secret_key = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return False
        return kind == "Basic" and access_key in self._keys and self._keys[access_key] == secret_key

    def _of_ref(self, request: Request, repository: Repository, kind: str, ref: str, action: str) -> Response:
        objects = repository.objects(ref)
        if objects is None:
            return _error(404, "ref: not found")
        if kind == "commits":
            commit = repository.resolve(ref) or ""
            return _json(_commit(commit))
        query = request.exchange.query
        if action == "objects/ls":
            return self._list(objects, query)
        path = query.get("path", "")
        if path not in objects:
            return _error(404, f"path {path}: not found")
        if path in repository.collected:
            return _error(410, "resource gone")
        if action == "objects/stat":
            return _json(self._stats(path, objects[path], presign=query.get("presign", "").lower() == "true"))
        return serve(request, _content(objects[path]))

    def _list(self, objects: dict[str, bytes], query: Mapping[str, str]) -> Response:
        prefix, after, amount = query.get("prefix", ""), query.get("after", ""), int(query.get("amount", "100"))
        paths = [path for path in sorted(objects) if path.startswith(prefix) and path > after]
        page = paths[:amount]
        pagination = {
            "has_more": len(paths) > amount,
            "next_offset": page[-1] if len(paths) > amount else "",
            "results": len(page),
            "max_per_page": 1000,
        }
        return _json({"pagination": pagination, "results": [self._stats(path, objects[path]) for path in page]})

    def _stats(self, path: str, data: bytes, *, presign: bool = False) -> dict[str, object]:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        stats: dict[str, object] = {
            "path": path,
            "path_type": "object",
            "physical_address": f"s3://storage/data/{digest}",
            "checksum": digest,
            "size_bytes": len(data),
            "mtime": MODIFIED,
            "metadata": {},
            "content_type": "application/octet-stream",
        }
        if presign and self.presign:
            until = int(time.time() + self.expiry_seconds)
            signature = f"X-Amz-Signature={self._epoch}-{until}-{'0' * 40}"
            stats["physical_address"] = f"{self.storage.url}/storage/data/{digest}?{signature}"
            stats["physical_address_expiry"] = until
        return stats

    def _config(self) -> dict[str, object]:
        storage = {
            "blockstore_type": "s3",
            "blockstore_namespace_example": "s3://example-bucket/",
            "blockstore_namespace_ValidityRegex": "^s3://",
            "pre_sign_support": self.presign,
            "pre_sign_support_ui": self.presign,
            "import_support": True,
            "import_validity_regex": "^s3://",
        }
        return {"version_config": {"version": "1.60.0"}, "storage_config": storage}

    def _stored(self, request: Request) -> Response:
        """Answer as S3 does for a signed URL."""
        if request.header("authorization") is not None:
            return text_response(400, "<Error><Code>InvalidArgument</Code></Error>")
        epoch, until, _ = (request.exchange.query.get("X-Amz-Signature", "") + "--").split("-", 2)
        if epoch != str(self._epoch) or time.time() > float(until or 0):
            return text_response(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        wanted = request.exchange.path.rpartition("/")[2]
        encryption = (("x-amz-server-side-encryption", "aws:kms"),) if self.encrypted else ()
        for repository in list(self._repositories.values()):
            for objects in list(repository.commits.values()):
                for data in objects.values():
                    if hashlib.md5(data, usedforsecurity=False).hexdigest() == wanted:
                        found = _content(data, "not-the-md5" if self.encrypted else None)
                        return serve(request, found, (("x-amz-request-id", "0A1B2C"), *encryption))
        return text_response(404, "<Error><Code>NoSuchKey</Code></Error>")


def _content(data: bytes, etag: str | None = None) -> Content:
    digest = etag or hashlib.md5(data, usedforsecurity=False).hexdigest()
    return Content(data, f'"{digest}"', MODIFIED)


def _commit(commit: str) -> dict[str, object]:
    return {
        "id": commit,
        "parents": [],
        "committer": "test",
        "message": "a commit",
        "creation_date": MODIFIED,
        "meta_range_id": "",
        "metadata": {},
    }


def _json(value: object, status: int = 200) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json"),), body, len(body))


def _error(status: int, message: str) -> Response:
    return _json({"message": message}, status)
