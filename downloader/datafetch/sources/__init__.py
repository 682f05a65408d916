"""Where data comes from: one small interface, one module a provider.

A source lists its objects with their identities and opens a range of one of them. Authentication, endpoints and listing
are the SDK's; the bytes go over `datafetch.transport`, which every HTTP provider shares. A provider's SDK is imported
only in its own module, and only when a source of it is made.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from datafetch_api.config import DownloadItem

if TYPE_CHECKING:
    from datafetch.transport import Pin, Request, Transport


class ChecksumAlgorithm(StrEnum):
    """The checksums that providers give and `datafetch.checksums` computes."""

    CRC32 = "crc32"
    CRC32C = "crc32c"
    CRC64NVME = "crc64nvme"
    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    GIT_BLOB = "git-blob-sha1"
    """sha1 over `blob <size>\\0` and the content, as git names its objects."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole object, as lower-case hex of the big-endian value."""

    algorithm: ChecksumAlgorithm
    value: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a source, as the listing found it."""

    key: str
    """Its name at the source, for messages and requests."""
    path: str
    """Where it belongs below the download's root: not yet checked for safety."""
    size: int | None
    """Bytes; None where the server does not say before the transfer."""
    identity: str
    """What names exactly this content at the source: `etag:"..."`, `generation:...`, `oid:...`. Equal identity and size
    mean equal bytes. Empty where the server gives nothing to hold on to: such an object is never resumed or reused."""
    checksum: Checksum | None = None
    modified: datetime | None = field(default=None, compare=False)
    """When it was last written, in UTC; None where the listing does not say. No part of its identity."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `start` to `end`, `end` excluded; the end is None for an object of unknown size."""

    start: int
    end: int | None


class RangeReader(Protocol):
    """The bytes of one range, as they arrive."""

    @property
    def checksum(self) -> Checksum | None:
        """What the object promises of its bytes, all of them, as of this answer; mostly the entry's checksum.

        None where the answer withdraws it: an S3 object encrypted with a KMS key has an ETag that looks like an MD5 and
        is none. Another one than the entry's where the answer offers a better one.
        """

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from its start and return how many bytes arrived: 0 only at the end of the range.

        Raises SourceUnavailableError where the connection breaks before the end, StalledError where nothing arrives in
        time.
        """


class HttpAccess(Protocol):
    """How a source's bytes come by plain HTTP requests, for who sends them himself. Thread-safe.

    A request that is refused is asked for again with `Source.open`: that one knows how to renew credentials and links.
    """

    @property
    def transport(self) -> "Transport":
        """The source's data plane: its connections, proxies, TLS, and its errors in our words."""

    def prepare(self, entry: Entry, byte_range: ByteRange) -> "tuple[Request, Pin]":
        """Return the GET of a range, signed with the credentials of this moment, and what holds it to the object.

        The transport adds the Range header. Mostly no more than a few microseconds of work; it asks the network where
        credentials have to be renewed, or where a bucket's address or a branch's commit is not known yet. Raises like
        `Source.open`, without source and key.
        """

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
        """Return what the object promises of all its bytes, by its entry and an answer's headers (lower-case names)."""


class Source(Protocol):
    """One download item: what it holds, and how its bytes are had. Thread-safe."""

    @property
    def name(self) -> str:
        """The item's name."""

    @property
    def resolved_revision(self) -> str | None:
        """The commit that a branch or tag stood for, once listed; None where the provider has none."""

    @property
    def verifies(self) -> str:
        """What is verified of each object beside its size, for people: `crc32c`, `size only`."""

    @property
    def http(self) -> HttpAccess | None:
        """How the bytes come by plain HTTP requests; None where they come in another way, only from `open`."""

    def list(self) -> Iterator[Entry]:
        """Yield every object that the item selects, each once, in no particular order.

        Raises SourceNotFoundError where the bucket, repository or object is missing or nothing matched,
        CredentialsRejectedError, SourceUnavailableError (the SDK has retried already).
        """

    def open(self, entry: Entry, byte_range: ByteRange) -> AbstractContextManager[RangeReader]:
        """Ask for a range of exactly the object that the entry names: one request, no retry.

        Raises SourceChangedError where the object is another one by now, SourceNotFoundError where it is gone,
        CredentialsRejectedError, SourceUnavailableError (with `retry_after` and `throttled`).
        """

    def look_up(self, entry: Entry) -> Entry:
        """Return the object as it is now: another identity, size and checksum than the listing found, perhaps.

        Raises SourceNotFoundError where it is gone, and what `list` raises beside.
        """

    def close(self) -> None:
        """Release connections."""


def open_source(item: DownloadItem, stall_timeout: float) -> Source:
    """Return the source of a download item. Imports the provider's SDK.

    `stall_timeout` is the seconds that a connection may stay silent.
    Raises InvalidConfigError where the item's files cannot be read or its settings cannot work.
    """
    if item.manifest is None and item.max_timestamp_spread is None:
        return open_provider(item, stall_timeout)
    from datafetch.sources.membership import Membership, MembershipSource

    return MembershipSource(item, Membership.of(item), stall_timeout)


def open_provider(item: DownloadItem, stall_timeout: float) -> Source:
    """Return the same, with everything that the provider lists: what else the item says of its files is left out."""
    match item.type:
        case "s3":
            from datafetch.sources.s3 import S3Source

            return S3Source(item, stall_timeout=stall_timeout)
        case "gcs":
            from datafetch.sources.gcs import GCSSource

            return GCSSource(item, stall_timeout=stall_timeout)
        case "azure-blob":
            from datafetch.sources.azure_blob import AzureBlobSource

            return AzureBlobSource(item, stall_timeout=stall_timeout)
        case "hf":
            from datafetch.sources.hugging_face import HuggingFaceSource

            return HuggingFaceSource(item, stall_timeout=stall_timeout)
        case "lakefs":
            from datafetch.sources.lakefs import LakeFSSource

            return LakeFSSource(item, stall_timeout=stall_timeout)
        case "git":
            from datafetch.sources.git import GitSource

            return GitSource(item, stall_timeout=stall_timeout)
        case "http":
            from datafetch.sources.http import HttpSource

            return HttpSource(item, stall_timeout=stall_timeout)


__all__ = [
    "ByteRange",
    "Checksum",
    "ChecksumAlgorithm",
    "Entry",
    "HttpAccess",
    "RangeReader",
    "Source",
    "open_provider",
    "open_source",
]
