"""Credentials in files, and secrets that stay out of messages."""

import os
from pathlib import Path

import pytest

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import InvalidConfigError


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


def test_a_named_file_beats_the_directory_and_line_ends_are_cut(tmp_path: Path, secrets: Secrets) -> None:
    (tmp_path / "token").write_text("from-directory\n")
    (tmp_path / "named").write_text("from-file\r\n\n")
    files = CredentialFiles("src", str(tmp_path), secrets)
    assert files.value("token_file", str(tmp_path / "named"), "token") == "from-file"
    assert files.value("token_file", None, "HF_TOKEN", "token") == "from-directory"
    assert files.value("token_file", None, "other") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "token_file: no such file"), (b"", "is empty"), (b"\xff\xfe\x00", "not text")],
)
def test_a_file_that_cannot_be_used_names_its_field(
    tmp_path: Path, secrets: Secrets, content: bytes | None, said: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfigError, match=said) as raised:
        CredentialFiles("weights", None, secrets).value("token_file", str(path))
    assert "source 'weights': token_file:" in str(raised.value)


def test_a_directory_that_is_missing_is_an_error(tmp_path: Path, secrets: Secrets) -> None:
    with pytest.raises(InvalidConfigError, match="credentials_dir: no such directory"):
        CredentialFiles("src", str(tmp_path / "none"), secrets)


def test_rotation_is_seen_as_kubelet_does_it(tmp_path: Path, secrets: Secrets) -> None:
    """A mounted Secret is a link to a directory that is swung to a new one."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(f"token-{version}")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "token").symlink_to("..data/token")
    files = CredentialFiles("src", str(tmp_path), secrets)
    assert files.value("token_file", None, "token") == "token-v1"
    assert not files.has_changed()
    (tmp_path / "..new").symlink_to("v2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert files.has_changed()
    assert files.value("token_file", None, "token") == "token-v2"
    assert not files.has_changed()


def test_a_key_that_comes_later_is_a_change(tmp_path: Path, secrets: Secrets) -> None:
    files = CredentialFiles("src", str(tmp_path), secrets)
    assert files.value("token_file", None, "token") is None
    (tmp_path / "token").write_text("late")
    assert files.has_changed()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key s3cr3t/+= here", "key *** here"),
        ("key s3cr3t%2F%2B%3D here", "key *** here"),
        ("at https://user:pass@host/a?X-Amz-Signature=1#f ok", "at https://host/a?... ok"),
        ("sig=abc%3D&se=1", "sig=***&se=1"),
        ("AccountKey=abc==;Blob", "AccountKey=***;Blob"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("bearer abc.def sent", "bearer *** sent"),
        ("X-Amz-Security-Token=FQ&x", "X-Amz-Security-Token=***&x"),
        ("two\nlines\x1b[31m\u2028", "two\\nlines\\x1b[31m\\u2028"),
    ],
)
def test_nothing_secret_and_no_control_character_gets_into_a_message(
    secrets: Secrets, text: str, expected: str
) -> None:
    secrets.add("s3cr3t/+=")
    assert secrets.redact(text) == expected


def test_a_secret_within_a_longer_one_is_hidden_whole(secrets: Secrets) -> None:
    secrets.add("abcd")
    secrets.add("abcdefgh")
    assert secrets.redact("abcdefgh abcd") == "*** ***"


def test_short_values_are_no_secrets(secrets: Secrets) -> None:
    secrets.add("a")
    assert secrets.redact("a banana") == "a banana"
