"""The last word of a run: its result, as the container's termination message and as JSON on stdout.

Builds the result from an outcome or an error; `termination` brings it to its place.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from datafetch.errors import DataFetchError
from datafetch.progress import ProgressTracker
from datafetch.redaction import redacted
from datafetch_api.exit_codes import ExitCode
from datafetch_api.printable import single_line
from datafetch_api.quantities import format_bytes
from datafetch_api.report import MARK, TERMINATION_MESSAGE_BYTES, Failure, Result, to_termination_message

if TYPE_CHECKING:
    from datafetch.engine import FetchOutcome


class CommandReport(BaseModel):
    """What a command that fetches nothing has to say; each adds its own fields."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    datafetch: Literal["v1"] = MARK
    exit_code: int = 0
    failure: Failure | None = None

    def termination_message(self, limit: int | None) -> str:
        """Return the exit code, and the failure where it is one, as a result."""
        return termination_message(Result(exit_code=self.exit_code, failure=self.failure), limit)

    def pieces(self) -> Iterator[str]:
        """Yield the text of one JSON object, unset fields left out."""
        yield self.model_dump_json(by_alias=True, exclude_none=True)


def success(outcome: "FetchOutcome", tracker: ProgressTracker, spec_hash: str | None) -> Result:
    """Return the result of a run that ended with everything in place."""
    return Result(
        exit_code=ExitCode.COMPLETED,
        total_files=outcome.files,
        completed_files=outcome.files,
        total_bytes=outcome.bytes,
        completed_bytes=outcome.bytes,
        reused_bytes=outcome.reused_bytes,
        manifest_digest=outcome.manifest_digest,
        source_digest=outcome.source_digest,
        revision=outcome.revision,
        publication=outcome.publication,
        spec_hash=spec_hash,
        duration_seconds=round(tracker.elapsed),
        sources=outcome.sources,
    )


def failure(error: DataFetchError, tracker: ProgressTracker, spec_hash: str | None = None) -> Result:
    """Return the result of a run that ended with an error, with what had been done until then."""
    progress = tracker.snapshot()
    return Result(
        exit_code=error.code,
        failure=printable(error.to_failure()),
        total_files=progress.total_files,
        completed_files=progress.completed_files,
        total_bytes=progress.total_bytes,
        completed_bytes=progress.completed_bytes,
        reused_bytes=progress.reused_bytes,
        spec_hash=spec_hash,
        duration_seconds=round(tracker.elapsed),
        sources=tracker.sources,
    )


def termination_message(result: Result, limit: int | None) -> str:
    """Return the result in at most `limit` bytes; without one, in what a container alone in its pod may leave."""
    return to_termination_message(result, limit or TERMINATION_MESSAGE_BYTES)


def printable(failure: Failure) -> Failure:
    """Return the failure without control characters and without what may be secret in URLs."""
    return failure.model_copy(
        update={
            "message": single_line(redacted(failure.message)),
            "source": failure.source and single_line(redacted(failure.source)),
            "key": failure.key and single_line(redacted(failure.key)),
        }
    )


def summary(outcome: "FetchOutcome", seconds: float, directory: str) -> str:
    """Return one sentence for people about what was fetched."""
    fetched = outcome.bytes - outcome.reused_bytes
    files = count_files(outcome.files)
    if outcome.files and not fetched and outcome.bytes:
        return f"{files}, {format_bytes(outcome.bytes)}, were all there already in {directory}"
    speed = f" ({format_bytes(int(fetched / seconds))}/s)" if seconds >= 1 else ""
    reused = f"; {format_bytes(outcome.reused_bytes)} of it was there already" if outcome.reused_bytes else ""
    return f"{files}, {format_bytes(outcome.bytes)}, in {directory} after {seconds:.1f} s{speed}{reused}"


def count_files(count: int) -> str:
    """Return the number of files as people read it."""
    return "1 file" if count == 1 else f"{count:,} files"
