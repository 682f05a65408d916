"""One GET of a range, by what a source prepares: the same for every provider whose bytes come over HTTP."""

import re
from urllib.parse import quote

from datafetch.sources import ByteRange, Entry, HttpAccess
from datafetch.transport import RangeBody

_UNRESERVED = "/-._~"
_needs_no_quoting = re.compile(r"[A-Za-z0-9/\-._~]*").fullmatch


def quote_key(key: str) -> str:
    """Return a key percent-encoded for a URL's path, its slashes kept: as RFC 3986 and S3's signatures have it."""
    return key if _needs_no_quoting(key) else quote(key, safe=_UNRESERVED)


def open_range(access: HttpAccess, entry: Entry, byte_range: ByteRange) -> RangeBody:
    """Ask for a range of the object that the entry names: one request, no retry. Raises like `Source.open`."""
    request, pin = access.prepare(entry, byte_range)
    body = access.transport.open_range(request, byte_range, pin)
    body.checksum = access.promised_checksum(entry, body.headers)
    return body
