"""The command line: what `datafetch` accepts, and what it says to a mistake.

Parsing is quick: argparse only, and everything else is imported by the command that needs it (`commands`). Standard
output carries what programs read, people read standard error.
"""

import argparse
import difflib
import os
from collections.abc import Sequence

from datafetch import __version__
from datafetch.commands import completion, fetch, lock, plan, verify, wait
from datafetch.commands.options import CommandLineError, Parser

_ADD = {
    "run": fetch.add_run,
    "get": fetch.add_get,
    "plan": plan.add_plan,
    "verify": verify.add_verify,
    "lock": lock.add_lock,
    "wait": wait.add_wait,
    "completion": completion.add_completion,
}
COMMANDS = tuple(_ADD)

_DESCRIPTION = """\
Brings data from S3, Google Cloud Storage, Azure Blob Storage, the Hugging Face
Hub and HTTP to a directory: every file whole and verified or not there at all,
resumed where it was interrupted."""
_EPILOG = """\
examples:
  datafetch get hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 ./tinyllama
  datafetch run config.yaml
  datafetch run datafetch.yaml --target-dir ./data
  datafetch plan config.yaml        # what it would do: files, bytes, space
  datafetch verify ./tinyllama      # is everything there, as it was fetched?

`datafetch COMMAND --help` explains a command.

exit codes:
  0 done                      15 stalled
  2 bad config or command     16 target not writable
 10 credentials rejected      17 source changed
 11 source not found          18 unsafe path
 12 integrity mismatch        19 target occupied
 13 not enough space          70 a defect in datafetch
 14 source unavailable       143 stopped by a signal; run it again to resume"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line. Raises CommandLineError."""
    parser = make_parser()
    _refuse_unknown_command(arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise CommandLineError(_explain_unknown(unknown[0], options.parser))
    return options


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="datafetch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"datafetch {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _ADD.values():
        add(commands)
    return parser


def _refuse_unknown_command(arguments: Sequence[str]) -> None:
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    if not arguments or (word is None and not {"-h", "--help"} & set(arguments)):
        raise CommandLineError("no command: write 'datafetch run CONFIG' or 'datafetch get URI DEST'; see --help")
    if word is None or word in COMMANDS:
        return
    if word.endswith((".yaml", ".yml")) or os.path.isfile(word):
        raise CommandLineError(f"{word!r} is not a command; did you mean 'datafetch run {word}'?")
    if "://" in word:
        raise CommandLineError("a source is not a command; did you mean 'datafetch get URI DEST'?")
    raise CommandLineError(f"{word!r} is not a command{_suggest(word, COMMANDS)}")


def _explain_unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    if not argument.startswith("-"):
        return f"one argument too many: {argument!r} (globs need quotes); see '{parser.prog} --help'"
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001 - no public list
    option = argument.partition("=")[0]
    return f"{parser.prog} has no option {option!r}{_suggest(option, known)}"


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "; see --help"


__all__ = ["COMMANDS", "CommandLineError", "make_parser", "parse"]
