"""The digest of what the sources hold, which is known once they are listed: two listings are compared by it. Pure.

It is the digest of the manifest that a fetch would publish, wherever the listing tells all that stands there. It does
not tell the size of an object whose server names it only with the bytes, nor what an archive holds that is unpacked:
there it is the digest of what was listed, which a fetch reports beside that of its manifest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from datafetch.plan import Plan, digest_lines
from datafetch_api.config import DownloadItem


@dataclass(frozen=True, slots=True)
class SourceDigest:
    """What the listings of all sources amount to."""

    value: str
    """`sha256:` and the digest over path, size and source identity of all objects."""
    is_manifest_digest: bool
    """Whether a fetch of these objects publishes a manifest with this digest."""
    unidentified: int
    """Objects whose server gives nothing that would change with their content."""


def digest_sources(plan: Plan, items: Iterable[DownloadItem]) -> SourceDigest:
    """Return the digest of a complete plan."""
    unidentified = 0

    def listed() -> Iterator[tuple[str, int | None, str]]:
        nonlocal unidentified
        for path, size, identity in plan.listed():
            unidentified += not identity
            yield path, size, identity

    value = digest_lines(listed())
    return SourceDigest(value, tells_manifest(plan, items), unidentified)


def tells_manifest(plan: Plan, items: Iterable[DownloadItem]) -> bool:
    """Return whether a complete plan tells all that stands in the manifest of its fetch."""
    return plan.tells_sizes and all(item.unpack is None for item in items)
