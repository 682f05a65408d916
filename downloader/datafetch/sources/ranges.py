"""One GET of a range, by what a source prepares: the same for every provider whose bytes come over HTTP."""

from datafetch.sources import ByteRange, Entry, HttpAccess
from datafetch.transport import RangeBody


def open_range(access: HttpAccess, entry: Entry, byte_range: ByteRange) -> RangeBody:
    """Ask for a range of the object that the entry names: one request, no retry. Raises like `Source.open`."""
    request, pin = access.prepare(entry, byte_range)
    body = access.transport.open_range(request, byte_range, pin)
    body.checksum = access.promised_checksum(entry, body.headers)
    return body
