"""`datafetch run` and `datafetch get`: the fetch itself."""

import argparse
import gc
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datafetch.commands.display import fetch_display
from datafetch.commands.options import (
    Commands,
    Parser,
    add_command,
    add_config_options,
    add_digest_option,
    add_fetch_output_options,
    add_transfer_options,
    add_uri_options,
    load_config,
    load_uri,
    with_transfer,
)
from datafetch.commands.session import Answer, Finish, Session

if TYPE_CHECKING:
    from datafetch.engine import FetchOutcome, Opener
    from datafetch.progress import ProgressTracker
    from datafetch.sources import Source
    from datafetch_api.config import DownloadConfig, DownloadItem
    from datafetch_api.report import Failure, Result

_RUN_DESCRIPTION = """\
Fetch what a config names. CONFIG is a YAML file with download_root and
download_items, or a DataFetch resource (then --target-dir says where its data
goes). Run it again and it fetches only what is missing or has changed."""
_RUN_EPILOG = """\
examples:
  datafetch run config.yaml
  datafetch run config.yaml --max-workers 32 --log-level DEBUG
  datafetch run datafetch.yaml --target-dir ./data --secrets-dir ./secrets
  datafetch run config.yaml --locked datafetch.lock
  generate-config | datafetch run - --progress none --json

a config:
  download_root: ./data
  download_items:
    - type: s3                  # or gcs, azure-blob, hf, lakefs, git, http
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
  lakefs://REPOSITORY/REF[/PATH]
                           lakeFS; with --endpoint-url, or lakectl's settings
  git+https://HOST/PATH[@REVISION][#DIRECTORY]
                           a git repository
  https://HOST/FILE        one file

examples:
  datafetch get hf://TinyLlama/TinyLlama-1.1B-Chat-v1.0 ./tinyllama
  datafetch get hf://datasets/ORG/NAME@v2/train/ ./train --exclude '*.csv'
  datafetch get s3://training/corpus/v3/ ./corpus --include '**/*.parquet'
  datafetch get s3://data/file.bin . --endpoint-url http://localhost:9000
  datafetch get gs://BUCKET/index.csv.gz . --anonymous

Credentials come from where each SDK looks for them: the environment
(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN,
AZURE_STORAGE_CONNECTION_STRING), its own files, or the machine's identity.

The environment variables of Super Obj Soaker are obeyed too; an option wins:
  MIN_PROCESSES, MAX_PROCESSES  --min-workers, --max-workers
  MAX_SPEED                     --bandwidth-limit, in MB/s (1,000,000 bytes)
  MAX_RETRIES, RETRY_DELAY      --max-retries, --retry-delay
  OPTIMIZATION_INTERVAL         most seconds until another number is tried"""


def add_run(commands: "Commands[Parser]") -> None:
    """Add `datafetch run`."""
    run = add_command(
        commands,
        "run",
        "fetch what a config or a DataFetch resource names",
        description=_RUN_DESCRIPTION,
        epilog=_RUN_EPILOG,
    )
    run.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="YAML file; - reads standard input. Default: the text in the environment variable DATAFETCH_CONFIG",
    )
    add_digest_option(add_config_options(run, "config", target_dir=True))
    add_transfer_options(run)
    add_fetch_output_options(run)
    shards = run.add_argument_group("for a config with managed.shards: several processes, one fetch")
    shards.add_argument(
        "--shard",
        metavar="INDEX",
        type=_index,
        help="which of them this is; the first one, 0, lists for all (default: the environment variable "
        "JOB_COMPLETION_INDEX)",
    )
    shards.add_argument(
        "--publish-shards", action="store_true", help="publish what all of them have brought; asks no source"
    )
    run.set_defaults(command=_run)


def add_get(commands: "Commands[Parser]") -> None:
    """Add `datafetch get`."""
    get = add_command(
        commands, "get", "fetch one source into a directory", description=_GET_DESCRIPTION, epilog=_GET_EPILOG
    )
    get.add_argument("uri", metavar="URI", help="the source, see below")
    get.add_argument("dest", metavar="DEST", help="directory for the data; it is made where it is missing")
    add_uri_options(get, "source")
    add_transfer_options(get)
    add_fetch_output_options(get)
    get.set_defaults(command=_get, shard=None, publish_shards=False)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not the index of a shard; write 0, 1, ...")
    return int(text)


def _run(options: argparse.Namespace, session: Session) -> Answer:
    def load() -> "DownloadConfig":
        return load_config(options.config, options, target_dir=options.target_dir, digest=options.config_digest)

    return _fetch(options, session, load)


def _get(options: argparse.Namespace, session: Session) -> Answer:
    from datafetch.commands.soaker import with_environment

    def load() -> "DownloadConfig":
        return with_environment(load_uri(options.uri, options.dest, options), os.environ, options)

    return _fetch(options, session, load)


@dataclass(frozen=True)
class _Fetched:
    """A fetch that has ended well: its result is for programs, people have read the log."""

    result: "Result"
    failure: "Failure | None" = None

    @property
    def exit_code(self) -> int:
        """Completed."""
        return self.result.exit_code

    def termination_message(self, limit: int | None) -> str:
        """Return the result."""
        from datafetch import report

        return report.termination_message(self.result, limit)

    def pieces(self) -> Iterator[str]:
        """Yield the result's line."""
        from datafetch_api.report import to_line

        yield to_line(self.result)

    def lines(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())


def _fetch(options: argparse.Namespace, session: Session, load: "Callable[[], DownloadConfig]") -> Answer:
    from datafetch import logs, report
    from datafetch.progress import ProgressTracker

    logs.configure(options.log_level)
    tracker = ProgressTracker()
    finish = Finish(options.json, options.termination_log, options.termination_limit)
    session.attach(tracker, finish, None)
    config = with_transfer(load(), options)
    spec_hash = config.managed.spec_hash if config.managed else None
    session.attach(tracker, finish, spec_hash)
    from datafetch.engine import run_fetch

    def run(opener: "Opener") -> "FetchOutcome":
        if options.publish_shards or options.shard is not None or (config.managed and config.managed.shards):
            return _run_shard(config, options, session, tracker, opener)
        return run_fetch(
            config,
            observer=tracker,
            cancel=session.cancel,
            workers=options.max_workers,
            opener=opener,
            skip_if_complete=options.skip_if_complete,
        )

    with fetch_display(options.progress or "auto", tracker):
        outcome = _run_locked(options.locked, config, run) if options.locked else run(_open_source)
    directory = config.managed.path if config.managed else config.download_root or "."
    logging.getLogger(__name__).info("%s", report.summary(outcome, tracker.elapsed, directory))
    return _Fetched(report.success(outcome, tracker, spec_hash))


def _run_shard(
    config: "DownloadConfig",
    options: argparse.Namespace,
    session: Session,
    tracker: "ProgressTracker",
    opener: "Opener",
) -> "FetchOutcome":
    """Bring one part of a fetch that several processes share, or publish what they have brought."""
    from datafetch.sharding import publish_shards, run_shard, shard_from

    if options.publish_shards:
        return publish_shards(config, observer=tracker, cancel=session.cancel)
    shard = shard_from(os.environ) if options.shard is None else options.shard
    return run_shard(config, shard, observer=tracker, cancel=session.cancel, opener=opener, workers=options.max_workers)


def _run_locked(path: str, config: "DownloadConfig", run: "Callable[[Opener], FetchOutcome]") -> "FetchOutcome":
    """Fetch exactly what a lock file pins."""
    from datafetch.errors import DataFetchError
    from datafetch.pinning import check_request, explain_drift, locked_opener, read_lock

    lock = read_lock(path)
    check_request(lock, config)
    try:
        return run(locked_opener(lock, _open_source))
    except DataFetchError as error:
        raise explain_drift(lock, config, error, _open_source) from None


def _open_source(item: "DownloadItem", stall_timeout: float) -> "Source":
    """Open a source without collecting garbage: importing an SDK makes objects that stay, and little else."""
    from datafetch.sources import open_source

    gc.disable()
    try:
        return open_source(item, stall_timeout)
    finally:
        gc.freeze()
        gc.enable()
