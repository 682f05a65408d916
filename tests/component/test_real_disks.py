"""The power goes under a real file system: ext4 in `make test`; at every call and on xfs and btrfs in `make chaos`."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.faulty_disk import Disk, PowerOff
from component.images import FORMATS, as_it_is_now, install, make_image, mounted
from component.platter import forget_holder
from component.small_fetch import SCENARIOS, Scenario, Workshop, broken_promise, problems, published, workshop

ANOTHER_BOOT = "00000000-0000-4000-8000-000000000002"
NEVER = 1 << 30


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with workshop() as found:
        yield found


@dataclass(frozen=True)
class Moment:
    """The call before which the power goes."""

    kind: str
    scenario: Scenario
    call: int


def problem_after(shop: Workshop, moment: Moment) -> str | None:
    """Let the power go, start the machine again, and fetch again; return what was wrong."""
    room = shop.room()
    image, left = room / "image", room / "left"
    make_image(image, moment.kind)
    with mounted(image, room / "volume") as volume:
        config = shop.fill(moment.scenario, volume)
        disk = Disk(volume, lambda call: PowerOff() if call.index == moment.call else None)
        run = disk.datafetch("run", config, "--max-workers", "2", home=room)
        as_it_is_now(image, left)
    image.unlink()
    assert disk.calls, run.stderr
    where = f"{moment}, at {disk.calls[-1]}"
    with mounted(left, volume):
        problem = problem_found(volume, config, moment.scenario, succeeded=run.code == 0)
    left.unlink()
    return f"{where}: {problem}" if problem else None


def problem_found(volume: Path, config: Path, scenario: Scenario, *, succeeded: bool) -> str | None:
    if succeeded and published(volume) != scenario.expected:
        return f"the command had succeeded, but {sorted(published(volume))} is there"
    if (problem := broken_promise(volume, scenario)) is not None:
        return f"after the loss, {problem}"
    forget_holder(volume)
    run = Disk(volume, boot_id=ANOTHER_BOOT).datafetch("run", config, home=volume.parent)
    if run.code == 0 and published(volume) == scenario.expected:
        return None
    return f"the next run ended with {run.code} and left {sorted(published(volume))}: {run.stderr}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", list(FORMATS) if metafunc.config.getoption("--chaos", default=False) else ["ext4"])


@pytest.mark.timeout(3600)
def test_a_real_file_system_that_lost_power_has_nothing_torn_and_the_next_run_completes(
    shop: Workshop, kind: str, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--chaos", default=False)
    install(kind)
    moments = []
    for scenario in SCENARIOS:
        calls = range(1, sum(call.kind != "close" for call in shop.calls(scenario)) + 1)
        chosen = calls if every else random.Random(f"{kind} {scenario}").sample(calls[len(calls) // 2 :], 1)
        moments += [Moment(kind, scenario, call) for call in [*chosen, NEVER]]
    wrong = problems(lambda moment: problem_after(shop, moment), moments)
    assert not wrong, wrong
