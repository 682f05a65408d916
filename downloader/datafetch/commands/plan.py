"""`datafetch plan`: what a fetch would do."""

import argparse
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from datafetch.commands.display import fetch_display, watch_display
from datafetch.commands.options import (
    Commands,
    Parser,
    add_command,
    add_config_options,
    add_digest_option,
    add_locked_option,
    add_log_options,
    add_progress_option,
    add_termination_options,
    add_uri_options,
    is_uri,
    load_either,
)
from datafetch.commands.session import Answer, Finish, Session

if TYPE_CHECKING:
    from datafetch.engine import Opener
    from datafetch.progress import ProgressTracker
    from datafetch_api.config import DownloadConfig

_DESCRIPTION = """\
Show what 'datafetch run CONFIG' or 'datafetch get URI DEST' would do: how many
files and bytes the sources have, what of it is there already, what would be
removed, and whether the rest fits. Nothing is downloaded and nothing written.
With --digest only the sources are listed: two listings are the same where their
digests are."""
_EPILOG = """\
examples:
  datafetch plan config.yaml
  datafetch plan datafetch.yaml --target-dir ./data --files
  datafetch plan hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 ./tinyllama
  datafetch plan s3://training/corpus/v3/ ./corpus --include '*.parquet' --json
  datafetch plan config.yaml --digest --json

Ends with the exit code that the fetch would end with before its first byte: 13
where it does not fit, 11 where nothing is found, 18 where names collide."""


def add_plan(commands: "Commands[Parser]") -> None:
    """Add `datafetch plan`."""
    plan = add_command(
        commands, "plan", "show what a fetch would do, and do nothing", description=_DESCRIPTION, epilog=_EPILOG
    )
    plan.add_argument(
        "request",
        metavar="CONFIG|URI",
        nargs="?",
        help="config file, DataFetch resource, - for standard input, or a source. "
        "Default: the environment variable DATAFETCH_CONFIG",
    )
    plan.add_argument("dest", metavar="DEST", nargs="?", help="directory for the data of a URI")
    either = plan.add_mutually_exclusive_group()
    either.add_argument("--files", action="store_true", help="list every file with what becomes of it")
    either.add_argument(
        "--digest",
        action="store_true",
        help="list the sources alone, look at no target, and report the manifestDigest that a fetch would publish now",
    )
    add_locked_option(plan)
    add_digest_option(add_config_options(plan, target_dir=True))
    add_uri_options(plan)
    group = add_log_options(plan)
    add_progress_option(group, "auto: bar on a terminal, else json; default: bar on a terminal, else none")
    add_termination_options(group)
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace, session: Session) -> Answer:
    from datafetch import logs
    from datafetch.progress import ProgressTracker

    logs.configure(options.log_level)
    tracker = ProgressTracker()
    session.attach(tracker, Finish(options.json, options.termination_log, options.termination_limit), None)
    config = _load(options)
    with _display(options, tracker):
        return (
            _digest(options, config, tracker, session) if options.digest else _look(options, config, tracker, session)
        )


def _look(
    options: argparse.Namespace, config: "DownloadConfig", tracker: "ProgressTracker", session: Session
) -> Answer:
    from datafetch.plan_report import PlanReport
    from datafetch.preflight import look_ahead

    found = look_ahead(config, observer=tracker, cancel=session.cancel, opener=_opener(options, config))
    return PlanReport.of(found, list_files=options.files)


def _digest(
    options: argparse.Namespace, config: "DownloadConfig", tracker: "ProgressTracker", session: Session
) -> Answer:
    from datafetch.listing import list_sources
    from datafetch.plan_report import DigestReport
    from datafetch.source_digest import digest_sources

    listing = list_sources(config, observer=tracker, cancel=session.cancel, opener=_opener(options, config))
    found = digest_sources(listing.plan, config.download_items)
    return DigestReport.of(listing, found, round(tracker.elapsed))


def _display(options: argparse.Namespace, tracker: "ProgressTracker") -> AbstractContextManager[None]:
    if options.progress is None:
        return watch_display(tracker, "Listing")
    return fetch_display(options.progress, tracker)


def _load(options: argparse.Namespace) -> "DownloadConfig":
    from datafetch.errors import InvalidConfigError

    if is_uri(options.request) and options.dest is None and not options.digest:
        raise InvalidConfigError("a URI needs the directory that its data would go to: 'datafetch plan URI DEST'")
    if not is_uri(options.request) and options.dest is not None:
        raise InvalidConfigError(f"a config says itself where its data goes; write --target-dir {options.dest}")
    target = "." if options.digest and options.target_dir is None else options.target_dir
    return load_either(options.request, options, dest=options.dest, target_dir=target)


def _opener(options: argparse.Namespace, config: "DownloadConfig") -> "Opener":
    from datafetch.sources import open_source

    if options.locked is None:
        return open_source
    from datafetch.pinning import check_request, locked_opener, read_lock

    lock = read_lock(options.locked)
    check_request(lock, config)
    return locked_opener(lock, open_source)
