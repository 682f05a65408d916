"""Keeps the webhook's certificates current, in the operator's role: read, `certificates.decide`, write.

It touches two Secrets of the operator's own namespace and the caBundle of one MutatingWebhookConfiguration, each
against the resourceVersion that was read, and nothing else. It may be killed after any write, and two may run at a
time. What it can't do it says once; it never ends the operator, which serves DataFetch resources without it. No key is
ever logged.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import aiohttp

from datafetch_operator.certificates import (
    AwaitSettling,
    Issue,
    MakeAuthority,
    Policy,
    Seen,
    Trust,
    decide,
    fingerprint_of,
    issue,
    make_authority,
    read_bundle,
    service_names,
)
from datafetch_operator.errors import ConflictError, OperatorError, RefusedError
from datafetch_operator.render.labels import FIELD_MANAGER, MANAGED_BY_LABEL
from datafetch_operator.settings import Certificates

SETTLE_SECONDS = 30.0
"""Every API server has seen a webhook configuration that long after it was written; they watch it."""
LOOK_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 2.0
_MOST_PAUSE_SECONDS = 300.0
_MOST_STEPS = 8
"""In one look. Four make everything anew; more means that somebody else writes too."""

_NOT_INSTALLED = (
    "MutatingWebhookConfiguration {0.configuration} is not there, or has no webhook of Service "
    "{0.namespace}/{0.service}; they are made once it is"
)

Json = dict[str, Any]
logger = logging.getLogger(__name__)


class Store(Protocol):
    """Where the certificates are: `Cluster`."""

    async def read_secret(self, namespace: str, name: str) -> Json | None:
        """Return the Secret; None where there is none."""

    async def write_secret(self, manifest: Json) -> None:
        """Create it, or replace the one of that resourceVersion. Raises ConflictError."""

    async def read_webhook_configuration(self, name: str) -> Json | None:
        """Return the MutatingWebhookConfiguration; None where there is none."""

    async def patch_webhook_configuration(self, name: str, operations: list[Json]) -> None:
        """Apply a JSON patch."""


class Settling:
    """Since when certificates have been in the bundle, as far as this process has seen.

    After a restart it has seen nothing, and everything settles once more: that costs seconds and risks nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[bytes, float] = {}

    def observe(self, fingerprints: Iterable[bytes], clock: float) -> frozenset[bytes]:
        """Note what is in the bundle at this time of a monotonic clock; return what has been there for long enough."""
        self._since = {each: self._since.get(each, clock) for each in fingerprints}
        return frozenset(each for each in self._since if self.remaining(each, clock) == 0)

    def remaining(self, fingerprint: bytes, clock: float) -> float:
        """Return for how many seconds this one still has to be waited for."""
        return max(0.0, self._since.get(fingerprint, clock) + self._seconds - clock)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read, as it was read."""

    ca: Json | None
    tls: Json | None
    configuration: Json
    entries: tuple[int, ...]
    """Places of the webhooks that are served by our Service."""
    bundles: tuple[bytes, ...]


class CertificateKeeper:
    """Looks once a minute, sooner while something settles."""

    def __init__(
        self,
        store: Store,
        settings: Certificates,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._settings = settings
        self._policy = Policy(
            names=service_names(settings.service, settings.namespace),
            ca_lifetime=timedelta(days=settings.ca_days),
            lifetime=timedelta(days=settings.certificate_days),
        )
        self._settling = Settling(settle_seconds)
        self._clock = clock
        self._now = now
        self._failures = 0
        self._said = ""

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            pause = await self.look()
            await asyncio.sleep(pause)

    async def look(self) -> float:
        """Do what there is to be done, and return the seconds until the next look. Raises nothing."""
        try:
            pause = await self._take_steps()
        except ConflictError:
            return _FIRST_PAUSE_SECONDS  # Somebody else wrote first: what is to be done now follows from that.
        except RefusedError as error:
            return self._fail(str(error), _MOST_PAUSE_SECONDS)
        except (OperatorError, aiohttp.ClientError, TimeoutError) as error:
            return self._fail(str(error) or type(error).__name__, LOOK_SECONDS)
        except Exception:
            logger.exception("certificates of the webhook: a defect")
            return LOOK_SECONDS
        if pause is None:
            return self._fail(_NOT_INSTALLED.format(self._settings), _MOST_PAUSE_SECONDS, logging.INFO)
        self._failures, self._said = 0, ""
        return pause

    async def _take_steps(self) -> float | None:
        """Take one step after the other; None where there is no webhook to keep certificates for."""
        for _ in range(_MOST_STEPS):
            found = await self._read()
            if found is None:
                return None
            seen = self._see(found)
            step = decide(seen, self._policy, self._now())
            match step:
                case None:
                    return LOOK_SECONDS
                case AwaitSettling():
                    return self._settling.remaining(step.fingerprint, self._clock())
                case MakeAuthority():
                    await self._make_authority(step, found)
                case Trust():
                    await self._trust(step, found)
                case Issue():
                    await self._issue(step, seen, found)
        return LOOK_SECONDS

    async def _read(self) -> _Found | None:
        settings = self._settings
        configuration = await self._store.read_webhook_configuration(settings.configuration)
        entries = _entries(configuration or {}, settings)
        if configuration is None or not entries:
            return None
        clients = [configuration["webhooks"][each]["clientConfig"] for each in entries]
        return _Found(
            ca=await self._store.read_secret(settings.namespace, settings.ca_secret),
            tls=await self._store.read_secret(settings.namespace, settings.tls_secret),
            configuration=configuration,
            entries=entries,
            bundles=tuple(base64.b64decode(client.get("caBundle") or "") for client in clients),
        )

    def _see(self, found: _Found) -> Seen:
        in_each = [{fingerprint_of(each) for each in read_bundle(bundle)} for bundle in found.bundles]
        settled = self._settling.observe(set.intersection(*in_each), self._clock())
        return Seen(_data(found.ca), _data(found.tls), b"".join(dict.fromkeys(found.bundles)), settled)

    async def _make_authority(self, step: MakeAuthority, found: _Found) -> None:
        data = make_authority(self._policy, self._now())
        await self._store.write_secret(self._manifest(self._settings.ca_secret, "Opaque", found.ca, data))
        self._say("a new CA in Secret %s: %s", self._settings.ca_secret, step.reason)

    async def _issue(self, step: Issue, seen: Seen, found: _Found) -> None:
        data = issue(step.authority, seen, self._policy, self._now())
        await self._store.write_secret(self._manifest(self._settings.tls_secret, "kubernetes.io/tls", found.tls, data))
        self._say("a new certificate in Secret %s: %s", self._settings.tls_secret, step.reason)

    async def _trust(self, step: Trust, found: _Found) -> None:
        bundle = base64.b64encode(step.bundle).decode()
        # The version that was read as part of the patch: the API answers 409 where it is no longer that.
        version = found.configuration["metadata"]["resourceVersion"]
        operations: list[Json] = [{"op": "replace", "path": "/metadata/resourceVersion", "value": version}]
        operations += [
            {"op": "add", "path": f"/webhooks/{each}/clientConfig/caBundle", "value": bundle} for each in found.entries
        ]
        await self._store.patch_webhook_configuration(self._settings.configuration, operations)
        count = len(read_bundle(step.bundle))
        plural = "" if count == 1 else "s"
        self._say("the caBundle of %s has %d CA%s now", self._settings.configuration, count, plural)

    def _manifest(self, name: str, kind: str, found: Json | None, data: Mapping[str, bytes]) -> Json:
        there = (found or {}).get("metadata") or {}
        ours = {
            MANAGED_BY_LABEL: FIELD_MANAGER,
            "app.kubernetes.io/name": "datafetch",
            "app.kubernetes.io/component": "webhook",
        }
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        metadata: Json = {"name": name, "namespace": self._settings.namespace}
        metadata["labels"] = {**(there.get("labels") or {}), **ours}
        metadata |= {key: there[key] for key in ("annotations", "resourceVersion") if key in there}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            # It cannot be changed, and requires keys that may be another's: those of cert-manager, say. So they stay.
            "type": (found or {}).get("type", kind),
            "data": ((found or {}).get("data") or {}) | encoded,
        }

    def _fail(self, sentence: str, most_seconds: float, level: int = logging.WARNING) -> float:
        """Say it, but not again and again; return the pause, which doubles."""
        if sentence != self._said:
            logger.log(level, "certificates of the webhook: %s", sentence)
            self._said = sentence
        self._failures += 1
        return min(most_seconds, _FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 16))

    def _say(self, sentence: str, *values: object) -> None:
        logger.info("certificates of the webhook: " + sentence, *values)  # noqa: G003 - sentence is a constant


def _entries(configuration: Json, settings: Certificates) -> tuple[int, ...]:
    """Return the places of the webhooks that our Service serves; there may be others in it."""
    ours = (settings.namespace, settings.service)
    services = [webhook["clientConfig"].get("service") or {} for webhook in configuration.get("webhooks") or ()]
    return tuple(
        place for place, service in enumerate(services) if (service.get("namespace"), service.get("name")) == ours
    )


def _data(secret: Json | None) -> dict[str, bytes] | None:
    if secret is None:
        return None
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
