"""kopf's registrations: what is watched, and which key each event means. Handlers only enqueue.

kopf does not retry `on.event`, and need not: `reconcile` looks again by itself. Jobs and pods are filtered by label on
the server's side: pods that download and pods that ask for data have one in common. Claims are not filtered, because
users' claims carry no label of ours: they are few, change rarely, and a lost one has to show in Ready at once. Nothing
is ever written on users' objects here. Indices hold small values, no bodies: clusters have thousands of such pods.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import kopf

from datafetch_api import GROUP, PLURAL, VERSION
from datafetch_operator.consumers import Consumer, index_entries, read_consumer, read_fetch_state
from datafetch_operator.observation import Claimant, Job, Key, Pod, read_claimant, read_job, read_pod
from datafetch_operator.reconcile import Reconciler
from datafetch_operator.render.labels import DOWNLOAD_ROLE, DRIFT_ROLE, OURS, ROLE_LABEL, UID_LABEL

_PAGE = 500
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def operator_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: filters on the server's side, lists in pages, no events and no scans of its own."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = _PAGE
    settings.watching.label_selectors["batch", "v1", "jobs"] = OURS
    settings.watching.label_selectors["", "v1", "pods"] = ROLE_LABEL
    settings.process.ultimate_exiting_timeout = 20
    return settings


def register(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """Return the registrations that feed the reconciler."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    # kopf fills its indices before it calls any other handler: no key is worked on before its rivals are known.
    kopf.index(GROUP, VERSION, PLURAL, id="claimants", registry=registry)(_index_claimant)
    kopf.index(GROUP, VERSION, PLURAL, id="keys", registry=registry)(_index_key)
    kopf.index("", "v1", "pods", id="consumers", registry=registry)(_index_consumer)
    kopf.index("batch", "v1", "jobs", id="jobs", registry=registry)(_index_job)
    kopf.index("", "v1", "pods", id="downloads", registry=registry)(_index_download)

    @kopf.on.startup(registry=registry)
    async def operator_started(**indices: Any) -> None:  # noqa: ANN401 - kopf's
        reconciler.use_indices(indices["claimants"], indices["consumers"])
        reconciler.use_work(indices["jobs"], indices["downloads"], indices["keys"])

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def fetch_changed(type: str | None, body: kopf.Body, **indices: Any) -> None:  # noqa: A002, ANN401 - kopf's
        this = read_claimant(body["metadata"], body.get("spec") or {})
        reconciler.notice(this.key, body["metadata"]["resourceVersion"])
        deleted = type == "DELETED"
        state = read_fetch_state(this.key, None if deleted else body)
        reconciler.consumers.notice_fetch(this.key, state, deleted=deleted)
        if deleted:
            _notice_all(reconciler, indices["claimants"].get((this.key.namespace, this.claim), ()))

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job_changed(labels: Mapping[str, str], **indices: Any) -> None:  # noqa: ANN401 - kopf's
        _notice_work(reconciler, labels, indices["keys"])

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_changed(type: str | None, body: kopf.Body, labels: Mapping[str, str], **indices: Any) -> None:  # noqa: A002, ANN401 - kopf's
        pod = read_consumer(body)
        if pod is None:
            _notice_work(reconciler, labels, indices["keys"])
            return
        for key in reconciler.consumers.notice_pod(pod, deleted=type == "DELETED"):
            reconciler.notice_consumers(key)

    @kopf.on.event("", "v1", "persistentvolumeclaims", registry=registry)
    async def claim_changed(namespace: str | None, name: str, **indices: Any) -> None:  # noqa: ANN401 - kopf's
        _notice_all(reconciler, indices["claimants"].get((namespace, name), ()))

    return registry


def _notice_work(reconciler: Reconciler, labels: Mapping[str, str], keys: Mapping[str, Iterable[Key]]) -> None:
    for key in keys.get(labels.get(UID_LABEL, ""), ()):
        reconciler.notice(key)


def _notice_all(reconciler: Reconciler, claimants: Iterable[Claimant]) -> None:
    for claimant in claimants:
        reconciler.notice(claimant.key)


async def _index_claimant(body: kopf.Body, **_: Any) -> dict[tuple[str, str], Claimant]:  # noqa: ANN401 - kopf's
    claimant = read_claimant(body["metadata"], body.get("spec") or {})
    return {(claimant.key.namespace, claimant.claim): claimant}


async def _index_key(namespace: str | None, name: str, uid: str, **_: Any) -> dict[str, Key]:  # noqa: ANN401 - kopf's
    return {uid: Key(namespace or "", name)}


async def _index_consumer(body: kopf.Body, **_: Any) -> dict[Key, Consumer]:  # noqa: ANN401 - kopf's
    return index_entries(read_consumer(body))


async def _index_job(body: kopf.Body, labels: Mapping[str, str], **_: Any) -> dict[str, Job]:  # noqa: ANN401 - kopf's
    return {labels.get(UID_LABEL, ""): read_job(body)}


async def _index_download(body: kopf.Body, labels: Mapping[str, str], **_: Any) -> dict[str, Pod]:  # noqa: ANN401 - kopf's
    ours = labels.get(ROLE_LABEL) in (DOWNLOAD_ROLE, DRIFT_ROLE)
    return {labels.get(UID_LABEL, ""): read_pod(body)} if ours else {}


def _login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's
    """Log in without a client library; by address, because the operator must start while cluster DNS is down."""
    if "KUBECONFIG" in os.environ or not _TOKEN.exists():
        return kopf.login_with_kubeconfig(settings=settings)
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return kopf.ConnectionInfo(server=server, ca_path=str(_TOKEN.with_name("ca.crt")), token=_TOKEN.read_text().strip())
