"""The arguments that several commands share, and what they mean: what to fetch, how, and how to say so."""

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datafetch_api.config import DownloadConfig

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
TERMINATION_LIMIT_VARIABLE = "DATAFETCH_TERMINATION_LIMIT"
"""Environment variable for `--termination-limit`: who puts a container of ours into somebody's pod sets it, because the
messages of a pod's containers share 12,000 bytes."""
_PROGRESS = ("auto", "bar", "json", "none")
_VERIFY = {"identity": "Identity", "full": "Full"}
_MOST_WORKERS = 1024
_MOST_RETRIES = 1000
_LONGEST_DELAY = 3600
_SHORTEST_MESSAGE = 200
_LONGEST_MESSAGE = 4096
"""Bytes that kubelet keeps of a container's message."""
_URI_ONLY = ("include", "exclude", "endpoint_url", "region", "anonymous")
_CONFIG_ONLY = ("secrets_dir", "target_dir", "config_digest")


class CommandLineError(Exception):
    """A command line that cannot be understood: one sentence with the remedy."""


class Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage: one sentence says more than a page."""

    def error(self, message: str) -> NoReturn:
        """Raise CommandLineError."""
        raise CommandLineError(f"{message}; see '{self.prog} --help'")


Commands = argparse._SubParsersAction  # noqa: SLF001 - what add_subparsers returns has no public name


def add_command(commands: "Commands[Parser]", name: str, help_text: str, *, description: str, epilog: str) -> Parser:
    """Add a command, with a help page that keeps its line breaks."""
    parser = commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    return parser


# --- what to fetch ---------------------------------------------------------------------------------------------------


def add_config_options(
    parser: argparse.ArgumentParser, title: str = "for a config", *, target_dir: bool = False
) -> argparse._ArgumentGroup:
    """Add what a config, or a DataFetch resource, needs beside its file, and return the group for more."""
    group = parser.add_argument_group(title)
    if target_dir:
        group.add_argument(
            "--target-dir", metavar="DIR", help="directory for the data; needed for a DataFetch, replaces download_root"
        )
    group.add_argument(
        "--secrets-dir",
        metavar="DIR",
        help="directory with the Secrets that a DataFetch names, as files DIR/NAME/KEY. "
        "Default: credentials come from each SDK's own chain",
    )
    return group


def add_digest_option(group: argparse._ArgumentGroup) -> None:
    """Add the digest that holds a run to the config that was meant."""
    group.add_argument(
        "--config-digest",
        metavar="sha256:HEX",
        type=_config_digest,
        help="refuse a config with another digest than this",
    )


def _config_digest(text: str) -> str:
    algorithm, _, value = text.lower().partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a digest; write sha256: and 64 hex digits")
    return text.lower()


def add_uri_options(parser: argparse.ArgumentParser, title: str = "for a URI") -> None:
    """Add what a URI leaves open."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--include",
        metavar="GLOB",
        action="append",
        default=[],
        help="take only the files that match; may be repeated. ** crosses slashes, * does not",
    )
    group.add_argument(
        "--exclude", metavar="GLOB", action="append", default=[], help="leave these files out; may be repeated"
    )
    group.add_argument("--endpoint-url", metavar="URL", help="another server with the same API, or a mirror of the Hub")
    group.add_argument("--region", metavar="REGION", help="region of the bucket (S3)")
    group.add_argument("--anonymous", action="store_true", help="send no credentials (S3, GCS, Azure)")


def is_uri(text: str | None) -> bool:
    """Say whether an argument names a source, not a config file."""
    return text is not None and "://" in text


def load_config(
    argument: str | None, options: argparse.Namespace, *, target_dir: str | None, digest: str | None = None
) -> "DownloadConfig":
    """Return the config of a file, of standard input, or of the environment. Raises InvalidConfigError."""
    from datafetch import config

    text = config.read_text(argument, os.environ)
    config.check_digest(text, digest)
    return config.load(text, target_dir=target_dir, secrets_dir=options.secrets_dir)


def load_uri(uri: str, dest: str, options: argparse.Namespace) -> "DownloadConfig":
    """Return the config that brings what a URI names. Raises InvalidConfigError."""
    from datafetch.api import config_for

    return config_for(
        uri,
        dest,
        include=options.include,
        exclude=options.exclude,
        endpoint_url=options.endpoint_url,
        region=options.region,
        anonymous=options.anonymous,
    )


def load_either(
    argument: str | None, options: argparse.Namespace, *, dest: str | None, target_dir: str | None
) -> "DownloadConfig":
    """Return the config of an argument that may be a URI or the file of one.

    Raises InvalidConfigError, also for an option that only the other one knows.
    """
    if is_uri(argument):
        _refuse(options, _CONFIG_ONLY, "is for a config, and this is a URI")
        return load_uri(argument or "", dest or ".", options)
    _refuse(options, _URI_ONLY, "is for a URI; a config says it itself")
    return load_config(argument, options, target_dir=target_dir, digest=getattr(options, "config_digest", None))


def _refuse(options: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    from datafetch.errors import InvalidConfigError

    for name in names:
        if getattr(options, name, None):
            raise InvalidConfigError(f"--{name.replace('_', '-')} {why}; see '{options.parser.prog} --help'")


# --- how to fetch it -------------------------------------------------------------------------------------------------


def add_transfer_options(parser: argparse.ArgumentParser) -> None:
    """Add what `transfer` of a config says, for this run."""
    group = parser.add_argument_group("transfer")
    group.add_argument(
        "--max-workers",
        metavar="N",
        type=worker_count,
        help="most requests at a time, of all sources; how many of them pay is found by measuring (default: 256)",
    )
    group.add_argument(
        "--min-workers",
        metavar="N",
        type=worker_count,
        help="fewest requests of one kind (ranges of large files, small files) at a time, also where the source "
        "refuses some (default: as measured)",
    )
    group.add_argument(
        "--bandwidth-limit",
        metavar="SIZE",
        type=_byte_rate,
        help="most bytes per second, of all sources: 50M, 200Mi (default: no limit)",
    )
    group.add_argument(
        "--max-retries",
        metavar="N",
        type=retry_count,
        help="how often a range that brings nothing is asked for again (default: 29 times where the source asks for "
        "fewer requests, 4 times where connections stall, else 7 times)",
    )
    group.add_argument(
        "--retry-delay",
        metavar="SECONDS",
        type=delay_seconds,
        help="fewest seconds before that; doubled with each further time, up to 30 (default: half a second)",
    )
    group.add_argument(
        "--verify",
        metavar="HOW",
        choices=tuple(_VERIFY),
        help="what is asked of data that is there already. identity (default): untouched since it was verified, and "
        "still what the source has; full: its bytes, read again, have the checksum too",
    )
    either = group.add_mutually_exclusive_group()
    add_locked_option(either)
    either.add_argument(
        "--skip-if-complete",
        action="store_true",
        help="end at once, without asking the source, where a complete fetch of the same request is there already; "
        "else, and without this, the source is asked what has changed",
    )


def add_locked_option(parser: argparse._ActionsContainer) -> None:
    """Add the lock that takes the place of what the sources have now."""
    parser.add_argument(
        "--locked",
        metavar="FILE",
        help="take exactly what this file of 'datafetch lock' lists, nothing newer; fail where it has changed",
    )


TRANSFER_SETTINGS = {
    "min_workers": "min_concurrency",
    "max_workers": "max_concurrency",
    "bandwidth_limit": "bandwidth_limit",
    "max_retries": "max_retries",
    "retry_delay": "retry_delay",
}
"""The setting of `transfer` that an option stands for."""


def with_transfer(config: "DownloadConfig", options: argparse.Namespace) -> "DownloadConfig":
    """Return the config with what the command line says of the transfer; it wins over the file's."""
    update = {setting: getattr(options, name) for name, setting in TRANSFER_SETTINGS.items()}
    update["verify"] = _VERIFY.get(options.verify)
    return with_settings(config, {setting: value for setting, value in update.items() if value is not None})


def with_settings(config: "DownloadConfig", update: Mapping[str, object]) -> "DownloadConfig":
    """Return the config with these settings of its `transfer`. Raises InvalidConfigError where they do not fit."""
    from datafetch.errors import InvalidConfigError

    if not update:
        return config
    transfer = config.transfer.model_copy(update=dict(update))
    fewest, most = transfer.min_concurrency, transfer.max_concurrency
    if fewest is not None and fewest > most:
        raise InvalidConfigError(
            f"at least {fewest} requests at a time (--min-workers, MIN_PROCESSES, min_concurrency) and at most {most} "
            "(--max-workers, MAX_PROCESSES, max_concurrency) cannot be; change one of them"
        )
    return config.model_copy(update={"transfer": transfer})


# --- how to say so ---------------------------------------------------------------------------------------------------


def add_log_options(
    parser: argparse.ArgumentParser, *, answer: str = "print the answer as one JSON object"
) -> argparse._ArgumentGroup:
    """Add what every command knows of its output, and return the group for more."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help=answer)
    group.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=_log_level,
        choices=LOG_LEVELS,
        default="INFO",
        help=f"how much to say on standard error: {', '.join(LOG_LEVELS)} (default: INFO)",
    )
    return group


def add_fetch_output_options(parser: argparse.ArgumentParser) -> None:
    """Add what a fetch knows of its output."""
    group = add_log_options(parser, answer="print the result as the last line of standard output")
    add_progress_option(group, "auto (default): bar on a terminal, else json")
    add_termination_options(group)


def add_progress_option(group: argparse._ArgumentGroup, default: str) -> None:
    """Add how progress is shown; `default` says what is done where nobody asks, for the help page."""
    group.add_argument(
        "--progress",
        metavar="HOW",
        choices=_PROGRESS,
        help=f"bar: on standard error; json: lines on standard output; none; {default}",
    )


def add_termination_options(group: argparse._ArgumentGroup) -> None:
    """Add where the result goes for kubelet."""
    group.add_argument(
        "--termination-log",
        metavar="PATH",
        help="write the result to this file too (default: /dev/termination-log where there is one)",
    )
    group.add_argument(
        "--termination-limit",
        metavar="BYTES",
        type=_message_bytes,
        default=os.environ.get(TERMINATION_LIMIT_VARIABLE),
        help=f"most bytes of it; the containers of a pod share 12,000 (default: {TERMINATION_LIMIT_VARIABLE}, else "
        "3500)",
    )


def worker_count(text: str) -> int:
    """Return how many at a time."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_WORKERS}")
    return int(text)


def retry_count(text: str) -> int:
    """Return how often something is tried again."""
    if not text.isdecimal() or int(text) > _MOST_RETRIES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {_MOST_RETRIES}")
    return int(text)


def delay_seconds(text: str) -> float:
    """Return seconds."""
    seconds = decimal_number(text)
    if seconds is None or seconds > _LONGEST_DELAY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {_LONGEST_DELAY}")
    return seconds


def decimal_number(text: str) -> float | None:
    """Return a number that is not negative, as `10` or `0.5`; None for any other text."""
    whole, _, rest = text.strip().partition(".")
    return float(text) if (whole + rest).isdecimal() and text.isascii() else None


def _byte_rate(text: str) -> int:
    from datafetch_api.quantities import parse_bytes

    try:
        rate = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, in bytes per second") from None
    if not rate:
        raise argparse.ArgumentTypeError("0 bytes per second would never end")
    return rate


def _log_level(text: str) -> str:
    level = {"WARN": "WARNING", "CRITICAL": "ERROR"}.get(text.upper(), text.upper())
    if level not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return level


def termination_allowance(environment: Mapping[str, str]) -> int | None:
    """Return the limit of the environment where the arguments could not be read; a wrong one counts for nothing."""
    try:
        return _message_bytes(environment[TERMINATION_LIMIT_VARIABLE])
    except (KeyError, argparse.ArgumentTypeError):
        return None


def _message_bytes(text: str) -> int:
    if not text.isdecimal() or not _SHORTEST_MESSAGE <= int(text) <= _LONGEST_MESSAGE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {_SHORTEST_MESSAGE} to {_LONGEST_MESSAGE}")
    return int(text)
