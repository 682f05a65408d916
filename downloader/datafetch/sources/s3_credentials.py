"""Whose keys an S3 source signs with: files of the item, a profile of the shared AWS files, else botocore's own chain.

botocore knows the chain (environment, web identity, container endpoint, instance metadata) and renews what expires.
Here is what it lacks: keys and profiles from a mounted Secret, read again when the files change. Connects to nobody.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import botocore.session
from botocore.credentials import CredentialResolver, Credentials, ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError

from datafetch.credentials import CredentialFiles
from datafetch.errors import InvalidConfigError
from datafetch_api.config import S3Item

_ACCESS_KEYS = ("AWS_ACCESS_KEY_ID", "access_key_id")
_SECRET_KEYS = ("AWS_SECRET_ACCESS_KEY", "secret_key", "secret_access_key")
_SESSION_TOKENS = ("AWS_SESSION_TOKEN", "session_token")
_CONFIG_FILE, _CREDENTIALS_FILE = "config", "credentials"
_RECHECK_SECONDS = 5.0
"""How often files are looked at for a change."""


class _Keys(Protocol):
    """What botocore calls credentials."""

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys of this moment."""


class FileKeys:
    """Keys that files hold, in the shape of botocore's credentials; read again when the files change. Thread-safe."""

    method = "datafetch-files"
    account_id = None

    def __init__(self, files: CredentialFiles, load: Callable[[], _Keys]) -> None:
        self._files = files
        self._load = load
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._current = load()

    def refresh(self) -> bool:
        """Read the files again where they have changed; return whether the keys are others now."""
        with self._lock:
            if not self._files.has_changed():
                return False
            before = self._current.get_frozen_credentials()
            self._current = self._load()
            return bool(self._current.get_frozen_credentials() != before)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys of this moment."""
        if time.monotonic() - self._looked > _RECHECK_SECONDS:
            self._looked = time.monotonic()
            self.refresh()
        return self._current.get_frozen_credentials()

    def get_deferred_property(self, name: str) -> Callable[[], str | None]:
        """Return a function that returns one of the keys, as botocore's endpoint rules ask for it."""
        return lambda: getattr(self.get_frozen_credentials(), name)


class _FileProvider:
    """Gives botocore the keys in files in place of its own chain."""

    METHOD = "datafetch-files"
    CANONICAL_NAME = None

    def __init__(self, keys: FileKeys) -> None:
        self._keys = keys

    def load(self) -> FileKeys:
        return self._keys


def open_session(item: S3Item, files: CredentialFiles) -> tuple[Any, FileKeys | None]:
    """Return a session of botocore, and the keys in files that it signs with; None where its own chain is asked.

    Raises InvalidConfigError, and BotoCoreError where a profile is missing.
    """
    session = _session(item, files)
    if item.anonymous:
        return session, None
    keys = _keys_of(item, files)
    if keys is not None:
        session.register_component("credential_provider", CredentialResolver([_FileProvider(keys)]))
    return session, keys


def _keys_of(item: S3Item, files: CredentialFiles) -> FileKeys | None:
    if item.profile is None and _plain_keys(item, files) is not None:
        return FileKeys(files, lambda: _plain_keys(item, files) or _missing())
    if item.profile is None and files.path(_CONFIG_FILE, _CREDENTIALS_FILE) is None:
        return None
    return FileKeys(files, lambda: _session(item, files).get_credentials() or _missing())


def _session(item: S3Item, files: CredentialFiles) -> Any:  # noqa: ANN401 - botocore has no types
    """Return a session that knows the shared files: those of the mounted Secret, else the user's own."""
    shared = {"config_file": files.path(_CONFIG_FILE), "credentials_file": files.path(_CREDENTIALS_FILE)}
    profile = item.profile
    if profile is None and any(shared.values()):
        # Named, so that the environment's keys do not come before the Secret's.
        profile = os.environ.get("AWS_PROFILE", "default")
    session = botocore.session.Session(profile=profile)
    for variable, path in shared.items():
        if any(shared.values()):
            # Where the Secret has only one of the two files, the other is none: not that of somebody's home.
            session.set_config_variable(variable, path or os.devnull)
        elif profile is not None:
            files.watch(os.path.expanduser(session.get_config_variable(variable)))
    return session


def _plain_keys(item: S3Item, files: CredentialFiles) -> Credentials | None:
    access_key = files.value("access_key_id_file", item.access_key_id_file, *_ACCESS_KEYS, secret=False)
    secret_key = files.value("secret_key_file", item.secret_key_file, *_SECRET_KEYS)
    token = files.value("session_token_file", item.session_token_file, *_SESSION_TOKENS)
    if access_key is None and secret_key is None:
        return None
    if access_key is None or secret_key is None:
        missing = _ACCESS_KEYS[0] if access_key is None else _SECRET_KEYS[0]
        raise InvalidConfigError(f"credentials_dir: {missing} is missing beside the other key", source=item.name)
    return Credentials(access_key, secret_key, token)


def _missing() -> Credentials:
    raise NoCredentialsError
