"""How long the downloader takes to start: `datafetch --version`, and `datafetch run` of an S3 config until it asks.

    .venv-downloader/bin/python bench/startup.py [--runs 15]

Prints medians with their spread in milliseconds, and exits 1 where a median misses its goal. The server is a socket in
this process that notes when the first bytes of a request arrive.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

VERSION_GOAL = 150
FIRST_REQUEST_GOAL = 600
"""Milliseconds."""
_ANSWER = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CONFIG = """\
download_root: {directory}/data
download_items:
- type: s3
  name: bench
  endpoint_url: {endpoint}
  region: us-east-1
  access_key_id_file: {directory}/key
  secret_key_file: {directory}/key
  items: [{{bucket: bench, items: [{{path: some/prefix/}}]}}]
"""


def time_version() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "datafetch", "--version"], check=True, capture_output=True)
    return time.perf_counter() - started


def time_first_request() -> float:
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as server:
        config = Path(directory, "config.yaml")
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        config.write_text(_CONFIG.format(directory=directory, endpoint=endpoint))
        Path(directory, "key").write_text("bench")
        server.settimeout(30)
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "datafetch", "run", str(config), "--progress", "none"],
            env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                seconds = time.perf_counter() - started
                connection.sendall(_ANSWER)
        finally:
            process.kill()
            process.wait()
    return seconds


def measure(what: str, time_once: Callable[[], float], runs: int, goal: int) -> bool:
    time_once()  # the files are in the page cache and compiled from here on
    milliseconds = sorted(1000 * time_once() for _ in range(runs))
    median = statistics.median(milliseconds)
    verdict = "within" if median < goal else "MISSES"
    print(f"{what:32} {median:6.0f} ms  ({milliseconds[0]:.0f}-{milliseconds[-1]:.0f})  {verdict} {goal} ms")
    return median < goal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    print(f"medians of {runs} runs (fastest-slowest), warm")
    met = [
        measure("datafetch --version", time_version, runs, VERSION_GOAL),
        measure("datafetch run to first request", time_first_request, runs, FIRST_REQUEST_GOAL),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
