"""A Hugging Face Hub with the endpoints that huggingface_hub 2.4 calls to list and download, and a CDN beside it.

    with Hub() as hub:
        repo = hub.create("org/model", {"config.json": b"{}", "model.safetensors": weights})
        snapshot_download("org/model", endpoint=hub.url, local_dir=...)
        repo.commit({"config.json": b"{...}"})           # main moves on; the old commit stays readable
        assert hub.cdn.traffic.bytes_sent == len(weights)

Small text files are served by the Hub itself, their ETag is the git blob's SHA-1. Files that match `lfs` are served
by `hub.cdn`, another origin with signed links: the Hub answers with a redirect that carries X-Linked-Etag (SHA-256)
and X-Linked-Size; the CDN's own ETag is another one, as it is on the real CDN. With `hub.xet`, large files are kept in
xet storage, as those of most repositories are: the answer also carries X-Xet-Hash, X-Xet-Refresh-Route and a Link, and
the redirect leads to the bridge that serves plain bytes. Whatever needs a git or an xet protocol is left out, and so
are writes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from .content import Content, content, serve
from .serving import Request, Response, Server, text_response

RepoType = Literal["model", "dataset", "space"]
Headers = tuple[tuple[str, str], ...]

LFS_PATTERNS = ("*.bin", "*.safetensors", "*.gguf", "*.parquet", "*.pt", "*.h5", "*.onnx", "*.tar", "*.gz", "*.zip")
_API = re.compile(
    r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]*)(?:/(.*))?)?)?"
)
_RESOLVE = re.compile(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        """Digest of the bytes: the LFS object's name."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """SHA-1 of what git stores: the bytes, or the LFS pointer to them."""
        return _blob_id(self.pointer if self.lfs else self.data)

    @cached_property
    def pointer(self) -> bytes:
        """What git stores for an LFS file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @cached_property
    def object(self) -> Content:
        """The LFS object as the CDN has it."""
        return content(self.data)

    @cached_property
    def xet_hash(self) -> str:
        """What xet storage names the content by: 64 hex digits, and not its SHA-256."""
        return hashlib.sha256(b"xet" + self.data).hexdigest()


@dataclass
class Repo:
    """A repository: commits that never change, and refs that point to them."""

    repo_id: str
    repo_type: RepoType = "model"
    private: bool = False
    gated: bool = False
    disabled: bool = False
    awaiting: bool = False
    """Gated, and the requests of those who may not read it wait for its authors."""
    lfs: tuple[str, ...] = LFS_PATTERNS
    refs: dict[str, str] = field(default_factory=dict)
    """Commit by ref: `refs/heads/main`, `refs/tags/v1`, `refs/pr/1`."""
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    """Files by commit."""

    @property
    def head(self) -> str:
        """The commit that `main` points to."""
        return self.refs["refs/heads/main"]

    def commit(self, changes: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Add a commit on a branch (None removes a file); return its id. A new branch begins at `main`."""
        return self._commit(f"refs/heads/{branch}", changes)

    def tag(self, name: str, commit: str | None = None) -> None:
        """Point a tag to a commit, by default the head of `main`."""
        self.refs[f"refs/tags/{name}"] = commit or self.head

    def open_pull_request(self, number: int, changes: Mapping[str, bytes | None]) -> str:
        """Add a commit under `refs/pr/NUMBER`; return its id."""
        return self._commit(f"refs/pr/{number}", changes)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag, full ref or commit id; None when there is none."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        return revision if revision in self.commits else None

    def _commit(self, ref: str, changes: Mapping[str, bytes | None]) -> str:
        parent = self.refs.get(ref) or self.refs.get("refs/heads/main")
        files = dict(self.commits[parent]) if parent else {}
        for path, data in changes.items():
            if data is None:
                del files[path]
            else:
                files[path] = File(data, any(fnmatch.fnmatchcase(path, pattern) for pattern in self.lfs))
        tree = "".join(f"{path} {files[path].blob_id}\n" for path in sorted(files))
        commit = hashlib.sha1(f"{self.repo_id} {parent}\n{tree}".encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class Hub(Server):
    """The Hub; `cdn` is the server of large files. What the two saw is in `traffic` and `cdn.traffic`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, cdn_host: str = "127.0.0.1", cdn_port: int = 0) -> None:
        self.page_size = 1000
        """Entries of one page of a tree."""
        self.relative_redirects = False
        """Send clients for small files to a path of the same origin first, as the real Hub does."""
        self.xet = False
        """Keep large files in xet storage."""
        self.refusals: list[Response] = []
        """Answers to the next requests, whatever they ask for."""
        self._guard = threading.Lock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self._tokens: dict[str, frozenset[str]] = {}
        self._link_epoch = 1
        self.cdn = Server(self._large_file, cdn_host, cdn_port)
        super().__init__(self._page, host, port)

    def stop(self) -> None:
        """Stop the Hub and the CDN."""
        super().stop()
        self.cdn.stop()

    def create(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        repo_type: RepoType = "model",
        private: bool = False,
        gated: bool = False,
        lfs: Sequence[str] = LFS_PATTERNS,
    ) -> Repo:
        """Add a repository `ORG/NAME` with one commit on `main`."""
        repo = Repo(repo_id, repo_type, private, gated, lfs=tuple(lfs))
        repo.commit(files)
        with self._guard:
            self._repos[repo_type, repo_id] = repo
        return repo

    def add_token(self, token: str, *repo_ids: str) -> None:
        """Accept a token; it may read the private and gated repositories named."""
        with self._guard:
            self._tokens[token] = frozenset(repo_ids)

    def expire_links(self) -> None:
        """Let every link to the CDN that was given out until now be refused with 403, as after its hour."""
        self._link_epoch += 1

    def _page(self, request: Request) -> Response:
        with self._guard:
            if self.refusals:
                return self.refusals.pop(0)
        path = request.exchange.target.partition("?")[0]
        api = _API.fullmatch(path)
        if api:
            return self._api(request, *(api[n] or "" for n in range(1, 6)))
        cached = path.removeprefix("/api/resolve-cache")
        resolved = _RESOLVE.fullmatch(cached)
        if resolved:
            repo_type, repo_id, revision, file = (resolved[n] or "model" for n in range(1, 5))
            return self._resolve(request, repo_type, repo_id, revision, file, is_cache=cached != path)
        return _error(404, "", "Sorry, we can't find the page you are looking for.")

    def _api(self, request: Request, repo_type: str, repo_id: str, action: str, revision: str, folder: str) -> Response:
        repo = self._readable(request, repo_type, repo_id)
        if isinstance(repo, Response):
            return repo
        if action == "refs":
            return _json(_refs(repo))
        commit = repo.resolve(urllib.parse.unquote(revision or "main"))
        if commit is None:
            return _no_revision(revision)
        if action == "tree":
            return self._tree(request, repo, commit, urllib.parse.unquote(folder))
        if action == "paths-info":
            return _json(_paths_info(repo.commits[commit], b"".join(request.body), xet=self.xet))
        return _json(_info(repo, commit))

    def _readable(self, request: Request, repo_type: str, repo_id: str) -> Repo | Response:
        """The repository, or why it is not shown. A private one looks like one that is not there."""
        token = _token(request)
        if token and token not in self._tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        repo = self._repos.get((repo_type, urllib.parse.unquote(repo_id)))
        if repo is None or (repo.private and not self._grants(token, repo)):
            if token:
                return _error(404, "RepoNotFound", "Repository not found")
            return _error(401, "RepoNotFound", "Invalid username or password.")
        return _error(403, "", "Access to this resource is disabled.") if repo.disabled else repo

    def _grants(self, token: str, repo: Repo) -> bool:
        return repo.repo_id in self._tokens.get(token, frozenset())

    def _tree(self, request: Request, repo: Repo, commit: str, folder: str) -> Response:
        query = request.exchange.query
        entries = _entries(repo.commits[commit], folder, query.get("recursive") == "true", xet=self.xet)
        if folder and not entries:
            return _error(404, "EntryNotFound", f"{folder} does not exist on {commit}")
        start = int(query.get("cursor", "0"))
        end = start + self.page_size
        if end >= len(entries):
            return _json(entries[start:])
        more = urllib.parse.urlencode({**query, "cursor": str(end)})
        link = f'<{self.url}{request.exchange.target.partition("?")[0]}?{more}>; rel="next"'
        return _json(entries[start:end], ("Link", link))

    def _resolve(
        self, request: Request, repo_type: str, repo_id: str, revision: str, path: str, *, is_cache: bool
    ) -> Response:
        repo = self._readable(request, repo_type, repo_id)
        if isinstance(repo, Response):
            return repo
        if repo.gated and not self._grants(_token(request), repo):
            said = f"Access to {repo_type} {repo.repo_id} is restricted."
            if repo.awaiting and _token(request):
                said = f"Your request to access {repo_type} {repo.repo_id} is awaiting a review from the repo authors."
            return _error(403 if _token(request) else 401, "GatedRepo", said)
        commit = repo.resolve(urllib.parse.unquote(revision))
        if commit is None:
            return _no_revision(revision)
        file = repo.commits[commit].get(urllib.parse.unquote(path))
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found", ("X-Repo-Commit", commit))
        if file.lfs:
            return self._to_cdn(file, repo, commit)
        if self.relative_redirects and not is_cache:
            kind = "" if repo_type == "model" else f"/{repo_type}s"
            location = f"/api/resolve-cache{kind}/{repo_id}/resolve/{commit}/{path}"
            return text_response(307, "elsewhere", ("Location", location), ("X-Repo-Commit", commit))
        return serve(request, Content(file.data, f'"{file.blob_id}"', None), (("X-Repo-Commit", commit),))

    def _to_cdn(self, file: File, repo: Repo, commit: str) -> Response:
        location = f"{self.cdn.url}/lfs/{file.sha256}?X-Signature={self._link_epoch}"
        headers: Headers = ()
        if self.xet:
            query = f"X-Amz-Expires=3600&X-Signature={self._link_epoch}&response-content-disposition=inline"
            location = f"{self.cdn.url}/xet-bridge-us/{commit[:24]}/{file.xet_hash}?{query}"
            route = f"{self.url}/api/{repo.repo_type}s/{repo.repo_id}/xet-read-token/{commit}"
            storage = f"{self.cdn.url}/v1/reconstructions/{file.xet_hash}"
            links = f'<{route}>; rel="xet-auth", <{storage}>; rel="xet-reconstruction-info"'
            headers = (("X-Xet-Hash", file.xet_hash), ("X-Xet-Refresh-Route", route), ("Link", links))
        return text_response(
            302,
            "elsewhere",
            ("Location", location),
            ("X-Repo-Commit", commit),
            ("X-Linked-Etag", f'"{file.sha256}"'),
            ("X-Linked-Size", str(len(file.data))),
            *headers,
        )

    def _large_file(self, request: Request) -> Response:
        if request.exchange.query.get("X-Signature") != str(self._link_epoch):
            return text_response(403, "Request has expired")
        wanted = request.exchange.path.rpartition("/")[2]
        for repo in list(self._repos.values()):
            for files in list(repo.commits.values()):
                for file in files.values():
                    if file.lfs and wanted in (file.sha256, file.xet_hash):
                        return serve(request, file.object)
        return text_response(404, "no such object")


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _token(request: Request) -> str:
    return (request.header("authorization") or "").removeprefix("Bearer ")


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Response:
    code_header = (("X-Error-Code", code),) if code else ()
    return _json({"error": message}, *code_header, ("X-Error-Message", message), *headers, status=status)


def _no_revision(revision: str) -> Response:
    return _error(404, "RevisionNotFound", f"Invalid rev id: {urllib.parse.unquote(revision)}")


def _json(value: object, *headers: tuple[str, str], status: int = 200) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json; charset=utf-8"), *headers), body, len(body))


def _info(repo: Repo, commit: str) -> dict[str, object]:
    siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
    return {
        "_id": commit[:24],
        "id": repo.repo_id,
        "sha": commit,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
    }


def _refs(repo: Repo) -> dict[str, list[dict[str, str]]]:
    def of(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
            for ref, commit in repo.refs.items()
            if ref.startswith(prefix)
        ]

    return {"branches": of("refs/heads/"), "tags": of("refs/tags/"), "converts": [], "pullRequests": of("refs/pr/")}


def _entries(files: Mapping[str, File], folder: str, recursive: bool, *, xet: bool) -> list[dict[str, object]]:
    """Files and folders below a folder, sorted by path; without `recursive`, its direct children."""
    base = f"{folder.strip('/')}/" if folder.strip("/") else ""
    found: dict[str, dict[str, object]] = {}
    for path, file in files.items():
        if not path.startswith(base):
            continue
        parts = path.removeprefix(base).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = base + "/".join(parts[:depth])
            found[name] = _folder_entry(name)
        if recursive or len(parts) == 1:
            found[path] = _file_entry(path, file, xet=xet)
    return [found[path] for path in sorted(found)]


def _folder_entry(path: str) -> dict[str, object]:
    oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _file_entry(path: str, file: File, *, xet: bool) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": file.blob_id, "size": len(file.data), "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
        if xet:
            entry["xetHash"] = file.xet_hash
    return entry


def _paths_info(files: Mapping[str, File], body: bytes, *, xet: bool) -> list[dict[str, object]]:
    wanted = urllib.parse.parse_qs(body.decode()).get("paths", [])
    folders = [_folder_entry(path) for path in wanted if any(name.startswith(f"{path}/") for name in files)]
    return [_file_entry(path, files[path], xet=xet) for path in wanted if path in files] + folders
