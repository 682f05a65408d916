"""Options, seeds and rows of tests whose moments are drawn, for the conftest that imports these hooks.

Without `--chaos` a test runs with fixed seeds. With it, each runs as often as it says, from a seed that is drawn and
printed, and what came of them goes into a page (`--report`).
"""

import random
from pathlib import Path
from typing import Any

import pytest

from chaos.record import Command, Row, write

_rows: dict[str, Row] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make chaos` and `make chaos-cluster`."""
    group = parser.getgroup("chaos", "random moments")
    group.addoption("--chaos", action="store_true", help="all of it, more often, from a seed that is drawn")
    group.addoption("--seed", type=int, help="first seed of --chaos; the rounds count up from it")
    group.addoption("--rounds", type=int, help="rounds of each test with --chaos")
    group.addoption("--report", type=Path, help="page to write what came of --chaos into")


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed where none is given."""
    config.addinivalue_line("markers", "scenario(name): what a test is called in the report")
    config.addinivalue_line("markers", "rounds(number): how often a test that has a seed runs with --chaos")
    config.addinivalue_line("markers", "chaos: runs with --chaos only")
    if not is_chaos(config):
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
    """Say the seed."""
    if is_chaos(session.config) and not hasattr(session.config, "workerinput"):
        print(f"chaos: SEED={session.config.option.seed}", flush=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for `--chaos` only."""
    if is_chaos(config):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take a test into its row."""
    facts = dict(report.user_properties)
    if "scenario" in facts:
        _rows.setdefault(str(facts["scenario"]), Row()).take(facts, report)


def is_chaos(config: pytest.Config) -> bool:
    """Return whether the seeds are drawn."""
    return bool(config.getoption("--chaos", default=False))


def rounds_of(config: pytest.Config, test: pytest.Item | pytest.Function, usual: int) -> list[int]:
    """Return the seeds of a test with `--chaos`."""
    mark = test.get_closest_marker("rounds")
    rounds = config.option.rounds or (mark.args[0] if mark else usual)
    return [config.option.seed + number for number in range(rounds)]


def report_rows(session: pytest.Session, command: Command, *, passed: bool) -> None:
    """Write the page, where one is asked for."""
    page = session.config.getoption("--report", default=None)
    if page is not None and not hasattr(session.config, "workerinput"):
        write(page, command, _rows, seed=session.config.option.seed, passed=passed)
