"""`datafetch completion`: a script that makes a shell complete our commands."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datafetch.commands.options import Commands, Parser, add_command, add_log_options
from datafetch.commands.session import Answer, Finish, Session

if TYPE_CHECKING:
    from datafetch_api.report import Failure

_DESCRIPTION = """\
Print a script that makes a shell complete commands, options, their values and
file names. It stands alone: print it again after an upgrade."""
_EPILOG = """\
examples:
  source <(datafetch completion bash)                  # this shell
  datafetch completion bash \\
    > ~/.local/share/bash-completion/completions/datafetch
  datafetch completion zsh > "${fpath[1]}/_datafetch"  # then start zsh anew
  datafetch completion fish > ~/.config/fish/completions/datafetch.fish"""
_SHELLS = ("bash", "zsh", "fish")


def add_completion(commands: "Commands[Parser]") -> None:
    """Add `datafetch completion`."""
    completion = add_command(
        commands, "completion", "print a completion script for a shell", description=_DESCRIPTION, epilog=_EPILOG
    )
    completion.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or fish")
    add_log_options(completion)
    completion.set_defaults(command=_completion)


@dataclass(frozen=True)
class _Script:
    shell: str
    text: str

    exit_code = 0
    failure: "Failure | None" = None

    def termination_message(self, limit: int | None) -> str:
        """Return that it has completed."""
        from datafetch import report
        from datafetch_api.report import Result

        return report.termination_message(Result(exit_code=0), limit)

    def pieces(self) -> Iterator[str]:
        """Yield the script as a member of an object."""
        import json

        yield json.dumps({"datafetch": "v1", "exitCode": 0, "shell": self.shell, "script": self.text})

    def lines(self) -> Iterator[str]:
        """Yield the script."""
        yield from self.text.splitlines()


def _completion(options: argparse.Namespace, session: Session) -> Answer:
    from datafetch.cli import make_parser
    from datafetch.completion import SHELLS, describe
    from datafetch.progress import ProgressTracker

    session.attach(ProgressTracker(), Finish(options.json), None)
    return _Script(options.shell, SHELLS[options.shell](describe(make_parser())))
