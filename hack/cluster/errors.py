"""The one error of the cluster tooling: a sentence that says what happened and what to do."""


class ClusterError(Exception):
    """Something that the caller can act on; the command line prints it without a traceback."""
