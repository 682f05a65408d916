"""The same objects in every kind of source: what a contract test needs of a server, and the config that names it.

A place writes the credential files of its items below its directory, as a mounted Secret has them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import TypeAdapter

from datafetch.checksums import new_hasher
from datafetch.sources import ByteRange, Checksum, Entry, Source, open_source
from datafetch_api.config import DownloadItem
from servers.emulators import AzureServer, GcsServer, S3Server
from servers.http import StaticServer
from servers.hub import Hub
from servers.lakefs import LakeFS

STALL_TIMEOUT = 5.0


class Place(ABC):
    """A bucket of its own at a server."""

    changed_is_seen: ClassVar[bool] = True
    """False where the pinned object stays readable after it was replaced."""
    checks_credentials: ClassVar[bool] = True

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

    @abstractmethod
    def fill(self, files: Mapping[str, bytes]) -> None:
        """Store objects; those that are there and are not named stay."""

    @abstractmethod
    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        """The config of an item, but for its name."""


WRONG = "wr0ng-and-secret-wr0ng"
WRONG_KEY = base64.b64encode(WRONG.encode() * 3).decode()


class S3Place(Place):
    def __init__(self, directory: Path, bucket: str, server: S3Server) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def fill(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            self.server.store.put(self.bucket, key, data)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        return {
            "type": "s3",
            "endpoint_url": self.server.url,
            "access_key_id_file": self.secret("access_key_id", self.server.access_key),
            "secret_key_file": self.secret("secret_key", self.server.secret_key if credentials == "right" else WRONG),
            "items": [{"bucket": self.bucket, "items": selections}],
        }


class GCSPlace(Place):
    # Old generations stay readable: the buckets of these tests keep versions.
    changed_is_seen = False
    checks_credentials = False

    def __init__(self, directory: Path, bucket: str, server: GcsServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def fill(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            self.server.store.put(self.bucket, key, data)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        return {
            "type": "gcs",
            "endpoint_url": self.server.url,
            "anonymous": True,
            "items": [{"bucket": self.bucket, "items": selections}],
        }


class AzurePlace(Place):
    def __init__(self, directory: Path, bucket: str, server: AzureServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        server.store.create(bucket)

    def fill(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            self.server.store.put(self.bucket, key, data)

    def config(self, selections: list[dict[str, Any]], credentials: str) -> dict[str, Any]:
        connection = self.server.connection_string
        if credentials != "right":
            connection = connection.replace(self.server.key, WRONG_KEY)
        return {
            "type": "azure-blob",
            "connection_string_file": self.secret("connection_string", connection),
            "items": [{"container": self.bucket, "items": selections}],
        }


class HubPlace(Place):
    # A commit stays readable when the branch moves on.
    changed_is_seen = False

    def __init__(self, directory: Path, bucket: str, server: Hub) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.repo = server.create(f"org/{bucket}", {".gitattributes": b""}, private=True)
        self.repo.commit({".gitattributes": None})
        self.token = f"hf_{bucket}"
        server.add_token(self.token, self.repo.repo_id)

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
    # A commit stays readable when the branch moves on.
    changed_is_seen = False

    def __init__(self, directory: Path, bucket: str, server: LakeFS) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.repository = server.create(bucket, {})
        server.add_key("AKIAJLAKEFSEXAMPLE", "a-secret-key-of-lakefs")

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


class HttpPlace(Place):
    """Files at URLs: what a selection takes is spelled out, for there is no listing."""

    def __init__(self, directory: Path, bucket: str, server: StaticServer) -> None:
        super().__init__(directory, bucket)
        self.server = server
        self.paths: list[str] = []
        server.require_basic("user", "pass-and-secret")

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
