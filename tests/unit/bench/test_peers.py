"""The peer benchmark must not flatter anyone: what it measures, checks and prints, without running a peer."""

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from bench.peers import cells, document, measure, results, tables
from bench.peers.cells import Cell, Runs, Sample
from bench.peers.check import WrongTreeError, check
from bench.peers.content import Stored, write_tree
from bench.peers.presign import presigned
from bench.peers.shapes import MIB, SHAPES, File, Shape
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from storage import servers

TREE = Shape("tree", "a tree", (File("a/one.bin", 40 * MIB + 5), File("a/two.bin", 7), File("three.bin", 0)))
CELL = Cell("large", "nginx", tls=False, link=False, target="tmpfs")


def test_shapes_are_those_of_the_issue() -> None:
    assert {name: (len(shape.files), shape.size) for name, shape in SHAPES.items() if name != "mixed"} == {
        "large": (1, 4 * 2**30),
        "medium": (128, 2 * 2**30),
        "small": (20_000, 20_000 * 16 * 2**10),
    }
    sizes = [file.size for file in SHAPES["mixed"].files]
    assert sizes[:3] == [2**30] * 3
    assert len(sizes) == 303
    assert 2**10 <= min(sizes[3:]) < 2**12
    assert 4 * MIB < max(sizes[3:]) <= 5 * MIB


def test_pieces_of_a_file_differ_from_each_other_and_from_another_file() -> None:
    one, other = File("one", 4 * MIB), File("other", 4 * MIB)
    assert len({bytes(piece) for file in (one, other) for piece in file.content()}) == 8


def test_the_right_tree_passes_and_state_directories_do_not_count(tmp_path: Path) -> None:
    write_tree(TREE.files, tmp_path)
    (tmp_path / ".datafetch").mkdir()
    (tmp_path / ".datafetch" / "journal").write_text("state")
    check(TREE, tmp_path)


@pytest.mark.parametrize("wrong", ["missing", "more", "shorter", "flipped", "last byte"])
def test_a_wrong_tree_is_noticed(tmp_path: Path, wrong: str) -> None:
    write_tree(TREE.files, tmp_path)
    path = tmp_path / "a" / "one.bin"
    data = bytearray(path.read_bytes())
    if wrong == "missing":
        path.unlink()
    elif wrong == "more":
        (tmp_path / "more").touch()
    elif wrong == "shorter":
        path.write_bytes(data[:-1])
    else:
        data[MIB if wrong == "flipped" else -1] ^= 1
        path.write_bytes(data)
    with pytest.raises(WrongTreeError):
        check(TREE, tmp_path)


def test_presigned_targets_are_those_of_botocore() -> None:
    url = "http://127.0.0.1:7070"
    [(key, target, size)] = presigned(url, "small", [Stored("a b/ü.bin", 5, "etag")])
    assert (key, size) == ("a b/ü.bin", 5)
    ours = parse_qs(urlsplit(target).query)
    request = AWSRequest("GET", url + target.partition("?")[0])
    request.context["timestamp"] = ours["X-Amz-Date"][0]
    credentials = Credentials(servers.S3_ACCESS_KEY, servers.S3_SECRET_KEY)
    signer = S3SigV4QueryAuth(credentials, "s3", servers.S3_REGION, expires=int(ours["X-Amz-Expires"][0]))
    scope_date = ours["X-Amz-Credential"][0].split("/")[1]
    assert ours["X-Amz-Date"][0].startswith(scope_date)
    request.params = {name: values[0] for name, values in ours.items() if name != "X-Amz-Signature"}
    canonical = signer.canonical_request(request)
    assert signer.signature(signer.string_to_sign(request, canonical), request) == ours["X-Amz-Signature"][0]


def run(program: str, tmp_path: Path, objects: Path, timeout: float = 30) -> measure.Measured:
    command = [sys.executable, "-I", "-S", "-c", program]
    return measure.run(command, {}, objects=objects, log=tmp_path / "log", flush=None, timeout=timeout)


def test_processor_time_and_memory_of_children_count(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    objects.mkdir()
    spend = "import time; data = bytearray(60 << 20); e = time.process_time() + .3\nwhile time.process_time() < e: pass"
    measured = run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spend!r}])", tmp_path, objects)
    assert measured.exit_code == 0
    assert measured.cpu >= 0.3
    assert measured.memory > 60 * 2**20
    assert measured.wall >= 0.3
    assert measured.first_byte is None


def test_the_first_byte_is_the_first_read_of_an_object(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    (objects / "below").mkdir(parents=True)
    (objects / "below" / "file").write_bytes(b"data")
    program = (
        f"import os, time; os.listdir({str(objects)!r}); os.stat({str(objects / 'below' / 'file')!r}); time.sleep(.3)"
    )
    read = f"{program}; open({str(objects / 'below' / 'file')!r}).read(); time.sleep(.3)"
    assert run(program, tmp_path, objects).first_byte is None
    measured = run(read, tmp_path, objects)
    assert measured.first_byte is not None
    assert 0.3 <= measured.first_byte <= measured.wall - 0.3


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    assert run("import time; time.sleep(60)", tmp_path, tmp_path, timeout=0.3).exit_code == -9


def test_every_client_begins_a_round_once() -> None:
    turns = [cells.turns(["a", "b", "c"], number) for number in range(3)]
    assert turns == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_only_slow_peers_stop_early_and_never_datafetch_or_the_limit() -> None:
    known = {
        "limit": runs(1.0),
        "fast": runs(2.0),
        "near": runs(2.9),
        "slow": runs(3.1),
        "new": runs(9.0, 2),
        "hopeless": runs(17.0, 1),
        "datafetch": runs(20.0),
    }
    assert [name for name in known if not cells.is_due(name, known, late=False)] == ["hopeless"]
    assert [name for name in known if not cells.is_due(name, known, late=True)] == ["slow", "hopeless"]


def runs(wall: float, count: int = 3, cpu: float = 1.0, memory: int = 100 * MIB) -> Runs:
    return Runs([Sample(wall + 0.1 * number, cpu, memory, 0.2) for number in range(-(count // 2), count - count // 2)])


def measured(cell: Cell, hashing: float = 0.0, **clients: Runs) -> results.Measurement:
    return results.Measurement(cell, "2026-01-01 00:00 UTC", "abc", "2 cores", "peers", 0.1, hashing, clients)


def test_ratios_are_to_the_best_peer_and_not_to_the_limit() -> None:
    found = measured(CELL, datafetch=runs(2.0), s5cmd=runs(4.0), rclone=runs(2.5, cpu=2.0), limit=runs(1.0, cpu=0.5))
    head, *table = tables.cell_table(found)
    row = dict(zip(head, table[0], strict=True))
    assert row["client"] == "datafetch"
    assert row["wall s"] == "2.00"
    assert row["fastest to slowest"] == "1.90 to 2.10"
    assert row["wall / best peer"] == "0.80"
    assert row["CPU / best peer"] == "1.00"
    assert row["CPU / limit"] == "2.00"


def test_a_missed_goal_is_named() -> None:
    met = tables.markdown([measured(CELL, datafetch=runs(0.8, cpu=0.8), s5cmd=runs(1.0))], {})
    missed = tables.markdown([measured(CELL, datafetch=runs(0.95, cpu=0.95, memory=200 * MIB), s5cmd=runs(1.0))], {})
    beyond = measured(CELL, datafetch=runs(0.8, cpu=0.8), s5cmd=runs(1.0), limit=runs(0.7, cpu=0.6))
    assert "| 100 | CPU of the limit |" in tables.markdown([beyond], {})
    assert "| large/nginx/http/tmpfs | 0.80 | 0.9 | 0.80 | 0.9 | 100 |  |" in met
    assert "| large/nginx/http/tmpfs | 0.95 | 0.9 | 0.95 | 0.9 | 200 | wall, CPU, memory |" in missed


def test_short_runs_are_called_so() -> None:
    short = tables.markdown([measured(CELL, datafetch=runs(1.0), s5cmd=runs(1.0))], {})
    full = tables.markdown([measured(CELL, datafetch=runs(1.0, 7), s5cmd=runs(1.0))], {})
    assert "not to be relied on:** large/nginx/http/loopback/tmpfs." in short
    assert "not to be relied on" not in full


def test_the_goal_for_processor_time_counts_without_hashing() -> None:
    found = tables.markdown([measured(CELL, 0.5, datafetch=runs(0.8, cpu=1.3), s5cmd=runs(1.0))], {})
    assert "| 0.80 | 0.9 | 0.80 | 0.9 | 100 |  |" in found


def test_a_cell_measured_again_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    other = Cell("small", "nginx", tls=False, link=False, target="tmpfs")
    results.save(measured(CELL, s5cmd=runs(1.0)), path)
    results.save(measured(other, s5cmd=runs(3.0)), path)
    results.save_noticed({"s5cmd": {"nginx": False}}, path)
    results.save(measured(CELL, s5cmd=runs(2.0)), path)
    assert {one.cell: one.clients["s5cmd"].wall for one in results.load(path)} == {CELL: 2.0, other: 3.0}
    assert results.noticed(path) == {"s5cmd": {"nginx": False}}


def test_only_what_is_between_the_markers_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    document.write("new\n", page)
    document.write("newer\n", page)
    assert page.read_text() == f"before\n{document.BEGIN}\n\nnewer\n\n{document.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        document.write("new", page)
