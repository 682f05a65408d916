"""Pods that ask for data, as JSON: what the webhook made of them, and what kubelet says of them."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from datafetch_api.report import Failure, Result, to_termination_message
from datafetch_operator.errors import ConflictError, NotFoundError
from datafetch_operator.observation import Key
from datafetch_operator.render.labels import GATE, fetch_label
from datafetch_operator.status import EventRecord
from unit.operator.world import NAMESPACE

Json = dict[str, Any]
OTHER_GATE = "somebody.example.org/gate"
WAITING: Json = {"state": {"waiting": {"reason": "PodInitializing"}}}
DONE: Json = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}


def running(since: str = "2026-01-31T12:00:00Z") -> Json:
    return {"state": {"running": {"startedAt": since}}}


def ended(code: int, message: str = "", reason: str = "Error") -> Json:
    return {"state": {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


def backing_off(code: int, message: str = "") -> Json:
    return {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(code, message)["state"]}


def result(code: int, reason: str, message: str) -> str:
    failure = Failure(reason=reason, message=message, retryable=True)
    return to_termination_message(Result(exit_code=code, failure=failure))


def init_container(name: str, *awaited: str) -> Json:
    """Return an init container of ours; one that waits for these fetches."""
    targets = [f"/datafetch/claims/0/{fetch}={NAMESPACE}/{fetch}@uid-{fetch}" for fetch in awaited]
    args = ["wait", *targets] if awaited else ["run", "--skip-if-complete"]
    return {"name": name, "args": args, "env": [{"name": "DATAFETCH_INJECTED", "value": "1"}]}


def consumer(
    *fetches: str,
    name: str = "app-0",
    uid: str = "pod-1",
    gates: Sequence[str] = (),
    containers: Sequence[Json] = (),
    statuses: dict[str, Json] | None = None,
    phase: str = "Pending",
) -> Json:
    """Return a pod that asks for these fetches."""
    labels = {"app": "app", "datafetch.io/role": "consumer"} | {fetch_label(f): f"uid-{f}" for f in fetches}
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid,
            "resourceVersion": "1",
            "labels": labels,
            "annotations": {"datafetch.io/fetch": ", ".join(fetches)} if fetches else {},
        },
        "spec": {"schedulingGates": [{"name": gate} for gate in gates], "initContainers": list(containers)},
        "status": {
            "phase": phase,
            "initContainerStatuses": [{"name": name, **status} for name, status in (statuses or {}).items()],
        },
    }


def gated(*fetches: str, **more: Any) -> Json:
    return consumer(*fetches, gates=[GATE], **more)


def waiting(*fetches: str, **more: Any) -> Json:
    """Return a pod whose init container waits for these fetches since noon."""
    containers = [init_container("datafetch-wait", *fetches)]
    return consumer(*fetches, containers=containers, statuses={"datafetch-wait": running()}, **more)


def condition(kind: str, status: str, reason: str = "Because", message: str = "It is so.", since: str = "") -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def fetch_body(name: str, phase: str | None = None, *conditions: Json, target: bool = True) -> Json:
    """Return a DataFetch as the API server has it."""
    body: Json = {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"},
        "spec": {"target": {"persistentVolumeClaim": {"claimName": "data"}}} if target else {},
    }
    return body | ({"status": {"phase": phase, "conditions": list(conditions)}} if phase else {})


def ready(name: str) -> Json:
    return fetch_body(name, "Ready", condition("Ready", "True"))


class DiedError(BaseException):
    """The operator was killed."""


class PodCluster:
    """The API server's part for pods that ask for data, in memory."""

    def __init__(self) -> None:
        self.pods: dict[str, Json] = {}
        self.fetches: dict[str, Json] = {}
        self.events: dict[str, tuple[str, str, str]] = {}
        """Pod's uid, reason and message, by the event's name."""
        self.opened: list[str] = []
        self.calls: list[str] = []
        self.failing: dict[str, list[BaseException]] = {}
        self.calls_left = 10**9
        self._version = 1

    def put(self, body: Json) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.pods[body["metadata"]["name"]] = body

    def told(self, uid: str = "pod-1") -> list[str]:
        """Return the reasons of the pod's events in their order."""
        return [reason for about, reason, _ in self.events.values() if about == uid]

    @property
    def writes(self) -> list[str]:
        return [call for call in self.calls if call in ("post_pod_event", "remove_gate")]

    def _call(self, name: str) -> None:
        if not self.calls_left:
            raise DiedError
        self.calls_left -= 1
        self.calls.append(name)
        if self.failing.get(name):
            raise self.failing[name].pop(0)

    async def read_pod(self, _: str, name: str) -> Json | None:
        self._call("read_pod")
        return deepcopy(self.pods.get(name))

    async def read_fetch(self, key: Key) -> Json | None:
        self._call("read_fetch")
        return self.fetches.get(key.name)

    async def list_consumer_uids(self, _: str | None) -> set[str]:
        self._call("list_consumer_uids")
        return {body["metadata"]["uid"] for body in self.pods.values()}

    async def post_pod_event(self, _: str, __: str, uid: str, event: EventRecord, name: str) -> None:
        self._call("post_pod_event")
        if name in self.events:
            raise ConflictError(409, "AlreadyExists", "told")
        self.events[name] = (uid, str(event.reason), event.message)

    async def remove_gate(self, _: str, name: str, uid: str, version: str, gate: str) -> None:
        self._call("remove_gate")
        body = self.pods.get(name)
        if body is None:
            raise NotFoundError(404, "NotFound", "gone")
        if (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) != (uid, version):
            raise ConflictError(409, "Conflict", "changed")
        body["spec"]["schedulingGates"] = [each for each in body["spec"]["schedulingGates"] if each["name"] != gate]
        self.opened.append(uid)
        self.put(body)
