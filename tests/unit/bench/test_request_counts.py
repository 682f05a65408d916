"""What the scale benchmark counts: requests by verb, writes of a life, and how close two of them come."""

from collections import Counter

import pytest
from bench import request_counts
from bench.request_counts import Life, Request

BEFORE = """
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",group="batch",resource="jobs",scope="namespace",subresource="",verb="LIST"} 8
apiserver_request_total{code="200",group="batch",resource="jobs",scope="cluster",subresource="",verb="LIST"} 2
apiserver_request_total{code="200",group="",resource="pods",scope="namespace",subresource="",verb="WATCH"} 5
apiserver_longrunning_requests{group="",resource="pods",scope="namespace",subresource="",verb="WATCH"} 3
apiserver_longrunning_requests{group="",resource="pods",scope="resource",subresource="log",verb="CONNECT"} 1
"""
AFTER = """
apiserver_request_total{code="200",group="batch",resource="jobs",scope="namespace",subresource="",verb="LIST"} 9
apiserver_request_total{code="200",group="batch",resource="jobs",scope="cluster",subresource="",verb="LIST"} 2
apiserver_request_total{code="409",group="datafetch.io",resource="datafetches",subresource="status",verb="APPLY"} 4e+01
apiserver_request_total{code="200",group="",resource="pods",scope="namespace",subresource="",verb="WATCH"} 6
apiserver_longrunning_requests{group="",resource="pods",scope="namespace",subresource="",verb="WATCH"} 3
apiserver_longrunning_requests{group="",resource="pods",scope="resource",subresource="log",verb="CONNECT"} 2
"""


def test_requests_are_counted_by_verb_and_resource_over_all_scopes_and_codes() -> None:
    assert request_counts.requests_of(BEFORE)[Request("LIST", "jobs")] == 10


def test_requests_in_one_namespace_are_told_from_those_for_the_whole_cluster() -> None:
    assert request_counts.requests_of(BEFORE, "namespace")[Request("LIST", "jobs")] == 8


def test_a_watch_counts_when_it_is_opened_and_not_again_when_it_ends() -> None:
    seen = request_counts.since(request_counts.requests_of(BEFORE), request_counts.requests_of(AFTER))
    assert seen == {Request("LIST", "jobs"): 1, Request("APPLY", "datafetches/status"): 40, Request("WATCH", "pods"): 1}


def test_only_the_resources_that_were_asked_for_are_shown() -> None:
    seen = Counter({Request("LIST", "jobs"): 1, Request("LIST", "secrets"): 2, Request("GET", "jobs"): 3})
    assert request_counts.by_verb(seen, ["jobs"]) == {
        "GET": {Request("GET", "jobs"): 3},
        "LIST": {Request("LIST", "jobs"): 1},
    }


def test_the_operators_writes_are_all_but_its_reads() -> None:
    metrics = """
datafetch_api_requests_total{code="200",verb="GET"} 900.0
datafetch_api_requests_total{code="201",verb="POST"} 3.0
datafetch_api_requests_total{code="409",verb="PATCH"} 2.0
datafetch_api_requests_total{code="200",verb="DELETE"} 1.0
"""
    assert request_counts.own_writes(metrics) == 6


def test_a_write_of_progress_alone_is_told_from_all_others() -> None:
    life = Life()
    life.note({}, 0.0)
    life.note({"phase": "Fetching"}, 1.0)
    life.note({"phase": "Fetching", "progress": {"percent": 1}}, 2.0)
    life.note({"phase": "Fetching", "progress": {"percent": 1}}, 3.0)
    life.note({"phase": "Ready", "progress": {"percent": 100}}, 4.0)
    assert (life.progress, life.others, life.phase) == ([2.0], 2, "Ready")


@pytest.mark.parametrize(
    ("lives", "gap"), [([[1.0, 12.0], [5.0]], 11.0), ([[1.0, 12.0, 14.0]], 2.0), ([[1.0], []], None)]
)
def test_the_shortest_gap_is_that_of_one_resource(lives: list[list[float]], gap: float | None) -> None:
    assert request_counts.shortest_gap(lives) == gap


def test_the_busiest_window_is_found_wherever_it_begins() -> None:
    assert request_counts.busiest([30.0, 0.0, 9.0, 10.5, 11.0, 18.9], 10.0) == 4
    assert request_counts.busiest([], 10.0) == 0
