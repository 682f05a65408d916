"""URIs of sources, as people write them, and the provider members that they stand for. Pure."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Match = Literal["object", "prefix", "auto"]
SCHEMES = ("s3", "gs", "az", "hf", "lakefs", "git+https", "http", "https")
_MORE_SCHEMES = ("git+http", "git+ssh")
_REPO_TYPES = {"datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True, slots=True)
class Location:
    """Where a URI points: `container` is the bucket, container, repository or, for git and http, the whole URL."""

    scheme: Literal["s3", "gs", "az", "hf", "lakefs", "git", "http"]
    container: str
    path: str = ""
    """Key or prefix; empty for the root."""
    match: Match = "prefix"
    revision: str = "main"
    """hf, lakefs and git only."""
    repo_type: Literal["model", "dataset", "space"] = "model"
    """hf only."""


def parse_uri(uri: str) -> Location:
    """Return where a URI points.

    Without a trailing slash the path is one object, and if there is none, the prefix (`match: auto`).
    Raises ValueError with a sentence for people.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in (*SCHEMES, *_MORE_SCHEMES):
        raise ValueError(f"{redact_uri(uri)!r} is not a source; write {', '.join(s + '://...' for s in SCHEMES)}")
    if scheme in ("http", "https"):
        return _parse_http(uri)
    if scheme == "hf":
        return _parse_hub(rest, uri)
    if scheme == "lakefs":
        return _parse_lake(rest, uri)
    if scheme.startswith("git+"):
        return _parse_git(uri)
    container, _, path = rest.partition("/")
    if "@" in container:
        raise _holds_credentials(uri)
    if not container:
        raise ValueError(f"{redact_uri(uri)!r} names no bucket; write {scheme}://BUCKET/PREFIX/")
    if scheme == "s3":
        return Location("s3", container, path, _match(path))
    return Location("gs" if scheme == "gs" else "az", container, path, _match(path))


def redact_uri(uri: str) -> str:
    """Return the URI without user-info, query and fragment: those may hold tokens.

    A password with a bare `/`, `?` or `#` ends the authority too early, and its beginning then stands where the port
    should be: an authority with such a port is left out whole.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return re.split(r"[?#]", uri, maxsplit=1)[0]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = re.split(r"[?#]", rest[len(authority) :], maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    if not re.fullmatch(r"[^:]*(:[0-9]*)?|\[[0-9a-fA-F:.]+\](:[0-9]*)?", host):
        return f"{scheme}://..."
    return f"{scheme}://{host}{path}"


def file_name(url: str) -> str:
    """Return the last segment of a URL's path, decoded; empty where it ends at a slash."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _holds_credentials(uri: str) -> ValueError:
    return ValueError(
        f"{redact_uri(uri)!r} holds a user or password; put them into files and name those (credentials_dir)"
    )


def _match(path: str) -> Match:
    return "prefix" if not path or path.endswith("/") else "auto"


def _parse_http(uri: str) -> Location:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port  # a port that is no number raises: it may be half a password
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"{redact_uri(uri)!r} names no host; write https://HOST/FILE")
    if parts.username or parts.password:
        raise _holds_credentials(uri)
    return Location("http", uri, "", "object")


def _parse_lake(rest: str, uri: str) -> Location:
    match = re.fullmatch(r"([a-z0-9][a-z0-9-]{2,62})/([^/@\s]+(?:@[^/@\s]*)?)(?:/(.*))?", rest)
    if match is None:
        raise ValueError(f"{redact_uri(uri)!r} names no repository and ref; write lakefs://REPOSITORY/REF[/PATH]")
    path = match[3] or ""
    return Location("lakefs", match[1], path, _match(path), unquote(match[2]))


def _parse_git(uri: str) -> Location:
    """Return the repository, and after `@` in its path the revision, after `#` the directory or file."""
    address, _, path = uri.removeprefix("git+").partition("#")
    parts = urlsplit(address)
    if not parts.hostname or not parts.path.strip("/"):
        raise ValueError(f"{redact_uri(uri)!r} names no repository; write git+https://HOST/PATH[@REVISION][#DIRECTORY]")
    if parts.password or (parts.username and parts.scheme != "ssh"):
        raise _holds_credentials(uri)
    repository, _, revision = parts.path.partition("@")
    url = f"{parts.scheme}://{parts.netloc}{repository}"
    return Location("git", url, unquote(path), _match(path), unquote(revision) or "HEAD")


def _parse_hub(rest: str, uri: str) -> Location:
    repo_type: Literal["model", "dataset", "space"] = "model"
    head, _, tail = rest.partition("/")
    if head in _REPO_TYPES:
        repo_type = "dataset" if head == "datasets" else "space"
        rest = tail
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@((?:refs/(?:pr|convert)/)?[^/]+))?(?:/(.*))?", rest)
    if match is None:
        raise ValueError(
            f"{redact_uri(uri)!r} names no repository; write hf://[datasets/|spaces/]ORG/NAME[@REVISION][/PATH]"
        )
    path = match[3] or ""
    return Location("hf", match[1], path, _match(path), unquote(match[2] or "main"), repo_type)
