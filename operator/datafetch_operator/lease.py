"""Who reconciles: leader election by a Lease, in the style of client-go. The others stand by.

The first half is pure: what a candidate knows, and what follows from that and its clock. The second is the loop that
asks and tells the API, which is injected (`cluster.Cluster`); what leading means is `__main__`'s.

Wall clocks skew, so nothing is decided by them. A candidate takes over when it has seen no change of the Lease for the
lease's whole duration, by its own monotonic clock. A leader counts from the moment it sent its last successful renewal,
which is before anybody can have seen it, and stops a margin earlier: as long as the clocks run at about the same rate,
no two `holds()` are true at a time. A leader that was stopped and wakes up finds its own expired. What it may have sent
before that, resourceVersions and derived names make harmless (design, section 7).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

import aiohttp

from datafetch_operator.errors import ApiError, ConflictError, LeadershipLostError, NotFoundError, RefusedError

DURATION_SECONDS = 10
"""For how long a lease counts after its last renewal."""
MARGIN_SECONDS = 2
"""How much earlier its holder stops: for a write on its way, and for clocks that do not run at quite the same rate."""
RENEW_SECONDS = 2
"""How often a leader renews, and a candidate looks."""
RETRY_SECONDS = 1
REQUEST_SECONDS = 3
_CONFLICT_SECONDS = 0.1

Json = dict[str, Any]
logger = logging.getLogger(__name__)


# --- pure ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """What a Lease says."""

    holder: str
    """Empty after a release."""
    duration: float
    """Seconds that others have to see no change before they may take it."""
    version: str
    """resourceVersion: it changes with every renewal."""


@dataclass(frozen=True, slots=True)
class View:
    """What one candidate knows. All times are seconds of its own monotonic clock."""

    lease: Lease | None = None
    since: float | None = None
    """When the lease, or that there is none, was first seen like this; None before the first look."""
    patience: float = 0.0
    """Seconds that it has to stay like this before it may be taken."""
    renewed: float | None = None
    """When the last request was sent that made or kept this candidate the holder."""


def look(view: View, lease: Lease | None, now: float) -> View:
    """Return what is known after a look."""
    if view.since is not None and view.lease == lease:
        return view
    if lease is None:
        # Somebody has deleted it under its holder, who goes on until the duration has passed.
        return replace(view, lease=None, since=now)
    return replace(view, lease=lease, since=now, patience=lease.duration if lease.holder else 0.0)


def wait(view: View, identity: str, now: float) -> float:
    """Return for how many more seconds the lease must not be taken or renewed; 0 or less: it may be, now."""
    is_own = holds(view, now) if view.lease is None else view.lease.holder == identity
    return 0.0 if is_own or view.since is None else view.since + view.patience - now


def took(lease: Lease, sent: float) -> View:
    """Return what is known after a write that made or kept this candidate the holder."""
    return View(lease=lease, since=sent, patience=lease.duration, renewed=sent)


def holds(view: View, now: float) -> bool:
    """Return whether nobody else can have taken the lease yet."""
    return view.renewed is not None and now < view.renewed + DURATION_SECONDS - MARGIN_SECONDS


def read_lease(body: Mapping[str, Any]) -> Lease:
    """Return a lease from its JSON."""
    spec = body.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or "",
        duration=float(spec.get("leaseDurationSeconds") or DURATION_SECONDS),
        version=body["metadata"].get("resourceVersion") or "",
    )


def claimed(body: Mapping[str, Any], identity: str, now: datetime) -> Json:
    """Return the Lease as its holder writes it; `body` is what is there, or the metadata of one to be made."""
    before = body.get("spec") or {}
    spec = {
        **before,
        "holderIdentity": identity,
        "leaseDurationSeconds": DURATION_SECONDS,
        "renewTime": _micro_time(now),
    }
    if before.get("holderIdentity") != identity:
        spec["acquireTime"] = _micro_time(now)
        spec["leaseTransitions"] = (before.get("leaseTransitions") or 0) + 1 if before else 0
    return _manifest(body, spec)


def released(body: Mapping[str, Any], now: datetime) -> Json:
    """Return the Lease as its holder leaves it: whoever looks next may take it at once."""
    spec = {**(body.get("spec") or {}), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(now)}
    return _manifest(body, spec)


def _manifest(body: Mapping[str, Any], spec: Json) -> Json:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": body["metadata"], "spec": spec}


def _micro_time(time_: datetime) -> str:
    return time_.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- the loop --------------------------------------------------------------------------------------------------------


class Leases(Protocol):
    """The part of the Kubernetes API that is needed here."""

    async def read_lease(self, namespace: str, name: str) -> Json | None:
        """Return the Lease as JSON; None where there is none."""

    async def write_lease(self, manifest: Json) -> Json:
        """Create the Lease, or replace the one whose resourceVersion the manifest carries; return what is there now.

        Raises ConflictError where it changed since, or came to be; NotFoundError where it is gone.
        """


def new_identity(pod: str) -> str:
    """Return a name that no other process has, nor this one after a restart."""
    return f"{pod}_{uuid4().hex[:12]}"


class Elector:
    """Takes the Lease, keeps it, and gives it back."""

    def __init__(
        self,
        leases: Leases,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._leases = leases
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self._view = View()
        self._body: Json = {}
        """The Lease as it was seen last; empty where there is none, or it has to be read again."""
        self._is_over = False
        self._trouble = ""

    def holds(self) -> bool:
        """Return whether this process may write. To be asked right before each write."""
        return not self._is_over and holds(self._view, self._clock())

    async def acquire(self) -> None:
        """Stand by until the Lease is held. Raises RefusedError where the rights for it are missing."""
        while True:
            holder = self._holder()
            pause = await self._round()
            if self.holds():
                logger.info("%s leads by Lease %s/%s", self._identity, self._namespace, self._name)
                return
            if self._holder() not in (holder, "", self._identity):
                logger.info("stands by: %s leads", self._holder())
            await self._sleep(pause)

    async def keep(self) -> None:
        """Renew the Lease until cancelled. Raises LeadershipLostError as soon as it can no longer be relied on."""
        pause: float = RENEW_SECONDS
        while True:
            await self._sleep(pause)
            # Before the renewal: who was stopped for long does not come back, even where nobody took the Lease.
            self._require_hold()
            try:
                pause = await self._round()
            except RefusedError as error:
                pause = self._note(error)
            self._require_hold()

    async def release(self) -> None:
        """Give the Lease back, so that another one need not wait. From now on this process must not write."""
        if self._is_over:
            return
        self._is_over = True
        try:
            if not self._body:
                await self._read()
            if self._body and self._holder() == self._identity:
                await self._write(released(self._body, self._wall()))
                logger.info("released Lease %s/%s", self._namespace, self._name)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("Lease %s/%s was not released: %s", self._namespace, self._name, _words(error))

    async def _round(self) -> float:
        """Look, and take or renew the Lease where that is allowed; return in how many seconds to come again."""
        try:
            if not self._body or self._holder() != self._identity:
                await self._read()
            left = wait(self._view, self._identity, self._clock())
            if left > 0:
                return min(RENEW_SECONDS, left)
            await self._take()
        except (ConflictError, NotFoundError):
            return _CONFLICT_SECONDS  # Somebody was faster, or an answer of ours was lost: read again.
        except RefusedError:
            raise
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            return self._note(error)
        self._trouble = ""
        return RENEW_SECONDS

    async def _read(self) -> None:
        async with asyncio.timeout(REQUEST_SECONDS):
            body = await self._leases.read_lease(self._namespace, self._name)
        self._body = body or {}
        self._view = look(self._view, read_lease(body) if body else None, self._clock())

    async def _take(self) -> None:
        sent = self._clock()
        here = self._body or {"metadata": {"name": self._name, "namespace": self._namespace}}
        self._body = {}  # Until there is an answer nobody knows what is there: a release may come in between.
        self._body = await self._write(claimed(here, self._identity, self._wall()))
        self._view = took(read_lease(self._body), sent)

    async def _write(self, manifest: Json) -> Json:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._leases.write_lease(manifest)

    def _holder(self) -> str:
        return self._view.lease.holder if self._view.lease else ""

    def _require_hold(self) -> None:
        if self._holder() in ("", self._identity) and self.holds():
            return
        self._is_over = True
        if self._holder() not in ("", self._identity):
            raise LeadershipLostError(f"{self._holder()} leads now by Lease {self._namespace}/{self._name}; ending")
        trouble = f" ({self._trouble})" if self._trouble else ""
        raise LeadershipLostError(
            f"Lease {self._namespace}/{self._name} was not renewed for {DURATION_SECONDS - MARGIN_SECONDS} s{trouble}; "
            "another one may lead now; ending"
        )

    def _note(self, error: Exception) -> float:
        self._trouble = _words(error)
        logger.warning("Lease %s/%s: %s; again in %d s", self._namespace, self._name, self._trouble, RETRY_SECONDS)
        return RETRY_SECONDS


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
