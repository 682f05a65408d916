"""`datafetch verify`: whether a published tree is what it was, and what its source has."""

import argparse
import os
import threading
from typing import TYPE_CHECKING

from datafetch.commands.display import watch_display
from datafetch.commands.options import (
    Commands,
    Parser,
    add_command,
    add_config_options,
    add_log_options,
    add_uri_options,
    load_either,
    worker_count,
)
from datafetch.commands.session import Answer, Finish, Session

if TYPE_CHECKING:
    from datafetch.comparison import Difference
    from datafetch.progress import ProgressTracker
    from datafetch.verification import PublishedTree

_FEWEST_THREADS = 2
_DESCRIPTION = """\
Compare what lies in DIR with the manifest that its fetch left: every file is
there, has its size, and its checksum where the source gave one. Nothing is
changed and the network is not asked, unless --source names where the data came
from: then what the source has now is compared as well."""
_EPILOG = """\
examples:
  datafetch verify ./tinyllama
  datafetch verify /mnt/claim/team/llama --sizes-only
  datafetch verify ./tinyllama --source hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0
  datafetch verify ./data --source config.yaml --json

DIR is what was fetched to: the directory of 'datafetch get' or download_root,
or, on a volume, the link that a DataFetch publishes.

Ends with 12 (IntegrityMismatch) where a file is missing or altered, with 17
(SourceChanged) where only the source differs, and with 2 where there is no
manifest. Files that no manifest lists are named; with --strict they count."""


def add_verify(commands: "Commands[Parser]") -> None:
    """Add `datafetch verify`."""
    verify = add_command(
        commands,
        "verify",
        "compare a directory with what was published there",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    verify.add_argument("directory", metavar="DIR", help="the directory, or the link, that the data was fetched to")
    verify.add_argument("--sizes-only", action="store_true", help="read no file: compare names and sizes")
    verify.add_argument("--strict", action="store_true", help="files that no manifest lists are damage too")
    verify.add_argument(
        "--threads", metavar="N", type=worker_count, help="files to read at a time (default: one for each processor)"
    )
    verify.add_argument(
        "--source",
        metavar="CONFIG|URI",
        help="compare with what this config or URI names now, too: the one that the data was fetched with",
    )
    add_config_options(verify, "for a config in --source")
    add_uri_options(verify, "for a URI in --source")
    add_log_options(verify)
    verify.set_defaults(command=_verify)


def _verify(options: argparse.Namespace, session: Session) -> Answer:
    from datafetch import logs
    from datafetch.progress import ProgressTracker
    from datafetch.verification import find_tree, verify_tree
    from datafetch.verification_report import report_on
    from datafetch_api.report import Stage

    logs.configure(options.log_level)
    tracker = ProgressTracker()
    session.attach(tracker, Finish(options.json), None)
    tree = find_tree(options.directory)
    with watch_display(tracker, "Verifying"):
        differences = None
        if options.source is not None:
            differences = _compare_with_source(tree, options, tracker, session.cancel)
        headers = [manifest.header for manifest in tree.manifests]
        tracker.totals(sum(header.files for header in headers), sum(header.bytes for header in headers))
        tracker.stage(Stage.FETCHING)
        findings = verify_tree(
            tree,
            sizes_only=options.sizes_only,
            threads=options.threads or max(_FEWEST_THREADS, os.cpu_count() or 1),
            cancel=session.cancel,
            received=tracker.received,
            completed=lambda _path, _size: tracker.completed_files(1),
        )
    return report_on(tree, findings, differences, sizes_only=options.sizes_only, strict=options.strict)


def _compare_with_source(
    tree: "PublishedTree", options: argparse.Namespace, tracker: "ProgressTracker", cancel: threading.Event
) -> "list[Difference]":
    from datafetch.listing import list_sources
    from datafetch.verification_report import compare_with_source, manifest_of

    config = load_either(options.source, options, dest=".", target_dir=tree.directory)
    manifest = manifest_of(tree, config)
    listing = list_sources(config, observer=tracker, cancel=cancel)
    return compare_with_source(manifest, listing.plan)
