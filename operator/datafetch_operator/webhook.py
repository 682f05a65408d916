"""The webhook's HTTPS server: POST /inject takes an AdmissionReview and gives one back, always and in time.

How a pod is answered is `admission`'s; it is handed in, as what the API server's questions are put to. Nothing here
knows of pods, nor talks to the cluster. The certificate is read from a directory that kubelet may change at any time.
"""

import asyncio
import hashlib
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

import aiohttp
from aiohttp import web

from datafetch_api.quantities import parse_duration
from datafetch_operator.errors import ApiError, OperatorError
from datafetch_operator.metrics import ADMISSION_SECONDS, ADMISSIONS

ANSWER_SECONDS = 4.0
"""Where the question does not say how long the API server waits (`?timeout=5s`, from `timeoutSeconds`)."""
DRAIN_SECONDS = 5.0
"""After SIGTERM, until every node has heard that this pod is no longer an endpoint of the Service."""
POLL_SECONDS = 1.0
LARGEST_REVIEW = 3 * 2**20
"""Bytes; the API server takes no object above that."""
_HANDSHAKE_SECONDS = 5.0
_MOST_ANSWER_SECONDS = 24.0
_PART_OF_TIMEOUT = 0.8
"""A question that times out tells the pod's owner nothing but that; we say why, a bit earlier."""
_BACKLOG = 1024

Json = dict[str, Any]
Answer = Callable[[Json], Awaitable[Json]]
"""From an AdmissionReview with a request to one with a response."""
Result = Literal["injected", "unchanged", "refused", "failed"]
logger = logging.getLogger(__name__)


class ServingCertificate:
    """`tls.crt` and `tls.key` of a directory, as handshakes use them.

    Each handshake takes the pair that was read last; connections that are open go on with theirs. A pair that cannot
    be used changes nothing: kubelet may be between two files, or somebody wrote nonsense into the Secret.
    """

    def __init__(self, directory: Path) -> None:
        self._certificate, self._key = directory / "tls.crt", directory / "tls.key"
        self._tried = b""
        self._said = ""
        self._current: ssl.SSLContext | None = None
        self.context = _tls_context()
        """For the listener; it has no certificate itself."""
        self.context.sni_callback = self._choose

    @property
    def is_loaded(self) -> bool:
        """Whether handshakes can succeed."""
        return self._current is not None

    def reload(self) -> None:
        """Read the files, and take the pair if it is another one and can be used."""
        try:
            content = hashlib.sha256(self._certificate.read_bytes() + b"\0" + self._key.read_bytes()).digest()
        except OSError as error:
            self._complain(f"{error.filename} cannot be read ({error.strerror})")
            return
        if content == self._tried:
            return
        self._tried = content
        context = _tls_context()
        try:
            # A key with a password would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            self._complain(f"{self._certificate} and {self._key.name} are no certificate with its key ({error})")
            return
        self._current, self._said = context, ""
        logger.info("serving with the certificate of %s", self._certificate)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None

    def _complain(self, sentence: str) -> None:
        if sentence == self._said:
            return
        self._said = sentence
        goes_on = "the one from before is used" if self.is_loaded else "no pod can be answered before there is one"
        logger.warning("certificate of the webhook: %s; %s", sentence, goes_on)


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    certificate: ServingCertificate,
    answer: Answer,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncIterator[int]:
    """Serve as long as the context is open, and give the port; at its end, open requests are answered.

    While `is_stopping`, each answer ends its connection, so that the API server takes the next one elsewhere.
    """
    endpoint = _Endpoint(answer, answer_seconds, is_stopping)
    app = web.Application(client_max_size=LARGEST_REVIEW)
    app.add_routes([web.post("/inject", endpoint.inject)])
    # The idle connections of the API server are closed by itself: who closes first while a request is on its way
    # makes it fail, and a POST is not sent again. Hence no keep-alive timeout below its own.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=answer_seconds + 1)
    await runner.setup()
    certificate.reload()
    poll = asyncio.create_task(_keep_reloading(certificate), name="certificate")
    try:
        server = await _listen(runner, host, port, certificate.context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        poll.cancel()
        await runner.cleanup()


async def run_until(stopping: asyncio.Event, drain_seconds: float = DRAIN_SECONDS) -> None:
    """Wait for the event, and then until nobody should come any more."""
    await stopping.wait()
    logger.info("stopping: not ready any more, and serving for another %.0f s", drain_seconds)
    await asyncio.sleep(drain_seconds)


class _Endpoint:
    """Answers one review at a time, whatever happens meanwhile."""

    def __init__(self, answer: Answer, answer_seconds: float, is_stopping: Callable[[], bool]) -> None:
        self._answer = answer
        self._answer_seconds = answer_seconds
        self._is_stopping = is_stopping

    async def inject(self, request: web.Request) -> web.Response:
        """Answer the API server."""
        started = time.perf_counter()
        result, response = await self._respond(request, self._deadline(request.query.get("timeout", "")))
        ADMISSIONS.labels(result=result).inc()
        ADMISSION_SECONDS.observe(time.perf_counter() - started)
        if self._is_stopping():
            response.force_close()
        return response

    def _deadline(self, timeout: str) -> float:
        """Return when the answer has to be there, on the loop's clock."""
        seconds = self._answer_seconds
        with suppress(ValueError):
            seconds = min(parse_duration(timeout) * _PART_OF_TIMEOUT, _MOST_ANSWER_SECONDS)
        return asyncio.get_running_loop().time() + seconds

    async def _respond(self, request: web.Request, deadline: float) -> tuple[Result, web.Response]:
        try:
            async with asyncio.timeout_at(deadline):
                review = _parse(await request.read())
        except ValueError as error:
            return "failed", web.Response(status=400, text=f"{error}\n")
        except TimeoutError:
            return "failed", web.Response(status=408, text="the AdmissionReview did not arrive in time\n")
        except web.HTTPRequestEntityTooLarge:
            return "failed", web.Response(status=413, text=f"an AdmissionReview has at most {LARGEST_REVIEW} bytes\n")
        answer = await self._decide(review, deadline)
        return _result(answer), web.json_response(answer)

    async def _decide(self, review: Json, deadline: float) -> Json:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._answer(review)
        except (TimeoutError, aiohttp.ClientError) as error:
            logger.warning("%s: the Kubernetes API did not answer: %r", _title(review), error)
            return _failure(review, 503, _NO_ANSWER)
        except ApiError as error:
            logger.warning("%s: %s", _title(review), error)
            return _failure(review, 503 if error.status >= 500 or error.status == 429 else 500, f"{_FAILED}: {error}")
        except Exception:
            logger.exception("%s: a defect", _title(review))
            return _failure(review, 500, f"{_FAILED}: a defect in it, of which its log says more")


_FAILED = "the webhook of DataFetch could not look after this pod"
_NO_ANSWER = (
    "the Kubernetes API did not tell the webhook of DataFetch in time what this pod asks for; create the pod again, as "
    "its controller does by itself"
)


def _parse(body: bytes) -> Json:
    """Return the review. Raises ValueError with a sentence for anything else."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON ({error}); send an AdmissionReview of admission.k8s.io/v1") from None
    match review:
        case {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": str(), "object": dict()},
        }:
            return cast("Json", review)
    raise ValueError(
        "the body is no AdmissionReview of admission.k8s.io/v1 with a request that has a uid and an object; register "
        "the webhook for that version and the creation of pods"
    )


def _failure(review: Json, code: int, message: str) -> Json:
    response = {"uid": review["request"]["uid"], "allowed": False, "status": {"code": code, "message": message}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def _result(answer: Json) -> Result:
    response = answer["response"]
    if response["allowed"]:
        return "injected" if "patch" in response else "unchanged"
    return "failed" if (response.get("status") or {}).get("code", 0) >= 500 else "refused"


def _title(review: Json) -> str:
    """Name the pod for the log: those of controllers have no name yet."""
    request = review["request"]
    metadata = request["object"].get("metadata") or {}
    return f"{request.get('namespace')}/{metadata.get('name') or metadata.get('generateName')} ({request['uid']})"


async def _keep_reloading(certificate: ServingCertificate) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        certificate.reload()


async def _listen(runner: web.AppRunner, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    try:
        return await asyncio.get_running_loop().create_server(
            runner.server, host, port, ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS, backlog=_BACKLOG
        )
    except OSError as error:
        raise OperatorError(f"the webhook cannot listen on {host}:{port}: {error.strerror or error}") from error


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would not see a new certificate, and the API server resumes none.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context
