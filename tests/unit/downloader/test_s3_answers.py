"""Pages of listings are read as botocore reads them, whatever the keys; what is no whole page is none."""

from typing import Any
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import botocore.session
import pytest
from botocore.handlers import decode_list_object_v2
from botocore.parsers import ResponseParserFactory
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch.sources.s3_answers import parse_page

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
MD5 = "d41d8cd98f00b204e9800998ecf8427e"
OWNER = "<Owner><ID>1</ID><DisplayName>Key</DisplayName></Owner>"

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
etags = st.sampled_from([f'"{MD5}"', f'"{MD5}-2"', MD5, '""', ""])
objects = st.lists(st.tuples(keys, st.integers(0, 5 << 40), etags), max_size=5)


def page(
    found: list[tuple[str, int, str]], more: str = "", *, encoded: bool = True, namespace: str = NAMESPACE
) -> bytes:
    contents = "".join(
        f"<Contents><Key>{quote_plus(key, safe='/') if encoded else escape(key)}</Key>"
        f"<LastModified>2026-11-21T02:44:32.000Z</LastModified><ETag>{escape(etag)}</ETag>{OWNER}"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size, etag in found
    )
    encoding = "<EncodingType>url</EncodingType>" if encoded else ""
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{namespace}><Name>b</Name>{encoding}'
    return f"{head}{more}{contents}</ListBucketResult>".encode()


@pytest.fixture(scope="module")
def shape() -> Any:
    """What botocore knows of a page."""
    return botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2").output_shape


def by_botocore(body: bytes, shape: Any) -> list[tuple[str, int, str]]:
    answer = {"headers": {}, "status_code": 200, "body": body}
    parsed = ResponseParserFactory().create_parser("rest-xml").parse(answer, shape)
    decode_list_object_v2(parsed, {"encoding_type_auto_set": True})
    return [(found["Key"], found["Size"], found["ETag"]) for found in parsed.get("Contents", ())]


@settings(deadline=None, max_examples=60)
@given(found=objects, namespace=st.sampled_from(["", NAMESPACE]))
def test_a_page_says_what_botocore_reads_in_it(shape: Any, found: list[tuple[str, int, str]], namespace: str) -> None:
    body = page(found, namespace=namespace)
    read = parse_page(body)
    assert read is not None
    assert read.next_token is None
    assert [(entry.key, entry.size) for entry in read.entries] == [
        (key, size) for key, size, _ in by_botocore(body, shape)
    ]
    for entry, (key, size, etag) in zip(read.entries, found, strict=True):
        assert (entry.key, entry.size) == (key, size)
        assert entry.identity == (f"etag:{etag}" if etag.strip('"') else "")
        assert (entry.checksum is not None) == (etag == f'"{MD5}"')


def test_a_key_that_is_not_encoded_stays_as_it_is() -> None:
    read = parse_page(page([("a+b%20c & <d>", 1, "")], encoded=False))
    assert read is not None
    assert [entry.key for entry in read.entries] == ["a+b%20c & <d>"]


def test_the_next_page_is_named() -> None:
    token = "1/a+b=="
    body = page(
        [("a", 1, "")], f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    )
    read = parse_page(body)
    assert read is not None
    assert read.next_token == token


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<Error><Code>InternalError</Code></Error>",
        page([("a", 1, "")])[:-30],
        page([("", 1, "")]),
        page([("a", 1, "")]).replace(b"<Size>1<", b"<Size>x<"),
        page([("a", 1, "")]).replace(b"<Size>1</Size>", b""),
        # Half a listing must not look like a whole one.
        page([("a", 1, "")], "<IsTruncated>true</IsTruncated>"),
    ],
)
def test_what_is_no_whole_page_is_none(body: bytes) -> None:
    assert parse_page(body) is None
