"""Which fetches may start where downloads are limited, and what those that wait are told. Pure.

The limits count downloads that are under way, in the whole cluster and for each host that data comes from. Who is next
is decided among namespaces first: the one with the fewest downloads under way, and of several that whose fetch has
waited longest; within a namespace by waiting time. So nobody gets further by asking for more. What is under way is
never stopped, also where a limit was lowered.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from datafetch_api.resource import ConditionType, DataFetch, HttpSource, Source
from datafetch_operator.observation import Key, Place
from datafetch_operator.reasons import Reason

_URI_HOSTS = {
    "s3": "s3.amazonaws.com",
    "gs": "storage.googleapis.com",
    "az": "blob.core.windows.net",
    "hf": "huggingface.co",
    "lakefs": "lakefs",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Most downloads under way at a time; None is no limit."""

    active: int | None = None
    """In the whole cluster."""
    per_host: int | None = None
    """From one host."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A fetch that is under way, or wants to be."""

    key: Key
    since: datetime
    """Since when it has wanted to start: a refresh waits from when it came due, not from when its fetch was created."""
    hosts: tuple[str, ...]
    """The hosts that it brings data from, each once."""
    active: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may start now, and where everybody else stands."""

    start: tuple[Key, ...] = ()
    """In the order in which they have a right to."""
    queue: dict[Key, Place] = field(default_factory=dict)


def contender(fetch: DataFetch, due: datetime) -> Contender:
    """Return the fetch as one that wants to start; `due` is since when, where its status does not say it."""
    said = next((found for found in fetch.status.conditions if found.type == ConditionType.PROGRESSING), None)
    queued = said is not None and said.reason == Reason.QUEUED
    since = said.last_transition_time if said is not None and queued else due
    return Contender(Key(fetch.metadata.namespace, fetch.metadata.name), since, source_hosts(fetch.spec.sources))


def is_news(position: int, told: int) -> bool:
    """Return whether a place in the queue differs enough from the one that was told: half of it, or twice as much.

    A thousand fetches that move up one by one are told so ten times at the most, not a thousand times each.
    """
    return position * 2 <= told or position >= told * 2


def admit(contenders: Iterable[Contender], limits: Limits) -> Admission:
    """Return who may start now and where the others stand; the same for the same contenders in any order."""
    contenders = tuple(contenders)
    usage = _Usage(limits, contenders)
    start: list[Key] = []
    waiting: list[tuple[Key, str]] = []
    for contender in fair_order(contenders):
        obstacle = usage.full() or usage.full_host(contender)
        if obstacle is None:
            usage.start(contender)
            start.append(contender.key)
        else:
            waiting.append((contender.key, obstacle))
    places = {
        key: Place(position, len(waiting), f"waits for {obstacle}; position {position} of {len(waiting)}")
        for position, (key, obstacle) in enumerate(waiting, 1)
    }
    return Admission(tuple(start), places)


def fair_order(contenders: Sequence[Contender]) -> list[Contender]:
    """Return those that wait, in the order in which they would start if one could start at a time and none ended."""
    lines: dict[str, deque[Contender]] = {}
    for contender in sorted(contenders, key=lambda contender: (contender.since, contender.key)):
        if not contender.active:
            lines.setdefault(contender.key.namespace, deque()).append(contender)
    active = Counter(contender.key.namespace for contender in contenders if contender.active)
    heads = [(active[namespace], line[0].since, namespace) for namespace, line in lines.items()]
    heapq.heapify(heads)
    order: list[Contender] = []
    while heads:
        count, _, namespace = heads[0]
        line = lines[namespace]
        order.append(line.popleft())
        if line:
            heapq.heapreplace(heads, (count + 1, line[0].since, namespace))
        else:
            heapq.heappop(heads)
    return order


class _Usage:
    """How many downloads are under way, and at which hosts a place is kept for one that waits."""

    def __init__(self, limits: Limits, contenders: Iterable[Contender]) -> None:
        self._limits = limits
        self._active = 0
        self._by_host: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        for contender in contenders:
            if contender.active:
                self.start(contender)

    def start(self, contender: Contender) -> None:
        """Count the fetch as under way."""
        self._active += 1
        self._by_host.update(contender.hosts)

    def full(self) -> str | None:
        """Return what every fetch waits for, if there is such a thing."""
        most = self._limits.active
        if most is None or self._active < most:
            return None
        return f"a free download: {self._active} of {most} are active"

    def full_host(self, contender: Contender) -> str | None:
        """Return which host this fetch waits for, if it does.

        For the first that waits for a host, a place is kept at its other hosts too: else one that needs two at a time
        would be overtaken at each of them for ever.
        """
        most = self._limits.per_host
        if most is None:
            return None
        host = next((host for host in contender.hosts if self._by_host[host] + self._kept[host] >= most), None)
        if host is None:
            return None
        active = self._by_host[host]
        ahead = "" if active >= most else ", and the next place is for one ahead of it"
        if not self._kept[host]:
            self._kept.update(contender.hosts)
        return f"a free download from {host}: {active} of {most} are active{ahead}"


def source_hosts(sources: Iterable[Source]) -> tuple[str, ...]:
    """Return the hosts that the sources' data comes from, sorted, each once.

    What only a Secret knows, an Azure account or the address of a lakeFS server, counts as one host for all.
    """
    return tuple(sorted({host for source in sources for host in _hosts(source) if host}))


def _hosts(source: Source) -> Iterator[str]:
    if source.http is not None:
        yield from map(_host_of, _addresses(source.http))
    elif source.git is not None:
        yield _host_of(source.git.url)
    elif source.uri is not None:
        yield _URI_HOSTS.get(source.uri.partition("://")[0]) or _host_of(source.uri)
    elif source.azure_blob is not None:
        account = f"{source.azure_blob.account}." if source.azure_blob.account else ""
        yield _host_of(source.azure_blob.endpoint) or f"{account}{_URI_HOSTS['az']}"
    for provider, scheme in (
        (source.s3, "s3"),
        (source.gcs, "gs"),
        (source.hugging_face, "hf"),
        (source.lake_fs, "lakefs"),
    ):
        if provider is not None:
            yield _host_of(provider.endpoint) or _URI_HOSTS[scheme]


def _addresses(http: HttpSource) -> Iterator[str]:
    """Give the addresses that the spec names; what an index lists is taken to be where the index is."""
    if http.url is not None:
        yield http.url
    if http.index is not None:
        yield http.index.url
    yield from (file.url for file in http.files or ())


def _host_of(url: str | None) -> str:
    """Return the host of a URL, or of git's USER@HOST:PATH, in lower case, without its port; empty for none."""
    if not url:
        return ""
    if "://" not in url:
        return url.partition("@")[2].partition(":")[0].lower()
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return url.partition("://")[2].partition("/")[0].lower()  # Brackets that do not close: it will fail by itself.
