"""From any state that can be reached, deciding and applying comes to rest, and at rest nothing is written.

What users, Kubernetes and a dying operator can do is played in any order; what must hold is asserted after each step.
"""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Progress, Stage
from datafetch_api.resource import Phase
from datafetch_operator.observation import Mount, Place
from unit.operator.world import START, World, bound_claim, failure_message, fetch, some_progress, success_message

CREATE = {"persistentVolumeClaim": {"claimName": "data", "create": {"size": "10Gi"}}}
RETRYABLE = [ExitCode.SOURCE_UNAVAILABLE, ExitCode.INTERRUPTED]
FATAL = [ExitCode.SOURCE_NOT_FOUND, ExitCode.INSUFFICIENT_SPACE]
RESTING = {Phase.READY, Phase.FAILED, Phase.SUSPENDED, Phase.RECIPE}


def _live_job(world: World) -> bool:
    return bool(world.pods) and world.pods[-1].running and world.pods[-1].job in world.jobs


def _news() -> Progress:
    return some_progress().model_copy(update={"stage": Stage.WAITING, "message": "another pod holds the target"})


def _pod_runs(world: World) -> None:
    unfinished = [job for job in world.jobs.values() if job.finished is None]
    if unfinished and not _live_job(world):
        world.run_pod()


def _pod_ends_well(world: World) -> None:
    if _live_job(world):
        world.end_pod(0, success_message(digest=world.digest), "Completed")
        if world.all_ended:
            world.end_job("Complete")


def _pod_fails(world: World, code: ExitCode) -> None:
    if not _live_job(world):
        return
    world.end_pod(code, failure_message(code))
    job = world.jobs[world.pods[-1].job]
    if not code.retryable:
        world.end_job("Failed", "PodFailurePolicy")
    elif job.failed_pods > job.backoff_limit:
        world.end_job("Failed", "BackoffLimitExceeded")


def _pods_go(world: World) -> None:
    world.pods = [pod for pod in world.pods if pod.running]


def _jobs_go(world: World) -> None:
    world.jobs.clear()
    world.pods.clear()


def _claim_is_replaced(world: World) -> None:
    _jobs_go(world)
    world.claims_made += 1
    world.claim = bound_claim(f"other-{world.claims_made}")


def _claim_goes(world: World) -> None:
    _jobs_go(world)
    world.claim = None


def _claim_is_bound(world: World) -> None:
    if world.claim is not None:
        world.claim = replace(world.claim, phase="Bound", capacity="20Gi")


def _claim_is_for(world: World, mode: str) -> None:
    if world.claim is not None:
        world.claim = replace(world.claim, access_modes=(mode,))


def _no_node_takes_it(world: World) -> None:
    if _live_job(world):
        world.pods[-1] = replace(world.pods[-1], phase="Pending", node=None, unschedulable="0/3 nodes")


def _wants_more(world: World) -> None:
    target = world.fetch.spec.target
    if target is not None and target.persistent_volume_claim.create is not None:
        size = f"{world.fetch.metadata.generation + 10}Gi"
        world.change(target={"persistentVolumeClaim": {"claimName": "data", "create": {"size": size}}})


def _place(position: int) -> Place:
    return Place(position, 9, f"waits for a free download: 3 of 3 are active; position {position} of 9")


def _sources_change(world: World) -> None:
    """Let the next check find something else than what is published, and the next fetch bring it."""
    world.digest = f"sha256:{world.fetch.metadata.generation}{len(world.writes)}"


def _sources(prefix: str) -> list[dict[str, object]]:
    return [{"name": "weights", "s3": {"bucket": "models", "prefix": prefix}}]


HAPPENINGS: dict[str, Callable[[World], object]] = {
    "time passes": lambda world: world.pass_time(7),
    "much time passes": lambda world: world.pass_time(400),
    "a pod runs": _pod_runs,
    "the pod ends well": _pod_ends_well,
    "the pod fails, and may try again": lambda world: _pod_fails(world, RETRYABLE[0]),
    "the pod is interrupted": lambda world: _pod_fails(world, RETRYABLE[1]),
    "the pod fails for good": lambda world: _pod_fails(world, FATAL[0]),
    "the volume is full": lambda world: _pod_fails(world, FATAL[1]),
    "finished pods go": _pods_go,
    "jobs go": _jobs_go,
    "the claim is replaced": _claim_is_replaced,
    "the claim goes": _claim_goes,
    "the claim is bound or grows": _claim_is_bound,
    "other sources": lambda world: world.change(sources=_sources("mistral/")),
    "the first sources": lambda world: world.change(sources=_sources("llama/")),
    "a trigger": lambda world: world.change(refresh={"trigger": f"t{world.fetch.metadata.generation}"}),
    "no trigger": lambda world: world.change(refresh={}),
    "a schedule": lambda world: world.change(refresh={"schedule": "*/5 * * * *"}),
    "drift checks": lambda world: world.change(refresh={"driftCheck": {"schedule": "*/3 * * * *"}}),
    "drift checks beside a schedule": lambda world: world.change(
        refresh={"schedule": "*/5 * * * *", "driftCheck": {"schedule": "* * * * *"}}
    ),
    "the sources change": _sources_change,
    "a schedule that never comes": lambda world: world.change(refresh={"schedule": "0 0 30 2 *"}),
    "suspend": lambda world: world.change(suspend=True),
    "resume": lambda world: world.change(suspend=False),
    "three pods share it": lambda world: world.change(job={"shards": 3}),
    "one pod is enough": lambda world: world.change(job={}),
    "time to live": lambda world: world.change(job={"ttlSecondsAfterFinished": 5}),
    "a larger claim is wanted": _wants_more,
    "the claim is for one node": lambda world: _claim_is_for(world, "ReadWriteOnce"),
    "the claim is for everybody": lambda world: _claim_is_for(world, "ReadWriteMany"),
    "the claim is for one pod": lambda world: _claim_is_for(world, "ReadWriteOncePod"),
    "somebody mounts the claim": lambda world: setattr(world, "mounts", (Mount("trainer-0", START, "node7"),)),
    "somebody else mounts the claim": lambda world: setattr(world, "mounts", (Mount("trainer-1", START, "node8"),)),
    "nobody mounts the claim": lambda world: setattr(world, "mounts", ()),
    "no node takes the pod": _no_node_takes_it,
    "as many downloads as may be are under way": lambda world: setattr(world, "place", _place(7)),
    "it moves up in the queue": lambda world: setattr(world, "place", world.place and _place(3)),
    "it is its turn": lambda world: setattr(world, "place", None),
    "creation is refused": lambda world: setattr(world, "refuses", "exceeded quota"),
    "creation is allowed": lambda world: setattr(world, "refuses", None),
    "the status is lost": lambda world: setattr(
        world, "fetch", world.fetch.model_copy(update={"status": fetch().status})
    ),
    "the operator looks": lambda world: world.reconcile(),
    "the operator reads progress": lambda world: world.reconcile(_news() if _live_job(world) else None),
    "the operator dies at once": lambda world: world.reconcile(dies_after=0),
    "the operator dies after one write": lambda world: world.reconcile(dies_after=1),
    "the operator dies after two writes": lambda world: world.reconcile(dies_after=2),
    "the operator comes to rest": lambda world: world.settle(),
}


def _check(world: World) -> None:
    artifact = world.status.artifact
    checks = [job for job in world.jobs.values() if job.is_check]
    assert len(checks) <= 1, "two drift checks of one fetch"
    assert not checks or world.status.phase == Phase.READY, "a drift check where something else is to be done"
    unfinished = [job for job in world.jobs.values() if job.finished is None and not job.is_check]
    assert len(unfinished) <= 1, "two downloads of one fetch"
    if world.status.phase in RESTING:
        assert not unfinished, "nothing runs where nothing is to be done"
    if not world.status.conditions or world.status.phase == Phase.RECIPE:
        return
    ready = world.condition("Ready")[0] == "True"
    assert ready == (artifact is not None and world.claim is not None and artifact.claim_uid == world.claim.uid)
    assert (world.condition("Failed")[0] == "True") == (world.status.phase == Phase.FAILED)
    drift = world.status.drift
    if drift is not None and world.condition("UpToDate")[1] in ("Current", "Drifted"):
        assert (world.condition("UpToDate")[1] == "Drifted") == drift.changed
        assert drift.failed or drift.changed == (drift.manifest_digest != (artifact and artifact.manifest_digest))
    assert world.status.observed_generation == world.fetch.metadata.generation


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=25))
def test_whatever_happens_it_comes_to_rest_and_then_writes_nothing(creates: bool, happenings: list[str]) -> None:
    world = World(fetch(target=CREATE) if creates else fetch())
    for happening in happenings:
        HAPPENINGS[happening](world)
    world.settle()
    _check(world)
    writes = len(world.writes)
    world.reconcile()
    world.reconcile()
    assert len(world.writes) == writes, "a look at a world at rest writes nothing"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(sorted(HAPPENINGS)), max_size=20))
def test_whatever_happened_a_fetch_that_is_let_alone_gets_ready(happenings: list[str]) -> None:
    world = World(fetch(target=CREATE))
    for happening in happenings:
        HAPPENINGS[happening](world)
    world.refuses, world.mounts, world.place = None, (), None
    _claim_is_for(world, "ReadWriteMany")
    world.change(suspend=False, refresh={"trigger": "for the last time"})
    if world.claim is None:
        world.change(job={})  # the claim that is created is for one node
    for _ in range(8):
        world.settle()
        _claim_is_bound(world)
        _pod_runs(world)
        world.settle()
        _pod_ends_well(world)
        world.pass_time(400)
    world.settle()
    assert world.status.phase == Phase.READY
    assert world.condition("UpToDate")[0] == "True"
    assert world.status.last_handled_trigger == "for the last time"
