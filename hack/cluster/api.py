"""A small client of the Kubernetes API on one kept connection: what `up` and the provisioner need."""

import base64
import http.client
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import shell

Object = dict[str, Any]
"""A Kubernetes object or list, as JSON has it."""

FIELD_MANAGER = "datafetch-cluster"
_TIMEOUT_SECONDS = 10


class ApiError(Exception):
    """The API server's refusal, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class Api:
    """One connection to an API server, opened again after a failure."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        address = urlsplit(server)
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port or 443, timeout=_TIMEOUT_SECONDS, context=context
        )

    def request(self, method: str, path: str, body: Object | None = None, content: str = "application/json") -> Object:
        """One call. Raises ApiError for a refusal, OSError or HTTPException where there is no answer."""
        payload = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, payload, {"Content-Type": content, "Accept": "application/json"})
            response = self._connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status >= 400:
            raise ApiError(response.status, text.strip())
        return _decoded(text)

    def get(self, path: str) -> Object:
        """Read an object or a list."""
        return self.request("GET", path)

    def apply(self, path: str, body: Object) -> Object:
        """Create or change an object by server-side apply."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"
        return self.request("PATCH", f"{path}{query}", body, "application/apply-patch+yaml")

    def answers(self, path: str) -> bool:
        """Whether this path is served with success now."""
        try:
            self.get(path)
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True


def connect(kubectl: Path, kubeconfig: Path) -> Api:
    """Connect as the client of a kubeconfig with client certificates inside (ours and kind's are)."""
    view = shell.run(kubectl, "config", "view", "--kubeconfig", kubeconfig, "--raw", "--minify", "-o", "json")
    config = json.loads(view)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=_plain(cluster["certificate-authority-data"]))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as client:
        # The ssl module reads a client's certificate and key from a file only.
        client.write(_plain(user["client-certificate-data"]) + _plain(user["client-key-data"]))
        client.flush()
        context.load_cert_chain(client.name)
    return Api(cluster["server"], context)


def _plain(encoded: str) -> str:
    return base64.b64decode(encoded).decode()


def _decoded(text: str) -> Object:
    return dict(json.loads(text)) if text.startswith("{") else {"text": text}
