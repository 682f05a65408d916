"""What is a web server's own: ranges, lengths, validators, logins; the rest is in `test_source_contract`."""

import base64
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from component.commands import tree
from component.places import STALL_TIMEOUT, by_path, read
from datafetch.engine import run_fetch
from datafetch.errors import (
    CredentialsRejectedError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    InvalidConfigError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, Source, open_source
from datafetch_api.config import DownloadConfig, HttpItem
from servers.emulators import make_certificates
from servers.http import Manners, StaticServer
from servers.plans import Fault
from servers.serving import Request as ServedRequest
from servers.serving import Response, Server, text_response

DATA = os.urandom(300_000)

pytestmark = pytest.mark.usefixtures("only_loopback")


@contextmanager
def opened(*urls: str, target_path: str | None = None, **settings: object) -> Iterator[Source]:
    items = [{"url": url, "target_path": target_path} for url in urls]
    source = open_source(
        HttpItem.model_validate({"name": "src", "type": "http", "items": items, **settings}),
        stall_timeout=STALL_TIMEOUT,
    )
    try:
        yield source
    finally:
        source.close()


def read_to_its_end(source: Source, entry: Entry) -> bytes:
    received = bytearray()
    buffer = memoryview(bytearray(65536))
    with source.open(entry, ByteRange(0, None)) as reader:
        while count := reader.readinto(buffer):
            received += buffer[:count]
    return bytes(received)


@pytest.mark.parametrize(
    ("manners", "size"),
    [
        (Manners(), len(DATA)),
        (Manners(head=False), len(DATA)),
        (Manners(ranges=False), None),
        (Manners(ranges=False, chunked=True), None),
        (Manners(ranges=False, head=False), None),
    ],
)
def test_a_server_that_takes_no_ranges_is_read_in_one_piece(
    web: StaticServer, manners: Manners, size: int | None
) -> None:
    web.put("/a.bin", DATA, manners)
    with opened(f"{web.url}/a.bin") as source:
        entry = by_path(source)["a.bin"]
        assert entry.size == size
        assert read_to_its_end(source, entry) == DATA
        assert read(source, entry, 1000, 2000) == DATA[1000:2000]


def test_an_empty_file(web: StaticServer) -> None:
    for manners in (Manners(), Manners(head=False), Manners(ranges=False)):
        web.put("/empty", b"", manners)
        with opened(f"{web.url}/empty") as source:
            entry = by_path(source)["empty"]
            assert entry.size == 0
            assert read_to_its_end(source, entry) == b""


@pytest.mark.parametrize(
    ("name", "value", "is_one"),
    [
        ("Repr-Digest", "sha-256=:{}:", True),
        ("Repr-Digest", "sha-512=:AAAA:, sha-256=:{}:", True),
        ("Digest", "SHA-256={}", True),
        ("Digest", "md5=AAAA,sha-256={}", True),
        # Of the part that is sent, not of the file.
        ("Content-Digest", "sha-256=:{}:", False),
        ("Repr-Digest", "unixsha-256=:{}:", False),
        ("Repr-Digest", "sha-256=:AAAA:", False),
    ],
)
def test_the_digest_that_a_server_sends_is_the_file_s_checksum(
    web: StaticServer, name: str, value: str, is_one: bool
) -> None:
    digest = hashlib.sha256(DATA)
    header = value.format(base64.b64encode(digest.digest()).decode())
    web.put("/a.bin", DATA, Manners(headers=((name, header),)))
    expected = Checksum(ChecksumAlgorithm.SHA256, digest.hexdigest()) if is_one else None
    with opened(f"{web.url}/a.bin") as source:
        entry = by_path(source)["a.bin"]
        assert entry.checksum == expected
        with source.open(entry, ByteRange(10, 20)) as reader:
            assert reader.checksum == expected


def test_a_source_that_is_closed_waits_for_nothing_any_more(web: StaticServer) -> None:
    web.put("/a.bin", DATA)
    web.faults.add(Fault(status=503, retry_after="60"), times=None, methods=("HEAD", "GET"))
    with opened(f"{web.url}/a.bin") as source:
        threading.Timer(0.3, source.close).start()
        began = time.monotonic()
        with pytest.raises(InterruptedByRequestError):
            list(source.list())
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("etag", "modified", "identity"),
    [
        ('"strong"', 1_700_000_000.0, 'etag:"strong"'),
        ('W/"weak"', 1_700_000_000.0, "last-modified:Tue, 14 Nov 2023 22:13:20 GMT"),
        (None, 1_700_000_000.0, "last-modified:Tue, 14 Nov 2023 22:13:20 GMT"),
        ('W/"weak"', None, ""),
        (None, None, ""),
    ],
)
def test_a_file_is_identified_by_its_strong_etag_or_its_time(
    web: StaticServer, etag: str | None, modified: float | None, identity: str
) -> None:
    web.put("/a", DATA, etag=etag, modified=modified)
    with opened(f"{web.url}/a") as source:
        entry = by_path(source)["a"]
        assert entry.identity == identity
        assert read(source, entry, 10, 20) == DATA[10:20]


def test_a_file_without_etag_that_is_replaced_is_a_change(web: StaticServer) -> None:
    web.put("/a", DATA, etag=None)
    with opened(f"{web.url}/a") as source:
        entry = by_path(source)["a"]
        web.put("/a", DATA[::-1], etag=None, modified=1_800_000_000.0)
        with pytest.raises(SourceChangedError):
            read(source, entry, 10, 20)


@pytest.mark.parametrize(
    ("path", "target_path", "expected"),
    [
        ("/dir/a.bin", None, "a.bin"),
        ("/dir/a.bin", "./", "a.bin"),
        ("/dir/a.bin", "x/", "x/a.bin"),
        ("/dir/a.bin", "x/y.bin", "x/y.bin"),
        ("/dir/%C3%BC%20b?token=1", None, "ü b"),
        ("/dir/ü b", None, "ü b"),
    ],
)
def test_where_a_file_lands(web: StaticServer, path: str, target_path: str | None, expected: str) -> None:
    web.put("/dir/a.bin", DATA)
    web.put("/dir/ü b", DATA)
    with opened(web.url + path, target_path=target_path) as source:
        assert sorted(by_path(source)) == [expected]
        assert read(source, by_path(source)[expected]) == DATA


def test_queries_stay_out_of_keys_and_messages_and_keep_files_apart(web: StaticServer) -> None:
    web.put("/a", DATA)
    urls = (f"{web.url}/a?X-Signature=s3cret1", f"{web.url}/a?X-Signature=s3cret2")
    with opened(*urls, target_path="x") as source:
        entries = list(source.list())
        assert len({entry.key for entry in entries}) == 2
        assert read(source, entries[1]) == DATA
        assert web.traffic.exchanges[-1].query == {"X-Signature": "s3cret2"}
        web.remove("/a")
        with pytest.raises(SourceNotFoundError) as raised:
            read(source, entries[0])
    assert "s3cret" not in str(raised.value) + repr(entries)


def test_a_token_in_a_file(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a", DATA)
    web.require_bearer("t0ken-t0ken")
    (tmp_path / "token").write_text("t0ken-t0ken\n")
    for settings in ({"token_file": str(tmp_path / "token")}, {"credentials_dir": str(tmp_path)}):
        with opened(f"{web.url}/a", **settings) as source:
            assert read(source, by_path(source)["a"]) == DATA
    with opened(f"{web.url}/a") as source, pytest.raises(CredentialsRejectedError, match="give credentials"):
        list(source.list())


def test_a_login_in_a_mounted_secret(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a", DATA)
    web.require_basic("user", "pass:wörd")
    (tmp_path / "username").write_text("user")
    (tmp_path / "password").write_text("pass:wörd")
    with opened(f"{web.url}/a", credentials_dir=str(tmp_path)) as source:
        assert read(source, by_path(source)["a"]) == DATA


def test_of_a_token_and_a_login_in_a_mounted_secret_the_token_is_sent(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a", DATA)
    web.require_bearer("t0ken-t0ken")
    for name, value in {"username": "user", "password": "pass", "token": "t0ken-t0ken"}.items():
        (tmp_path / name).write_text(value)
    with opened(f"{web.url}/a", credentials_dir=str(tmp_path)) as source:
        assert read(source, by_path(source)["a"]) == DATA


@pytest.mark.parametrize("present", [("username",), ("password",), ("username", "password", "token")])
def test_half_a_login_or_two_in_the_config_are_config_errors(tmp_path: Path, present: tuple[str, ...]) -> None:
    for name in present:
        (tmp_path / name).write_text("value")
    settings = {f"{name}_file": str(tmp_path / name) for name in present}
    with pytest.raises(InvalidConfigError), opened("http://127.0.0.1:1/a", **settings):
        pass


@pytest.mark.parametrize(
    "url", ["ftp://host/a", "http:///a", "http://user:s3cret@host/a", "nonsense", "http://host:x/a"]
)
def test_what_is_no_url_is_a_config_error(url: str) -> None:
    with pytest.raises(InvalidConfigError, match="source 'src'") as raised, opened(url):
        pass
    assert "s3cret" not in str(raised.value)


def test_a_url_without_a_file_name_asks_for_one(web: StaticServer) -> None:
    web.put("/dir/", DATA)
    with opened(f"{web.url}/dir/") as source, pytest.raises(InvalidConfigError, match="set target_path"):
        list(source.list())


def test_a_redirect_is_followed_without_the_login_to_another_host(web: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken-t0ken")
    with StaticServer() as other:
        other.put("/b", DATA)
        web.redirect("/a", other.url + "/b")
        with opened(f"{web.url}/a", credentials_dir=str(tmp_path)) as source:
            assert read(source, by_path(source)["a"], 5, 9) == DATA[5:9]
        assert not any("authorization" in exchange.headers for exchange in other.traffic.exchanges)
    assert all(exchange.headers["authorization"] == "Bearer t0ken-t0ken" for exchange in web.traffic.exchanges)


def test_a_file_that_is_missing_is_named(web: StaticServer) -> None:
    with opened(f"{web.url}/nothing") as source, pytest.raises(SourceNotFoundError, match="/nothing"):
        list(source.list())


def test_a_server_that_fails_for_a_moment_is_asked_again(web: StaticServer) -> None:
    web.put("/a", DATA)
    web.faults.add(Fault(status=503), methods=("HEAD",), times=1)
    with opened(f"{web.url}/a") as source:
        assert sorted(by_path(source)) == ["a"]
        web.faults.add(Fault(status=503), times=1)
        entry = by_path(source)["a"]
        with pytest.raises(SourceUnavailableError):
            read(source, entry)


def test_a_server_that_compresses_is_refused(web: StaticServer) -> None:
    web.put("/a", DATA, Manners(headers=(("Content-Encoding", "gzip"),)))
    with opened(f"{web.url}/a") as source:
        entry = by_path(source)["a"]
        with pytest.raises(SourceUnavailableError, match="Content-Encoding"):
            read(source, entry)


@pytest.mark.parametrize(
    ("disposition", "target_path", "expected"),
    [
        ('attachment; filename="data.csv"', None, "data.csv"),
        ("attachment; filename*=UTF-8''na%C3%AFve.csv", "x/", "x/naïve.csv"),
        ('attachment; filename="data.csv"', "x/own.csv", "x/own.csv"),
        ('attachment; filename="../../../etc/cron.d/job"', None, "download"),
        ('attachment; filename="C:\\\\job"', "x/", "x/download"),
        ('attachment; filename=".."', None, "download"),
        ("inline", None, "download"),
    ],
)
@pytest.mark.parametrize("head", [True, False], ids=["head", "get"])
def test_a_server_may_give_a_file_its_name_but_no_path(
    web: StaticServer, disposition: str, target_path: str | None, expected: str, head: bool
) -> None:
    web.put("/download", DATA, Manners(head=head, headers=(("Content-Disposition", disposition),)))
    with opened(f"{web.url}/download?id=7", target_path=target_path) as source:
        assert sorted(by_path(source)) == [expected]


def test_a_sha256_in_the_config_pins_and_verifies_the_file(web: StaticServer, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(DATA).hexdigest()
    web.put("/a.bin", DATA, etag=None, modified=None)
    items = [{"url": f"{web.url}/a.bin", "sha256": sha256}]
    config = {
        "download_root": str(tmp_path / "root"),
        "download_items": [{"name": "src", "type": "http", "items": items}],
    }

    def fetch() -> int:
        validated = DownloadConfig.model_validate(config)
        return run_fetch(validated, observer=ProgressTracker(), cancel=threading.Event()).reused_bytes

    assert fetch() == 0
    assert fetch() == len(DATA), "it is known again though the server gives nothing to know it by"
    assert tree(tmp_path / "root") == {"a.bin": DATA}
    items[0]["sha256"] = sha256[::-1]
    with pytest.raises(IntegrityMismatchError, match="sha256"):
        fetch()
    assert tree(tmp_path / "root") == {"a.bin": DATA}


def test_globs_choose_among_the_urls_also_by_the_names_that_servers_give(web: StaticServer) -> None:
    web.put("/a.bin", DATA)
    web.put("/b.txt", DATA)
    web.put("/c", DATA, Manners(headers=(("Content-Disposition", "attachment; filename=c.bin"),)))
    urls = [f"{web.url}/{name}" for name in ("a.bin", "b.txt", "c")]
    with opened(*urls, include=["*.bin"]) as source:
        assert sorted(by_path(source)) == ["a.bin", "c.bin"]
    with opened(*urls, exclude=["*.bin"]) as source:
        assert sorted(by_path(source)) == ["b.txt"]
    with opened(*urls, include=["*.zip"]) as source, pytest.raises(SourceNotFoundError, match=r"matches '\*\.zip'"):
        list(source.list())


def test_a_weak_etag_does_not_hold_a_resumed_file_together(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a.bin", DATA, etag='W/"same"', modified=None)
    web.faults.add(Fault(cut_after=100_000), times=None)
    items = [{"url": f"{web.url}/a.bin"}]
    config = DownloadConfig.model_validate(
        {
            "download_root": str(tmp_path / "root"),
            "download_items": [{"name": "src", "type": "http", "items": items}],
            "transfer": {"max_retries": 0},
        }
    )
    with pytest.raises(SourceUnavailableError):
        run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
    web.faults.clear()
    web.put("/a.bin", DATA[::-1], etag='W/"same"', modified=None)
    run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
    assert tree(tmp_path / "root") == {"a.bin": DATA[::-1]}


# --- headers of one's own ---


def test_headers_from_a_file_go_with_every_request_and_to_no_other_host(web: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-Api-Key: k3y-k3y-k3y\nAuthorization: Token t0ken-t0ken\n")
    with StaticServer() as other:
        other.put("/b", DATA)
        web.put("/a", DATA)
        web.redirect("/away", other.url + "/b")
        for settings in ({"headers_file": str(tmp_path / "headers")}, {"credentials_dir": str(tmp_path)}):
            with opened(f"{web.url}/a", f"{web.url}/away", **settings) as source:
                assert {path: read(source, entry) for path, entry in by_path(source).items()} == {
                    "a": DATA,
                    "away": DATA,
                }
        assert not any({"x-api-key", "authorization"} & found.headers.keys() for found in other.traffic.exchanges)
    for found in web.traffic.exchanges:
        assert (found.headers["x-api-key"], found.headers["authorization"]) == ("k3y-k3y-k3y", "Token t0ken-t0ken")


def test_values_of_headers_are_hidden_where_a_server_repeats_them(web: StaticServer, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("Authorization: Token t0ken-t0ken\n")
    with (
        Server(lambda _: text_response(403, "no t0ken-t0ken here")) as server,
        opened(f"{server.url}/a", headers_file=str(tmp_path / "headers")) as source,
        pytest.raises(CredentialsRejectedError, match=r"no \*\*\* here") as raised,
    ):
        list(source.list())
    assert "t0ken" not in str(raised.value)


def test_rotated_headers_reach_a_source_that_is_in_use(web: StaticServer, tmp_path: Path) -> None:
    web.put("/a", DATA)
    web.require_bearer("t0ken-new")
    (tmp_path / "headers").write_text("Authorization: Bearer t0ken-old\n")
    with opened(f"{web.url}/a", credentials_dir=str(tmp_path)) as source:
        with pytest.raises(CredentialsRejectedError):
            list(source.list())
        (tmp_path / "headers").write_text("Authorization: Bearer t0ken-new\n")
        assert read(source, by_path(source)["a"]) == DATA


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"headers": "Range: bytes=0-7"}, r"headers_file \(key headers\): line 1: Range is set"),
        ({"headers": "nonsense s3cret"}, "line 1 is not NAME: VALUE"),
        ({"headers": "authorization: s3cret", "token": "s3cret"}, "the headers hold Authorization, and"),
    ],
)
def test_headers_that_cannot_be_sent_are_a_config_error(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    refused = opened("http://127.0.0.1:1/a", credentials_dir=str(tmp_path))
    with pytest.raises(InvalidConfigError, match=said) as raised, refused:
        pass
    assert "s3cret" not in str(raised.value)


# --- certificates and proxies ---


def test_certificates_of_one_s_own(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with StaticServer(certificate=(made.certificate, made.key)) as secure:
        secure.put("/a", DATA)
        with opened(f"{secure.url}/a") as source, pytest.raises(InvalidConfigError, match="not trusted"):
            list(source.list())
        with opened(f"{secure.url}/a", ca_bundle_file=str(made.ca_file)) as source:
            assert read(source, by_path(source)["a"]) == DATA


@pytest.mark.parametrize("login", ["", "us%40er:s3cret-pass@"], ids=["open", "with a login"])
def test_a_proxy_of_the_environment_is_used_but_where_it_is_exempted(
    web: StaticServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str
) -> None:
    web.put("/a", DATA)
    expected = "Basic " + base64.b64encode(b"us@er:s3cret-pass").decode()

    def forward(request: ServedRequest) -> Response:
        if login and request.header("proxy-authorization") != expected:
            return text_response(407, "who are you?")
        scheme, _, rest = request.exchange.target.partition("://")
        assert (scheme, rest.partition("/")[0]) == ("http", "files.example")
        target = "/" + rest.partition("/")[2]
        exchange = dataclasses.replace(request.exchange, target=target)
        return web.handle(dataclasses.replace(request, exchange=exchange))

    (tmp_path / "token").write_text("t0ken-t0ken")
    with Server(forward) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("://", f"://{login}"))
        with opened("http://files.example/a", token_file=str(tmp_path / "token")) as source:
            assert read(source, by_path(source)["a"]) == DATA
        assert all(found.headers["authorization"] == "Bearer t0ken-t0ken" for found in proxy.traffic.exchanges)
        proxied = len(proxy.traffic.exchanges)
        monkeypatch.setenv("no_proxy", "127.0.0.0/8,localhost")
        with opened(f"{web.url}/a") as source:
            assert read(source, by_path(source)["a"]) == DATA
        assert len(proxy.traffic.exchanges) == proxied
        assert not any("proxy-authorization" in found.headers for found in web.traffic.exchanges)
