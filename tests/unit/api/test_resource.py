"""The resource's models: they refuse what the API server refuses, for `datafetch run` has no API server."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from crd.rows import ROWS, Row, claim, sources, target, transfer
from crd.rows import S3 as SOURCE
from datafetch_api.resource import ArtifactStatus, DataFetch, DataFetchSpec, DataFetchStatus, ProgressStatus

_LEFT_TO_THE_SERVER = {"our label", "our annotation", "a variable twice"}
"""Only a cluster makes a Job: `datafetch run` has no use for these fields."""


@pytest.mark.parametrize("row", [row for row in ROWS if row.name not in _LEFT_TO_THE_SERVER], ids=lambda row: row.name)
def test_the_models_and_the_api_server_agree(row: Row) -> None:
    if row.refusal is None:
        DataFetchSpec.model_validate(row.spec)
        return
    with pytest.raises(ValidationError) as refused:
        DataFetchSpec.model_validate(row.spec)
    if not row.only_the_server:
        assert row.refusal in str(refused.value)


def test_what_is_left_to_the_server_is_about_the_job_only() -> None:
    left = [row for row in ROWS if row.name in _LEFT_TO_THE_SERVER]
    assert len(left) == len(_LEFT_TO_THE_SERVER)
    assert all(set(row.spec) == {"sources", "job"} for row in left)


def test_plain_numbers_are_sizes_too() -> None:
    assert DataFetchSpec.model_validate(transfer(bandwidthLimit=1_000_000)).transfer.bandwidth_limit == "1000000"
    spec = DataFetchSpec.model_validate(claim(size=2**30))
    assert spec.target is not None
    assert spec.target.persistent_volume_claim.create is not None
    assert spec.target.persistent_volume_claim.create.size == "1073741824"


@pytest.mark.parametrize("size", [True, 1.5, None, []])
def test_other_types_are_no_sizes(size: object) -> None:
    with pytest.raises(ValidationError):
        DataFetchSpec.model_validate(transfer(bandwidthLimit=size) if size is not None else claim(size=size))


def test_a_whole_object_is_read_as_the_api_server_sends_it() -> None:
    metadata = {"name": "f", "namespace": "n", "uid": "u", "generation": 3, "managedFields": [{"manager": "kubectl"}]}
    fetch = DataFetch.model_validate({"kind": "DataFetch", "metadata": metadata, "spec": target()})
    assert (fetch.metadata.name, fetch.metadata.generation) == ("f", 3)
    assert fetch.status == DataFetchStatus()


def test_a_status_of_another_version_is_read_as_far_as_it_is_known() -> None:
    status = {"phase": "Ready", "invented": 1, "progress": {"percent": 5, "later": True}}
    fetch = DataFetch.model_validate({"metadata": {"name": "f"}, "spec": sources(SOURCE), "status": status})
    assert fetch.status.progress is not None
    assert fetch.status.progress.percent == 5


def _written(status: DataFetchStatus) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
    return written


def test_the_status_that_is_written_has_texts_for_kubectl() -> None:
    progress = ProgressStatus(percent=42, total_bytes=1_471_026_594, bytes_per_second=91_435_827)
    written = _written(DataFetchStatus(progress=progress))
    assert written["size"] == "1.37 GiB"
    assert written["progress"]["display"] == "42%"
    assert written["progress"]["speed"] == "87.2 MiB/s"


def test_until_the_total_is_known_the_text_is_what_came_so_far() -> None:
    written = _written(DataFetchStatus(progress=ProgressStatus(completed_bytes=2**30)))
    assert written["progress"]["display"] == "1.00 GiB"
    assert "size" not in written
    assert "speed" not in written["progress"]


def test_the_size_of_what_is_published_is_shown_without_progress() -> None:
    artifact = ArtifactStatus(
        spec_hash="v1:0",
        manifest_digest="sha256:0",
        claim_uid="u",
        size_bytes=2**20,
        files=1,
        completion_time=datetime(2026, 1, 31, tzinfo=UTC),
    )
    written = _written(DataFetchStatus(artifact=artifact))
    assert written["size"] == "1.00 MiB"
    assert written["artifact"]["claimUID"] == "u"


def test_a_written_status_is_read_back_the_same() -> None:
    status = DataFetchStatus(progress=ProgressStatus(percent=1, bytes_per_second=5))
    assert DataFetchStatus.model_validate(_written(status)) == status
