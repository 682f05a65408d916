"""Asking again: for listings, where an SDK does not or gives up too soon, and with credentials that were rotated.

Ranges that break off are asked for again by the engine.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InterruptedByRequestError,
    SourceUnavailableError,
)
from datafetch.pace import wait_before_retry

_TRIES = 4
_TRIES_THROTTLED = 10
"""Of an SDK that has tried a few times itself, but not waited for as long as the server said."""
_T = TypeVar("_T")


def with_retries(ask: Callable[[], _T], closed: threading.Event) -> _T:
    """Return what `ask` returns, asked up to four times while the source is unavailable.

    Raises InterruptedByRequestError where the source is closed meanwhile: a server may ask to wait for two minutes.
    """
    return _ask_again(ask, closed, _TRIES, lambda _: True)


def while_throttled(ask: Callable[[], _T], closed: threading.Event) -> _T:
    """Return what `ask` returns, asked again as long as the source asks for fewer requests, up to ten times.

    Raises as `with_retries`.
    """
    return _ask_again(ask, closed, _TRIES_THROTTLED, lambda error: error.throttled)


def _ask_again(
    ask: Callable[[], _T], closed: threading.Event, most: int, is_worth_it: Callable[[SourceUnavailableError], bool]
) -> _T:
    for tries in range(1, most):
        try:
            return ask()
        except SourceUnavailableError as error:
            wait = wait_before_retry(error, tries) if is_worth_it(error) else None
            if wait is None:
                raise
            if closed.wait(wait):
                raise InterruptedByRequestError("stopped while it was waiting to ask again") from None
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
