"""Signature Version 4 for requests of S3 that have no body: what botocore's S3SigV4Auth makes, at a tenth of its time.

Knows no provider's SDK and does no I/O. Where the keys come from, and which headers a request has, is `s3`'s business.
The rules: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

_NOTHING = hashlib.sha256(b"").hexdigest()
"""Stands for the body that a GET has not."""

Headers = tuple[tuple[str, str], ...]
"""Names and values."""


class Keys(Protocol):
    """The keys of one moment: botocore's frozen credentials are such."""

    @property
    def access_key(self) -> str:
        """Names the secret key."""

    @property
    def secret_key(self) -> str:
        """Signs; never sent."""

    @property
    def token(self) -> str | None:
        """The session token of temporary keys."""


class _Shared(NamedTuple):
    """What all signatures of one second have in common, but for method, path and query."""

    second: int
    keys: Keys
    headers: Mapping[str, str]
    """Those that are added."""
    canonical: str
    """The canonical request from its headers on."""
    string_to_sign: str
    """Up to the digest of the canonical request."""
    signing_key: bytes
    authorization: str
    """The header up to the signature."""


class Signer:
    """Signs for one region and service. Thread-safe. `clock` returns seconds since the epoch."""

    def __init__(self, region: str, service: str, *, clock: Callable[[], float] = time.time) -> None:
        self._region = region
        self._service = service
        self._clock = clock
        self._shared: dict[tuple[str, Headers], _Shared] = {}
        """By host and headers; each is made anew once a second."""
        self._key: tuple[str, str, bytes] = ("", "", b"")
        """Scope, secret key, and the signing key made of them."""

    def sign(
        self, keys: Keys, host: str, path: str, query: str = "", headers: Headers = (), *, method: str = "GET"
    ) -> dict[str, str]:
        """Return the headers that sign a request; `headers` are those of the request that are to be signed as well.

        `host` is the Host header's value, `path` and `query` are percent-encoded as they go over the wire; the names in
        `headers` are in lower case and differ from those that are added here.
        """
        second = int(self._clock())
        shared = self._shared.get((host, headers))
        if shared is None or shared.second != second or shared.keys != keys:
            shared = self._shared[host, headers] = self._share(second, keys, host, headers)
        if "&" in query:
            query = "&".join(sorted(query.split("&"), key=_name_and_value))
        request = f"{method}\n{path}\n{query}\n{shared.canonical}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = shared.string_to_sign + digest
        signature = hmac.digest(shared.signing_key, text.encode(), "sha256").hex()
        return {**shared.headers, "Authorization": shared.authorization + signature}

    def _share(self, second: int, keys: Keys, host: str, headers: Headers) -> _Shared:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        added = {"x-amz-content-sha256": _NOTHING, "x-amz-date": stamp}
        if keys.token:
            added["x-amz-security-token"] = keys.token
        signed = {**dict(headers), **added, "host": host}
        names = sorted(signed)
        joined = ";".join(names)
        # More than one space counts as one.
        lines = "\n".join(f"{name}:{' '.join(signed[name].split())}" for name in names)
        return _Shared(
            second=second,
            keys=keys,
            headers=added,
            canonical=f"{lines}\n\n{joined}\n{_NOTHING}",
            string_to_sign=f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n",
            signing_key=self._signing_key(keys.secret_key, scope),
            authorization=f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={joined}, Signature=",
        )

    def _signing_key(self, secret_key: str, scope: str) -> bytes:
        known_scope, known_secret, key = self._key
        if (known_scope, known_secret) != (scope, secret_key):
            key = f"AWS4{secret_key}".encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (scope, secret_key, key)
        return key


def _name_and_value(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return name, value
