"""The command: what it says and how it ends where it cannot serve."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datafetch_operator.__main__ import _first, _leads
from datafetch_operator.errors import LeadershipLostError, RefusedError
from unit.operator.kubeconfig import write_kubeconfig


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "datafetch_operator", *arguments]
    return subprocess.run(command, env=kept | environ, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_the_roles_and_the_version_is_told() -> None:
    ended = _run("--help")
    assert ended.returncode == 0
    assert "--role {operator,webhook}" in ended.stdout
    assert "docs/operator.md" in ended.stdout
    assert _run("--version").stdout.startswith("datafetch-operator ")


def test_a_role_that_there_is_not_ends_it_with_code_2() -> None:
    ended = _run("--role", "scheduler")
    assert ended.returncode == 2
    assert "'operator', 'webhook'" in ended.stderr


@pytest.mark.parametrize("role", ["operator", "webhook"])
def test_a_setting_that_cannot_be_used_ends_it_with_code_2(role: str) -> None:
    ended = _run("--role", role, DATAFETCH_WORKERS="8")
    assert ended.returncode == 2
    assert ended.stderr == (
        "datafetch-operator: DATAFETCH_DOWNLOADER_IMAGE is not set; it names the image of the download pods\n"
    )


def test_a_cluster_that_does_not_answer_ends_it_with_code_1_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "http://127.0.0.1:9")  # A closed port: nobody answers.
    ended = _run(KUBECONFIG=str(path), DATAFETCH_DOWNLOADER_IMAGE="example.org/df:1")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "127.0.0.1:9" in json.loads(line)["message"]


class Waiting:
    """An elector that never gets to lead, or gets an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.was_cancelled = False

    async def acquire(self) -> None:
        if self._error is not None:
            raise self._error
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled = True


def test_a_replica_that_stands_by_ends_when_it_is_told_to() -> None:
    elector = Waiting()

    async def run() -> bool:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        return await _leads(elector, asyncio.Event())  # type: ignore[arg-type] # the one method that is called

    assert asyncio.run(run()) is False
    assert elector.was_cancelled


def test_a_replica_without_the_right_to_a_lease_does_not_stand_by_for_ever() -> None:
    elector = Waiting(RefusedError(403, "Forbidden", "cannot get leases"))
    with pytest.raises(RefusedError, match="cannot get leases"):
        asyncio.run(_leads(elector, asyncio.Event()))  # type: ignore[arg-type] # as above


def test_a_lost_lead_is_one_sentence_however_deep_it_was_noticed() -> None:
    lost = LeadershipLostError("somebody else leads")
    assert _first(BaseExceptionGroup("", [ExceptionGroup("", [lost])])) is lost
