"""What `datafetch verify` has to say: of the tree, and of what its source has by now."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from datafetch.comparison import Comparison, Difference, Identified
from datafetch.errors import DataFetchError, IntegrityMismatchError, InvalidConfigError, SourceChangedError
from datafetch.plan import Plan
from datafetch.report import CommandReport, count_files, printable
from datafetch.verification import Findings, Manifest, PublishedTree
from datafetch_api.config import DownloadConfig
from datafetch_api.spec_hash import request_hash

_MOST_DIFFERENCES = 100_000
_EXTRA_SHOWN = 20
"""Extra files that people read the names of; a directory that others use too may be full of them."""
_AT_THE_SOURCE = {"changed": "changed at the source", "gone": "gone from the source", "new": "new at the source"}


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class ManifestSummary(_Part):
    """A manifest that the tree was compared with."""

    spec_hash: str
    manifest_digest: str
    time: str
    files: int
    bytes: int
    revision: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> "ManifestSummary":
        """Return what of a manifest's header means something: a directory in place has no owner."""
        header = manifest.header
        owner = {name: getattr(header, name) or None for name in ("namespace", "name", "uid")}
        return cls(
            spec_hash=header.spec_hash,
            manifest_digest=header.manifest_digest,
            time=header.time,
            files=header.files,
            bytes=header.bytes,
            revision=header.revision,
            **owner,
        )


class PathFinding(_Part):
    """One path that is not as it was published, or not as the source has it."""

    kind: Literal["missing", "altered", "extra", "changed", "gone", "new"]
    path: str
    detail: str | None = None

    @property
    def line(self) -> str:
        """The finding for people."""
        what = _AT_THE_SOURCE.get(self.kind, self.kind)
        return f"{what}: {self.path}" + (f" ({self.detail})" if self.detail else "")


class SourceComparison(_Part):
    """How many paths differ from what the source has now."""

    changed: int
    gone: int
    new: int


class VerifyReport(CommandReport):
    """What was found."""

    directory: str
    publication: Literal["Link", "InPlace"]
    sizes_only: bool
    intact: int
    missing: int
    altered: int
    extra: int
    without_checksum: int
    source: SourceComparison | None = None
    manifests: tuple[ManifestSummary, ...]
    findings: tuple[PathFinding, ...]

    def lines(self) -> Iterator[str]:
        """Yield what is not as it should be, then the sums."""
        yield from (found.line for found in self.findings if found.kind != "extra")
        extra = [found.line for found in self.findings if found.kind == "extra"]
        yield from extra[:_EXTRA_SHOWN]
        if self.extra > _EXTRA_SHOWN:
            yield f"... and {self.extra - _EXTRA_SHOWN:,} more that no manifest lists (--json names them)"
        yield self._sum()
        if self.source is not None:
            yield self._source_sum(self.source)

    def _sum(self) -> str:
        how = "by size only" if self.sizes_only else "by size and checksum"
        lacking = f" ({self.without_checksum:,} of them by size only: no checksum is known)"
        others = [f"{count:,} {what}" for what, count in self._counts().items() if count]
        intact = f"{count_files(self.intact)} intact {how}"
        intact += lacking if self.without_checksum and not self.sizes_only else ""
        return ", ".join([intact, *others])

    def _counts(self) -> dict[str, int]:
        return {"missing": self.missing, "altered": self.altered, "extra": self.extra}

    def _source_sum(self, source: SourceComparison) -> str:
        counts = {"changed": source.changed, "gone": source.gone, "new": source.new}
        others = [f"{count:,} {what}" for what, count in counts.items() if count]
        return f"against the source: {', '.join(others) or 'nothing has changed there'}"


def report_on(
    tree: PublishedTree,
    findings: Findings,
    differences: list[Difference] | None,
    *,
    sizes_only: bool,
    strict: bool,
) -> VerifyReport:
    """Return the report, with the exit code that the findings stand for."""
    error = _error(tree, findings, differences, strict=strict)
    named = [PathFinding(kind=one.kind, path=one.path, detail=one.detail or None) for one in findings.named]
    drifted = [PathFinding(kind=one.kind, path=one.name) for one in differences or ()]
    return VerifyReport(
        exit_code=error.code if error else 0,
        failure=printable(error.to_failure()) if error else None,
        directory=tree.directory,
        publication=tree.publication,
        sizes_only=sizes_only,
        intact=findings.intact,
        missing=findings.missing,
        altered=findings.altered,
        extra=findings.extra,
        without_checksum=findings.without_checksum,
        source=None if differences is None else _count(differences),
        manifests=tuple(ManifestSummary.of(manifest) for manifest in tree.manifests),
        findings=(*named, *drifted),
    )


def _error(
    tree: PublishedTree, findings: Findings, differences: list[Difference] | None, *, strict: bool
) -> DataFetchError | None:
    """Return what the findings amount to: damage before drift."""
    extra = findings.extra if strict else 0
    if findings.damaged or extra:
        counts = {"missing": findings.missing, "altered": findings.altered, "extra": extra}
        what = ", ".join(f"{count_files(count)} {kind}" for kind, count in counts.items() if count)
        remedy = (
            "fetch again with --verify full, and they are replaced"
            if findings.damaged
            else "remove what does not belong there"
        )
        return IntegrityMismatchError(f"{tree.directory!r} is not as it was published: {what}; {remedy}")
    if differences:
        count = _count(differences)
        return SourceChangedError(
            f"the source has changed since {tree.directory!r} was published: {count.changed:,} changed, "
            f"{count.gone:,} gone, {count.new:,} new; fetch again to take what is there now"
        )
    return None


def _count(differences: list[Difference]) -> SourceComparison:
    kinds = [one.kind for one in differences]
    return SourceComparison(changed=kinds.count("changed"), gone=kinds.count("gone"), new=kinds.count("new"))


def manifest_of(tree: PublishedTree, config: DownloadConfig) -> Manifest:
    """Return the manifest that a fetch of the config left in the tree; a revision has only one.

    Raises InvalidConfigError where the tree came from other requests.
    """
    if tree.publication == "Link":
        return tree.manifests[0]
    asked = request_hash(config.download_items)
    for manifest in tree.manifests:
        if manifest.header.spec_hash == asked:
            return manifest
    raise InvalidConfigError(
        f"{tree.directory!r} holds nothing that this request has fetched; name the config, or the URI and globs, that "
        "it was fetched with"
    )


def compare_with_source(manifest: Manifest, plan: Plan) -> list[Difference]:
    """Return where the source's objects, as they are listed now, are not those of the manifest."""
    with Comparison() as comparison:
        comparison.expect(Identified(file.path, file.identity, file.size) for file in manifest.objects())
        comparison.find(Identified(file.path, file.identity, file.size) for file in plan)
        return list(islice(comparison.differences(), _MOST_DIFFERENCES))
