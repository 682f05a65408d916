"""Reading what the API server sends, in its own words."""

from datetime import UTC, datetime

import pytest

from datafetch_operator.observation import (
    Key,
    Mount,
    Termination,
    read_claim,
    read_claimant,
    read_job,
    read_mount,
    read_notice,
    read_pod,
    read_pods,
)

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
META = {"name": "x", "namespace": "team", "uid": "u", "creationTimestamp": "2026-01-31T12:00:00Z"}


def test_a_bound_claim() -> None:
    body = {
        "metadata": META,
        "spec": {"resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
    }
    claim = read_claim(body)
    assert (claim.phase, claim.capacity, claim.requested, claim.deleting, claim.created) == (
        "Bound",
        "10Gi",
        "5Gi",
        False,
        NOON,
    )


def test_a_claim_on_its_way_out() -> None:
    claim = read_claim({"metadata": {**META, "deletionTimestamp": "2026-01-31T12:00:01Z"}})
    assert (claim.deleting, claim.phase, claim.capacity) == (True, "Pending", None)


def test_how_a_claim_can_be_mounted_says_what_it_got_before_what_it_asks_for() -> None:
    pending = {"metadata": META, "spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Pending"}}
    bound = pending | {"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}
    assert read_claim(pending).access_modes == ("ReadWriteMany",)
    assert read_claim(bound).access_modes == ("ReadWriteOnce", "ReadOnlyMany")
    assert read_claim({"metadata": META}).access_modes == ()


@pytest.mark.parametrize(
    ("modes", "shared"),
    [
        (["ReadWriteOnce"], False),
        (["ReadWriteOncePod"], False),
        (["ReadWriteOnce", "ReadWriteMany"], True),
        (["ReadOnlyMany"], True),
    ],
)
def test_a_claim_is_shared_where_pods_on_several_nodes_can_mount_it(modes: list[str], shared: bool) -> None:
    assert read_claim({"metadata": META, "spec": {"accessModes": modes}}).shared is shared


def test_a_failed_job() -> None:
    metadata = META | {
        "annotations": {
            "datafetch.io/attempt": "2",
            "datafetch.io/spec-hash": "v1:a",
            "datafetch.io/claim-uid": "c",
            "datafetch.io/generation": "7",
            "datafetch.io/trigger": "t",
        },
        "ownerReferences": [{"uid": "other", "name": "o"}, {"uid": "owner", "name": "df", "controller": True}],
    }
    status = {
        "failed": 3,
        "conditions": [
            {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"},
            {
                "type": "Failed",
                "status": "True",
                "reason": "PodFailurePolicy",
                "message": "exit code 11",
                "lastTransitionTime": "2026-01-31T12:00:00Z",
            },
        ],
    }
    job = read_job({"metadata": metadata, "spec": {"backoffLimit": 4}, "status": status})
    assert (job.attempt, job.spec_hash, job.claim_uid, job.generation, job.trigger) == (2, "v1:a", "c", 7, "t")
    assert (job.owner_uid, job.backoff_limit, job.failed_pods) == ("owner", 4, 3)
    assert (job.finished, job.finish_reason, job.finish_time) == ("Failed", "PodFailurePolicy", NOON)


def test_a_job_that_is_about_to_fail_has_not_ended() -> None:
    status = {"conditions": [{"type": "FailureTarget", "status": "True"}, {"type": "Failed", "status": "False"}]}
    assert read_job({"metadata": META, "status": status}).finished is None


def test_a_terminated_pod() -> None:
    terminated = {"exitCode": 11, "reason": "Error", "message": "{}"}
    status = {
        "phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True"}],
        "containerStatuses": [
            {"name": "sidecar", "state": {"running": {}}},
            {"name": "datafetch", "state": {"terminated": terminated}},
        ],
    }
    metadata = META | {"ownerReferences": [{"name": "job-1", "uid": "j", "controller": True}]}
    pod = read_pod({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status})
    assert (pod.job, pod.node, pod.disrupted, pod.finished, pod.running) == ("job-1", "n", True, True, False)
    assert pod.termination == Termination(11, "Error", "{}")


def test_a_pod_that_no_node_takes() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    pod = read_pod({"metadata": META, "status": {"conditions": [condition]}})
    assert (pod.unschedulable, pod.phase) == ("0/1 nodes", "Pending")
    gated = condition | {"reason": "SchedulingGated"}
    assert read_pod({"metadata": META, "status": {"conditions": [gated]}}).unschedulable is None


def test_pods_come_in_the_order_of_their_making() -> None:
    bodies = [
        {"metadata": META | {"name": name, "creationTimestamp": f"2026-01-31T12:00:0{second}Z"}}
        for name, second in (("c", 2), ("b", 1), ("a", 1))
    ]
    assert [pod.name for pod in read_pods(bodies)] == ["a", "b", "c"]


def test_an_event_of_either_kind() -> None:
    old = {"metadata": META, "involvedObject": {"uid": "p"}, "reason": "R", "message": "m", "type": "Warning"}
    old["lastTimestamp"] = "2026-01-31T12:00:00Z"
    assert (read_notice(old).uid, read_notice(old).time, read_notice(old).warning) == ("p", NOON, True)
    new = old | {"lastTimestamp": None, "eventTime": "2026-01-31T12:00:00.000000Z", "type": "Normal"}
    assert (read_notice(new).time, read_notice(new).warning) == (NOON, False)


def test_only_unfinished_pods_that_mount_the_claim_count() -> None:
    def pod(phase: str, claim: str) -> dict[str, object]:
        return {
            "metadata": META,
            "spec": {"volumes": [{"emptyDir": {}}, {"persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": phase, "startTime": "2026-01-31T12:00:00Z"},
        }

    bodies = [pod("Running", "data"), pod("Succeeded", "data"), pod("Running", "other"), pod("Pending", "data")]
    assert [read_mount(body, "data") is not None for body in bodies] == [True, False, False, True]


def test_who_mounts_a_claim_says_where_and_what_let_it_go_there() -> None:
    taint = {"key": "gpu", "operator": "Exists"}
    body = {
        "metadata": {**META, "labels": {"datafetch.io/uid": "f"}, "deletionTimestamp": "2026-01-31T12:00:01Z"},
        "spec": {
            "nodeName": "n",
            "tolerations": [taint],
            "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}],
        },
        "status": {"phase": "Pending"},
    }
    assert read_mount(body, "data") == Mount("x", NOON, "n", "f", deleting=True, tolerations=(taint,))


def test_claimants_are_read_from_specs_that_nobody_checked() -> None:
    recipe = read_claimant(META, {})
    assert (recipe.key, recipe.claim, recipe.path) == (Key("team", "x"), "", "x")
    target = {"persistentVolumeClaim": {"claimName": "data"}, "path": "a/b"}
    assert (read_claimant(META, {"target": target}).claim, read_claimant(META, {"target": target}).path) == (
        "data",
        "a/b",
    )
