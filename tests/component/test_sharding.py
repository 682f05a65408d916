"""One fetch by three processes over one directory, against a real S3 server: killed, restarted, published as one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from component.commands import Run, datafetch, environment, tree
from component.places import S3Place
from datafetch_api.report import Result, parse_result

COUNT = 3
_bytes = random.Random(6)
FILES = {
    "large.bin": _bytes.randbytes(9 << 20),
    **{f"medium/{number}.bin": _bytes.randbytes(1_500_000 + number) for number in range(6)},
    **{f"small/{number:03}.txt": _bytes.randbytes(2_000 + number) for number in range(120)},
    "empty": b"",
}
"""Small ones for the lane, one in ranges, and each of a size of its own."""


class Team:
    """Three shards of one fetch, and who publishes what they have brought."""

    def __init__(self, s3: S3Place, room: Path) -> None:
        self.s3 = s3
        self.room = room
        self.volume = room / "volume"
        self.volume.mkdir(parents=True)

    @property
    def published(self) -> dict[str, bytes]:
        """What a reader sees."""
        return tree(self.volume / "models/llama") if (self.volume / "models/llama").exists() else {}

    @property
    def state(self) -> Path:
        return self.volume / "models/.datafetch/llama"

    def config(self, plan: str | None = "plan-1", **transfer: object) -> Path:
        """Write the config; without a plan, of a fetch by one process."""
        owner = {"namespace": "ml", "name": "llama", "uid": "u1", "spec_hash": "v1:0"}
        managed = {"volume": str(self.volume), "path": "models/llama", **owner}
        if plan is not None:
            managed["shards"] = {"count": COUNT, "plan": plan}  # type: ignore[assignment] # YAML has no types
        item = {"name": "src", **self.s3.config([{"path": ".", "glob": "**", "target_path": "./"}], "right")}
        path = self.room / f"{plan}.yaml"
        path.write_text(yaml.safe_dump({"managed": managed, "download_items": [item], "transfer": transfer}))
        return path

    def start(self, shard: int, config: Path) -> subprocess.Popen[str]:
        """Start a shard as a pod of an Indexed Job is started."""
        return subprocess.Popen(
            [sys.executable, "-m", "datafetch", "run", str(config), "--json"],
            env=environment(self.room, {"JOB_COMPLETION_INDEX": str(shard)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_all(self, config: Path) -> list[Result]:
        """Let all shards run to their end, at a time."""
        running = [self.start(shard, config) for shard in range(COUNT)]
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


@pytest.fixture
def team(s3: S3Place, tmp_path: Path) -> Iterator[Team]:
    s3.fill(FILES)
    yield Team(s3, tmp_path)


def test_three_processes_bring_what_one_would(team: Team) -> None:
    config = team.config()

    results = team.run_all(config)

    assert team.published == {}, "nothing is to be seen before all of it is there"
    run = team.publish(config)
    assert run.code == 0, run.stderr
    assert team.published == FILES
    assert run.result.manifest_digest == team.unsharded().manifest_digest
    assert (run.result.total_files, run.result.total_bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert run.result.reused_bytes == 0
    assert sum(result.total_bytes or 0 for result in results) == run.result.total_bytes
    assert all(result.completed_files > 20 for result in results), "each has its share"
    left = sorted(path.name for path in (team.state / "shards").iterdir())
    assert left == ["published"]
