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
    fetches.write_status(there, _STATUS, dry_run=False)
    yield there
    fetches.delete(there)


def _cells(text: str) -> dict[str, str]:
    """Return a table of one row by its headings; kubectl separates columns by three blanks at least."""
    head, row = text.rstrip().splitlines()
    starts = [i for i, letter in enumerate(head) if letter != " " and (i == 0 or head[i - 1] == " ")]
    ends = [*starts[1:], max(len(head), len(row))]
    return {head[start:end].strip(): row[start:end].strip() for start, end in zip(starts, ends, strict=True)}


def test_get_shows_phase_progress_size_ready_and_age(shown: Any, kubectl: Kubectl, namespace: str) -> None:
    cells = _cells(kubectl("get", "df", "-n", namespace))
    assert list(cells) == ["NAME", "PHASE", "PROGRESS", "SIZE", "READY", "AGE"]
    assert [cells[name] for name in ("NAME", "PROGRESS", "SIZE", "READY")] == ["shown", "42%", "1.37 GiB", "False"]


def test_get_wide_shows_why_and_how_fast(shown: Any, kubectl: Kubectl, namespace: str) -> None:
    cells = _cells(kubectl("get", "df", "-n", namespace, "-o", "wide"))
    expected = {
        "SPEED": "87.2 MiB/s",
        "ETA": "2026-01-31T00:10:00Z",
        "CLAIM": "data",
        "REVISION": "0a1b2c3",
        "ATTEMPTS": "2",
        "REASON": "Paused",
    }
    assert {name: cells[name] for name in expected} == expected


def test_the_category_and_the_field_selectors_find_it(shown: Any, kubectl: Kubectl, namespace: str) -> None:
    selector = "status.phase=Suspended,spec.target.persistentVolumeClaim.claimName=data"
    assert "datafetch.datafetch.io/shown" in kubectl("get", "datafetch", "-n", namespace, "-o", "name")
    assert "shown" in kubectl("get", "df", "-n", namespace, "--field-selector", selector)
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
