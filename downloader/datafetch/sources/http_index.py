"""An index of files at URLs, line by line: as `sha256sum` writes it, or one JSON object a line. Pure.

It comes from outside: what is no such line is an error that names its number. Whether a path may be a path below the
target is the plan's business, whether a URL may be asked for the transport's.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote, urljoin, urlsplit

from datafetch.errors import InvalidConfigError
from datafetch_api.uris import file_name, redact_uri

Format = Literal["auto", "sha256sum", "json-lines"]
LONGEST_LINE = 64 << 10
"""Bytes."""
_SUM = re.compile(r"(?P<escaped>\\)?(?P<sha256>[0-9A-Fa-f]{64}) [ *](?P<name>.+)", re.DOTALL)
_TAGGED = re.compile(r"(?P<escaped>\\)?SHA256 \((?P<name>.+)\) = (?P<sha256>[0-9A-Fa-f]{64})", re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
_IN_A_NAME = "/-._~!$&'()*+,;=:@"
"""What a name may hold and is no more than itself in a URL's path."""


@dataclass(frozen=True, slots=True)
class IndexLine:
    """One file that an index lists."""

    number: int
    url: str
    """Resolved against the index's own."""
    path: str
    """Relative to the index's target; not yet checked for safety."""
    size: int | None = None
    sha256: str | None = None
    """In lower-case hex."""


def read_index(lines: Iterable[bytes], base: str, form: Format) -> Iterator[IndexLine]:
    """Yield the files of an index that was found at the URL `base`; empty lines and comments (`#`) are left out.

    Raises InvalidConfigError with the line's number where it cannot be read.
    """
    place = f"the index {redact_uri(base)}"
    for number, data in enumerate(lines, start=1):
        try:
            text = _decode(data, first=number == 1)
            if not text.strip() or text.startswith("#"):
                continue
            if form == "auto":
                form = "json-lines" if text.lstrip().startswith("{") else "sha256sum"
            parsed = _parse_json(number, text, base) if form == "json-lines" else _parse_sum(number, text, base)
            _refuse_downgrade(parsed, base)
        except ValueError as error:
            raise InvalidConfigError(f"{place}, line {number}: {error}") from None
        yield parsed


def _decode(data: bytes, *, first: bool) -> str:
    if len(data) > LONGEST_LINE:
        raise ValueError(f"it has more than {LONGEST_LINE} bytes")
    try:
        text = data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _parse_sum(number: int, text: str, base: str) -> IndexLine:
    """Parse a line of sha256sum, `*` for binary or `--tag` or not; with a backslash before it, its name is escaped."""
    found = _SUM.fullmatch(text) or _TAGGED.fullmatch(text)
    if found is None:
        raise ValueError(
            "it is no line of sha256sum, 64 hex digits, two spaces and a name; set format where it is another"
        )
    name = _unescape(found["name"]) if found["escaped"] else found["name"]
    sha256 = found["sha256"].lower()
    if _ABSOLUTE.match(name):
        return IndexLine(number, name, _last_segment(name), sha256=sha256)
    # A name, not a URL: what has a meaning in URLs has none in it. A colon in the first segment would be a scheme's.
    name = name.removeprefix("./")
    return IndexLine(number, urljoin(base, f"./{quote(name, safe=_IN_A_NAME)}"), name, sha256=sha256)


def _unescape(name: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPED:
            raise ValueError(f"its name has the escape {match[0]!r}, which sha256sum does not write")
        return _ESCAPED[match[1]]

    return _ESCAPE.sub(plain, name)


def _parse_json(number: int, text: str, base: str) -> IndexLine:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON; write one object a line") from None
    if type(content) is not dict:
        raise ValueError('it is no JSON object; write {"url": ..., "path": ..., "size": ..., "sha256": ...}')
    url, path, sha256 = (_text(content, name) for name in ("url", "path", "sha256"))
    size = content.get("size")
    if url is None:
        raise ValueError("it has no url")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("size is no number of bytes")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 is no SHA-256 in hex, 64 digits")
    try:
        resolved, parts = urljoin(base, url), urlsplit(url)
    except ValueError:
        raise ValueError("url is no URL") from None
    leaves = bool(parts.scheme or parts.netloc) or parts.path.startswith("/")
    path = path or (_last_segment(resolved) if leaves else unquote(parts.path))
    return IndexLine(number, resolved, path.removeprefix("./"), size, sha256.lower() if sha256 else None)


def _text(content: dict[str, Any], name: str) -> str | None:
    value = content.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{name} is no text")
    return value


def _last_segment(url: str) -> str:
    name = file_name(url)
    if not name:
        raise ValueError("its URL names no file; give path")
    return name


def _refuse_downgrade(line: IndexLine, base: str) -> None:
    """Raise ValueError where bytes could come that neither the index's TLS nor a checksum vouches for."""
    scheme = urlsplit(line.url).scheme.lower()
    if scheme not in ("http", "https"):
        raise ValueError("its URL is none of http or https")
    if scheme == "http" and base.startswith("https:") and line.sha256 is None:
        raise ValueError("it leads from https to plain http, without a sha256; give one, or a URL that stays on https")
