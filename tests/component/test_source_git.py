"""git repositories at a real git server (`git http-backend`): what is taken, what it costs, what is never obeyed."""

import base64
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import TypeAdapter

from component.places import by_path, read
from datafetch.engine import run_fetch
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InsufficientSpaceError,
    IntegrityMismatchError,
    InterruptedByRequestError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
    StalledError,
    UnsafePathError,
)
from datafetch.progress import ProgressTracker
from datafetch.sources import ByteRange, Entry, Source, open_source
from datafetch.sources.git_access import parse_remote, submodule_remote
from datafetch.sources.git_command import Runner
from datafetch.sources.git_lfs import parse_pointer
from datafetch_api.config import DownloadConfig, DownloadItem
from servers.emulators import make_certificates
from servers.git import GitRepository, GitServer, LfsObject, Link, Stored, Submodule
from servers.plans import Fault
from servers.serving import Request, Response, Server, text_response
from servers.ssh import SshServer

PASSWORD = "pass-and-secret-0123"
BIG = os.urandom(9_000_000)


@pytest.fixture
def server(tmp_path: Path, only_loopback: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    with GitServer(tmp_path) as running:
        yield running


def item_of(repository: GitRepository, **settings: object) -> DownloadItem:
    adapter: TypeAdapter[DownloadItem] = TypeAdapter(DownloadItem)
    return adapter.validate_python({"type": "git", "name": "src", "url": repository.url, **settings})


@contextmanager
def source_of(repository: GitRepository, **settings: object) -> Iterator[Source]:
    source = open_source(item_of(repository, **settings), stall_timeout=5.0)
    try:
        yield source
    finally:
        source.close()


def contents(repository: GitRepository, **settings: object) -> dict[str, bytes]:
    with source_of(repository, **settings) as source:
        return {path: read(source, entry) for path, entry in by_path(source).items()}


def fetch(repository: GitRepository, root: Path, **settings: object) -> dict[str, bytes]:
    """Fetch into a directory and return the tree."""
    items = [item_of(repository, **settings)]
    config = DownloadConfig.model_validate({"download_root": str(root), "download_items": items})
    run_fetch(config, observer=ProgressTracker(), cancel=threading.Event())
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {path: data for path, data in found.items() if not path.startswith(".datafetch/")}


def refusal(repository: GitRepository, **settings: object) -> DataFetchError:
    with pytest.raises(DataFetchError) as raised, source_of(repository, **settings) as source:
        list(source.list())
    return raised.value


# --- revisions ---


@pytest.mark.parametrize("filters", [True, False], ids=["filters", "no-filters"])
@pytest.mark.parametrize("newest", [True, False], ids=["v2", "v0"])
def test_a_branch_a_tag_and_a_commit_are_told_apart_at_every_kind_of_server(
    server: GitServer, *, filters: bool, newest: bool
) -> None:
    server.filters, server.newest_protocol = filters, newest
    repository = server.create("data", {"a.txt": b"1"})
    first = repository.head
    repository.tag("v1")
    repository.commit({"a.txt": b"2"})
    repository.tag("v2", annotated=True)
    second = repository.head
    repository.commit({"a.txt": b"3"}, branch="topic/new")

    wanted = {"HEAD": b"2", "main": b"2", "v1": b"1", "v2": b"2", "topic/new": b"3", "refs/tags/v1": b"1", first: b"1"}
    for revision, data in wanted.items():
        with source_of(repository, revision=revision) as source:
            entries = by_path(source)
            assert read(source, entries["a.txt"]) == data
            assert source.resolved_revision == {b"1": first, b"2": second, b"3": repository.head}[data]


def test_history_stays_at_the_server_and_so_do_files_that_are_not_selected(server: GitServer) -> None:
    repository = server.create("data", {"docs/a.md": b"a", "big.bin": BIG, "old.bin": os.urandom(2_000_000)})
    repository.commit({"old.bin": None})
    server.traffic.clear()

    assert contents(repository, files=["docs/*.md"]) == {"docs/a.md": b"a"}

    assert sum(exchange.sent for exchange in server.traffic.exchanges) < 20_000


@pytest.mark.parametrize("revision", ["nope", "0" * 40, "abcdef1"])
def test_a_revision_that_is_not_there_is_named(server: GitServer, revision: str) -> None:
    repository = server.create("data", {"a.txt": b"1"})

    error = refusal(repository, revision=revision)

    assert isinstance(error, SourceNotFoundError)
    assert revision in str(error)


@pytest.mark.parametrize("revision", ["--upload-pack=touch /tmp/x", "-h", "a b", "main~1", "a..b", "x:y", "*", "a\nb"])
def test_a_revision_that_cannot_be_one_is_refused_before_anything_is_asked(server: GitServer, revision: str) -> None:
    repository = server.create("data", {"a.txt": b"1"})

    assert isinstance(refusal(repository, revision=revision), InvalidConfigError)
    assert not server.traffic.exchanges


def test_what_does_not_change_between_commits_keeps_its_identity(server: GitServer) -> None:
    repository = server.create("data", {"same.txt": b"same", "a.txt": b"1"})
    with source_of(repository) as source:
        before = by_path(source)
    repository.commit({"a.txt": b"2"})
    with source_of(repository) as source:
        after = by_path(source)

    assert before["same.txt"] == after["same.txt"]
    assert before["a.txt"].identity != after["a.txt"].identity


# --- files ---


def test_large_blobs_are_read_in_ranges(server: GitServer) -> None:
    repository = server.create("data", {"big.bin": BIG})
    with source_of(repository) as source:
        entry = by_path(source)["big.bin"]
        for start, end in ((0, 10), (4_000_000, 8_500_000), (8_999_999, 9_000_000), (0, 9_000_000)):
            assert read(source, entry, start, end) == BIG[start:end]


def test_a_whole_repository_lands_on_the_disk(server: GitServer, tmp_path: Path) -> None:
    files = {
        "README.md": b"#\n",
        "a/b/c.bin": BIG,
        "empty": b"",
        "ünï côdé/日本 +%41&.txt": b"n",
        "-rf": b"",
        "*.x": b"s",
    }
    repository = server.create("data", {**files, "run.sh": b"#!/bin/sh\n"})

    assert fetch(repository, tmp_path / "root") == {**files, "run.sh": b"#!/bin/sh\n"}
    assert not list((tmp_path / "scratch").iterdir()), "nothing of git is left behind"


def test_no_process_and_no_file_of_git_survives_the_source(server: GitServer, tmp_path: Path) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    with source_of(repository) as source:
        entry = by_path(source)["a.txt"]
        assert read(source, entry) == b"1"
        source.close()
        with pytest.raises(DataFetchError):
            read(source, entry)
    assert not list((tmp_path / "scratch").iterdir())


def test_closing_ends_a_fetch_that_is_under_way(server: GitServer) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    server.faults.add(Fault(latency=20), times=None)
    source = open_source(item_of(repository), stall_timeout=30)
    timer = threading.Timer(0.3, source.close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(InterruptedByRequestError):
        list(source.list())
    assert time.monotonic() - started < 5


# --- credentials ---


def secret(directory: Path, **files: str) -> str:
    path = directory / "secret"
    path.mkdir(exist_ok=True)
    for name, value in files.items():
        (path / name.replace("_", "-" if name == "ssh_privatekey" else "_")).write_text(value + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("user", "files"),
    [
        ("x-access-token", {"token": PASSWORD}),
        ("oauth2", {"token": PASSWORD, "username": "oauth2"}),
        ("kim", {"username": "kim", "password": PASSWORD}),
    ],
)
def test_a_secret_logs_in(server: GitServer, tmp_path: Path, user: str, files: Mapping[str, str]) -> None:
    repository = server.create("data", {"a.txt": b"1", "b": LfsObject(b"large")})
    server.users[user] = PASSWORD

    assert contents(repository, credentials_dir=secret(tmp_path, **files)) == {"a.txt": b"1", "b": b"large"}


def test_wrong_and_missing_credentials_are_rejected_and_stay_secret(server: GitServer, tmp_path: Path) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    server.users["x-access-token"] = "right"

    for settings in ({}, {"credentials_dir": secret(tmp_path, token=PASSWORD)}):
        error = refusal(repository, **settings)
        assert isinstance(error, CredentialsRejectedError)
        assert PASSWORD not in str(error)


def test_credentials_are_on_no_command_line_and_in_no_environment(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    start = Runner.start_program

    def watch(self: Runner, command: Any, environment: dict[str, str], *streams: Any) -> Any:
        command = [*command]
        seen.append(f"{command} {environment}")
        return start(self, command, environment, *streams)

    monkeypatch.setattr(Runner, "start_program", watch)
    repository = server.create("data", {"a.txt": b"1"})
    server.users["x-access-token"] = PASSWORD

    assert contents(repository, credentials_dir=secret(tmp_path, token=PASSWORD)) == {"a.txt": b"1"}
    assert seen
    assert not any(PASSWORD in text for text in seen)


def test_credentials_go_to_no_other_server(server: GitServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with GitServer(tmp_path / "other") as other:
        other.users["x-access-token"] = PASSWORD
        elsewhere = other.create("sub", {"s.txt": b"s"})
        modules = f'[submodule "s"]\n\tpath = s\n\turl = {elsewhere.url}\n'.encode()
        repository = server.create("data", {".gitmodules": modules, "s": Submodule(elsewhere.head)})
        server.users["x-access-token"] = PASSWORD

        error = refusal(repository, submodules=True, credentials_dir=secret(tmp_path, token=PASSWORD))

        assert isinstance(error, CredentialsRejectedError)
        assert other.traffic.exchanges
        assert not any("authorization" in exchange.headers for exchange in other.traffic.exchanges)


def test_credentials_go_to_no_other_lfs_server(server: GitServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with GitServer(tmp_path / "other") as other:
        other.keeps_objects = True
        elsewhere = other.create("sub", {"s.bin": LfsObject(b"large")})
        modules = f'[submodule "s"]\n\tpath = s\n\turl = {elsewhere.url}\n'.encode()
        repository = server.create("data", {".gitmodules": modules, "s": Submodule(elsewhere.head)})
        server.users["x-access-token"] = PASSWORD
        directory = secret(tmp_path, token=PASSWORD)

        assert contents(repository, submodules=True, credentials_dir=directory, path="s/") == {"s.bin": b"large"}
        assert any(exchange.path.startswith("/lfs/") for exchange in other.traffic.exchanges)
        assert not any("authorization" in exchange.headers for exchange in other.traffic.exchanges)


def test_a_token_that_is_rotated_while_it_is_listed_is_used(server: GitServer, tmp_path: Path) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    server.users["x-access-token"] = "new-and-secret"
    directory = secret(tmp_path, token=PASSWORD)
    with source_of(repository, credentials_dir=directory) as source:
        secret(tmp_path, token="new-and-secret")
        assert sorted(by_path(source)) == ["a.txt"]


def test_a_server_of_a_private_authority_is_trusted_where_the_item_says_so(only_loopback: None, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with GitServer(tmp_path, certificate=(made.certificate, made.key)) as secure:
        repository = secure.create("data", {"a.txt": b"1"})

        assert contents(repository, ca_bundle_file=str(made.ca_file)) == {"a.txt": b"1"}
        error = refusal(repository)
        assert isinstance(error, InvalidConfigError)
        assert "ca_bundle_file" in str(error)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://kim:pass@h/x", "holds a user or password"),
        ("https://token@h/x", "holds a user or password"),
        ("file:///etc", "is no git repository"),
        ("/etc/passwd", "is no git repository"),
        ("ext::sh -c touch% /tmp/x", "is no git repository"),
        ("-u./payload", "is no git repository"),
        ("ssh://-oProxyCommand=touch/x", "is no git repository"),
        ("ssh://-oProxyCommand=x@h/x", "has a user that is no name"),
        ("-oProxyCommand=x@h:x", "is no git repository"),
        ("git://h/x", "is no git repository"),
        ("https://h/x?private_token=abc", "take out"),
        ("https://h/x\n", "is no git repository"),
    ],
)
def test_an_address_that_could_be_anything_else_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        parse_remote(url)
    assert said in str(raised.value)
    assert "abc" not in str(raised.value)
    assert ":pass" not in str(raised.value)


def test_ssh_asks_for_a_key_and_for_known_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdefghijklmnopqrstuvwxyz\n-----END OPENSSH PRIVATE KEY-----"
    adapter: TypeAdapter[DownloadItem] = TypeAdapter(DownloadItem)
    for files, said in (
        ({"ssh_privatekey": key}, "ssh-keyscan"),
        ({"known_hosts": "h ssh-ed25519 AAAA"}, "ssh_key_file"),
    ):
        directory = tmp_path / said
        directory.mkdir()
        config = {"type": "git", "name": "src", "url": "git@h:x", "credentials_dir": secret(directory, **files)}
        source = open_source(adapter.validate_python(config), stall_timeout=1)
        with pytest.raises(InvalidConfigError) as raised:
            list(source.list())
        source.close()
        assert said in str(raised.value)


def test_a_key_opens_a_repository_over_ssh_where_the_server_is_known(server: GitServer, tmp_path: Path) -> None:
    repository = server.create("group/data", {"a.txt": b"1", "b.bin": LfsObject(b"large")})
    server.users["kim"] = PASSWORD
    header = {"Authorization": "Basic " + base64.b64encode(f"kim:{PASSWORD}".encode()).decode()}
    with SshServer(server.directory, f"{repository.url}/info/lfs", header) as ssh:
        repository.url = ssh.url("group/data.git")
        directory = secret(tmp_path, ssh_privatekey=ssh.client_key, known_hosts=ssh.known_hosts)
        key = Path(directory, "ssh-privatekey")
        key.chmod(0o644)  # as in a mounted Secret

        assert contents(repository, credentials_dir=directory) == {"a.txt": b"1", "b.bin": b"large"}
        assert ssh.commands[-1] == "git-lfs-authenticate group/data.git download"

        repository.url = ssh.url("group/none.git")
        assert isinstance(refusal(repository, credentials_dir=directory), SourceNotFoundError)
        repository.url = ssh.url("group/data.git")
        secret(tmp_path, known_hosts=ssh.known_hosts[:-8] + "AAAAAAAA")
        error = refusal(repository, credentials_dir=directory)
        assert isinstance(error, CredentialsRejectedError)
        assert "known_hosts" in str(error)
        secret(tmp_path, known_hosts=ssh.known_hosts)
        key.write_text(asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
        error = refusal(repository, credentials_dir=directory)
        assert isinstance(error, CredentialsRejectedError)
        assert "check the key" in str(error)


# --- Git LFS ---


def test_files_of_lfs_are_fetched_and_verified(server: GitServer, tmp_path: Path) -> None:
    large = os.urandom(3_000_000)
    repository = server.create("data", {"a.bin": LfsObject(large), "b.txt": b"b", "dir/empty": LfsObject(b"")})

    assert fetch(repository, tmp_path / "root") == {"a.bin": large, "b.txt": b"b", "dir/empty": b""}

    server.objects[LfsObject(large).sha256] = large[:-1] + b"?"
    with pytest.raises(IntegrityMismatchError):
        fetch(repository, tmp_path / "again")
    assert not (tmp_path / "again/a.bin").exists()


def test_with_lfs_false_pointers_are_taken(server: GitServer) -> None:
    large = LfsObject(b"large")
    repository = server.create("data", {"a.bin": large})

    assert contents(repository, lfs=False) == {"a.bin": large.pointer}


def test_many_files_of_lfs_share_a_request_and_links_are_renewed(server: GitServer) -> None:
    files = {f"{number}.bin": LfsObject(b"%d" % number) for number in range(150)}
    repository = server.create("data", files)
    with source_of(repository) as source:
        entries = by_path(source)
        assert all(read(source, entry) == files[path].data for path, entry in entries.items())
        batches = [found for found in server.traffic.exchanges if found.path.endswith("/objects/batch")]
        assert len(batches) == 2
        server.expire_links()
        assert read(source, entries["7.bin"]) == b"7"
        assert read(source, entries["8.bin"], 0, 1) == b"8"


def test_an_lfs_server_that_keeps_its_objects_itself_is_logged_in_to(server: GitServer, tmp_path: Path) -> None:
    server.keeps_objects = True
    server.users["x-access-token"] = PASSWORD
    repository = server.create("data", {"a.bin": LfsObject(b"large")})

    assert contents(repository, credentials_dir=secret(tmp_path, token=PASSWORD)) == {"a.bin": b"large"}


def test_an_object_that_lfs_does_not_have_is_named(server: GitServer) -> None:
    repository = server.create("data", {"a.bin": LfsObject(b"large")})
    server.objects.clear()
    with source_of(repository) as source:
        entry = by_path(source)["a.bin"]
        with pytest.raises(SourceNotFoundError) as raised:
            read(source, entry)
    assert raised.value.key == "a.bin"
    assert "never pushed" in str(raised.value)


def test_only_a_pointer_is_a_pointer() -> None:
    good = LfsObject(b"x").pointer
    assert parse_pointer(good) is not None
    for other in (
        good + b"\n",
        good[:-1],
        b" " + good,
        good.replace(b"sha256", b"sha512"),
        good.replace(b"size ", b"size 0"),
    ):
        assert parse_pointer(other) is None
    head, _, tail = good.partition(b"oid")
    assert parse_pointer(head + b"ext-0-x sha256:" + b"0" * 64 + b"\noid" + tail) is None


def test_a_repository_cannot_name_another_lfs_server(server: GitServer) -> None:
    evil = b'[lfs]\n\turl = http://127.0.0.1:1/evil\n[remote "origin"]\n\tlfsurl = http://127.0.0.1:1/evil\n'
    repository = server.create("data", {".lfsconfig": evil, "a.bin": LfsObject(b"large")})

    assert contents(repository)["a.bin"] == b"large"


# --- submodules ---


def test_submodules_are_taken_on_request(server: GitServer) -> None:
    inner = server.create("inner", {"deep.txt": b"deep"})
    nested = b'[submodule "i"]\n\tpath = i\n\turl = ../inner.git\n'
    sub = server.create("sub", {"s.txt": b"s", "i": Submodule(inner.head), ".gitmodules": nested, "l": LfsObject(b"L")})
    modules = b'[submodule "s"]\n\tpath = mods/s\n\turl = ../sub.git\n'
    repository = server.create("data", {"a.txt": b"a", ".gitmodules": modules, "mods/s": Submodule(sub.head)})
    sub.commit({"s.txt": b"later"})

    assert contents(repository, files=["**/*.txt"]) == {"a.txt": b"a"}
    expected = {"a.txt": b"a", "mods/s/s.txt": b"s", "mods/s/i/deep.txt": b"deep"}
    assert contents(repository, submodules=True, files=["**/*.txt"]) == expected
    assert contents(repository, submodules=True, path="mods/s/l", match="object", target_path="l") == {"l": b"L"}
    assert contents(repository, submodules=True, path="mods/s/i/") == {"deep.txt": b"deep"}


@pytest.mark.parametrize(
    "url",
    [
        "-u./payload",
        "ext::sh -c touch% /tmp/x",
        "file:///etc",
        "/etc",
        "./../../../x",
        "http://h/x",
        "ssh://-oX=y/x",
        "git@h:x",
    ],
)
def test_a_submodule_s_address_is_held_against_the_same_rules(url: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        submodule_remote(parse_remote("https://host/group/data.git"), url, "mods/s")
    assert "mods/s" in str(raised.value)


@pytest.mark.parametrize(
    ("parent", "url", "whole"),
    [
        ("https://h/g/data.git", "../sub.git", "https://h/g/sub.git"),
        ("https://h:8443/g/data.git/", "../../o/sub", "https://h:8443/o/sub"),
        ("git@h:g/data.git", "../sub.git", "git@h:g/sub.git"),
        ("ssh://git@h:22/g/data", "./inner", "ssh://git@h:22/g/data/inner"),
        ("git@h:g/data.git", "https://other/x", "https://other/x"),
    ],
)
def test_a_relative_address_is_relative_to_the_repository(parent: str, url: str, whole: str) -> None:
    assert submodule_remote(parse_remote(parent), url, "s").url == whole


def test_credentials_do_not_follow_a_redirect_to_another_server(server: GitServer, tmp_path: Path) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    server.users["x-access-token"] = PASSWORD

    def redirect(request: Request) -> Response:
        if request.header("authorization") is None:
            return text_response(401, "who are you?", ("WWW-Authenticate", 'Basic realm="git"'))
        return text_response(302, "there", ("Location", server.url + request.exchange.target))

    with Server(redirect) as first:
        repository.url = f"{first.url}/data.git"
        error = refusal(repository, credentials_dir=secret(tmp_path, token=PASSWORD))

    assert isinstance(error, CredentialsRejectedError)
    assert any("authorization" in exchange.headers for exchange in first.traffic.exchanges)
    assert server.traffic.exchanges
    assert not any("authorization" in exchange.headers for exchange in server.traffic.exchanges)


# --- what a repository would like to have executed ---


def test_nothing_of_a_repository_is_executed(server: GitServer, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = f"touch {ran}"
    settings = f'[core]\n\tfsmonitor = {command}\n\tsshCommand = {command}\n[filter "x"]\n\tsmudge = {command}\n'
    files: dict[str, Stored] = {
        ".gitattributes": b"* filter=x diff=x merge=x\n*.txt text eol=crlf working-tree-encoding=UTF-16\n",
        ".gitconfig": settings.encode(),
        "hooks/post-checkout": f"#!/bin/sh\n{command}\n".encode(),
        ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = ext::{command}\n\tupdate = !{command}\n'.encode(),
        "s": Submodule("1" * 40),
        "a.txt": b"one\ntwo\n",
    }
    repository = server.create("data", files)
    for name in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
        hook = repository.directory / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{command}\n")
        hook.chmod(0o755)

    found = fetch(repository, tmp_path / "root")

    assert found == {path: data for path, data in files.items() if isinstance(data, bytes)}
    assert isinstance(refusal(repository, submodules=True), InvalidConfigError)
    assert not ran.exists()


def test_settings_of_the_user_and_of_where_we_stand_are_not_read(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    evil = f'[core]\n\tsshCommand = touch {ran}\n\tfsmonitor = touch {ran}\n[credential]\n\thelper = "!touch {ran}"\n'
    home = tmp_path / "home"
    (home / ".git/objects").mkdir(parents=True)
    (home / ".git/refs").mkdir()
    (home / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (home / ".git/config").write_text(evil)
    (home / ".gitconfig").write_text(evil + f'[url "http://127.0.0.1:1/"]\n\tinsteadOf = {server.url}\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {ran}")
    monkeypatch.setenv("GIT_ASKPASS", f"{ran}")
    monkeypatch.setenv("GIT_DIR", str(home / ".git"))
    monkeypatch.chdir(home)
    repository = server.create("data", {"a.txt": b"1"})
    server.users["x-access-token"] = PASSWORD

    assert contents(repository, credentials_dir=secret(tmp_path, token=PASSWORD)) == {"a.txt": b"1"}
    assert isinstance(refusal(repository), CredentialsRejectedError)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (".git/config", b"[core]"),
        ("a/.GIT/hooks/post-checkout", b"#!/bin/sh"),
        ("git~1/config", b"x"),
        (".g\u200cit/config", b"x"),
        (".git. ./config", b"x"),
        ("a/../../etc/passwd", b"x"),
        ("../x", b"x"),
        ("a/./b", b"x"),
        ("link", Link("/etc/passwd")),
        ("dir/inside", Link("../other")),
        ("bad\udcff.txt", b"x"),
        ("a\nb", b"x"),
    ],
)
def test_a_path_that_is_not_safe_stops_the_fetch_and_nothing_is_written(
    server: GitServer, tmp_path: Path, path: str, data: bytes | Link
) -> None:
    repository = server.create("data", {"good.txt": b"good", path: data})

    with pytest.raises(UnsafePathError):
        fetch(repository, tmp_path / "root")
    assert not (tmp_path / "root/good.txt").exists()
    assert not (tmp_path / "x").exists()


def test_a_symbolic_link_can_be_left_out(server: GitServer) -> None:
    repository = server.create("data", {"good.txt": b"good", "link": Link("good.txt")})

    assert contents(repository, exclude=["link"]) == {"good.txt": b"good"}


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, CredentialsRejectedError),
        (403, CredentialsRejectedError),
        (404, SourceNotFoundError),
        (500, SourceUnavailableError),
        (503, SourceUnavailableError),
    ],
)
def test_a_server_s_refusal_is_named(
    server: GitServer, monkeypatch: pytest.MonkeyPatch, status: int, expected: type[DataFetchError]
) -> None:
    monkeypatch.setattr("datafetch.sources.retries._TRIES", 1)
    repository = server.create("data", {"a.txt": b"1"})
    server.faults.add(Fault(status=status), times=None)

    assert isinstance(refusal(repository), expected)


def test_a_server_that_is_silent_has_stalled(server: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datafetch.sources.retries._TRIES", 1)
    repository = server.create("data", {"a.txt": b"1"})
    server.faults.add(Fault(latency=9), times=None)
    source = open_source(item_of(repository), stall_timeout=1.0)
    with pytest.raises(StalledError):
        list(source.list())
    source.close()


def test_a_failure_that_passes_is_asked_again(server: GitServer) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    server.faults.add(Fault(status=503), times=1)

    assert contents(repository) == {"a.txt": b"1"}


def test_a_pack_that_was_damaged_or_cut_on_the_way_is_fetched_again(server: GitServer) -> None:
    repository = server.create("data", {"a.bin": os.urandom(300_000)})
    for fault in (Fault(flip_at=150_000), Fault(cut_after=150_000)):
        server.faults.add(
            fault, times=1, when=lambda found: found.method == "POST" and found.path.endswith("upload-pack")
        )
    found = contents(repository)

    assert found["a.bin"] == repository.tree["a.bin"]


def test_a_server_that_is_not_there_and_one_that_is_no_git_server(
    server: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datafetch.sources.retries._TRIES", 1)
    repository = server.create("data", {"a.txt": b"1"})
    repository.url = "http://127.0.0.1:1/data.git"
    error = refusal(repository)
    assert isinstance(error, SourceUnavailableError)
    assert "127.0.0.1" in str(error)
    repository.url = f"{server.url}/nothing-here.git"
    assert isinstance(refusal(repository), SourceNotFoundError)


def test_complaints_of_git_and_ssh_become_our_errors(tmp_path: Path) -> None:
    from datafetch.credentials import Secrets

    explain = Runner(Secrets(), 1.0).explain
    for complaint, expected in (
        ("fatal: write error: No space left on device\nfatal: index-pack failed", InsufficientSpaceError),
        (
            "No ED25519 host key is known for h.\nHost key verification failed.\nfatal: Could not read",
            CredentialsRejectedError,
        ),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote", CredentialsRejectedError),
        ("No user exists for uid 1234", InvalidConfigError),
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", SourceNotFoundError),
        ("fatal: unable to access 'https://h/': server certificate verification failed.", InvalidConfigError),
        ("ssh: connect to host h port 22: Connection refused", SourceUnavailableError),
    ):
        assert type(explain(complaint, "https://h/x")) is expected, complaint


def test_without_git_one_sentence_says_what_to_install(
    server: GitServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    monkeypatch.setenv("PATH", str(tmp_path))

    error = refusal(repository)

    assert isinstance(error, InvalidConfigError)
    assert "install git" in str(error)


def test_an_entry_that_nobody_listed_can_be_read(server: GitServer) -> None:
    repository = server.create("data", {"a.txt": b"1"})
    with source_of(repository) as source:
        entry = by_path(source)["a.txt"]
    with source_of(repository) as source, source.open(entry, ByteRange(0, 1)) as reader:
        buffer = memoryview(bytearray(10))
        assert reader.readinto(buffer) == 1
        with pytest.raises(SourceNotFoundError):
            read(source, Entry("a.txt", "a.txt", 1, "oid:" + "0" * 40))
