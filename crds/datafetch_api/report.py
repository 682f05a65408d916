"""What the downloader says: progress lines in its log, and one result as the container's termination message."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

MARK: Literal["v1"] = "v1"
TERMINATION_MESSAGE_BYTES = 3500
"""At most this many bytes of result: kubelet keeps only the last 4,096, which would cut off the head of the JSON."""

_SHORTEST_MESSAGE = 200

Count = Annotated[int, Field(ge=0)]
_T = TypeVar("_T", "Progress", "Result")


class _Report(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class Stage(StrEnum):
    """What the downloader is doing."""

    WAITING = "Waiting"
    """For another process that holds the target."""
    LISTING = "Listing"
    FETCHING = "Fetching"
    PUBLISHING = "Publishing"


class SourceSummary(_Report):
    """One source, as it was found."""

    name: str
    resolved_revision: str | None = None
    files: Count = 0
    bytes: Count = 0


class Counters(_Report):
    """How far a fetch is. Totals are absent until every listing has ended."""

    total_bytes: Count | None = None
    completed_bytes: Count = 0
    """Bytes of the plan that are in place: fetched now or before, and reused."""
    reused_bytes: Count = 0
    """Bytes that were not fetched by this run: resumed parts and files of the last revision."""
    total_files: Count | None = None
    completed_files: Count = 0


class SourceProgress(_Report):
    """How far one source is."""

    name: str
    state: Literal["Pending", "Listing", "Fetching", "Complete"]
    completed_bytes: Count = 0
    total_bytes: Count | None = None
    """Absent until its listing has ended."""


class Progress(Counters):
    """One line of JSON in the log: at most one a second, at least one every ten."""

    datafetch: Literal["v1"] = MARK
    stage: Stage
    time: datetime
    bytes_per_second: Count = 0
    last_progress_time: datetime | None = None
    """When a byte arrived last, a file was whole or found to be there, or the fetching began."""
    message: str | None = None
    """Why it waits, where it does; for people."""
    sources: tuple[SourceProgress, ...] = ()
    plan_files: Count | None = None
    """Of one shard of several: what all of them bring. The other counters are of its own part."""
    plan_bytes: Count | None = None

    @property
    def percent(self) -> int | None:
        """Whole percent of the bytes in place, 100 only when all are; None until the total is known."""
        if self.total_bytes is None:
            return None
        if self.total_bytes == 0:
            return 100
        return min(100, self.completed_bytes * 100 // self.total_bytes)


class Failure(_Report):
    """Why a run failed: one sentence that names source, key and remedy."""

    reason: str
    message: str
    retryable: bool
    source: str | None = None
    key: str | None = None


class Result(Counters):
    """The last word of a run, at most `TERMINATION_MESSAGE_BYTES` long."""

    datafetch: Literal["v1"] = MARK
    exit_code: int
    failure: Failure | None = None
    manifest_digest: str | None = None
    """Of what was published, or of what a fetch would publish, where only the sources were listed and that can tell."""
    source_digest: str | None = None
    """Of what the sources listed, where that is not the same: the sizes of some objects come only with their bytes, or
    archives are unpacked. Two listings are compared by it."""
    unidentified_files: Count | None = None
    """Objects that may change without a sign of it, where only the sources were listed."""
    revision: str | None = None
    """The id of the published revision; managed layout only."""
    publication: Literal["Link", "InPlace"] | None = None
    spec_hash: str | None = None
    duration_seconds: Count = 0
    sources: tuple[SourceSummary, ...] = ()


def to_line(report: Progress | Result) -> str:
    """Return the report as one line of JSON without a newline, unset fields left out."""
    return report.model_dump_json(by_alias=True, exclude_none=True)


def to_termination_message(result: Result, limit: int = TERMINATION_MESSAGE_BYTES) -> str:
    """Return the result as JSON of at most `limit` bytes, always parseable.

    Dropped first are the entries per source, from the last; then the failure's message is shortened; then goes all but
    the code and the failure. A `limit` below what these two need (about 120 bytes) is passed.
    """
    text = ""
    for text in _ever_shorter(result):
        if len(text.encode()) <= limit:
            break
    return text


def _ever_shorter(result: Result) -> Iterator[str]:
    yield to_line(result)
    for kept in reversed(range(len(result.sources))):
        yield to_line(result.model_copy(update={"sources": result.sources[:kept]}))
    result = result.model_copy(update={"sources": ()})
    for failure in _ever_vaguer(result.failure, _SHORTEST_MESSAGE):
        yield to_line(result.model_copy(update={"failure": failure}))
    for vague in _ever_vaguer(result.failure, 0) if result.failure else (None,):
        essence = Result(datafetch=MARK, exit_code=result.exit_code, failure=vague)
        yield essence.model_dump_json(by_alias=True, exclude_none=True, exclude_unset=True)


def _ever_vaguer(failure: Failure | None, characters: int) -> Iterator[Failure]:
    """Yield the failure with a shorter and shorter message, down to `characters`; the message names source and key."""
    if failure is None:
        return
    message = failure.message
    yield failure.model_copy(update={"key": None, "source": None})
    while len(message) > characters:
        message = message[: max(characters, len(message) * 3 // 4)]
        yield failure.model_copy(update={"message": message, "key": None, "source": None})


def last_progress(log: str) -> Progress | None:
    """Return the last progress line of a log's tail, or None where there is no news.

    Only a newline ends a line: `str.splitlines` would also split at U+2028 and the like, which a server's error body
    may hold, and what follows it could then pass for a line of ours.
    """
    for line in reversed(log.split("\n")):
        progress = _parse(Progress, line)
        if progress is not None:
            return progress
    return None


def parse_result(message: str) -> Result | None:
    """Return the result in a termination message, or None where it holds something else."""
    return _parse(Result, message)


def _parse(model: type[_T], text: str) -> _T | None:
    if not text.lstrip().startswith("{") or '"datafetch"' not in text:
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError:
        return None
