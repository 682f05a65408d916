"""Links to where objects' bytes are, which servers sign for a while: kept for an object's other ranges. No I/O."""

import threading
import time
from collections import OrderedDict

_MOST_LINKS = 1024


class Links:
    """Links by object, the latest ones. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def get(self, key: str) -> str | None:
        """Return an object's link while it may be used."""
        with self._lock:
            link, until = self._links.get(key, ("", 0.0))
            return link if time.monotonic() < until else None

    def keep(self, key: str, link: str, seconds: float) -> None:
        """Remember an object's link for so long."""
        with self._lock:
            self._links[key] = (link, time.monotonic() + seconds)
            self._links.move_to_end(key)
            if len(self._links) > _MOST_LINKS:
                self._links.popitem(last=False)

    def forget(self, key: str, link: str) -> None:
        """Drop a link, unless another thread has brought a newer one."""
        with self._lock:
            if self._links.get(key, ("", 0.0))[0] == link:
                del self._links[key]
