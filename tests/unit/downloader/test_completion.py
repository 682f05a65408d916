"""Completion scripts: bash's by bash itself; those of zsh and fish, which need not be here, by what they hold."""

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datafetch.cli import COMMANDS, make_parser
from datafetch.completion import SHELLS, describe

SCRIPTS = {shell: make(describe(make_parser())) for shell, make in SHELLS.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "script.bash").write_text(SCRIPTS["bash"])
    (tmp_path / "config one.yaml").touch()
    (tmp_path / "models").mkdir()
    return tmp_path


def complete(directory: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    line = f"source ./script.bash; COMP_WORDS=(datafetch {shlex.join(words)}); COMP_CWORD={len(words)}; _datafetch; "
    done = subprocess.run(
        ["bash", "--norc", "-c", line + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.split("\n") if line]


def test_commands_are_completed(directory: Path) -> None:
    assert complete(directory, "") == list(COMMANDS)
    assert complete(directory, "ver") == ["verify"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["run", "--verify", ""], ["identity", "full"]),
        (["run", "config.yaml", "--progress", "j"], ["json"]),
        (["get", "s3://b/p", "--log-level", "W"], ["WARNING"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["run", "--max-w"], ["--max-workers"]),
        (["--v"], ["--version"]),
        (["run", "--max-workers", ""], []),
    ],
)
def test_options_and_their_values_are_completed(directory: Path, words: list[str], offered: list[str]) -> None:
    assert complete(directory, *words) == offered


def test_files_and_directories_are_completed_where_they_belong(directory: Path) -> None:
    assert complete(directory, "run", "con") == ["config one.yaml"]
    assert complete(directory, "run", "--locked", "config") == ["config one.yaml"]
    assert complete(directory, "verify", "") == ["models"]
    assert complete(directory, "run", "--target-dir", "m") == ["models"]


def test_every_option_of_every_command_is_offered(directory: Path) -> None:
    for command in describe(make_parser()):
        words = [command.name, "--"] if command.name else ["--"]
        expected = [flag for option in command.options for flag in option.flags if flag.startswith("--")]
        assert complete(directory, *words) == expected


def test_a_tab_in_an_interactive_bash_completes(directory: Path) -> None:
    terminal, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(terminal, b"source ./script.bash\n")
    os.write(terminal, b"datafetch run --ver\tf\t; exit\n")
    shown, deadline = b"", time.monotonic() + 10
    while time.monotonic() < deadline and select.select([terminal], [], [], 5)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # bash has gone
            break
    os.close(terminal)
    shell.wait(5)

    assert b"datafetch run --verify full" in shown, shown


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_every_command_and_option(shell: str) -> None:
    shape = {"zsh": ("{}[", "{}["), "fish": ("-l {} ", "-s {} ")}[shell]
    for command in describe(make_parser()):
        assert command.name in SCRIPTS[shell]
        for flag in (flag for option in command.options for flag in option.flags):
            name = flag if shell == "zsh" else flag.lstrip("-")
            assert shape[not flag.startswith("--")].format(name) in SCRIPTS[shell]


def test_the_command_prints_the_script(directory: Path) -> None:
    for shell, script in SCRIPTS.items():
        done = subprocess.run(
            [sys.executable, "-m", "datafetch", "completion", shell], capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == (script, "")
