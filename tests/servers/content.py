"""One object's bytes and how HTTP serves them: conditions and ranges of RFC 9110, sections 13 and 14. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from .serving import Request, Response, text_response

DEFAULT_MODIFIED = 1_700_000_000.0
"""A fixed time, so that responses are the same in every run."""


@dataclass(frozen=True)
class Content:
    """An object: its bytes, with the validators that identify them."""

    data: bytes
    etag: str | None
    """Quoted, as it stands in the header; None: the server sends none."""
    modified: float | None = DEFAULT_MODIFIED
    """Seconds since 1970; None: the server sends no Last-Modified."""

    @property
    def validators(self) -> tuple[tuple[str, str], ...]:
        """ETag and Last-Modified, as far as there are any."""
        tag = (("ETag", self.etag),) if self.etag else ()
        date = (("Last-Modified", formatdate(self.modified, usegmt=True)),) if self.modified is not None else ()
        return (*tag, *date)


def content(data: bytes, modified: float | None = DEFAULT_MODIFIED) -> Content:
    """An object whose ETag is the MD5 of its bytes, as most servers of files have it."""
    return Content(data, f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"', modified)


def serve(request: Request, found: Content, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Answer GET or HEAD for an object: 200, 206, 304, 412 or 416."""
    if not _precondition_holds(request, found):
        return text_response(412, "precondition failed", *found.validators)
    if _is_unmodified(request, found):
        return Response(304, found.validators)
    size = len(found.data)
    sent = (("Accept-Ranges", "bytes"), *found.validators, *headers)
    span = _span(request, found)
    if span is None:
        return Response(200, sent, found.data, size)
    start, end = span
    if start >= end:
        return text_response(416, "range not satisfiable", ("Content-Range", f"bytes */{size}"))
    sent = (*sent, ("Content-Range", f"bytes {start}-{end - 1}/{size}"))
    return Response(206, sent, memoryview(found.data)[start:end], end - start)


def _precondition_holds(request: Request, found: Content) -> bool:
    wanted = request.header("if-match")
    if wanted is not None:
        return _lists(wanted, found.etag)
    since = request.header("if-unmodified-since")
    if since is None or found.modified is None:
        return True
    return int(found.modified) <= parsedate_to_datetime(since).timestamp()


def _is_unmodified(request: Request, found: Content) -> bool:
    known = request.header("if-none-match")
    return known is not None and _lists(known, found.etag)


def _lists(value: str, etag: str | None) -> bool:
    return value.strip() == "*" or etag in {tag.strip() for tag in value.split(",")}


def _span(request: Request, found: Content) -> tuple[int, int] | None:
    """First position and the one past the last; None when the whole object is asked for."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.header("range") or "")
    if asked is None or asked[0] == "bytes=-" or not _range_applies(request, found):
        return None
    size = len(found.data)
    if not asked[1]:
        return max(0, size - int(asked[2])), size
    last = int(asked[2]) if asked[2] else size - 1
    return int(asked[1]), min(last + 1, size)


def _range_applies(request: Request, found: Content) -> bool:
    # RFC 9110, 13.1.5: with a validator that does not match, the whole object is sent.
    condition = request.header("if-range")
    return condition is None or condition in {value for _, value in found.validators}
