"""`datafetch run` and `datafetch get` end to end: what the process prints, how it ends, and what lies on the disk."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import datafetch as package
from component.commands import datafetch, environment, tree
from datafetch_api.report import Stage, parse_result
from servers.http import StaticServer
from servers.hub import Hub
from servers.plans import Fault

FILES = {"a.txt": b"alpha\n", "b.bin": os.urandom(200_000), "empty": b""}


@pytest.fixture
def server() -> Iterator[StaticServer]:
    with StaticServer() as server:
        for name, content in FILES.items():
            server.put(f"/{name}", content)
        yield server


def config(server: StaticServer, root: str = "data", names: tuple[str, ...] = tuple(FILES)) -> str:
    urls = "".join(f"\n      - url: {server.url}/{name}" for name in names)
    return f"download_root: {root}\ndownload_items:\n  - type: http\n    name: files\n    items:{urls}\n"


def resource(server: StaticServer) -> str:
    return f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: ml}}
---
apiVersion: datafetch.io/v1alpha1
kind: DataFetch
metadata: {{name: example}}
spec:
  sources:
  - {{name: first, uri: "{server.url}/a.txt", secretRef: {{name: web}}}}
  - {{name: second, path: deep/down, http: {{url: "{server.url}/b.bin"}}}}
  target:
    persistentVolumeClaim: {{claimName: data}}
    path: not/used/here
"""


# --- where the config comes from -------------------------------------------------------------------------------------


def test_a_config_file_is_run_relative_to_the_working_directory(server: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config(server))

    run = datafetch("run", "config.yaml", "--json", cwd=tmp_path)

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == FILES
    assert (run.result.exit_code, run.result.completed_files, run.result.publication) == (0, 3, "InPlace")
    assert run.result.completed_bytes == sum(map(len, FILES.values()))
    assert "3 files, 195 KiB, in data" in run.stderr


def test_a_config_may_come_by_standard_input(server: StaticServer, tmp_path: Path) -> None:
    assert datafetch("run", "-", cwd=tmp_path, stdin=config(server)).code == 0
    assert tree(tmp_path / "data") == FILES


def test_a_config_may_come_by_the_environment(server: StaticServer, tmp_path: Path) -> None:
    assert datafetch("run", cwd=tmp_path, DATAFETCH_CONFIG=config(server)).code == 0
    assert tree(tmp_path / "data") == FILES


def test_a_config_runs_only_with_the_digest_that_it_was_made_with(server: StaticServer, tmp_path: Path) -> None:
    text = config(server)
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    changed = datafetch("run", "-", "--config-digest", digest, cwd=tmp_path, stdin=text + "# changed\n")
    assert changed.code == 2
    assert f"--config-digest asks for {digest}" in changed.sentence
    assert server.traffic.exchanges == []

    assert datafetch("run", "-", "--config-digest", digest, cwd=tmp_path, stdin=text).code == 0


def test_a_data_fetch_resource_fills_the_target_directory_itself(server: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "datafetch.yaml").write_text(resource(server))

    run = datafetch("run", "datafetch.yaml", "--target-dir", "./data", cwd=tmp_path)

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == {"a.txt": FILES["a.txt"], "deep/down/b.bin": FILES["b.bin"]}
    assert "datafetch.yaml:1:1: Namespace is left out" in run.stderr
    assert "source 'first': no --secrets-dir for the Secret 'web'" in run.stderr


def test_the_secrets_of_a_resource_come_from_the_secrets_directory(server: StaticServer, tmp_path: Path) -> None:
    server.require_bearer("hunter2-token")
    only_first = "\n".join(line for line in resource(server).splitlines() if "second" not in line)
    (tmp_path / "datafetch.yaml").write_text(only_first)
    (tmp_path / "secrets/web").mkdir(parents=True)
    (tmp_path / "secrets/web/token").write_text("hunter2-token\n")

    refused = datafetch("run", "datafetch.yaml", "--target-dir", "data", cwd=tmp_path)
    assert refused.code == 10
    assert "source 'first'" in refused.sentence
    assert tree(tmp_path / "data") == {}

    run = datafetch(
        *("run", "datafetch.yaml", "--target-dir", "data", "--secrets-dir", "secrets", "--log-level", "DEBUG"),
        cwd=tmp_path,
    )
    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == {"a.txt": FILES["a.txt"]}
    assert "source 'first': credentials from secrets/web" in run.stderr
    assert "hunter2" not in run.stdout + run.stderr


def test_a_resource_without_a_target_directory_is_told_what_to_add(server: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "datafetch.yaml").write_text(resource(server))

    run = datafetch("run", "datafetch.yaml", cwd=tmp_path)

    assert run.code == 2
    assert "say where its data goes here with --target-dir DIR" in run.sentence


def test_an_endpoint_inside_a_cluster_is_explained(tmp_path: Path) -> None:
    (tmp_path / "datafetch.yaml").write_text(
        "apiVersion: datafetch.io/v1alpha1\nkind: DataFetch\nspec:\n  sources:\n"
        "  - {name: corpus, uri: 'http://files.data.svc/corpus.bin'}\n"
    )

    run = datafetch("run", "datafetch.yaml", "--target-dir", "data", cwd=tmp_path)

    assert run.code == 14
    assert "source 'corpus'" in run.sentence
    assert "files.data.svc resolves only inside its cluster" in run.stderr


# --- datafetch get, and the Python API -------------------------------------------------------------------------------


def test_get_puts_one_file_into_the_directory(server: StaticServer, tmp_path: Path) -> None:
    run = datafetch("get", f"{server.url}/b.bin", "models/new", cwd=tmp_path)

    assert run.code == 0, run.stderr
    assert tree(tmp_path) == {"models/new/b.bin": FILES["b.bin"]}


def test_a_second_run_fetches_nothing(server: StaticServer, tmp_path: Path) -> None:
    datafetch("get", f"{server.url}/b.bin", "data", cwd=tmp_path)
    sent = server.traffic.bytes_sent

    again = datafetch("get", f"{server.url}/b.bin", "data", "--json", cwd=tmp_path)

    assert again.code == 0
    assert server.traffic.bytes_sent == sent
    assert again.result.reused_bytes == len(FILES["b.bin"])
    assert "were all there already in data" in again.stderr


def test_what_is_there_already_stays(server: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.txt").write_text("mine")

    datafetch("get", f"{server.url}/a.txt", "data", cwd=tmp_path)

    assert tree(tmp_path / "data") == {"mine.txt": b"mine", "a.txt": FILES["a.txt"]}


def test_the_python_api_fetches_too(server: StaticServer, tmp_path: Path) -> None:
    task = package.fetch(f"{server.url}/b.bin", tmp_path / "data")
    outcome = task.run()

    assert tree(tmp_path / "data") == {"b.bin": FILES["b.bin"]}
    assert (outcome.files, outcome.bytes) == (1, len(FILES["b.bin"]))
    assert task.progress.percent == 100


def test_the_python_api_raises_what_went_wrong(server: StaticServer, tmp_path: Path) -> None:
    with pytest.raises(package.DataFetchError, match="404"):
        package.fetch(f"{server.url}/nope", tmp_path / "data").run()


# --- what is printed -------------------------------------------------------------------------------------------------


def test_standard_output_is_json_lines_only_and_the_result_is_the_last(server: StaticServer, tmp_path: Path) -> None:
    server.pace.rate = 100_000

    run = datafetch("run", "-", "--json", cwd=tmp_path, stdin=config(server))

    assert run.code == 0
    assert all(line["datafetch"] == "v1" for line in run.lines)
    assert [("stage" in line, "exitCode" in line) for line in run.lines] == [(True, False)] * (len(run.lines) - 1) + [
        (False, True)
    ]
    times = [progress.time for progress in run.progress]
    assert len(set(times)) == len(times) >= 2, "one line a second at most"
    assert run.progress[0].stage == Stage.LISTING
    assert run.progress[1].total_bytes == 200_006
    assert 0 < run.progress[1].completed_bytes < 200_006
    assert run.progress[1].bytes_per_second > 0


def test_without_progress_standard_output_stays_empty(server: StaticServer, tmp_path: Path) -> None:
    run = datafetch("run", "-", "--progress", "none", cwd=tmp_path, stdin=config(server))

    assert (run.code, run.stdout) == (0, "")


def test_the_log_level_decides_what_standard_error_says(server: StaticServer, tmp_path: Path) -> None:
    assert datafetch("run", "-", "--log-level", "ERROR", cwd=tmp_path, stdin=config(server)).stderr == ""


def test_on_a_terminal_there_is_a_bar_and_no_json(server: StaticServer, tmp_path: Path) -> None:
    server.pace.rate = 150_000
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "get", f"{server.url}/b.bin", "data"],
        cwd=tmp_path,
        env=environment(tmp_path, {"TERM": "xterm-256color", "COLUMNS": "120"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = read_to_end(ours)

    assert process.wait(30) == 0
    assert "Fetching" in shown
    assert "100%" in shown
    assert "1/1 files" in shown
    assert '"datafetch"' not in shown
    assert "1 file, 195 KiB, in data" in shown


def read_to_end(descriptor: int) -> str:
    """Read what a terminal shows until its last writer has gone."""
    shown = b""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO is how a terminal ends
            data = b""
        if not data:
            os.close(descriptor)
            return shown.decode()
        shown += data


def test_the_result_is_written_as_the_termination_message(server: StaticServer, tmp_path: Path) -> None:
    run = datafetch("run", "-", "--termination-log", "message", cwd=tmp_path, stdin=config(server))

    assert run.code == 0
    result = parse_result((tmp_path / "message").read_text())
    assert result is not None
    assert (result.exit_code, result.completed_files) == (0, 3)
    assert [(source.name, source.files) for source in result.sources] == [("files", 3)]


def test_a_failure_is_in_the_termination_message_with_the_same_sentence(server: StaticServer, tmp_path: Path) -> None:
    run = datafetch("get", f"{server.url}/nope", "data", "--termination-log", "message", cwd=tmp_path)

    result = parse_result((tmp_path / "message").read_text())
    assert run.code == 11
    assert result is not None
    assert result.failure is not None
    assert run.sentence == f"{result.failure.reason}: {result.failure.message}"
    assert (result.exit_code, result.failure.retryable) == (11, False)


def test_a_termination_message_that_cannot_be_written_fails_nothing(server: StaticServer, tmp_path: Path) -> None:
    run = datafetch("get", f"{server.url}/a.txt", "data", "--termination-log", "no/such/dir", cwd=tmp_path)

    assert run.code == 0
    assert "cannot write the termination message to no/such/dir" in run.stderr


def test_a_reader_that_goes_away_does_not_end_the_download(server: StaticServer, tmp_path: Path) -> None:
    server.pace.rate = 100_000
    line = f"{sys.executable} -m datafetch get {server.url}/b.bin data --json | head -n 1; exit ${{PIPESTATUS[0]}}"

    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment(tmp_path, {}), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "data") == {"b.bin": FILES["b.bin"]}
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


# --- signals ---------------------------------------------------------------------------------------------------------


def start(server: StaticServer, tmp_path: Path) -> subprocess.Popen[str]:
    """Start a download of which half arrives and no more; return once it waits."""
    server.faults.add(Fault(stall_after=100_000), times=None, path="/b.bin")
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "get", f"{server.url}/b.bin", "data", "--termination-log", "message"],
        cwd=tmp_path,
        env=environment(tmp_path, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_bytes(server, 100_000)
    return process


def wait_for_bytes(server: StaticServer, count: int) -> None:
    deadline = time.monotonic() + 20
    while server.traffic.bytes_sent < count and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_waits_for_a_silent_server(
    server: StaticServer, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(server, tmp_path)

    asked = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=10)

    assert time.monotonic() - asked < 2
    assert process.returncode == 143
    assert said.count("Interrupted: ") == 1
    assert "what was fetched is kept" in said
    result = parse_result((tmp_path / "message").read_text())
    assert result is not None
    assert result.failure is not None
    assert (result.exit_code, result.failure.reason, result.failure.retryable) == (143, "Interrupted", True)
    assert tree(tmp_path / "data") == {}

    server.faults.clear()
    assert datafetch("get", f"{server.url}/b.bin", "data", cwd=tmp_path).code == 0
    assert tree(tmp_path / "data") == {"b.bin": FILES["b.bin"]}


def test_a_second_signal_ends_it_at_once(server: StaticServer, tmp_path: Path) -> None:
    process = start(server, tmp_path)

    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    process.communicate(timeout=10)

    assert time.monotonic() - asked < 0.5
    assert process.returncode == 143


def test_a_terminal_has_its_cursor_back_whatever_ends_the_bar(server: StaticServer, tmp_path: Path) -> None:
    server.faults.add(Fault(stall_after=100_000), times=None, path="/b.bin")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "get", f"{server.url}/b.bin", "data"],
        cwd=tmp_path,
        env=environment(tmp_path, {"TERM": "xterm"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    wait_for_bytes(server, 100_000)

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)

    shown = read_to_end(ours)
    assert process.wait(5) == 143
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_a_signal_before_the_run_has_begun_ends_it_too(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "datafetch", "run", "-"],
        cwd=tmp_path,
        env=environment(tmp_path, {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.8)  # it waits for its config by now
    process.terminate()

    assert process.wait(5) == 143
    assert process.stdin is not None
    process.stdin.close()


# --- nothing secret --------------------------------------------------------------------------------------------------


def test_nothing_secret_is_printed_whatever_happens(server: StaticServer, tmp_path: Path) -> None:
    token = "hunter2-very-secret"
    signed = f"{server.url}/a.txt?X-Amz-Signature={token}&X-Amz-Credential={token}"
    for path in ("/nope", "/b.bin"):
        server.redirect(path, f"{server.url}/missing?sig={token}")
    runs = [
        datafetch("get", signed, "data", "--json", "--log-level", "DEBUG", cwd=tmp_path),
        datafetch("get", f"{server.url}/nope?token={token}", "data", "--json", "--log-level", "DEBUG", cwd=tmp_path),
        datafetch("get", f"http://user:{token}@127.0.0.1/x", "data", "--json", "--log-level", "DEBUG", cwd=tmp_path),
        datafetch("get", f"{server.url}/b.bin", "data", "--json", "--log-level", "DEBUG", cwd=tmp_path),
        datafetch("run", "-", "--json", cwd=tmp_path, stdin=f"download_root: d\ntoken: {token}\n"),
    ]

    assert [run.code for run in runs] == [0, 11, 2, 11, 2]
    for run in runs:
        assert token not in run.stdout + run.stderr
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes()


def test_a_cancel_of_the_python_api_ends_a_fetch_that_waits_for_its_source(
    server: StaticServer, tmp_path: Path
) -> None:
    server.faults.add(Fault(stall_after=1000), times=None, path="/b.bin")
    task = package.fetch(f"{server.url}/b.bin", tmp_path / "data")
    threading.Timer(0.3, task.cancel).start()

    with pytest.raises(package.DataFetchError) as caught:
        task.run()

    assert caught.value.code == 143
    assert json.loads(json.dumps(caught.value.to_failure().model_dump()))["reason"] == "Interrupted"


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_complete_fetch_is_taken_as_it_is_only_where_that_is_asked_for(server: StaticServer, tmp_path: Path) -> None:
    first = datafetch("run", "-", "--skip-if-complete", cwd=tmp_path, stdin=config(server))
    asked = len(server.traffic.exchanges)

    skipped = datafetch("run", "-", "--skip-if-complete", "--json", cwd=tmp_path, stdin=config(server))
    unasked = len(server.traffic.exchanges)
    checked = datafetch("run", "-", "--json", cwd=tmp_path, stdin=config(server))

    assert (first.code, skipped.code, checked.code) == (0, 0, 0), skipped.stderr
    assert unasked == asked
    assert len(server.traffic.exchanges) > asked
    assert skipped.result.reused_bytes == sum(map(len, FILES.values()))
    assert skipped.result.manifest_digest == checked.result.manifest_digest


def test_what_is_incomplete_is_fetched_although_a_complete_one_would_do(server: StaticServer, tmp_path: Path) -> None:
    datafetch("run", "-", cwd=tmp_path, stdin=config(server))
    (tmp_path / "data/a.txt").unlink()

    run = datafetch("run", "-", "--skip-if-complete", cwd=tmp_path, stdin=config(server))

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "data") == FILES


def test_a_lock_and_skipping_exclude_each_other(tmp_path: Path) -> None:
    run = datafetch("run", "c.yaml", "--skip-if-complete", "--locked", "x.lock", cwd=tmp_path)

    assert run.code == 2
    assert "--locked: not allowed with argument --skip-if-complete" in run.sentence


def test_full_verification_finds_what_size_and_time_do_not_tell(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.create("org/model", {"model.safetensors": b"w" * 50_000})
        get = ("get", "hf://org/model", "data")
        datafetch(*get, cwd=tmp_path, HF_ENDPOINT=hub.url)
        file = tmp_path / "data/model.safetensors"
        status = file.stat()
        file.write_bytes(b"w" * 49_999 + b"x")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

        by_identity = datafetch(*get, cwd=tmp_path, HF_ENDPOINT=hub.url)
        kept = file.read_bytes()
        fully = datafetch(*get, "--verify", "full", cwd=tmp_path, HF_ENDPOINT=hub.url)

    assert (by_identity.code, fully.code) == (0, 0), fully.stderr
    assert kept.endswith(b"x")
    assert file.read_bytes() == b"w" * 50_000


# --- the termination message's length --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "variable"), [(("--termination-limit", "220"), {}), ((), {"DATAFETCH_TERMINATION_LIMIT": "220"})]
)
def test_the_message_is_as_short_as_it_has_to_be(
    server: StaticServer, tmp_path: Path, flags: tuple[str, ...], variable: dict[str, str]
) -> None:
    run = datafetch(
        "get", f"{server.url}/{'n' * 300}", "data", "--termination-log", "message", *flags, cwd=tmp_path, **variable
    )

    text = (tmp_path / "message").read_text()
    result = parse_result(text)
    assert run.code == 11
    assert len(text.encode()) <= 220
    assert result is not None
    assert result.failure is not None
    assert (result.exit_code, result.failure.reason) == (11, "SourceNotFound")


def test_the_limit_holds_for_a_command_line_that_cannot_be_read(tmp_path: Path) -> None:
    run = datafetch("run", "c.yaml", "--termination-limit", "12", "--json", cwd=tmp_path)

    assert run.code == 2
    assert "'12' is not a number from 200 to 4096" in run.sentence
