"""Counts out of what the API server and the operator say of themselves, and out of the life of a resource. Pure."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})


class Request(NamedTuple):
    """A kind of request."""

    verb: str
    resource: str
    """With the subresource after a slash, where there is one."""


Requests = Counter[Request]


def samples(metrics: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of each sample of a metric in Prometheus' text format."""
    found = []
    for line in metrics.splitlines():
        match = _SAMPLE.match(line) if line.startswith(name) else None
        if match is not None and match["name"] == name:
            found.append((dict(_LABEL.findall(match["labels"] or "")), float(match["value"])))
    return found


def requests_of(metrics: str, scope: str = "") -> Requests:
    """Return the requests that the API server has answered. A watch counts when it is opened, not when it ends.

    With a scope (`resource`, `namespace` or `cluster`), only those.
    """
    found: Requests = Counter()
    for name in ("apiserver_request_total", "apiserver_longrunning_requests"):
        for labels, value in samples(metrics, name):
            verb, subresource = labels.get("verb", ""), labels.get("subresource", "")
            if scope not in ("", labels.get("scope")):
                continue
            if name == "apiserver_request_total" or verb == "WATCH":
                resource = labels.get("resource", "") + (f"/{subresource}" if subresource else "")
                found[Request(verb, resource)] += int(value)
    return found


def since(before: Requests, after: Requests) -> Requests:
    """Return what was asked between two looks."""
    return Counter({request: after[request] - before[request] for request in after if after[request] > before[request]})


def own_writes(metrics: str) -> int:
    """Return how many writing requests the operator counted itself, whatever became of them."""
    counted = samples(metrics, "datafetch_api_requests_total")
    return int(sum(value for labels, value in counted if labels.get("verb") in _WRITES))


def by_verb(requests: Requests, resources: Iterable[str]) -> dict[str, Requests]:
    """Return the requests for some resources by verb, in the order of the alphabet."""
    wanted = set(resources)
    found: dict[str, Requests] = {}
    for request in sorted(requests):
        if request.resource in wanted:
            found.setdefault(request.verb, Counter())[request] = requests[request]
    return found


@dataclass
class Life:
    """The writes of one resource's status, as a watch saw them."""

    progress: list[float] = field(default_factory=list)
    """When a write changed nothing but the progress, in seconds of any clock."""
    others: int = 0
    phase: str = ""
    _status: Json = field(default_factory=dict)

    def note(self, status: Json, now: float) -> None:
        """Note the status of the next version."""
        before, self._status = self._status, status
        self.phase = status.get("phase", "")
        if status == before:
            return
        if _without_progress(status) == _without_progress(before):
            self.progress.append(now)
        else:
            self.others += 1


def _without_progress(status: Json) -> Json:
    return {name: value for name, value in status.items() if name != "progress"}


def shortest_gap(lives: Iterable[list[float]]) -> float | None:
    """Return the shortest time between two moments of one list; None where no list has two."""
    gaps = (later - earlier for times in lives for earlier, later in itertools.pairwise(times))
    return min(gaps, default=None)


def busiest(times: Iterable[float], seconds: float) -> int:
    """Return how many of the moments fall into the window of so many seconds that holds most."""
    ordered = sorted(times)
    most, first = 0, 0
    for number, moment in enumerate(ordered):
        while moment - ordered[first] >= seconds:
            first += 1
        most = max(most, number - first + 1)
    return most
