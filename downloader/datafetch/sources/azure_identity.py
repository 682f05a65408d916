"""Tokens of Entra ID for Azure Blob: a service principal of the Secret, else whom the environment says that we are.

azure-identity knows the chain (environment, workload identity, managed identity, `az login`) and renews what expires.
Imported only where an account has neither key nor SAS token.
"""

import os
import re
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, ServiceRequestError
from azure.identity import (
    AzureAuthorityHosts,
    ClientSecretCredential,
    DefaultAzureCredential,
    WorkloadIdentityCredential,
)

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import CredentialsRejectedError, DataFetchError, SourceUnavailableError
from datafetch.transport.refusals import reason_of

_SCOPE = "https://storage.azure.com/.default"
_MARGIN_SECONDS = 300.0
"""A token is renewed this long before it expires."""
_SERVICE_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_WORKLOAD_IDENTITY = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE")
_REASON = re.compile(r"((?:AADSTS\d+|Token request error|No identity has been assigned)[^\n]*)")
_LONGEST_REASON = 300


class Identity:
    """Gives tokens for the storage account. Thread-safe. `options` are those of the SDK's pipeline."""

    def __init__(self, files: CredentialFiles, secrets: Secrets, options: dict[str, Any]) -> None:
        self._secrets = secrets
        self._lock = threading.Lock()
        self._token = ("", 0.0)
        self.credential = _credential(files, options)
        """For the SDK's client."""

    def token(self) -> str:
        """Return a token that is valid. Raises CredentialsRejectedError and SourceUnavailableError."""
        token, until = self._token
        if time.time() < until:
            return token
        with self._lock:
            token, until = self._token
            if time.time() >= until:
                try:
                    found = self.credential.get_token(_SCOPE)
                except (AzureError, ValueError) as error:
                    raise self.refused(error) from None
                token = self._secrets.add(found.token)
                self._token = (token, float(found.expires_on) - _MARGIN_SECONDS)
            return token

    def refused(self, error: Exception) -> DataFetchError:
        """Return what it means that there is no token."""
        if isinstance(error, ServiceRequestError):
            return SourceUnavailableError(f"the identity's tokens cannot be reached: {reason_of(error) or error}")
        found = _REASON.search(str(error))
        said = f" ({self._secrets.redact(found[1])[:_LONGEST_REASON].rstrip('.')})" if found else ""
        what = "the identity gets no token" if found else "no Azure credentials found"
        return CredentialsRejectedError(
            f"{what}{said}; name a connection_string_file, account_key_file or sas_token_file, give the pod's service "
            "account a workload identity, or set anonymous: true where the container is public"
        )

    def close(self) -> None:
        """Release connections."""
        close = getattr(self.credential, "close", None)
        if close is not None:
            close()


def _credential(files: CredentialFiles, options: dict[str, Any]) -> TokenCredential:
    options = options | {"disable_instance_discovery": _is_private(os.environ.get("AZURE_AUTHORITY_HOST", ""))}
    tenant, client, secret = (
        files.value(name, None, name, secret=name == "AZURE_CLIENT_SECRET") for name in _SERVICE_PRINCIPAL
    )
    if tenant is not None and client is not None and secret is not None:
        return ClientSecretCredential(tenant, client, secret, **options)
    if all(map(os.environ.get, _WORKLOAD_IDENTITY)):
        # Alone: the chain would go on to ask the machine, and not say why this one failed.
        return WorkloadIdentityCredential(**options)
    return DefaultAzureCredential(
        exclude_shared_token_cache_credential=True,
        exclude_visual_studio_code_credential=True,
        exclude_powershell_credential=True,
        exclude_developer_cli_credential=True,
        exclude_broker_credential=True,
        **options,
    )


def _is_private(authority: str) -> bool:
    """Return whether tokens come from a cloud of one's own, which Microsoft's list of clouds does not have."""
    known = {
        AzureAuthorityHosts.AZURE_PUBLIC_CLOUD,
        AzureAuthorityHosts.AZURE_CHINA,
        AzureAuthorityHosts.AZURE_GOVERNMENT,
    }
    host = urlsplit(authority if "://" in authority else f"https://{authority}").netloc
    return bool(authority) and host not in known
