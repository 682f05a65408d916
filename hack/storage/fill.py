"""Puts trees of files into the storage servers over their own HTTP interfaces, without any SDK.

The requests are what the SDKs send, so that ETags, checksums and generations are right; the tests of the
operator and the cluster run where no SDK is installed. Reads files below the directories it is given and
speaks only to the endpoints it is given.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import ssl
import time
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO, Protocol

from .servers import AZURE_ACCOUNT, AZURE_KEY, GCS_PROJECT, S3_ACCESS_KEY, S3_REGION, S3_SECRET_KEY

CHUNK_BYTES = 1 << 20
UPLOADS_AT_ONCE = 8

Content = bytes | Path
"""What to store: the bytes, or the file that holds them."""


class FillError(Exception):
    """A server refused a request; the message names it and what the server answered."""


class Store(Protocol):
    """A storage service that can be filled. `bucket` is a container in Azure's words."""

    scheme: str

    def create(self, bucket: str) -> None:
        """Make the bucket if it is not there."""

    def put(self, bucket: str, key: str, content: Content) -> str:
        """Store an object, replacing the one of that key; return its identity (ETag or generation)."""

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""


@dataclass(frozen=True)
class Filled:
    """What `fill` stored."""

    location: str
    files: int
    size: int
    """Bytes."""
    seconds: float


def fill(store: Store, destination: str, source: Path) -> Filled:
    """Store every regular file below `source` (or the file itself) at `destination`, `BUCKET[/PREFIX]`.

    A file's key is the prefix, a slash, and its path relative to `source`. Links are left out.
    """
    started = time.monotonic()
    bucket, _, prefix = destination.partition("/")
    base = f"{prefix.rstrip('/')}/" if prefix else ""
    store.create(bucket)
    files = list(_files(source))
    if not files:
        raise FillError(f"{source} holds no files: nothing to put into {store.scheme}://{destination}.")
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        # list() so that the first refusal is raised here.
        list(pool.map(lambda item: store.put(bucket, base + item[0], item[1]), files))
    size = sum(path.stat().st_size for _, path in files)
    return Filled(f"{store.scheme}://{bucket}/{base}", len(files), size, time.monotonic() - started)


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield source.name, source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(source).as_posix(), path


class S3:
    """An S3 server, addressed in path style, with requests signed by Signature Version 4."""

    scheme = "s3"

    def __init__(
        self,
        endpoint: str,
        access_key: str = S3_ACCESS_KEY,
        secret_key: str = S3_SECRET_KEY,
        ca_file: Path | None = None,
    ) -> None:
        self._http = _Endpoint(endpoint, ca_file)
        self._access_key = access_key
        self._secret_key = secret_key

    def create(self, bucket: str) -> None:
        """Make the bucket if it is not there."""
        self._send("PUT", f"/{_quoted(bucket)}", {}, b"", accept=(200, 409))

    def enable_versioning(self, bucket: str) -> None:
        """Keep old versions of the bucket's objects from now on."""
        body = (
            b'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<Status>Enabled</Status></VersioningConfiguration>"
        )
        self._send("PUT", f"/{_quoted(bucket)}", {}, body, query="versioning=")

    def put(self, bucket: str, key: str, content: Content) -> str:
        """Store an object in one part with a CRC32, as boto3 does by default; return its ETag, unquoted."""
        checksum = base64.b64encode(_crc32(content).to_bytes(4, "big")).decode()
        headers = {"x-amz-checksum-crc32": checksum, "x-amz-sdk-checksum-algorithm": "CRC32"}
        answer = self._send("PUT", f"/{_quoted(bucket)}/{_quoted(key)}", headers, content)
        return answer.headers["ETag"].strip('"')

    def put_in_parts(self, bucket: str, key: str, parts: list[bytes]) -> str:
        """Store an object by multipart upload; its ETag, returned unquoted, is no MD5 (`<hex>-<parts>`).

        S3 wants every part but the last to hold at least 5 MiB.
        """
        path = f"/{_quoted(bucket)}/{_quoted(key)}"
        created = self._send("POST", path, {}, b"", query="uploads=").body.decode()
        upload = created.partition("<UploadId>")[2].partition("</UploadId>")[0]
        rows = []
        for number, part in enumerate(parts, start=1):
            query = f"partNumber={number}&uploadId={_quoted(upload, safe='')}"
            tag = self._send("PUT", path, {}, part, query=query).headers["ETag"]
            rows.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
        body = f"<CompleteMultipartUpload>{''.join(rows)}</CompleteMultipartUpload>".encode()
        done = self._send("POST", path, {}, body, query=f"uploadId={_quoted(upload, safe='')}").body.decode()
        return done.partition("<ETag>")[2].partition("</ETag>")[0].replace("&#34;", "").replace("&quot;", "").strip('"')

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        self._send("DELETE", f"/{_quoted(bucket)}/{_quoted(key)}", {}, b"", accept=(200, 204))

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: Content,
        query: str = "",
        accept: tuple[int, ...] = (200,),
    ) -> _Answer:
        now = datetime.now(UTC)
        signed = {
            "host": self._http.authority,
            "x-amz-content-sha256": _digest(content, "sha256").hex(),
            "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
            **headers,
        }
        signed["authorization"] = self._authorization(method, path, query, signed, now)
        target = f"{path}?{query}" if query else path
        return self._http.send(method, target, signed, content, accept)

    def _authorization(self, method: str, path: str, query: str, headers: Mapping[str, str], now: datetime) -> str:
        """Sign by https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html ."""
        names = sorted(headers)
        lines = [f"{name}:{headers[name]}" for name in names]
        canonical = [method, path, query, *lines, "", ";".join(names), headers["x-amz-content-sha256"]]
        scope = f"{now:%Y%m%d}/{S3_REGION}/s3/aws4_request"
        digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
        key = f"AWS4{self._secret_key}".encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        signature = _hmac(key, f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{digest}").hex()
        credential = f"{self._access_key}/{scope}"
        return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(names)}, Signature={signature}"


class Gcs:
    """A GCS server's JSON interface, without credentials."""

    scheme = "gs"

    def __init__(self, endpoint: str) -> None:
        self._http = _Endpoint(endpoint)

    def create(self, bucket: str) -> None:
        """Make the bucket, with object versioning, if it is not there."""
        # With versioning an old generation stays readable, so a test may pin one.
        body = json.dumps({"name": bucket, "versioning": {"enabled": True}}).encode()
        headers = {"content-type": "application/json"}
        self._http.send("POST", f"/storage/v1/b?project={GCS_PROJECT}", headers, body, (200, 409))

    def put(self, bucket: str, key: str, content: Content) -> str:
        """Store an object; return its generation."""
        target = f"/upload/storage/v1/b/{_quoted(bucket)}/o?uploadType=media&name={_quoted(key, safe='')}"
        headers = {"content-type": "application/octet-stream"}
        return str(json.loads(self._http.send("POST", target, headers, content).body)["generation"])

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        target = f"/storage/v1/b/{_quoted(bucket)}/o/{_quoted(key, safe='')}"
        self._http.send("DELETE", target, {}, b"", (200, 204))


class Azure:
    """An Azure Blob server at an account's endpoint, with requests signed by the account's key."""

    scheme = "az"
    _API_VERSION = "2023-11-03"

    def __init__(
        self, endpoint: str, account: str = AZURE_ACCOUNT, key: str = AZURE_KEY, ca_file: Path | None = None
    ) -> None:
        self._http = _Endpoint(endpoint, ca_file)
        self._base = urllib.parse.urlsplit(endpoint).path.rstrip("/")
        self._account = account
        self._key = base64.b64decode(key)

    def create(self, bucket: str) -> None:
        """Make the container if it is not there."""
        self._send("PUT", f"/{_quoted(bucket)}", {}, b"", "restype=container", (201, 409))

    def put(self, bucket: str, key: str, content: Content) -> str:
        """Store a block blob with its MD5; return its ETag, unquoted."""
        checksum = base64.b64encode(_digest(content, "md5")).decode()
        headers = {
            "content-md5": checksum,
            "content-type": "application/octet-stream",
            "x-ms-blob-type": "BlockBlob",
        }
        answer = self._send("PUT", f"/{_quoted(bucket)}/{_quoted(key)}", headers, content, accept=(201,))
        return answer.headers["ETag"].strip('"')

    def delete(self, bucket: str, key: str) -> None:
        """Remove a blob."""
        self._send("DELETE", f"/{_quoted(bucket)}/{_quoted(key)}", {}, b"", accept=(202,))

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: Content,
        query: str = "",
        accept: tuple[int, ...] = (200,),
    ) -> _Answer:
        stamp = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": self._API_VERSION}
        sent = {**headers, **stamp}
        sent["authorization"] = self._authorization(method, path, query, sent, _size(content))
        target = self._base + path + (f"?{query}" if query else "")
        return self._http.send(method, target, sent, content, accept)

    def _authorization(self, method: str, path: str, query: str, headers: Mapping[str, str], size: int) -> str:
        """Sign by https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key ."""
        length = str(size) if size else ""
        standard = [
            method,
            "",  # Content-Encoding
            "",  # Content-Language
            length,
            headers.get("content-md5", ""),
            headers.get("content-type", ""),
            *[""] * 6,  # Date, If-Modified-Since, If-Match, If-None-Match, If-Unmodified-Since, Range
        ]
        own = [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-ms-")]
        parameters = [part.replace("=", ":", 1) for part in sorted(query.split("&")) if part]
        # The account stands twice where the endpoint's path begins with it, as azurite's does.
        resource = f"/{self._account}{self._base}{path}"
        text = "\n".join([*standard, *own, resource, *parameters])
        signature = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return f"SharedKey {self._account}:{base64.b64encode(signature).decode()}"


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Endpoint:
    """Sends requests to one endpoint, each on a connection of its own, so that there is nothing to close."""

    def __init__(self, endpoint: str, ca_file: Path | None = None) -> None:
        url = urllib.parse.urlsplit(endpoint)
        self.authority = url.netloc
        self._tls = ssl.create_default_context(cafile=ca_file) if url.scheme == "https" else None

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        content: Content,
        accept: tuple[int, ...] = (200,),
    ) -> _Answer:
        """Send one request; raise FillError when the status is not among `accept`."""
        try:
            with contextlib.closing(self._connect()) as connection:
                answer = _exchange(connection, method, target, headers, content)
        except (OSError, http.client.HTTPException) as error:
            raise FillError(f"{method} {self.authority}{target}: {error}; is the server up?") from error
        if answer.status in accept:
            return answer
        said = answer.body[:500].decode(errors="replace")
        raise FillError(f"{method} {self.authority}{target} was answered with {answer.status}: {said}")

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(self.authority, timeout=60, context=self._tls, blocksize=CHUNK_BYTES)
        return http.client.HTTPConnection(self.authority, timeout=60, blocksize=CHUNK_BYTES)


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Mapping[str, str], content: Content
) -> _Answer:
    sent = {**headers, "content-length": str(_size(content))}
    if isinstance(content, Path):
        with content.open("rb") as file:
            connection.request(method, target, file, sent)
            response = connection.getresponse()
    else:
        connection.request(method, target, content, sent)
        response = connection.getresponse()
    return _Answer(response.status, response.headers, response.read())


def _quoted(text: str, safe: str = "/") -> str:
    return urllib.parse.quote(text, safe=f"{safe}-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _crc32(content: Content) -> int:
    if isinstance(content, bytes):
        return zlib.crc32(content)
    value = 0
    with content.open("rb") as file:
        for chunk in _chunks(file):
            value = zlib.crc32(chunk, value)
    return value


def _digest(content: Content, algorithm: str) -> bytes:
    # MD5 is what the services call for; it is no protection against anyone.
    digest = hashlib.new(algorithm, usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
        return digest.digest()
    with content.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.digest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
