"""Seeds, and what came of them: the tests here draw every moment and every choice from one number.

`make test` runs each with the seeds 1, 2 and 3. `make chaos` (`--chaos`) takes more and longer rounds from a seed that
it draws and prints, and writes what came of them into a page (`--report`). A test that fails says how to run it again.
"""

import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.record import Record, Row, write
from chaos.scale import CHAOS, FIXED, Scale
from servers.emulators import S3Server, versitygw

FIXED_SEEDS = (1, 2, 3)
_rows: dict[str, Row] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "random moments")
    group.addoption("--chaos", action="store_true", help="more and longer rounds, from a seed that is drawn")
    group.addoption("--seed", type=int, help="first seed of --chaos; the rounds count up from it")
    group.addoption("--rounds", type=int, help="rounds of each test with --chaos")
    group.addoption("--report", type=Path, help="page to write what came of --chaos into")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(name): what a test of random moments is called in the report")
    config.addinivalue_line("markers", "rounds(number): how often it runs with --chaos")
    if not config.getoption("--chaos", default=False):
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
    if session.config.getoption("--chaos", default=False) and not hasattr(session.config, "workerinput"):
        print(f"chaos: SEED={session.config.option.seed}", flush=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(metafunc.config, metafunc.definition), ids=lambda seed: f"seed{seed}")


def _seeds(config: pytest.Config, test: pytest.Item | pytest.Function) -> list[int]:
    mark = test.get_closest_marker("rounds")
    if not config.getoption("--chaos", default=False):
        return list(FIXED_SEEDS[: mark.kwargs.get("fixed", 3)] if mark else FIXED_SEEDS)
    rounds = config.option.rounds or (mark.args[0] if mark else 3)
    return [config.option.seed + number for number in range(rounds)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function) and "seed" in item.fixturenames:
        report.sections.append(("run it again", _replay(item)))
    return report


def _replay(item: pytest.Function) -> str:
    if not item.config.getoption("--chaos", default=False):
        return f"pytest '{item.nodeid}'"
    return f"make chaos SEED={item.callspec.params['seed']} ROUNDS=1 TEST={item.originalname}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    facts = dict(report.user_properties)
    if "scenario" not in facts:
        return
    row = _rows.setdefault(str(facts["scenario"]), Row())
    row.take(facts, report)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    page = config.getoption("--report", default=None)
    if page is None or hasattr(config, "workerinput"):
        return
    write(page, _rows, seed=config.option.seed, passed=exitstatus == 0)


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    """How much a test does."""
    return CHAOS if request.config.getoption("--chaos", default=False) else FIXED


@pytest.fixture
def chance(seed: int) -> random.Random:
    """Where every random choice of a test comes from."""
    return random.Random(seed)


@pytest.fixture
def record(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Record:
    """What the report says of a test."""
    mark = request.node.get_closest_marker("scenario")
    record_property("scenario", mark.args[0])
    return Record(record_property)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with versitygw() as server:
        yield server
