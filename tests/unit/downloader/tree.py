"""What lies on the disk, as a value to compare."""

import os
from pathlib import Path


def tree(root: Path) -> dict[str, bytes]:
    """Return every file below the root with its content, our own directory left out."""
    found: dict[str, bytes] = {}
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name != ".datafetch"]
        for name in files:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = path.read_bytes()
    return found
