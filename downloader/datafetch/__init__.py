"""The downloader of DataFetch: brings data to a directory, whole or not at all, resumable and verified.

It never talks to the Kubernetes API. Importing it is cheap: a provider's SDK is imported when a source needs it.
"""

__version__ = "0.1.0"
