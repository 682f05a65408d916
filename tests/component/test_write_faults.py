"""A disk that fails at any call: the fetch succeeds or says why, shows nothing unfinished, and the next run completes.

Every call that changes the volume fails once, or that one and all that follow. `make test` takes a few of the calls,
`make chaos` (`--chaos`) every one.
"""

import errno
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from component import seccomp
from component.commands import Run, datafetch, tree
from component.faulty_disk import Call, Disk, Fail, PowerOff, Rule, Short, Verdict
from component.small_fetch import (
    OLD,
    SCENARIOS,
    Scenario,
    Workshop,
    broken_promise,
    bytes_on,
    problems,
    published,
    workshop,
)
from datafetch_api.exit_codes import ExitCode
from servers.hub import Hub

CODES = {
    errno.ENOSPC: ExitCode.INSUFFICIENT_SPACE,
    errno.EDQUOT: ExitCode.INSUFFICIENT_SPACE,
    errno.EROFS: ExitCode.TARGET_NOT_WRITABLE,
    errno.EIO: ExitCode.INTERNAL_ERROR,
}
GROWING = frozenset({"write", "open", "mkdir", "rename", "link", "symlink", "flush", "truncate", "close"})
"""What a full disk refuses: removing a file needs no room."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with workshop() as found:
        yield found


@dataclass(frozen=True)
class Fault:
    """An error at one call, or at that one and all that follow."""

    number: int
    lasting: bool
    kinds: frozenset[str] = seccomp.KINDS

    def __str__(self) -> str:
        return f"{errno.errorcode[self.number]}-{'from-then-on' if self.lasting else 'once'}"

    def at(self, moment: int) -> Rule:
        """Return the rule of a disk on which it begins at a call."""

        def rule(call: Call) -> Verdict:
            hit = call.index == moment or (self.lasting and call.index > moment)
            return Fail(self.number) if hit and call.kind in self.kinds else None

        return rule


FAULTS = [
    Fault(errno.ENOSPC, lasting=True, kinds=GROWING),
    Fault(errno.ENOSPC, lasting=False, kinds=GROWING),
    Fault(errno.EDQUOT, lasting=True, kinds=GROWING),
    Fault(errno.EIO, lasting=False),
    Fault(errno.EIO, lasting=True),
    Fault(errno.EROFS, lasting=True, kinds=seccomp.KINDS - {"close", "flush"}),
]


def moments_of(calls: list[Call], fault: Fault, seed: str, *, every: bool) -> list[int]:
    """Return the calls to fail at: every one that it can meet, or one of them."""
    candidates = [call.index for call in calls if call.kind in fault.kinds]
    return candidates if every else [random.Random(seed).choice(candidates)]


def problem_with(shop: Workshop, fault: Fault, scenario: Scenario, moment: int) -> str | None:
    """Fetch over a disk that fails, then over one that does not; return what was wrong."""
    volume, config = shop.prepared(scenario)
    disk = Disk(volume, fault.at(moment), kinds=seccomp.KINDS)
    run = disk.datafetch("run", config, "--max-workers", "2", home=volume.parent)
    hit = next((call for call in disk.calls if not call.done and call.result == -fault.number), None)
    where = f"{scenario}, {fault} at {hit}"
    if (problem := broken_promise(volume, scenario)) is not None:
        return f"{where}: {problem}"
    if run.code == 0 and published(volume) != scenario.expected:
        return f"{where}: it says that it succeeded, but {sorted(published(volume))} is there"
    if (problem := unclear(run, CODES[fault.number])) is not None:
        return f"{where}: {problem}"
    again = Disk(volume).datafetch("run", config, home=volume.parent)
    if again.code != 0:
        return f"{where}: the next run ended with {again.code}: {again.stderr}"
    return None if published(volume) == scenario.expected else f"{where}: the next run left {sorted(published(volume))}"


def unclear(run: Run, expected: ExitCode) -> str | None:
    """Say what is wrong with how a run ended; None where it succeeded, or said in one sentence what the disk did."""
    if run.code == 0:
        return None
    errors = [line.partition(" ERROR ")[2] for line in run.stderr.splitlines() if " ERROR " in line]
    if run.code != expected:
        return f"it ended with {run.code}, not with {expected.value}: {run.stderr}"
    if len(errors) != 1 or not errors[0].startswith(f"{expected.reason}: "):
        return f"it does not say why in one sentence: {run.stderr}"
    if "defect" in errors[0] or "Traceback" in run.stderr or not ("'" in errors[0] or "the list of files" in errors[0]):
        return f"it does not say what the disk did where: {run.stderr}"
    return None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_disk_that_fails_ends_the_fetch_with_its_reason_or_does_no_harm(
    shop: Workshop, fault: Fault, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--chaos", default=False)
    cases = [
        (scenario, moment)
        for scenario in SCENARIOS
        for moment in moments_of(shop.calls(scenario), fault, f"{fault} {scenario}", every=every)
    ]
    wrong = problems(lambda case: problem_with(shop, fault, *case), cases)
    assert not wrong, wrong


def half_of_every_write(call: Call) -> Verdict:
    return Short(call.size // 2) if call.kind == "write" and call.size is not None else None


def a_byte_of_every_small_write(call: Call) -> Verdict:
    return Short(1) if call.kind == "write" and call.size is not None and call.size < 300 else None


def every_other_call_is_interrupted(call: Call) -> Verdict:
    interruptible = call.kind in {"write", "open", "flush", "truncate"}
    return Fail(errno.EINTR) if interruptible and call.nth % 2 else None


@pytest.mark.parametrize(
    "rule",
    [half_of_every_write, a_byte_of_every_small_write, every_other_call_is_interrupted],
    ids=lambda it: it.__name__,
)
def test_short_writes_and_interrupted_calls_change_nothing(shop: Workshop, rule: Rule) -> None:
    def problem(scenario: Scenario) -> str | None:
        volume, config = shop.prepared(scenario)
        disk = Disk(volume, rule)
        run = disk.datafetch("run", config, home=volume.parent)
        assert any(call.result == -errno.EINTR or (call.size or 0) > call.result > 0 for call in disk.calls)
        if run.code == 0 and published(volume) == scenario.expected:
            return None
        return f"{scenario}: it ended with {run.code} and left {sorted(published(volume))}: {run.stderr}"

    wrong = problems(problem, SCENARIOS)
    assert not wrong, wrong


@pytest.mark.timeout(3600)
def test_killed_at_a_call_it_goes_on_and_leaves_no_bytes_behind(shop: Workshop, request: pytest.FixtureRequest) -> None:
    every = request.config.getoption("--chaos", default=False)
    cases = []
    for scenario in SCENARIOS:
        calls = range(1, sum(call.kind != "close" for call in shop.calls(scenario)) + 1)
        moments = calls if every else random.Random(str(scenario)).sample(calls[len(calls) // 2 :], 1)
        cases += [(scenario, moment) for moment in moments]
    wrong = problems(lambda case: problem_after_kill(shop, *case), cases)
    assert not wrong, wrong


def problem_after_kill(shop: Workshop, scenario: Scenario, moment: int) -> str | None:
    volume, config = shop.prepared(scenario)
    disk = Disk(volume, lambda call: PowerOff() if call.index == moment else None)
    run = disk.datafetch("run", config, "--max-workers", "2", home=volume.parent)
    assert disk.calls, run.stderr
    where = f"{scenario}, killed at {disk.calls[-1]}"
    if (problem := broken_promise(volume, scenario)) is not None:
        return f"{where}: {problem}"
    again = Disk(volume).datafetch("run", config, home=volume.parent)
    if again.code != 0 or published(volume) != scenario.expected:
        return f"{where}: the next run ended with {again.code} and left {sorted(published(volume))}"
    if bytes_on(volume) > scenario.most_bytes:
        return f"{where}: {bytes_on(volume)} bytes are left after the next run, {scenario.most_bytes} would do"
    return None


def room_of(directory: Path, config: Path) -> Path:
    """Return a new directory with a copy of the config."""
    home = Path(tempfile.mkdtemp(dir=directory))
    shutil.copy(config, home)
    return home


def test_killed_before_obsolete_files_are_removed_in_place_the_next_run_removes_them(tmp_path: Path) -> None:
    with Hub() as hub:
        repo = hub.create("org/model", OLD)
        template, config = tmp_path / "old", tmp_path / "config.yaml"
        config.write_text(
            "download_root: volume\ndownload_items:\n  - type: hf\n    name: model\n    repo_id: org/model\n"
            f"    endpoint_url: {hub.url}\n    target_path: ./\n"
        )
        first = room_of(tmp_path, config)
        assert datafetch("run", config.name, cwd=first).code == 0
        shutil.copytree(first / "volume", template)
        repo.commit({"sub/deep/gone.bin": None, "kept.bin": None})
        expected = {name: OLD[name] for name in ("changed.bin", "empty", ".gitattributes") if name in tree(template)}

        def problem(nth: int) -> str | None:
            home = room_of(tmp_path, config)
            shutil.copytree(template, home / "volume")
            disk = Disk(home / "volume", lambda call: PowerOff() if (call.kind, call.nth) == ("unlink", nth) else None)
            disk.datafetch("run", config.name, home=home)
            run = datafetch("run", config.name, cwd=home)
            left = tree(home / "volume")
            where = f"killed before removal {nth}, {disk.calls[-1]}"
            return None if run.code == 0 and left == expected else f"{where}: {run.code}, {sorted(left)}"

        wrong = problems(problem, range(1, 8))
    assert not wrong, wrong
