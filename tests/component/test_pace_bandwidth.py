"""The bandwidth limit of a real run, counted at the server as the bytes leave it."""

import json
import random
from pathlib import Path

from component.commands import datafetch, tree
from component.places import S3Place
from servers.throttle import ThrottlingProxy

LIMIT = 16 << 20
"""Bytes per second; what the kernel holds between server and client is little beside ten seconds' worth."""
SECONDS = 12.5


def test_a_bandwidth_limit_holds_within_five_percent_over_any_ten_seconds(s3: S3Place, tmp_path: Path) -> None:
    chance = random.Random(3)
    small = {f"small/{number:04}.bin": chance.randbytes(16 << 10) for number in range(500)}
    rest = int(LIMIT * SECONDS) - 500 * (16 << 10)
    large = {f"large-{number}.bin": chance.randbytes(rest // 2) for number in range(2)}
    s3.fill(small | large)
    host, _, port = s3.server.url.removeprefix("http://").partition(":")
    with ThrottlingProxy(host, int(port)) as proxy:
        item = {"name": "bucket", **s3.config([{"path": "."}], "right"), "endpoint_url": proxy.url}
        config = {
            "download_root": str(tmp_path / "data"),
            "download_items": [item],
            "transfer": {"bandwidth_limit": LIMIT},
        }
        run = datafetch("run", "-", "--json", cwd=tmp_path, stdin=json.dumps(config))
        assert run.code == 0, run.stderr
        # At the very end there is no more to fetch at any pace.
        windows = list(proxy.meter.windows(10.0, within=SECONDS - 1.0))
    assert len(windows) >= 10
    assert 0.95 * LIMIT * 10 <= min(windows) <= max(windows) <= 1.05 * LIMIT * 10, [
        round(window / LIMIT / 10, 3) for window in windows
    ]
    assert tree(tmp_path / "data") == small | large
