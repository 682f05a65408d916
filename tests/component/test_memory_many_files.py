"""Memory does not grow with the number of files: neither in a fetch beside a slow disk, nor in a refresh."""

import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = 1_000, 100_000
MOST_GROWTH_KIB = 16 << 10
SLOW_FLUSH_SECONDS = 5.0
"""Most of the fetch: its files have arrived, and wait for this flush before they get their names."""


def peak(count: int, directory: Path, slow_flush: float = 0.0) -> int:
    """Return the peak memory, in KiB, of a fetch of so many files; its first flush takes so many seconds longer."""
    script = Path(__file__).with_name("many_files.py")
    done = subprocess.run(
        [sys.executable, script, str(count), str(directory), str(slow_flush)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.splitlines()[-1])


@pytest.mark.timeout(240)
def test_a_hundred_thousand_files_take_hardly_more_memory_than_a_thousand(tmp_path: Path) -> None:
    few, many = peak(FEW, tmp_path / "few"), peak(MANY, tmp_path / "many", SLOW_FLUSH_SECONDS)
    refreshed = peak(MANY, tmp_path / "many")
    growth = {"fetch": many - few, "refresh": refreshed - few}
    assert max(growth.values()) <= MOST_GROWTH_KIB, f"{growth} KiB above {few}"
    assert many <= 150 << 10
