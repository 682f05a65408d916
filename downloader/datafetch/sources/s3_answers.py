"""What S3 answers, read: pages of a listing, and the checksums in an answer's head. Pure, without any SDK."""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from datafetch.sources import Checksum, ChecksumAlgorithm, Entry

_MD5 = re.compile(r'"([0-9a-f]{32})"')
_ENCRYPTED_ETAGS = frozenset({"aws:kms", "aws:kms:dsse"})
_CHECKSUMS = (
    ("x-amz-checksum-crc32c", ChecksumAlgorithm.CRC32C, 4),
    ("x-amz-checksum-crc32", ChecksumAlgorithm.CRC32, 4),
    ("x-amz-checksum-crc64nvme", ChecksumAlgorithm.CRC64NVME, 8),
    ("x-amz-checksum-sha256", ChecksumAlgorithm.SHA256, 32),
    ("x-amz-checksum-sha1", ChecksumAlgorithm.SHA1, 20),
)
"""By what they cost. Mostly there is one."""
_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before they can be read (GLACIER_IR's can be read at once)."""


class Page(NamedTuple):
    """One page of ListObjectsV2."""

    entries: list[Entry]
    """Their `path` is empty."""
    next_token: str | None
    """None on the last page."""
    archived: Mapping[str, str] = {}
    """Of the objects that are archived and not known to be restored: what to call that, by their keys."""


def parse_page(body: bytes) -> Page | None:
    """Return a page of a listing; None where the body is no whole one, as an error under status 200 is.

    botocore reads a page by a model of every field, which costs ten times as much.
    """
    try:
        # Expat bounds what entities may expand to, as botocore relies on too.
        root = ET.fromstring(body)  # noqa: S314 - as above
    except ET.ParseError:
        return None
    namespace, _, name = root.tag.rpartition("}")
    if name != "ListBucketResult":
        return None
    if namespace:
        namespace += "}"
    key_tag, size_tag, etag_tag = f"{namespace}Key", f"{namespace}Size", f"{namespace}ETag"
    modified_tag = f"{namespace}LastModified"
    is_encoded = root.findtext(f"{namespace}EncodingType") == "url"
    # Only then is any object asked for its class: most listings are long, and have none.
    has_archived = b"GLACIER" in body or b"DEEP_ARCHIVE" in body
    entries, archived = [], {}
    for found in root.findall(f"{namespace}Contents"):
        key, size = found.findtext(key_tag), found.findtext(size_tag, "")
        if not key or not size.isdecimal():
            return None
        if is_encoded and ("%" in key or "+" in key):
            key = unquote_plus(key)
        modified = _instant(found.findtext(modified_tag, ""))
        entries.append(entry_of(key, int(size), found.findtext(etag_tag, ""), modified))
        if has_archived and (state := _archive_state(found, namespace)):
            archived[key] = state
    if root.findtext(f"{namespace}IsTruncated") != "true":
        return Page(entries, None, archived)
    token = root.findtext(f"{namespace}NextContinuationToken")
    # Without it nobody could ask for the rest, and half a listing must not look like a whole one.
    return Page(entries, token, archived) if token else None


def _archive_state(found: ET.Element, namespace: str) -> str:
    """Return what an object's place in an archive is called; empty where it can be read.

    What has been restored is said only where it was asked for
    (https://docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreStatus.html).
    """
    status = found.find(f"{namespace}RestoreStatus")
    if status is None:
        return archive_state(found.findtext(f"{namespace}StorageClass"), None)
    ongoing = status.findtext(f"{namespace}IsRestoreInProgress") == "true"
    return archive_state(
        found.findtext(f"{namespace}StorageClass"), f'ongoing-request="{"true" if ongoing else "false"}"'
    )


def archive_state(storage_class: str | None, restore: str | None) -> str:
    """Return the same by an object's head: its `x-amz-storage-class` and `x-amz-restore`."""
    if storage_class not in _ARCHIVED or 'ongoing-request="false"' in (restore or ""):
        return ""
    return (
        f"{storage_class}, its restore is under way" if 'ongoing-request="true"' in (restore or "") else storage_class
    )


_VERSION = re.compile(r"version:([^ ]+) etag:(.*)", re.DOTALL)


def entry_of(key: str, size: int, etag: str, modified: datetime | None = None, version: str | None = None) -> Entry:
    """Return the entry of an object. The ETag of one that was uploaded in one part is its MD5.

    `version` is the version that was asked for: the newest has none in its identity.
    """
    md5 = _MD5.fullmatch(etag)
    checksum = Checksum(ChecksumAlgorithm.MD5, md5[1]) if md5 else None
    identity = f"etag:{etag}" if etag.strip('"') else ""
    if version is not None:
        identity = f"version:{version} etag:{etag}"
    return Entry(key, "", size, identity, checksum, modified)


def version_and_etag(identity: str) -> tuple[str | None, str]:
    """Return the version that an entry's identity pins, and its ETag; empty where it has none."""
    if identity.startswith("version:") and (found := _VERSION.fullmatch(identity)):
        return found[1], found[2]
    return None, identity.removeprefix("etag:")


def _instant(text: str) -> datetime | None:
    """Return a time as listings write it, 2026-11-21T09:00:00.000Z, or None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def promised_checksum(entry: Entry, headers: Mapping[str, str]) -> Checksum | None:
    """Return what an object promises of all its bytes: the checksum in the answer's head, else that of its entry."""
    found = _full_object_checksum(headers)
    if found is not None:
        return found
    # The ETag of an object that S3 encrypts with a key of KMS or the caller's is no MD5 of its content
    # (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html), and only the answer tells which one it is.
    if headers.get("x-amz-server-side-encryption") in _ENCRYPTED_ETAGS:
        return None
    return None if "x-amz-server-side-encryption-customer-algorithm" in headers else entry.checksum


def _full_object_checksum(headers: Mapping[str, str]) -> Checksum | None:
    """Return the checksum of a whole object that an answer's head names.

    Of an object in parts S3 may only know a checksum of the parts' checksums, and to a range that is one part it gives
    the part's (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html): neither is
    one of the object's bytes.
    """
    if headers.get("x-amz-checksum-type") != "FULL_OBJECT" or "content-range" in headers:
        return None
    for name, algorithm, length in _CHECKSUMS:
        try:
            value = base64.b64decode(headers.get(name, ""), validate=True)
        except binascii.Error:
            continue
        if len(value) == length:
            return Checksum(algorithm, value.hex())
    return None
