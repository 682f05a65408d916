"""Super Obj Soaker's command lines and environment variables, seen from outside: the tree, the exit code, the server.

What the variables do is looked at where it counts: which requests the server gets, when, and how fast its bytes go.
"""

import itertools
import random
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.commands import Run, datafetch, tree
from component.places import S3Place
from servers.emulators import versitygw
from servers.plans import Fault
from servers.throttle import ThrottlingProxy
from storage import fill, servers
from unit.downloader.soaker_examples import DEFAULTS, EXAMPLES, arguments

OBJECTS = {"a.bin": b"a" * 70_000, "deep/er/b.txt": b"b", "empty": b"", "c.parquet": b"c" * 3_000_000}


@pytest.fixture
def proxy(s3: S3Place) -> Iterator[ThrottlingProxy]:
    host, _, port = s3.server.url.removeprefix("http://").partition(":")
    with ThrottlingProxy(host, int(port)) as proxy:
        yield proxy


def get(s3: S3Place, url: str, cwd: Path, *flags: str, **variables: str) -> Run:
    """Fetch the whole bucket into `out` from a server, with variables of Super Obj Soaker."""
    keys = {"AWS_ACCESS_KEY_ID": s3.server.access_key, "AWS_SECRET_ACCESS_KEY": s3.server.secret_key}
    return datafetch("get", f"s3://{s3.bucket}/", "out", "--endpoint-url", url, *flags, cwd=cwd, **keys, **variables)


@pytest.mark.parametrize("example", EXAMPLES.splitlines())
def test_its_examples_run_with_their_defaults_spelled_out(
    tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "us-west-2" in example:
        # The server refuses signatures for another region than its own, as Amazon's do.
        for module in (servers, fill):
            monkeypatch.setattr(module, "S3_REGION", "us-west-2")
    with versitygw() as server:
        server.store.create("mybucket")
        for key, content in OBJECTS.items():
            server.store.put("mybucket", f"data/{key}", content)
        server.store.put("mybucket", "database/not-asked-for", b"x")
        places = {"/local/path": str(tmp_path / "local/path"), "http://localhost:8333": server.url}
        environment = {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_ENDPOINT_URL": server.url,
        }
        words = [places.get(word, word) for word in arguments(example)]
        run = datafetch("get", *words, cwd=tmp_path, **environment, **DEFAULTS)

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "local/path") == OBJECTS
    assert "from the environment: MIN_PROCESSES=1 (fewest requests at a time), MAX_PROCESSES=16" in run.stderr


def test_the_maximum_speed_is_a_limit_at_the_server(s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy) -> None:
    chance = random.Random(1)
    files = {f"small/{number:03}.bin": chance.randbytes(10_000) for number in range(100)}
    # As many as are open, the kernel would take whole, however slowly they are read.
    files |= {f"middling/{number:02}.bin": chance.randbytes(700_000) for number in range(48)}
    s3.fill(files)

    started = time.monotonic()
    run = get(s3, proxy.url, tmp_path, MAX_SPEED="6.5")
    whole = time.monotonic() - started

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "out") == files
    total = sum(count for _, count in proxy.sent)
    assert total == sum(map(len, files.values()))
    assert total / whole <= 6_500_000
    # The proxy notes what it hands over to the kernel, up to 256 KiB a connection before it is sent.
    at_server = proxy.sent[-1][0] - proxy.sent[0][0]
    assert 0.8 * 6_500_000 <= total / at_server <= 1.02 * 6_500_000


@pytest.mark.parametrize("key", ["small.bin", "large.bin"])
@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=500), Fault(cut_after=0)], ids=["503", "500", "cut"])
def test_an_object_is_tried_again_as_often_as_was_said_and_then_it_fails(
    s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy, key: str, fault: Fault
) -> None:
    s3.fill({"fine.bin": b"fine", "small.bin": b"s" * 1000, "large.bin": b"l" * 2_000_000})
    proxy.faults.add(fault, times=None, path=f"*/{key}")

    run = get(s3, proxy.url, tmp_path, MAX_RETRIES="2", RETRY_DELAY="0.01")

    assert run.code == 14
    assert key in run.sentence
    assert len(proxy.traffic.select("GET", f"*/{key}")) == 3
    assert not (tmp_path / "out" / key).exists()


def test_no_retry_means_one_try_and_an_option_wins(s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy) -> None:
    s3.fill({"small.bin": b"s" * 1000})
    proxy.faults.add(Fault(status=503), times=2, path="*/small.bin")

    assert get(s3, proxy.url, tmp_path, MAX_RETRIES="0").code == 14
    assert len(proxy.traffic.select("GET", "*/small.bin")) == 1
    run = get(s3, proxy.url, tmp_path, "--max-retries", "1", "--retry-delay", "0", MAX_RETRIES="0", RETRY_DELAY="60")
    assert run.code == 0, run.stderr
    assert tree(tmp_path / "out") == {"small.bin": b"s" * 1000}


@pytest.mark.parametrize("key", ["small.bin", "large.bin"])
def test_the_delay_passes_before_an_object_is_asked_for_again(
    s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy, key: str
) -> None:
    s3.fill({"small.bin": b"s" * 1000, "large.bin": b"l" * 2_000_000})
    asked: list[float] = []

    def note(_: object) -> bool:
        asked.append(time.monotonic())
        return len(asked) <= 2

    proxy.faults.add(Fault(status=500), times=None, path=f"*/{key}", when=note)

    run = get(s3, proxy.url, tmp_path, RETRY_DELAY="0.7")

    assert run.code == 0, run.stderr
    first, second = (later - earlier for earlier, later in itertools.pairwise(asked))
    assert 0.7 <= first <= 1.4
    assert 1.4 <= second <= 2.5


@pytest.mark.parametrize("most", [1, 3])
def test_the_maximum_of_processes_bounds_small_and_large_objects_together(
    s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy, most: int
) -> None:
    files = {f"small/{number:02}.bin": b"s" * 1000 for number in range(30)}
    files |= {f"large-{number}.bin": b"l" * 2_000_000 for number in range(8)}
    s3.fill(files)
    proxy.latency = 0.02

    run = get(s3, proxy.url, tmp_path, MAX_PROCESSES=str(most))

    assert run.code == 0, run.stderr
    assert tree(tmp_path / "out") == files
    assert proxy.traffic.peak == most


@pytest.mark.parametrize("size", [1000, 2_000_000], ids=["small", "large"])
def test_the_minimum_of_processes_is_there_from_the_start_and_stays(
    s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy, size: int
) -> None:
    s3.fill({f"{number:02}.bin": b"x" * size for number in range(60)})
    proxy.latency = 0.1
    # Without a floor, this is where it gives way.
    proxy.faults.add(Fault(status=503, retry_after="0"), times=20, skip=10, path="*.bin")

    run = get(s3, proxy.url, tmp_path, MIN_PROCESSES="20", MAX_PROCESSES="20", RETRY_DELAY="0")

    assert run.code == 0, run.stderr
    start, end = proxy.gate.span
    assert proxy.traffic.peak == 20
    assert end - start <= 1.0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MAX_SPEED": "fast"}, "InvalidConfig: the environment variable MAX_SPEED: 'fast' is not a number"),
        ({"MIN_PROCESSES": "4", "MAX_PROCESSES": "2"}, "InvalidConfig: at least 4 requests at a time"),
    ],
)
def test_what_cannot_be_obeyed_ends_at_once(
    s3: S3Place, tmp_path: Path, proxy: ThrottlingProxy, variables: dict[str, str], said: str
) -> None:
    run = get(s3, proxy.url, tmp_path, **variables)

    assert run.code == 2
    assert run.sentence.startswith(said)
    assert proxy.traffic.exchanges == []
    assert not (tmp_path / "out").exists()


def test_other_commands_do_not_look_at_them(s3: S3Place, tmp_path: Path) -> None:
    s3.fill({"a": b"a"})
    keys = {"AWS_ACCESS_KEY_ID": s3.server.access_key, "AWS_SECRET_ACCESS_KEY": s3.server.secret_key}
    garbage = dict.fromkeys(DEFAULTS, "garbage")
    line = f"plan s3://{s3.bucket}/ out --endpoint-url {s3.server.url}"

    run = datafetch(*shlex.split(line), cwd=tmp_path, **keys, **garbage)

    assert run.code == 0, run.stderr
    assert "environment" not in run.stderr


def test_failure_is_not_zero(s3: S3Place, tmp_path: Path) -> None:
    assert get(s3, s3.server.url, tmp_path).code == 11, "it was 0, with an empty directory"
