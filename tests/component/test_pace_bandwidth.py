"""The bandwidth limit of a real run, counted from outside: what the process writes, and what leaves the server."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from component.commands import environment, tree
from component.places import S3Place
from servers.throttle import ThrottlingProxy, windows

LIMIT = 16 << 20
"""Bytes per second."""
SECONDS = 12.5
SMALL_FILES = 500


def run_and_count(config: Path, cwd: Path) -> list[tuple[float, int]]:
    """Run a fetch; return when it had written how many bytes more (proc_pid_io(5), wchar).

    Every byte is written as soon as it has arrived and was counted, whatever waits in the kernel for being read.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "run", config.name],
        cwd=cwd,
        env=environment(cwd, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    counted = [(time.monotonic(), 0)]
    before = 0
    while process.poll() is None:
        fields = dict(line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines())
        # A process that has just ended shows nothing.
        written = max(before, int(fields.get("wchar", 0)))
        counted.append((time.monotonic(), written - before))
        before = written
        time.sleep(0.05)
    assert process.returncode == 0
    return counted


def test_a_bandwidth_limit_holds_within_five_percent_over_any_ten_seconds(s3: S3Place, tmp_path: Path) -> None:
    chance = random.Random(3)
    files = {f"small/{number:04}.bin": chance.randbytes(16 << 10) for number in range(SMALL_FILES)}
    rest = int(LIMIT * SECONDS) - SMALL_FILES * (16 << 10)
    files |= {f"large-{number}.bin": chance.randbytes(rest // 2) for number in range(2)}
    s3.fill(files)
    host, _, port = s3.server.url.removeprefix("http://").partition(":")
    with ThrottlingProxy(host, int(port)) as proxy:
        item = {"name": "bucket", **s3.config([{"path": "."}], "right"), "endpoint_url": proxy.url}
        config = {"download_root": "data", "download_items": [item], "transfer": {"bandwidth_limit": LIMIT}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        written = run_and_count(tmp_path / "config.json", tmp_path)
    start = proxy.sent[0][0]
    # At the very end there is no more to fetch at any pace.
    end = start + SECONDS - 1.0
    arrived = [window / LIMIT / 10 for window in windows(written, 10.0, start, end)]
    assert len(arrived) >= 10
    assert 0.95 <= min(arrived) <= max(arrived) <= 1.05, [round(share, 3) for share in arrived]
    # In its first second, the server fills the buffers of the kernel between.
    sent = [window / LIMIT / 10 for window in windows(proxy.sent, 10.0, start + 1.0, end)]
    assert max(sent) <= 1.05, [round(share, 3) for share in sent]
    assert tree(tmp_path / "data") == files
