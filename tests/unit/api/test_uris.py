"""URIs of sources: where they point, and that nothing secret in them comes out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafetch_api.uris import Location, file_name, parse_uri, redact_uri

_POINTS_AT = [
    ("s3://bucket", Location("s3", "bucket", "", "prefix")),
    ("s3://bucket/", Location("s3", "bucket", "", "prefix")),
    ("s3://bucket/a/b/", Location("s3", "bucket", "a/b/", "prefix")),
    ("s3://bucket/a/b", Location("s3", "bucket", "a/b", "auto")),
    ("s3://bucket/a b#c?d@e", Location("s3", "bucket", "a b#c?d@e", "auto")),
    ("gs://bucket/vocab.txt", Location("gs", "bucket", "vocab.txt", "auto")),
    ("az://container/p/", Location("az", "container", "p/", "prefix")),
    ("https://host/a/b?c=d", Location("http", "https://host/a/b?c=d", "", "object")),
    ("http://[::1]:8080/a", Location("http", "http://[::1]:8080/a", "", "object")),
    ("hf://org/name", Location("hf", "org/name", "", "prefix")),
    ("hf://org/name@v1.0/config.json", Location("hf", "org/name", "config.json", "auto", "v1.0")),
    ("hf://org/name@refs/pr/3/a/", Location("hf", "org/name", "a/", "prefix", "refs/pr/3")),
    ("hf://org/name@feature%2Fx", Location("hf", "org/name", "", "prefix", "feature/x")),
    ("hf://datasets/org/name/data/", Location("hf", "org/name", "data/", "prefix", "main", "dataset")),
    ("hf://spaces/org/name", Location("hf", "org/name", "", "prefix", "main", "space")),
]


@pytest.mark.parametrize(("uri", "location"), _POINTS_AT, ids=[row[0] for row in _POINTS_AT])
def test_a_uri_points_at_what_it_names(uri: str, location: Location) -> None:
    assert parse_uri(uri) == location


_REFUSED = [
    ("", "is not a source"),
    (
        "bucket/key",
        "is not a source; write s3://..., gs://..., az://..., hf://..., lakefs://..., git+https://..., http://..., https://...",
    ),
    ("ftp://host/file", "is not a source"),
    ("S3://bucket/key", "is not a source"),
    ("s3://", "names no bucket; write s3://BUCKET/PREFIX/"),
    ("gs:///key", "names no bucket; write gs://BUCKET/PREFIX/"),
    ("https:///path", "names no host"),
    ("https://[bad/path", "names no host"),
    ("https://host:port/path", "names no host"),
    ("hf://name", "names no repository"),
    ("hf://datasets/name", "names no repository"),
    ("https://user:secret@host/f", "holds a user or password"),
    ("s3://key:secret@bucket/f", "holds a user or password"),
]


@pytest.mark.parametrize(("uri", "sentence"), _REFUSED, ids=[row[0] for row in _REFUSED])
def test_what_points_nowhere_is_refused_with_a_sentence(uri: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        parse_uri(uri)
    assert sentence in str(refused.value)
    assert "secret" not in str(refused.value)


_TOKEN = "zzTOKENzz"
_schemes = st.sampled_from(["s3", "gs", "az", "hf", "http", "https", "ftp", "x"])
_text = st.text(alphabet="ab:@/?#&=%.[] \n", max_size=12)


@given(_schemes, _text, _text)
def test_a_token_in_the_query_or_fragment_never_comes_out(scheme: str, before: str, after: str) -> None:
    for mark in "?#":
        assert _TOKEN not in redact_uri(f"{scheme}://host/{before}{mark}{_TOKEN}{after}")


@given(_schemes, st.text(alphabet="ab:@?#%. ", max_size=12), _text)
def test_a_password_never_comes_out_whatever_it_is_made_of(scheme: str, around: str, path: str) -> None:
    assert _TOKEN not in redact_uri(f"{scheme}://user:{around}{_TOKEN}{around}@host/{path}")


@given(_schemes, _text, _text)
def test_no_error_holds_a_token(scheme: str, around: str, path: str) -> None:
    for uri in (f"{scheme}://user:{_TOKEN}{around}@host/{path}", f"{scheme}://{around}/{path}?sig={_TOKEN}"):
        try:
            parse_uri(uri)
        except ValueError as error:
            assert _TOKEN not in str(error)  # noqa: PT017 - most are accepted; an error is the only thing to look at


@pytest.mark.parametrize(("uri", "location"), _POINTS_AT, ids=[row[0] for row in _POINTS_AT])
def test_what_is_not_secret_stays_readable(uri: str, location: Location) -> None:
    assert redact_uri(uri) == uri.split("?", maxsplit=1)[0].split("#", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("url", "name"),
    [("https://h/a/b.bin?x=/y", "b.bin"), ("https://h/a%20b", "a b"), ("https://h/a/", ""), ("https://h", "")],
)
def test_the_file_name_is_the_path_s_last_segment(url: str, name: str) -> None:
    assert file_name(url) == name
