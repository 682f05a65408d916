"""What `datafetch plan` has to say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, PrivateAttr
from pydantic.alias_generators import to_camel

from datafetch.listing import Listing
from datafetch.preflight import Fate, FilePlan, Preflight
from datafetch.report import CommandReport, count_files, printable, termination_message
from datafetch.source_digest import SourceDigest
from datafetch_api.exit_codes import ExitCode
from datafetch_api.quantities import format_bytes
from datafetch_api.report import Failure, Result, SourceSummary, to_line


class FateSum(BaseModel):
    """Files of one fate."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    files: int
    bytes: int


class PlanReport(CommandReport):
    """What a fetch would do."""

    directory: str
    total_files: int
    total_bytes: int
    """As far as sizes are known."""
    fetch_bytes: int
    unchanged: FateSum
    new: FateSum
    changed: FateSum
    partly_there: FateSum
    remove: FateSum
    needed_bytes: int
    free_bytes: int
    capacity_bytes: int | None = None
    fits: bool
    archives: int = 0
    """Files that are archives to unpack; what they hold is known only once they are here."""
    sources: tuple[SourceSummary, ...]
    _preflight: Preflight = PrivateAttr()
    _list_files: bool = PrivateAttr()

    @classmethod
    def of(cls, found: Preflight, *, list_files: bool) -> "PlanReport":
        """Return the report; with the name of every file where asked."""
        shortage = found.shortage
        sums = {fate: FateSum(files=one.files, bytes=one.bytes) for fate, one in found.sums.items()}
        report = cls(
            exit_code=shortage.code if shortage else 0,
            failure=printable(shortage.to_failure()) if shortage else None,
            directory=found.directory,
            total_files=len(found.plan),
            total_bytes=found.plan.total_bytes,
            fetch_bytes=found.fetch_bytes,
            unchanged=sums[Fate.UNCHANGED],
            new=sums[Fate.NEW],
            changed=sums[Fate.CHANGED],
            partly_there=sums[Fate.PARTLY],
            remove=sums[Fate.REMOVE],
            needed_bytes=found.plan.needed_bytes,
            free_bytes=found.free_bytes,
            capacity_bytes=found.capacity_bytes,
            fits=shortage is None,
            archives=found.plan.archives,
            sources=found.summaries,
        )
        report._preflight, report._list_files = found, list_files
        return report

    def pieces(self) -> Iterator[str]:
        """Yield the object, its files one after the other: there may be millions."""
        text = "".join(super().pieces())
        if not self._list_files:
            yield text
            return
        separator = text.removesuffix("}") + ',"files":['
        for file in self._preflight.files():
            yield separator + json.dumps({"path": file.path, "size": file.size, "fate": file.fate})
            separator = ","
        yield ("" if separator == "," else separator) + "]}"

    def lines(self) -> Iterator[str]:
        """Yield the files where asked, the sources, what becomes of the files, and the space."""
        if self._list_files:
            yield from map(_file_line, self._preflight.files())
            yield ""
        yield from map(_source_line, self.sources)
        yield ""
        yield f"{self.directory}: {_amount(self.total_files, self.total_bytes)}"
        rows = {
            "unchanged": self.unchanged,
            "new": self.new,
            "changed": self.changed,
            "partly there": self.partly_there,
            "to remove": self.remove,
        }
        yield from (f"  {name:<13}{_amount(row.files, row.bytes)}" for name, row in rows.items() if row.files)
        yield f"to fetch: {format_bytes(self.fetch_bytes)}; {self._space()}"
        if self.archives:
            count = "1 archive" if self.archives == 1 else f"{self.archives:,} archives"
            yield f"unpacks {count}: what comes out of them needs space too, and is not counted here"

    def _space(self) -> str:
        room = f"{format_bytes(self.needed_bytes)} to be written, {format_bytes(self.free_bytes)} free"
        return f"{room}: {'it fits' if self.fits else 'it does not fit'}"


@dataclass(frozen=True)
class DigestReport:
    """What the sources hold: a result like that of a fetch, but that nothing was fetched."""

    result: Result
    failure: Failure | None = None

    @classmethod
    def of(cls, listing: Listing, digest: SourceDigest, seconds: int) -> "DigestReport":
        """Return the report on a listing that has ended."""
        return cls(
            Result(
                exit_code=ExitCode.COMPLETED,
                total_files=len(listing.plan),
                total_bytes=listing.plan.total_bytes,
                manifest_digest=digest.value if digest.is_manifest_digest else None,
                source_digest=None if digest.is_manifest_digest else digest.value,
                unidentified_files=digest.unidentified,
                duration_seconds=seconds,
                sources=listing.summaries,
            )
        )

    @property
    def exit_code(self) -> int:
        """Completed: what cannot be listed ends as an error."""
        return self.result.exit_code

    def termination_message(self, limit: int | None) -> str:
        """Return the result."""
        return termination_message(self.result, limit)

    def pieces(self) -> Iterator[str]:
        """Yield the result's line."""
        yield to_line(self.result)

    def lines(self) -> Iterator[str]:
        """Yield the sources, and the digest of all with what it is worth."""
        found = self.result
        yield from map(_source_line, found.sources)
        if found.unidentified_files:
            count = count_files(found.unidentified_files)
            yield f"{count} may change without a sign of it: no ETag, version or time identifies what they hold"
        if found.manifest_digest is not None:
            yield f"manifest digest: {found.manifest_digest}"
            return
        yield "the manifest's digest is known only once all is fetched: some sizes, or what archives hold, are not told"
        yield f"source digest: {found.source_digest}"


def _source_line(source: SourceSummary) -> str:
    revision = f" at {source.resolved_revision}" if source.resolved_revision else ""
    return f"{source.name}: {_amount(source.files, source.bytes)}{revision}"


def _file_line(file: FilePlan) -> str:
    size = "?" if file.size is None else format_bytes(file.size)
    return f"{file.fate:<13}{size:>10}  {file.path}"


def _amount(files: int, size: int) -> str:
    return f"{count_files(files)}, {format_bytes(size)}"
