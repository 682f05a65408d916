"""The API calls as the API server gets them, against a small server on loopback."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from datafetch_api.resource import DataFetchStatus, ObjectMeta
from datafetch_operator.cluster import Cluster
from datafetch_operator.errors import ApiError, ConflictError, LeadershipLostError, NotFoundError, RefusedError
from datafetch_operator.observation import Key
from datafetch_operator.status import EventRecord

_T = TypeVar("_T")
Answer = tuple[int, dict[str, Any] | str]
METADATA = ObjectMeta(name="a", namespace="team", uid="u1", resource_version="7")
MANIFEST = {
    "kind": "ConfigMap",
    "metadata": {"name": "cm", "namespace": "team", "ownerReferences": [{"uid": "u1"}]},
    "data": {"config.yaml": "x"},
}


class Server:
    """Gives prepared answers and writes down what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[dict[str, str]] = []

    async def _answer(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.asked.append((request.method, request.path))
        self.queries.append(dict(request.query))
        self.headers.append(dict(request.headers))
        self.bodies.append(json.loads(text) if text else None)
        status, body = self.answers.pop(0)
        if isinstance(body, str):
            return web.Response(status=status, text=body)
        return web.json_response(body, status=status)

    def play(self, use: Callable[[Cluster], Awaitable[_T]]) -> _T:
        """Serve as long as `use` uses the cluster, and return what it returns."""

        async def run() -> _T:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                port = runner.addresses[0][1]
                async with ApiClient(Configuration(host=f"http://127.0.0.1:{port}")) as api:
                    return await use(Cluster(api))
            finally:
                await runner.cleanup()

        return asyncio.run(run())


def _error(status: int, reason: str = "", message: str = "no") -> Answer:
    return status, {"kind": "Status", "reason": reason, "message": message}


def test_the_status_is_applied_by_one_manager_against_the_version_that_was_read() -> None:
    server = Server((200, {"metadata": {"resourceVersion": "8"}}))
    assert server.play(lambda cluster: cluster.apply_status(METADATA, DataFetchStatus(attempts=2))) == "8"
    assert server.asked == [("PATCH", "/apis/datafetch.io/v1alpha1/namespaces/team/datafetches/a/status")]
    assert server.queries == [{"fieldManager": "datafetch-operator", "force": "true"}]
    assert server.headers[0]["Content-Type"] == "application/apply-patch+yaml"
    assert server.bodies[0]["metadata"] == {"name": "a", "uid": "u1", "resourceVersion": "7"}
    assert server.bodies[0]["status"]["attempts"] == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RefusedError),
        (403, RefusedError),
        (404, NotFoundError),
        (409, ConflictError),
        (422, RefusedError),
        (500, ApiError),
    ],
)
def test_errors_are_of_their_kind_and_keep_the_servers_words(status: int, error: type[ApiError]) -> None:
    server = Server(_error(status, "Because", "in these words"))
    with pytest.raises(error) as caught:
        server.play(lambda cluster: cluster.apply_status(METADATA, DataFetchStatus()))
    assert (caught.value.status, caught.value.message) == (status, "in these words")


def test_an_answer_that_is_no_json_is_an_error_like_any_other() -> None:
    server = Server((502, "Bad Gateway"))
    with pytest.raises(ApiError, match="Bad Gateway"):
        server.play(lambda cluster: cluster.read_fetch(Key("team", "a")))


def test_what_is_not_there_is_none() -> None:
    assert Server(_error(404)).play(lambda cluster: cluster.read_fetch(Key("team", "a"))) is None
    assert Server(_error(404)).play(lambda cluster: cluster.read_claim("team", "data")) is None


def test_jobs_and_pods_are_asked_for_by_label() -> None:
    server = Server((200, {"items": []}), (200, {"items": []}))

    async def use(cluster: Cluster) -> None:
        await cluster.list_jobs("team", "u1")
        await cluster.list_pods("team", "u1")

    server.play(use)
    selector = "app.kubernetes.io/managed-by=datafetch-operator,datafetch.io/uid=u1"
    assert server.queries == [{"labelSelector": selector}] * 2


def test_a_claim_that_exists_is_left_as_it_is() -> None:
    manifest = {"metadata": {"name": "data", "namespace": "team"}}
    server = Server(_error(409, "AlreadyExists"))
    assert server.play(lambda cluster: cluster.create_claim(manifest)) is False
    assert server.asked == [("POST", "/api/v1/namespaces/team/persistentvolumeclaims")]
    assert server.queries[0]["fieldValidation"] == "Strict"


def test_a_claim_grows_by_nothing_but_its_request() -> None:
    server = Server((200, {}))
    server.play(lambda cluster: cluster.grow_claim("team", "data", "20Gi"))
    assert server.asked == [("PATCH", "/api/v1/namespaces/team/persistentvolumeclaims/data")]
    assert server.bodies == [{"spec": {"resources": {"requests": {"storage": "20Gi"}}}}]
    assert server.headers[0]["Content-Type"] == "application/merge-patch+json"


def test_an_equal_config_map_is_kept() -> None:
    found = MANIFEST | {"metadata": {**MANIFEST["metadata"], "uid": "c1"}}  # type: ignore[dict-item] # JSON
    server = Server(_error(409), (200, found))
    server.play(lambda cluster: cluster.create_config_map(MANIFEST))
    assert [method for method, _ in server.asked] == ["POST", "GET"]


def test_another_config_map_of_ours_is_replaced() -> None:
    found = {**MANIFEST, "metadata": {"name": "cm", "uid": "c1", "ownerReferences": [{"uid": "u1"}]}, "data": {}}
    server = Server(_error(409), (200, found), (200, {}), (201, {}))
    server.play(lambda cluster: cluster.create_config_map(MANIFEST))
    assert [method for method, _ in server.asked] == ["POST", "GET", "DELETE", "POST"]
    assert server.bodies[2]["preconditions"] == {"uid": "c1"}


@pytest.mark.parametrize("kind", ["ConfigMap", "Job"])
def test_an_object_of_somebody_else_is_neither_used_nor_touched(kind: str) -> None:
    found = {"metadata": {"name": "cm", "uid": "c1", "ownerReferences": [{"uid": "somebody"}]}}
    server = Server(_error(409), (200, found))
    manifest = MANIFEST | {"kind": kind}
    with pytest.raises(RefusedError, match="another owner"):
        server.play(
            lambda cluster: cluster.create_job(manifest) if kind == "Job" else cluster.create_config_map(manifest)
        )
    assert [method for method, _ in server.asked] == ["POST", "GET"]


def test_a_job_of_ours_that_exists_will_do() -> None:
    server = Server(_error(409), (200, {"metadata": {"ownerReferences": [{"uid": "u1"}]}}))
    server.play(lambda cluster: cluster.create_job(MANIFEST | {"kind": "Job"}))


@pytest.mark.parametrize("answer", [(200, {}), _error(404), _error(409)])
def test_a_job_is_deleted_by_uid_and_its_pods_after_it(answer: Answer) -> None:
    server = Server(answer)
    server.play(lambda cluster: cluster.delete_job("team", "j", "job-1"))
    assert server.asked == [("DELETE", "/apis/batch/v1/namespaces/team/jobs/j")]
    assert server.bodies[0]["propagationPolicy"] == "Background"
    assert server.bodies[0]["preconditions"] == {"uid": "job-1"}


def test_who_mounts_a_claim_is_asked_for_in_pages() -> None:
    def pod(second: int) -> dict[str, Any]:
        return {
            "metadata": {"name": "p"},
            "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"phase": "Running", "startTime": f"2026-01-31T12:00:0{second}Z"},
        }

    server = Server(
        (200, {"items": [pod(5)], "metadata": {"continue": "more"}}), (200, {"items": [pod(3)], "metadata": {}})
    )
    mounts = server.play(lambda cluster: cluster.list_mounts("team", "data"))
    assert [mount.started.second for mount in mounts] == [5, 3]
    assert server.queries[1]["continue"] == "more"


def test_of_a_log_that_is_too_long_the_end_is_kept() -> None:
    server = Server((200, "x" * 400_000 + "\nthe last line\n"))
    log = server.play(lambda cluster: cluster.read_log_tail("team", "p"))
    assert log.endswith("x\nthe last line\n")
    assert len(log) == 256 * 1024


def test_a_log_is_read_from_its_end_and_no_log_is_no_error() -> None:
    server = Server((200, "line\n"), _error(400, "BadRequest", "container is waiting to start"))
    assert server.play(lambda cluster: cluster.read_log_tail("team", "p")) == "line\n"
    assert server.queries[0] == {"container": "datafetch", "tailLines": "100"}
    assert server.play(lambda cluster: cluster.read_log_tail("team", "p")) == ""


def test_the_log_of_another_container_is_read_by_its_name() -> None:
    server = Server((200, "line\n"))
    server.play(lambda cluster: cluster.read_log_tail("team", "p", "datafetch-get-a"))
    assert server.queries[0]["container"] == "datafetch-get-a"


def test_our_gate_is_taken_from_exactly_the_pod_that_was_read_and_others_stay() -> None:
    server = Server((200, {}))
    server.play(lambda cluster: cluster.remove_gate("team", "p", "u1", "7", "datafetch.io/data"))
    assert server.asked == [("PATCH", "/api/v1/namespaces/team/pods/p")]
    assert server.headers[0]["Content-Type"] == "application/strategic-merge-patch+json"
    (body,) = server.bodies
    assert body["metadata"] == {"uid": "u1", "resourceVersion": "7"}
    assert body["spec"] == {"schedulingGates": [{"name": "datafetch.io/data", "$patch": "delete"}]}


def test_an_event_about_a_pod_has_a_name_that_can_be_taken_once() -> None:
    server = Server((201, {}), _error(409, "AlreadyExists"))
    event = EventRecord("Normal", "WaitingForData", "x")
    server.play(lambda cluster: cluster.post_pod_event("team", "p", "u1", event, "p.abc"))
    with pytest.raises(ConflictError):
        server.play(lambda cluster: cluster.post_pod_event("team", "p", "u1", event, "p.abc"))
    assert server.bodies[0]["metadata"] == {"name": "p.abc", "namespace": "team"}
    about = {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "team", "uid": "u1"}
    assert server.bodies[0]["involvedObject"] == about


@pytest.mark.parametrize(("namespace", "path"), [("team", "/api/v1/namespaces/team/pods"), (None, "/api/v1/pods")])
def test_pods_that_ask_for_data_are_listed_by_label_without_the_rest(namespace: str | None, path: str) -> None:
    server = Server((200, {"items": [{"metadata": {"uid": "u1"}}], "metadata": {}}))
    assert server.play(lambda cluster: cluster.list_consumer_uids(namespace)) == {"u1"}
    assert server.asked == [("GET", path)]
    assert server.queries[0]["labelSelector"] == "datafetch.io/role=consumer"
    assert "PartialObjectMetadataList" in server.headers[0]["Accept"]


def test_an_event_names_its_object() -> None:
    server = Server((201, {}))
    server.play(lambda cluster: cluster.post_event(METADATA, EventRecord("Warning", "FetchFailed", "x" * 5000)))
    (event,) = server.bodies
    assert (event["involvedObject"]["uid"], event["type"], event["reason"]) == ("u1", "Warning", "FetchFailed")
    assert len(event["message"]) == 1000
    assert event["metadata"]["namespace"] == "team"


def test_a_cluster_without_the_crd_is_noticed() -> None:
    with pytest.raises(NotFoundError):
        Server(_error(404)).play(lambda cluster: cluster.check_served(None))
    server = Server((200, {"items": []}))
    server.play(lambda cluster: cluster.check_served("team"))
    assert server.asked == [("GET", "/apis/datafetch.io/v1alpha1/namespaces/team/datafetches")]


def test_names_of_fetches_are_asked_for_in_pages_and_without_the_rest() -> None:
    def page(*names: str, more: str = "") -> Answer:
        return 200, {"items": [{"metadata": {"name": name}} for name in names], "metadata": {"continue": more}}

    server = Server(page("b", more="go on"), page("a"))
    assert server.play(lambda cluster: cluster.list_fetch_names("team")) == ("a", "b")
    assert server.asked == [("GET", "/apis/datafetch.io/v1alpha1/namespaces/team/datafetches")] * 2
    assert server.queries[1]["continue"] == "go on"
    assert all("PartialObjectMetadataList" in headers["Accept"] for headers in server.headers)


# --- leader election -------------------------------------------------------------------------------------------------

LEASE: dict[str, Any] = {"metadata": {"name": "op", "namespace": "system"}, "spec": {}}


def test_a_lease_is_made_and_then_replaced_against_the_version_that_was_read() -> None:
    read = {"metadata": {**LEASE["metadata"], "resourceVersion": "7"}, "spec": {}}
    server = Server((404, {}), (201, read), (200, read), (409, {"reason": "Conflict"}))

    async def use(cluster: Cluster) -> None:
        assert await cluster.read_lease("system", "op") is None
        assert await cluster.write_lease(LEASE) == read
        await cluster.write_lease(read)
        with pytest.raises(ConflictError):
            await cluster.write_lease(read)

    server.play(use)
    leases = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
    assert server.asked == [("GET", f"{leases}/op"), ("POST", leases), ("PUT", f"{leases}/op"), ("PUT", f"{leases}/op")]
    assert server.bodies[2] == read


def test_who_does_not_lead_reads_and_takes_a_lease_and_sends_no_other_write() -> None:
    server = Server((200, {"items": []}), (201, LEASE))

    async def use(cluster: Cluster) -> None:
        cluster.write_only_while(lambda: False)
        await cluster.check_served(None)
        await cluster.write_lease(LEASE)
        with pytest.raises(LeadershipLostError, match=r"PATCH .*/datafetches/a/status was not sent"):
            await cluster.apply_status(METADATA, DataFetchStatus())
        with pytest.raises(LeadershipLostError):
            await cluster.create_job({**MANIFEST, "kind": "Job"})
        with pytest.raises(LeadershipLostError):
            await cluster.delete_job("team", "a", "u1")

    server.play(use)
    assert [method for method, _ in server.asked] == ["GET", "POST"]
