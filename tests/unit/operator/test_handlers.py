"""What is watched, and which keys an event means: kopf's registrations, called as kopf calls them."""

import asyncio
from typing import Any, cast

import kopf
import pytest
from kopf._cogs.structs.references import Resource

from datafetch_api.resource import ConsumerPhase
from datafetch_operator.consumers import Consumer, ConsumerPod, FetchState
from datafetch_operator.handlers import operator_settings, register
from datafetch_operator.observation import Claimant, Key
from datafetch_operator.reconcile import Reconciler

FIRST, SECOND = Key("team", "first"), Key("team", "second")


class Listener:
    """Takes the place of the reconciler."""

    def __init__(self) -> None:
        self.noticed: list[tuple[Key, str | None]] = []
        self.consumers = self
        self.pods: list[tuple[str, bool]] = []
        self.states: list[tuple[FetchState, bool]] = []
        self.indices: tuple[Any, Any] | None = None

    def use_indices(self, claimants: Any, consumers: Any) -> None:
        self.indices = (claimants, consumers)

    def use_work(self, jobs: Any, pods: Any, keys: Any) -> None:
        self.work = (jobs, pods, keys)

    def notice_pod(self, pod: ConsumerPod, *, deleted: bool) -> tuple[Key, ...]:
        self.pods.append((pod.key.name, deleted))
        return tuple(Key(pod.key.namespace, name) for name in pod.fetches)

    def notice_consumers(self, key: Key) -> None:
        self.noticed.append((key, "consumers"))

    def notice_fetch(self, _: Key, state: FetchState, *, deleted: bool) -> None:
        self.states.append((state, deleted))

    def notice(self, key: Key, resource_version: str | None = None) -> None:
        self.noticed.append((key, resource_version))


def _claimant(key: Key) -> Claimant:
    return Claimant(key, f"uid-{key.name}", "", "data", key.name)


INDICES: dict[str, Any] = {
    "claimants": {("team", "data"): [_claimant(FIRST), _claimant(SECOND)]},
    "keys": {"uid-first": [FIRST]},
    "consumers": {},
    "jobs": {},
    "downloads": {},
}


def _call(handler: str, **event: Any) -> list[tuple[Key, str | None]]:
    return _listen(handler, **event).noticed


def _listen(handler: str, **event: Any) -> Listener:
    listener = Listener()
    registry = register(cast("Reconciler", listener))
    found = {str(each.id).rpartition(".")[2]: each.fn for each in registry._watching.get_all_handlers()}
    asyncio.run(cast("Any", found[handler])(**INDICES, **event))
    return listener


def test_a_changed_resource_is_noticed_with_its_version() -> None:
    body = {"metadata": {"namespace": "team", "name": "first", "resourceVersion": "7"}, "spec": {}}
    assert _call("fetch_changed", type="MODIFIED", body=body) == [(FIRST, "7")]


def test_a_deleted_resource_frees_its_directory_for_the_others() -> None:
    spec = {"target": {"persistentVolumeClaim": {"claimName": "data"}}}
    body = {"metadata": {"namespace": "team", "name": "gone", "resourceVersion": "7"}, "spec": spec}
    noticed = _call("fetch_changed", type="DELETED", body=body)
    assert [key for key, _ in noticed] == [Key("team", "gone"), FIRST, SECOND]


@pytest.mark.parametrize(("labels", "keys"), [({"datafetch.io/uid": "uid-first"}, [FIRST]), ({}, [])])
def test_a_job_or_pod_means_the_resource_that_it_was_made_for(labels: dict[str, str], keys: list[Key]) -> None:
    assert [key for key, _ in _call("job_changed", labels=labels)] == keys
    pod = {"metadata": {"name": "p", "labels": {**labels, "datafetch.io/role": "download"}}}
    assert [key for key, _ in _call("pod_changed", type="MODIFIED", body=pod, labels=pod["metadata"]["labels"])] == keys


CONSUMER: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "team",
        "uid": "u",
        "labels": {"datafetch.io/role": "consumer", "fetch.datafetch.io/first": "uid-first"},
    },
    "spec": {"schedulingGates": [{"name": "datafetch.io/data"}]},
}


@pytest.mark.parametrize(("event", "deleted"), [(None, False), ("MODIFIED", False), ("DELETED", True)])
def test_a_pod_that_asks_for_data_means_itself_and_what_it_asks_for(event: str | None, deleted: bool) -> None:
    listener = _listen("pod_changed", type=event, body=CONSUMER, labels=CONSUMER["metadata"]["labels"])
    assert listener.pods == [("p", deleted)]
    assert listener.noticed == [(FIRST, "consumers")]


def test_a_resource_means_the_pods_that_wait_for_it() -> None:
    target = {"persistentVolumeClaim": {"claimName": "data"}}
    body = {
        "metadata": {"namespace": "team", "name": "first", "resourceVersion": "7"},
        "spec": {"target": target},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    ((state, deleted),) = _listen("fetch_changed", type="MODIFIED", body=body).states
    assert (state.ready, deleted) == (True, False)
    ((state, deleted),) = _listen("fetch_changed", type="DELETED", body=body).states
    assert (state.ready, deleted) == (False, True)


def test_of_a_pod_nothing_but_small_values_is_kept() -> None:
    registry = register(cast("Reconciler", Listener()))
    (index,) = [each for each in registry._indexing.get_all_handlers() if each.id == "consumers"]
    kept = asyncio.run(cast("Any", index.fn)(body=CONSUMER))
    gated = Consumer("p", "u", ConsumerPhase.GATED)
    assert kept == {Key("team", ""): gated, FIRST: gated}
    other = {"metadata": {"name": "p", "labels": {"datafetch.io/role": "download"}}}
    assert asyncio.run(cast("Any", index.fn)(body=other)) == {}


@pytest.mark.parametrize(("name", "keys"), [("data", [FIRST, SECOND]), ("other", [])])
def test_a_claim_means_everybody_who_wants_it(name: str, keys: list[Key]) -> None:
    assert [key for key, _ in _call("claim_changed", namespace="team", name=name)] == keys


def test_the_reconciler_gets_both_indices_before_anything_is_watched() -> None:
    listener = Listener()
    registry = register(cast("Reconciler", listener))
    handlers = registry._activities.get_all_handlers()
    (started,) = [each for each in handlers if str(each.id).endswith("operator_started")]
    asyncio.run(cast("Any", started.fn)(**INDICES))
    assert listener.indices == (INDICES["claimants"], INDICES["consumers"])


def test_only_our_jobs_and_pods_are_watched_and_the_filter_is_the_servers() -> None:
    selectors = operator_settings().watching.label_selectors
    ours = ["app.kubernetes.io/managed-by=datafetch-operator"]
    assert selectors.collect(Resource("batch", "v1", "jobs")) == ours
    assert selectors.collect(Resource("", "v1", "pods")) == ["datafetch.io/role"]
    assert selectors.collect(Resource("", "v1", "persistentvolumeclaims")) == []


def test_nothing_is_registered_that_would_write_on_users_objects() -> None:
    registry = register(cast("Reconciler", Listener()))
    for kind in (registry._changing, registry._spawning, registry._webhooks):
        assert list(kind.get_all_handlers()) == []
    assert isinstance(operator_settings(), kopf.OperatorSettings)
    assert operator_settings().posting.enabled is False
