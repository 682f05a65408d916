"""A cluster with the chart installed, storage servers that its pods reach, and a namespace for each test."""

import fcntl
import hashlib
import random
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cluster import provider
from deploy import chart, storage
from deploy.kubectl import Kubectl, of_cluster
from e2e.tenant import SECRET, Json, Tenant
from e2e.turns import Turns
from servers.faults import FaultProxy
from storage import fill, servers

ALONE = "alone"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{ALONE}: takes away from all tests what they need, so it runs beside none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that run alone at the end: the other workers would stand still meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker(ALONE) is not None)


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    return of_cluster()


@pytest.fixture(scope="session")
def host() -> str:
    """Return the address of this machine that pods reach."""
    return provider.choose().host_ip()


@pytest.fixture(scope="session")
def operator(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Install the chart, or upgrade it to what was built last: once, by the first of the workers that comes here."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    installed = shared / "chart-installed"
    with (shared / "chart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            chart.install_chart(kubectl)
            installed.touch()


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Turns:
    """Return the locks by which the workers' tests know of each other."""
    base = tmp_path_factory.getbasetemp()
    return Turns(base if worker_id == "master" else base.parent)


@pytest.fixture(autouse=True)
def turn(turns: Turns, request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test marked `alone` when no other runs: it takes away from all what they need."""
    alone = request.node.get_closest_marker(ALONE) is not None
    with turns.alone() if alone else turns.beside_others():
        yield


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket behind a proxy that can be made to misbehave."""

    name: str
    endpoint: str
    store: fill.S3
    proxy: FaultProxy

    def put(self, contents: dict[str, bytes]) -> dict[str, str]:
        """Store objects, and return the sha256 of each."""
        for key, content in contents.items():
            self.store.put(self.name, key, content)
        return {key: hashlib.sha256(content).hexdigest() for key, content in contents.items()}

    def bytes_read(self) -> int:
        """Return how many bytes of objects have left the server; listings do not count."""
        exchanges = self.proxy.traffic.select("GET", f"/{self.name}/?*")
        return sum(exchange.sent for exchange in exchanges)

    def source(self, name: str = "objects", secret: str = SECRET, **more: object) -> Json:
        """Return a source of the whole bucket; `include`, `exclude` and `path` belong to the source."""
        outer: Json = {key: more.pop(key) for key in ("include", "exclude", "path") if key in more}
        s3 = {"bucket": self.name, "endpoint": self.endpoint, **more}
        return {"name": name, "secretRef": {"name": secret}, "s3": s3, **outer}


@pytest.fixture(scope="session")
def s3_server(
    kubectl: Kubectl, host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[fill.S3, str, FaultProxy]]:
    """Run an S3 server on the cluster's bridge, and a fault proxy before it that pods reach by name."""
    namespace = f"storage-{uuid.uuid4().hex[:8]}"
    running = servers.start_versitygw(tmp_path_factory.mktemp("s3"), host, free_port(host))
    try:
        port = int(running.url.rpartition(":")[2])
        with FaultProxy(host, port, host) as proxy:
            endpoint = storage.publish(kubectl, "s3", host, proxy.port, namespace)
            yield fill.S3(running.url), endpoint, proxy
    finally:
        running.stop()
        kubectl.run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


@pytest.fixture
def bucket(s3_server: tuple[fill.S3, str, FaultProxy]) -> Iterator[Bucket]:
    """Make a bucket of the test's own; whatever the test did to the proxy ends with it."""
    store, endpoint, proxy = s3_server
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    store.create(name)
    yield Bucket(name, endpoint, store, proxy)
    proxy.pace.rate = None
    proxy.faults.clear()
    proxy.max_concurrency = None


@pytest.fixture
def tenant(kubectl: Kubectl, operator: None, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """Make a namespace with the Secret of the S3 server; what it holds is printed where the test fails."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl.ensure_namespace(name)
    made = Tenant(kubectl, name)
    made.secret(SECRET, AWS_ACCESS_KEY_ID=servers.S3_ACCESS_KEY, AWS_SECRET_ACCESS_KEY=servers.S3_SECRET_KEY)
    failed_before = request.session.testsfailed
    yield made
    if request.session.testsfailed > failed_before:
        _show(kubectl, name)
    kubectl.run("delete", "namespace", name, "--wait=false")


class Publish:
    """Gives servers of this machine names in a namespace of the test's own."""

    def __init__(self, kubectl: Kubectl, host: str) -> None:
        self._kubectl = kubectl
        self._host = host
        self.namespace = f"storage-{uuid.uuid4().hex[:8]}"

    def __call__(self, name: str, url: str) -> str:
        """Return the URL at which pods reach the server of that URL."""
        port = int(url.rpartition(":")[2].partition("/")[0])
        return storage.publish(self._kubectl, name, self._host, port, self.namespace)


@pytest.fixture
def publish(kubectl: Kubectl, host: str) -> Iterator[Publish]:
    """Return a function that gives a server of this machine a name in the cluster."""
    publisher = Publish(kubectl, host)
    yield publisher
    kubectl.run("delete", "namespace", publisher.namespace, "--ignore-not-found", "--wait=false")


def _show(kubectl: Kubectl, namespace: str) -> None:
    """Print what a person would look at."""
    there = ("--namespace", namespace)
    for command in (("describe", "datafetch", *there), ("get", "all,cm,pvc", *there), ("get", "events", *there)):
        print(kubectl.attempt(*command).stdout)
    logs = ("logs", "--all-containers", "--tail=40", "--max-log-requests=60", "--prefix")
    print(kubectl.attempt(*logs, "--selector=datafetch.io/role", *there).stdout)
    for name in ("datafetch-operator", "datafetch-webhook"):
        where = ("--all-pods", "--namespace", chart.NAMESPACE, "--tail=80")
        print(kubectl.attempt("logs", f"deployment/{name}", *where).stdout)


def free_port(host: str) -> int:
    """Return a port that nobody has at that address."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
