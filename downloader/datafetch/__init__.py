"""The downloader of DataFetch: brings data to a directory, whole or not at all, resumable and verified.

    import datafetch
    datafetch.fetch("s3://bucket/corpus/", "data/corpus")

It never talks to the Kubernetes API. Importing it is cheap: the engine is imported when something of it is used, a
provider's SDK when a source needs it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datafetch.api import FetchOutcome, fetch
    from datafetch.errors import DataFetchError

__version__ = "0.1.0"
__all__ = ["DataFetchError", "FetchOutcome", "__version__", "fetch"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what a module's __getattr__ returns
    """Import the public names when they are first used."""
    if name == "DataFetchError":
        from datafetch.errors import DataFetchError

        return DataFetchError
    if name in ("fetch", "FetchOutcome"):
        from datafetch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
