"""What a pod asks for in its annotations: the keys, defined once. How they are read is `datafetch_operator.admission`'s.

Keys under `datafetch.io/` on a pod are requests of its owner and nothing else; what we put on pods ourselves are labels.
"""

from enum import StrEnum

from datafetch_api import GROUP

PREFIX = f"{GROUP}/"


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
