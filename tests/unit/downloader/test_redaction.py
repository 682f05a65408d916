"""What is secret stays out of every text, in whatever form it comes back."""

import base64
import json
import random
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafetch import redaction
from datafetch.errors import DataFetchError, UnsafePathError
from datafetch.redaction import redacted, remember, shortened

SECRET = "wJalr/XUtn+FEMI=K7MDENG"


@pytest.fixture(autouse=True)
def nothing_remembered_afterwards() -> Iterator[None]:
    yield
    redaction._remembered.clear()


def spellings(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret,
        quote(secret, safe=""),
        quote(secret, safe="").lower() if secret.islower() else quote(secret, safe="").replace("%2F", "%2f"),
        quote_plus(secret),
        quote(quote(secret, safe=""), safe=""),
        json.dumps(secret)[1:-1],
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
    ]


@pytest.mark.parametrize("form", spellings(SECRET))
@pytest.mark.parametrize("cut", [None, 8, 12])
def test_a_secret_is_hidden_in_every_form_also_where_it_is_cut_short(form: str, cut: int | None) -> None:
    remember(SECRET)
    shown = redacted(f"403: the request with {form[:cut]} was refused")
    assert shown.startswith("403: the request with ***")
    assert shown.endswith(" was refused")
    assert form[:8] not in shown


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=8, max_size=40), st.text(max_size=20))
def test_a_login_is_hidden_wherever_the_secret_stands_in_it(password: str, user: str) -> None:
    remember(password)
    encoded = base64.b64encode(f"{user.encode('ascii', 'ignore').decode()}:{password}".encode()).decode()
    shown = redacted(f"you sent Authorization={encoded}!")
    core = base64.b64encode(password.encode()).decode().rstrip("=")[:-1]
    assert core[:10] not in shown
    assert password not in redacted(f"was {password} it")
    redaction._remembered.clear()


def test_the_key_inside_a_connection_string_a_token_and_a_json_file_is_hidden_alone_too() -> None:
    key, signature = base64.b64encode(random.Random(1).randbytes(48)).decode(), "cS2f%2BJ8oUvnOzP%2Fq3A%3D%3D"
    private = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nqhkiG9w0BAQEFAASCMIIEvQIBADANB\n-----END"
    remember(f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={key};EndpointSuffix=core")
    remember(f"sv=2021-12-02&ss=b&sp=rl&sig={signature}&se=2030-01-01")
    remember(json.dumps({"type": "service_account", "private_key": private, "client_email": "me@example.org"}))
    for secret in (key, signature, "cS2f+J8oUvnOzP/q3A==", "qhkiG9w0BAQEFAASCMIIEvQIBADANB"):
        assert secret[:8] not in redacted(f"the server said {secret} is wrong"), secret
    assert redacted("me@example.org may not read") == "me@example.org may not read"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:pa@ss-word-9@host/key failed", "ss-word-9"),
        ("https://user:pa#ss-word-9@host/key failed", "ss-word-9"),
        ("https://user:pa/ss-word-9@host/key failed", "user:pa"),
        ("Max retries exceeded with url: /b?list-type=2&X-Amz-Signature=0123456789abcdef", "0123456789abcdef"),
        ("x-amz-security-token: FQoGZXIvYXdzEBYaD\nhost: b", "FQoGZXIv"),
        ("{'Cookie': 'session=s3ss10n-s3ss10n'}", "s3ss10n"),
        ("{'Authorization': 'Bearer abcdefgh.ijkl'}", "abcdefgh"),
    ],
)
def test_what_looks_like_a_credential_is_hidden_though_nobody_named_it(text: str, secret: str) -> None:
    assert secret not in redacted(text)


def test_the_environments_secrets_are_hidden_before_any_sdk_has_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEXAMPLE")
    monkeypatch.setenv("https_proxy", "http://me:pr0xy%2Fpass-w@proxy:3128")
    login = base64.b64encode(b"me:pr0xy/pass-w").decode()
    shown = redacted(f"token IQoJb3JpZ2luX2VjEXAMPLE, pr0xy%2Fpass-w, pr0xy/pass-w, {login}")
    assert shown == "token ***, ***, ***, ***"


def test_an_error_is_clean_wherever_it_is_shown() -> None:
    remember(SECRET)
    error = DataFetchError(f"{SECRET} was refused at https://host/x?sig=1", source="s", key=f"dir/{SECRET}")
    for shown in (str(error), error.message, repr(error), error.to_failure().model_dump_json()):
        assert SECRET[:8] not in shown
        assert "sig=1" not in shown


def test_a_key_of_megabytes_makes_a_short_message_in_no_time() -> None:
    for key in ("a" * 5_000_000, "a://" * 1_000_000, "basic " * 500_000, "\ud800\x1b" * 1_000_000):
        error = UnsafePathError(f"the key {key!r} cannot become a file: too long", source="s", key=key)
        failure = error.to_failure().model_dump_json()
        assert len(str(error)) < 20_000
        assert "cannot become a file: too long" in str(error) or " become a file: too long" in str(error)
        assert len(failure) < 20_000


def test_ordinary_sentences_stay_as_they_are() -> None:
    remember(SECRET)
    for text in (
        "write https://HOST/PATH",
        "name one as http://HOST:PORT",
        "https://host:8443/a/b.bin answered 404 Not Found; check the name",
        "hf://ORG/NAME@v1/x",
        "3 files, 195 KiB, in data after 1.0 s",
        "use basic auth or a bearer token",
    ):
        assert redacted(text) == text


def test_a_secret_that_begins_with_a_word_does_not_hide_that_word() -> None:
    remember("datafetch-development")
    for text in ("run datafetch lock again", "datafetch-operator", "datafetch.yaml:1:1: no", "datafetch"):
        assert redacted(text) == text
    assert redacted("key datafetch-dev...") == "key ***..."
    assert redacted("key datafetch-development!") == "key ***!"


def test_the_middle_goes_where_a_text_is_too_long() -> None:
    assert shortened("x" * 50 + "y" * 50, 25) == "x" * 10 + " ... " + "y" * 10
