"""A volume that fills up under way, and is grown: what was there is not fetched again. Mounts, so root is needed."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import content
from chaos.content import differences
from chaos.ledger import Ledger
from chaos.origins import bucket, web
from chaos.record import Record
from chaos.runs import Target, end, ended, wait_for
from servers.emulators import S3Server

FULL = 13
"""Exit code of InsufficientSpace."""
MIB = 1 << 20
LAYOUTS = pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Mount a tmpfs where the target's volume lies; `grow` gives it a size."""
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def grow(volume: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size // 1024}k", str(volume)], check=True)


@LAYOUTS
@pytest.mark.scenario("Volume too small, then full under way, then grown")
@pytest.mark.rounds(5)
def test_a_volume_that_is_grown_needs_only_what_was_missing(
    tmp_path: Path, volume: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, record: Record
) -> None:
    files = {f"shard-{number}.bin": content.big(chance, chance.randrange(4, 40) * MIB) for number in range(3)}
    files |= content.small(chance, 200, 4_000)
    total = sum(map(len, files.values()))
    made = bucket(s3_server, f"full-{seed}-{managed:d}", tmp_path) if seed % 2 == 0 else web()
    with made as origin, Ledger(origin) as ledger:
        origin.publish(files)
        target = Target(tmp_path, origin, managed)
        grow(volume, total // 2)
        assert target.run() == FULL
        assert f"{total} bytes" in target.said() or "free" in target.said(), target.said()
        assert ledger.total < 4 * MIB, "what cannot fit is refused before it is fetched"

        origin.server.pace.rate = 60e6
        grow(volume, total + 32 * MIB)
        attempts = _fill_under_way(target, ledger, chance, total)
        assert target.run() == 0, target.said()
        wrong = differences(target.files() or {}, files)
        assert not wrong, wrong
        again, lost = ledger.total - total, sum(ledger.on_the_way.values())
        assert again <= lost + MIB, f"{again} bytes again, {lost} were on their way when the volume was full"
        record.add("times full", attempts)
        record.add("MiB of content", total / MIB)
        record.add("MiB fetched again", max(0, again) / MIB)


def _fill_under_way(target: Target, ledger: Ledger, chance: random.Random, total: int) -> int:
    """Let somebody else fill the volume while the fetch writes, twice, and go away again."""
    times = 0
    for _ in range(2):
        ledger.begin()
        missing = max(MIB, total - ledger.total)
        mark = ledger.total + chance.randrange(1, missing // 2 + 1)
        process = target.start()
        ballast = target.volume / "ballast"
        try:
            wait_for(lambda mark=mark, process=process: ledger.total >= mark or process.poll() is not None, 60, "bytes")
            if process.poll() is not None:
                continue
            _take_all_space(ballast)
            code = ended(process, 60)
        finally:
            end(process)
        ledger.end(0.0)
        ballast.unlink(missing_ok=True)
        assert code == FULL, f"exit code {code}\n{target.said()}"
        assert "full" in target.said().splitlines()[-1], target.said()
        times += 1
    return times


def _take_all_space(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 << 10))
        except OSError:
            return
