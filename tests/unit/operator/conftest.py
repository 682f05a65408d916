"""Fixtures of the operator's unit tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def restore_logging() -> Iterator[None]:
    """Give the root logger back as it was."""
    root, kopf = logging.getLogger(), logging.getLogger("kopf")
    before = list(root.handlers), root.level, kopf.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    kopf.setLevel(before[2])
