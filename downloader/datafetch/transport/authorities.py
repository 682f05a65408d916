"""Whom a source trusts: the public authorities, or those that the environment names, and beside them its own.

Our own connections take both files; SDKs take one, which is put together here and goes with its owner.
"""

import contextlib
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping

from datafetch.errors import InvalidConfigError

_CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class Authorities:
    """The certificates that one source trusts. `ca_file` holds its own, in PEM; None where it has none.

    Raises InvalidConfigError where a file cannot be read or holds no certificate.
    """

    def __init__(self, ca_file: str | None, environment: Mapping[str, str] = os.environ) -> None:
        self.ca_file = ca_file
        """For `Transport`."""
        named = ca_bundle(environment)
        self.bundle = named if ca_file is None else self._joined(ca_file, named or _public())
        """For an SDK: one file, or the environment's directory, with everybody; None leaves it to the SDK."""

    def _joined(self, ca_file: str, public: str) -> str:
        own = _read(ca_file)
        if _CERTIFICATE not in own:
            raise InvalidConfigError(f"cannot use the CA certificates in {ca_file!r}: it holds no certificates in PEM")
        handle, path = tempfile.mkstemp(prefix="datafetch-ca-", suffix=".pem")
        weakref.finalize(self, _remove, path)
        with os.fdopen(handle, "wb") as file:
            for part in (*_parts(public), own):
                file.write(part.rstrip() + b"\n")
        return path


def ca_bundle(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the CA certificates that the environment names; each SDK knows only some of these variables."""
    return next((environment[name] for name in _CA_VARIABLES if environment.get(name)), None)


def _public() -> str:
    """Return what SDKs trust of themselves."""
    import certifi

    return certifi.where()


def _parts(path: str) -> Iterator[bytes]:
    """Yield the certificates in a file, or in the files of a directory as OpenSSL's are."""
    if not os.path.isdir(path):
        yield _read(path)
        return
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_file() and _CERTIFICATE in (found := _read(entry.path)):
            yield found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidConfigError(f"cannot use the CA certificates in {path!r}: {error.strerror}") from None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


__all__ = ["Authorities", "ca_bundle"]
