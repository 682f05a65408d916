"""Header fields: the names that servers give files, and the headers that users give."""

import pytest

from datafetch.sources.http_headers import given_name, parse_header_lines


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename=data.csv", "data.csv"),
        ('attachment; filename="two words.csv"', "two words.csv"),
        ('inline;filename = "a.csv" ; size=7', "a.csv"),
        ('ATTACHMENT; FILENAME="a.csv"', "a.csv"),
        (r'attachment; filename="qu\"ote.csv"', 'qu"ote.csv'),
        ('attachment; filename="semi;colon.csv"', "semi;colon.csv"),
        ("attachment; filename=\"EURO.csv\"; filename*=UTF-8''%e2%82%ac%20rates.csv", "€ rates.csv"),
        ("attachment; filename*=iso-8859-1'en'%A3.csv; filename=x", "£.csv"),
        # UTF-8 as it is: the head is read as Latin-1.
        ('attachment; filename="na\xc3\xafve.csv"', "naïve.csv"),
        ('attachment; filename="na\xefve.csv"', "naïve.csv"),
        # Each of these is none, or not simply a name.
        (None, None),
        ("", None),
        ("attachment", None),
        ('attachment; filename=""', None),
        ('attachment; filename="../../etc/passwd"', None),
        ('attachment; filename="/etc/passwd"', None),
        (r'attachment; filename="C:\\boot.ini"', None),
        ('attachment; filename=".."', None),
        ('attachment; filename="a\tb"', None),
        ('attachment; filename=" a"', None),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd", None),
        ("attachment; filename*=UTF-8''a%00b", None),
        ("attachment; filename*=UTF-8''%ff", None),
        ("attachment; filename*=utf-16''%00a", None),
        (f'attachment; filename="{"ü" * 128}"', None),
        # An unsafe one does not hide a safe one.
        ("attachment; filename*=UTF-8''a%2Fb; filename=b.csv", "b.csv"),
        ('attachment; filename="unclosed', None),
    ],
)
def test_a_server_s_name_for_a_file_is_a_plain_name_or_none(disposition: str | None, name: str | None) -> None:
    assert given_name(disposition) == name


def test_headers_are_lines_of_name_and_value() -> None:
    text = "X-Api-Key:  abc def \r\n\nprivate-token:xyz\n"
    assert parse_header_lines(text) == {"X-Api-Key": "abc def", "private-token": "xyz"}
    assert parse_header_lines("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A: b\nno colon s3cret", "line 2 is not NAME: VALUE"),
        ("X Y: s3cret", "line 1 is not"),
        ("X-Y:", "line 1 is not"),
        ("X-Y: s3crét", "line 1 is not"),
        ("X-Y: s3\x00cret", "line 1 is not"),
        (" folded: s3cret", "line 1 is not"),
        ("Range: bytes=0-7", "line 1: Range is set by each request itself"),
        ("HOST: s3cret", "line 1: HOST is set"),
        ("A: s3cret\na: s3cret", "line 2: a is there twice"),
    ],
)
def test_what_is_no_header_is_refused_without_its_value(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        parse_header_lines(text)
    assert "s3" not in str(raised.value)
