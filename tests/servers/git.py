"""A git server over HTTP: git's own `http-backend`, with basic authentication and an LFS server in front of it.

    with GitServer(tmp_path) as server:
        server.users["x-access-token"] = "token"
        repo = server.create("group/data", {"README.md": b"#"})
        repo.commit({"README.md": b"##", "link": Link("README.md")})      # main moves on

Objects are written byte by byte, not by git: so a tree may hold what git itself would refuse to make. LFS objects are
handed out by `storage`, another origin.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import subprocess
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .content import Content, serve
from .serving import Request, Response, Server, text_response


@dataclass(frozen=True)
class Link:
    """A symbolic link in a tree."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A commit of another repository in a tree."""

    commit: str


@dataclass
class LfsObject:
    """A file that Git LFS keeps: the tree holds its pointer."""

    data: bytes

    @property
    def sha256(self) -> str:
        """What names it."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What stands in the tree."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()


Stored = bytes | Link | Submodule | LfsObject


@dataclass
class GitRepository:
    """A bare repository. `tree` is what `main` holds."""

    name: str
    directory: Path
    url: str
    server: GitServer
    tree: dict[str, Stored] = field(default_factory=dict)
    head: str = ""
    known: set[str] = field(default_factory=set)
    unwritten: list[bytes] = field(default_factory=list)

    def commit(self, changes: Mapping[str, Stored | None], branch: str = "main") -> str:
        """Add a commit to a branch (None removes a file); return its id."""
        for path, data in changes.items():
            if data is None:
                del self.tree[path]
            else:
                self.tree[path] = data
        parent = f"parent {self.head}\n" if self.head else ""
        who = "A U Thor <author@example.com> 1700000000 +0000"
        text = f"tree {self._write_tree(self.tree)}\n{parent}author {who}\ncommitter {who}\n\na commit\n"
        self.head = self._write("commit", text.encode())
        self.point(f"refs/heads/{branch}", self.head)
        return self.head

    def tag(self, name: str, *, annotated: bool = False) -> None:
        """Tag the newest commit."""
        oid = self.head
        if annotated:
            text = f"object {oid}\ntype commit\ntag {name}\ntagger A U Thor <a@example.com> 1700000000 +0000\n\na tag\n"
            oid = self._write("tag", text.encode())
        self.point(f"refs/tags/{name}", oid)

    def point(self, ref: str, oid: str | None) -> None:
        """Let a ref point to an object; None removes it."""
        self._write_pack()
        path = self.directory / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        if oid is None:
            path.unlink()
        else:
            path.write_text(oid + "\n")

    def _write_tree(self, files: Mapping[str, Stored]) -> str:
        below: dict[str, dict[str, Stored]] = {}
        lines: list[tuple[bytes, bytes]] = []
        for path, data in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                below.setdefault(name, {})[rest] = data
            else:
                mode, oid = self._write_file(data)
                raw = os.fsencode(name)
                lines.append((raw, mode + b" " + raw + b"\0" + bytes.fromhex(oid)))
        for name, inner in below.items():
            raw = os.fsencode(name)
            lines.append((raw + b"/", b"40000 " + raw + b"\0" + bytes.fromhex(self._write_tree(inner))))
        return self._write("tree", b"".join(line for _, line in sorted(lines)))

    def _write_file(self, data: Stored) -> tuple[bytes, str]:
        match data:
            case Link(target):
                return b"120000", self._write("blob", target.encode())
            case Submodule(commit):
                return b"160000", commit
            case LfsObject():
                self.server.objects[data.sha256] = data.data
                return b"100644", self._write("blob", data.pointer)
            case bytes():
                return b"100644", self._write("blob", data)

    def _write(self, kind: str, data: bytes) -> str:
        oid = hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
        if oid not in self.known:
            self.known.add(oid)
            self.unwritten.append(_packed(kind, data))
        return oid

    def _write_pack(self) -> None:
        """Write the objects that are new into one pack: git takes minutes for ten thousand files of their own."""
        if not self.unwritten:
            return
        pack = b"".join([b"PACK", struct.pack(">II", 2, len(self.unwritten)), *self.unwritten])
        self.unwritten.clear()
        digest = hashlib.sha1(pack, usedforsecurity=False)
        path = self.directory / f"objects/pack/pack-{digest.hexdigest()}.pack"
        path.write_bytes(pack + digest.digest())
        subprocess.run(["git", "index-pack", str(path)], check=True, capture_output=True, cwd=self.directory)


def _packed(kind: str, data: bytes) -> bytes:
    """An object as it stands in a pack (gitformat-pack(5))."""
    number, rest = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}[kind], len(data) >> 4
    head = bytearray([number << 4 | len(data) & 15 | (128 if rest else 0)])
    while rest:
        head.append(rest & 127 | (128 if rest >> 7 else 0))
        rest >>= 7
    return bytes(head) + zlib.compress(data, 1)


class GitServer(Server):
    """The server; `storage` hands out the LFS objects."""

    def __init__(self, directory: Path, certificate: tuple[Path, Path] | None = None, host: str = "127.0.0.1") -> None:
        self.directory = directory / "git-server"
        self.users: dict[str, str] = {}
        """Passwords by user; none lets everybody in."""
        self.objects: dict[str, bytes] = {}
        """LFS objects by SHA-256."""
        self.filters = True
        self.newest_protocol = True
        self.link_seconds = 600
        self.keeps_objects = False
        """Hand LFS objects out here, to who has logged in, and not by links to the storage."""
        self._epoch = 1
        self.storage = Server(self._stored, host)
        super().__init__(self._answer, host, certificate=certificate)

    def stop(self) -> None:
        """Stop both servers."""
        super().stop()
        self.storage.stop()

    def create(self, name: str, files: Mapping[str, Stored]) -> GitRepository:
        """Add a repository with one commit on `main`."""
        directory = self.directory / f"{name}.git"
        for part in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
            (directory / part).mkdir(parents=True)
        (directory / "HEAD").write_text("ref: refs/heads/main\n")
        (directory / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
        repository = GitRepository(name, directory, f"{self.url}/{name}.git", self)
        repository.commit(files)
        return repository

    def expire_links(self) -> None:
        """Let the storage refuse every link that was given out until now."""
        self._epoch += 1

    def _answer(self, request: Request) -> Response:
        if self.users and not self._knows(request.header("authorization") or ""):
            return text_response(401, "who are you?", ("WWW-Authenticate", 'Basic realm="git"'))
        path = request.exchange.path
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(request)
        if path.startswith("/lfs/"):
            return serve(request, Content(self.objects[path.removeprefix("/lfs/")], None, time.time()))
        return self._run_backend(request, path)

    def _knows(self, header: str) -> bool:
        kind, _, value = header.partition(" ")
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return False
        return kind == "Basic" and user in self.users and self.users[user] == password

    def _run_backend(self, request: Request, path: str) -> Response:
        body = b"".join(request.body)
        settings = {"uploadpack.allowFilter": str(self.filters).lower(), "safe.directory": "*"}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": str(self.directory),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": request.exchange.target.partition("?")[2],
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.header("content-type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.header("content-encoding") or "",
            "GIT_PROTOCOL": (request.header("git-protocol") or "") if self.newest_protocol else "",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        answer = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = answer.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().splitlines()]
        headers = tuple((name, value) for name, value in fields if name != "Status")
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        return Response(status, headers, content, len(content))

    def _batch(self, request: Request) -> Response:
        asked = json.loads(b"".join(request.body))
        objects = [self._action(item["oid"], item["size"]) for item in asked["objects"]]
        body = json.dumps({"transfer": "basic", "objects": objects}).encode()
        return Response(200, (("Content-Type", "application/vnd.git-lfs+json"),), body, len(body))

    def _action(self, oid: str, size: int) -> dict[str, object]:
        if oid not in self.objects:
            return {"oid": oid, "size": size, "error": {"code": 404, "message": "Object does not exist"}}
        if self.keeps_objects:
            return {"oid": oid, "size": size, "actions": {"download": {"href": f"{self.url}/lfs/{oid}"}}}
        download = {
            "href": f"{self.storage.url}/lfs/{oid}?signature={self._epoch}-{'0' * 40}",
            "header": {"X-Link": "given"},
            "expires_in": self.link_seconds,
        }
        return {"oid": oid, "size": size, "authenticated": True, "actions": {"download": download}}

    def _stored(self, request: Request) -> Response:
        if request.header("authorization") is not None:
            return text_response(400, "who sent me a password?")
        epoch = request.exchange.query.get("signature", "").partition("-")[0]
        if epoch != str(self._epoch) or request.header("x-link") != "given":
            return text_response(403, "expired")
        data = self.objects.get(request.exchange.path.rpartition("/")[2])
        return text_response(404, "nothing") if data is None else serve(request, Content(data, None, time.time()))
