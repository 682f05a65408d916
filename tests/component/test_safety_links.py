"""Links and other traps planted on the volume, before a fetch and during one: never followed out of the target.

Every trap is laid on a volume that an earlier fetch has filled; then the source has changed and is fetched again. It
ends with exactly the source's files, all of them real ones, or with TargetOccupied; around the target nothing changes.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from component.commands import datafetch, environment
from datafetch.errors import DataFetchError, InterruptedByRequestError, TargetOccupiedError
from datafetch_api.config import DownloadConfig
from servers.http import StaticServer
from unit.downloader.canary import Canary
from unit.downloader.memory_source import Fetch, MemoryBucket, in_place, managed
from unit.downloader.tree import tree

FIRST = {
    "top.txt": b"1" * 20,
    "same.txt": b"same",
    "dir/a.txt": b"a" * 30,
    "dir/deep/b.txt": b"b" * 40,
    "old/o.txt": b"o",
}
SECOND = {
    "top.txt": b"2" * 20,
    "same.txt": b"same",
    "dir/a.txt": b"A" * 30,
    "dir/deep/b.txt": b"B" * 41,
    "new/n.txt": b"n",
}


@dataclass(frozen=True)
class Scene:
    """A filled target with surroundings."""

    layout: str
    canary: Canary

    @property
    def volume(self) -> Path:
        return self.canary.volume

    @property
    def target(self) -> Path:
        return self.volume / ("team/model" if self.layout == "managed" else "model")

    @property
    def state(self) -> Path:
        return self.volume / ("team/.datafetch/model" if self.layout == "managed" else "model/.datafetch")

    @property
    def stolen(self) -> Path:
        """Where things lie that were moved away and are linked to."""
        return self.canary.base / "stolen"

    def config(self) -> DownloadConfig:
        if self.layout == "managed":
            long_ago = "2100-01-01T00:00:00Z"
            return managed(str(self.volume), keep_revisions=0, prune_replaced_before=long_ago)
        return in_place(str(self.target))

    def fetch(self, contents: dict[str, bytes]) -> None:
        Fetch(MemoryBucket.of(dict(contents)), self.config()).run()

    def fetch_again_safely(self) -> DataFetchError | None:
        """Fetch what the source has now; nothing around changes, and it ends in one of the two ways."""
        canary = self.canary.as_it_is_now()
        error = None
        try:
            self.fetch(SECOND)
        except TargetOccupiedError as refused:
            error = refused
        assert canary.is_untouched()
        if error is None:
            found = {name: (self.target / name).read_bytes() for name in SECOND}
            assert found == SECOND
            assert not any(is_by_a_link(self.target, name) for name in SECOND), "real files in real directories"
        else:
            assert error.code == 19
        return error


def is_by_a_link(root: Path, name: str) -> bool:
    path = root / name
    return path.is_symlink() or any(parent.is_symlink() for parent in path.parents if root in parent.parents)


@pytest.fixture(params=["managed", "in place"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    made = Scene(str(request.param), Canary.around(tmp_path / "base"))
    made.fetch(FIRST)
    assert tree(made.target) == FIRST
    return made


def everything_on(scene: Scene) -> list[str]:
    """Every name on the volume, and those that only a fetch in progress has."""
    found = [str(path.relative_to(scene.volume)) for path in scene.volume.rglob("*")]
    made = ["lock", "epochs/2", "epochs/2/journal", "epochs/2/tree", "epochs/2/tree/top.txt", "link", "plan"]
    state = str(scene.state.relative_to(scene.volume))
    target = str(scene.target.relative_to(scene.volume))
    return sorted(
        {*found, *(f"{state}/{name}" for name in made), f"{target}/new"} - {target if target == "model" else ""}
    )


def steal(scene: Scene, name: str) -> None:
    """Move what has this name out of the volume, and leave a link to it."""
    path = scene.volume / name
    goal = scene.stolen / name
    goal.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        os.rename(path, goal)
    elif path.suffix or path.name in ("lock", "journal"):
        goal.write_bytes(b"theirs")
    else:
        goal.mkdir(exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(goal)


def dangle(scene: Scene, name: str) -> None:
    """Leave a link to nowhere outside."""
    steal(scene, name)
    path = scene.volume / name
    path.unlink()
    path.symlink_to(scene.stolen / "nowhere" / name)


def surround(scene: Scene, name: str) -> None:
    """Leave a link that leads to the directory of the surroundings."""
    steal(scene, name)
    path = scene.volume / name
    path.unlink()
    path.symlink_to(os.path.relpath(scene.canary.outside, path.parent))


@pytest.mark.parametrize("plant", [steal, dangle, surround])
def test_a_link_in_the_place_of_anything_on_the_volume_is_not_followed(
    tmp_path: Path, plant: Callable[[Scene, str], None]
) -> None:
    outcomes = {"taken": 0, "refused": 0}
    problems = []
    for layout in ("managed", "in place"):
        names = None
        number = 0
        while names is None or number < len(names):
            scene = Scene(layout, Canary.around(tmp_path / f"{layout}-{number}"))
            scene.fetch(FIRST)
            # Revisions have other names in every run: by number, not by name.
            names = everything_on(scene)
            plant(scene, names[number])
            try:
                outcomes["taken" if scene.fetch_again_safely() is None else "refused"] += 1
            except Exception as error:  # noqa: BLE001 - one report of all traps that work
                problems.append(f"{layout}: {names[number]}: {error!r}")
            number += 1
    assert not problems, "\n".join(problems)
    assert min(outcomes.values()) > 5, outcomes


def test_a_link_of_the_same_size_and_time_as_the_file_is_not_taken_for_it(scene: Scene) -> None:
    """Nothing but the kind of the file tells them apart: the fetch must look at that."""
    path = scene.target / "same.txt"
    before = path.stat()
    path.unlink()
    path.symlink_to("x" * before.st_size)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns), follow_symlinks=False)
    scene.fetch_again_safely()


def test_the_users_own_link_to_the_directory_is_followed(tmp_path: Path) -> None:
    """Of a path that the user names (`download_root`, the volume) links are the user's."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    Fetch(MemoryBucket.of(dict(FIRST)), in_place(str(tmp_path / "link"))).run()
    assert tree(tmp_path / "real") == FIRST


@pytest.mark.parametrize("escape", ["../../etc/passwd", "BASE/secret.txt", "dir/../../../etc/passwd", "../../empty"])
def test_a_forged_manifest_removes_nothing_outside(tmp_path: Path, escape: str) -> None:
    """Who can write to the volume can write manifests too: what a refresh removes is named in one."""
    scene = Scene("in place", Canary.around(tmp_path / "base"))
    scene.fetch(FIRST)
    escape = escape.replace("BASE", str(scene.canary.base))
    victim = Path(os.path.normpath(scene.target / escape))
    forge(scene, escape, victim)
    scene.fetch_again_safely()
    assert victim.exists()


def test_a_forged_manifest_lets_verify_read_nothing_outside(tmp_path: Path) -> None:
    """What lies outside is no part of the tree, whatever a manifest says, and its checksum is nobody's business."""
    scene = Scene("in place", Canary.around(tmp_path / "base"))
    scene.fetch(FIRST)
    victim = scene.canary.base / "secret.txt"
    forge(scene, "../../secret.txt", victim)
    done = datafetch("verify", scene.target, "--json", cwd=tmp_path)
    assert done.code != 0, done.stdout
    assert hashlib.sha256(victim.read_bytes()).hexdigest() not in done.stdout + done.stderr


def forge(scene: Scene, path: str, victim: Path) -> None:
    """Add a file outside to the manifest of what was published, as it is there."""
    (manifest,) = (scene.state / "manifests").iterdir()
    document = json.loads(manifest.read_bytes())
    status = victim.stat()
    entry = {"path": path, "size": status.st_size, "identity": "x", "modified": status.st_mtime_ns}
    entry["checksum"] = f"sha256:{hashlib.sha256(b'another').hexdigest()}"
    header = json.dumps({key: value for key, value in document.items() if key != "entries"})
    entries = ",\n".join(map(json.dumps, [*document["entries"], entry]))
    manifest.write_text(f'{header[:-1]}, "entries": [\n{entries}\n]}}\n')


@pytest.mark.parametrize("escape", ["../../../../../etc", "../../../../../etc/deep", "..", "../epochs", "/etc"])
def test_a_forged_revision_prunes_nothing_outside(tmp_path: Path, escape: str) -> None:
    scene = Scene("managed", Canary.around(tmp_path / "base"))
    scene.fetch(FIRST)
    (manifest,) = (scene.state / "manifests").iterdir()
    head, _, rest = manifest.read_text().partition("\n")
    header = json.loads(head.removesuffix(', "entries": [') + "}")
    forged = {**header, "revision": escape, "time": "2001-01-01T00:00:00.000+00:00"}
    (scene.state / "manifests/20010101T000000000Z-forged.json").write_text(
        json.dumps(forged)[:-1] + ', "entries": [\n' + rest
    )
    scene.fetch_again_safely()
    assert (scene.canary.outside / "deep/er/file.bin").exists()


@pytest.mark.parametrize("where", ["", "..", "../..", "../../../..", "x/y"])
def test_a_forged_link_in_the_place_of_the_marker_is_refused(tmp_path: Path, where: str) -> None:
    scene = Scene("managed", Canary.around(tmp_path / "base"))
    scene.fetch(FIRST)
    scene.target.unlink()
    scene.target.symlink_to(f".datafetch/model/revisions/{where}")
    scene.fetch_again_safely()


def test_a_half_file_that_is_a_hard_link_to_something_outside_is_not_written_to(tmp_path: Path) -> None:
    """What is resumed is opened for writing: it must be ours alone."""
    content = os.urandom(3 << 20)
    for layout in ("managed", "in place"):
        scene = Scene(layout, Canary.around(tmp_path / layout))
        fetch = Fetch(MemoryBucket.of({"big.bin": content}), scene.config())

        def stop(key: str, position: int, fetch: Fetch = fetch) -> None:
            if position >= 1 << 20:
                fetch.cancel.set()
                time.sleep(0.05)

        fetch.bucket.before_read = stop
        with pytest.raises(InterruptedByRequestError):
            fetch.run(workers=1)
        (half,) = [path for path in scene.state.rglob("big.bin") if path.is_file()]
        half.unlink()
        victim = scene.canary.base / "victim.bin"
        victim.write_bytes(bytes(len(content)))
        os.link(victim, half)
        before = victim.read_bytes()
        Fetch(MemoryBucket.of({"big.bin": content}), scene.config()).run()
        assert victim.read_bytes() == before
        assert tree(scene.target) == {"big.bin": content}


# --- during a fetch --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def swapping(paths: list[Path], outside: Path) -> Iterator[list[int]]:
    """Put links to a directory outside in the place of directories, and take them away again, as fast as it goes."""
    stop, swaps = threading.Event(), [0]

    def swap() -> None:
        while not stop.is_set():
            for path in paths:
                away = path.with_name(path.name + ".away")
                with contextlib.suppress(OSError):
                    os.rename(path, away)
                    os.symlink(outside, path)
                    swaps[0] += 1
                with contextlib.suppress(OSError):
                    if path.is_symlink():
                        path.unlink()
                    os.rename(away, path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield swaps
    finally:
        stop.set()
        thread.join()


def test_links_that_come_and_go_during_a_fetch_lead_nowhere(scene: Scene) -> None:
    outside = scene.canary.outside
    for name in FIRST:
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(b"theirs")
    canary = scene.canary.as_it_is_now()
    in_target = [scene.target / "dir", scene.target / "dir/deep", scene.target / "old"]
    in_state = [scene.state / "epochs", scene.state / "manifests", *(scene.state / "epochs").glob("*")]
    endings = []
    with swapping([*in_target, *in_state], outside) as swaps:
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            contents = {name: os.urandom(2000) for name in (*FIRST, *(f"dir/deep/{number}" for number in range(20)))}
            fetch = Fetch(MemoryBucket.of(contents), scene.config())
            # A lock that was left where the links led is waited for otherwise.
            patience = threading.Timer(0.5, fetch.cancel.set)
            patience.start()
            try:
                fetch.run()
                endings.append(0)
            except (DataFetchError, OSError) as error:
                endings.append(getattr(error, "code", 1))
            finally:
                patience.cancel()
    assert canary.is_untouched()
    assert swaps[0] > 50
    assert len(endings) > 3


# --- other things than links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lock", "manifests", "epochs", "top.txt", "dir"])
def test_a_pipe_in_the_place_of_a_name_does_not_hold_the_fetch_up(tmp_path: Path, name: str) -> None:
    """Opening a named pipe waits for somebody at its other end, who will not come."""
    with StaticServer() as server:
        server.put("/top.txt", b"new")
        server.put("/a.txt", b"a")
        root = tmp_path / "data"
        (root / ".datafetch").mkdir(parents=True)
        os.mkfifo(root / name if name in ("top.txt", "dir") else root / ".datafetch" / name)
        urls = f"{{url: '{server.url}/top.txt'}}, {{url: '{server.url}/a.txt', target_path: dir/a.txt}}"
        config = f"download_root: {root}\ndownload_items: [{{type: http, name: web, items: [{urls}]}}]\n"
        done = subprocess.run(
            [sys.executable, "-m", "datafetch", "run", "-"],
            input=config,
            env=environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=6,
            check=False,
        )
    assert done.returncode in (0, 19), done.stderr
    if done.returncode == 0:
        assert tree(root) == {"top.txt": b"new", "dir/a.txt": b"a"}
