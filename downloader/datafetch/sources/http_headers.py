"""Header fields beyond what the transport needs: a file's name, digest and time, and what goes with requests. Pure.

What stands in an answer comes from outside, what stands in a file of headers from the user: the one is taken where it
is beyond doubt, the other is refused where it is not.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

from datafetch.sources import Checksum, ChecksumAlgorithm

_SHA256 = re.compile(r"(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=)", re.IGNORECASE)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a name, no secret
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})\s*=\s*("(?:[^"\\]|\\.)*"|[^";\s]*)')
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[a-z0-9-]*'((?:%[0-9a-f]{2}|[a-z0-9!#$&+.^_`|~-])+)", re.IGNORECASE)
_HEADER_LINE = re.compile(rf"({_TOKEN}):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)[ \t]*")
_OURS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "host", "if-match", "if-none-match", "if-modified-since",
        "if-range", "if-unmodified-since", "keep-alive", "proxy-authorization", "range", "te", "trailer",
        "transfer-encoding", "upgrade", "user-agent",
    }
)  # fmt: skip
"""What requests have anyway, or what would change what an answer means."""
_NAME_BYTES = 255


def given_name(disposition: str | None) -> str | None:
    """Return the file name in a Content-Disposition (RFC 6266), `filename*` before `filename`.

    None where there is none, or where it is not simply a name: a path, `..`, one with control characters or too long.
    """
    parameters: dict[str, str] = {}
    kind = re.match(rf"\s*{_TOKEN}", disposition or "")
    position = kind.end() if kind else 0
    while disposition is not None and (found := _PARAMETER.match(disposition, position)):
        parameters.setdefault(found[1].lower(), found[2])
        position = found.end()
    for decoded in (_extended(parameters.get("filename*")), _plain(parameters.get("filename"))):
        if decoded is not None and _is_plain_name(decoded):
            return decoded
    return None


def _extended(value: str | None) -> str | None:
    """Decode RFC 8187's `charset'language'percent-encoded`."""
    found = _EXTENDED.fullmatch(value or "")
    if found is None:
        return None
    try:
        return unquote(found[2], encoding=found[1], errors="strict")
    except UnicodeDecodeError:
        return None


def _plain(value: str | None) -> str | None:
    """Decode a token or a quoted string; many servers put UTF-8 into it as it is."""
    if value is None:
        return None
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _is_plain_name(name: str) -> bool:
    if name in ("", ".", "..") or name != name.strip() or re.search(r"[/\\\x00-\x1f\x7f-\x9f]", name):
        return False
    return len(name.encode(errors="replace")) <= _NAME_BYTES


def digest_of(headers: Mapping[str, str]) -> Checksum | None:
    """Return the SHA-256 of the whole file, where the server sends it: RFC 9530's Repr-Digest, or RFC 3230's Digest."""
    found = _SHA256.search(headers.get("repr-digest", "")) or _SHA256.search(headers.get("digest", ""))
    if found is None:
        return None
    try:
        return Checksum(ChecksumAlgorithm.SHA256, base64.b64decode(found[1], validate=True).hex())
    except binascii.Error:
        return None


def modified_at(headers: Mapping[str, str]) -> datetime | None:
    """Return the time in Last-Modified (RFC 9110, 8.8.2)."""
    try:
        found = parsedate_to_datetime(headers["last-modified"])
    except (KeyError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def parse_header_lines(text: str) -> dict[str, str]:
    """Return the headers in lines of `NAME: VALUE`; empty lines are left out.

    Raises ValueError with the line's number, and without its value, where one is none.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = _HEADER_LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is not NAME: VALUE, in printable ASCII")
        name = found[1].lower()
        if name in _OURS:
            raise ValueError(f"line {number}: {found[1]} is set by each request itself; take it out")
        if name in {known.lower() for known in headers}:
            raise ValueError(f"line {number}: {found[1]} is there twice")
        headers[found[1]] = found[2]
    return headers
