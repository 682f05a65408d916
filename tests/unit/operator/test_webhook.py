"""The webhook's server over real sockets: it answers every question, in time, with the certificate of now."""

import asyncio
import io
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from prometheus_client import REGISTRY

from datafetch_operator import webhook
from datafetch_operator.errors import ApiError, OperatorError, RefusedError
from datafetch_operator.webhook import LARGEST_REVIEW, ServingCertificate, serve
from unit.operator import pki

Json = dict[str, Any]
_T = TypeVar("_T")
REVIEW: Json = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {"uid": "u1", "namespace": "team", "object": {"metadata": {"generateName": "app-"}, "spec": {}}},
}


async def allow(review: Json) -> Json:
    return {"response": {"uid": review["request"]["uid"], "allowed": True}}


class Client:
    """Asks a webhook that listens on a port of loopback, by the name that the API server uses."""

    def __init__(self, port: int, *bundles: bytes) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.context = pki.trust(*bundles)

    async def post(self, body: bytes, path: str = "/inject") -> tuple[int, str]:
        """Ask once, on a connection of its own."""
        async with aiohttp.ClientSession() as session, self.asking(session, body, path) as answer:
            return answer.status, await answer.text()

    @asynccontextmanager
    async def asking(
        self, session: aiohttp.ClientSession, body: bytes, path: str = "/inject"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = f"{self.url}{path}"
        async with session.post(url, data=io.BytesIO(body), ssl=self.context, server_hostname=pki.NAME) as answer:
            yield answer

    async def review(self) -> Json:
        status, text = await self.post(json.dumps(REVIEW).encode())
        assert status == 200, text
        response: Json = json.loads(text)["response"]
        return response


@pytest.fixture(scope="module")
def pair() -> dict[str, bytes]:
    return dict(pki.new_pair())


@pytest.fixture
def directory(tmp_path: Path, pair: dict[str, bytes]) -> Path:
    pki.mount(tmp_path, pair)
    return tmp_path


def _play(
    directory: Path,
    use: Callable[[Client], Awaitable[_T]],
    answer: webhook.Answer = allow,
    *bundles: bytes,
    **options: Any,
) -> _T:
    """Serve as long as `use` uses the client, and return what it returns."""

    async def run() -> _T:
        certificate = ServingCertificate(directory)
        async with serve("127.0.0.1", 0, certificate, answer, **options) as port:
            return await use(Client(port, *(bundles or [(directory / "ca.crt").read_bytes()])))

    return asyncio.run(run())


def _raise(error: Exception) -> webhook.Answer:
    async def answer(review: Json) -> Json:
        raise error

    return answer


async def _never(review: Json) -> Json:
    await asyncio.Event().wait()
    return {}


def test_what_is_decided_is_answered(directory: Path) -> None:
    assert _play(directory, Client.review) == {"uid": "u1", "allowed": True}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no AdmissionReview"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "no AdmissionReview"),
        (
            b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": 1}}',
            "no AdmissionReview",
        ),
    ],
)
def test_a_body_that_is_no_review_is_told_so(directory: Path, body: bytes, says: str) -> None:
    status, text = _play(directory, lambda client: client.post(body))
    assert (status, says in text) == (400, True), text


def test_a_body_that_is_too_large_is_not_read(directory: Path) -> None:
    status, text = _play(directory, lambda client: client.post(b" " * (LARGEST_REVIEW + 1)))
    assert (status, text) == (413, f"an AdmissionReview has at most {LARGEST_REVIEW} bytes\n")


def test_a_large_pod_is_answered(directory: Path) -> None:
    body = json.dumps(REVIEW).encode()
    status, _ = _play(directory, lambda client: client.post(body + b" " * (LARGEST_REVIEW - len(body))))
    assert status == 200


def test_a_body_that_does_not_arrive_is_not_waited_for(directory: Path) -> None:
    async def stall(client: Client) -> bytes:
        host, port = client.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=client.context, server_hostname=pki.NAME)
        writer.write(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        line = await reader.readline()
        writer.transport.abort()
        return line

    assert b" 408 " in _play(directory, stall, answer_seconds=0.1)


def test_other_paths_and_methods_are_not_served(directory: Path) -> None:
    assert _play(directory, lambda client: client.post(b"{}", "/"))[0] == 404


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (_never, 503, "did not tell the webhook of DataFetch in time"),
        (_raise(TimeoutError()), 503, "in time"),
        (_raise(aiohttp.ClientConnectionError("refused")), 503, "in time"),
        (_raise(ApiError(503, "", "overloaded")), 503, "overloaded"),
        (_raise(RefusedError(403, "Forbidden", "may not get datafetches")), 500, "may not get datafetches"),
        (_raise(KeyError("spec")), 500, "a defect in it"),
    ],
)
def test_where_no_answer_is_found_the_pod_is_refused_with_a_sentence(
    directory: Path, answer: webhook.Answer, code: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = _play(directory, Client.review, answer, answer_seconds=0.2)
    assert (response["uid"], response["allowed"], response["status"]["code"]) == ("u1", False, code)
    assert says in response["status"]["message"]
    assert "team/app- (u1)" in caplog.text
    assert ("Traceback" in caplog.text) == (says == "a defect in it")


def test_the_api_servers_own_timeout_is_kept(directory: Path) -> None:
    """It says in the question how long it waits."""

    async def use(client: Client) -> tuple[float, Json]:
        started = time.monotonic()
        status, text = await client.post(json.dumps(REVIEW).encode(), "/inject?timeout=1s")
        assert status == 200
        return time.monotonic() - started, json.loads(text)["response"]

    seconds, response = _play(directory, use, _never)
    assert 0.7 < seconds < 3
    assert response["status"]["code"] == 503


def test_after_a_defect_the_connection_goes_on(directory: Path) -> None:
    answers = iter([_raise(KeyError("spec")), allow])

    async def answer(review: Json) -> Json:
        return await next(answers)(review)

    async def use(client: Client) -> list[bool]:
        allowed = []
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                async with client.asking(session, json.dumps(REVIEW).encode()) as response:
                    allowed.append((await response.json())["response"]["allowed"])
        return allowed

    assert _play(directory, use, answer) == [False, True]


@pytest.mark.parametrize(
    ("response", "result"),
    [
        ({"allowed": True, "patch": "W10="}, "injected"),
        ({"allowed": True}, "unchanged"),
        ({"allowed": False, "status": {"code": 403}}, "refused"),
        ({"allowed": False, "status": {"code": 503}}, "failed"),
    ],
)
def test_answers_are_counted(directory: Path, response: Json, result: str) -> None:
    async def answer(review: Json) -> Json:
        return {"response": response}

    def count() -> float:
        return REGISTRY.get_sample_value("datafetch_admissions_total", {"result": result}) or 0

    before = count()
    _play(directory, Client.review, answer)
    assert count() == before + 1
    assert REGISTRY.get_sample_value("datafetch_admission_seconds_count")


def test_old_tls_is_not_spoken(directory: Path) -> None:
    async def use(client: Client) -> None:
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            client.context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
            client.context.minimum_version = ssl.TLSVersion.TLSv1
        client.context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.review()

    _play(directory, use)


def test_tls_1_2_is_spoken(directory: Path) -> None:
    async def use(client: Client) -> Json:
        client.context.maximum_version = ssl.TLSVersion.TLSv1_2
        return await client.review()

    assert _play(directory, use)["allowed"]


def test_a_port_that_is_taken_is_a_sentence(directory: Path) -> None:
    async def use(client: Client) -> None:
        port = int(client.url.rpartition(":")[2])
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            async with serve("127.0.0.1", port, ServingCertificate(directory), allow):
                pass

    _play(directory, use)


def test_without_a_pair_nothing_is_ready_and_then_it_is(tmp_path: Path, pair: dict[str, bytes]) -> None:
    async def run() -> None:
        certificate = ServingCertificate(tmp_path)
        async with serve("127.0.0.1", 0, certificate, allow) as port:
            client = Client(port, pair["ca.crt"])
            assert not certificate.is_loaded
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.review()
            pki.mount(tmp_path, pair)
            await _until(lambda: certificate.is_loaded)
            assert (await client.review())["allowed"]

    asyncio.run(run())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is a file that is polled
            await asyncio.sleep(0.05)


def test_a_new_pair_serves_new_connections_and_open_ones_go_on(directory: Path, pair: dict[str, bytes]) -> None:
    other = pki.new_pair()
    body = json.dumps(REVIEW).encode()

    async def run() -> None:
        certificate = ServingCertificate(directory)
        async with serve("127.0.0.1", 0, certificate, allow) as port, aiohttp.ClientSession() as session:
            old, new = Client(port, pair["ca.crt"]), Client(port, other["ca.crt"])
            async with old.asking(session, body) as answer:
                await answer.read()
            pki.mount(directory, other)
            certificate.reload()
            assert (await new.review())["allowed"]
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await old.review()
            async with old.asking(session, body) as answer:  # On the connection from before.
                assert answer.status == 200

    asyncio.run(run())


def test_clients_without_a_server_name_get_the_pair_too(directory: Path) -> None:
    async def use(client: Client) -> Json:
        client.context.check_hostname = False
        url = f"{client.url}/inject"  # An address: no name is sent.
        async with aiohttp.ClientSession() as session, session.post(url, json=REVIEW, ssl=client.context) as answer:
            response: Json = (await answer.json())["response"]
            return response

    assert _play(directory, use)["allowed"]


@pytest.mark.parametrize("broken", ["half", "mixed", "gone", "locked"])
def test_a_broken_pair_changes_nothing_and_is_told_once(
    directory: Path, pair: dict[str, bytes], broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    locked = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n"
    spoiled = {
        "half": {"tls.crt": pair["tls.crt"][:300], "tls.key": pair["tls.key"]},
        "mixed": {"tls.crt": pki.new_pair()["tls.crt"], "tls.key": pair["tls.key"]},
        "gone": {"ca.crt": pair["ca.crt"]},
        "locked": {"tls.crt": pair["tls.crt"], "tls.key": locked},
    }[broken]

    async def run() -> None:
        certificate = ServingCertificate(directory)
        async with serve("127.0.0.1", 0, certificate, allow) as port:
            client = Client(port, pair["ca.crt"])
            pki.mount(directory, spoiled)
            for _ in range(3):
                certificate.reload()
            assert certificate.is_loaded
            assert (await client.review())["allowed"]
            (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
            assert "the one from before is used" in record.getMessage()
            other = pki.new_pair()
            pki.mount(directory, other)
            certificate.reload()
            assert (await Client(port, other["ca.crt"]).review())["allowed"]

    asyncio.run(run())


def test_at_the_end_open_requests_are_answered_and_connections_are_closed(directory: Path) -> None:
    began, stopping = asyncio.Event(), asyncio.Event()

    async def slow(review: Json) -> Json:
        began.set()
        await asyncio.sleep(0.3)
        return await allow(review)

    async def run() -> None:
        ca = (directory / "ca.crt").read_bytes()
        async with aiohttp.ClientSession() as session:
            certificate = ServingCertificate(directory)
            async with serve("127.0.0.1", 0, certificate, slow, is_stopping=stopping.is_set) as port:

                async def ask() -> tuple[bool, str | None]:
                    async with Client(port, ca).asking(session, json.dumps(REVIEW).encode()) as answer:
                        allowed = (await answer.json())["response"]["allowed"]
                        return allowed, answer.headers.get("Connection")

                first = asyncio.create_task(ask())
                await began.wait()
                stopping.set()
            assert await first == (True, "close")
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask()

    asyncio.run(run())
