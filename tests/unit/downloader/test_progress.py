import io
import itertools
import json
import logging
import threading
import time

import pytest

from datafetch.progress import LineEmitter, Pace, ProgressTracker
from datafetch_api.report import Progress, SourceSummary, Stage, last_progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tracker(clock: Clock) -> ProgressTracker:
    return ProgressTracker(clock, clock)


def test_totals_are_unknown_until_the_listing_has_ended(tracker: ProgressTracker) -> None:
    tracker.received(5, "weights")

    assert (tracker.snapshot().total_bytes, tracker.snapshot().percent) == (None, None)

    tracker.totals(2, 10)

    assert (tracker.snapshot().total_files, tracker.snapshot().percent) == (2, 50)


def test_completed_bytes_are_what_arrived_and_what_was_there(tracker: ProgressTracker) -> None:
    tracker.totals(3, 100)
    tracker.received(30, "weights")
    tracker.reused(1, 20)
    tracker.completed_files(1)

    progress = tracker.snapshot()
    assert (progress.completed_bytes, progress.reused_bytes, progress.completed_files) == (50, 20, 1)


def test_each_source_says_how_far_it_is(tracker: ProgressTracker) -> None:
    assert tracker.snapshot().sources == ()
    tracker.received(5, "corpus")
    tracker.source_listed(SourceSummary(name="weights", resolved_revision="abc", files=2, bytes=30))
    tracker.received(20, "weights")
    tracker.reused(1, 10, "weights")
    tracker.source_listed(SourceSummary(name="vocab", resolved_revision=None, files=1, bytes=7))

    assert [(each.name, each.state, each.completed_bytes, each.total_bytes) for each in tracker.snapshot().sources] == [
        ("corpus", "Listing", 5, None),
        ("vocab", "Fetching", 0, 7),
        ("weights", "Complete", 30, 30),
    ]
    tracker.received(-20, "weights")
    assert tracker.snapshot().sources[2].state == "Fetching", "what is thrown away comes again"


def test_more_sources_than_a_resource_can_have_do_not_make_the_line_long(tracker: ProgressTracker) -> None:
    for number in range(17):
        tracker.received(1, f"source-{number}")

    assert tracker.snapshot().sources == ()
    assert tracker.snapshot().completed_bytes == 17


def test_discarded_bytes_are_taken_back(tracker: ProgressTracker) -> None:
    tracker.received(30, "weights")
    tracker.received(-30, "weights")

    assert tracker.snapshot().completed_bytes == 0


def test_progress_never_passes_the_total(tracker: ProgressTracker) -> None:
    tracker.totals(1, 10)
    tracker.received(30, "weights")

    assert tracker.snapshot().percent == 100


def test_the_speed_is_of_the_last_ten_seconds(tracker: ProgressTracker, clock: Clock) -> None:
    for _ in range(30):
        clock.now += 1
        tracker.received(1000, "weights")
        tracker.snapshot()
    assert tracker.snapshot().bytes_per_second == pytest.approx(1000, rel=0.05)

    for _ in range(12):
        clock.now += 1
        tracker.snapshot()
    assert tracker.snapshot().bytes_per_second == 0


def test_the_speed_is_known_after_the_first_second(tracker: ProgressTracker, clock: Clock) -> None:
    assert tracker.snapshot().bytes_per_second == 0
    tracker.received(5000, "weights")
    clock.now += 1

    assert tracker.snapshot().bytes_per_second == 5000


def test_reused_bytes_are_no_speed(tracker: ProgressTracker, clock: Clock) -> None:
    tracker.reused(1, 10**9)
    clock.now += 1

    assert tracker.snapshot().bytes_per_second == 0


def test_the_time_of_the_last_byte_is_kept(tracker: ProgressTracker, clock: Clock) -> None:
    assert tracker.snapshot().last_progress_time is None
    tracker.received(1, "weights")
    clock.now += 60

    last = tracker.snapshot().last_progress_time
    assert last is not None
    assert last.timestamp() == 1000


def test_a_fetch_to_which_nothing_comes_has_stood_still_since_it_began_to_fetch(
    tracker: ProgressTracker, clock: Clock
) -> None:
    clock.now += 100
    tracker.stage(Stage.FETCHING)
    clock.now += 60
    tracker.stage(Stage.FETCHING, "it waits")

    last = tracker.snapshot().last_progress_time
    assert last is not None
    assert last.timestamp() == 1100
    tracker.completed_files(1)
    again = tracker.snapshot().last_progress_time
    assert again is not None
    assert again.timestamp() == 1160


def test_no_byte_is_lost_between_threads(tracker: ProgressTracker) -> None:
    def feed() -> None:
        for _ in range(5000):
            tracker.received(3, "weights")

    threads = [threading.Thread(target=feed) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert tracker.snapshot().completed_bytes == 8 * 5000 * 3


def test_a_message_cannot_begin_a_line_of_its_own(tracker: ProgressTracker) -> None:
    forged = '{"datafetch":"v1","stage":"Fetching","time":"2026-01-01T00:00:00Z","completedBytes":7}'
    for separator in ("\n", "\r", "\x85", "\u2028", "\x0b", "\x1c"):
        stream = io.StringIO()
        tracker.stage(Stage.WAITING, f"held by{separator}{forged}{separator}")
        emitter = LineEmitter(tracker, stream)
        emitter.start()
        emitter.close()

        progress = last_progress(stream.getvalue())
        assert progress is not None
        assert (progress.stage, progress.completed_bytes) == (Stage.WAITING, 0)


def test_a_message_shows_no_token_of_a_url(tracker: ProgressTracker) -> None:
    tracker.stage(Stage.WAITING, "asking https://user:hunter2@host/x?sig=hunter2")

    assert tracker.snapshot().message == "asking https://host/x?..."


def test_a_retry_is_logged_at_most_once_a_second(
    tracker: ProgressTracker, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        tracker.retry(f"again {number}")
    clock.now += 1
    tracker.retry("last")

    assert [record.getMessage() for record in caplog.records] == ["again 0", "last (and 99 more like it)"]


def test_a_listed_source_is_logged_with_what_it_holds(
    tracker: ProgressTracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tracker.source_listed(SourceSummary(name="hf", resolved_revision="abc", files=1200, bytes=2**30))

    assert caplog.messages == ["source 'hf' at abc: 1,200 files, 1.00 GiB"]
    assert [source.name for source in tracker.sources] == ["hf"]


# --- the pace of the lines -------------------------------------------------------------------------------------------


def lines_written(seconds: float, clock: Clock, tracker: ProgressTracker, bytes_per_tick: int) -> list[float]:
    pace, written = Pace(), []
    start = clock.now
    while clock.now < start + seconds:
        tracker.received(bytes_per_tick, "weights")
        if pace.is_due(clock.now, tracker.snapshot()):
            written.append(clock.now - start)
        clock.now += 0.1
    return written


def test_a_busy_run_writes_one_line_a_second_at_most(clock: Clock, tracker: ProgressTracker) -> None:
    written = lines_written(60, clock, tracker, 1)

    assert written[0] == 0
    assert 50 <= len(written) <= 60
    assert min(after - before for before, after in itertools.pairwise(written)) >= 1


def test_a_run_that_stands_still_writes_one_line_every_ten_seconds_at_least(
    clock: Clock, tracker: ProgressTracker
) -> None:
    written = lines_written(60, clock, tracker, 0)

    pauses = [after - before for before, after in itertools.pairwise(written)]
    assert 6 <= len(written) <= 8
    assert max(pauses) <= 10


def test_lines_are_json_that_the_operator_reads(tracker: ProgressTracker) -> None:
    stream = io.StringIO()
    tracker.totals(1, 100)
    tracker.received(40, "weights")
    emitter = LineEmitter(tracker, stream)
    emitter.start()
    emitter.close()

    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["datafetch"] == "v1"
    assert json.loads(line)["totalBytes"] == 100
    assert Progress.model_validate_json(line).percent == 40


def test_a_change_of_stage_is_written_as_soon_as_a_line_is_allowed() -> None:
    tracker, stream = ProgressTracker(), io.StringIO()
    emitter = LineEmitter(tracker, stream)
    emitter.start()
    time.sleep(1.1)
    tracker.stage(Stage.PUBLISHING)
    time.sleep(0.2)
    written = stream.getvalue()
    emitter.close()

    assert [json.loads(line)["stage"] for line in written.splitlines()] == ["Listing", "Publishing"]


def test_a_reader_that_has_gone_stops_nothing() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    emitter = LineEmitter(ProgressTracker(), Closed())
    emitter.start()
    emitter.close()
