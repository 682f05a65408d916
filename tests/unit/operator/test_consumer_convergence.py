"""Whatever happens to pods and fetches, and wherever the operator dies: a gate goes exactly when all its data is there.

Events about fetches are lost, doubled and reordered, deletions of pods are lost; a pod that is there shows at last, as
watches list what is there. What must hold is asserted at every removal, and once nothing happens any more.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_operator.cluster import Cluster
from datafetch_operator.consumer_reconcile import ConsumerReconciler
from datafetch_operator.consumers import Consumer, PodKey, index_entries, read_consumer, read_fetch_state
from datafetch_operator.errors import ConflictError, NotFoundError
from datafetch_operator.observation import Key
from datafetch_operator.render.labels import GATE
from unit.operator.consumer_pods import (
    OTHER_GATE,
    DiedError,
    Json,
    PodCluster,
    condition,
    consumer,
    fetch_body,
    gated,
    init_container,
    ready,
    waiting,
)
from unit.operator.world import NAMESPACE, SETTINGS

_T = TypeVar("_T")
FETCHES, PODS = ("a", "b"), ("app-0", "app-1")


def _run(look: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits: the fake answers at once."""
    try:
        look.send(None)
    except StopIteration as end:
        return cast("_T", end.value)
    raise AssertionError("it waits")


class Queue:
    """Keeps what is to be looked at; the test takes from it."""

    def __init__(self) -> None:
        self.keys: dict[PodKey, None] = {}

    def add(self, key: PodKey) -> None:
        self.keys[key] = None


def _is_there(body: Json | None) -> bool:
    """Return whether nothing of this fetch has to be waited for, as users understand it."""
    if body is None:
        return False
    conditions = body.get("status", {}).get("conditions", [])
    return "target" not in body["spec"] or any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _has_gate(body: Json) -> bool:
    return GATE in [gate["name"] for gate in body["spec"]["schedulingGates"]]


class StrictCluster(PodCluster):
    """An API server that knows when a gate may go."""

    async def remove_gate(self, namespace: str, name: str, uid: str, version: str, gate: str) -> None:
        body = self.pods.get(name)
        if body is not None and body["metadata"]["uid"] == uid:
            own = {c["name"].removeprefix("datafetch-get-") for c in body["spec"]["initContainers"]}
            assert gate == GATE
            assert all(_is_there(self.fetches.get(fetch)) or fetch in own for fetch in _asked(body))
            assert OTHER_GATE in [each["name"] for each in body["spec"]["schedulingGates"]]
        await super().remove_gate(namespace, name, uid, version, gate)


def _asked(body: Json) -> list[str]:
    return [key.rpartition("/")[2] for key in body["metadata"]["labels"] if key.startswith("fetch.")]


@dataclass
class World:
    """The API server, what the watcher was told of it, and one operator after another."""

    cluster: StrictCluster = field(default_factory=StrictCluster)
    shown: dict[str, Json] = field(default_factory=dict)
    """Pods as the watcher knows them, by uid; deleted ones among them where it missed that."""
    made: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start an operator: it lists what is there."""
        self.cluster.calls_left = 10**9
        self.queue = Queue()
        self.reconciler = ConsumerReconciler(cast("Cluster", self.cluster), SETTINGS, lambda: 0.0)
        self.reconciler._loop = cast("Any", self.queue)
        self.shown = {body["metadata"]["uid"]: body for body in self.cluster.pods.values()}
        self._index()
        for name in PODS:
            self.show_pod(name)
        for name in FETCHES:
            self.show_fetch(name)

    def make_pod(self, name: str, make: Callable[..., Json], *fetches: str, **more: Any) -> None:
        self.made += 1
        body = make(*fetches, name=name, uid=f"pod-{self.made}", **more)
        body["spec"]["schedulingGates"].append({"name": OTHER_GATE})
        self.cluster.put(body)

    def end_pod(self, name: str) -> None:
        body = self.cluster.pods.get(name)
        if body is not None:
            body["status"]["phase"] = "Failed"
            self.cluster.put(body)

    def change_pod(self, name: str) -> None:
        if name in self.cluster.pods:
            self.cluster.put(self.cluster.pods[name])

    def show_pod(self, name: str) -> None:
        body = self.cluster.pods.get(name)
        if body is None:
            return
        self.shown[body["metadata"]["uid"]] = body
        self._index()
        pod = read_consumer(body)
        assert pod is not None
        self.reconciler.notice_pod(pod, deleted=False)

    def show_deletions(self) -> None:
        there = {body["metadata"]["uid"] for body in self.cluster.pods.values()}
        for uid in set(self.shown) - there:
            pod = read_consumer(self.shown.pop(uid))
            assert pod is not None
            self._index()
            self.reconciler.notice_pod(pod, deleted=True)

    def show_fetch(self, name: str) -> None:
        body, key = self.cluster.fetches.get(name), Key(NAMESPACE, name)
        self.reconciler.notice_fetch(key, read_fetch_state(key, body), deleted=body is None)

    def _index(self) -> None:
        index: dict[Key, list[Consumer]] = {}
        for body in self.shown.values():
            for key, entry in index_entries(read_consumer(body)).items():
                index.setdefault(key, []).append(entry)
        self.reconciler.use_index(index)

    def look(self, calls: int = 10**9) -> None:
        """Let the operator look at one pod; it dies after so many calls, and another one takes its place."""
        if not self.queue.keys:
            return
        key = next(iter(self.queue.keys))
        del self.queue.keys[key]
        self.cluster.calls_left = calls
        try:
            _run(self.reconciler._look(key))
        except (ConflictError, NotFoundError):
            self.queue.add(key)
        except DiedError:
            self.start()
        self.cluster.calls_left = 10**9

    def resync(self) -> None:
        _run(self.reconciler._find_gone())
        for key in list(self.reconciler._index):
            if not key.name:
                self.reconciler._look_at_unsettled(key.namespace, self.reconciler.consumers_of(key))

    def settle(self) -> None:
        """Let nothing happen any more, and the operator do what is left to do."""
        for name in PODS:
            self.show_pod(name)
        self.resync()
        for _ in range(20):
            if not self.queue.keys:
                return
            self.look()
        raise AssertionError(f"does not come to rest: {self.cluster.calls[-8:]}")


GET_A = [init_container("datafetch-get-a")]
HAPPENINGS: dict[str, Callable[[World], object]] = {
    "a pod waits by gate for one": lambda world: world.make_pod("app-0", gated, "a"),
    "a pod waits by gate for both": lambda world: world.make_pod("app-1", gated, "a", "b"),
    "a pod waits by gate for one and gets the other": lambda world: world.make_pod(
        "app-1", gated, "a", "b", containers=GET_A
    ),
    "a pod waits in init": lambda world: world.make_pod("app-0", waiting, "a"),
    "a pod has only the gate of others": lambda world: world.make_pod("app-0", consumer, "a"),
    "a pod ends": lambda world: world.end_pod("app-0"),
    "a pod goes": lambda world: world.cluster.pods.pop("app-0", None),
    "another pod goes": lambda world: world.cluster.pods.pop("app-1", None),
    "a pod changes": lambda world: world.change_pod("app-0"),
    "the watcher shows a pod": lambda world: world.show_pod("app-0"),
    "the watcher shows another pod": lambda world: world.show_pod("app-1"),
    "the watcher shows deletions": lambda world: world.show_deletions(),
    "the watcher shows a fetch": lambda world: world.show_fetch("a"),
    "the watcher shows another fetch": lambda world: world.show_fetch("b"),
    "the operator looks": lambda world: world.look(),
    "the operator dies in its first call": lambda world: world.look(0),
    "the operator dies in its second call": lambda world: world.look(1),
    "the operator dies in its fourth call": lambda world: world.look(3),
    "the operator dies in its fifth call": lambda world: world.look(4),
    "the operator starts anew": lambda world: world.start(),
    "the operator resyncs": lambda world: world.resync(),
}
STATES: dict[str, Callable[[str], Json]] = {
    "is new": fetch_body,
    "is being fetched": lambda name: fetch_body(name, "Fetching", condition("Progressing", "True")),
    "is ready": ready,
    "has failed": lambda name: fetch_body(name, "Failed", condition("Failed", "True")),
    "is suspended": lambda name: fetch_body(name, "Suspended"),
    "is a recipe": lambda name: fetch_body(name, "Recipe", target=False),
}


def _becomes(name: str, make: Callable[[str], Json]) -> Callable[[World], object]:
    return lambda world: world.cluster.fetches.update({name: make(name)})


def _goes(name: str) -> Callable[[World], object]:
    return lambda world: world.cluster.fetches.pop(name, None)


for _name in FETCHES:
    HAPPENINGS |= {f"{_name} {what}": _becomes(_name, make) for what, make in STATES.items()}
    HAPPENINGS[f"{_name} is deleted"] = _goes(_name)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=30))
def test_a_gate_goes_exactly_when_all_is_there_and_then_nothing_is_written(happenings: list[str]) -> None:
    world = World()
    for happening in happenings:
        HAPPENINGS[happening](world)
    world.settle()
    for body in world.cluster.pods.values():
        own = {c["name"].removeprefix("datafetch-get-") for c in body["spec"]["initContainers"]}
        there = all(_is_there(world.cluster.fetches.get(fetch)) or fetch in own for fetch in _asked(body))
        over = body["status"]["phase"] == "Failed"
        if _has_gate(body) and not over:
            assert not there
            assert world.cluster.told(body["metadata"]["uid"]), "a pod that waits says why"
    writes = len(world.cluster.writes)
    world.settle()
    world.settle()
    assert len(world.cluster.writes) == writes, "a look at pods at rest writes nothing"
    assert len(world.cluster.opened) == len(set(world.cluster.opened))
