"""Git LFS: the pointers that stand for files in a repository, and the server that has the files.

The protocol is git-lfs's own (docs/api/batch.md, docs/spec.md there). `.lfsconfig`, with which a repository names
another server, is not read. The bytes go over `transport`.
"""

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from datafetch.credentials import Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch_api.uris import redact_uri

LARGEST_POINTER = 1024
"""Bytes; what has as many is no pointer."""
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,17})\n"
)
_MEDIA_TYPE = "application/vnd.git-lfs+json"
_BATCH = 100
_MOST_PENDING = 10_000
_MOST_ACTIONS = 2048
_LARGEST_ANSWER = 4 << 20
_ACTION_SECONDS = 600.0
"""Of an action whose server does not say when it expires."""
_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a file in the repository says of the one that it stands for."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a repository's LFS server is, and the headers that say who asks."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Action:
    url: str
    headers: Mapping[str, str]
    sender: str
    until: float


def parse_pointer(content: bytes) -> Pointer | None:
    """Return the pointer that a file is; None for every other file, and for pointers with extensions."""
    found = _POINTER.fullmatch(content)
    return Pointer(found[1].decode(), int(found[2])) if found else None


def checksum_of(sha256: str) -> Checksum:
    """Return what a pointer promises."""
    return Checksum(ChecksumAlgorithm.SHA256, sha256)


def endpoint_url(url: str) -> str:
    """Return the LFS server of a repository at an http(s) URL."""
    url = url.rstrip("/")
    return f"{url}{'' if url.endswith('.git') else '.git'}/info/lfs"


class LfsServer:
    """The objects of one repository. Thread-safe. `endpoint` is asked each time: credentials may be new."""

    def __init__(self, transport: Transport, secrets: Secrets, endpoint: Callable[[], Endpoint], place: str) -> None:
        self._transport = transport
        self._secrets = secrets
        self._endpoint = endpoint
        self._place = place
        self._lock = threading.Lock()
        self._pending: OrderedDict[str, int] = OrderedDict()
        self._actions: OrderedDict[str, _Action] = OrderedDict()

    def expect(self, pointer: Pointer) -> None:
        """Take note of an object that will be asked for: several share one request."""
        with self._lock:
            if len(self._pending) < _MOST_PENDING:
                self._pending[pointer.sha256] = pointer.size

    def open(self, pointer: Pointer, byte_range: ByteRange) -> RangeBody:
        """Ask for a range of an object."""
        action = self._known(pointer)
        if action is None:
            return self._get(self._ask(pointer), pointer, byte_range)
        try:
            return self._get(action, pointer, byte_range)
        except (CredentialsRejectedError, SourceNotFoundError):
            # It may have been too old: the server gives another one.
            with self._lock:
                self._actions.pop(pointer.sha256, None)
            return self._get(self._ask(pointer), pointer, byte_range)

    def _get(self, action: _Action, pointer: Pointer, byte_range: ByteRange) -> RangeBody:
        request = Request(action.url, {}, action.headers, sender=action.sender)
        body = self._transport.open_range(request, byte_range, Pin(pointer.size))
        body.checksum = checksum_of(pointer.sha256)
        return body

    def _known(self, pointer: Pointer) -> _Action | None:
        with self._lock:
            action = self._actions.get(pointer.sha256)
            return action if action is not None and time.monotonic() < action.until else None

    def _ask(self, pointer: Pointer) -> _Action:
        """Ask for an object's action, and those of others that will be wanted."""
        with self._lock:
            known = self._actions.get(pointer.sha256)
            if known is not None and time.monotonic() < known.until:
                return known
            self._pending.pop(pointer.sha256, None)
            wanted = {pointer.sha256: pointer.size, **dict(islice(self._pending.items(), _BATCH - 1))}
            for sha256 in wanted:
                self._pending.pop(sha256, None)
            # Under the lock: who waits for it wants the answer too.
            found = self._batch(wanted)
            own: _Action | DataFetchError | None = None
            for sha256, action in found.items():
                if sha256 == pointer.sha256:
                    own = action
                if isinstance(action, _Action):
                    self._actions[sha256] = action
                    if len(self._actions) > _MOST_ACTIONS:
                        self._actions.popitem(last=False)
        if isinstance(own, _Action):
            return own
        raise own or SourceUnavailableError(f"the LFS server of {self._place} says nothing about {pointer.sha256}")

    def _batch(self, wanted: Mapping[str, int]) -> dict[str, "_Action | DataFetchError"]:
        endpoint = self._endpoint()
        body = json.dumps(
            {
                "operation": "download",
                "transfers": ["basic"],
                "objects": [{"oid": sha256, "size": size} for sha256, size in wanted.items()],
                "hash_algo": "sha256",
            }
        ).encode()
        headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        request = Request(f"{endpoint.url}/objects/batch", headers, endpoint.headers, method="POST", body=body)
        with self._transport.open_range(request, ByteRange(0, None), Pin()) as answer:
            document, sender = _read(answer), answer.address
        objects = document.get("objects")
        if not isinstance(objects, list):
            raise SourceUnavailableError(f"{redact_uri(request.url)} answers otherwise than an LFS server does")
        found: dict[str, _Action | DataFetchError] = {}
        for item in objects:
            if isinstance(item, dict) and item.get("oid") in wanted:
                found[item["oid"]] = self._action(item, endpoint, sender)
        return found

    def _action(self, item: Mapping[str, Any], endpoint: Endpoint, sender: str) -> "_Action | DataFetchError":
        place = f"the LFS server of {self._place}"
        error = item.get("error")
        if isinstance(error, dict):
            code, message = error.get("code"), self._secrets.redact(str(error.get("message", "")))[:300].rstrip(".")
            if code in (404, 410):
                return SourceNotFoundError(f"{place} has no object {item['oid']}: {message}; it was never pushed there")
            status = code if isinstance(code, int) else 422
            return classify(Refusal(status, message, place, {}))
        actions = item.get("actions")
        download = actions.get("download") if isinstance(actions, dict) else None
        href = download.get("href") if isinstance(download, dict) else None
        if (
            not isinstance(download, dict)
            or not isinstance(href, str)
            or urlsplit(href).scheme not in ("http", "https")
        ):
            return SourceUnavailableError(f"{place} names no URL for {item['oid']}")
        if urlsplit(endpoint.url).scheme == "https" and urlsplit(href).scheme != "https":
            return SourceUnavailableError(f"{place} names a URL of plain http for {item['oid']}")
        self._secrets.add(urlsplit(href).query)
        headers = _headers(download.get("header"))
        for value in headers.values():
            self._secrets.add(value)
        if not any(name.lower() == "authorization" for name in headers) and _origin(href) == _origin(endpoint.url):
            headers |= endpoint.headers
        return _Action(href, headers, sender, time.monotonic() + _seconds(download))


def _headers(given: object) -> dict[str, str]:
    """Return the headers that go with an action; what would change the request itself is left out."""
    if not isinstance(given, dict):
        return {}
    kept = {str(name): str(value) for name, value in given.items()}
    fixed = {"host", "content-length", "transfer-encoding", "connection", "range", "accept-encoding", "user-agent"}
    return {name: value for name, value in kept.items() if name.lower() not in fixed}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        return "", None, None


def _seconds(download: Mapping[str, Any]) -> float:
    """Return for how long an action is good."""
    expires_in, expires_at = download.get("expires_in"), download.get("expires_at")
    if isinstance(expires_in, int) and expires_in > 0:
        return float(expires_in) - _MARGIN_SECONDS
    try:
        return datetime.fromisoformat(str(expires_at)).timestamp() - time.time() - _MARGIN_SECONDS
    except (ValueError, OverflowError):
        return _ACTION_SECONDS


def _read(body: RangeBody) -> dict[str, Any]:
    """Return the JSON of an answer."""
    buffer, text = memoryview(bytearray(1 << 16)), bytearray()
    while count := body.readinto(buffer):
        text += buffer[:count]
        if len(text) > _LARGEST_ANSWER:
            raise SourceUnavailableError(f"{redact_uri(body.url)} sent more than an LFS server's answer has")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SourceUnavailableError(f"{redact_uri(body.url)} answers otherwise than an LFS server does")
    return found


__all__ = ["LARGEST_POINTER", "Endpoint", "LfsServer", "Pointer", "checksum_of", "endpoint_url", "parse_pointer"]
