"""Credentials from files, and the register of secrets that keeps them out of every message.

Reads the files that a config names (`*_file`) and the entries of a mounted Secret (`credentials_dir`), again when they
change: rotation reaches a running download. What a value means is the source's business.
"""

import os
import re
import threading
from urllib.parse import quote

from datafetch.errors import InvalidConfigError
from datafetch_api.uris import redact_uri

HIDDEN = "***"
_SHORTEST_SECRET = 4
"""Shorter values would blot out ordinary words."""
_URL = re.compile(r"https?://[^\s\"'<>]+")
_PARAMETER = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|"
    r"awsaccesskeyid|googleaccessid|accountkey|sharedaccesssignature|access_token|token|password)=[^&\s;\"'<>]+"
)
_AUTHORIZATION = re.compile(r"(?i)\b(authorization\s*[:=]\s*|bearer\s+|basic\s+|sharedkey\s+)(?!\w+ )[^\s,;\"'<>]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Secrets:
    """The secret values of one source. Thread-safe."""

    def __init__(self) -> None:
        self._values: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def add(self, value: str) -> str:
        """Remember a secret, as it is and as it stands in a URL; return it."""
        if len(value) < _SHORTEST_SECRET or value in self._values:
            return value
        with self._lock:
            # Longest first: a secret that holds another one is hidden whole.
            forms = {*self._values, value, quote(value, safe="")}
            self._values = tuple(sorted(forms, key=len, reverse=True))
        return value

    def redact(self, text: str) -> str:
        """Return text from outside as it may stand in a message: secrets hidden, control characters escaped."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        text = _URL.sub(lambda url: redact_uri(url[0]), text)
        text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
        text = _AUTHORIZATION.sub(rf"\1{HIDDEN}", text)
        return escape_control_characters(text)


def escape_control_characters(text: str) -> str:
    """Return the text with control characters and line separators as escapes: one line, whatever a server sent."""
    return _CONTROL.sub(lambda character: ascii(character[0])[1:-1], text)


class CredentialFiles:
    """The credentials of one download item that stand in files.

    `directory` is its `credentials_dir`. Raises InvalidConfigError where that is no directory.
    """

    def __init__(self, source: str, directory: str | None, secrets: Secrets) -> None:
        self._source = source
        self._directory = directory
        self._secrets = secrets
        self._seen: dict[str, tuple[int, ...] | None] = {}
        if directory is not None and not os.path.isdir(directory):
            raise InvalidConfigError(f"credentials_dir: no such directory {directory!r}", source=source)

    def value(self, field: str, path: str | None, *keys: str, secret: bool = True) -> str | None:
        """Return the value of the file that config field `field` names, else of the first of `keys` in the directory.

        Raises InvalidConfigError where the named file cannot be read or is empty.
        """
        if path is not None:
            return self._read(field, path, secret=secret)
        found = self.path(*keys)
        return (
            None if found is None else self._read(f"credentials_dir: {os.path.basename(found)}", found, secret=secret)
        )

    def path(self, *keys: str) -> str | None:
        """Return the path of the first of `keys` that the directory holds."""
        if self._directory is None:
            return None
        for key in keys:
            path = os.path.join(self._directory, key)
            # A key that comes later counts as a change too.
            self._seen.setdefault(path, _version(path))
            if self._seen[path] is not None:
                return path
        return None

    def has_changed(self) -> bool:
        """Return whether a file is another one than when it was read; then reading starts afresh."""
        changed = any(_version(path) != version for path, version in self._seen.items())
        if changed:
            self._seen.clear()
        return changed

    def _read(self, field: str, path: str, *, secret: bool) -> str:
        self._seen[path] = _version(path)
        try:
            with open(path, encoding="utf-8") as file:
                value = file.read().strip("\r\n \t\ufeff")
        except FileNotFoundError:
            raise InvalidConfigError(f"{field}: no such file {path!r}", source=self._source) from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidConfigError(f"{field}: cannot read {path!r}: {reason}", source=self._source) from None
        if not value:
            raise InvalidConfigError(f"{field}: {path!r} is empty; put the value into it", source=self._source)
        return self._secrets.add(value) if secret else value


def _version(path: str) -> tuple[int, ...] | None:
    """Return what changes when a file is written anew or, as in a mounted Secret, its link is swung to another."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
