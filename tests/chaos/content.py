"""What is fetched: trees of files whose bytes say of which generation they are, and what is wrong with a tree found."""

import random
from collections.abc import Collection, Mapping
from pathlib import Path

STATE = ".datafetch"
_BLOCK = 1 << 20

Files = dict[str, bytes]


def big(chance: random.Random, size: int) -> bytes:
    """Bytes no two MiB of which are equal, nor equal to those of another call."""
    block = chance.randbytes(_BLOCK)
    pieces = [number.to_bytes(8, "big") + block[8:] for number in range(size // _BLOCK)]
    return b"".join(pieces) + block[: size % _BLOCK]


def small(chance: random.Random, count: int, largest: int) -> Files:
    """Many small files in a few directories, some of them empty."""
    return {
        f"notes/{number % 5}/note-{number:05}.txt": chance.randbytes(chance.choice((0, chance.randrange(largest))))
        for number in range(count)
    }


def next_generation(chance: random.Random, files: Files, number: int, *, same_names: bool = False) -> Files:
    """Files some of which changed; unless the names are to stay, one went and one is new."""
    names = [name for name in sorted(files) if len(files[name]) < 4 * _BLOCK]
    changed = dict(files)
    for name in chance.sample(names, min(5, len(names))):
        changed[name] = chance.randbytes(len(files[name]) + 1)
    if same_names:
        return changed
    del changed[chance.choice(names)]
    changed[f"new/{number}.bin"] = chance.randbytes(chance.randrange(1, 200_000))
    return changed


def tree(root: Path) -> Files:
    """Every file below a directory with its bytes; our own directory left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and STATE not in path.relative_to(root).parts
    }


def differences(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    """What keeps a tree from being the wanted one, in words: bytes make no readable assertion."""
    return [
        *(f"{name} is missing" for name in sorted(wanted.keys() - found.keys())),
        *(f"{name} should not be there" for name in sorted(found.keys() - wanted.keys())),
        *(
            f"{name} differs ({len(found[name])} bytes, wanted {len(wanted[name])})"
            for name in sorted(wanted.keys() & found.keys())
            if found[name] != wanted[name]
        ),
    ][:5]


def is_one_of(found: Mapping[str, bytes], generations: Collection[Mapping[str, bytes]]) -> bool:
    """Whether a tree is one whole generation."""
    return any(found == generation for generation in generations)
