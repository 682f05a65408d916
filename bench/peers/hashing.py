"""What verifying costs by itself: the processor time to hash the same bytes with the library that datafetch uses.

MD5 of S3 objects uploaded in one part; on the Hub, SHA-256 of LFS files and SHA-1 of the others.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from . import hub
from .content import Stored
from .shapes import File, Shape


def seconds(shape: Shape, stored: list[Stored], protocol: str) -> float:
    """Return the processor time of hashing what the protocol gives a digest for, in pieces as they would arrive."""
    algorithms = _algorithms(shape, stored, protocol)
    if not algorithms:
        return 0.0
    algorithms[0][0].piece(0)  # makes the content's block, which is no part of this
    started = time.process_time()
    for file, algorithm in algorithms:
        digest = algorithm(usedforsecurity=False)
        for index in range(file.pieces):
            digest.update(file.piece(index))
        digest.digest()
    return time.process_time() - started


def _algorithms(shape: Shape, stored: list[Stored], protocol: str) -> list[tuple[File, Callable[..., Any]]]:
    if protocol == "hub":
        return [(file, hashlib.sha256 if hub.is_large(file) else hashlib.sha1) for file in shape.files]
    with_md5 = {one.key for one in stored if one.has_md5}
    return [(file, hashlib.md5) for file in shape.files if file.key in with_md5]
