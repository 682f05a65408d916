"""A progress bar in a notebook: one display below the cell, drawn anew while a fetch runs.

The only module that imports IPython, in a notebook, where it is. rich needs ipywidgets to do that; a display of
IPython's own does not.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_FRAME_SECONDS = 0.5


class Shown(Protocol):
    """What a notebook can show."""

    def _repr_html_(self) -> str: ...


def is_notebook() -> bool:
    """Say whether this program runs in a notebook's kernel, whose cells show HTML."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # The kernel of Jupyter; a shell on a terminal is another class, and Colab's lies in a module of its own.
    return shell is not None and any(
        kind.__name__ == "ZMQInteractiveShell" or kind.__module__.startswith("google.colab")
        for kind in type(shell).__mro__
    )


@contextmanager
def shown(view: Shown) -> Iterator[None]:
    """Show something below the cell, drawn anew twice a second until the end."""
    from IPython.display import display

    handle = display(view, display_id=True)  # type: ignore[no-untyped-call]  # IPython has no types here
    if handle is None:
        yield
        return
    closing = threading.Event()

    def draw() -> None:
        while not closing.wait(_FRAME_SECONDS):
            handle.update(view)

    drawer = threading.Thread(target=draw, name="notebook-progress", daemon=True)
    drawer.start()
    try:
        yield
    finally:
        closing.set()
        drawer.join()
        handle.update(view)
