"""Killed at any moment: the next run ends with the same tree, and fetches again at most what was in flight."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datafetch.engine import PART_BYTES
from servers.http import StaticServer

SEEDS = (1, 2, 3)
WORKERS = 4


def config(tmp_path: Path, server: StaticServer, names: list[str], *, managed: bool) -> Path:
    """Write a config for the files of the server, in either layout."""
    volume = tmp_path / "volume"
    volume.mkdir(exist_ok=True)
    owner = (
        f"managed: {{volume: {volume}, path: model, namespace: ml, name: model, uid: u1, spec_hash: 'v1:0'}}"
        if managed
        else f"download_root: {volume / 'model'}"
    )
    urls = "\n".join(f"      - {{url: '{server.url}/{name}', target_path: '{name}'}}" for name in names)
    path = tmp_path / "config.yaml"
    path.write_text(f"{owner}\ndownload_items:\n  - type: http\n    name: files\n    items:\n{urls}\n")
    return path


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "datafetch", "run", str(path), "--max-workers", str(WORKERS)]
    with path.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".datafetch" not in path.relative_to(root).parts
    }


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_moments_it_ends_with_every_byte_fetched_about_once(
    tmp_path: Path, seed: int, managed: bool
) -> None:
    chance = random.Random(seed)
    contents = {f"shard-{number}.bin": chance.randbytes(chance.randrange(1, 40) << 20) for number in range(4)}
    contents |= {f"part-{number:03}.txt": chance.randbytes(chance.randrange(0, 20_000)) for number in range(60)}
    total = sum(map(len, contents.values()))
    with StaticServer() as server:
        for name, data in contents.items():
            server.put(f"/{name}", data)
        server.pace.rate = total / 2.0
        path = config(tmp_path, server, list(contents), managed=managed)
        kills = 0
        while True:
            process = start(path)
            try:
                code = process.wait(timeout=chance.uniform(0.6, 1.2) if kills < 5 else 60)
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                if managed:
                    assert not (tmp_path / "volume/model").exists(), "nothing is published before it is whole"
                else:
                    found = files_of(tmp_path / "volume/model") if (tmp_path / "volume/model").exists() else {}
                    assert all(contents[name] == data for name, data in found.items()), "a final name means whole"
        assert code == 0, path.with_suffix(".log").read_text()
        assert kills >= 1
        assert files_of(tmp_path / "volume/model") == contents
        again = server.traffic.bytes_sent - total
        assert again <= kills * WORKERS * (PART_BYTES + (1 << 20)), f"{again} bytes twice after {kills} kills"


@pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])
def test_asked_to_stop_it_exits_143_within_two_seconds_and_goes_on_later(tmp_path: Path, managed: bool) -> None:
    content = random.Random(9).randbytes(48 << 20)
    with StaticServer() as server:
        server.put("/big.bin", content)
        server.pace.rate = 16 << 20
        path = config(tmp_path, server, ["big.bin"], managed=managed)
        process = start(path)
        deadline = time.monotonic() + 20
        while server.traffic.bytes_sent < 12 << 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        asked = time.monotonic()
        process.terminate()
        assert process.wait(10) == 143
        assert time.monotonic() - asked < 2.0
        assert not list((tmp_path / "volume").rglob("lock")), "who comes next need not wait for a dead one"
        server.pace.rate = None
        assert start(path).wait(60) == 0
        assert files_of(tmp_path / "volume/model") == {"big.bin": content}
        assert server.traffic.bytes_sent <= len(content) + (8 << 20)
