"""Asking again: while a source is listed, where its SDK does not, and with credentials that were rotated meanwhile.

Ranges that break off are asked for again by the engine.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from datafetch.errors import CredentialsRejectedError, DataFetchError, SourceUnavailableError
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


def with_renewal(ask: Callable[[], _T], renew: Callable[[], bool], *, source: str, key: str) -> _T:
    """Return what `ask` returns, asked once more where the credentials are refused and `renew` has found others.

    `source` and `key` are filled into the errors.
    """
    try:
        try:
            return ask()
        except CredentialsRejectedError:
            if not renew():
                raise
            return ask()
    except DataFetchError as error:
        raise error.at(source, key) from None
