"""The environment variables of Super Obj Soaker, which `datafetch get` obeys; no other command looks at them.

Their names are general, so another program may have set them: what was found is said in one line of the log, and what
cannot be read is an error. An option of the command line wins over its variable, which is not even read then.
"""

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datafetch.commands.options import (
    TRANSFER_SETTINGS,
    decimal_number,
    delay_seconds,
    retry_count,
    with_settings,
    worker_count,
)
from datafetch.errors import InvalidConfigError

if TYPE_CHECKING:
    from datafetch_api.config import DownloadConfig

_MEGABYTE = 1_000_000
"""The smaller of the two that are called so: a limit in it holds for whoever meant the other."""
_NO_LIMIT = 1_000_000
"""MB/s from here on are none; Super Obj Soaker's own default is 99999999999999999999."""
_LONGEST_INTERVAL = 3600
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Variable:
    """A variable, and what it sets."""

    name: str
    setting: str
    """Of the config's `transfer`."""
    read: Callable[[str], float | int | None]
    """Returns the setting's value, None for what is its default anyway; raises argparse.ArgumentTypeError."""
    meaning: str
    option: str | None = None


def _speed(text: str) -> int | None:
    speed = decimal_number(text)
    if not speed:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MB/s above 0")
    return max(1, int(speed * _MEGABYTE)) if speed < _NO_LIMIT else None


def _interval(text: str) -> float:
    seconds = decimal_number(text)
    if not seconds or seconds > _LONGEST_INTERVAL:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, up to {_LONGEST_INTERVAL}")
    return seconds


_VARIABLES = (
    _Variable("MIN_PROCESSES", "min_concurrency", worker_count, "fewest requests at a time", "--min-workers"),
    _Variable("MAX_PROCESSES", "max_concurrency", worker_count, "most requests at a time", "--max-workers"),
    _Variable("MAX_SPEED", "bandwidth_limit", _speed, "most MB/s", "--bandwidth-limit"),
    _Variable("OPTIMIZATION_INTERVAL", "tuning_interval", _interval, "most seconds until another number is tried"),
    _Variable("MAX_RETRIES", "max_retries", retry_count, "tries again of one range", "--max-retries"),
    _Variable("RETRY_DELAY", "retry_delay", delay_seconds, "seconds before the first of them", "--retry-delay"),
)


def with_environment(
    config: "DownloadConfig", environment: Mapping[str, str], options: argparse.Namespace
) -> "DownloadConfig":
    """Return the config with what the variables say, and log that. Raises InvalidConfigError."""
    given = {setting for name, setting in TRANSFER_SETTINGS.items() if getattr(options, name) is not None}
    update: dict[str, object] = {}
    found = []
    for variable in _VARIABLES:
        text = environment.get(variable.name, "").strip()
        if not text:
            continue
        if variable.setting in given:
            found.append(f"{variable.name} (not read: {variable.option} is given)")
            continue
        value = _read(variable, text)
        found.append(f"{variable.name}={text} ({variable.meaning})")
        if value is not None:
            update[variable.setting] = value
    if found:
        logger.info("from the environment: %s", ", ".join(found))
    return with_settings(config, update)


def _read(variable: _Variable, text: str) -> float | int | None:
    try:
        return variable.read(text)
    except argparse.ArgumentTypeError as error:
        instead = f", or give {variable.option}" if variable.option else ""
        raise InvalidConfigError(
            f"the environment variable {variable.name}: {error}; correct it or unset it{instead}"
        ) from None
