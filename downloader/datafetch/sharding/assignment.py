"""Which shard gets which file: whole files, balanced by bytes and by number. Pure.

The files that are large beside a shard's share are dealt out first, the largest to whom has least; the rest follows in
its order, each to whom has least. So no shard has more above the mean than one file of the rest, or, where a few files
are larger than that, what no assignment of whole files can avoid by much. Memory does not grow with the files.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar

FILE_COST = 256 << 10
"""Bytes that a file counts for beside those that are to be fetched: its request, and its names."""
_PIECES = 64
"""A file is large when it is more than this fraction of one shard's share: there can be so many of them only."""

_T = TypeVar("_T")


def cost(missing_bytes: int) -> int:
    """Return what a file costs of which so many bytes are to be fetched."""
    return max(0, missing_bytes) + FILE_COST


def assign(
    costs: Iterable[tuple[int, int]], files: Iterable[tuple[int, int, _T]], count: int
) -> Iterator[tuple[int, _T]]:
    """Yield each of `files` with its shard, in that order. Both are the same files, as (id, cost) and (id, cost, file).

    They are gone through once each: the first time to learn what is large.
    """
    large = _find_large(costs, count)
    loads = [(0, shard) for shard in range(count)]
    homes: dict[int, int] = {}
    for identifier, one in sorted(large.items(), key=lambda item: (-item[1], item[0])):
        load, shard = heapq.heappop(loads)
        homes[identifier] = shard
        heapq.heappush(loads, (load + one, shard))
    for identifier, one, file in files:
        known = homes.get(identifier)
        if known is None:
            load, known = heapq.heappop(loads)
            heapq.heappush(loads, (load + one, known))
        yield known, file


def _find_large(costs: Iterable[tuple[int, int]], count: int) -> dict[int, int]:
    """Return the files whose cost is large beside the sum of all, with it."""
    total = 0
    candidates: list[tuple[int, int]] = []
    for identifier, one in costs:
        total += one
        # What is large beside the sum so far; of those that turn out small in the end few are kept at a time.
        if one * count * _PIECES > total:
            heapq.heappush(candidates, (one, identifier))
            while candidates and candidates[0][0] * count * _PIECES <= total:
                heapq.heappop(candidates)
    return {identifier: one for one, identifier in candidates if one * count * _PIECES > total}
