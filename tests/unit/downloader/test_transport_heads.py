"""Heads of requests and answers: the fast forms and plain ones agree on everything."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datafetch.transport import connection
from datafetch.transport.connection import Head, ProtocolError, parse_any_head, parse_head, render_fields, render_head

USUAL = (
    b"HTTP/1.1 200 OK\r\nx-amz-request-id: 7GX4VJ3K1M\r\nETag: \"9b2c\"\r\nAccept-Ranges: bytes\r\n"
    b"Content-Length: 16384\r\nServer: AmazonS3\r\n\r\n"
)  # fmt: skip
NAMES = st.sampled_from(
    ["ETag", "etag", "Content-Length", "Connection", "X-A", "x-a", "", " x-a", "x-a ", "X\xe9", "a b"]
)
VALUES = st.one_of(
    st.sampled_from(["", " ", "close", "Keep-Alive", "a: b", ": ", "\ta\t", " a ", "\xa0a\x85", '"e"', "1\n2", "\r"]),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
LINES = st.one_of(
    st.tuples(NAMES, st.sampled_from([": ", ":", ":  ", ":\t", "", " : "]), VALUES).map("".join),
    st.sampled_from(["etag", "ETag:", "", ":", ": ", "folded"]),
)
STATUS_LINES = st.one_of(
    st.sampled_from(
        ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 206", "HTTP/1.1 404 ", "HTTP/2 200", "HTTP/1.1 20"]
    ),
    st.from_regex(r"HTTP/1\.[0-2] [0-9]{2,4}( .{0,5})?", fullmatch=True, alphabet=st.characters(max_codepoint=255)),
)


def nothing_is_known() -> None:
    connection._known_names.clear()
    connection._known_status_lines.clear()


def outcome(text: str, *, fast: bool) -> Head | str:
    try:
        return parse_head(text.encode("latin-1")) if fast else parse_any_head(text)
    except ProtocolError as error:
        return str(error)


@given(STATUS_LINES, st.lists(LINES, max_size=6))
@example("HTTP/1.1 200 OK", ["etag"])
@example("HTTP/1.1 200 OK", ["etag: 1", "ETag: 2"])
@example("HTTP/1.1 200 OK", ["connection: close"])
def test_both_ways_to_read_a_head_agree(status_line: str, lines: list[str]) -> None:
    text = "\r\n".join([status_line, *lines, "", ""])
    # A blank line in the middle would be the end of the head.
    text = text[: text.index("\r\n\r\n") + 4]
    nothing_is_known()
    before = outcome(text, fast=True)
    parse_head(b"HTTP/1.1 200 OK\r\netag: 1\r\nConnection: close\r\nX-A: 1\r\n\r\n")
    assert outcome(text, fast=False) == before == outcome(text, fast=True)


def test_the_usual_head_is_read_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_known()
    first = parse_head(USUAL)
    assert first.headers["etag"] == '"9b2c"'
    monkeypatch.delattr("datafetch.transport.connection.parse_any_head")
    assert parse_head(USUAL) == first == Head(200, "OK", first.headers, keep_alive=True)


def test_what_servers_make_up_is_not_remembered_for_ever() -> None:
    for number in range(2000):
        head = parse_head(f"HTTP/1.1 200 {number}\r\nX-{number}: 1\r\n{'y' * 20_000}{number}: 1\r\n\r\n".encode())
        assert head.headers[f"x-{number}"] == "1"
    for known in (connection._known_names, connection._known_status_lines):
        assert len(known) <= 512
        assert max(map(len, known)) <= 100


# --- requests ---

FIELDS = st.dictionaries(
    st.text(st.characters(max_codepoint=300), max_size=6), st.text(st.characters(max_codepoint=300), max_size=6)
)


@given(st.text(st.characters(max_codepoint=300), max_size=8), FIELDS, FIELDS)
@example("/", {}, {"If-Match": '"x"\r\nHost: other'})
@example("/", {}, {"X": "\n"})
def test_a_request_is_its_lines_or_an_error(target: str, fixed: dict[str, str], headers: dict[str, str]) -> None:
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fixed.items())]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(re.search(r"[\x00-\x1f\x7f]|[^\x00-\xff]", line) for line in lines):
        with pytest.raises(ValueError, match=r"control character|can't encode"):
            render_head("GET", target, headers, render_fields(fixed))
        return
    assert render_head("GET", target, headers, render_fields(fixed)) == ("\r\n".join(lines) + "\r\n\r\n").encode(
        "latin-1"
    )
