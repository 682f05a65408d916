"""Signatures are those that botocore makes, byte for byte, whatever keys, addresses and headers come."""

import time
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch.sources.sigv4 import Signer

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
keys = st.builds(ReadOnlyCredentials, words, words, st.none() | words)
hosts = st.from_regex(r"[a-z0-9]([a-z0-9\-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,8}){0,3}", fullmatch=True)
ports = st.none() | st.integers(1, 65535).filter(lambda port: port not in (80, 443))
names = st.from_regex(r"x-amz-meta-[a-z0-9\-]{1,12}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
pairs = st.tuples(words, st.text(max_size=8))


def by_botocore(signer: S3SigV4Auth, second: int, request: AWSRequest) -> dict[str, str]:
    """All headers of the request after botocore has signed it at that second, names in lower case."""
    moment = datetime.fromtimestamp(second, UTC).replace(tzinfo=None)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
        signer.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@settings(deadline=None)
@given(
    keys=keys, host=hosts, port=ports, scheme=st.sampled_from(["http", "https"]), key=st.text(min_size=1, max_size=40),
    query=st.lists(pairs, max_size=4), headers=st.dictionaries(names, values, max_size=4),
    second=st.integers(0, 4_000_000_000), method=st.sampled_from(["GET", "HEAD"]),
    region=st.sampled_from(["us-east-1", "eu-north-1", "x"]), service=st.sampled_from(["s3", "s3-object-lambda"]),
)  # fmt: skip
def test_the_headers_are_botocore_s(
    keys: ReadOnlyCredentials, host: str, port: int | None, scheme: str, key: str, query: list[tuple[str, str]],
    headers: dict[str, str], second: int, method: str, region: str, service: str,
) -> None:  # fmt: skip
    authority = host if port is None else f"{host}:{port}"
    path = "/bucket/" + quote(key.encode("utf-8", "surrogatepass"), safe="/-._~")
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    url = f"{scheme}://{authority}{path}{'?' + text if text else ''}"
    signer = Signer(region, service, clock=lambda: second + 0.9)
    signed = signer.sign(keys, authority, path, text, tuple(headers.items()), method=method)
    expected = by_botocore(S3SigV4Auth(keys, service, region), second, AWSRequest(method, url, headers=dict(headers)))
    assert {name.lower(): value for name, value in signed.items()} | headers == expected


def test_the_signing_key_follows_the_day_and_the_keys() -> None:
    now = [datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()]
    reused = Signer("us-east-1", "s3", clock=lambda: now[0])
    for seconds in (0, 0.5, 1, 1, 3600):
        now[0] += seconds
        for given_keys in (ReadOnlyCredentials("a", "b", None), ReadOnlyCredentials("a", "c", "t")):
            fresh = Signer("us-east-1", "s3", clock=lambda: now[0])
            assert reused.sign(given_keys, "h", "/k") == fresh.sign(given_keys, "h", "/k")


def test_a_signature_costs_microseconds() -> None:
    signer = Signer("us-east-1", "s3")
    given_keys = ReadOnlyCredentials("AKIDEXAMPLE", "secret", None)
    began = time.process_time()
    for number in range(2000):
        signer.sign(given_keys, "bucket.s3.amazonaws.com", f"/some/prefix/file-{number}.bin")
    # botocore takes ten times as long as this takes on a slow machine.
    assert (time.process_time() - began) / 2000 < 50e-6
