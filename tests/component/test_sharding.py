"""One fetch by three processes over one directory, against a real S3 server: killed, restarted, published as one."""

import contextlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from component.commands import Run, datafetch, environment, tree
from component.faulty_disk import Call, Disk, PowerOff, Verdict
from component.places import S3Place
from component.small_fetch import in_memory
from datafetch_api.report import Result, parse_result
from servers.faults import FaultProxy

COUNT = 3
_bytes = random.Random(6)
FILES = {
    "large.bin": _bytes.randbytes(2 << 20),
    **{f"medium/{number:02}.bin": _bytes.randbytes(400_000 + number) for number in range(24)},
    **{f"small/{number:03}.txt": _bytes.randbytes(2_000 + number) for number in range(120)},
    "empty": b"",
}
"""Small ones for the lane, a large one that waits for nobody, and an empty one."""
SIZE = sum(map(len, FILES.values()))


class Team:
    """Three shards of one fetch, and who publishes what they have brought."""

    def __init__(self, s3: S3Place, room: Path, endpoint: str | None = None) -> None:
        self.s3 = s3
        self.room = room
        self.endpoint = endpoint or s3.server.url
        self.volume = room / "volume"
        self.volume.mkdir(parents=True)

    @property
    def published(self) -> dict[str, bytes]:
        """What a reader sees."""
        return tree(self.volume / "models/llama") if (self.volume / "models/llama").exists() else {}

    @property
    def state(self) -> Path:
        return self.volume / "models/.datafetch/llama"

    def config(self, plan: str | None = "plan-1", count: int = COUNT, glob: str = "**", **transfer: object) -> Path:
        """Write the config; without a plan, of a fetch by one process."""
        owner = {"namespace": "ml", "name": "llama", "uid": "u1", "spec_hash": "v1:0"}
        managed: dict[str, Any] = {"volume": str(self.volume), "path": "models/llama", **owner}
        if plan is not None:
            managed["shards"] = {"count": count, "plan": plan}
        item = {"name": "src", **self.s3.config([{"path": ".", "glob": glob, "target_path": "./"}], "right")}
        item["endpoint_url"] = self.endpoint
        path = self.room / f"{plan}.yaml"
        path.write_text(yaml.safe_dump({"managed": managed, "download_items": [item], "transfer": transfer}))
        return path

    def start(self, shard: int | None, config: Path) -> subprocess.Popen[str]:
        """Start a shard as a pod of an Indexed Job is started; None starts who publishes."""
        index = {} if shard is None else {"JOB_COMPLETION_INDEX": str(shard)}
        publish = ["--publish-shards"] if shard is None else []
        return subprocess.Popen(
            [sys.executable, "-m", "datafetch", "run", str(config), "--json", *publish],
            env=environment(self.room, index),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_all(self, config: Path, count: int = COUNT) -> list[Result]:
        """Let all shards run to their end, at a time."""
        running = [self.start(shard, config) for shard in range(count)]
        return [ended(process) for process in running]

    def publish(self, config: Path) -> Run:
        return datafetch("run", config, "--publish-shards", "--json", cwd=self.room)

    def unsharded(self) -> Result:
        """Fetch the same with one process, elsewhere."""
        other = Team(self.s3, self.room / f"alone-{time.monotonic_ns()}")
        run = datafetch("run", other.config(None), "--json", cwd=other.room)
        assert run.code == 0, run.stderr
        assert other.published == self.published
        return run.result


def ended(process: subprocess.Popen[str], seconds: float = 60) -> Result:
    """Wait for a shard that is to end well, and return its result."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode == 0, stderr
    result = parse_result(stdout.splitlines()[-1])
    assert result is not None
    return result


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate(timeout=20)


def wait_for(path: Path, seconds: float = 20) -> None:
    """Wait until something is on the volume."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.fixture
def team(s3: S3Place, tmp_path: Path) -> Team:
    s3.fill(FILES)
    return Team(s3, tmp_path)


@pytest.fixture
def proxy(s3: S3Place) -> Iterator[FaultProxy]:
    place = urlsplit(s3.server.url)
    assert place.hostname is not None
    assert place.port is not None
    with FaultProxy(place.hostname, place.port) as proxy:
        yield proxy


@pytest.fixture
def slow_team(s3: S3Place, tmp_path: Path, proxy: FaultProxy) -> Team:
    """The same over a connection that brings all of it in about five seconds."""
    s3.fill(FILES)
    proxy.pace.rate = SIZE / 5
    return Team(s3, tmp_path, proxy.url)


def test_three_processes_bring_what_one_would(team: Team) -> None:
    config = team.config()

    results = team.run_all(config)

    assert team.published == {}, "nothing is to be seen before all of it is there"
    run = team.publish(config)
    assert run.code == 0, run.stderr
    assert team.published == FILES
    assert run.result.manifest_digest == team.unsharded().manifest_digest
    assert (run.result.total_files, run.result.total_bytes) == (len(FILES), SIZE)
    assert run.result.reused_bytes == 0
    assert sum(result.total_bytes or 0 for result in results) == SIZE
    assert all(result.completed_files > 20 for result in results), "each has its share"
    assert all((result.total_bytes or 0) > SIZE / COUNT * 0.8 for result in results)
    left = sorted(path.name for path in (team.state / "shards").iterdir())
    assert left == ["published"]
    assert team.publish(config).result == run.result.model_copy(update={"duration_seconds": 0})


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_and_started_again_they_bring_the_same(
    slow_team: Team, proxy: FaultProxy, seed: int
) -> None:
    team, chance = slow_team, random.Random(seed)
    config = team.config(max_concurrency=2)
    running = {shard: team.start(shard, config) for shard in range(COUNT)}
    for _ in range(7):
        time.sleep(chance.uniform(0.1, 1.2))
        shard = chance.randrange(COUNT)
        end(running[shard], chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        assert team.published == {}
        running[shard] = team.start(shard, config)
    for process in running.values():
        ended(process)
    for _ in range(3):
        process = team.start(None, config)
        time.sleep(chance.uniform(0.3, 0.9))
        end(process)
        assert team.published in ({}, FILES)
    run = team.publish(config)
    assert run.code == 0, run.stderr
    assert team.published == FILES
    assert run.result.manifest_digest == team.unsharded().manifest_digest
    assert sent_by(proxy) < 1.6 * SIZE, "what a killed process has brought is not brought again"


def test_the_first_one_is_killed_while_it_lists(slow_team: Team, proxy: FaultProxy) -> None:
    team = slow_team
    proxy.latency = 1.0
    config = team.config()
    running = {shard: team.start(shard, config) for shard in range(COUNT)}
    wait_for(team.state / "shards/0/epochs/1")
    time.sleep(0.3)
    assert not (team.state / "shards/plans").exists()
    end(running[0])
    proxy.latency, proxy.pace.rate = 0.0, None
    running[0] = team.start(0, config)
    for process in running.values():
        ended(process)
    assert team.publish(config).code == 0
    assert team.published == FILES


def test_an_object_that_changes_after_the_listing_is_brought_as_it_is_then(team: Team) -> None:
    config = team.config()
    ended(team.start(0, config))
    of_others = [
        json.loads(line)[3]
        for line in (team.state / "shards/plans/plan-1+1").read_text().splitlines()
        if not line.startswith("[0,")
    ]
    of_others.sort(key=lambda name: len(FILES[name]))
    # What has no bytes when it is listed is never asked for.
    changed = {name: b"changed " + FILES[name] for name in (*of_others[1:4], of_others[-1])}
    team.s3.fill(changed)
    for shard in (1, 2):
        ended(team.start(shard, config))
    run = team.publish(config)
    assert run.code == 0, run.stderr
    assert team.published == {**FILES, **changed}
    assert run.result.manifest_digest == team.unsharded().manifest_digest


def test_a_refresh_links_what_is_there_and_a_plan_is_made_anew(team: Team) -> None:
    first = team.config("plan-1")
    team.run_all(first)
    before = team.publish(first).result
    inode = (team.volume / "models/llama/large.bin").stat().st_ino
    new = {"small/003.txt": b"changed", "new/one.txt": b"new"}
    team.s3.fill(new)

    second = team.config("plan-2", verify="Full")
    team.run_all(second)
    run = team.publish(second)

    assert run.code == 0, run.stderr
    assert team.published == {**FILES, **new}
    assert (team.volume / "models/llama/large.bin").stat().st_ino == inode
    assert run.result.reused_bytes == SIZE - len(FILES["small/003.txt"])
    assert run.result.manifest_digest != before.manifest_digest
    assert run.result.manifest_digest == team.unsharded().manifest_digest
    # Nothing has changed since: the revision stays.
    third = team.config("plan-3")
    team.run_all(third)
    assert team.publish(third).result.revision == run.result.revision


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (3, 1)])
def test_what_another_number_of_processes_has_left_is_gone_on_with(
    slow_team: Team, proxy: FaultProxy, before: int, after: int
) -> None:
    team = slow_team
    proxy.pace.rate = SIZE / 3
    if before == 1:
        running = [start_alone(team, team.config(None, max_concurrency=2))]
    else:
        config = team.config("plan-1", before, max_concurrency=2)
        running = [team.start(shard, config) for shard in range(before)]
    while sent_by(proxy) < SIZE * 0.6:
        time.sleep(0.05)
    for process in running:
        end(process)
    arrived = sent_by(proxy)
    proxy.pace.rate = None

    if after == 1:
        ended(start_alone(team, team.config(None)))
        assert not (team.state / "shards").exists()
    else:
        config = team.config("plan-2", after)
        team.run_all(config, after)
        assert team.publish(config).code == 0
    assert team.published == FILES
    assert sent_by(proxy) - arrived < SIZE * 0.7


def sent_by(proxy: FaultProxy) -> int:
    """Return how many bytes of objects have been sent so far."""
    return sum(exchange.sent for exchange in proxy.traffic.select("GET", "/*/?*"))


def start_alone(team: Team, config: Path) -> subprocess.Popen[str]:
    """Start a fetch by one process."""
    return subprocess.Popen(
        [sys.executable, "-m", "datafetch", "run", str(config), "--json"],
        env=environment(team.room, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_of_one_shard_do_not_meet(team: Team) -> None:
    config = team.config()
    running = [team.start(shard, config) for shard in (0, 0, 1, 2, 2)]
    results = [ended(process) for process in running]
    assert results[0].manifest_digest == results[1].manifest_digest
    assert team.publish(config).code == 0
    assert team.published == FILES


# --- who publishes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def few(s3: S3Place) -> Iterator[Team]:
    """Few files on a volume in memory, brought by all shards over an older revision, and not published."""
    contents = {name: FILES[name] for name in ("medium/00.bin", "small/001.txt", "small/002.txt", "empty")}
    with in_memory() as room:
        s3.fill(contents)
        team = Team(s3, room)
        ended(start_alone(team, team.config(None)))
        s3.fill({"small/002.txt": b"changed", "small/new.txt": b"new", "deep/er/new.txt": b"new too"})
        team.run_all(team.config())
        yield team


def test_a_publication_that_is_killed_at_any_call_is_finished_by_the_next(few: Team) -> None:
    old = few.published
    with copy_of(few) as (team, config):
        disk = Disk(team.volume)
        assert disk.datafetch("run", config, "--publish-shards", home=team.room).code == 0
        new, calls = team.published, len(disk.calls)
    assert old != new
    step = max(1, calls // 16)

    def kill_at(index: int) -> str | None:
        def rule(call: Call) -> Verdict:
            return PowerOff() if call.index == index else None

        with copy_of(few) as (team, config):
            run = Disk(team.volume, rule).datafetch("run", config, "--publish-shards", home=team.room)
            if team.published not in (old, new) or (run.code == 0 and team.published != new):
                return f"call {index}: exit code {run.code}, {sorted(team.published)}"
            again = team.publish(config)
            if again.code != 0 or team.published != new:
                return f"call {index}: {again.code}, {again.stderr}"
            left = sorted(path.name for path in (team.state / "shards").iterdir())
            return None if left == ["published"] else f"call {index}: {left} are left"

    with ThreadPoolExecutor(2) as pool:
        wrong = [found for found in pool.map(kill_at, range(1, calls + 1, step)) if found]
    assert not wrong, "\n".join(wrong)


_rooms = itertools.count()


@contextlib.contextmanager
def copy_of(team: Team) -> Iterator[tuple[Team, Path]]:
    """Yield a copy of the volume, and the config for it."""
    room = team.room / f"copy-{next(_rooms)}"
    room.mkdir()
    copy = Team(team.s3, room)
    shutil.copytree(team.volume, copy.volume, symlinks=True, dirs_exist_ok=True)
    try:
        yield copy, copy.config()
    finally:
        shutil.rmtree(room)


def test_what_is_not_all_there_is_not_published(few: Team) -> None:
    old = few.published
    with copy_of(few) as (team, config):
        (team.state / "shards/1/done").unlink()
        run = team.publish(config)
        assert (run.code, team.published) == (70, old)
        assert "these have not brought their part of plan 'plan-1': 1; run them again" in run.sentence
    with copy_of(few) as (team, config):
        (lost,) = team.state.glob("shards/*/epochs/*/tree/deep/er/new.txt")
        lost.write_bytes(b"touched by somebody")
        run = team.publish(config)
        assert (run.code, team.published) == (70, old)
        assert "'deep/er/new.txt' is not on the volume any more as shard" in run.sentence
        # The next attempt lists anew, and brings it again.
        again = team.config("plan-2")
        team.run_all(again)
        assert team.publish(again).code == 0
        assert team.published["deep/er/new.txt"] == b"new too"


def test_a_shard_that_nobody_named_and_a_plan_for_something_else_are_refused(team: Team) -> None:
    run = datafetch("run", team.config(), "--json", cwd=team.room)
    assert run.code == 2
    assert "give --shard, or set JOB_COMPLETION_INDEX" in run.sentence
    assert datafetch("run", team.config(), "--shard", "3", "--json", cwd=team.room).code == 2
    assert datafetch("run", team.config(None), "--shard", "0", "--json", cwd=team.room).code == 2
    assert datafetch("run", team.config(), "--shard", "0", "--json", cwd=team.room).code == 0
    other = datafetch("run", team.config(glob="small/*"), "--shard", "1", "--json", cwd=team.room)
    assert other.code == 2
    assert "the plan 'plan-1' on the volume was made for another request" in other.sentence


def test_without_room_for_all_of_it_nothing_is_begun(team: Team) -> None:
    config = team.config()
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, "capacity_bytes": SIZE - 1}))
    run = datafetch("run", config, "--shard", "0", "--json", cwd=team.room)
    assert run.code == 13
    assert not (team.state / "shards/plans").exists()
