"""docs/coming-from.md: every command of `datafetch` that it names is run, and leaves what the page says."""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from component.commands import Run, datafetch, tree
from component.prefork import Prefork, prefork
from emulators.place import PROJECT, Place, Ports
from servers.emulators import azurite, fake_gcs_server, versitygw
from servers.hub import Hub
from storage.fill import S3, Store
from unit.downloader.kaiwo_examples import EXAMPLES, config_with

PAGE = (PROJECT / "docs" / "coming-from.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and " | " in line]
TYPED = [span for row in ROWS for span in re.findall(r"`([^`]+)`", row[1])]
COMMANDS = list(dict.fromkeys(span for span in TYPED if re.match(r"([A-Z_]+=\S+ )*datafetch ", span)))

DATA = {"a.csv": b"a\n", "b.parquet": b"b", "deep/c.csv": b"c\n", "deep/d.parquet": b"d", "file_1.csv": b"1\n"}
MODEL = {"config.json": b"{}", "weights.bin": b"w" * 100}
DATASET = {"train/0/x.jsonl": b"{}\n", "train/y.jsonl": b"{}\n", "test/z.jsonl": b"{}\n"}
CSV = {path for path in DATA if path.endswith(".csv")}
LEFT = {
    # Where the page says what is different about it.
    "datafetch get s3://mybucket/data /local/path": set(DATA),
    "datafetch get s3://mybucket/ /local/path --include 'data/**'": {f"data/{path}" for path in DATA},
    "datafetch get s3://mybucket/data /local/path --include '**/*.parquet'": set(DATA) - CSV,
    "datafetch get s3://mybucket/data/ ./data/s3-ingester/food --include 'file_*.csv'": {"file_1.csv"},
    "datafetch get s3://mybucket/models/flowers /mnt/models": set(MODEL),
    "datafetch get gs://test/models/flowers /mnt/models": set(MODEL),
    "datafetch get s3://mybucket/ dir --exclude '**/*.csv'": {
        "data/b.parquet", "data/deep/d.parquet", "database/c", *(f"models/flowers/{path}" for path in MODEL),
    },
    "datafetch get s3://mybucket/data/a.csv . --anonymous": {"a.csv"},
    "datafetch get s3://mybucket/data/ dir --include '**/*.csv'": CSV,
    "datafetch get hf://ORG/NAME dir": set(MODEL),
    "datafetch get hf://ORG/NAME/config.json dir": {"config.json"},
    "datafetch get hf://datasets/ORG/NAME@v2 dir --include 'train/**'": {"train/0/x.jsonl", "train/y.jsonl"},
}  # fmt: skip
POLICY = (
    b'{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",'
    b'"Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::mybucket","arn:aws:s3:::mybucket/*"]}]}'
)


def put(store: Store, bucket: str, prefix: str, files: dict[str, bytes]) -> None:
    store.create(bucket)
    for path, content in files.items():
        store.put(bucket, prefix + path, content)


def open_to_all(store: S3, bucket: str) -> None:
    store._send("PUT", f"/{bucket}", {}, POLICY, "policy=", (200, 204))


@dataclass(frozen=True)
class World:
    """The servers that the page's commands name, and the directory that they are run in."""

    directory: Path
    environment: dict[str, str]
    names: dict[str, str]
    """What stands on the page, and what it is here."""
    runs: Prefork

    def run(self, command: str, cwd: Path) -> Run:
        for name, here in {**self.names, "/local/path": str(cwd / "data"), "/mnt/models": str(cwd / "data")}.items():
            command = command.replace(name, here)
        words = shlex.split(command)
        program = words.index("datafetch")
        variables = dict(word.split("=", 1) for word in words[:program])
        # The Hub's library takes its endpoint when it is imported, which the fork has done already.
        run = datafetch if "hf://" in command or "test_download_task" in command else self.runs.datafetch
        return run(*words[program + 1 :], cwd=cwd, **(self.environment | variables))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("page") / "kaiwo"
    ignored = shutil.ignore_patterns("output", "secrets")
    place = Place(Path(shutil.copytree(PROJECT / "examples/kaiwo", directory, ignore=ignored)))
    with ExitStack() as stack:
        s3, gcs = stack.enter_context(versitygw()), stack.enter_context(fake_gcs_server())
        azure, hub = stack.enter_context(azurite()), stack.enter_context(Hub())
        runs = stack.enter_context(prefork())
        stores: tuple[Store, ...] = (s3.store, gcs.store, azure.store)
        for store in stores:
            put(store, "test", "", tree(place.data))
        put(s3.store, "mybucket", "data/", DATA)
        put(s3.store, "mybucket", "models/flowers/", MODEL)
        put(s3.store, "mybucket", "database/", {"c": b"not asked for"})
        open_to_all(s3.store, "mybucket")
        put(gcs.store, "test", "models/flowers/", MODEL)
        hub.create("TinyLlama/TinyLlama-1.1B-Chat-v1.0", {"README.md": b"#"})
        hub.create("ORG/NAME", MODEL)
        hub.create("ORG/NAME", DATASET, repo_type="dataset").tag("v2")
        s3_port, gcs_port, azure_port = (urlsplit(url).port or 0 for url in (s3.url, gcs.url, azure.url))
        place.write_secrets(Ports(s3_port, gcs_port, azure_port))
        (directory / "task.yaml").write_text(config_with(EXAMPLES["s3"]))
        environment = {
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_ENDPOINT_URL": s3.url,
            "STORAGE_EMULATOR_HOST": gcs.url,
            "HF_ENDPOINT": hub.url,
        }
        names = {
            "http://localhost:8333": s3.url,
            "http://localhost:9023": f"http://localhost:{gcs_port}",
            "us-west-2": s3.region,
        }
        yield World(directory, environment, names, runs)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_does_what_the_page_says(world: World, tmp_path: Path, command: str) -> None:
    cwd = Path(shutil.copytree(world.directory, tmp_path / "here"))
    before = set(tree(cwd))
    if " verify " in command:
        assert world.run("datafetch get s3://mybucket/data/ dir", cwd).code == 0

    run = world.run(command, cwd)

    assert run.code == 0, run.stderr
    left = set(tree(cwd)) - before
    if command in LEFT:
        roots = ("data/s3-ingester/food/", "data/", "dir/", "")
        root = next(root for root in roots if all(path.startswith(root) for path in left))
        assert {path.removeprefix(root) for path in left} == LEFT[command]
    else:
        assert left or " plan " in command


def test_every_difference_that_is_tested_still_stands_on_the_page() -> None:
    assert len(COMMANDS) > 20
    assert set(LEFT) <= set(COMMANDS)


def test_the_targets_of_make_that_it_names_are_there() -> None:
    targets = {span.removeprefix("make ") for span in TYPED if span.startswith("make ")}
    assert targets == {"venvs", "emulators", "emulators-down", "images"}
    makefile = (PROJECT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_its_links_lead_somewhere() -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", PAGE):
        text = (PROJECT / "docs" / target).read_text() if target else PAGE
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{target}#{anchor}"


def test_a_port_of_the_page_is_a_port_of_the_emulators() -> None:
    assert {int(port) for port in re.findall(r"http://localhost:(\d+)", PAGE)} <= {8333, Ports().gcs, Ports().hub}
