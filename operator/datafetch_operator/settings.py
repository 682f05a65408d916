"""The operator's settings: environment variables with the prefix DATAFETCH_, read once at the start.

Each is documented in `docs/operator.md`. Nothing else in the package reads the environment.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast, get_args

from datafetch_api.quantities import parse_bytes
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
_MOST_ACTIVE = 100_000
_MOST_DAYS = 3650
_MOST_PORT = 65535
_CPU = re.compile(r"([0-9]+(?:\.[0-9]{1,3})?)(m?)")
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"


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
class Webhook:
    """Where the webhook serves, and with what certificate."""

    host: str = "0.0.0.0"  # noqa: S104 - the API server comes from outside the pod
    port: int = 9443
    certificates: Path = Path("/etc/datafetch/webhook")
    """Directory of `tls.crt` and `tls.key`, which are read again when they change."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Which certificates the operator makes for the webhook, and where it keeps them."""

    configuration: str
    """Name of the MutatingWebhookConfiguration whose caBundle is kept current."""
    namespace: str
    """The operator's own namespace, where the Secrets and the Service are."""
    service: str
    ca_secret: str
    tls_secret: str
    ca_days: int = 365
    certificate_days: int = 90


@dataclass(frozen=True, slots=True)
class Election:
    """The Lease by which one of several replicas reconciles."""

    namespace: str
    """The operator's own."""
    lease: str
    """Name of the Lease."""
    pod: str
    """Name of this replica."""


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
    webhook: Webhook = Webhook()
    certificates: Certificates | None = None
    """None: the operator keeps none, because injection is off or somebody else (cert-manager) does."""
    election: Election | None = None
    """None: this is the only replica."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty means all."""
    most_active: int | None = None
    """Most downloads under way at a time; None is no limit."""
    most_active_per_host: int | None = None
    """Most downloads under way from one host."""
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
        injection=_read_injection(reader),
        webhook=_read_webhook(reader),
        certificates=_read_certificates(reader),
        election=_read_election(reader, environ.get("HOSTNAME", "")),
        watch_namespaces=reader.names("WATCH_NAMESPACES"),
        most_active=reader.limit("MAX_ACTIVE", _MOST_ACTIVE),
        most_active_per_host=reader.limit("MAX_ACTIVE_PER_HOST", _MOST_ACTIVE),
        workers=reader.number("WORKERS", 8, _MOST_WORKERS),
        resync_seconds=reader.number("RESYNC_SECONDS", 300, _MOST_SECONDS),
        health_host=host,
        health_port=port,
        log_level=cast("LogLevel", reader.choice("LOG_LEVEL", LogLevel, "info")),
        log_format=cast("LogFormat", reader.choice("LOG_FORMAT", LogFormat, "json")),
    )


def _read_injection(reader: "_Reader") -> Injection:
    resources = reader.resources("INJECTION_RESOURCES", INJECTED_RESOURCES)
    most = reader.amounts("INJECTION_MOST_RESOURCES", {"cpu": "4", "memory": "8Gi"})
    for kind, amounts in resources.items():
        for name, amount in amounts.items():
            if name in most and _amount(name, amount) > _amount(name, most[name]):
                raise SettingsError(
                    f"{PREFIX}INJECTION_RESOURCES: {kind}.{name} is {amount}, more than {most[name]} of "
                    f"{PREFIX}INJECTION_MOST_RESOURCES; make it less, or that more"
                )
    size, most_size = reader.size("INJECTION_SIZE", "10Gi"), reader.size("INJECTION_MOST_SIZE", "") or None
    if most_size is not None and parse_bytes(size) > parse_bytes(most_size):
        raise SettingsError(
            f"{PREFIX}INJECTION_SIZE is {size}, more than {most_size} of {PREFIX}INJECTION_MOST_SIZE; "
            "make it less, or that more"
        )
    gates = reader.choice("GATES", Literal["true", "false"], "true") == "true"
    return Injection(resources=resources, most_resources=most, size=size, most_size=most_size, gates=gates)


def _read_webhook(reader: "_Reader") -> Webhook:
    host, port = reader.address("WEBHOOK_ADDRESS", "0.0.0.0:9443")
    return Webhook(host, port, Path(reader.text("WEBHOOK_CERTIFICATES", "/etc/datafetch/webhook")))


def _read_certificates(reader: "_Reader") -> Certificates | None:
    if not reader.text("WEBHOOK_CONFIGURATION", ""):
        return None
    certificates = Certificates(
        configuration=reader.object_name("WEBHOOK_CONFIGURATION", _SUBDOMAIN),
        namespace=reader.object_name("NAMESPACE", _LABEL),
        service=reader.object_name("WEBHOOK_SERVICE", _LABEL),
        ca_secret=reader.object_name("WEBHOOK_CA_SECRET", _SUBDOMAIN),
        tls_secret=reader.object_name("WEBHOOK_TLS_SECRET", _SUBDOMAIN),
        ca_days=reader.number("CA_DAYS", 365, _MOST_DAYS),
        certificate_days=reader.number("CERTIFICATE_DAYS", 90, _MOST_DAYS),
    )
    if certificates.ca_secret == certificates.tls_secret:
        raise SettingsError(
            f"{PREFIX}WEBHOOK_CA_SECRET and {PREFIX}WEBHOOK_TLS_SECRET are both {certificates.ca_secret!r}; the "
            "webhook mounts the latter and must not see the CA's key, so name two Secrets"
        )
    if certificates.certificate_days > certificates.ca_days:
        raise SettingsError(
            f"{PREFIX}CERTIFICATE_DAYS is {certificates.certificate_days}, more than {certificates.ca_days} of "
            f"{PREFIX}CA_DAYS; no certificate outlives its CA"
        )
    return certificates


def _read_election(reader: "_Reader", hostname: str) -> Election | None:
    if not reader.text("LEASE", ""):
        return None
    return Election(
        namespace=reader.object_name("NAMESPACE", _LABEL, "no Lease can be held for LEASE"),
        lease=reader.object_name("LEASE", _SUBDOMAIN),
        pod=hostname or "datafetch-operator",
    )


def _amount(name: str, quantity: str) -> Fraction:
    """Return cores or bytes, or units of an extended resource. Raises ValueError."""
    if name != "cpu":
        return Fraction(parse_bytes(quantity))
    match = _CPU.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not an amount of CPU; write it like 500m or 2")
    return Fraction(match[1]) / (1000 if match[2] else 1)


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

    def limit(self, name: str, most: int) -> int | None:
        """Return a limit; None where there is none: it is not set, or 0."""
        value = self.text(name, "0")
        if not value.isdecimal() or int(value) > most:
            raise SettingsError(
                f"{PREFIX}{name} is {value!r}; it must be a whole number from 0 to {most}, where 0 is no limit"
            )
        return int(value) or None

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

    def resources(self, name: str, default: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
        """Return requests and limits, each amount checked and as text."""
        value = self.mapping(name, default)
        if unknown := sorted(value.keys() - {"requests", "limits"}):
            raise SettingsError(f"{PREFIX}{name} has {unknown[0]!r}; it may have requests and limits")
        found = {kind: self._checked(name, f"{kind}.", amounts) for kind, amounts in value.items()}
        limits = found.get("limits", {})
        for resource, request in found.get("requests", {}).items():
            if resource in limits and _amount(resource, request) > _amount(resource, limits[resource]):
                raise SettingsError(
                    f"{PREFIX}{name}: requests.{resource} is {request}, more than {limits[resource]} of its limit"
                )
        return found

    def amounts(self, name: str, default: Mapping[str, Any]) -> Mapping[str, str]:
        """Return amounts of `cpu` and `memory`; what is left out has none."""
        value = self.mapping(name, default)
        if unknown := sorted(value.keys() - {"cpu", "memory"}):
            raise SettingsError(f"{PREFIX}{name} has {unknown[0]!r}; it may have cpu and memory")
        return self._checked(name, "", value)

    def size(self, name: str, default: str) -> str:
        """Return a size such as 10Gi; an empty default may stay."""
        value = self.text(name, default)
        if value:
            self._check(f"{PREFIX}{name}", "memory", value)
        return value

    def object_name(
        self, name: str, pattern: str, without: str = "no certificates can be kept for WEBHOOK_CONFIGURATION"
    ) -> str:
        """Return the name of an object; `without` says what cannot be done without it, and ends with a setting."""
        value = self.text(name, "")
        if not value:
            what, _, setting = without.rpartition(" ")
            raise SettingsError(f"{PREFIX}{name} is not set; without it {what} {PREFIX}{setting}")
        if re.fullmatch(pattern, value) is None:
            raise SettingsError(
                f"{PREFIX}{name} is {value!r}, which is no name of an object; write it like datafetch-webhook"
            )
        return value

    def _checked(self, name: str, place: str, amounts: object) -> dict[str, str]:
        if not isinstance(amounts, dict):
            raise SettingsError(
                f'{PREFIX}{name}: {place.rstrip(".")} is not a JSON object; write for example {{"cpu": "1"}}'
            )
        return {
            resource: self._check(f"{PREFIX}{name}: {place}{resource}", resource, amount)
            for resource, amount in amounts.items()
        }

    def _check(self, where: str, resource: str, amount: object) -> str:
        # YAML turns `cpu: 1` into a number; the API server takes both.
        if isinstance(amount, bool) or not isinstance(amount, (int, float, str)):
            raise SettingsError(f"{where} is no quantity; write it like 500m or 2Gi")
        text = str(amount).strip()
        try:
            _amount(resource, text)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from error
        return text

    def address(self, name: str, default: str) -> tuple[str, int]:
        host, _, port = self.text(name, default).rpartition(":")
        if not port.isdecimal() or int(port) > _MOST_PORT:
            raise SettingsError(f"{PREFIX}{name} must be HOST:PORT, for example {default}")
        return host.strip("[]"), int(port)
