"""The power goes at any moment: what is found then has nothing torn in sight, and the next run ends with every byte.

`make test` takes a few moments, `make chaos` (`--chaos`) every call of the fetch.
"""

import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.commands import datafetch, tree
from component.faulty_disk import Call, Disk, PowerOff, Verdict
from component.platter import Mood, Platter, forget_holder
from component.small_fetch import (
    NEW,
    OLD,
    SCENARIOS,
    Scenario,
    Workshop,
    broken_promise,
    in_memory,
    problems,
    published,
    workshop,
)
from servers.http import StaticServer
from servers.hub import Hub

ANOTHER_BOOT = "00000000-0000-4000-8000-000000000001"
NEVER = 1 << 30
RANGE_BYTES = 32 << 20
BIG_MIB = 112
MIB_A_SECOND = 15
SECONDS_AFTER_FLUSH = 1.6
"""The first flush comes after 5 seconds, of two ranges; then the third ends, and the power goes."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with workshop() as found:
        yield found


@dataclass(frozen=True)
class Moment:
    """When the power goes, and what is left then."""

    scenario: Scenario
    call: int
    mood: Mood
    seed: int = 1


def problem_after(shop: Workshop, moment: Moment) -> str | None:
    """Let the power go, boot, and fetch again; return what was wrong."""
    scenario = moment.scenario
    volume, config = shop.prepared(scenario)
    platter = Platter(volume)

    def rule(call: Call) -> Verdict:
        return PowerOff() if call.index == moment.call else None

    disk = Disk(volume, rule, platter.after)
    run = disk.datafetch("run", config, "--max-workers", "2", home=volume.parent)
    assert disk.calls, run.stderr
    where = f"{moment}, at {disk.calls[-1]}"
    platter.lose_power(moment.mood, random.Random(str(moment)))
    if run.code == 0 and published(volume) != scenario.expected:
        return f"{where}: the command had succeeded, but what it had published is not there"
    if (problem := broken_promise(volume, scenario)) is not None:
        return f"{where}: after the loss, {problem}"
    return problem_of_next_run(volume, config, scenario, where)


def problem_of_next_run(volume: Path, config: Path, scenario: Scenario, where: str) -> str | None:
    forget_holder(volume)
    run = Disk(volume, boot_id=ANOTHER_BOOT).datafetch("run", config, home=volume.parent)
    if run.code != 0:
        return f"{where}: the next run ended with {run.code}: {run.stderr}"
    found, expected = published(volume), scenario.expected
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return f"{where}: after the next run these are not what the source has: {wrong}" if wrong else None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mood", list(Mood))
def test_after_a_loss_of_power_at_any_moment_the_next_run_ends_with_every_byte(
    shop: Workshop, mood: Mood, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--chaos", default=False)
    seeds = range(3 if every and mood is Mood.CHANCE else 1)
    moments = [
        Moment(scenario, call, mood, seed)
        for scenario in SCENARIOS
        for call in moments_of(shop, scenario, mood, every=every)
        for seed in seeds
    ]
    wrong = problems(lambda moment: problem_after(shop, moment), moments)
    assert not wrong, wrong


def moments_of(shop: Workshop, scenario: Scenario, mood: Mood, *, every: bool) -> Sequence[int]:
    """Return the calls before which the power goes: every one, or one of those of the second half."""
    calls = [call for call in shop.calls(scenario) if call.kind != "close"]
    everyone = range(1, len(calls) + 1)
    return everyone if every else [random.Random(f"{scenario} {mood}").choice(everyone[len(everyone) // 2 :])]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_a_command_that_succeeded_has_published_outlives_a_loss_of_power(
    shop: Workshop, scenario: Scenario
) -> None:
    for mood in (Mood.NOTHING, Mood.CHANCE):
        shop.server.traffic.clear()
        assert problem_after(shop, Moment(scenario, NEVER, mood)) is None
        # The run after the loss knows by the marker that everything is there.
        twice = [name for name, data in NEW.items() if sent(shop.server, name) > len(data)]
        assert not twice, f"{mood}: fetched again, though the first run had succeeded"


def test_of_a_big_file_what_was_flushed_is_kept_and_the_rest_is_fetched_again(shop: Workshop) -> None:
    block = random.Random(7).randbytes((1 << 20) - 4)
    content = b"".join(number.to_bytes(4, "big") + block for number in range(BIG_MIB))
    shop.server.put("/big.bin", content)
    volume, config = shop.empty(["big.bin"], managed=True)
    platter = Platter(volume)
    flushed: list[float] = []

    def after(call: Call, path: Path) -> None:
        platter.after(call, path)
        if call.name == "syncfs":
            flushed.append(time.monotonic())

    def rule(call: Call) -> Verdict:
        return PowerOff() if flushed and time.monotonic() - flushed[0] > SECONDS_AFTER_FLUSH else None

    shop.server.pace.rate = MIB_A_SECOND << 20
    try:
        run = Disk(volume, rule, after).datafetch("run", config, "--max-workers", "1", home=volume.parent)
    finally:
        shop.server.pace.rate = None
    assert run.code == -signal.SIGKILL, run.stderr
    platter.lose_power(Mood.SMALL, random.Random(1))
    assert published(volume) == {}
    forget_holder(volume)
    shop.server.traffic.clear()
    again = Disk(volume, boot_id=ANOTHER_BOOT).datafetch("run", config, home=volume.parent)
    assert again.code == 0, again.stderr
    assert published(volume) == {"big.bin": content}, "zeros were taken for what had arrived"
    assert sent(shop.server, "big.bin") <= len(content) - RANGE_BYTES, "nothing of what was flushed was kept"


def test_in_place_a_file_that_is_gone_from_the_source_stays_removed_after_a_loss_of_power() -> None:
    with in_memory() as home, Hub() as hub:
        repo = hub.create("org/model", OLD)
        (home / "config.yaml").write_text(
            "download_root: volume\ndownload_items:\n  - type: hf\n    name: model\n    repo_id: org/model\n"
            f"    endpoint_url: {hub.url}\n    target_path: ./\n"
        )
        assert datafetch("run", "config.yaml", cwd=home).code == 0
        repo.commit({"kept.bin": None})
        platter = Platter(home / "volume")
        run = Disk(home / "volume", after=platter.after).datafetch("run", "config.yaml", home=home)
        assert run.code == 0, run.stderr
        platter.lose_power(Mood.NOTHING, random.Random(1))
        assert tree(home / "volume") == {name: data for name, data in OLD.items() if name != "kept.bin"}


def sent(server: StaticServer, name: str) -> int:
    """Return the bytes of a file that the server has sent."""
    return sum(exchange.sent for exchange in server.traffic.select("GET", f"/{name}"))
