"""What a pod asks for in its annotations: the keys, and how a list of fetches is written.

Keys under `datafetch.io/` on a pod are requests of its owner and nothing else; what we put on pods ourselves are
labels. What follows from a request is decided in `datafetch_operator.admission`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from datafetch_api import GROUP

PREFIX = f"{GROUP}/"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME = 253


class PodAnnotation(StrEnum):
    """A key that a pod's owner may set. `docs/pods.md` says what each means."""

    FETCH = f"{PREFIX}fetch"
    URI = f"{PREFIX}uri"
    CONFIG = f"{PREFIX}config"
    MOUNT_PATH = f"{PREFIX}mount-path"
    CONTAINERS = f"{PREFIX}containers"
    WAIT = f"{PREFIX}wait"
    VOLUME = f"{PREFIX}volume"
    PATH = f"{PREFIX}path"
    SIZE = f"{PREFIX}size"
    READ_ONLY = f"{PREFIX}read-only"
    SECRET = f"{PREFIX}secret"
    AFTER = f"{PREFIX}after"
    RUN_AS_USER = f"{PREFIX}run-as-user"
    CPU = f"{PREFIX}cpu"
    MEMORY = f"{PREFIX}memory"
    CPU_LIMIT = f"{PREFIX}cpu-limit"
    MEMORY_LIMIT = f"{PREFIX}memory-limit"


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One DataFetch that a pod asks for."""

    name: str
    mount_path: str | None = None
    """Where it is to be mounted; None where `datafetch.io/mount-path` decides."""


def parse_fetches(text: str) -> tuple[FetchRequest, ...]:
    """Return the fetches that the value of `datafetch.io/fetch` names: `NAME[=MOUNT_PATH], ...`.

    Raises ValueError with a sentence where it cannot be read.
    """
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    requests = tuple(_parse_fetch(part) for part in parts if part)
    if not requests:
        raise ValueError("it is empty; name a DataFetch of the pod's namespace")
    names = [request.name for request in requests]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"it names {twice[0]!r} twice; name it once")
    return requests


def _parse_fetch(part: str) -> FetchRequest:
    name, equals, path = (piece.strip() for piece in part.partition("="))
    if "/" in name:
        raise ValueError(
            f"{name!r} is not the name of a DataFetch; a pod gets data of its own namespace only, so write the name "
            "without a namespace"
        )
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{name!r} is not the name of a DataFetch; write NAME or NAME=/MOUNT/PATH, separated by commas"
        )
    return FetchRequest(name, path if equals else None)
