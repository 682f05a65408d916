"""Faults of the cluster at moments that come from a seed, as in tests/chaos.

`make test` (in `make e2e`) runs the most telling ones, at fixed seeds. `make chaos-cluster` (`--chaos`) runs all, each
more often, from a seed that it draws and prints, and writes what came of them into a page (`--report`).
"""

import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.record import Command, Record
from chaos.seeds import (  # noqa: F401 - pytest finds hooks by their names here
    is_chaos,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_configure_node,
    pytest_runtest_logreport,
    pytest_sessionstart,
    report_rows,
    rounds_of,
)
from deploy.kubectl import Kubectl
from e2e.conftest import free_port
from e2e.faults.origin import Origin

FIXED_SEED = 1
COMMAND = Command("make chaos-cluster", "fault", ("operator", "downloader", "crds", "helm", "hack", "tests"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        config, test = metafunc.config, metafunc.definition
        seeds = rounds_of(config, test, usual=1) if is_chaos(config) else [FIXED_SEED]
        metafunc.parametrize("seed", seeds, ids=lambda seed: f"seed{seed}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    report_rows(session, COMMAND, passed=exitstatus == 0)


@pytest.fixture
def chance(seed: int) -> random.Random:
    """Where every random choice of a test comes from."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def record(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Record:
    """What the report says of a test."""
    record_property("scenario", request.node.get_closest_marker("scenario").args[0])
    return Record(record_property)


@pytest.fixture
def origin(kubectl: Kubectl, host: str, tmp_path: Path) -> Iterator[Origin]:
    """Run an S3 server that a test may stop, and start again with other keys."""
    namespace = f"storage-{uuid.uuid4().hex[:8]}"
    made = Origin.begin(kubectl, namespace, tmp_path, host, free_port(host))
    try:
        yield made
    finally:
        made.stop()
        kubectl.run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
