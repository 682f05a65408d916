"""The downloader of DataFetch: brings data to a directory, whole or not at all, resumable and verified.

    import datafetch

    datafetch.fetch("s3://bucket/corpus/", "data/corpus").run()

    with datafetch.source("s3://bucket/corpus/") as corpus:
        for found in corpus.list():
            print(found.path, found.size)

It never talks to the Kubernetes API. Importing it is cheap: the engine is imported when something of it is used, a
provider's SDK when a source needs it. Ingesters are in `datafetch.ingest`, errors in `datafetch.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datafetch import errors, ingest
    from datafetch.api import fetch, source
    from datafetch.engine import FetchOutcome
    from datafetch.errors import DataFetchError
    from datafetch.remote import RemoteObject, RemoteSource
    from datafetch.task import FetchProgress, FetchStatus, FetchTask

__version__ = "0.1.0"
_PLACES = {
    "DataFetchError": "errors",
    "FetchOutcome": "engine",
    "FetchProgress": "task",
    "FetchStatus": "task",
    "FetchTask": "task",
    "RemoteObject": "remote",
    "RemoteSource": "remote",
    "fetch": "api",
    "source": "api",
}
"""The module of each public name."""
__all__ = [
    "DataFetchError",
    "FetchOutcome",
    "FetchProgress",
    "FetchStatus",
    "FetchTask",
    "RemoteObject",
    "RemoteSource",
    "__version__",
    "errors",
    "fetch",
    "ingest",
    "source",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module's __getattr__ returns
    """Import the public names when they are first used."""
    if name in ("errors", "ingest"):
        return import_module(f"datafetch.{name}")
    if name in _PLACES:
        return getattr(import_module(f"datafetch.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
