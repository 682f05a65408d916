"""Whether a downloaded tree is the right one, so that no client wins by failing. Reads only."""

import os
from pathlib import Path
from typing import TypeVar

from .shapes import PIECE_BYTES, File, Shape

_SAMPLED_FILES = 64
_SAMPLED_PIECES = 32
_OWN_STATE = frozenset({".datafetch", ".cache"})
"""Directories that datafetch and huggingface_hub keep at the root of the tree."""
_Item = TypeVar("_Item")


class WrongTreeError(Exception):
    """A client left a tree that is not the one it was to fetch; the message says what is wrong first."""


def check(shape: Shape, target: Path) -> None:
    """Raise WrongTreeError unless all files are there with their sizes, and the sampled bytes are right.

    Of at most 64 files, spread over the tree, at most 32 pieces of a MiB each are compared, the last one among them.
    """
    found = dict(_sizes(target, ""))
    wanted = {file.key: file.size for file in shape.files}
    if found != wanted:
        missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        sizes = sorted(key for key in wanted.keys() & found.keys() if wanted[key] != found[key])
        raise WrongTreeError(
            f"{len(missing)} files are missing ({missing[:1]}), {len(more)} too many ({more[:1]}), "
            f"{len(sizes)} of another size ({sizes[:1]})"
        )
    largest_first = sorted(shape.files, key=lambda file: -file.size)
    for file in largest_first[:3] + _spread(largest_first[3:], _SAMPLED_FILES - 3):
        _compare(file, target / file.key)


def _sizes(directory: Path, prefix: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if prefix or entry.name not in _OWN_STATE:
                    found += _sizes(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                found.append((prefix + entry.name, entry.stat(follow_symlinks=False).st_size))
    return found


def _compare(file: File, path: Path) -> None:
    with path.open("rb") as content:
        for index in _spread(list(range(file.pieces)), _SAMPLED_PIECES):
            content.seek(index * PIECE_BYTES)
            if content.read(PIECE_BYTES) != file.piece(index):
                raise WrongTreeError(f"{file.key} has wrong bytes at {index} MiB")


def _spread(items: list[_Item], count: int) -> list[_Item]:
    """Return at most `count` of the items at equal distances, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[number * (len(items) - 1) // (count - 1)] for number in range(count)]
