"""The command line: what `datafetch run` and `datafetch get` accept, and the run that they start.

Parsing is quick: argparse only, and everything else is imported by the command that needs it. Standard output carries
progress lines and, with `--json`, the result; people read standard error.
"""

import argparse
import difflib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from datafetch import __version__

if TYPE_CHECKING:
    from datafetch.progress import ProgressTracker
    from datafetch.sources import Source
    from datafetch_api.config import DownloadConfig, DownloadItem
    from datafetch_api.report import Result

COMMANDS = ("run", "get")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_PROGRESS = ("auto", "bar", "json", "none")
_MOST_WORKERS = 1024

_DESCRIPTION = """\
Brings data from S3, Google Cloud Storage, Azure Blob Storage, the Hugging Face
Hub and HTTP to a directory: every file whole and verified or not there at all,
resumed where it was interrupted."""
_EPILOG = """\
examples:
  datafetch get hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 ./tinyllama
  datafetch run config.yaml
  datafetch run datafetch.yaml --target-dir ./data

`datafetch COMMAND --help` explains a command.

exit codes:
  0 done                      15 stalled
  2 bad config or command     16 target not writable
 10 credentials rejected      17 source changed
 11 source not found          18 unsafe path
 12 integrity mismatch        19 target occupied
 13 not enough space          70 a defect in datafetch
 14 source unavailable       143 stopped by a signal; run it again to resume"""
_RUN_DESCRIPTION = """\
Fetch what a config names. CONFIG is a YAML file with download_root and
download_items, or a DataFetch resource (then --target-dir says where its data
goes). Run it again and it fetches only what is missing or has changed."""
_RUN_EPILOG = """\
examples:
  datafetch run config.yaml
  datafetch run config.yaml --max-workers 32 --log-level DEBUG
  datafetch run datafetch.yaml --target-dir ./data --secrets-dir ./secrets
  generate-config | datafetch run - --progress none --json

a config:
  download_root: ./data
  download_items:
    - type: s3                  # or gcs, azure-blob, hf, http
      name: corpus
      items:
        - bucket: training
          items:
            - path: corpus/v3
              glob: "**/*.parquet"
              target_path: corpus

Every key is explained in docs/config.md."""
_GET_DESCRIPTION = """\
Fetch one source into the directory DEST. A URI that ends at a slash is
everything below it; without the slash it is that object, and if there is none,
everything below it."""
_GET_EPILOG = """\
sources:
  s3://BUCKET/PREFIX/      Amazon S3; with --endpoint-url any compatible server
  gs://BUCKET/PREFIX/      Google Cloud Storage
  az://CONTAINER/PREFIX/   Azure Blob Storage
  hf://[datasets/|spaces/]ORG/NAME[@REVISION][/PATH]
                           the Hugging Face Hub
  https://HOST/FILE        one file

examples:
  datafetch get hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 ./tinyllama
  datafetch get hf://datasets/ORG/NAME@v2/train/ ./train --exclude '*.csv'
  datafetch get s3://training/corpus/v3/ ./corpus --include '**/*.parquet'
  datafetch get s3://data/file.bin . --endpoint-url http://localhost:9000
  datafetch get gs://BUCKET/index.csv.gz . --anonymous

Credentials come from where each SDK looks for them: the environment
(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN,
AZURE_STORAGE_CONNECTION_STRING), its own files, or the machine's identity."""


class CommandLineError(Exception):
    """A command line that cannot be understood: one sentence with the remedy."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage: one sentence says more than a page."""

    def error(self, message: str) -> NoReturn:
        raise CommandLineError(f"{message}; see '{self.prog} --help'")


@dataclass(frozen=True)
class Finish:
    """How the run ends for those who read its result."""

    json: bool = False
    termination_log: str | None = None


class Session(Protocol):
    """The running process, as a command sees it."""

    @property
    def cancel(self) -> threading.Event:
        """Set once the run is to stop."""

    def attach(self, tracker: "ProgressTracker", finish: Finish, spec_hash: str | None) -> None:
        """Take in where this run's result comes from and where it goes, should it end early."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line. Raises CommandLineError."""
    parser = _parser()
    _refuse_unknown_command(arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise CommandLineError(_explain_unknown(unknown[0], options.parser))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="datafetch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"datafetch {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_get(commands)
    return parser


def _add_run(commands: "argparse._SubParsersAction[_Parser]") -> None:
    run = _add_command(
        commands, "run", "fetch what a config or a DataFetch resource names", _RUN_DESCRIPTION, _RUN_EPILOG
    )
    run.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="YAML file; - reads standard input. Default: the text in the environment variable DATAFETCH_CONFIG",
    )
    run.add_argument(
        "--target-dir", metavar="DIR", help="directory for the data; needed for a DataFetch, replaces download_root"
    )
    run.add_argument(
        "--secrets-dir",
        metavar="DIR",
        help="directory with the Secrets that a DataFetch names, as files DIR/NAME/KEY. "
        "Default: credentials come from each SDK's own chain",
    )
    run.add_argument(
        "--config-digest", metavar="sha256:HEX", type=_digest, help="refuse a config with another digest than this"
    )
    _add_transfer_options(run)
    _add_output_options(run)
    run.set_defaults(command=_run, parser=run)


def _add_get(commands: "argparse._SubParsersAction[_Parser]") -> None:
    get = _add_command(commands, "get", "fetch one source into a directory", _GET_DESCRIPTION, _GET_EPILOG)
    get.add_argument("uri", metavar="URI", help="the source, see below")
    get.add_argument("dest", metavar="DEST", help="directory for the data; it is made where it is missing")
    get.add_argument(
        "--include",
        metavar="GLOB",
        action="append",
        default=[],
        help="take only the files that match; may be repeated. ** crosses slashes, * does not",
    )
    get.add_argument(
        "--exclude", metavar="GLOB", action="append", default=[], help="leave these files out; may be repeated"
    )
    get.add_argument("--endpoint-url", metavar="URL", help="another server with the same API, or a mirror of the Hub")
    get.add_argument("--region", metavar="REGION", help="region of the bucket (S3)")
    get.add_argument("--anonymous", action="store_true", help="send no credentials (S3, GCS, Azure)")
    _add_transfer_options(get)
    _add_output_options(get)
    get.set_defaults(command=_get, parser=get)


def _add_command(
    commands: "argparse._SubParsersAction[_Parser]", name: str, help_text: str, description: str, epilog: str
) -> _Parser:
    return commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_transfer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-workers",
        metavar="N",
        type=_worker_count,
        help="most requests at a time, of all sources; how many of them pay is found by measuring (default: 64)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=_log_level,
        default="INFO",
        help=f"how much to say on standard error: {', '.join(_LOG_LEVELS)} (default: INFO)",
    )
    parser.add_argument(
        "--progress",
        metavar="HOW",
        choices=_PROGRESS,
        default="auto",
        help="bar: on standard error; json: lines on standard output; none; "
        "auto (default): bar on a terminal, else json",
    )
    parser.add_argument("--json", action="store_true", help="print the result as the last line of standard output")
    parser.add_argument(
        "--termination-log",
        metavar="PATH",
        help="write the result to this file too (default: /dev/termination-log where there is one)",
    )


def _worker_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_WORKERS}")
    return int(text)


def _log_level(text: str) -> str:
    level = {"WARN": "WARNING", "CRITICAL": "ERROR"}.get(text.upper(), text.upper())
    if level not in _LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(_LOG_LEVELS)}")
    return level


def _digest(text: str) -> str:
    algorithm, _, value = text.lower().partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a digest; write sha256: and 64 hex digits")
    return text.lower()


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


# --- commands --------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace, session: Session) -> "Result":
    from datafetch import config

    def load() -> "DownloadConfig":
        text = config.read_text(options.config, os.environ)
        config.check_digest(text, options.config_digest)
        return config.load(text, target_dir=options.target_dir, secrets_dir=options.secrets_dir)

    return _fetch(options, session, load)


def _get(options: argparse.Namespace, session: Session) -> "Result":
    from datafetch.api import config_for

    def load() -> "DownloadConfig":
        return config_for(
            options.uri,
            options.dest,
            include=options.include,
            exclude=options.exclude,
            endpoint_url=options.endpoint_url,
            region=options.region,
            anonymous=options.anonymous,
        )

    return _fetch(options, session, load)


def _fetch(options: argparse.Namespace, session: Session, load: Callable[[], "DownloadConfig"]) -> "Result":
    from datafetch import logs, report
    from datafetch.progress import ProgressTracker

    logs.configure(options.log_level)
    tracker = ProgressTracker()
    finish = Finish(options.json, options.termination_log)
    session.attach(tracker, finish, None)
    config = _with_workers(load(), options.max_workers)
    spec_hash = config.managed.spec_hash if config.managed else None
    session.attach(tracker, finish, spec_hash)
    from datafetch.engine import run_fetch

    display = _display(options.progress, tracker)
    display.start()
    try:
        outcome = run_fetch(
            config,
            observer=tracker,
            cancel=session.cancel,
            workers=options.max_workers,
            opener=_open_source,
        )
    finally:
        display.close()
    directory = config.managed.path if config.managed else config.download_root or "."
    logging.getLogger(__name__).info("%s", report.summary(outcome, tracker.elapsed, directory))
    return report.success(outcome, tracker, spec_hash)


def _open_source(item: "DownloadItem", stall_timeout: float) -> "Source":
    """Open a source without collecting garbage: importing an SDK makes objects that stay, and little else."""
    from datafetch.sources import open_source

    gc.disable()
    try:
        return open_source(item, stall_timeout)
    finally:
        gc.freeze()
        gc.enable()


def _with_workers(config: "DownloadConfig", workers: int | None) -> "DownloadConfig":
    """Return the config with the number of requests that the command line asks for; it wins over the file's."""
    if workers is None:
        return config
    transfer = config.transfer.model_copy(update={"max_concurrency": workers})
    return config.model_copy(update={"transfer": transfer})


class Display(Protocol):
    """Shows progress between `start` and `close`."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """Show the last state and end."""


class _Silence:
    def start(self) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


def _display(how: str, tracker: "ProgressTracker") -> Display:
    if how == "auto":
        how = "bar" if sys.stdout.isatty() and sys.stderr.isatty() else "json"
    if how == "bar":
        from datafetch.terminal import ProgressBars

        return ProgressBars(tracker)
    if how == "json":
        from datafetch.progress import LineEmitter

        return LineEmitter(tracker)
    return _Silence()
