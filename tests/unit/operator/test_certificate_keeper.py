"""The keeper against an API server in memory: what it writes, and what it does where it can't."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datafetch_operator.certificate_keeper import LOOK_SECONDS, CertificateKeeper
from datafetch_operator.certificates import read_bundle
from datafetch_operator.errors import ApiError, ConflictError, RefusedError
from datafetch_operator.settings import Certificates

SETTINGS = Certificates(
    configuration="df",
    namespace="datafetch-system",
    service="df-webhook",
    ca_secret="df-ca",
    tls_secret="df-tls",
    ca_days=30,
    certificate_days=9,
)
SETTLE = 30.0
Json = dict[str, Any]


class Api:
    """Two Secrets and a webhook configuration, with versions as the API server keeps them."""

    def __init__(self) -> None:
        self.secrets: dict[str, Json] = {}
        services = [("datafetch-system", "df-webhook"), ("datafetch-system", "other")]
        self.configuration: Json | None = {
            "metadata": {"name": "df", "resourceVersion": "1"},
            "webhooks": [
                {"name": f"{name}.example", "clientConfig": {"service": {"namespace": namespace, "name": name}}}
                for namespace, name in services
            ],
        }
        self.version = 1
        self.written: list[str] = []
        self.reads = 0
        self.error: Exception | None = None
        self.before_write: Callable[[], Awaitable[object]] | None = None

    async def read_secret(self, namespace: str, name: str) -> Json | None:
        assert namespace == "datafetch-system"
        self._ask()
        return deepcopy(self.secrets.get(name))

    async def read_webhook_configuration(self, name: str) -> Json | None:
        assert name == "df"
        self._ask()
        return deepcopy(self.configuration)

    async def write_secret(self, manifest: Json) -> None:
        await self._interrupt()
        name = manifest["metadata"]["name"]
        there = self.secrets.get(name, {"metadata": {}})["metadata"].get("resourceVersion")
        self._accept(manifest["metadata"].get("resourceVersion"), there)
        self.secrets[name] = deepcopy(manifest)
        self.secrets[name]["metadata"]["resourceVersion"] = str(self.version)
        self.written.append(name)

    async def patch_webhook_configuration(self, name: str, operations: list[Json]) -> None:
        await self._interrupt()
        assert self.configuration is not None
        version, *patches = operations
        assert version["path"] == "/metadata/resourceVersion"
        self._accept(version["value"], self.configuration["metadata"]["resourceVersion"])
        for patch in patches:
            _, webhooks, place, client, key = patch["path"].split("/")
            self.configuration[webhooks][int(place)][client][key] = patch["value"]
        self.configuration["metadata"]["resourceVersion"] = str(self.version)
        self.written.append(name)

    def bundle(self, place: int = 0) -> bytes:
        assert self.configuration is not None
        return base64.b64decode(self.configuration["webhooks"][place]["clientConfig"].get("caBundle", ""))

    def served(self) -> bytes:
        return base64.b64decode(self.secrets["df-tls"]["data"]["tls.crt"])

    async def _interrupt(self) -> None:
        interrupt, self.before_write = self.before_write, None
        if interrupt is not None:
            await interrupt()

    def _ask(self) -> None:
        self.reads += 1
        if self.error is not None:
            raise self.error

    def _accept(self, given: str | None, there: str | None) -> None:
        if given != there:
            raise ConflictError(409, "Conflict", "the object has been modified")
        self.version += 1


class World:
    """An API, a keeper, and its clocks."""

    def __init__(self) -> None:
        self.api = Api()
        self.seconds = 0.0
        self.restart()

    def restart(self) -> None:
        self.keeper = self.another_keeper()

    def another_keeper(self) -> CertificateKeeper:
        start = datetime(2026, 1, 31, tzinfo=UTC)
        return CertificateKeeper(
            self.api,
            SETTINGS,
            settle_seconds=SETTLE,
            clock=lambda: self.seconds,
            now=lambda: start + timedelta(seconds=self.seconds),
        )

    def look(self) -> float:
        self.api.written.clear()
        return asyncio.run(self.keeper.look())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def started(world: World) -> World:
    world.look()
    world.seconds += SETTLE
    return world


def test_one_look_at_the_first_start_is_enough(world: World) -> None:
    assert world.look() == LOOK_SECONDS
    assert world.api.written == ["df-ca", "df-tls", "df"]
    assert len(read_bundle(world.api.bundle())) == 1
    assert world.api.bundle(1) == b""  # Another service's webhook is none of ours.
    tls = world.api.secrets["df-tls"]
    assert (tls["type"], sorted(tls["data"])) == ("kubernetes.io/tls", ["ca.crt", "tls.crt", "tls.key"])
    assert tls["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "datafetch-operator"
    ca = world.api.secrets["df-ca"]
    assert (ca["type"], sorted(ca["data"])) == ("Opaque", ["ca.crt", "ca.key"])
    assert "ca.key" not in tls["data"]


def test_a_look_at_what_is_current_reads_three_objects_and_writes_none(started: World) -> None:
    started.api.reads = 0
    assert started.look() == LOOK_SECONDS
    assert (started.api.reads, started.api.written) == (3, [])


def test_a_deleted_ca_is_trusted_before_it_signs(started: World) -> None:
    served = started.api.served()
    del started.api.secrets["df-ca"]
    assert started.look() == SETTLE
    assert started.api.written == ["df-ca", "df"]
    assert len(read_bundle(started.api.bundle())) == 2
    assert started.api.served() == served
    started.seconds += SETTLE - 1
    assert started.look() == 1
    assert started.api.written == []
    started.seconds += 1
    assert started.look() == LOOK_SECONDS
    assert started.api.written == ["df-tls"]
    assert started.api.served() != served


def test_after_a_restart_it_waits_once_more(started: World) -> None:
    del started.api.secrets["df-ca"]
    started.look()
    started.seconds += SETTLE - 1
    started.restart()
    assert started.look() == SETTLE


def test_a_deleted_certificate_comes_back_at_once(started: World) -> None:
    started.look()
    del started.api.secrets["df-tls"]
    assert started.look() == LOOK_SECONDS
    assert started.api.written == ["df-tls"]


def test_what_others_wrote_on_the_secrets_stays(started: World) -> None:
    started.look()
    metadata = started.api.secrets["df-tls"]["metadata"]
    metadata["labels"]["team"] = "a"
    metadata["annotations"] = {"note": "b"}
    started.api.secrets["df-tls"]["type"] = "Opaque"
    started.api.secrets["df-tls"]["data"] = {"tls.crt": "", "theirs": ""}
    started.look()
    assert started.api.written == ["df-tls"]
    tls = started.api.secrets["df-tls"]
    assert (tls["type"], tls["metadata"]["labels"]["team"], tls["metadata"]["annotations"]) == (
        "Opaque",
        "a",
        {"note": "b"},
    )


def test_a_ca_secret_that_cert_manager_left_becomes_ours(started: World) -> None:
    """Its type requires keys that ours does not have."""
    data = {"tls.crt": "YQ==", "tls.key": "YQ==", "ca.crt": "YQ=="}
    started.api.secrets["df-ca"] |= {"type": "kubernetes.io/tls", "data": data}
    started.look()
    assert started.api.written == ["df-ca", "df"]
    ca = started.api.secrets["df-ca"]
    assert (ca["type"], sorted(ca["data"])) == ("kubernetes.io/tls", ["ca.crt", "ca.key", "tls.crt", "tls.key"])


def test_two_keepers_agree(world: World) -> None:
    """The other is faster: ours reads again, and takes what is there."""
    world.api.before_write = world.another_keeper().look
    assert world.look() < LOOK_SECONDS
    there = deepcopy(world.api.secrets)
    assert world.look() == LOOK_SECONDS
    assert world.api.secrets == there


def test_where_injection_is_not_installed_it_says_so_once_and_looks_ever_more_rarely(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.api.configuration = None
    with caplog.at_level(logging.INFO):
        pauses = [world.look() for _ in range(12)]
    assert (pauses[0], pauses[-1]) == (2, 300)
    assert world.api.secrets == {}
    (record,) = caplog.records
    assert record.getMessage() == (
        "certificates of the webhook: MutatingWebhookConfiguration df is not there, or has no webhook of Service "
        "datafetch-system/df-webhook; they are made once it is"
    )
    world.api.configuration = Api().configuration
    assert world.look() == LOOK_SECONDS
    assert world.api.written == ["df-ca", "df-tls", "df"]


@pytest.mark.parametrize(
    "error", [RefusedError(403, "Forbidden", "may not get secrets"), ApiError(500, "", "broken"), TimeoutError()]
)
def test_what_cannot_be_done_is_said_once_and_tried_again(
    started: World, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    started.api.error = error
    first, second = started.look(), started.look()
    assert 0 < first < second
    (record,) = caplog.records
    assert (str(error) or "TimeoutError") in record.getMessage()
    started.api.error = None
    assert started.look() == LOOK_SECONDS


def test_a_defect_does_not_end_it(started: World, caplog: pytest.LogCaptureFixture) -> None:
    started.api.error = ZeroDivisionError()
    assert started.look() == LOOK_SECONDS
    assert "ZeroDivisionError" in caplog.text


def test_a_rotation_is_told_and_no_key_is(started: World, caplog: pytest.LogCaptureFixture) -> None:
    del started.api.secrets["df-ca"]
    with caplog.at_level(logging.DEBUG):
        started.look()
        started.seconds += SETTLE
        started.look()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("datafetch")]
    assert said == [
        "certificates of the webhook: a new CA in Secret df-ca: there is none",
        "certificates of the webhook: the caBundle of df has 2 CAs now",
        "certificates of the webhook: a new certificate in Secret df-tls: it is not by the CA of now",
    ]
    for secret in started.api.secrets.values():
        for key, value in secret["data"].items():
            if key.endswith(".key"):
                assert value[40:80] not in caplog.text
                assert base64.b64decode(value).decode().splitlines()[1] not in caplog.text


def test_it_looks_until_it_is_cancelled(world: World) -> None:
    async def run() -> None:
        task = asyncio.create_task(world.keeper.run())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert world.api.written == ["df-ca", "df-tls", "df"]
