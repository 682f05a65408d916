"""S3, GCS, Azure Blob and plain HTTP in one small server: their listings and objects from one dictionary.

For what no real server does: keys that none accepts, answers that give secrets away, bodies without end. `before` sees
every request first and may answer it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes
from xml.sax.saxutils import escape

from servers.content import content, serve
from servers.serving import Request, Response, Server, text_response

BUCKET = "bucket"
ACCOUNT = "account"
TOKEN = "ya29.c0AcCeSs-tOkEn_0f-tHe-sErVeR"
Before = Callable[[Request], Response | None]


class Cloud(Server):
    """Serves `contents`: keys as text, bytes that are no UTF-8 in them as surrogates."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.before: Before = lambda request: None
        super().__init__(self._page)

    def item(self, provider: str, **more: Any) -> dict[str, Any]:
        """The config of a download item of all keys; without credentials unless some are given."""
        access = more or {"anonymous": True}
        selection: list[dict[str, Any]] = [{"path": "."}]
        match provider:
            case "s3":
                items = [{"bucket": BUCKET, "items": selection}]
                return {"type": "s3", "name": "src", "endpoint_url": self.url, "items": items, **access}
            case "gcs":
                items = [{"bucket": BUCKET, "items": selection}]
                return {"type": "gcs", "name": "src", "endpoint_url": self.url, "items": items, **access}
            case "azure-blob":
                items = [{"container": BUCKET, "items": selection}]
                place = {"endpoint_url": f"{self.url}/{ACCOUNT}", "account": ACCOUNT}
                return {"type": "azure-blob", "name": "src", "items": items, **place, **access}
            case _:
                urls = [{"url": f"{self.url}/{BUCKET}/{quote(key)}", "target_path": key} for key in self.contents]
                return {"type": "http", "name": "src", "items": urls, **more}

    def _page(self, request: Request) -> Response:
        answer = self.before(request)
        if answer is not None:
            return answer
        path, query = request.exchange.target.partition("?")[0], request.exchange.query
        if path == "/token":
            return _json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        if path == f"/storage/v1/b/{BUCKET}/o":
            return self._list_gcs(query)
        if query.get("comp") == "list":
            return self._list_azure(query)
        if "list-type" in query:
            return self._list_s3(query)
        key = unquote_to_bytes(path).decode(errors="surrogateescape")
        for head in (f"/download/storage/v1/b/{BUCKET}/o/", f"/{ACCOUNT}/{BUCKET}/", f"/{BUCKET}/"):
            if key.startswith(head) and (found := self.contents.get(key.removeprefix(head))) is not None:
                return serve(request, content(found), (("x-goog-generation", "1"),))
        return text_response(404, "not found")

    def _below(self, prefix: str) -> list[tuple[str, bytes]]:
        return [(key, data) for key, data in self.contents.items() if key.startswith(prefix)]

    def _list_s3(self, query: dict[str, str]) -> Response:
        entries = "".join(
            f"<Contents><Key>{quote(key, errors='surrogateescape')}</Key><Size>{len(data)}</Size>"
            f"<ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in self._below(query.get("prefix", ""))
        )
        return _xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            f"{entries}</ListBucketResult>"
        )

    def _list_gcs(self, query: dict[str, str]) -> Response:
        return _json(
            {
                "kind": "storage#objects",
                "items": [
                    {"name": key, "size": str(len(data)), "generation": "1"}
                    for key, data in self._below(query.get("prefix", ""))
                ],
            }
        )

    def _list_azure(self, query: dict[str, str]) -> Response:
        blobs = "".join(
            f'<Blob><Name Encoded="true">{quote(key)}</Name><Properties><Content-Length>{len(data)}</Content-Length>'
            f"<Etag>{hashlib.md5(data).hexdigest()}</Etag><Content-MD5>{_md5(data)}</Content-MD5>"
            "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><BlobType>BlockBlob</BlobType></Properties>"
            "</Blob>"
            for key, data in self._below(query.get("prefix", ""))
        )
        return _xml(
            f'<EnumerationResults ContainerName="{BUCKET}"><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>'
        )


def refusal(provider: str, status: int, message: str, *headers: tuple[str, str]) -> Response:
    """An error in the provider's own form."""
    if provider in ("s3", "azure-blob"):
        body = f"<?xml version='1.0'?><Error><Code>SomeCode</Code><Message>{escape(message)}</Message></Error>"
        return _xml(body, status, *headers)
    if provider == "gcs":
        return _json({"error": {"code": status, "message": message}}, status, *headers)
    if provider == "hf":
        return _json({"error": message}, status, *headers)
    return text_response(status, message, *headers)


def _json(value: object, status: int = 200, *headers: tuple[str, str]) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json"), *headers), body, len(body))


def _xml(text: str, status: int = 200, *headers: tuple[str, str]) -> Response:
    body = text.encode()
    return Response(status, (("Content-Type", "application/xml"), *headers), body, len(body))


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()
