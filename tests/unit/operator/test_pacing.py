"""Progress is written at most every ten seconds a fetch, and twenty times a second in all."""

from datafetch_api.resource import Phase
from datafetch_operator.observation import Key
from datafetch_operator.pacing import Pace


def test_progress_is_due_at_first_and_then_every_ten_seconds() -> None:
    now = 0.0
    pace, key = Pace(lambda: now), Key("team", "a")
    assert pace.is_due(key)
    pace.note_write(key)
    assert not pace.is_due(key)
    now = 9.9
    assert pace.is_due(key)


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
