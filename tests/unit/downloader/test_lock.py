"""Who may write to a target: waits, takeovers, and holders that wake up too late."""

import threading
import time
from pathlib import Path

import pytest

from datafetch.errors import InterruptedByRequestError
from datafetch.sink import FencedError, TargetLock
from datafetch.sink.directory import Directory
from datafetch.sink.lock import LOCK, Holder


def held(state: Directory, still_seconds: float = 30.0) -> TargetLock:
    lock = TargetLock(state, still_seconds=still_seconds, heartbeat_seconds=0.1)
    lock.acquire(threading.Event(), lambda message: None)
    return lock


@pytest.fixture
def state(tmp_path: Path) -> Directory:
    return Directory.open(str(tmp_path))


def of_another_machine(state: Directory) -> None:
    """Let the lock be of a process that we cannot see."""
    holder = Holder("token", 7, "other-node", "another-boot", "pid:[1]", 1)
    state.write_atomically(LOCK, iter([holder.to_bytes()]))


def test_a_released_lock_is_taken_at_once(state: Directory) -> None:
    first = held(state)
    first.release()
    second = held(state)
    assert second.epoch == first.epoch + 1
    second.release()
    assert state.read(LOCK) is None


def test_a_living_holder_is_waited_for(state: Directory) -> None:
    first = held(state)
    told: list[str] = []
    cancel = threading.Event()
    second = TargetLock(state, still_seconds=1.0, heartbeat_seconds=0.1)

    def wait() -> None:
        with pytest.raises(InterruptedByRequestError):
            second.acquire(cancel, told.append)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(2.5)
    assert second.epoch == 0
    assert "another process" in told[0]
    cancel.set()
    waiter.join(5)
    first.release()


def test_who_waits_is_asked_once_a_holder_has_gone_whether_that_is_still_needed(state: Directory) -> None:
    first = held(state)
    asked: list[float] = []

    def unneeded() -> bool:
        asked.append(time.monotonic())
        return True

    second = TargetLock(Directory.open(state.path))
    threading.Timer(1.5, first.release).start()
    started = time.monotonic()
    assert not second.acquire(threading.Event(), lambda message: None, unneeded)
    assert len(asked) == 1, "not at each beat of the holder's"
    assert asked[0] - started >= 1.5
    assert second.epoch == 0
    assert state.read(LOCK) is None


def test_a_lock_that_stands_still_is_taken_over(state: Directory) -> None:
    of_another_machine(state)
    started = time.monotonic()
    lock = held(state, still_seconds=1.0)
    assert time.monotonic() - started >= 1.0
    lock.check()
    lock.release()


def test_the_lock_of_a_process_that_died_here_is_taken_at_once(state: Directory) -> None:
    here = Holder.here()
    dead = Holder("token", 7, here.host, here.boot, here.process_namespace, 2**22 - 1)
    state.write_atomically(LOCK, iter([dead.to_bytes()]))
    started = time.monotonic()
    held(state, still_seconds=30.0).release()
    assert time.monotonic() - started < 5.0


def test_a_torn_lock_is_taken_over(state: Directory) -> None:
    state.write_atomically(LOCK, iter([b'{"token": "a']))
    held(state, still_seconds=0.5).release()


def test_a_holder_that_was_taken_over_is_fenced(state: Directory) -> None:
    paused = held(state)
    # The paused holder's own heartbeat must not hide the takeover: it checks its epoch before every beat.
    state.make("epochs/2")
    of_another_machine(state)
    with pytest.raises(FencedError):
        paused.check()
    content = state.read(LOCK)
    time.sleep(0.5)
    assert state.read(LOCK) == content
    paused.release()
    assert state.read(LOCK) == content


def test_a_holder_whose_epoch_is_gone_is_fenced(state: Directory) -> None:
    paused = held(state)
    state.remove_tree("epochs/1")
    with pytest.raises(FencedError):
        paused.check()


def test_of_many_that_come_at_once_one_holds_the_lock(state: Directory) -> None:
    of_another_machine(state)
    holders: list[int] = []
    most = 0
    guard = threading.Lock()

    def contend() -> None:
        nonlocal most
        lock = TargetLock(Directory.open(state.path), still_seconds=1.0, heartbeat_seconds=0.1)
        lock.acquire(threading.Event(), lambda message: None)
        with guard:
            holders.append(lock.epoch)
            most = max(most, len(holders))
        time.sleep(0.05)
        with guard:
            holders.remove(lock.epoch)
        lock.release()

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert state.read(LOCK) is None
