"""The Python API without a network: what URIs and options mean, and the life of a task."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import types
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import datafetch
from datafetch import notebook
from datafetch.api import item_for
from datafetch.errors import (
    DataFetchError,
    InternalError,
    InterruptedByRequestError,
    InvalidConfigError,
    SourceNotFoundError,
    StillRunningError,
)
from datafetch.task import FetchProgress, FetchStatus, FetchTask
from unit.downloader.memory_source import MemoryBucket, in_place, wait_until

CONTENTS = {"a.bin": os.urandom(300_000), "sub/b.bin": os.urandom(20_000)}
ROOT = Path(__file__).parents[3]


class Gate:
    """A bucket whose bytes wait until a test lets them pass."""

    def __init__(self, contents: dict[str, bytes] = CONTENTS) -> None:
        self.bucket = MemoryBucket.of(contents)
        self.open = threading.Event()
        self.reached = threading.Event()
        self.bucket.before_read = self._before_read

    def _before_read(self, key: str, position: int) -> None:
        self.reached.set()
        assert self.open.wait(20)

    def task(self, directory: Path) -> FetchTask:
        return FetchTask(in_place(str(directory)), "memory://bucket", opener=self.bucket.opener)


def open_task(directory: Path, contents: dict[str, bytes] = CONTENTS) -> FetchTask:
    gate = Gate(contents)
    gate.open.set()
    return gate.task(directory)


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and ".datafetch" not in path.parts)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


# --- what is exported ------------------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    for name in datafetch.__all__:
        assert getattr(datafetch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fetsch'"):
        _ = datafetch.fetsch


def test_neither_the_package_nor_a_source_that_is_not_used_imports_an_sdk() -> None:
    code = (
        "import sys, datafetch; assert 'datafetch.api' not in sys.modules; "
        "datafetch.source('s3://b/p/'); datafetch.fetch('gs://b/p/', 'd'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"botocore", "google.cloud", "azure", "huggingface_hub", "rich", "IPython"} & set(done.stdout.split())


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert {"datafetch/py.typed", "datafetch_api/py.typed", "datafetch/ingest.py"} <= set(names)


# --- what URIs and options mean --------------------------------------------------------------------------------------


def test_any_key_of_the_config_item_is_a_keyword() -> None:
    item = item_for("s3://b/p/", include=["*.csv"], profile="research", requester_pays=True, unpack=True, manifest="m")

    assert item.type == "s3"
    assert (item.profile, item.requester_pays, item.manifest) == ("research", True, "m")
    assert item.unpack is not None
    assert item.items[0].items[0].include == ("*.csv",)


def test_a_version_pins_the_one_object_of_the_uri() -> None:
    selection = item_for("s3://b/models/m.bin", version_id="3HL4").items[0].items[0]  # type: ignore[union-attr]

    assert (selection.path, selection.match, selection.version_id) == ("models/m.bin", "object", "3HL4")


@pytest.mark.parametrize(
    ("uri", "options", "sentence"),
    [
        ("ftp://host/file", {}, "'ftp://host/file' is not a source"),
        ("hf://org/name", {"region": "eu-west-1"}, "region means nothing to a hf:// source"),
        ("s3://b/p/", {"regoin": "eu-west-1"}, "regoin means nothing to a s3:// source"),
        ("s3://b/p/", {"items": []}, "items means nothing"),
        ("s3://b/p/", {"addressing_style": "sideways"}, "addressing_style: "),
        ("s3://b/p/", {"version_id": "x"}, "version_id is of one object"),
        ("gs://b/p", {"version_id": "x"}, "version_id means nothing to a gs:// source"),
        ("s3://b/p/", {"access_key_id_file": "k"}, "belong together"),
        ("https://host/file?sig=s3cret-s3cret", {"include": ["*"]}, "'https://host/file' is one file"),
    ],
)
def test_an_option_that_cannot_work_is_refused_in_one_sentence(
    uri: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfigError) as from_source:
        datafetch.source(uri, **options)
    with pytest.raises(InvalidConfigError) as from_fetch:
        datafetch.fetch(uri, tmp_path, **options)

    assert sentence in str(from_source.value)
    assert str(from_source.value) == str(from_fetch.value)
    assert "s3cret" not in str(from_source.value)


def test_a_setting_of_the_transfer_is_a_keyword_too(tmp_path: Path) -> None:
    datafetch.fetch("s3://b/p/", tmp_path, verify="Full", bandwidth_limit=1_000_000)
    with pytest.raises(InvalidConfigError, match="verify"):
        datafetch.fetch("s3://b/p/", tmp_path, verify="perhaps")


def test_a_source_says_what_it_is_without_secrets() -> None:
    url = "https://host/file.bin?X-Amz-Signature=s3cret"
    s3 = datafetch.source("s3://b/p/", endpoint_url="http://u:s3cret@localhost:9000", region="r", include=["*.csv"])

    assert repr(datafetch.source(url)) == "<datafetch.RemoteSource 'https://host/file.bin'>"
    assert repr(s3) == "<datafetch.RemoteSource 's3://b/p/', at http://localhost:9000, region r, include ('*.csv',)>"
    assert "s3cret" not in repr(datafetch.fetch(url, "d"))


def test_a_source_can_be_pickled() -> None:
    source = datafetch.source("s3://b/p/", region="eu-west-1", exclude=["*.tmp"], anonymous=True)

    assert repr(pickle.loads(pickle.dumps(source))) == repr(source)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_run_brings_everything_and_returns_what_it_left(tmp_path: Path) -> None:
    task = open_task(tmp_path)

    assert str(task.status) == "Pending"
    assert task.result is None
    outcome = task.run()
    assert tree(tmp_path) == CONTENTS
    assert (outcome.files, outcome.bytes) == (2, 320_000)
    assert str(task.status) == "Completed"
    assert task.result is outcome
    assert task.error is None
    assert (task.progress.percent, task.progress.files, task.progress.bytes) == (100, 2, 320_000)


def test_start_does_not_block_and_progress_says_how_far_it_is(tmp_path: Path) -> None:
    gate = Gate()
    task = gate.task(tmp_path).start()
    assert gate.reached.wait(10)

    wait_until(lambda: task.progress.total_bytes == 320_000)
    assert (task.status, task.progress.percent, task.progress.total_files) == (FetchStatus.RUNNING, 0, 2)
    assert task.start() is task, "starting what runs changes nothing"
    gate.open.set()
    assert task.wait().files == 2
    assert len(gate.bucket.requests) == 2


def test_progress_is_a_value(tmp_path: Path) -> None:
    task = open_task(tmp_path)
    before = task.progress
    task.run()

    assert before.bytes == 0
    with pytest.raises(AttributeError):
        before.bytes = 1  # type: ignore[misc]  # what the test is about


def test_waiting_for_too_short_a_time_raises_and_the_fetch_goes_on(tmp_path: Path) -> None:
    gate = Gate()
    task = gate.task(tmp_path).start()
    seen: list[FetchProgress] = []
    with pytest.raises(StillRunningError, match=r"has not ended within 0\.2 s .* it goes on") as raised:
        task.wait(poll_interval=0.05, timeout=timedelta(seconds=0.2), on_progress=seen.append)

    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, DataFetchError)
    assert len(seen) >= 2
    gate.open.set()
    assert task.wait(timeout=10).files == 2


def test_waiting_for_what_was_never_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="not started"):
        open_task(tmp_path).wait()


def test_a_cancelled_fetch_publishes_nothing_and_goes_on_from_there(tmp_path: Path) -> None:
    contents = {"big.bin": os.urandom(40 << 20)}
    bucket = MemoryBucket.of(contents)
    task = FetchTask(in_place(str(tmp_path)), "memory://bucket", opener=bucket.opener)
    bucket.before_read = lambda key, position: task.cancel() if position > 4 << 20 else None
    with pytest.raises(InterruptedByRequestError, match="what was fetched is kept"):
        task.run()

    assert task.status is FetchStatus.CANCELLED
    assert tree(tmp_path) == {}
    served, bucket.before_read = bucket.served, lambda key, position: None
    task.run()
    assert tree(tmp_path) == contents
    assert bucket.served < served + (40 << 20), "parts were taken up"


def test_a_run_whose_time_is_over_ends_the_fetch(tmp_path: Path) -> None:
    gate = Gate()
    task = gate.task(tmp_path)
    threading.Timer(0.5, gate.open.set).start()
    with pytest.raises(StillRunningError, match="was cancelled; what came is kept"):
        task.run(timeout=0.3)

    wait_until(lambda: task.status is not FetchStatus.RUNNING)
    assert task.status is FetchStatus.CANCELLED


def test_what_a_fetch_ends_with_is_raised_to_who_waits(tmp_path: Path) -> None:
    task = open_task(tmp_path, {})
    gone = SourceNotFoundError("nothing is there")

    def refuse(item: object, stall_timeout: float) -> Any:
        raise gone

    task = FetchTask(in_place(str(tmp_path)), "memory://bucket", opener=refuse)
    with pytest.raises(SourceNotFoundError, match="nothing is there"):
        task.run()
    assert (task.status, task.error) == (FetchStatus.FAILED, gone)


def test_a_defect_comes_as_an_error_of_the_tree_with_its_cause(tmp_path: Path) -> None:
    def fail(item: object, stall_timeout: float) -> Any:
        raise ZeroDivisionError("by zero")

    with pytest.raises(InternalError, match="ZeroDivisionError: by zero") as raised:
        FetchTask(in_place(str(tmp_path)), "memory://bucket", opener=fail).run()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_task_can_be_awaited_beside_another(tmp_path: Path) -> None:
    async def both() -> tuple[datafetch.FetchOutcome, datafetch.FetchOutcome]:
        return await asyncio.gather(open_task(tmp_path / "one"), open_task(tmp_path / "two"))

    assert [outcome.files for outcome in asyncio.run(both())] == [2, 2]
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == CONTENTS


def test_cancelling_who_awaits_cancels_the_fetch_and_keeps_what_came(tmp_path: Path) -> None:
    gate = Gate()
    task = gate.task(tmp_path)

    async def give_up() -> None:
        waiting = asyncio.ensure_future(task)
        await asyncio.to_thread(gate.reached.wait, 10)
        waiting.cancel()
        await asyncio.sleep(0.1)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    assert task.status is FetchStatus.CANCELLED, "the fetch has ended when the waiting has"
    assert tree(tmp_path) == {}
    assert task.run().files == 2


def test_asyncio_s_timeout_ends_the_fetch(tmp_path: Path) -> None:
    gate = Gate()
    task = gate.task(tmp_path)
    threading.Timer(0.6, gate.open.set).start()

    async def hurry() -> None:
        async with asyncio.timeout(0.3):
            await task

    with pytest.raises(TimeoutError):
        asyncio.run(hurry())
    assert task.status is FetchStatus.CANCELLED


# --- how it is shown -------------------------------------------------------------------------------------------------


def test_a_notebook_shows_a_task_as_html_without_markup_of_others(tmp_path: Path) -> None:
    task = FetchTask(in_place(str(tmp_path / "<b>")), "memory://<script>", opener=Gate().bucket.opener)
    html = task._repr_html_()

    assert '<progress max="100"></progress>' in html
    assert "memory://&lt;script&gt;" in html
    assert "&lt;b&gt;" in html
    assert "Pending" in html


def test_a_bar_is_drawn_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_task(tmp_path).run(progress=True)

    written = capsys.readouterr()
    assert written.out == ""
    assert "100%" in written.err
    assert "2/2 files" in written.err


def test_in_a_notebook_the_bar_is_one_display_that_is_drawn_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import IPython
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    published: list[tuple[dict[str, Any], bool]] = []

    class Publisher(DisplayPublisher):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # IPython has no types here

        def publish(self, data: dict[str, Any], *args: Any, update: bool = False, **more: Any) -> None:
            published.append((data, update))

    class ZMQInteractiveShell(InteractiveShell):
        """What Jupyter's kernel calls its shell."""

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = ZMQInteractiveShell.instance(history_length=0)
    try:
        shell.display_pub = Publisher()
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
        assert notebook.is_notebook()
        open_task(tmp_path / "data").run(progress=True)
    finally:
        if shell.history_manager is not None:
            shell.history_manager.end_session()
        ZMQInteractiveShell.clear_instance()

    (first, updated), *_, (last, updated_last) = published
    assert (updated, updated_last) == (False, True)
    assert "<progress" in first["text/html"]
    assert 'value="100"' in last["text/html"]
    assert "Completed" in last["text/html"]


def test_a_shell_on_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminalInteractiveShell:
        pass

    stand_in = types.ModuleType("IPython")
    for shell in (None, TerminalInteractiveShell()):
        stand_in.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", stand_in)
        assert not notebook.is_notebook()
