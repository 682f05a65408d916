"""Faults of the cluster at moments that come from a seed, as in tests/chaos.

`make test` (in `make e2e`) runs the most telling ones, at fixed seeds. `make chaos-cluster` (`--chaos`) runs all, each
more often, from a seed that it draws and prints, and writes what came of them into a page (`--report`).
"""

import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.record import Record, Row
from deploy.kubectl import Kubectl
from e2e.conftest import free_port
from e2e.faults import page
from e2e.faults.origin import Origin

FIXED_SEED = 1
_rows: dict[str, Row] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "random moments")
    group.addoption("--chaos", action="store_true", help="all faults, more often, from a seed that is drawn")
    group.addoption("--seed", type=int, help="first seed of --chaos; the rounds count up from it")
    group.addoption("--rounds", type=int, help="rounds of each test with --chaos")
    group.addoption("--report", type=Path, help="page to write what came of --chaos into")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(name): what a test is called in the report")
    config.addinivalue_line("markers", "rounds(number): how often a test that has a seed runs with --chaos")
    config.addinivalue_line("markers", "chaos: runs with --chaos only")
    if not _is_chaos(config):
        return
    if hasattr(config, "workerinput"):
        config.option.seed = config.workerinput["seed"]
    elif config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(1 << 31)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist the seed: all of them have to draw the same."""
    node.workerinput["seed"] = node.config.getoption("--seed", default=None)


def pytest_sessionstart(session: pytest.Session) -> None:
    if _is_chaos(session.config) and not hasattr(session.config, "workerinput"):
        print(f"chaos: SEED={session.config.option.seed}", flush=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    seeds = [FIXED_SEED]
    if _is_chaos(metafunc.config):
        mark = metafunc.definition.get_closest_marker("rounds")
        rounds = metafunc.config.option.rounds or (mark.args[0] if mark else 1)
        seeds = [metafunc.config.option.seed + number for number in range(rounds)]
    metafunc.parametrize("seed", seeds, ids=lambda seed: f"seed{seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for `make chaos-cluster`."""
    if _is_chaos(config):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    facts = dict(report.user_properties)
    if "scenario" in facts:
        _rows.setdefault(str(facts["scenario"]), Row()).take(facts, report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    report = session.config.getoption("--report", default=None)
    if report is not None and not hasattr(session.config, "workerinput"):
        page.write(report, _rows, seed=session.config.option.seed, passed=exitstatus == 0)


def _is_chaos(config: pytest.Config) -> bool:
    return bool(config.getoption("--chaos", default=False))


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
