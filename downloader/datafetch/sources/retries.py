"""Asking again while a source is listed, for providers whose SDK does not, or that have none.

Ranges are asked for again by the engine.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from datafetch.errors import SourceUnavailableError
from datafetch.pace import wait_before_retry

_TRIES = 4
_T = TypeVar("_T")


def with_retries(ask: Callable[[], _T], *, sleep: Callable[[float], object] = time.sleep) -> _T:
    """Return what `ask` returns, asked up to four times while the source is unavailable."""
    for tries in range(1, _TRIES):
        try:
            return ask()
        except SourceUnavailableError as error:
            wait = wait_before_retry(error, tries)
            if wait is None:
                raise
            sleep(wait)
    return ask()
