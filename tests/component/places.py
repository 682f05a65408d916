"""The same objects in every kind of source: what a contract test needs of a server, and the config that names it.

A place writes the credential files of its items below its directory, as a mounted Secret has them. For one more kind of
source: a class here, its entry in `PLACES`, and a fixture of that name in `conftest`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter

import storage.fill
from datafetch.checksums import new_hasher
from datafetch.sources import ByteRange, Checksum, Entry, Source, open_source
from datafetch_api.config import DownloadItem
from servers.emulators import AzureServer, GcsServer, S3Server
from servers.faults import FaultProxy
from servers.git import GitServer, LfsObject
from servers.http import Manners, StaticServer
from servers.hub import Hub
from servers.lakefs import LakeFS
from servers.serving import Server

STALL_TIMEOUT = 5.0


class Place(ABC):
    """A bucket of its own at a server."""

    changed_is_seen: ClassVar[bool] = True
    """False where the pinned object stays readable after it was replaced."""
    checks_credentials: ClassVar[bool] = True
    """False where the server lets everybody in: that is tested elsewhere then."""
    has_listing: ClassVar[bool] = True
    """False where the config spells out what there is."""
    takes_selections: ClassVar[bool] = False
    """Whether one item may have several selections."""
    promises_checksums: ClassVar[bool] = True
    """Whether every object comes with a checksum."""
    verifies: ClassVar[bool] = True
    """Whether a byte that is changed on the way is found, after `make_verifiable`."""
    names_missing_bucket: ClassVar[bool] = True
    """Whether a bucket that is not there is named."""
    many: ClassVar[int] = 10_000
    """Objects of a long listing."""
    requests_for_bytes: ClassVar[int] = 1
    """What the bytes of a small object cost; 0 where the listing has brought them."""
    sends_plain_requests: ClassVar[bool] = True
    """Whether who wants may send the requests for bytes himself."""
    identity: ClassVar[str] = 'etag:"x"'
    """An identity in the form that this kind of source has."""

    server: Any

    def __init__(self, directory: Path, bucket: str) -> None:
        self.directory = directory
        self.bucket = bucket

    def secret(self, name: str, value: str) -> str:
        """Write a credential file; return its path."""
        path = self.directory / name
        path.write_text(value + "\n")
        return str(path)

    def item(self, *selections: Mapping[str, Any], credentials: str = "right", **settings: object) -> DownloadItem:
        """The config of a download item; `credentials` are right, or wrong and secret."""
        config = self.config([dict(selection) for selection in selections or ({"path": "."},)], credentials)
        adapter: TypeAdapter[DownloadItem] = TypeAdapter(DownloadItem)
        return adapter.validate_python({"name": "src", **config, **settings})

    @contextmanager
    def source(self, *selections: Mapping[str, Any], **settings: Any) -> Iterator[Source]:
        """The source of such an item, closed at the end."""
        source = open_source(self.item(*selections, **settings), stall_timeout=STALL_TIMEOUT)
        try:
            yield source
        finally:
            source.close()

    def entry(self, key: str, size: int) -> Entry:
        """What a listing would say of an object, for who has not listed."""
        return Entry(f"{self.bucket}/{key}", key, size, self.identity)

    def missing(self, entry: Entry) -> Entry:
        """An entry of an object that is not there, made of one that is; that one may be gone afterwards."""
        head, _, name = entry.key.rpartition(entry.path)
        assert not name
        return Entry(f"{head}no-{entry.path}", entry.path, entry.size, entry.identity)

    def make_verifiable(self, key: str, data: bytes) -> None:
        """Store an object with a checksum, where that does not go without saying."""
        self.fill({key: data})

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Server], dict[str, Any]]]:
        """What sees, and may disturb, every request for the place's objects, and an item's settings that lead there.

        The first of these servers is asked for objects.
        """
        server = self.server
        assert isinstance(server, Server)
        yield [server], {}

    @abstractmethod
    def fill(self, files: Mapping[str, bytes]) -> None:
        """Store objects; those that are there and are not named stay."""

    @abstractmethod
    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        """The config of an item, but for its name."""


class Bucket(Place):
    """A bucket at one of the storage servers, which are processes of their own."""

    takes_selections = True

    def fill(self, files: Mapping[str, bytes]) -> None:
        """Store objects, many of them over connections that are kept."""
        store = self.server.store
        if len(files) < _MANY:
            for key, data in files.items():
                store.put(self.bucket, key, data)
            return
        with kept_connections(store), ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: store.put(self.bucket, *item), files.items()))

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Server], dict[str, Any]]]:
        """A proxy in front of the server."""
        url = urlsplit(self.server.url)
        with FaultProxy(url.hostname or "", url.port or 0) as proxy:
            yield [proxy], self.settings_by_way_of(proxy.url)

    def settings_by_way_of(self, url: str) -> dict[str, Any]:
        """The settings of an item that lead to the server's objects by way of another address."""
        return {"endpoint_url": url}


_MANY = 100
WRONG = "wr0ng-and-secret-wr0ng"
WRONG_KEY = base64.b64encode(WRONG.encode() * 3).decode()


class S3Place(Bucket):
    server: S3Server

    def __init__(self, directory: Path, bucket: str, server: S3Server) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        return {
            "type": "s3",
            "endpoint_url": self.server.url,
            "access_key_id_file": self.secret("access_key_id", self.server.access_key),
            "secret_key_file": self.secret("secret_key", self.server.secret_key if credentials == "right" else WRONG),
            "items": [{"bucket": self.bucket, "items": selections}],
        }


class GCSPlace(Bucket):
    server: GcsServer

    # Old generations stay readable: the buckets of these tests keep versions.
    changed_is_seen = False
    checks_credentials = False
    # The server takes a minute and a half to store ten thousand: `test_source_gcs` has one that serves as many.
    many = 2_100

    def __init__(self, directory: Path, bucket: str, server: GcsServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        return {
            "type": "gcs",
            "endpoint_url": self.server.url,
            "anonymous": True,
            "items": [{"bucket": self.bucket, "items": selections}],
        }


class AzurePlace(Bucket):
    server: AzureServer
    # A page has five thousand, and the server is slow at storing them: `test_source_azure_blob` has one of two pages.
    many = 1_100

    def __init__(self, directory: Path, bucket: str, server: AzureServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        connection = self.server.connection_string
        if credentials != "right":
            connection = connection.replace(self.server.key, WRONG_KEY)
        return {
            "type": "azure-blob",
            "connection_string_file": self.secret("connection_string", connection),
            "items": [{"container": self.bucket, "items": selections}],
        }

    def settings_by_way_of(self, url: str) -> dict[str, Any]:
        """The address stands in the connection string."""
        here = urlsplit(self.server.url)
        connection = self.server.connection_string.replace(f"{here.scheme}://{here.netloc}", url)
        return {"connection_string_file": self.secret("proxied", connection)}


class HubPlace(Place):
    server: Hub

    # A commit stays readable when the branch moves on.
    changed_is_seen = False
    identity = "oid:x"

    def __init__(self, directory: Path, bucket: str, server: Hub) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.repo = server.create(f"org/{bucket}", {".gitattributes": b""}, private=True)
        self.repo.commit({".gitattributes": None})
        self.token = f"hf_{bucket}"
        server.add_token(self.token, self.repo.repo_id)

    def entry(self, key: str, size: int) -> Entry:
        return Entry(key, key, size, self.identity)

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Server], dict[str, Any]]]:
        yield [self.server, self.server.cdn], {}

    def fill(self, files: Mapping[str, bytes]) -> None:
        self.repo.commit(files)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        selection = dict(selections[0])
        globs = [*([selection.pop("glob")] if "glob" in selection else []), *selection.pop("include", [])]
        return {
            "type": "hf",
            "endpoint_url": self.server.url,
            "repo_id": f"org/{self.bucket}",
            "token_file": self.secret("token", self.token if credentials == "right" else WRONG),
            "files": globs or None,
            "target_path": "./",
            **selection,
        }


class LakeFSPlace(Place):
    server: LakeFS

    # A commit stays readable when the branch moves on.
    changed_is_seen = False
    identity = "oid:x"
    # What lakeFS itself sends, it gives no checksum of: only the storage behind it does.
    promises_checksums = False
    verifies = False

    def __init__(self, directory: Path, bucket: str, server: LakeFS) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.repository = server.create(bucket, {})
        server.add_key("AKIAJLAKEFSEXAMPLE", "a-secret-key-of-lakefs")

    def entry(self, key: str, size: int) -> Entry:
        return Entry(key, key, size, self.identity)

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Server], dict[str, Any]]]:
        yield [self.server, self.server.storage], {}

    def fill(self, files: Mapping[str, bytes]) -> None:
        self.repository.commit(files)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        selection = dict(selections[0])
        globs = [*([selection.pop("glob")] if "glob" in selection else []), *selection.pop("include", [])]
        return {
            "type": "lakefs",
            "endpoint_url": self.server.url,
            "repository": self.bucket,
            "access_key_id_file": self.secret("access_key_id", "AKIAJLAKEFSEXAMPLE"),
            "secret_key_file": self.secret("secret_key", "a-secret-key-of-lakefs" if credentials == "right" else WRONG),
            "files": globs or None,
            **selection,
        }


class PresignedPlace(LakeFSPlace):
    """With a server that gives signed URLs of the storage behind it, which are asked for first."""

    verifies = True
    requests_for_bytes = 2


class GitPlace(Place):
    # A commit stays readable when the branch moves on.
    changed_is_seen = False
    identity = "oid:x"
    # git itself sees what was damaged on the way: `test_source_git` has that.
    verifies = False
    requests_for_bytes = 0
    sends_plain_requests = False

    def __init__(self, directory: Path, bucket: str, server: GitServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.repository = server.create(bucket, {})
        server.users["x-access-token"] = "a-token-of-git"

    def entry(self, key: str, size: int) -> Entry:
        return Entry(key, key, size, self.identity)

    def missing(self, entry: Entry) -> Entry:
        return Entry(entry.key, entry.path, entry.size, f"oid:{'0' * 40}")

    def fill(self, files: Mapping[str, bytes]) -> None:
        self.repository.commit(files)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        selection = dict(selections[0])
        globs = [*([selection.pop("glob")] if "glob" in selection else []), *selection.pop("include", [])]
        return {
            "type": "git",
            "url": f"{self.server.url}/{self.bucket}.git",
            "token_file": self.secret("token", "a-token-of-git" if credentials == "right" else WRONG),
            "files": globs or None,
            **selection,
        }


class LfsPlace(GitPlace):
    """With everything in Git LFS, whose server gives links to the storage behind it."""

    identity = f"lfs:{'0' * 64}"
    verifies = True
    requests_for_bytes = 1

    def missing(self, entry: Entry) -> Entry:
        return Entry(entry.key, entry.path, entry.size, self.identity)

    @contextmanager
    def watched(self) -> Iterator[tuple[list[Server], dict[str, Any]]]:
        yield [self.server.storage], {}

    def fill(self, files: Mapping[str, bytes]) -> None:
        self.repository.commit({path: LfsObject(data) for path, data in files.items()})


class HttpPlace(Place):
    """Files at URLs: what a selection takes is spelled out, for there is no listing."""

    server: StaticServer

    has_listing = False
    promises_checksums = False

    def __init__(self, directory: Path, bucket: str, server: StaticServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.paths: list[str] = []
        server.require_basic("user", "pass-and-secret")

    def entry(self, key: str, size: int) -> Entry:
        return Entry(f"{self.server.url}/{self.bucket}/{key}", key, size, self.identity)

    def missing(self, entry: Entry) -> Entry:
        self.server.remove(f"/{self.bucket}/{entry.path}")
        return entry

    def make_verifiable(self, key: str, data: bytes) -> None:
        """A web server gives a checksum only if it is asked to be a good one."""
        self.fill({key: data})
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        manners = Manners(headers=(("Repr-Digest", f"sha-256=:{digest}:"),))
        self.server.put(f"/{self.bucket}/{key}", data, manners)

    def fill(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            self.server.put(f"/{self.bucket}/{key}", data)
            self.paths = [*dict.fromkeys([*self.paths, key])]

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        return {
            "type": "http",
            "username_file": self.secret("username", "user"),
            "password_file": self.secret("password", "pass-and-secret" if credentials == "right" else WRONG),
            "items": [
                {"url": f"{self.server.url}/{self.bucket}/{quote(key)}", "target_path": key} for key in self.paths
            ],
        }


class IndexPlace(HttpPlace):
    """Files at URLs, and an index that lists them with size and SHA-256: what it lists needs no HEAD."""

    def fill(self, files: Mapping[str, bytes]) -> None:
        super().fill(files)
        lines = [self._line(key) for key in self.paths]
        self.server.put(f"/{self.bucket}/index.jsonl", "".join(lines).encode())

    def _line(self, key: str) -> str:
        data = self.server.content_of(f"/{self.bucket}/{key}")
        sha256 = hashlib.sha256(data).hexdigest()
        return json.dumps({"url": quote(key), "path": key, "size": len(data), "sha256": sha256}) + "\n"

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        settings = super().config(selections, credentials)
        del settings["items"]
        return {**settings, "index": {"url": f"{self.server.url}/{self.bucket}/index.jsonl"}}


PLACES: dict[str, type[Place]] = {
    "s3": S3Place,
    "gcs": GCSPlace,
    "azure": AzurePlace,
    "hf": HubPlace,
    "lakefs": LakeFSPlace,
    "presigned": PresignedPlace,
    "git": GitPlace,
    "lfs": LfsPlace,
    "http": HttpPlace,
    "index": IndexPlace,
}
"""Every kind of source that passes the contract, by the fixture that makes its place."""


@contextmanager
def kept_connections(store: Any) -> Iterator[None]:
    """Let a store send over one connection for each thread: ten thousand objects take a third of the time."""
    endpoint, local = store._http, threading.local()
    opened: list[Any] = []

    def send(method: str, target: str, headers: Any, content: Any, accept: tuple[int, ...] = (200,)) -> Any:
        if not hasattr(local, "connection"):
            local.connection = type(endpoint)._connect(endpoint)
            opened.append(local.connection)
        answer = storage.fill._exchange(local.connection, method, target, headers, content)
        assert answer.status in accept, answer
        return answer

    endpoint.send = send
    try:
        yield
    finally:
        del endpoint.send
        for connection in opened:
            connection.close()


def read(source: Source, entry: Entry, start: int = 0, end: int | None = None, buffer_bytes: int = 65536) -> bytes:
    """The bytes of a range, by default of the whole object."""
    buffer = memoryview(bytearray(buffer_bytes))
    received = bytearray()
    with source.open(entry, ByteRange(start, entry.size if end is None else end)) as reader:
        while count := reader.readinto(buffer):
            received += buffer[:count]
    return bytes(received)


def checksum_of(expected: Checksum, data: bytes) -> str:
    """The checksum of some bytes by the algorithm of an expected one."""
    hasher = new_hasher(expected.algorithm, len(data))
    assert hasher is not None
    hasher.update(memoryview(data))
    return hasher.hexdigest()


def by_path(source: Source) -> dict[str, Entry]:
    """The source's entries by path; fails where a path is listed twice."""
    entries = list(source.list())
    found = {entry.path: entry for entry in entries}
    assert len(found) == len(entries), "a path is listed twice"
    return found
