"""Seeds, and what came of them: the tests here draw every moment and every choice from one number.

`make test` runs each with the seeds 1, 2 and 3. `make chaos` (`--chaos`) takes more and longer rounds from a seed that
it draws and prints, and writes what came of them into a page (`--report`). A test that fails says how to run it again.
"""

import random
from collections.abc import Callable, Generator, Iterator

import pytest

from chaos.record import Command, Record
from chaos.scale import CHAOS, FIXED, Scale
from chaos.seeds import (  # noqa: F401 - pytest finds hooks by their names here
    is_chaos,
    pytest_addoption,
    pytest_configure,
    pytest_configure_node,
    pytest_runtest_logreport,
    pytest_sessionstart,
    report_rows,
    rounds_of,
)
from servers.emulators import S3Server, versitygw

FIXED_SEEDS = (1, 2, 3)
COMMAND = Command("make chaos", "scenario", ("downloader", "crds", "tests"), "four at a time")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(metafunc.config, metafunc.definition), ids=lambda seed: f"seed{seed}")


def _seeds(config: pytest.Config, test: pytest.Item | pytest.Function) -> list[int]:
    if is_chaos(config):
        return rounds_of(config, test, usual=3)
    mark = test.get_closest_marker("rounds")
    return list(FIXED_SEEDS[: mark.kwargs.get("fixed", 3)] if mark else FIXED_SEEDS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function) and "seed" in item.fixturenames:
        report.sections.append(("run it again", _replay(item)))
    return report


def _replay(item: pytest.Function) -> str:
    if not is_chaos(item.config):
        return f"pytest '{item.nodeid}'"
    return f"make chaos SEED={item.callspec.params['seed']} ROUNDS=1 TEST={item.originalname}"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    report_rows(session, COMMAND, passed=exitstatus == 0)


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    """How much a test does."""
    return CHAOS if is_chaos(request.config) else FIXED


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
