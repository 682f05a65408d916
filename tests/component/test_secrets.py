"""No secret in any output: every log, progress line, result, error and file of whole runs is searched for those in use.

Each provider with each kind of credentials runs against a server that gives back what it was sent, and what it was not,
in every refusal: raw, percent-encoded, in base64, and cut short in the middle.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from component.cloud import ACCOUNT, TOKEN, Cloud, refusal
from component.commands import Run
from component.prefork import Prefork, prefork
from servers.emulators import make_certificates
from servers.http import StaticServer
from servers.hub import Hub
from servers.serving import Request, Response, Server, text_response

FILES = {"a.txt": b"alpha", "dir/b.bin": b"beta" * 100, "empty": b""}
REPO = "org/model"


@dataclass
class Case:
    """A provider with one kind of credentials, and the server that it talks to."""

    provider: str
    server: Server
    item: dict[str, Any]
    secrets: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    answer_with: Callable[[Callable[[Request], Response | None]], None] = lambda answer: None


Build = Callable[[Path], Iterator[Case]]


def write(directory: Path, name: str, value: str) -> str:
    path = directory / name
    path.write_text(value + "\n")
    return str(path)


def cloud(provider: str, secrets: list[str], environment: Any = None, **item: Any) -> Iterator[Case]:
    with Cloud(dict(FILES)) as server:

        def answer_with(answer: Callable[[Request], Response | None]) -> None:
            server.before = answer

        yield Case(provider, server, server.item(provider, **item), secrets, environment or {}, answer_with)


def s3_keys_in_files(directory: Path) -> Iterator[Case]:
    key, token = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzKEY", "IQoJb3JpZ2luX2VjE//9+HM7Ux=="
    yield from cloud(
        "s3",
        [key, token],
        access_key_id_file=write(directory, "id", "AKIAIOSFODNN7"),
        secret_key_file=write(directory, "key", key),
        session_token_file=write(directory, "token", token),
    )


def s3_keys_in_the_environment(directory: Path) -> Iterator[Case]:
    key, token = "uT7nFEMIwJalrX/zMDENG+bPxRfiCYz", "FwoGZXIvYXdzEBYaDHqa0AP/+Ab=="
    given = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7", "AWS_SECRET_ACCESS_KEY": key, "AWS_SESSION_TOKEN": token}
    yield from cloud("s3", [key, token], given, region="us-east-1")


def s3_keys_of_a_profile(directory: Path) -> Iterator[Case]:
    """The SDK reads these itself; nobody tells us of them before the first request is signed."""
    key, token = "pR0f1leKEYjalrX/zMDENG+bPxRfiC", "pR0f1leTOKENYXdzEBYaDHqa0AP/+Ab=="
    text = f"[default]\naws_access_key_id = AKIAIOSFODNN7\naws_secret_access_key = {key}\naws_session_token = {token}\n"
    yield from cloud(
        "s3", [key, token], {"AWS_SHARED_CREDENTIALS_FILE": write(directory, "profile", text)}, region="us-east-1"
    )


def gcs_service_account(directory: Path) -> Iterator[Case]:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    for case in cloud("gcs", [TOKEN, *pem.splitlines()[2:6]], application_credentials_path="account.json"):
        account = {"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": pem}
        account |= {"client_email": "me@p.iam.gserviceaccount.com", "token_uri": f"{case.server.url}/token"}
        case.item["application_credentials_path"] = write(directory, "account.json", json.dumps(account))
        yield case


KEY = base64.b64encode(bytes(range(7, 71))).decode()


def azure_connection_string(directory: Path) -> Iterator[Case]:
    for case in cloud("azure-blob", [KEY], connection_string_file="later"):
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        text += f"BlobEndpoint={case.server.url}/{ACCOUNT};"
        case.item["connection_string_file"] = write(directory, "connection", text)
        del case.item["endpoint_url"], case.item["account"]
        yield case


def azure_account_key(directory: Path) -> Iterator[Case]:
    yield from cloud("azure-blob", [KEY], account_key_file=write(directory, "key", KEY))


def azure_sas_token(directory: Path) -> Iterator[Case]:
    signature = "Zm9ySmF2YS5UaGVTaWcvK2J5dGVz=="
    token = f"?sv=2021-12-02&ss=b&srt=co&sp=rl&se=2035-01-01T00:00:00Z&sig={quote(signature, safe='')}"
    yield from cloud(
        "azure-blob", [signature, quote(signature, safe="")], sas_token_file=write(directory, "sas", token)
    )


def hugging_face_token(directory: Path) -> Iterator[Case]:
    token = "hf_JXqzVnWtLpKdYrBsGmHcFeAoUiTy"
    item = {"type": "hf", "name": "src", "repo_id": REPO, "token_file": write(directory, "token", token)}
    with Hub() as hub:
        hub.create(REPO, FILES, private=True)
        hub.add_token(token, REPO)
        page = hub.handle

        def answer_with(answer: Callable[[Request], Response | None]) -> None:
            hub.handle = lambda request: answer(request) or page(request)  # type: ignore[method-assign]  # a hook
            hub.cdn.handle = lambda request: answer(request) or text_response(404, "")  # type: ignore[method-assign]

        yield Case("hf", hub, {**item, "endpoint_url": hub.url}, [token], {}, answer_with)


def http_bearer(directory: Path) -> Iterator[Case]:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP"
    yield from cloud("http", [token], token_file=write(directory, "token", token))


def http_basic(directory: Path) -> Iterator[Case]:
    password = "p@ss/w0rd#%20+\"quoted'<é>"
    files = {"username_file": write(directory, "user", "me"), "password_file": write(directory, "password", password)}
    yield from cloud("http", [password, base64.b64encode(f"me:{password}".encode()).decode()], **files)


def http_presigned(directory: Path) -> Iterator[Case]:
    signature, token = "5f4dcc3b5aa765d61d8327deb882cf99aabbccdd", "FwoGpReSiGnEd/+YXdzEBYaDHqa=="
    for case in cloud("http", [signature, token]):
        for file in case.item["items"]:
            file["url"] += f"?X-Amz-Signature={signature}&X-Amz-Security-Token={quote(token, safe='')}&X-Amz-Expires=9"
        yield case


def http_by_a_proxy(directory: Path) -> Iterator[Case]:
    """Every request goes to the proxy, which serves the files itself."""
    password = "pr0xy/Pa55+word="
    for case in cloud("http", [password, base64.b64encode(f"me:{password}".encode()).decode()]):
        for file in case.item["items"]:
            file["url"] = file["url"].replace(case.server.url, "http://files.example")
        proxy = case.server.url.replace("http://", f"http://me:{quote(password, safe='')}@")

        def answer_with(
            answer: Callable[[Request], Response | None],
            server: Server = case.server,
        ) -> None:
            def by_absolute_form(request: Request) -> Response | None:
                request.exchange.target = request.exchange.target.removeprefix("http://files.example")
                return answer(request)

            server.before = by_absolute_form  # type: ignore[attr-defined]  # it is a Cloud

        answer_with(lambda request: None)
        case.answer_with, case.environment = answer_with, {"http_proxy": proxy}
        yield case


CASES: list[Build] = [
    s3_keys_in_files, s3_keys_in_the_environment, s3_keys_of_a_profile, gcs_service_account, azure_connection_string,
    azure_account_key, azure_sas_token, hugging_face_token, http_bearer, http_basic, http_presigned, http_by_a_proxy,
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    directory = tmp_path / "credentials"
    directory.mkdir()
    yield from request.param(directory)


@pytest.fixture(scope="module")
def runs() -> Iterator[Prefork]:
    with prefork() as running:
        yield running


def run(runs: Prefork, case: Case, tmp_path: Path, name: str, *options: str, trouble: str | None = None) -> Run:
    """Run a config of the case's item in a directory of its own, and search everything that comes of it."""
    place = tmp_path / name
    place.mkdir()
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"download_root": "data", "download_items": [case.item]}))
    none = str(tmp_path / "none")
    settings = {"AWS_CONFIG_FILE": none, "CLOUDSDK_CONFIG": none, "AWS_SHARED_CREDENTIALS_FILE": none}
    done = runs.datafetch(
        *("run", f"../{name}.yaml", "--log-level", "DEBUG", "--json", "--termination-log", "message", *options),
        cwd=place,
        trouble=trouble,
        **{**settings, **case.environment},
    )
    assert_nothing_secret(done, place, case.secrets)
    return done


def assert_nothing_secret(done: Run, place: Path, secrets: list[str]) -> None:
    outputs = {"stdout": done.stdout, "stderr": done.stderr}
    for path in place.rglob("*"):
        outputs[f"name of {path}"] = path.name
        if path.is_file():
            outputs[str(path)] = path.read_bytes().decode(errors="replace")
    assert len(outputs) > 4
    assert (place / "message").stat().st_size > 50
    for where, text in outputs.items():
        for secret in secrets:
            for form in spellings(secret):
                for beginning in {form[:8], form[:12], form}:
                    assert beginning.lower() not in text.lower(), f"{beginning!r} is in {where}: {text[:3000]}"
        for looks in (
            r"(?i)\bsig=(?!\*)",
            r"(?i)signature=(?!\*)\w",
            r"(?i)\bbearer (?!\*)\w{9}",
            r"(?i)\bbasic (?!\*)\w{9}",
        ):
            assert not re.search(looks, text), f"{looks} is in {where}: {text[:3000]}"


def spellings(secret: str) -> set[str]:
    raw = secret.encode()
    found = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), quote(quote(secret, safe=""), safe="")}
    found |= {html.escape(secret), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    found |= {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    return {form for form in found if len(form) >= 8}


def echo(request: Request, secrets: list[str], pad: int = 0) -> str:
    """What a careless server says: the request that it got, and everything that it knows."""
    sent = " ".join(f"{name}: {value}" for name, value in request.header_items if name.lower() != "user-agent")
    forms = [form for secret in secrets for form in sorted(spellings(secret))]
    return (
        f"{'.' * pad} refused {' '.join(forms)} {request.exchange.target} {sent}"
        if pad
        else (f"refused {request.exchange.target} {sent} {' '.join(forms)}")
    )


def is_listing(request: Request) -> bool:
    target = request.exchange.target
    return any(
        part in target for part in ("list-type", "comp=list", "/storage/v1/b/bucket/o?", "/api/models", "/token")
    )


def test_a_run_that_succeeds_shows_nothing(runs: Prefork, case: Case, tmp_path: Path) -> None:
    for how in ("json", "bar"):
        done = run(runs, case, tmp_path, how, "--progress", how)
        assert done.code == 0, done.stderr
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("b.bin")}
    assert len(found) == 2


@pytest.mark.parametrize("stage", ["listing", "object"])
def test_a_refusal_that_gives_everything_back_shows_nothing(
    runs: Prefork, case: Case, tmp_path: Path, stage: str
) -> None:
    for status, pad in ((401, 0), (403, 275), (404, 240)):

        def answer(request: Request, status: int = status, pad: int = pad) -> Response | None:
            if case.provider != "http" and is_listing(request) != (stage == "listing"):
                return None
            if case.provider == "http" and stage == "object" and (request.method == "HEAD" or request.header("range")):
                return None
            said = echo(request, case.secrets, pad)
            safe = said.encode("ascii", "replace").decode()
            headers = (
                ("X-Error-Message", safe),
                ("ETag", f'"{safe}"'),
                ("Location", f"http://127.0.0.1:1/{quote(safe)}"),
            )
            return refusal(case.provider, status, said, *headers[:1])

        case.answer_with(answer)
        done = run(runs, case, tmp_path, f"{status}-{pad}")
        assert done.code in (2, 10, 11, 14, 17), done.stderr
        assert done.result.failure is not None


def test_the_other_commands_show_nothing_and_a_lock_file_holds_nothing(
    runs: Prefork, case: Case, tmp_path: Path
) -> None:
    assert run(runs, case, tmp_path, "place").code == 0
    place, none = tmp_path / "place", str(tmp_path / "none")
    settings = {"AWS_CONFIG_FILE": none, "CLOUDSDK_CONFIG": none, "AWS_SHARED_CREDENTIALS_FILE": none}

    def say(*arguments: str) -> int:
        done = runs.datafetch(*arguments, "--log-level", "DEBUG", cwd=place, **{**settings, **case.environment})
        assert_nothing_secret(done, place, case.secrets)
        return done.code

    assert say("plan", "../place.yaml", "--files", "--json") == 0
    assert say("plan", "../place.yaml", "--files") == 0
    assert say("lock", "../place.yaml", "-o", "pinned.lock", "--json") == 0
    assert (place / "pinned.lock").stat().st_size > 100
    assert say("run", "../place.yaml", "--locked", "pinned.lock", "--json") == 0
    assert say("verify", "data", "--source", "../place.yaml", "--json") in (0, 17)
    case.answer_with(lambda request: refusal(case.provider, 403, echo(request, case.secrets, 260)))
    for arguments in (
        ("plan", "../place.yaml"),
        ("lock", "../place.yaml"),
        ("verify", "data", "--source", "../place.yaml"),
    ):
        assert say(*arguments) in (2, 10, 11, 14)


def test_a_server_that_fails_or_redirects_with_secrets_shows_nothing(runs: Prefork, case: Case, tmp_path: Path) -> None:
    def unavailable(request: Request) -> Response | None:
        return None if is_listing(request) else refusal(case.provider, 500, echo(request, case.secrets))

    def elsewhere(request: Request) -> Response | None:
        if is_listing(request):
            return None
        secrets = "/".join(quote(secret, safe="") for secret in case.secrets)
        return text_response(
            302, "", ("Location", f"http://127.0.0.1:1/{secrets}?sig={quote(case.secrets[0], safe='')}")
        )

    def circle(request: Request) -> Response | None:
        if is_listing(request):
            return None
        return text_response(
            302, "", ("Location", f"/bucket/{quote(case.secrets[0], safe='')}?token={case.secrets[0]!a}")
        )

    for name, answer in (("500", unavailable), ("elsewhere", elsewhere), ("circle", circle)):
        case.answer_with(answer)
        done = run(runs, case, tmp_path, name)
        assert done.code in (2, 10, 14), done.stderr


def test_a_defect_of_ours_that_holds_secrets_shows_nothing(runs: Prefork, case: Case, tmp_path: Path) -> None:
    trouble = f"headers were {case.secrets}, {' '.join(spellings(case.secrets[0]))}"
    done = run(runs, case, tmp_path, "defect", trouble=trouble)
    assert done.code == 70
    assert "a defect in datafetch (RuntimeError" in done.stderr
    assert "Traceback (most recent call last)" in done.stderr
    assert "uncaught in thread aside" in done.stderr


def test_a_certificate_that_is_not_trusted_shows_nothing(runs: Prefork, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    directory = tmp_path / "credentials"
    directory.mkdir()
    with StaticServer(certificate=(made.certificate, made.key)) as server:
        for build in (s3_keys_in_files, gcs_service_account, azure_sas_token, hugging_face_token, http_by_a_proxy):
            for case in build(directory):
                plain, secure = case.server.url, server.url
                case.item = json.loads(json.dumps(case.item).replace(plain, secure))
                if "connection_string_file" in case.item:
                    path = Path(case.item["connection_string_file"])
                    path.write_text(path.read_text().replace(plain, secure))
                if "http_proxy" in case.environment:
                    case.item = json.loads(json.dumps(case.item).replace("http://files.example", secure))
                    case.environment = {"https_proxy": case.environment["http_proxy"]}
                done = run(runs, case, tmp_path, build.__name__)
                assert done.code in (2, 10, 14), (build.__name__, done.stderr)


def test_secrets_in_the_wrong_place_of_a_config_or_command_are_not_repeated(runs: Prefork, tmp_path: Path) -> None:
    secret = "Sup3r/S3cret+Key=value"
    place = tmp_path / "place"
    place.mkdir()
    encoded = quote(secret, safe="")
    for text in (
        f"download_root: d\nsecret_key: {secret}\ndownload_items: []\n",
        f"download_root: d\ndownload_items: [{{type: s3, name: a, secret_key: '{secret}', items: []}}]\n",
        f"download_root: d\ndownload_items: [{{type: http, name: a, items: [{{url: 'https://me:{encoded}@h/x'}}]}}]\n",
        f"download_root: d\ndownload_items: [{{type: http, name: a, items: [{{url: 'ftp://h/x?token={encoded}'}}]}}]\n",
        f"download_root: d\ndownload_items: [{{type: hf, name: a, repo_id: a/b, token: '{secret}'}}]\n",
    ):
        (tmp_path / "config.yaml").write_text(text)
        done = runs.datafetch("run", "../config.yaml", "--json", "--termination-log", "message", cwd=place)
        assert done.code == 2
        for form in (secret, encoded):
            assert form[:8] not in done.stdout + done.stderr + (place / "message").read_text(), text
