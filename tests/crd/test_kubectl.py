"""What people see: columns, short name, category, selectors, and a text for every field."""

from typing import Any

import pytest

from crd.fetches import Fetches, Kubectl
from crd.rows import target

_CONDITION = {
    "type": "Ready",
    "status": "False",
    "reason": "Fetching",
    "message": "The data is on its way.",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-31T00:00:00Z",
}
_STATUS = {
    "phase": "Suspended",
    "reason": "Paused",
    "attempts": 2,
    "consumers": {"count": 3, "pods": [{"name": "train-x7k2p", "phase": "Waiting"}]},
    "size": "1.37 GiB",
    "progress": {
        "percent": 42,
        "display": "42%",
        "speed": "87.2 MiB/s",
        "estimatedCompletionTime": "2026-01-31T00:10:00Z",
    },
    "sources": [{"name": "corpus", "resolvedRevision": "0a1b2c3"}],
    "conditions": [_CONDITION],
}


@pytest.fixture
def shown(fetches: Fetches) -> Any:
    there = fetches.create({**target(), "suspend": True}, "shown", dry_run=False)
    yield there
    fetches.delete(there)


def test_get_shows_phase_progress_size_ready_and_age(shown: Any, fetches: Fetches) -> None:
    columns = fetches.show(shown, _STATUS)
    narrow = {name: cell for name, (priority, cell) in columns.items() if priority == 0}
    assert list(narrow) == ["Name", "Phase", "Progress", "Size", "Ready", "Age"]
    assert list(narrow.values())[:5] == ["shown", "Suspended", "42%", "1.37 GiB", "False"]


def test_get_wide_shows_why_and_how_fast(shown: Any, fetches: Fetches) -> None:
    columns = fetches.show(shown, _STATUS)
    assert {name: cell for name, (priority, cell) in columns.items() if priority == 1} == {
        "Speed": "87.2 MiB/s",
        "ETA": "2026-01-31T00:10:00Z",
        "Claim": "data",
        "Revision": "0a1b2c3",
        "Attempts": 2,
        "Consumers": 3,
        "Reason": "Paused",
    }


def test_short_name_category_and_field_selectors_find_it(shown: Any, kubectl: Kubectl, namespace: str) -> None:
    claim = "spec.target.persistentVolumeClaim.claimName"
    for kind in ("datafetch", "df", "datafetches.datafetch.io"):
        assert "datafetch.datafetch.io/shown" in kubectl("get", kind, "-n", namespace, "-o", "name")
    assert "shown" in kubectl("get", "df", "-n", namespace, "--field-selector", f"{claim}=data")
    assert "shown" not in kubectl("get", "df", "-n", namespace, "--field-selector", f"{claim}=other")
    assert "shown" not in kubectl("get", "df", "-n", namespace, "--field-selector", "status.phase=Ready")


def test_explain_has_a_text_for_every_field(kubectl: Kubectl, definition: None) -> None:
    for part in (
        "",
        ".spec",
        ".spec.sources",
        ".spec.sources.s3",
        ".spec.target.persistentVolumeClaim.create",
        ".status",
    ):
        lines = kubectl("explain", f"datafetch{part}").split("FIELDS:\n")[1].splitlines()
        fields = [i for i, line in enumerate(lines) if line.startswith("  ") and line[2] != " "]
        assert fields
        assert [lines[i] for i in fields if lines[i + 1].strip() in ("", "<no description>")] == []


def test_explain_of_the_sources_reads_like_documentation(kubectl: Kubectl, definition: None) -> None:
    text = " ".join(kubectl("explain", "datafetch.spec.sources").split())
    assert "exactly one provider member, or a URI" in text
    assert "Globs of the files to take, relative to the source's root; ** crosses slashes, * does not." in text
