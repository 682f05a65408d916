"""The Kubernetes API: the only module that talks to it, and it decides nothing.

Requests go through kubernetes.aio's ApiClient, which knows kubeconfigs, service account tokens and TLS, but carry plain
JSON: the client's own models are strict, and parsing them would cost more than the rest of a reconcile. Every request
has a deadline. Objects that never change (claim, ConfigMap, Job) are created by POST and never applied over; the status
is applied on the server's side, by one field manager and against the resourceVersion that was read.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote
from urllib.request import getproxies_environment
from uuid import uuid4

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration

from datafetch_api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from datafetch_api.resource import DataFetchStatus, ObjectMeta
from datafetch_operator.errors import (
    ApiError,
    ConflictError,
    LeadershipLostError,
    NotFoundError,
    RefusedError,
    api_error,
)
from datafetch_operator.metrics import API_REQUESTS
from datafetch_operator.observation import (
    Claim,
    Job,
    Key,
    Mount,
    Notice,
    Pod,
    read_claim,
    read_job,
    read_mount,
    read_notice,
    read_pods,
)
from datafetch_operator.render.config_map import CONFIG_KEY
from datafetch_operator.render.labels import CONSUMERS, CONTAINER, FIELD_MANAGER, of_fetch
from datafetch_operator.status import EventRecord

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_JSON = "application/json"
_LEASES = "/apis/coordination.k8s.io/v1"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
_LOG_TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=5)
_LOG_LINES = 100
_LOG_BYTES = 256 * 1024
_PAGE = 500
_EVENTS = 50
_NOTE_LENGTH = 1000

Json = dict[str, Any]


@asynccontextmanager
async def connect() -> AsyncIterator["Cluster"]:
    """Give the cluster that the pod runs in, or else the one that KUBECONFIG names."""
    configuration = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        # Not typed in kubernetes 37: the config modules carry no annotations.
        kubernetes_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call] # as above
            client_configuration=configuration, persist_config=False
        )
    # aiohttp looks for proxies and a .netrc before each request, in two threads: half of what a request costs.
    configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
    async with ApiClient(configuration) as api:
        yield Cluster(api)


class Cluster:
    """What the operator asks of the Kubernetes API and tells it."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._may_write: Callable[[], bool] = lambda: True

    def write_only_while(self, may_write: Callable[[], bool]) -> None:
        """From now on ask before each write, right before it is sent. Where it may not, LeadershipLostError is raised.

        Leases are written all the same: whoever does not lead has to be able to take one.
        """
        self._may_write = may_write

    # --- read ---

    async def check_served(self, namespace: str | None) -> None:
        """Raise an ApiError where DataFetch resources are not served, or may not be listed."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        await self._request("GET", f"/apis/{GROUP}/{VERSION}{scope}/{PLURAL}", query={"limit": 1})

    async def read_fetch(self, key: Key) -> Json | None:
        """Return the DataFetch as JSON, unchecked; None where it is gone."""
        return await self._get(_fetch_path(key))

    async def list_fetch_names(self, namespace: str) -> tuple[str, ...]:
        """Return the names of the DataFetches in the namespace, sorted."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        return tuple(sorted([body["metadata"]["name"] async for body in self._pages(path, accept=_METADATA_ONLY)]))

    async def read_pod(self, namespace: str, name: str) -> Json | None:
        """Return the pod as JSON; None where it is gone."""
        return await self._get(_pod_path(namespace, name))

    async def list_consumer_uids(self, namespace: str | None) -> set[str]:
        """Return the uids of the pods that ask for data, in one namespace or all."""
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        pods = self._pages(path, selector=CONSUMERS, accept=_METADATA_ONLY)
        return {body["metadata"]["uid"] async for body in pods}

    async def read_claim(self, namespace: str, name: str) -> Claim | None:
        """Return the claim; None where there is none."""
        body = await self._get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{quote(name)}")
        return None if body is None else read_claim(body)

    async def list_jobs(self, namespace: str, uid: str) -> tuple[Job, ...]:
        """Return the Jobs that were made for the DataFetch with this uid."""
        return tuple(map(read_job, await self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", of_fetch(uid))))

    async def list_pods(self, namespace: str, uid: str) -> tuple[Pod, ...]:
        """Return the pods of those Jobs, the oldest first."""
        return read_pods(await self._list(f"/api/v1/namespaces/{namespace}/pods", of_fetch(uid)))

    async def list_notices(self, namespace: str, uid: str) -> tuple[Notice, ...]:
        """Return events about the object with this uid."""
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": _EVENTS}
        body = await self._request("GET", f"/api/v1/namespaces/{namespace}/events", query=query)
        return tuple(map(read_notice, body.get("items") or ()))

    async def list_mounts(self, namespace: str, claim_name: str) -> tuple[Mount, ...]:
        """Return the unfinished pods that mount the claim, or are about to."""
        pods = self._pages(f"/api/v1/namespaces/{namespace}/pods")
        return tuple([mount async for pod in pods if (mount := read_mount(pod, claim_name)) is not None])

    async def read_log_tail(self, namespace: str, pod: str, container: str = CONTAINER) -> str:
        """Return the last lines of a download container's log; empty where there is none to be had now."""
        path = f"{_pod_path(namespace, pod)}/log"
        query = {"container": container, "tailLines": _LOG_LINES}
        try:
            response = await self._send("GET", path, query=query, deadline=_LOG_TIMEOUT)
            async with response:
                if response.status != 200:
                    return ""
                tail = b""
                async for chunk in response.content.iter_any():
                    tail = (tail + chunk)[-_LOG_BYTES:]
                return tail.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError):
            return ""  # The kubelet cannot be reached, or the container just ended: no news.

    # --- write ---

    async def apply_status(self, metadata: ObjectMeta, status: DataFetchStatus) -> str:
        """Apply the whole status to the object as it was read, and return the new resourceVersion.

        Raises ConflictError where the object changed since, NotFoundError where it is gone.
        """
        key = Key(metadata.namespace, metadata.name)
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": key.name, "resourceVersion": metadata.resource_version, "uid": metadata.uid},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        answer = await self._request("PATCH", f"{_fetch_path(key)}/status", query=query, body=body, content_type=APPLY)
        return str(answer["metadata"]["resourceVersion"])

    async def create_claim(self, manifest: Json) -> bool:
        """Create the claim; return False where one of that name exists, which is then used as it is."""
        try:
            await self._create("/api/v1", "persistentvolumeclaims", manifest)
        except ConflictError:
            return False
        return True

    async def grow_claim(self, namespace: str, name: str, requested: str) -> None:
        """Let the claim ask for more. Raises RefusedError where its class does not allow that."""
        body = {"spec": {"resources": {"requests": {"storage": requested}}}}
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{quote(name)}"
        await self._request("PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=body, content_type=MERGE)

    async def create_config_map(self, manifest: Json) -> None:
        """Create the ConfigMap. One that is there from an interrupted start is kept if it is equal, else replaced.

        Raises RefusedError where one of that name belongs to somebody else.
        """
        try:
            await self._create("/api/v1", "configmaps", manifest)
        except ConflictError:
            await self._replace_config_map(manifest)

    async def create_job(self, manifest: Json) -> None:
        """Create the Job; one of ours that exists already will do.

        Raises RefusedError where one of that name belongs to somebody else: it is waited out.
        """
        try:
            await self._create("/apis/batch/v1", "jobs", manifest)
        except ConflictError:
            found = await self._get(_object_path("/apis/batch/v1", "jobs", manifest["metadata"]))
            _require_same_owner(found, manifest)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this Job, and its pods after it."""
        # The API's default for Jobs orphans the pods, which would go on writing.
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._delete(f"/apis/batch/v1/namespaces/{namespace}/jobs/{quote(name)}", options)

    async def delete_config_map(self, namespace: str, name: str) -> None:
        """Delete the ConfigMap."""
        await self._delete(f"/api/v1/namespaces/{namespace}/configmaps/{quote(name)}", {})

    async def remove_gate(self, namespace: str, name: str, uid: str, resource_version: str, gate: str) -> None:
        """Remove one scheduling gate of exactly this pod, as it was read; other gates stay.

        Raises ConflictError where the pod changed since, RefusedError where the right is missing.
        """
        body = {
            "metadata": {"uid": uid, "resourceVersion": resource_version},
            "spec": {"schedulingGates": [{"name": gate, "$patch": "delete"}]},
        }
        query, path = {"fieldManager": FIELD_MANAGER}, _pod_path(namespace, name)
        await self._request("PATCH", path, query=query, body=body, content_type=STRATEGIC_MERGE)

    async def post_event(self, metadata: ObjectMeta, event: EventRecord) -> None:
        """Post an event about the DataFetch."""
        about = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
        }
        await self._post_event(about, event, f"{metadata.name[:200]}.{uuid4().hex[:16]}")

    async def post_pod_event(self, namespace: str, pod: str, uid: str, event: EventRecord, name: str) -> None:
        """Post an event about a pod. Raises ConflictError where one of that name was posted already."""
        about = {"apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": namespace, "uid": uid}
        await self._post_event(about, event, name)

    # --- certificates of the webhook ---

    async def read_secret(self, namespace: str, name: str) -> Json | None:
        """Return the Secret as JSON; None where there is none. Only Secrets of the operator's namespace can be read."""
        return await self._get(f"/api/v1/namespaces/{namespace}/secrets/{quote(name)}")

    async def write_secret(self, manifest: Json) -> None:
        """Create the Secret, or replace the one whose resourceVersion the manifest carries.

        Raises ConflictError where it changed since it was read, or came to be.
        """
        if "resourceVersion" not in manifest["metadata"]:
            await self._create("/api/v1", "secrets", manifest)
            return
        path = _object_path("/api/v1", "secrets", manifest["metadata"])
        await self._request("PUT", path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    async def read_webhook_configuration(self, name: str) -> Json | None:
        """Return the MutatingWebhookConfiguration as JSON; None where there is none."""
        return await self._get(f"{_WEBHOOKS}/{quote(name)}")

    async def patch_webhook_configuration(self, name: str, operations: list[Json]) -> None:
        """Apply the JSON patch to the MutatingWebhookConfiguration."""
        query = {"fieldManager": FIELD_MANAGER}
        await self._request(
            "PATCH", f"{_WEBHOOKS}/{quote(name)}", query=query, body=operations, content_type=JSON_PATCH
        )

    # --- leader election ---

    async def read_lease(self, namespace: str, name: str) -> Json | None:
        """Return the Lease as JSON; None where there is none."""
        return await self._get(f"{_LEASES}/namespaces/{namespace}/leases/{quote(name)}")

    async def write_lease(self, manifest: Json) -> Json:
        """Create the Lease, or replace the one whose resourceVersion the manifest carries; return what is there now.

        Raises ConflictError where it changed since it was read, or came to be.
        """
        metadata, query = manifest["metadata"], {"fieldManager": FIELD_MANAGER}
        path = f"{_LEASES}/namespaces/{metadata['namespace']}/leases"
        if "resourceVersion" not in metadata:
            return await self._request("POST", path, query=query, body=manifest, guarded=False)
        return await self._request(
            "PUT", f"{path}/{quote(metadata['name'])}", query=query, body=manifest, guarded=False
        )

    # --- transport ---

    async def _post_event(self, about: Json, event: EventRecord, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about["namespace"]},
            "involvedObject": about,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:_NOTE_LENGTH],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": os.environ.get("HOSTNAME", FIELD_MANAGER),
        }
        await self._create("/api/v1", "events", body)

    async def _replace_config_map(self, manifest: Json) -> None:
        path = _object_path("/api/v1", "configmaps", manifest["metadata"])
        found = await self._get(path)
        _require_same_owner(found, manifest)
        if found is not None and (found.get("data") or {}).get(CONFIG_KEY) == manifest["data"][CONFIG_KEY]:
            return
        if found is not None:
            await self._delete(path, {"preconditions": {"uid": found["metadata"]["uid"]}})
        await self._create("/api/v1", "configmaps", manifest)

    async def _list(self, path: str, selector: str) -> list[Json]:
        body = await self._request("GET", path, query={"labelSelector": selector})
        return cast("list[Json]", body.get("items") or [])

    async def _pages(self, path: str, *, selector: str | None = None, accept: str = _JSON) -> AsyncIterator[Json]:
        """Give the objects of a list that is read page by page."""
        query: dict[str, Any] = {"limit": _PAGE, "labelSelector": selector}
        while True:
            body = await self._request("GET", path, query=query, accept=accept)
            for item in body.get("items") or ():
                yield item
            query["continue"] = (body.get("metadata") or {}).get("continue")
            if not query["continue"]:
                return

    async def _get(self, path: str) -> Json | None:
        try:
            return await self._request("GET", path)
        except NotFoundError:
            return None

    async def _create(self, api: str, plural: str, manifest: Json) -> None:
        path = f"{api}/namespaces/{manifest['metadata']['namespace']}/{plural}"
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        await self._request("POST", path, query=query, body=manifest)

    async def _delete(self, path: str, options: Json) -> None:
        try:
            await self._request("DELETE", path, body={"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except (NotFoundError, ConflictError):
            return  # It is gone, or another of that name came in its place: both are what was wanted.

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Json | list[Json] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        guarded: bool = True,
    ) -> Json:
        response = await self._send(
            method, path, query=query, body=body, content_type=content_type, accept=accept, guarded=guarded
        )
        async with response:
            payload = await response.read()
        if response.status >= 400:
            raise _error(response.status, payload)
        return cast("Json", json.loads(payload))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Json | list[Json] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        deadline: aiohttp.ClientTimeout = _TIMEOUT,
        guarded: bool = True,
    ) -> aiohttp.ClientResponse:
        pairs = [(name, value) for name, value in (query or {}).items() if value is not None]
        headers = {"Accept": accept, "Content-Type": content_type}
        call = await self._api.param_serialize(method, path, {}, pairs, headers, body, auth_settings=["BearerToken"])
        if guarded and method != "GET" and not self._may_write():
            raise LeadershipLostError(f"{method} {path} was not sent: another one may lead now")
        try:
            answer = await self._api.call_api(*call, _request_timeout=deadline)
        except (aiohttp.ClientError, TimeoutError):
            API_REQUESTS.labels(verb=method, code="none").inc()
            raise
        API_REQUESTS.labels(verb=method, code=str(answer.status)).inc()
        return cast("aiohttp.ClientResponse", answer.response)


def _fetch_path(key: Key) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{quote(key.name)}"


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{quote(name)}"


def _object_path(api: str, plural: str, metadata: Json) -> str:
    return f"{api}/namespaces/{metadata['namespace']}/{plural}/{quote(metadata['name'])}"


def _require_same_owner(found: Json | None, manifest: Json) -> None:
    """Raise RefusedError where the object that is there has another owner than the one that was to be made."""
    owners = ((found or {}).get("metadata") or {}).get("ownerReferences") or ()
    ours = manifest["metadata"]["ownerReferences"][0]["uid"]
    if found is not None and ours not in [owner["uid"] for owner in owners]:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        raise RefusedError(
            409, "AlreadyExists", f"a {kind} {name!r} of another owner exists; delete it, or wait until it goes"
        )


def _error(status: int, payload: bytes) -> ApiError:
    try:
        body = json.loads(payload)
    except ValueError:
        return api_error(status, "", payload[:500].decode(errors="replace"))
    return api_error(status, body.get("reason") or "", body.get("message") or "")
