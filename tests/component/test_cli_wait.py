"""`datafetch wait` beside real fetches that publish: as the container that holds a pod back until its data is there.

Mounts, and gives up the rights of root, so root is needed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from component.commands import Run, datafetch, environment, tree
from datafetch_api.report import Stage, parse_result
from servers.http import StaticServer

READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@"'
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@dataclass
class Claim:
    """A volume, and a server whose file goes there."""

    volume: Path
    server: StaticServer

    @property
    def link(self) -> Path:
        return self.volume / "team/llama"

    def publish(self, *, uid: str = "u1", name: str = "llama", content: bytes = b"weights") -> None:
        """Fetch and publish, as a Job of a DataFetch does."""
        self.server.put("/weights.bin", content, etag=f'"{content.hex()}"')
        config = (
            f"managed: {{volume: {self.volume}, path: team/llama, namespace: ml, name: {name}, uid: {uid}, "
            "spec_hash: 'v1:0'}\n"
            f"download_items:\n- {{type: http, name: weights, items: [{{url: '{self.server.url}/weights.bin'}}]}}\n"
        )
        run = datafetch("run", "-", cwd=self.volume.parent, stdin=config)
        assert run.code == 0, run.stderr
        assert tree(self.link) == {"weights.bin": content}


@pytest.fixture
def claim(tmp_path: Path) -> Iterator[Claim]:
    (tmp_path / "volume").mkdir()
    with StaticServer() as server:
        yield Claim(tmp_path / "volume", server)


class Waiter:
    """A `datafetch wait` that is under way."""

    def __init__(self, process: "subprocess.Popen[str]", message: Path) -> None:
        self.process = process
        self._message = message
        self._lines: list[str] = []

    def hear(self, what: str) -> dict[str, Any]:
        """Return the next progress line whose message has this in it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if what in line:
                found: dict[str, Any] = json.loads(line)
                return found
        raise AssertionError(self._lines, self.process.communicate())

    def end(self) -> Run:
        """Wait for its end."""
        stdout, stderr = self.process.communicate(timeout=20)
        return Run(self.process.returncode, "".join(self._lines) + stdout, stderr)

    @property
    def message(self) -> dict[str, Any]:
        """The termination message."""
        found: dict[str, Any] = json.loads(self._message.read_text())
        return found


@contextmanager
def waiting(claim: Claim, *targets: str, before: tuple[str, ...] = (), flags: tuple[str, ...] = ()) -> Iterator[Waiter]:
    """Start to wait for targets such as `=ml/llama@u1`, all of them at the claim's link."""
    message = claim.volume.parent / "message"
    command = [sys.executable, "-m", "datafetch", "wait", *(f"{claim.link}{target}" for target in targets)]
    process = subprocess.Popen(
        [*before, *command, "--termination-log", str(message), *flags],
        cwd=claim.volume.parent,
        env=environment(claim.volume.parent, {"DATAFETCH_TERMINATION_LIMIT": "1000"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Waiter(process, message)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_it_ends_when_the_data_is_published_on_a_volume_that_it_cannot_write(claim: Claim) -> None:
    read_only = ("unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", str(claim.volume))
    with waiting(claim, "=ml/llama@u1", before=read_only, flags=("--json",)) as waiter:
        waiter.hear("waiting for DataFetch ml/llama to be published at")
        claim.publish()
        published = time.monotonic()
        run = waiter.end()

    assert run.code == 0, run.stderr
    assert time.monotonic() - published < 3
    assert {progress.stage for progress in run.progress} == {Stage.WAITING}
    assert (run.result.exit_code, run.result.failure) == (0, None)
    assert parse_result(json.dumps(waiter.message)) == run.result
    first, last = run.stderr.splitlines()
    assert first.endswith(f"waiting for DataFetch ml/llama to be published at {claim.link} (nothing is there yet)")
    assert f"{claim.link} is published; waited" in last


def test_what_is_there_is_seen_at_once_and_stays_so_when_it_is_refreshed(claim: Claim) -> None:
    for content in (b"old", b"new"):
        claim.publish(content=content)
        before = sorted(claim.volume.rglob("*"))

        with waiting(claim, "=ml/llama@u1", "=ml/llama", "") as waiter:
            run = waiter.end()

        assert (run.code, run.stdout) == (0, ""), run.stderr
        assert waiter.message["exitCode"] == 0
        assert "all 3 are published" in run.stderr
        assert sorted(claim.volume.rglob("*")) == before


def test_it_starts_without_what_takes_long_to_import(claim: Claim) -> None:
    claim.publish()

    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "datafetch", "wait", str(claim.link)],
        env=environment(claim.volume.parent, {}),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "datafetch.waiting" in imported
    assert not imported & {"pydantic", "yaml", "datafetch.engine", "datafetch.sink", "rich"}


def test_data_of_another_datafetch_is_named_and_not_taken(claim: Claim) -> None:
    claim.publish(name="other")

    with waiting(claim, "=ml/llama@u1", flags=("--timeout", "1s")) as waiter:
        waiter.hear("the data of DataFetch ml/other is there")
        run = waiter.end()

    assert run.code == 15
    assert run.sentence.startswith(f"Stalled: DataFetch ml/llama was not published at {claim.link} within 1s")
    assert "the data of DataFetch ml/other is there" in run.sentence
    assert waiter.message["failure"]["reason"] == "Stalled"


def test_data_of_a_resource_that_was_deleted_is_not_that_of_its_namesake(claim: Claim) -> None:
    claim.publish(uid="old")
    with waiting(claim, "=ml/llama@new") as first, waiting(claim, "=ml/llama@admitted-before-the-new-one") as second:
        for waiter in (first, second):
            waiter.hear("of another DataFetch of that name is there (uid old")
        claim.publish(uid="new")  # the same bytes: the revision stays, and becomes the new resource's

        assert (first.end().code, second.end().code) == (0, 0)


def test_what_it_may_not_read_is_said_and_waited_out(claim: Claim) -> None:
    claim.publish()
    os.chown(claim.link.parent, 65532, 65532)
    claim.link.parent.chmod(0o700)
    with waiting(claim, "=ml/llama@u1", before=WITHOUT_RIGHTS) as waiter:
        line = waiter.hear("Permission denied for user 0")
        assert f"{claim.link.parent} belongs to 65532:65532 and has mode drwx------" in line["message"]
        claim.link.parent.chmod(0o711)  # to be passed through, not to be listed

        assert waiter.end().code == 0


def test_a_signal_ends_it_with_143(claim: Claim) -> None:
    with waiting(claim, "=ml/llama@u1") as waiter:
        waiter.hear("nothing is there yet")
        told = time.monotonic()
        waiter.process.send_signal(signal.SIGTERM)
        run = waiter.end()

    assert run.code == 143
    assert time.monotonic() - told < 2
    assert waiter.message["failure"]["reason"] == "Interrupted"


def test_it_goes_on_when_nobody_reads_its_lines_any_more(claim: Claim) -> None:
    with waiting(claim, "=ml/llama@u1") as waiter:
        waiter.hear("nothing is there yet")
        assert waiter.process.stdout is not None
        waiter.process.stdout.close()
        claim.publish(name="other")
        time.sleep(1.5)
        assert waiter.process.poll() is None
        waiter.process.send_signal(signal.SIGTERM)
        assert waiter.process.wait(timeout=5) == 143


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("volume=llama",), "does not say whose data it waits for; write DIRECTORY=NAMESPACE/NAME@UID"),
        (("/=ml/llama",), "names no directory that a DataFetch publishes"),
        (("volume/llama", "--timeout", "soon"), "'soon' is not a duration; write it like 60s, 5m or 1h30m"),
        ((), "required: TARGET"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    run = datafetch("wait", *arguments, cwd=tmp_path)

    assert run.code == 2
    assert said in run.sentence
