"""Who asks a lakeFS server, and which one: the `lakefs` package's own chain, with files before it.

The chain: the item's files and Secret (also a whole `.lakectl.yaml` in it), the LAKECTL_ variables, ~/.lakectl.yaml,
and an AWS role where that file or the variables ask for one.
"""

import base64
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import lakefs
import yaml
from lakefs.exceptions import LakeFSException, NoAuthenticationFound

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import InvalidConfigError
from datafetch_api.config import LakeFSItem
from datafetch_api.uris import redact_uri

_API = "/api/v1"
_ENDPOINT = ("LAKECTL_SERVER_ENDPOINT_URL", "endpoint_url", "endpoint")
_ACCESS_KEY = ("LAKECTL_CREDENTIALS_ACCESS_KEY_ID", "access_key_id")
_SECRET_KEY = ("LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY", "secret_access_key")
_TOKEN = ("LAKECTL_CREDENTIALS_SESSION_TOKEN", "token")
_LAKECTL = (".lakectl.yaml", "lakectl.yaml")


@dataclass(frozen=True)
class Server:
    """A client of a server, and what goes with a request to it that the SDK does not send."""

    client: lakefs.Client
    host: str
    api: str

    def authorization(self) -> dict[str, str]:
        """Return the header that says who asks."""
        # Renews the token of an AWS role where it is about to expire.
        config = self.client.sdk_client and self.client.config
        if config.access_token:
            return {"Authorization": f"Bearer {config.access_token}"}
        pair = f"{config.username}:{config.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def connect(item: LakeFSItem, files: CredentialFiles, secrets: Secrets, ca_bundle: str | None) -> Server:
    """Return the server of an item. Asks the network only for the token of an AWS role. Raises InvalidConfigError."""
    known = _from_files(item, files)
    try:
        # With arguments the package asks nobody else; without, it goes its own chain.
        arguments = _arguments(known) if _names_somebody(known) else {}
        client = lakefs.Client(**arguments)  # type: ignore[no-untyped-call]  # the package says no types there
    except NoAuthenticationFound:
        raise InvalidConfigError(
            "no lakeFS credentials: name access_key_id_file and secret_key_file (in a Secret: "
            f"{_ACCESS_KEY[0]} and {_SECRET_KEY[0]}), set those variables, or write ~/.lakectl.yaml"
        ) from None
    except (LakeFSException, ValueError, TypeError, yaml.YAMLError) as error:
        raise InvalidConfigError(f"the lakeFS configuration cannot be used: {secrets.redact(str(error))}") from None
    config = client.config
    host = _host(item.endpoint_url or known.get("host") or config.host)
    config.host = host + _API
    if ca_bundle is not None:
        config.ssl_ca_cert = ca_bundle
    # The SDK's pools are made with its configuration: they have to know whom to trust.
    client = _with_configuration(client)
    for secret in (config.username, config.password, config.access_token):
        if secret and secret != config.username:
            secrets.add(secret)
    secrets.add(base64.b64encode(f"{config.username}:{config.password}".encode()).decode())
    return Server(client, host, host + _API)


def _from_files(item: LakeFSItem, files: CredentialFiles) -> dict[str, str]:
    """Return host, username, password and access_token as far as files say them."""
    found = _from_lakectl(files)
    values = {
        "host": files.value("credentials_dir", None, *_ENDPOINT, secret=False),
        "username": files.value("access_key_id_file", item.access_key_id_file, *_ACCESS_KEY, secret=False),
        "password": files.value("secret_key_file", item.secret_key_file, *_SECRET_KEY),
        "access_token": files.value("credentials_dir", None, *_TOKEN),
    }
    return found | {name: value for name, value in values.items() if value}


def _from_lakectl(files: CredentialFiles) -> dict[str, str]:
    text = files.value("credentials_dir", None, *_LAKECTL, secret=False)
    if text is None:
        return {}
    try:
        content: Any = yaml.safe_load(text)
        server, credentials = content.get("server") or {}, content.get("credentials") or {}
        values = {
            "host": server.get("endpoint_url"),
            "username": credentials.get("access_key_id"),
            "password": credentials.get("secret_access_key"),
        }
    except (yaml.YAMLError, AttributeError):
        raise InvalidConfigError("credentials_dir: .lakectl.yaml is not a configuration as lakectl writes it") from None
    return {name: str(value) for name, value in values.items() if value}


def _names_somebody(known: dict[str, str]) -> bool:
    if bool(known.get("username")) != bool(known.get("password")):
        missing = _SECRET_KEY[0] if known.get("username") else _ACCESS_KEY[0]
        raise InvalidConfigError(f"credentials_dir: {missing} is missing; access key and secret key belong together")
    return "username" in known or "access_token" in known


def _arguments(known: dict[str, str]) -> dict[str, str]:
    if "access_token" in known:
        return {"host": known.get("host", ""), "access_token": known["access_token"]}
    return {"host": known.get("host", ""), "username": known["username"], "password": known["password"]}


def _host(url: str | None) -> str:
    """Return scheme and authority, and a path before the API's where there is one, without a slash at the end."""
    if not url or url.startswith("/") or url == "http://localhost/api/v1":
        raise InvalidConfigError(
            f"no lakeFS server: name its endpoint_url (endpoint; in a Secret or the environment: {_ENDPOINT[0]})"
        )
    text = url if "://" in url else f"https://{url}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise InvalidConfigError(f"{redact_uri(text)!r} is no lakeFS server; write https://HOST")
    return text.rstrip("/").removesuffix(_API).rstrip("/")


def _with_configuration(client: lakefs.Client) -> lakefs.Client:
    from lakefs_sdk.client import LakeFSClient

    made = LakeFSClient(client.config)  # type: ignore[no-untyped-call]  # as above
    client._client = made  # noqa: SLF001 - the package makes it before anybody can name a CA
    return client


__all__ = ["Server", "connect"]
