"""Progress is written at most every ten seconds a fetch, and twenty times a second in all."""

from datafetch_api.resource import Phase
from datafetch_operator.observation import Key
from datafetch_operator.pacing import Pace


def test_progress_is_due_every_ten_seconds() -> None:
    now = 0.0
    pace, key = Pace(lambda: now), Key("team", "a")
    pace.note_write(key)
    assert not pace.is_due(key)
    now = 9.9
    assert pace.is_due(key)


def test_the_pods_that_ask_are_written_at_once_and_then_every_ten_seconds() -> None:
    now = 0.0
    pace, key = Pace(lambda: now), Key("team", "a")
    assert pace.consumers_wait(key) == 0
    pace.note_consumers_write(key)
    now = 4.0
    assert pace.consumers_wait(key) == 6
    now = 10.0
    assert pace.is_due(key), "progress has a pace of its own"
    assert pace.consumers_wait(key) == 0
    pace.note_phase(key, None)
    now = 0.0
    assert pace.consumers_wait(key) == 0, "what is gone is forgotten"


def test_every_log_that_is_read_counts_for_the_pace() -> None:
    pace = Pace()
    for number in range(20):
        pace.note_pods_read(Key("team", f"recipe-{number}"), 20)
    assert pace.interval == 20
    for number in range(20):
        pace.note_pods_read(Key("team", f"recipe-{number}"), 0)
    assert pace.interval == 10


def test_the_pace_falls_as_active_fetches_grow() -> None:
    pace = Pace()
    for number in range(400):
        pace.note_phase(Key("team", f"ready-{number}"), Phase.READY)
    assert pace.interval == 10
    for number in range(400):
        pace.note_phase(Key("team", f"active-{number}"), Phase.FETCHING)
    assert pace.interval == 20
    for number in range(400):
        pace.note_phase(Key("team", f"active-{number}"), None)
    assert pace.interval == 10


def test_after_a_restart_none_is_due_at_once_and_then_one_after_the_other() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    keys = [Key("team", str(number)) for number in range(1000)]

    def due() -> list[Key]:
        found = [key for key in keys if pace.is_due(key)]
        for key in found:
            pace.note_write(key)
        return found

    assert due() == [], "a process before this one may have written just now"
    now = 110.0
    assert due() == keys[:20]
    now = 110.5
    assert due() == keys[20:30]
    now = 115.0
    assert due()[-20:] == keys[30:50], "what was not used is not saved up"
