"""How git is run against other people's repositories: with nothing of theirs, the user's or the system's executed.

Reads the credential files of an item and lays them where git and ssh find them, in a private directory: never on a
command line, in a URL or in the environment. Which addresses are allowed, also those of submodules, is decided here;
running git is `git_command`'s business.
"""

import base64
import os
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import InvalidConfigError
from datafetch.transport.authorities import Authorities
from datafetch_api.config import GitItem
from datafetch_api.uris import redact_uri

_SCP = re.compile(r"(?P<user>[A-Za-z0-9_][\w.-]*)@(?P<host>[A-Za-z0-9][\w.-]*):(?P<path>[^\s:][^\s]*)")
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_TOKEN_USER = "x-access-token"  # noqa: S105 - a user's name
"""GitHub's app tokens want this name; GitHub, GitLab and Gitea take any for the others."""
_HOW_TO_WRITE = "write https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH"


@dataclass(frozen=True, slots=True)
class Remote:
    """The address of a repository, checked."""

    url: str
    scheme: str
    host: str
    port: int | None
    user: str
    path: str

    @property
    def origin(self) -> tuple[str, str, int | None]:
        """What has to be the same for credentials to go there."""
        return self.scheme, self.host.lower(), self.port


def parse_remote(url: str) -> Remote:
    """Return a repository's address. Raises InvalidConfigError for what could be an option, a command or a file."""
    scp = _SCP.fullmatch(url) if "://" not in url else None
    if scp is not None:
        return Remote(url, "ssh", scp["host"], None, scp["user"], scp["path"])
    shown = redact_uri(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidConfigError(f"{shown!r} is no git repository; {_HOW_TO_WRITE}") from None
    host, user = parts.hostname or "", parts.username or ""
    is_safe = re.fullmatch(r"[A-Za-z0-9][\w.-]*|[0-9a-f:.]+", host, re.ASCII) and not re.search(r"[\s\x00-\x1f]", url)
    if parts.scheme not in ("http", "https", "ssh") or not is_safe or not parts.path.strip("/"):
        raise InvalidConfigError(f"{shown!r} is no git repository; {_HOW_TO_WRITE}")
    if parts.query or parts.fragment:
        raise InvalidConfigError(f"{shown!r}: take out what begins at '?' or '#'; a token belongs into a file")
    if parts.password is not None or (user and parts.scheme != "ssh"):
        raise InvalidConfigError(
            f"{shown!r} holds a user or password; put them into files (username_file, password_file, token_file)"
        )
    if user and not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", user):
        raise InvalidConfigError(f"{shown!r} has a user that is no name; {_HOW_TO_WRITE}")
    return Remote(url, parts.scheme, host, port, user, parts.path)


def submodule_remote(parent: Remote, url: str, path: str) -> Remote:
    """Return the address of a submodule as .gitmodules names it, relative to its parent's or whole.

    Raises InvalidConfigError for every other way to reach something than the parent's own, or https.
    """
    place = f"submodule {path!r}"
    if url.startswith(("./", "../")):
        joined = posixpath.normpath(posixpath.join("/" + parent.path.strip("/"), url))
        if joined == "/" or url.count("../") > parent.path.strip("/").count("/") + 1:
            raise InvalidConfigError(f"{place} has the address {url!r}, which leads out of {parent.host}")
        head = parent.url[: len(parent.url) - len(parent.path)]
        url = head + (joined if parent.path.startswith("/") else joined.lstrip("/"))
    try:
        remote = parse_remote(url)
    except InvalidConfigError:
        raise InvalidConfigError(
            f"{place} has an address that is not fetched from: {redact_uri(url)!r}; leave submodules out, or have it "
            "changed in .gitmodules to one of https or relative to its parent"
        ) from None
    if remote.scheme not in (parent.scheme, "https"):
        raise InvalidConfigError(
            f"{place} has the address {redact_uri(url)!r}, of {remote.scheme}: from a repository of {parent.scheme} "
            f"only {parent.scheme} and https are followed"
        )
    return remote


class Access:
    """Who asks, and with which settings. Files are read again by `reload`.

    `directory` is private to the source. Raises InvalidConfigError where the credentials cannot be used.
    """

    def __init__(self, item: GitItem, files: CredentialFiles, secrets: Secrets, directory: str) -> None:
        self.remote = parse_remote(item.url)
        self._item = item
        self._files = files
        self._secrets = secrets
        self._directory = directory
        self._authorities = Authorities(files.authorities(item.ca_bundle_file))
        self._store = os.path.join(directory, "credentials")
        self._key = os.path.join(directory, "key")
        self._known_hosts = os.path.join(directory, "known_hosts")
        self._pair: tuple[str, str] | None = None
        self._has_key = False
        self._read()

    @property
    def ca_file(self) -> str | None:
        """Certificates that the item or its Secret names."""
        return self._authorities.ca_file

    @property
    def has_credentials(self) -> bool:
        """Whether there is something to log in with."""
        return self._pair is not None or self._has_key

    def reload(self) -> bool:
        """Read the files again where they have changed; return whether they say something else."""
        if not self._files.has_changed():
            return False
        before = self._state()
        self._read()
        return self._state() != before

    def authorization(self, remote: Remote) -> dict[str, str]:
        """Return the header that says who asks over HTTP; none for another server than the item's own."""
        if self._pair is None or remote.origin != self.remote.origin:
            return {}
        encoded = base64.b64encode(":".join(self._pair).encode()).decode()
        return {"Authorization": f"Basic {self._secrets.add(encoded)}"}

    def environment(self, remote: Remote | None, stall_timeout: float) -> dict[str, str]:
        """Return git's whole environment: nothing of ours is handed on but PATH and proxies.

        Without a remote, nothing is reached over the network.
        """
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": self._directory,
            "XDG_CONFIG_HOME": self._directory,
            "TMPDIR": self._directory,
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_LITERAL_PATHSPECS": "1",
            # Where we stand and above it there is no repository with settings.
            "GIT_CEILING_DIRECTORIES": os.path.dirname(os.path.realpath(self._directory)),
        }
        settings = {**_SETTINGS, **(self._remote_settings(remote, stall_timeout) if remote else {})}
        if remote is not None and remote.scheme == "ssh":
            environment |= self._ssh(stall_timeout)
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (name, value) in enumerate(settings.items()):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        return environment

    def _remote_settings(self, remote: Remote, stall_timeout: float) -> dict[str, str]:
        settings = {"remote.origin.url": remote.url, f"protocol.{remote.scheme}.allow": "always"}
        if remote.scheme == "http":
            settings["protocol.https.allow"] = "always"  # a server may redirect to it
        if remote.scheme == "ssh":
            return settings
        settings |= {"http.lowSpeedLimit": "1", "http.lowSpeedTime": str(max(1, int(stall_timeout)))}
        if self._authorities.bundle:
            kind = "http.sslCAPath" if os.path.isdir(self._authorities.bundle) else "http.sslCAInfo"
            settings[kind] = self._authorities.bundle
        if self._pair is not None:
            # Answers only for the item's own server; git asks again after a redirect to another one.
            self._write_store(self._pair)
            settings["credential.helper"] = f"store --file={shlex.quote(self._store)}"
        return settings

    def ssh_command(self, stall_timeout: float) -> list[str]:
        """Return the ssh command: no configuration, one key, and only servers that are known.

        Raises InvalidConfigError where that cannot work.
        """
        if not os.path.exists(self._known_hosts):
            host = self.remote.host
            raise InvalidConfigError(
                f"nothing says which host key {host} has: put the output of `ssh-keyscan {host}`, checked against what "
                "its owner publishes, into a file and name it in known_hosts_file (in a Secret: known_hosts)"
            )
        seconds = max(1, int(stall_timeout))
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self._known_hosts,
            "GlobalKnownHostsFile": os.devnull,
            "UpdateHostKeys": "no",
            "ConnectTimeout": str(seconds),
            "ServerAliveInterval": str(max(1, seconds // 3)),
            "ServerAliveCountMax": "3",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "ControlMaster": "no",
            "ControlPath": "none",
        }
        command = ["ssh", "-F", os.devnull]
        if self._has_key:
            command += ["-i", self._key]
            options["IdentitiesOnly"] = "yes"
        elif "SSH_AUTH_SOCK" not in os.environ:
            raise InvalidConfigError(
                "no ssh key: name ssh_key_file (in a Secret: ssh-privatekey), or give an https:// URL and a token"
            )
        return command + [part for name, value in options.items() for part in ("-o", f"{name}={value}")]

    def _ssh(self, stall_timeout: float) -> dict[str, str]:
        found = {"GIT_SSH_COMMAND": shlex.join(self.ssh_command(stall_timeout)), "GIT_SSH_VARIANT": "ssh"}
        if not self._has_key:
            found["SSH_AUTH_SOCK"] = os.environ["SSH_AUTH_SOCK"]
        return found

    def _read(self) -> None:
        item, files = self._item, self._files
        username = files.value("username_file", item.username_file, "username", secret=False)
        token = files.value("token_file", item.token_file, "token")
        password = files.value("password_file", item.password_file, "password")
        secret = token or password
        if secret is None and username is not None:
            raise InvalidConfigError("username_file: a password or token is missing; give password_file or token_file")
        if secret is not None and "\n" in secret:
            raise InvalidConfigError("token_file or password_file has more than one line; put the value alone into it")
        self._pair = None if secret is None else (username or (_TOKEN_USER if token else "git"), secret)
        key = files.value("ssh_key_file", item.ssh_key_file, "ssh-privatekey")
        self._has_key = key is not None
        if key is not None:
            self._take_key(key)
        known = files.value("known_hosts_file", item.known_hosts_file, "known_hosts", secret=False)
        if known is not None:
            _write(self._known_hosts, known + "\n")

    def _take_key(self, key: str) -> None:
        if "PRIVATE KEY-----" not in key:
            raise InvalidConfigError("ssh_key_file is no private key; name the one without .pub")
        for line in key.splitlines():
            if "-----" not in line:
                self._secrets.add(line.strip())
        # ssh refuses a key that its group may read, as a mounted Secret is.
        _write(self._key, key + "\n")

    def _write_store(self, pair: tuple[str, str]) -> None:
        """Write what `git credential-store` reads; git takes out of it what a server refuses."""
        remote = self.remote
        user, secret = (quote(part, safe="") for part in pair)
        authority = remote.host if ":" not in remote.host else f"[{remote.host}]"
        port = "" if remote.port is None else f":{remote.port}"
        _write(self._store, f"{remote.scheme}://{user}:{secret}@{authority}{port}\n")

    def _state(self) -> tuple[object, ...]:
        return self._pair, _content(self._key), _content(self._known_hosts)


_SETTINGS: Mapping[str, str] = {
    "protocol.allow": "never",
    "protocol.version": "2",
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.askPass": "",
    # Above it, blobs are streamed and held by nobody.
    "core.bigFileThreshold": "1m",
    "credential.interactive": "never",
    "fetch.unpackLimit": "1",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "submodule.recurse": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "http.followRedirects": "initial",
    "advice.detachedHead": "false",
}


def _write(path: str, text: str) -> None:
    """Replace a file that only we may read."""
    unfinished = f"{path}.new"
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(unfinished, path)


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


__all__ = ["Access", "Remote", "parse_remote", "submodule_remote"]
