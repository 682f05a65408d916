"""Who gives out tokens for Azure: Entra ID for a workload's identity, and the metadata service of a machine's.

Requests are checked as Microsoft documents them: the client credentials flow with a federated credential
(https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow), and the managed identities'
endpoint (https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token). The tokens
are JSON Web Tokens that azurite takes: it checks their claims.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from urllib.parse import parse_qs

from servers.serving import Request, Response, Server

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
_RESOURCE = "https://storage.azure.com"


class Entra(Server):
    """Knows one tenant and one client; speaks TLS, as the SDK demands it."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.assertion = "eyJ.token-of-the-service-account"
        """The federated token that is accepted."""
        self.client_secret = "secret-of-the-service-principal"
        self.has_identity = True
        """Whether the machine has a managed identity."""
        self.lifetime = 3600
        self.given = 0
        super().__init__(self._page, certificate=certificate)

    def _page(self, request: Request) -> Response:
        path = request.exchange.path
        if path == f"/{TENANT}/oauth2/v2.0/token":
            return self._client_credentials(request)
        if path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            base = f"{self.url}/{TENANT}"
            ends = {"authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/oauth2/v2.0/token"}
            return _json({**ends, "issuer": f"{base}/v2.0"})
        if path == "/metadata/identity/oauth2/token":
            return self._machine(request)
        return _json({"error": "not_found"}, 404)

    def _client_credentials(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs(b"".join(request.body).decode()).items()}
        if form.get("client_id") != CLIENT or form.get("scope", "").split()[0] != f"{_RESOURCE}/.default":
            return _json({"error": "invalid_request", "error_description": "AADSTS900144: something is missing."}, 400)
        bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        federated = form.get("client_assertion_type") == bearer and form.get("client_assertion") == self.assertion
        if not federated and form.get("client_secret") != self.client_secret:
            said = "AADSTS70021: No matching federated identity record found for presented assertion."
            return _json({"error": "invalid_client", "error_description": said}, 401)
        return self._give()

    def _machine(self, request: Request) -> Response:
        query = request.exchange.query
        if request.header("metadata") != "true" or query.get("resource") != _RESOURCE or not query.get("api-version"):
            return _json(
                {"error": "bad_request_102", "error_description": "Required metadata header not specified"}, 400
            )
        if not self.has_identity or query.get("client_id") not in (None, CLIENT):
            return _json({"error": "invalid_request", "error_description": "Identity not found"}, 400)
        return self._give()

    def _give(self) -> Response:
        self.given += 1
        now = int(time.time())
        claims = {
            "aud": _RESOURCE,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + self.lifetime,
            "jti": str(self.given),
        }
        token = ".".join(map(_segment, ({"typ": "JWT", "alg": "RS256"}, claims, "signature")))
        return _json(
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": self.lifetime,
                "expires_on": str(now + self.lifetime),
                "resource": _RESOURCE,
            }
        )


def _segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _json(value: object, status: int = 200) -> Response:
    body = json.dumps(value).encode()
    return Response(status, (("Content-Type", "application/json"),), body, len(body))
