"""The layer itself: what a program sees of a disk that fails, and what the layer sees of the program."""

import errno
import random
import sys
from pathlib import Path

import pytest

from component.faulty_disk import Disk, Fail, PowerOff, Rule, Short, healthy
from component.platter import Mood, Platter
from component.small_fetch import in_memory

BOOT = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


def run(disk: Disk, program: str) -> tuple[int, str]:
    """Run a program in the volume; return its exit code and what it printed."""
    here = f"import os\nos.chdir({str(disk.volume)!r})\n"
    done = disk.run([sys.executable, "-c", here + program], home=disk.volume.parent)
    return done.code, done.stdout + done.stderr


def at(kind: str, nth: int, verdict: Fail | Short | PowerOff) -> Rule:
    return lambda call: verdict if (call.kind, call.nth) == (kind, nth) else None


def test_a_call_fails_once_and_is_not_carried_out(volume: Path) -> None:
    program = "for name in 'abc':\n try: os.mkdir(name)\n except OSError as error: print(error.errno)"
    assert run(Disk(volume, at("mkdir", 2, Fail(errno.EDQUOT))), program) == (0, f"{errno.EDQUOT}\n")
    assert sorted(path.name for path in volume.iterdir()) == ["a", "c"]


def test_a_short_write_takes_the_first_bytes_and_moves_on(volume: Path) -> None:
    program = (
        "f = os.open('f', os.O_CREAT | os.O_RDWR)\n"
        "print(os.write(f, b'abcdef'), os.write(f, b'x'), os.pwrite(f, b'yz', 6))"
    )
    disk = Disk(volume, lambda call: Short(2) if call.kind == "write" and call.nth == 1 else None)
    assert run(disk, program) == (0, "2 1 2\n")
    assert (volume / "f").read_bytes() == b"abx\0\0\0yz"


def test_libraries_below_the_interpreter_are_seen_too(volume: Path) -> None:
    program = "import sqlite3\nc = sqlite3.connect('db')\nc.execute('create table t(x)')\nc.commit()"
    code, said = run(Disk(volume, at("write", 1, Fail(errno.ENOSPC))), program)
    assert (code, "database or disk is full" in said) == (1, True)


def test_every_change_is_recorded_in_order_with_its_result(volume: Path) -> None:
    program = (
        "os.mkdir('d')\nd = os.open('d', os.O_RDONLY)\nf = os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=d)\n"
        "os.write(f, b'abc')\nos.fsync(f)\nos.rename('new', 'name', src_dir_fd=d, dst_dir_fd=d)\n"
        "try: os.rmdir('d')\nexcept OSError: pass\nopen('/dev/null', 'w').write('not on the volume')"
    )
    disk = Disk(volume)
    assert run(disk, program) == (0, "")
    assert [(call.name, call.path, call.to, call.result) for call in disk.calls] == [
        ("mkdir", "d", None, 0),
        ("openat", "d/new", None, 0),
        ("write", "d/new", None, 0),
        ("fsync", "d/new", None, 0),
        ("renameat", "d/new", "d/name", 0),
        ("rmdir", "d", None, -errno.ENOTEMPTY),
    ]


def test_the_program_ends_before_the_call_at_which_the_power_goes(volume: Path) -> None:
    code, _said = run(Disk(volume, at("mkdir", 2, PowerOff())), "os.mkdir('a'); os.mkdir('b'); os.mkdir('c')")
    assert code == -9
    assert [path.name for path in volume.iterdir()] == ["a"]


def test_a_program_can_be_shown_another_boot(volume: Path) -> None:
    program = f"print(open({BOOT!r}).read(), end='')"
    assert run(Disk(volume, boot_id="another"), program) == (0, "another\n")
    assert run(Disk(volume), program) == (0, Path(BOOT).read_text())


WRITES_TWO_AND_FLUSHES_ONE = """
for name in ("flushed", "lost"):
    f = os.open(name, os.O_CREAT | os.O_WRONLY)
    os.write(f, b"x" * 10)
    if name == "flushed":
        os.fsync(f)
        d = os.open(".", os.O_RDONLY)
        os.fsync(d)
"""


@pytest.mark.parametrize(
    ("mood", "found"),
    [(Mood.NOTHING, {"flushed": b"x" * 10}), (Mood.NAMES, {"flushed": b"x" * 10, "lost": bytes(10)})],
)
def test_what_was_flushed_outlives_a_loss_of_power_and_nothing_else_need(mood: Mood, found: dict[str, bytes]) -> None:
    with in_memory() as directory:
        volume = directory / "volume"
        volume.mkdir()
        platter = Platter(volume)
        assert run(Disk(volume, healthy, platter.after), WRITES_TWO_AND_FLUSHES_ONE) == (0, "")
        platter.lose_power(mood, random.Random(1))
        assert {path.name: path.read_bytes() for path in volume.iterdir()} == found


REPLACES_A_FILE = """
f = os.open("new", os.O_CREAT | os.O_WRONLY)
os.write(f, b"new")
os.fsync(f)
os.rename("new", "name")
"""


def test_a_rename_that_was_not_flushed_leaves_the_old_content_or_the_new() -> None:
    seen = set()
    for seed in range(8):
        with in_memory() as directory:
            volume = directory / "volume"
            volume.mkdir()
            (volume / "name").write_bytes(b"old")
            platter = Platter(volume)
            assert run(Disk(volume, healthy, platter.after), REPLACES_A_FILE) == (0, "")
            platter.lose_power(Mood.CHANCE, random.Random(seed))
            seen.add((volume / "name").read_bytes())
    assert seen == {b"old", b"new"}
