"""A world to decide in: one DataFetch, its claim, Jobs and pods, as values, and what Kubernetes would do with them.

`World.reconcile` observes, decides and applies like `reconcile.py`, without its I/O, and counts every write.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from datafetch_api.exit_codes import ExitCode
from datafetch_api.report import Failure, Progress, Result, SourceSummary, Stage, to_termination_message
from datafetch_api.resource import DataFetch, DataFetchStatus
from datafetch_api.spec_hash import spec_hash
from datafetch_operator.errors import Action
from datafetch_operator.lifecycle import Decision, decide, needs_mounts
from datafetch_operator.observation import (
    Claim,
    Claimant,
    Job,
    Key,
    Mount,
    Notice,
    Observation,
    Place,
    Pod,
    Termination,
    read_claimant,
    read_job,
    with_work,
)
from datafetch_operator.render.config_map import Attempt, render_config_map
from datafetch_operator.render.drift_job import Check, render_check_config_map, render_check_job
from datafetch_operator.render.job import render_job
from datafetch_operator.settings import Settings

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SETTINGS = Settings(downloader_image="example.org/datafetch-downloader:1")
NAMESPACE = "team"
UID = "11111111-2222-3333-4444-555555555555"

Json = dict[str, Any]


def resource(name: str = "tinyllama", **spec: Any) -> Json:
    """Return a DataFetch of one S3 source onto the existing claim `data`."""
    return {
        "apiVersion": "datafetch.io/v1alpha1",
        "kind": "DataFetch",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-31T12:00:00Z",
        },
        "spec": {
            "sources": [{"name": "weights", "s3": {"bucket": "models", "prefix": "llama/"}}],
            "target": {"persistentVolumeClaim": {"claimName": "data"}},
            **spec,
        },
    }


def fetch(name: str = "tinyllama", status: DataFetchStatus | None = None, **spec: Any) -> DataFetch:
    """Return the same as a model."""
    parsed = DataFetch.model_validate(resource(name, **spec))
    return parsed if status is None else parsed.model_copy(update={"status": status})


def bound_claim(uid: str = "claim-1", capacity: str = "10Gi") -> Claim:
    return Claim("data", uid, "Bound", START, capacity=capacity, requested=capacity, access_modes=("ReadWriteMany",))


def made_claim(requested: str = "10Gi", capacity: str = "10Gi") -> Claim:
    """Return a claim that was created for the DataFetch."""
    return Claim("data", "claim-1", "Bound", START, capacity=capacity, requested=requested, made_for=UID)


def one_node_claim(*modes: str) -> Claim:
    """Return a claim that only one node can mount."""
    return replace(bound_claim(), access_modes=modes or ("ReadWriteOnce",))


def pending_claim(uid: str = "claim-1") -> Claim:
    return Claim("data", uid, "Pending", START, requested="10Gi")


def claimant(name: str, path: str, created: str, uid: str) -> Claimant:
    return Claimant(Key(NAMESPACE, name), uid, created, "data", path)


def success_message(total: int = 1000, reused: int = 0, digest: str = "sha256:abc") -> str:
    result = Result(
        exit_code=0,
        total_bytes=total,
        completed_bytes=total,
        reused_bytes=reused,
        total_files=2,
        completed_files=2,
        manifest_digest=digest,
        revision="r1",
        publication="Link",
        sources=(SourceSummary(name="weights", resolved_revision="abc123", files=2, bytes=total),),
    )
    return to_termination_message(result)


def failure_message(code: ExitCode, message: str = "source 'weights': it went wrong") -> str:
    failure = Failure(reason=code.reason, message=message, retryable=code.retryable, source="weights")
    return to_termination_message(Result(exit_code=code, failure=failure))


def some_progress(completed: int = 500, total: int | None = 1000, rate: int = 100) -> Progress:
    return Progress(
        stage=Stage.FETCHING,
        time=START,
        total_bytes=total,
        completed_bytes=completed,
        total_files=2 if total else None,
        bytes_per_second=rate,
        last_progress_time=START,
    )


def _first_refused(decision: Decision) -> Action | None:
    if decision.create_claim:
        return "create claim"
    if decision.start is not None:
        return "start"
    if decision.check is not None:
        return "check"
    return "grow claim" if decision.grow_claim is not None else None


@dataclass
class World:
    """What the API server holds."""

    fetch: DataFetch = field(default_factory=fetch)
    claim: Claim | None = field(default_factory=bound_claim)
    jobs: dict[str, Job] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    notices: tuple[Notice, ...] = ()
    now: datetime = START
    writes: list[str] = field(default_factory=list)
    rivals: tuple[Claimant, ...] = ()
    mounts: tuple[Mount, ...] = ()
    """Who else mounts the claim."""
    silence: float = 0.0
    """Seconds for which a log has had no newer line."""
    place: Place | None = None
    """Where it stands in the queue of those that want to start."""
    refuses: str | None = None
    """What the API server answers to whoever creates something."""
    ended: dict[str, set[int]] = field(default_factory=dict)
    """The shards of each Job that have ended well."""
    claims_made: int = 0
    jobs_made: int = 0
    checks_made: int = 0
    digest: str = "sha256:abc"
    """Of what the sources hold."""

    # --- the operator ---

    def see(self, progress: Progress | None = None, refusals: Mapping[Action, str] | None = None) -> Observation:
        seen = self._look(progress, refusals)
        return replace(seen, mounts=self.mounts) if needs_mounts(seen, decide(seen)) else seen

    def _look(self, progress: Progress | None, refusals: Mapping[Action, str] | None) -> Observation:
        this = read_claimant(
            self.fetch.metadata.model_dump(mode="json", by_alias=True), self.fetch.spec.model_dump(by_alias=True)
        )
        seen = Observation(
            now=self.now,
            fetch=self.fetch,
            claimants=(this, *self.rivals),
            claim=self.claim,
            notices=self.notices,
            progress=progress,
            refusals=refusals or {},
            place=self.place,
            silence=self.silence,
            consumers=self.fetch.status.consumers,
        )
        return with_work(seen, self.jobs.values(), tuple(self.pods))

    def decide(self, progress: Progress | None = None, refusals: Mapping[Action, str] | None = None) -> Decision:
        return decide(self.see(progress, refusals))

    def reconcile(self, progress: Progress | None = None, dies_after: int = 99) -> Decision:
        """Decide and apply; the operator is killed after so many writes of this reconcile."""
        decision = self.decide(progress)
        left = self._apply(decision, dies_after)
        refusals: dict[Action, str] = {}
        while self.refuses and left and (refused := _first_refused(decision)) is not None:
            refusals[refused] = self.refuses
            decision = self.decide(refusals=refusals)
            left = self._apply(decision, left)
        return decision

    def settle(self) -> int:
        """Reconcile until nothing is written any more; return how many reconciles wrote something."""
        for rounds in range(12):
            before = len(self.writes)
            self.reconcile()
            if len(self.writes) == before:
                return rounds
        raise AssertionError(f"does not come to rest: {self.writes[-8:]}")

    def _apply(self, decision: Decision, left: int) -> int:
        for removal in decision.remove:
            if not left:
                return 0
            known = self.jobs.get(removal.name)
            if removal.job_uid is not None and known is not None and known.uid == removal.job_uid:
                del self.jobs[removal.name]
                self.pods = [pod for pod in self.pods if pod.job != removal.name]
                self.writes.append(f"delete {removal.name}")
                left -= 1
        if decision.create_claim and left and self.refuses is None:
            self.claims_made += 1
            self.claim = replace(pending_claim(f"created-{self.claims_made}"), made_for=UID)
            self.writes.append("create claim")
            left -= 1
        if decision.status is not None and decision.status != self.fetch.status and left:
            # What the API server keeps is what was sent: through JSON and back.
            kept = decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)
            self.fetch = self.fetch.model_copy(update={"status": DataFetchStatus.model_validate(kept)})
            self.writes.append("status")
            left -= 1
        if decision.start is not None and left and self.refuses is None:
            self._create_job(decision.start)
            left -= 1
        if decision.check is not None and left and self.refuses is None:
            self._create_check(decision.check)
            left -= 1
        if decision.grow_claim is not None and left and self.refuses is None and self.claim is not None:
            self.claim = replace(self.claim, requested=decision.grow_claim)
            self.writes.append("grow claim")
            left -= 1
        return left

    def _create_job(self, attempt: Attempt) -> None:
        assert self.fetch.status.job_ref is not None
        assert self.fetch.status.job_ref.name == attempt.plan, "the attempt stands in the status before its Job exists"
        assert self.fetch.status.attempts == attempt.number
        assert attempt.name not in self.jobs, "a Job is replaced, never changed"
        render_config_map(attempt)
        manifest = render_job(attempt, SETTINGS)
        self.jobs_made += 1
        manifest["metadata"] |= {"uid": f"job-{self.jobs_made}", "creationTimestamp": self.now.isoformat()}
        self.jobs[attempt.name] = read_job(manifest)
        self.writes.append(f"create {attempt.name}")

    def _create_check(self, check: Check) -> None:
        assert check.name not in self.jobs, "a Job is replaced, never changed"
        render_check_config_map(check)
        manifest = render_check_job(check, SETTINGS)
        self.checks_made += 1
        manifest["metadata"] |= {"uid": f"check-{self.checks_made}", "creationTimestamp": self.now.isoformat()}
        self.jobs[check.name] = read_job(manifest)
        self.writes.append(f"create {check.name}")

    # --- the rest of the world ---

    @property
    def status(self) -> DataFetchStatus:
        return self.fetch.status

    @property
    def job(self) -> Job:
        (job,) = self.jobs.values()
        return job

    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def change(self, **spec: Any) -> None:
        """Change the spec, as a user does."""
        content = self.fetch.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True) | spec
        parsed = DataFetch.model_validate({"spec": content})
        metadata = self.fetch.metadata.model_copy(update={"generation": self.fetch.metadata.generation + 1})
        self.fetch = self.fetch.model_copy(update={"spec": parsed.spec, "metadata": metadata})

    def run_pod(self, **more: Any) -> Pod:
        """Let the newest Job have a running pod."""
        job = list(self.jobs.values())[-1]
        pod = Pod(f"{job.name}-{len(self.pods)}", f"pod-{len(self.pods)}", job.name, "Running", self.now, node="node0")
        left = [shard for shard in range(job.shards) if shard not in self.ended.get(job.name, ())]
        self.pods.append(replace(pod, index=left[0] if left else 0))
        self.pods[-1] = replace(self.pods[-1], **more)
        return self.pods[-1]

    def end_pod(self, code: int, message: str = "", reason: str = "Error") -> None:
        """Let the newest pod's container end."""
        phase = "Failed" if code else "Succeeded"
        self.pods[-1] = replace(self.pods[-1], phase=phase, termination=Termination(code, reason, message))
        name = self.pods[-1].job
        if not code:
            self.ended.setdefault(name, set()).add(self.pods[-1].index)
        if code:
            self.jobs[name] = replace(self.jobs[name], failed_pods=self.jobs[name].failed_pods + 1)

    @property
    def all_ended(self) -> bool:
        """Whether every shard of the newest pod's Job has ended well."""
        job = self.jobs[self.pods[-1].job]
        return len(self.ended.get(job.name, ())) == job.shards

    def end_job(self, how: Any, reason: str = "", message: str = "") -> None:
        """Let the newest pod's Job end."""
        name = self.pods[-1].job if self.pods else next(iter(self.jobs))
        self.jobs[name] = replace(
            self.jobs[name], finished=how, finish_reason=reason, finish_message=message, finish_time=self.now
        )

    def succeed(self) -> None:
        self.run_pod()
        self.end_pod(0, success_message(digest=self.digest), "Completed")
        self.end_job("Complete")

    def fail(self, code: ExitCode = ExitCode.SOURCE_NOT_FOUND) -> None:
        self.run_pod()
        self.end_pod(code, failure_message(code))
        self.end_job("Failed", "PodFailurePolicy")

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition."""
        (found,) = [c for c in self.status.conditions if c.type == kind]
        return found.status, found.reason, found.message


def hash_of(world: World) -> str:
    return spec_hash(world.fetch.spec.sources)
