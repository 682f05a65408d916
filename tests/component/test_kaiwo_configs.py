"""The Kaiwo downloader's own examples, as its documentation has them: the tree that each leaves, and its requests."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from component.commands import Run, datafetch, tree
from servers.emulators import azurite, fake_gcs_server, versitygw
from servers.faults import FaultProxy
from servers.hub import Hub
from servers.serving import Request, Response, Server
from servers.traffic import Exchange
from storage.fill import Store
from unit.downloader.kaiwo_examples import EXAMPLES, GCS_CREDENTIALS, config_with

OBJECTS = {
    "README.md": b"# at the root, which **/*.md matches too\n",
    "file01.txt": b"one\n",
    "subdir/file02.txt": b"two\n",
    "subdir/file03.md": b"three\n",
    "subdir/deep/er/file04.md": os.urandom(100_000),
    "subdir/deep/er/still/file05.bin": b"",
}
ALL = OBJECTS
SUB = {key.removeprefix("subdir/"): content for key, content in OBJECTS.items() if key.startswith("subdir/")}
MARKDOWN = {key: content for key, content in OBJECTS.items() if key.endswith(".md")}


def at(directory: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{directory}/{path}": content for path, content in files.items()}


TREES = {
    "hf": {"TinyLlama/TinyLlama-1.1B-Chat-v1.0/README.md": b"# TinyLlama\n"},
    "gcs": at("gcs/all", ALL) | at("gcs/sub", SUB) | {"gcs/single.txt": b"two\n"} | at("gcs/glob", MARKDOWN),
    "s3": at("s3/all", ALL) | at("s3/sub", SUB) | {"s3/single.txt": b"two\n"},
    "azure-blob": at("azure/all", ALL) | at("azure/sub", SUB) | {"azure/single.txt": b"two\n"},
}
DOWNLOADS = {
    # The path of a request for an object's bytes, at each server.
    "hf": "/TinyLlama/TinyLlama-1.1B-Chat-v1.0/resolve/",
    "gcs": "/download/storage/v1/b/test/o/",
    "s3": "/test/",
    "azure-blob": "/devstoreaccount1/test/",
}


@contextmanager
def proxied(url: str) -> Iterator[FaultProxy]:
    """A proxy that sees every request to the server at `url`."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with FaultProxy(address.hostname, address.port) as proxy:
        yield proxy


def service_account(token_uri: str) -> str:
    """The credentials file of a service account whose tokens come from `token_uri`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "tests@test.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    return json.dumps(account)


def hand_out_token(_: Request) -> Response:
    body = json.dumps({"access_token": "ya29.test", "expires_in": 3600, "token_type": "Bearer"}).encode()
    return Response(200, (("Content-Type", "application/json"),), body, len(body))


def fill(store: Store) -> None:
    store.create("test")
    for key, content in OBJECTS.items():
        store.put("test", key, content)


class Kaiwo:
    """A working directory as the examples expect it, and the servers that they name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment: dict[str, str] = {}
        self.servers: dict[str, Server] = {}

    def write(self, path: str, content: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def run(self, config: str, *flags: str) -> Run:
        self.write("task.yaml", config)
        return datafetch("run", "task.yaml", *flags, cwd=self.directory, **self.environment)

    @property
    def output(self) -> Path:
        return self.directory / "test/output"

    def downloads(self, example: str) -> Counter[str]:
        """How often each object's bytes were sent."""
        prefix = DOWNLOADS[example]
        return Counter(
            exchange.path.removeprefix(prefix)
            for exchange in self.servers[example].traffic.select("GET")
            if exchange.path.startswith(prefix) and exchange.status in (200, 206) and not is_listing(exchange)
        )


def is_listing(exchange: Exchange) -> bool:
    return exchange.path.endswith("/") or bool({"list-type", "comp"} & set(exchange.query))


@pytest.fixture
def kaiwo(tmp_path: Path) -> Kaiwo:
    return Kaiwo(tmp_path)


@pytest.fixture
def s3(kaiwo: Kaiwo) -> Iterator[None]:
    with versitygw() as server, proxied(server.url) as proxy:
        fill(server.store)
        kaiwo.write("test/secrets/s3/endpoint", f"{proxy.url}\n")
        kaiwo.write("test/secrets/s3/access_key_id", f"{server.access_key}\n")
        kaiwo.write("test/secrets/s3/secret_key", f"{server.secret_key}\n")
        kaiwo.servers["s3"] = proxy
        yield


@pytest.fixture
def gcs(kaiwo: Kaiwo) -> Iterator[None]:
    with fake_gcs_server() as server, proxied(server.url) as proxy, Server(hand_out_token) as tokens:
        server.advertise(proxy.url)
        fill(server.store)
        kaiwo.write(GCS_CREDENTIALS, service_account(f"{tokens.url}/token"))
        kaiwo.environment["STORAGE_EMULATOR_HOST"] = proxy.url
        kaiwo.servers["gcs"] = proxy
        yield


@pytest.fixture
def azure(kaiwo: Kaiwo) -> Iterator[None]:
    with azurite() as server, proxied(server.url) as proxy:
        fill(server.store)
        kaiwo.write(
            "test/secrets/azure/connection_string",
            server.connection_string.replace(server.url, f"{proxy.url}/{server.account}"),
        )
        kaiwo.servers["azure-blob"] = proxy
        yield


@pytest.fixture
def hub(kaiwo: Kaiwo) -> Iterator[None]:
    with Hub() as hub:
        hub.create(
            "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            {
                "README.md": b"# TinyLlama\n",
                "config.json": b"{}",
                "model.safetensors": b"weights",
                "sub/README.md": b"x",
            },
        )
        kaiwo.environment["HF_ENDPOINT"] = hub.url
        kaiwo.servers["hf"] = hub
        yield


def expected_downloads(example: str) -> Counter[str]:
    """One request for each place that an object with content lands at, and none for others."""
    if example == "hf":
        return Counter()
    contents = {content: key for key, content in OBJECTS.items()}
    return Counter(contents[content] for content in TREES[example].values())


@pytest.mark.parametrize(("example", "servers"), [("s3", "s3"), ("gcs", "gcs"), ("azure-blob", "azure"), ("hf", "hub")])
def test_an_example_leaves_exactly_its_tree_and_asks_for_nothing_twice(
    kaiwo: Kaiwo, example: str, servers: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(servers)
    run = kaiwo.run(config_with(EXAMPLES[example]), "--max-workers", "4", "--log-level", "INFO")

    assert run.code == 0, run.stderr
    assert tree(kaiwo.output) == TREES[example]
    downloads = kaiwo.downloads(example)
    if example == "hf":
        assert len(downloads) == 1
        assert set(downloads.values()) == {1}
    else:
        needed = {key: count for key, count in expected_downloads(example).items() if OBJECTS[key]}
        assert {key: count for key, count in downloads.items() if OBJECTS[key]} == needed


@pytest.mark.usefixtures("s3", "gcs", "azure", "hub")
def test_all_four_examples_in_one_config_share_one_run(kaiwo: Kaiwo) -> None:
    run = kaiwo.run(config_with(*EXAMPLES.values()), "--max-workers", "2", "--json")

    assert run.code == 0, run.stderr
    assert tree(kaiwo.output) == {path: content for files in TREES.values() for path, content in files.items()}
    assert run.result.total_files == sum(len(files) for files in TREES.values())
    assert [source.name for source in run.result.sources] == [
        "Hugging Face download example",
        "Test GCS",
        "Test Minio",
        "Test Azurite",
    ]


@pytest.mark.usefixtures("hub")
def test_hugging_face_data_obeys_download_root_and_no_cache_is_filled(kaiwo: Kaiwo) -> None:
    run = kaiwo.run(config_with(EXAMPLES["hf"], root="elsewhere"))

    assert run.code == 0, run.stderr
    assert tree(kaiwo.directory / "elsewhere") == TREES["hf"]
    assert not (kaiwo.directory / ".cache").exists()


@pytest.mark.usefixtures("s3")
def test_max_workers_bounds_the_requests_that_are_open(kaiwo: Kaiwo) -> None:
    proxy = kaiwo.servers["s3"]
    assert isinstance(proxy, FaultProxy)
    proxy.latency = 0.05

    assert kaiwo.run(config_with(EXAMPLES["s3"]), "--max-workers", "1").code == 0
    assert proxy.traffic.peak == 1


@pytest.mark.usefixtures("s3")
def test_missing_s3_keys_are_the_sdk_s_own_chain_and_not_anonymous(kaiwo: Kaiwo) -> None:
    config = "\n".join(
        line
        for line in config_with(EXAMPLES["s3"]).splitlines()
        if "access_key_id_file" not in line and "secret_key_file" not in line
    )
    key = (kaiwo.directory / "test/secrets/s3/access_key_id").read_text().strip()
    secret = (kaiwo.directory / "test/secrets/s3/secret_key").read_text().strip()

    without = kaiwo.run(config)
    assert without.code == 10
    assert "no credentials found" in without.sentence
    assert kaiwo.servers["s3"].traffic.exchanges == []
    assert not kaiwo.output.exists() or tree(kaiwo.output) == {}

    kaiwo.environment |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    assert kaiwo.run(config).code == 0
    assert tree(kaiwo.output) == TREES["s3"]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            config_with(EXAMPLES["s3"].replace("  items:\n    - bucket", "  itmes:\n    - bucket")),
            "InvalidConfig: task.yaml:8:5: download_items[0].itmes is not a known key; did you mean 'items'?",
        ),
        (
            config_with(EXAMPLES["s3"].replace("type: s3", "type: s4")),
            "InvalidConfig: task.yaml:3:5: download_items[0].type is 's4'; it must be one of",
        ),
        (
            "download_root: test/output\ndownload_items: []\n",
            "InvalidConfig: task.yaml:2:1: download_items is empty; give at least one entry",
        ),
        (
            config_with(EXAMPLES["s3"]),
            "InvalidConfig: source 'Test Minio': endpoint_url_file: no such file 'test/secrets/s3/endpoint'",
        ),
    ],
)
def test_what_was_passed_over_in_silence_exits_2_and_writes_nothing(kaiwo: Kaiwo, config: str, sentence: str) -> None:
    run = kaiwo.run(config)

    assert run.code == 2
    assert run.sentence.startswith(sentence)
    assert not kaiwo.output.exists()
