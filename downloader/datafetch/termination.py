"""The termination message: a file that kubelet reads when the container has ended. What it says is the result's."""

import logging
import os

DEFAULT_PATH = "/dev/termination-log"
"""Where kubelet reads it, unless the pod says otherwise."""
logger = logging.getLogger(__name__)


def leave(message: str, path: str | None) -> None:
    """Write the message to `path`, or to the default place if there is one.

    A place that cannot be written is a warning, never a failure: the exit code says the most important thing.
    """
    if path is None and not os.access(DEFAULT_PATH, os.W_OK):
        return
    try:
        with open(path or DEFAULT_PATH, "w", encoding="utf-8") as file:
            file.write(message)
    except OSError as error:
        logger.warning("cannot write the termination message to %s: %s", path or DEFAULT_PATH, error.strerror)
