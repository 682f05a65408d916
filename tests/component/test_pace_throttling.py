"""A source that refuses what is above so many requests: the fetch settles there, loses little, and ends well.

Looked at from the source: how many requests it was serving over time, and which part it had to refuse.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from component.commands import Run, datafetch, tree
from component.places import S3Place
from servers.plans import Fault
from servers.throttle import ThrottlingProxy


def fetch(s3: S3Place, proxy: ThrottlingProxy, cwd: Path, transfer: Mapping[str, Any]) -> Run:
    """Run a fetch of the whole bucket through the proxy."""
    item = {"name": "bucket", **s3.config([{"path": "."}], "right"), "endpoint_url": proxy.url}
    config = {"download_root": str(cwd / "data"), "download_items": [item], "transfer": dict(transfer)}
    return datafetch("run", "-", "--json", cwd=cwd, stdin=json.dumps(config))


def in_front_of(s3: S3Place, **settings: Any) -> ThrottlingProxy:
    host, _, port = s3.server.url.removeprefix("http://").partition(":")
    return ThrottlingProxy(host, int(port), **settings)


@pytest.mark.parametrize("retry_after", ["1", None], ids=["with Retry-After", "without"])
def test_many_small_files_settle_near_what_the_source_bears(
    s3: S3Place, tmp_path: Path, retry_after: str | None
) -> None:
    chance = random.Random(1)
    files = {f"part-{number:04}.bin": chance.randbytes(4096) for number in range(500)}
    s3.fill(files)
    with in_front_of(s3, bears=12, seconds=0.1) as proxy:
        proxy.retry_after = retry_after
        run = fetch(s3, proxy, tmp_path, {})
        assert run.code == 0, run.stderr
        assert tree(tmp_path / "data") == files
        start, end = proxy.gate.span
        # Twelve at a time, a tenth of a second each.
        assert end - start <= 1.35 * len(files) * 0.1 / 12 + 1.5
        assert proxy.gate.average(start + 2.0, end - 0.5) >= 0.8 * 12
        assert proxy.gate.refused_share <= 0.1
        settled = [moment for moment in proxy.gate.refused if moment > start + 3.0]
        assert len(settled) <= 0.03 * len(files), "once it has settled, hardly anything is refused"


def test_ranges_of_large_files_settle_near_what_the_source_bears(s3: S3Place, tmp_path: Path) -> None:
    chance = random.Random(2)
    files = {f"shard-{number:02}.bin": chance.randbytes(4 << 20) for number in range(30)}
    s3.fill(files)
    with in_front_of(s3, bears=6) as proxy:
        proxy.retry_after = "1"
        # Half a second a file.
        proxy.faults.add(Fault(bytes_per_second=8 << 20), times=None, path="*.bin")
        run = fetch(s3, proxy, tmp_path, {})
        assert run.code == 0, run.stderr
        assert tree(tmp_path / "data") == files
        start, end = proxy.gate.span
        assert end - start <= 1.35 * len(files) * 0.5 / 6 + 1.5
        assert proxy.gate.average(start + 1.0, end - 0.5) >= 0.75 * 6
        assert len(proxy.gate.refused) <= 0.5 * len(files)


def test_a_source_that_refuses_for_a_while_only_delays(s3: S3Place, tmp_path: Path) -> None:
    files = {f"part-{number}": b"x" * 1000 for number in range(20)}
    s3.fill(files)
    with in_front_of(s3) as proxy:
        proxy.faults.add(Fault(status=503, retry_after="1"), times=15, path="/*/part-*")
        run = fetch(s3, proxy, tmp_path, {})
        assert run.code == 0, run.stderr
        assert tree(tmp_path / "data") == files
