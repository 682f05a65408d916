"""What a real API server makes of manifests: accepted, or refused with the sentence that says what to change."""

from typing import Any

import pytest
from kubernetes import client

from crd.fetches import Fetches, refusal_of
from crd.rows import CHANGES, CREATE, HUB, ROWS, S3, Change, Row, source, sources, target


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_manifest_is_accepted_or_refused_with_a_sentence(fetches: Fetches, row: Row) -> None:
    if row.refusal is None:
        fetches.create(row.spec)
        return
    with pytest.raises(client.ApiException) as refused:
        fetches.create(row.spec)
    assert row.refusal in refusal_of(refused.value)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_is_accepted_or_refused_with_a_sentence(fetches: Fetches, change: Change) -> None:
    there = fetches.create({"suspend": True, **change.before}, "changed", dry_run=False)
    try:
        if change.refusal is None:
            fetches.replace(there, spec=change.after)
            return
        with pytest.raises(client.ApiException) as refused:
            fetches.replace(there, spec=change.after)
        assert change.refusal in refusal_of(refused.value)
    finally:
        fetches.delete(there)


def test_the_server_fills_in_the_defaults(fetches: Fetches) -> None:
    spec = fetches.create(
        {**sources(S3, HUB), "target": {"persistentVolumeClaim": {"claimName": "d", "create": CREATE}}}
    )
    assert spec["spec"] == {
        "sources": [
            {
                **S3,
                "s3": {"bucket": "training", "addressingStyle": "Auto", "anonymous": False},
            },
            {
                **HUB,
                "huggingFace": {
                    **HUB["huggingFace"],
                    "repoType": "Model",
                    "revision": "main",
                },
            },
        ],
        "target": {
            "persistentVolumeClaim": {
                "claimName": "d",
                "create": {**CREATE, "accessModes": ["ReadWriteOnce"], "deletionPolicy": "Retain"},
            },
            "keepRevisions": 1,
        },
        "transfer": {"maxConcurrency": 256, "stallTimeout": "60s", "verify": "Identity"},
        "job": {"backoffLimit": 6},
        "suspend": False,
    }


def test_a_list_is_merged_by_name_when_two_managers_apply(fetches: Fetches, kubectl: Any, namespace: str) -> None:
    manifest = """{{apiVersion: datafetch.io/v1alpha1, kind: DataFetch, metadata: {{name: merged}},
                   spec: {{suspend: true, sources: [{{name: {0}, uri: "s3://{0}/"}}]}}}}"""
    for manager in ("one", "two"):
        arguments = ("apply", "--server-side", "--field-manager", manager, "-n", namespace, "-f", "-")
        kubectl(*arguments, stdin=manifest.format(manager))
    names = kubectl("get", "df", "merged", "-n", namespace, "-o", "jsonpath={.spec.sources[*].name}")
    kubectl("delete", "df", "merged", "-n", namespace)
    assert names == "one two"


_CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Published",
    "message": "The data is there.",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-31T00:00:00Z",
}


def _consumers(*numbers: int, phase: str = "Waiting") -> dict[str, Any]:
    pods = [{"name": f"train-{number}", "phase": phase} for number in numbers]
    return {"consumers": {"count": len(pods), "pods": pods}}


_STATUSES: list[tuple[str, dict[str, Any], str | None]] = [
    ("a percentage", {"progress": {"percent": 100}}, None),
    ("a percentage over 100", {"progress": {"percent": 101}}, "should be less than or equal to 100"),
    ("a negative count", {"progress": {"completedBytes": -1}}, "should be greater than or equal to 0"),
    ("9 exabytes", {"progress": {"totalBytes": 2**63 - 1}}, None),
    ("an unknown phase", {"phase": "Done"}, 'supported values: "Pending"'),
    ("a condition", {"conditions": [_CONDITION]}, None),
    ("two conditions of a type", {"conditions": [_CONDITION, _CONDITION]}, "Duplicate value"),
    ("a reason with blanks", {"conditions": [{**_CONDITION, "reason": "not ready"}]}, "should match"),
    ("a time that is none", {"lastSyncTime": "yesterday"}, "must be of type date-time"),
    ("twenty pods that ask", _consumers(*range(20)), None),
    ("more than twenty pods that ask", _consumers(*range(21)), "must have at most 20 items"),
    ("a pod that asks twice", _consumers(1, 1), "Duplicate value"),
    ("a pod that asks in an unknown phase", _consumers(1, phase="Done"), 'supported values: "Gated"'),
    ("an unknown field", {"state": "x"}, 'unknown field "status.state"'),
]


@pytest.mark.parametrize(("status", "refusal"), [row[1:] for row in _STATUSES], ids=[row[0] for row in _STATUSES])
def test_a_status_is_held_to_its_bounds(fetches: Fetches, status: dict[str, Any], refusal: str | None) -> None:
    there = fetches.create({**sources(S3), "suspend": True}, "bounded", dry_run=False)
    try:
        if refusal is None:
            assert fetches.replace_status(there, status=status)["status"] == status
            return
        with pytest.raises(client.ApiException) as refused:
            fetches.replace_status(there, status=status)
        assert refusal in refusal_of(refused.value)
    finally:
        fetches.delete(there)


def test_the_status_is_written_through_its_own_endpoint_only(fetches: Fetches) -> None:
    there = fetches.create({**sources(S3), "suspend": True}, "separate", dry_run=False)
    try:
        written = fetches.replace_status(there, spec=sources(HUB), status={"phase": "Recipe"})
        assert (written["spec"], written["status"]) == (there["spec"], {"phase": "Recipe"})
        changed = fetches.replace(there, spec={**sources(HUB), "suspend": True}, status={"phase": "Ready"})
        assert changed["spec"]["sources"][0]["name"] == "weights"
        assert changed.get("status", {}).get("phase") != "Ready"
    finally:
        fetches.delete(there)


def test_the_costliest_spec_is_within_the_rules_budget(fetches: Fetches) -> None:
    """The rules' cost counts at run time too: 16 sources and a target with the longest paths of the most segments."""
    path = "a/" * 511 + "b"
    many = [{**S3, "name": f"s{i}", "path": path} for i in range(16)]
    assert fetches.create({**target(path=path), **sources(*many)})
    assert fetches.create(source(uri="https://host/" + "a" * 2000))
