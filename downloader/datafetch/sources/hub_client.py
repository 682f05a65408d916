"""The HTTP client of huggingface_hub, which is one for the whole process: taught whose certificates to trust.

A source with certificates of its own trusts them for its endpoint alone; what the SDK asks of other hosts goes on as
before. Touches the SDK's client only where a source asks for that.
"""

import os
import ssl
import threading
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import hf_request_event_hook  # what the SDK's own client has; it obeys HF_HUB_OFFLINE

from datafetch.transport.pool import proxy_for

_lock = threading.Lock()
_trusted: dict[str, ssl.SSLContext] = {}
"""By scheme and authority."""


def trust(endpoint: str, context: ssl.SSLContext) -> None:
    """Let the SDK use these TLS settings for an endpoint from now on."""
    parts = urlsplit(endpoint)
    if parts.scheme != "https":
        return
    with _lock:
        _trusted[f"https://{parts.netloc}"] = context
        set_client_factory(_make_client)


def _make_client() -> httpx2.Client:
    return httpx2.Client(
        event_hooks={"request": [hf_request_event_hook]},
        follow_redirects=True,
        timeout=None,
        mounts={origin: _make_transport(origin, context) for origin, context in _trusted.items()},
    )


def _make_transport(origin: str, context: ssl.SSLContext) -> httpx2.HTTPTransport:
    """Return the way to one host. A mount of its own is not taken through the environment's proxy by the client."""
    parts = urlsplit(origin)
    found = proxy_for("https", parts.hostname or "", parts.port or 443, os.environ)
    proxy = None if found is None else httpx2.Proxy(f"http://{found.host}:{found.port}", headers=dict(found.headers))
    return httpx2.HTTPTransport(verify=context, proxy=proxy)
