"""The operator's settings: environment variables with the prefix DATAFETCH_, read once at the start.

Each is documented in `docs/operator.md`. Nothing else in the package reads the environment.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from datafetch_operator.errors import SettingsError

PREFIX = "DATAFETCH_"
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]

RESTRICTED_POD: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context of download pods unless the chart or the resource says otherwise."""
DEFAULT_RESOURCES: dict[str, Any] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}
INJECTED_RESOURCES: dict[str, Any] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}
"""Requests and limits of the containers that are put into users' pods."""
_MOST_SECONDS = 86_400
_MOST_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Injection:
    """What an installation decides about pods that ask for data by annotation."""

    resources: Mapping[str, Any] = field(default_factory=lambda: dict(INJECTED_RESOURCES))
    """Requests and limits of our containers where the pod asks for none."""
    most_resources: Mapping[str, str] = field(default_factory=lambda: {"cpu": "4", "memory": "8Gi"})
    """Most `cpu` and `memory` that a pod may ask for them."""
    size: str = "10Gi"
    """sizeLimit of the emptyDir that data is downloaded into, where the pod asks for none."""
    most_size: str | None = None
    """Most that a pod may ask for; None: no limit."""
    gates: bool = True
    """Whether pods may wait by a scheduling gate; the operator needs the right to patch pods for that."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an installation decides."""

    downloader_image: str
    """Image of the download pods."""
    downloader_pull_policy: PullPolicy = "IfNotPresent"
    downloader_pull_secrets: tuple[str, ...] = ()
    """Secrets for pulling that image; they have to exist in the namespaces of the fetches."""
    downloader_resources: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_RESOURCES))
    """Requests and limits of the download container where the resource gives none."""
    pod_security_context: Mapping[str, Any] = field(default_factory=lambda: dict(RESTRICTED_POD))
    injection: Injection = Injection()
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty means all."""
    workers: int = 8
    """Reconciles at a time."""
    resync_seconds: int = 300
    """Every key is reconciled at least this often, whatever events were lost."""
    health_host: str = "0.0.0.0"  # noqa: S104 - the kubelet's probes and Prometheus come from outside the pod
    health_port: int = 8080
    log_level: LogLevel = "info"
    log_format: LogFormat = "json"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings that the environment holds.

    Raises SettingsError with a sentence that names the variable.
    """
    image = environ.get(f"{PREFIX}DOWNLOADER_IMAGE", "").strip()
    if not image:
        raise SettingsError(f"{PREFIX}DOWNLOADER_IMAGE is not set; it names the image of the download pods")
    reader = _Reader(environ)
    host, port = reader.address("HEALTH_ADDRESS", "0.0.0.0:8080")
    return Settings(
        downloader_image=image,
        downloader_pull_policy=cast("PullPolicy", reader.choice("DOWNLOADER_PULL_POLICY", PullPolicy, "IfNotPresent")),
        downloader_pull_secrets=reader.names("DOWNLOADER_PULL_SECRETS"),
        downloader_resources=reader.mapping("DOWNLOADER_RESOURCES", DEFAULT_RESOURCES),
        pod_security_context=reader.mapping("POD_SECURITY_CONTEXT", RESTRICTED_POD),
        watch_namespaces=reader.names("WATCH_NAMESPACES"),
        workers=reader.number("WORKERS", 8, _MOST_WORKERS),
        resync_seconds=reader.number("RESYNC_SECONDS", 300, _MOST_SECONDS),
        health_host=host,
        health_port=port,
        log_level=cast("LogLevel", reader.choice("LOG_LEVEL", LogLevel, "info")),
        log_format=cast("LogFormat", reader.choice("LOG_FORMAT", LogFormat, "json")),
    )


class _Reader:
    """Reads one kind of value each; a variable that is empty counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        return self._environ.get(PREFIX + name, "").strip() or default

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.text(name, "").split(",") if part.strip())

    def choice(self, name: str, choices: object, default: str) -> str:
        value = self.text(name, default)
        if value not in get_args(choices):
            raise SettingsError(f"{PREFIX}{name} is {value!r}; it must be one of {', '.join(get_args(choices))}")
        return value

    def number(self, name: str, default: int, most: int) -> int:
        value = self.text(name, str(default))
        if not value.isdecimal() or not 1 <= int(value) <= most:
            raise SettingsError(f"{PREFIX}{name} is {value!r}; it must be a whole number from 1 to {most}")
        return int(value)

    def mapping(self, name: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
        text = self.text(name, "")
        if not text:
            return default
        try:
            value = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"{PREFIX}{name} is not JSON ({error}); write an object such as {{}}") from error
        if not isinstance(value, dict):
            raise SettingsError(f"{PREFIX}{name} is not a JSON object; write for example {{}}")
        return value

    def address(self, name: str, default: str) -> tuple[str, int]:
        host, _, port = self.text(name, default).rpartition(":")
        if not port.isdecimal():
            raise SettingsError(f"{PREFIX}{name} must be HOST:PORT, for example {default}")
        return host.strip("[]"), int(port)
