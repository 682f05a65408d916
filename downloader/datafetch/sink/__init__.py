"""The only part of the downloader that writes data.

`directory` keeps every operation below the target, `lock` and `journal` survive kills and rivals, `layout` knows where
things lie and how they become visible, `manifest` says what was published, and `sink` is what the engine talks to.
"""

from datafetch.sink.archives import Archives
from datafetch.sink.layout import Complete, InPlaceLayout, Layout, ManagedLayout, Published
from datafetch.sink.lock import FencedError, TargetLock
from datafetch.sink.sink import Sink
from datafetch.sink.writer import FileWriter

__all__ = [
    "Archives",
    "Complete",
    "FencedError",
    "FileWriter",
    "InPlaceLayout",
    "Layout",
    "ManagedLayout",
    "Published",
    "Sink",
    "TargetLock",
]
