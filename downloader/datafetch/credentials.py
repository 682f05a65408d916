"""Credentials from files, and the secrets of one source, which stay out of every message.

Reads the files that a config names (`*_file`) and the entries of a mounted Secret (`credentials_dir`), again when they
change: rotation reaches a running download. What a value means is the source's business; how it is hidden is
`redaction`'s.
"""

import os
import threading

from datafetch.errors import InvalidConfigError
from datafetch.redaction import hide, redacted, remember, remember_parts
from datafetch_api.printable import single_line

CA_KEY = "ca.crt"
"""The Secret's key of certificates to trust."""
_SHORTEST_SECRET = 4
"""Shorter values would blot out ordinary words."""
_LARGEST_FILE = 1 << 20
"""Bytes. A credentials file of Google has three thousand."""


class Secrets:
    """The secret values of one source. Thread-safe."""

    def __init__(self) -> None:
        self._values: frozenset[str] = frozenset()
        self._forms: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def add(self, value: str) -> str:
        """Remember a secret in all its forms, here and for everything that this process says; return it."""
        if len(value) < _SHORTEST_SECRET or value in self._values:
            return value
        found = remember(value)
        with self._lock:
            self._values |= {value}
            # Longest first: a secret that holds another one is hidden whole.
            self._forms = tuple(sorted({*self._forms, *found}, key=len, reverse=True))
        return value

    def redact(self, text: str) -> str:
        """Return text from outside as it may stand in a message: secrets hidden, control characters escaped."""
        return single_line(redacted(hide(text, self._forms)))


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

    def authorities(self, ca_bundle_file: str | None) -> str | None:
        """Return the file of certificates that the source trusts: the one that the item names, else the Secret's."""
        if ca_bundle_file is None:
            return self.path(CA_KEY)
        if not os.path.isfile(ca_bundle_file):
            raise InvalidConfigError(f"ca_bundle_file: no such file {ca_bundle_file!r}", source=self._source)
        return ca_bundle_file

    def watch(self, path: str) -> None:
        """Take a file that somebody else reads for one of these: when it changes, they have."""
        self._seen[path] = _version(path)

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
                content = file.read(_LARGEST_FILE + 1)
        except FileNotFoundError:
            raise InvalidConfigError(f"{field}: no such file {path!r}", source=self._source) from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidConfigError(f"{field}: cannot read {path!r}: {reason}", source=self._source) from None
        if len(content) > _LARGEST_FILE:
            raise InvalidConfigError(f"{field}: {path!r} has more than 1 MiB; name the right file", source=self._source)
        value = content.strip("\r\n \t\ufeff")
        if not value:
            raise InvalidConfigError(f"{field}: {path!r} is empty; put the value into it", source=self._source)
        if secret:
            return self._secrets.add(value)
        remember_parts(value)
        return value


def _version(path: str) -> tuple[int, ...] | None:
    """Return what changes when a file is written anew or, as in a mounted Secret, its link is swung to another."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
