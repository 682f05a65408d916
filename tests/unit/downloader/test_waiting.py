"""`datafetch wait`: which data is the right one, what is said about any other, and how often it looks."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle, islice, pairwise
from pathlib import Path

import pytest

from datafetch.commands.wait import Teller, progress_line, result_line
from datafetch.marker import ManifestHeader, link_text, manifest_path
from datafetch.waiting import (
    NOTHING,
    Missing,
    Sighting,
    Target,
    announce,
    explain_timeout,
    has_arrived,
    look,
    parse_target,
    pauses,
    wait_for,
)
from datafetch_api.report import Progress, Result, Stage

STARTED = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
BEFORE, AFTER = STARTED - 60, STARTED + 60
HEADER = ManifestHeader("r1", "v1:0", "sha256:0", 1, 1, "2026-01-31T11:00:00+00:00", "team", "llama", "uid-1")
MINE = Target("/claim/llama", "team", "llama", "uid-1")


def seen(visible: float = BEFORE, *, namespace: str = "team", name: str = "llama", uid: str = "uid-1") -> Sighting:
    return Sighting(replace(HEADER, namespace=namespace, name=name, uid=uid), visible)


@pytest.mark.parametrize(
    ("target", "sighting", "arrived"),
    [
        (MINE, NOTHING, False),
        (MINE, seen(), True),
        (MINE, seen(AFTER), True),
        (MINE, seen(uid="uid-2"), False),
        (MINE, seen(AFTER, uid="uid-2"), True),
        (MINE, seen(AFTER, namespace="other"), False),
        (MINE, seen(AFTER, name="other", uid="uid-1"), False),
        (Target("/d", "team", "llama"), seen(uid="any"), True),
        (Target("/d", "team", "llama"), seen(AFTER, name="other"), False),
        (Target("/d"), seen(namespace="other", name="other"), True),
        (Target("/d"), NOTHING, False),
    ],
)
def test_the_right_data_has_the_uid_or_came_later_for_the_same_name(
    target: Target, sighting: Sighting, *, arrived: bool
) -> None:
    assert has_arrived(target, sighting, STARTED) is arrived


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("/claim/llama", Target("/claim/llama")),
        ("claim/llama/", Target("claim/llama")),
        ("/claim/llama=team/llama", Target("/claim/llama", "team", "llama")),
        ("/claim/llama=team/llama.v2@1f0c-AB", Target("/claim/llama", "team", "llama.v2", "1f0c-AB")),
        ("/claim/a=b=team/llama", Target("/claim/a=b", "team", "llama")),
    ],
)
def test_a_target_is_a_directory_and_whose_data_it_waits_for(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "/", "=team/llama", "/d=", "/d=llama", "/d=team/llama@", "/d=T/x", "/d/.."])
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write DIRECTORY=NAMESPACE/NAME@UID"):
        parse_target(text)


def test_the_message_names_what_is_waited_for_and_what_is_there() -> None:
    assert announce([Missing(MINE, NOTHING)]) == (
        "waiting for DataFetch team/llama to be published at /claim/llama (nothing is there yet)"
    )
    assert "(the data of DataFetch other/llama is there)" in announce([Missing(MINE, seen(namespace="other"))])
    assert "of another DataFetch of that name is there (uid uid-2, not uid-1)" in announce(
        [Missing(MINE, seen(uid="uid-2"))]
    )
    four = announce([Missing(replace(MINE, directory=f"/claim/{number}"), NOTHING) for number in range(5)])
    assert four.count("; for DataFetch") == 2
    assert four.endswith("; for 2 more")


def test_names_on_the_volume_cannot_forge_a_message() -> None:
    text = announce([Missing(MINE, seen(name="x\n{}" + "y" * 100_000))])

    assert text.isprintable()
    assert len(text) < 1000


def test_out_of_time_the_sentence_says_what_to_do() -> None:
    assert explain_timeout([Missing(MINE, NOTHING)], "5m") == (
        "DataFetch team/llama was not published at /claim/llama within 5m: nothing is there yet; "
        "see how far it is with 'kubectl -n team describe datafetch llama'"
    )
    refused = Sighting(obstacle="it cannot be read: Permission denied", remedy="let this user read it")
    assert explain_timeout([Missing(MINE, refused)], "5m").endswith("Permission denied; let this user read it")
    assert explain_timeout([Missing(MINE, seen(name="other"))], "5m").endswith("or remove what is there")


def publish(parent: Path, header: ManifestHeader = HEADER, name: str = "llama") -> Path:
    """Make what the managed layout leaves; return the manifest."""
    manifest = parent / manifest_path(name, header.revision)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({slot: getattr(header, slot) for slot in header.__slots__})[:-1]
    (parent / "manifest").write_text(line + ', "entries": [\n\n]}\n')
    (parent / "manifest").rename(manifest)
    (parent / link_text(name, header.revision)).mkdir(parents=True, exist_ok=True)
    temporary = parent / "new"
    temporary.symlink_to(link_text(name, header.revision))
    temporary.rename(parent / name)
    return manifest


def test_what_is_published_is_seen_with_the_time_when_it_became_visible(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    os.utime(manifest, (AFTER, AFTER))

    assert look(str(tmp_path / "llama")) == Sighting(HEADER, AFTER)

    os.utime(manifest, (0, 0))
    assert look(str(tmp_path / "llama")).visible == HEADER.published.timestamp()


def broken(directory: Path, how: str) -> None:
    """Put something in the link's place, or behind it, that no fetch leaves."""
    link, manifest = directory / "llama", publish(directory)
    match how:
        case "files":
            link.unlink()
            link.mkdir()
            (link / "file").touch()
        case "a file":
            link.unlink()
            link.touch()
        case "somebody's link":
            link.unlink()
            link.symlink_to("elsewhere")
        case "a link out of its place":
            link.unlink()
            link.symlink_to(".datafetch/llama/revisions/../../../x")
        case "no manifest":
            manifest.write_bytes(b"[]")
        case "a manifest of other types":
            manifest.write_text(json.dumps(dict.fromkeys(HEADER.__slots__, 7))[:-1] + ', "entries": [\n')
        case "a pipe":
            manifest.unlink()
            os.mkfifo(manifest)
        case "a linked manifest":
            manifest.rename(directory / "moved")
            manifest.symlink_to(directory / "moved")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("files", "not published by a DataFetch"),
        ("a file", "not published by a DataFetch"),
        ("somebody's link", "not published by a DataFetch"),
        ("a link out of its place", "not published by a DataFetch"),
        ("no manifest", "cannot be understood"),
        ("a manifest of other types", "cannot be understood"),
        ("a pipe", "cannot be understood"),
        ("a linked manifest", "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_what_no_fetch_leaves_is_no_data_and_is_named(tmp_path: Path, how: str, said: str) -> None:
    broken(tmp_path, how)

    sighting = look(str(tmp_path / "llama"))

    assert sighting.header is None
    assert said in sighting.obstacle


def test_what_a_fetch_makes_on_its_way_is_nothing_yet(tmp_path: Path) -> None:
    link = str(tmp_path / "team/llama")
    assert look(link) == NOTHING

    (tmp_path / "team/llama").mkdir(parents=True)  # kubelet's, for a subPath that was not there
    assert look(link) == NOTHING

    (tmp_path / "team/llama").rmdir()
    publish(tmp_path / "team")
    (tmp_path / "team" / link_text("llama", "r1")).rmdir()
    assert look(link) == NOTHING


def test_a_link_that_is_replaced_all_the_time_never_raises(tmp_path: Path) -> None:
    headers = [replace(HEADER, revision=f"r{number}") for number in range(2)]
    publish(tmp_path, headers[0])
    stop = threading.Event()

    def flip() -> None:
        for number in cycle((1, 0)):
            publish(tmp_path, headers[number])
            (tmp_path / manifest_path("llama", headers[1 - number].revision)).unlink(missing_ok=True)
            if stop.is_set():
                break

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        found = [look(str(tmp_path / "llama")) for _ in range(2000)]
    finally:
        stop.set()
        flipping.join()

    assert all(sighting == NOTHING or sighting.header in headers for sighting in found)
    assert any(sighting.header is not None for sighting in found)


def test_the_pause_between_two_looks_grows_to_two_seconds() -> None:
    first = list(islice(pauses(), 50))

    assert first[0] == pytest.approx(0.2)
    assert first == sorted(first)
    assert max(first) == pytest.approx(2)
    assert sum(pause < 2 for pause in first) < 15


def test_of_several_only_the_missing_ones_are_looked_for_again(tmp_path: Path) -> None:
    publish(tmp_path)
    there, late = replace(MINE, directory=str(tmp_path / "llama")), Target(str(tmp_path / "late"))
    told: list[list[Target]] = []

    def tell(missing: Sequence[Missing]) -> None:
        told.append([each.target for each in missing])
        (tmp_path / "llama").unlink(missing_ok=True)
        publish(tmp_path, name="late")

    assert wait_for([there, late], threading.Event(), tell, started=STARTED) == []
    assert told == [[late]]


def test_out_of_time_what_is_missing_is_returned() -> None:
    now = iter(range(1000))

    missing = wait_for(
        [MINE], threading.Event(), lambda _: None, started=STARTED, timeout=2, clock=lambda: float(next(now))
    )

    assert missing == [Missing(MINE, NOTHING)]


def test_the_lines_are_what_the_contract_s_models_would_write() -> None:
    now = datetime(2026, 1, 31, 12, 0, 7, tzinfo=UTC)
    progress = Progress(stage=Stage.WAITING, time=now, message="Wärten \u2028\n")

    assert progress_line("Wärten \u2028\n", now).isprintable()
    assert json.loads(progress_line("Wärten \u2028\n", now)) == progress.model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    assert json.loads(result_line(7)) == Result(exit_code=0, duration_seconds=7).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )


def test_a_line_comes_when_something_changes_never_two_a_second_and_at_least_every_ten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    teller = Teller(show_lines=True, clock=lambda: now[0])
    written: list[tuple[float, str]] = []
    for pause in islice(pauses(), 60):
        there = NOTHING if now[0] < 30 else seen(name="other")
        teller.tell([Missing(MINE, there)])
        written += [(now[0], json.loads(line)["message"]) for line in capsys.readouterr().out.splitlines()]
        now[0] += pause

    times = [time for time, _ in written]
    assert times[0] == 0
    assert all(1 <= later - earlier <= 10 for earlier, later in pairwise(times))
    assert next(time for time, message in written if "other" in message) <= 32
    assert len(times) < now[0] / 7 + 2
