"""Where a server may send us: to other hosts without anything that is ours, to files and cloud metadata never."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.cloud import Cloud
from component.commands import datafetch, environment, tree
from component.prefork import Prefork, prefork
from component.test_secrets import CASES, FILES, Case, http_by_a_proxy, is_listing, run, spellings
from servers.emulators import make_certificates
from servers.http import StaticServer
from servers.serving import Request, Response, Server, text_response

OURS = ("authorization", "proxy-authorization", "cookie", "x-amz-security-token", "x-amz-content-sha256")


@pytest.fixture(params=[build for build in CASES if build is not http_by_a_proxy], ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    directory = tmp_path / "credentials"
    directory.mkdir()
    yield from request.param(directory)


@pytest.fixture(scope="module")
def runs() -> Iterator[Prefork]:
    with prefork() as running:
        yield running


@pytest.mark.parametrize("stage", ["listing", "object"])
def test_a_redirect_to_another_host_takes_nothing_of_ours_there(
    runs: Prefork, case: Case, tmp_path: Path, stage: str
) -> None:
    with Cloud(dict(FILES)) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")

        def answer(request: Request) -> Response | None:
            if (
                case.provider != "http" and is_listing(request) != (stage == "listing")
            ) or "/token" in request.exchange.path:
                return None
            path, _, query = request.exchange.target.partition("?")
            kept = "&".join(
                part for part in query.split("&") if part.startswith(("list-type", "prefix", "comp", "restype"))
            )
            return text_response(307 if stage == "object" else 302, "", ("Location", f"{elsewhere}{path}?{kept}"))

        case.answer_with(answer)
        run(runs, case, tmp_path, "redirected")
        if stage == "object":
            assert other.traffic.exchanges, "it was followed"
        for exchange in other.traffic.exchanges:
            said = f"{exchange.target} {exchange.headers}"
            for form in (form for secret in case.secrets for form in spellings(secret)):
                assert form[:8] not in said, f"{form} went to another host"
            assert not set(OURS) & set(exchange.headers), exchange.headers
            assert "sig=" not in exchange.target


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,hello", "gopher://127.0.0.1:70/_x", "http://", "//",
        "http://127.0.0.1:0/", "http://[::1", "http://me:pass-and-secret@127.0.0.1:1/x", "unix:///run/docker.sock",
        "http://127.0.0.1:1/" + "x" * 20_000, "http://127.0.0.1:1/\u00e9 \u00fc", "https://127.0.0.1:1\\@elsewhere/",
    ],
)  # fmt: skip
def test_a_redirect_to_something_else_than_http_is_an_error_that_names_who_sent_it(
    runs: Prefork, tmp_path: Path, location: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with StaticServer() as server:
        server.redirect("/x", location.encode().decode("latin-1"))
        done = runs.datafetch("get", f"{server.url}/x", "data", "--json", cwd=place)
    assert done.code in (2, 14), done.stderr
    assert tree(place) == {}
    assert len(done.stderr) < 5_000 * len(done.stderr.splitlines())
    assert "pass-and-secret" not in done.stdout + done.stderr


def test_redirects_in_a_circle_end(runs: Prefork, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with StaticServer() as server:
        server.redirect("/a", "/b")
        server.redirect("/b", "/a")
        done = runs.datafetch("get", f"{server.url}/a", "data", cwd=place)
        assert done.code == 14
        assert "redirects more than 5 times" in done.sentence
        assert len(server.traffic.exchanges) < 100


def test_from_https_no_redirect_leads_to_plain_http(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    with StaticServer() as plain, StaticServer(certificate=(made.certificate, made.key)) as secure:
        plain.put("/x", b"anybody could have changed this")
        secure.redirect("/x", f"{plain.url}/x")
        done = datafetch("get", f"{secure.url}/x", "data", cwd=tmp_path, SSL_CERT_FILE=str(made.ca_file))
        assert done.code == 2
        assert "redirects to plain http" in done.sentence
        assert plain.traffic.exchanges == []


# --- addresses that are nobody's business but this machine's ---------------------------------------------------------

METADATA, PUBLIC, PRIVATE = "169.254.169.254", "198.51.100.7", "10.9.8.7"


def test_only_who_writes_the_config_may_name_a_link_local_or_loopback_address(tmp_path: Path) -> None:
    """A server must not be able to let a Job read what its node's metadata service says, or a neighbour's admin port.

    In a network of its own: the real address is never asked.
    """
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{METADATA} metadata.example\n{PUBLIC} files.example\n")
    prepare = [
        "ip link set lo up",
        *(f"ip address add {address}/32 dev lo" for address in (METADATA, PUBLIC, PRIVATE)),
        f"mount --bind {tmp_path / 'hosts'} /etc/hosts",
        f"exec {sys.executable} -m component.test_safety_redirects {tmp_path}",
    ]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", "\n".join(prepare)],
        env=environment(tmp_path, {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    problems = [f"{name}: {what}" for name, what in seen.items() if what["reached"] != what["may"]]
    assert not problems, "\n".join(problems)
    for name, what in seen.items():
        if not what["may"]:
            assert what["code"] in (2, 14), name
            assert "redirect" in what["stderr"], what["stderr"]


def _in_the_namespace(base: Path) -> None:
    """Try each way to an address, and print which were taken."""
    seen = {}
    with prefork() as runs:
        for name, first, second, may in (
            ("to metadata", PUBLIC, METADATA, False),
            ("to metadata by name", PUBLIC, "metadata.example", False),
            ("to metadata from a private address", PRIVATE, METADATA, False),
            ("to loopback", PUBLIC, "127.0.0.1", False),
            ("to loopback by name", "files.example", "localhost", False),
            ("to loopback by another name", PUBLIC, "0.0.0.0", False),
            ("to loopback in IPv6 dress", PUBLIC, "[::ffff:127.0.0.1]", False),
            ("to a private address", PUBLIC, PRIVATE, True),
            ("from loopback to loopback", "127.0.0.1", "127.0.0.1", True),
            ("from loopback to a public address", "127.0.0.1", PUBLIC, True),
            ("by the config itself", METADATA, METADATA, True),
        ):
            seen[name] = {**_try(runs, base / name.replace(" ", "-"), first, second), "may": may}
    print(json.dumps(seen))


def _try(runs: Prefork, place: Path, first: str, second: str) -> dict[str, object]:
    place.mkdir()
    bound = {"files.example": PUBLIC, "localhost": "127.0.0.1", "metadata.example": METADATA}
    bound |= {"0.0.0.0": "127.0.0.1", "[::ffff:127.0.0.1]": "127.0.0.1"}
    with StaticServer(bound.get(first, first)) as front, Server(_metadata, bound.get(second, second)) as behind:
        front.redirect("/x", f"http://{second}:{behind.port}/latest/meta-data/iam/security-credentials/role")
        done = runs.datafetch("get", f"http://{first}:{front.port}/x", "data", cwd=place)
        return {"reached": bool(behind.traffic.exchanges), "code": done.code, "stderr": done.stderr}


def _metadata(request: Request) -> Response:
    return text_response(200, '{"SecretAccessKey": "of the node"}', ("ETag", '"1"'), ("Accept-Ranges", "bytes"))


if __name__ == "__main__":
    _in_the_namespace(Path(sys.argv[1]))
