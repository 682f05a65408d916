"""What the sources of a config hold, all in one plan, for commands that fetch nothing. Writes nothing."""

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass

from datafetch.engine import FetchObserver, Opener, batches
from datafetch.errors import InterruptedByRequestError
from datafetch.ledger import Ledger
from datafetch.plan import Plan
from datafetch.sources import Source, open_source
from datafetch.unpacking import archives_of
from datafetch_api.config import DownloadConfig
from datafetch_api.report import SourceSummary, Stage

_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Listing:
    """A complete plan, and what each source had."""

    plan: Plan
    summaries: tuple[SourceSummary, ...]


def list_sources(
    config: DownloadConfig,
    *,
    observer: FetchObserver,
    cancel: threading.Event,
    opener: Opener = open_source,
    ledger: Ledger | None = None,
    fold: Callable[[str], str] = str,
) -> Listing:
    """List every source of the config, at the same time, into one plan.

    `ledger` knows what the target holds already, where that counts; `fold` says which names the target's file system
    takes for the same. Raises the DataFetchError that a fetch would end with: SourceNotFoundError, UnsafePathError and
    the like.
    """
    observer.stage(Stage.LISTING)
    names = [item.name for item in config.download_items]
    plan = Plan(ledger or scratch_ledger(), names, fold, archives_of(config.download_items))
    with ExitStack() as stack:
        sources: list[Source] = []
        for item in config.download_items:
            source = opener(item, float(config.transfer.stall_timeout))
            stack.callback(source.close)
            sources.append(source)
        summaries = _list_all(sources, plan, observer, cancel)
    plan.complete = True
    observer.totals(len(plan), plan.total_bytes)
    return Listing(plan, summaries)


def scratch_ledger() -> Ledger:
    """Return an empty ledger that spills to where temporary files go; it stays in memory where they go nowhere."""
    try:
        return Ledger(tempfile.gettempdir())
    except FileNotFoundError:
        return Ledger()


def _list_all(
    sources: Sequence[Source], plan: Plan, observer: FetchObserver, cancel: threading.Event
) -> tuple[SourceSummary, ...]:
    stop = threading.Event()

    def list_one(index: int) -> SourceSummary:
        source, files, size = sources[index], 0, 0
        for entries in batches(source.list()):
            if stop.is_set():
                break
            plan.add(index, entries)
            files += len(entries)
            size += sum(entry.size or 0 for entry in entries)
        summary = SourceSummary(name=source.name, resolved_revision=source.resolved_revision, files=files, bytes=size)
        observer.source_listed(summary)
        return summary

    with ThreadPoolExecutor(len(sources), "list") as pool:
        futures = [pool.submit(list_one, index) for index in range(len(sources))]
        try:
            waiting = set(futures)
            while waiting and not cancel.is_set():
                done, waiting = wait(waiting, _PAUSE_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
            if waiting:
                raise InterruptedByRequestError("stopped by a signal; nothing was changed")
        finally:
            stop.set()
    return tuple(future.result() for future in futures)
