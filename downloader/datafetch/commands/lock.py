"""`datafetch lock`: pin what a request stands for."""

import argparse

from datafetch.commands.display import watch_display
from datafetch.commands.options import (
    Commands,
    Parser,
    add_command,
    add_config_options,
    add_log_options,
    add_uri_options,
    load_either,
)
from datafetch.commands.session import Answer, Finish, Session

DEFAULT_FILE = "datafetch.lock"
_DESCRIPTION = """\
List what a config or a URI stands for now, and write every object with its
identity (ETag, generation, version or commit) and checksum into one file. A
fetch with --locked takes exactly these objects, here or elsewhere, and ends
with SourceChanged (17) where one of them is not there any more. The file holds
no credentials: commit it beside the config."""
_EPILOG = """\
examples:
  datafetch lock config.yaml
  datafetch run config.yaml --locked datafetch.lock
  datafetch lock hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 -o llama.lock
  datafetch get hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 . --locked llama.lock

The request must be the same when it is replayed: the same config, or the same
URI with the same globs."""


def add_lock(commands: "Commands[Parser]") -> None:
    """Add `datafetch lock`."""
    lock = add_command(
        commands,
        "lock",
        "pin every object of a config or a URI in one file",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    lock.add_argument(
        "request",
        metavar="CONFIG|URI",
        nargs="?",
        help="config file, DataFetch resource, - for standard input, or a source. "
        "Default: the environment variable DATAFETCH_CONFIG",
    )
    lock.add_argument(
        "-o", "--output", metavar="FILE", default=DEFAULT_FILE, help=f"the file to write (default: {DEFAULT_FILE})"
    )
    add_config_options(lock)
    add_uri_options(lock)
    add_log_options(lock)
    lock.set_defaults(command=_lock)


def _lock(options: argparse.Namespace, session: Session) -> Answer:
    from datafetch import logs
    from datafetch.progress import ProgressTracker

    logs.configure(options.log_level)
    tracker = ProgressTracker()
    session.attach(tracker, Finish(options.json), None)
    config = load_either(options.request, options, dest=".", target_dir=".")
    from datafetch.listing import list_sources
    from datafetch.pinning import LockReport, write_lock

    with watch_display(tracker, "Listing"):
        listing = list_sources(config, observer=tracker, cancel=session.cancel)
    return LockReport.of(write_lock(options.output, config, listing.plan, listing.summaries))
