"""Lines of an index: what each stands for, and what is refused with the number of its line."""

import subprocess
from pathlib import Path

import pytest

from datafetch.errors import InvalidConfigError
from datafetch.sources.http_index import LONGEST_LINE, Format, IndexLine, read_index

BASE = "https://host/dir/SHA256SUMS"
SUM = "0123456789abcdef" * 4


def read(text: str | bytes, form: Format = "auto", base: str = BASE) -> list[IndexLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_index(data.splitlines(keepends=True), base, form))


@pytest.mark.parametrize(
    ("line", "url", "path"),
    [
        (f"{SUM}  a.bin", "https://host/dir/a.bin", "a.bin"),
        (f"{SUM} *a.bin", "https://host/dir/a.bin", "a.bin"),
        (f"{SUM.upper()}  a.bin", "https://host/dir/a.bin", "a.bin"),
        (f"SHA256 (a (1).bin) = {SUM}", "https://host/dir/a%20(1).bin", "a (1).bin"),
        (f"{SUM}  ./sub/a.bin", "https://host/dir/sub/a.bin", "sub/a.bin"),
        (f"{SUM}  50% off?#ü.txt", "https://host/dir/50%25%20off%3F%23%C3%BC.txt", "50% off?#ü.txt"),
        (f"{SUM}  c:\\d", "https://host/dir/c:%5Cd", "c:\\d"),
        (f"\\{SUM}  back\\\\slash", "https://host/dir/back%5Cslash", "back\\slash"),
        (f"\\{SUM}  new\\nline", "https://host/dir/new%0Aline", "new\nline"),
        (f"{SUM}  https://other/x/a.bin?token=1", "https://other/x/a.bin?token=1", "a.bin"),
        (f"{SUM}  ../up", "https://host/up", "../up"),
    ],
)
def test_a_line_of_sha256sum_is_a_name_below_the_index(line: str, url: str, path: str) -> None:
    assert read(line + "\n") == [IndexLine(1, url, path, None, SUM)]


def test_what_sha256sum_itself_writes_is_read(tmp_path: Path) -> None:
    names = ["plain", " two  spaces ", "back\\slash", "new\nline", "car\rriage", "*star", "ünï"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    for options in (["--binary"], ["--text"], ["--tag"]):
        written = subprocess.run(["sha256sum", *options, "--", *names], cwd=tmp_path, capture_output=True, check=True)
        assert [line.path for line in read(written.stdout)] == names


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"url": "a.bin"}', IndexLine(1, "https://host/dir/a.bin", "a.bin")),
        ('{"url": "sub/%C3%BC.bin?x=1"}', IndexLine(1, "https://host/dir/sub/%C3%BC.bin?x=1", "sub/ü.bin")),
        ('{"url": "/top/a.bin"}', IndexLine(1, "https://host/top/a.bin", "a.bin")),
        ('{"url": "//other/top/a.bin"}', IndexLine(1, "https://other/top/a.bin", "a.bin")),
        ('{"url": "https://other/t/a.bin"}', IndexLine(1, "https://other/t/a.bin", "a.bin")),
        ('{"url": "/download?id=7", "path": "a"}', IndexLine(1, "https://host/download?id=7", "a")),
        (
            f'{{"url": "a", "path": "./x/y", "size": 7, "sha256": "{SUM.upper()}", "more": [1]}}',
            IndexLine(1, "https://host/dir/a", "x/y", 7, SUM),
        ),
        (f'{{"url": "http://plain/a", "sha256": "{SUM}"}}', IndexLine(1, "http://plain/a", "a", None, SUM)),
    ],
)
def test_a_line_of_json_is_a_url_and_what_is_known_of_it(line: str, expected: IndexLine) -> None:
    assert read(line) == [expected]
    assert read(line, "json-lines") == [expected]


def test_comments_empty_lines_and_line_ends_of_windows_are_left_out() -> None:
    text = f"\ufeff# made today\r\n\r\n{SUM}  a\r\n   \n{SUM}  b"
    assert [(line.number, line.path) for line in read(text)] == [(3, "a"), (5, "b")]


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("<html>\n", "auto", "line 1: it is no line of sha256sum"),
        (f"{SUM}  a\n{SUM[:-1]}  b\n", "auto", "line 2: it is no line of sha256sum"),
        (f"{SUM} a\n", "sha256sum", "line 1: it is no line of sha256sum"),
        (f"\\{SUM}  a\\tb\n", "auto", r"line 1: its name has the escape"),
        (f"{SUM}  a\n", "json-lines", "line 1: it is not JSON"),
        ('{"url": "a"}\n[1]\n', "auto", "line 2: it is no JSON object"),
        ("[" * 60000, "json-lines", "line 1: it is not JSON"),
        ('{"path": "a"}\n', "auto", "line 1: it has no url"),
        ('{"url": 5}\n', "auto", "line 1: url is no text"),
        ('{"url": "a", "path": ""}\n', "auto", "line 1: path is no text"),
        ('{"url": "a", "size": "7"}\n', "auto", "line 1: size is no number"),
        ('{"url": "a", "size": true}\n', "auto", "line 1: size is no number"),
        ('{"url": "a", "size": -1}\n', "auto", "line 1: size is no number"),
        ('{"url": "a", "sha256": "abc"}\n', "auto", "line 1: sha256 is no SHA-256"),
        ('{"url": "https://host/dir/"}\n', "auto", "line 1: its URL names no file"),
        ('{"url": "file:///etc/passwd"}\n', "auto", "line 1: its URL is none of http or https"),
        ('{"url": "https://[bad/x"}\n', "auto", "line 1: url is no URL"),
        ('{"url": "http://plain/a"}\n', "auto", "line 1: it leads from https to plain http"),
        ("x" * (LONGEST_LINE + 1), "auto", "line 1: it has more than"),
        (b"\xff\xfe\n", "auto", "line 1: it is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(text: str | bytes, form: Format, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said) as raised:
        read(text, form)
    assert "https://host/dir/SHA256SUMS" in str(raised.value)
