"""Objects that are replaced at the source between two attempts, and while they are fetched."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from chaos import content
from chaos.content import Files, differences
from chaos.ledger import Ledger
from chaos.origins import Origin, bucket, web
from chaos.record import Record
from chaos.runs import Target, end, ended
from chaos.scale import Scale
from servers.emulators import S3Server
from servers.plans import Fault

CHANGED = 17
"""Exit code of SourceChanged."""
SIZE = 40 << 20
"""More than a part: the old object's first range may be whole when the second begins."""
LAYOUTS = pytest.mark.parametrize("managed", [True, False], ids=["managed", "in-place"])


class Replaced:
    """One big object with a history, beside others that stay as they are."""

    def __init__(self, target: Target, origin: Origin, chance: random.Random) -> None:
        self._origin = origin
        self._chance = chance
        self.target = target
        self.files: Files = {"big.bin": content.big(chance, SIZE), **content.small(chance, 20, 4_000)}
        self.history = [self.files["big.bin"]]
        origin.publish(self.files)

    def replace(self) -> None:
        """Put other bytes in its place; of the same size as often as not."""
        size = SIZE + self._chance.choice((0, 0, 1, -5_000_000))
        self.files["big.bin"] = content.big(self._chance, size)
        self.history.append(self.files["big.bin"])
        self._origin.put("big.bin", self.files["big.bin"])

    def check_not_mixed(self) -> None:
        """Whatever is there of it is one of its generations, whole."""
        found = (self.target.files() or {}).get("big.bin")
        assert found is None or found in self.history, "a mixture of two objects has its final name"

    def check_is_the_newest(self) -> None:
        wrong = differences(self.target.files() or {}, self.files)
        assert not wrong, f"{wrong}\n{self.target.said()}"


def has_sent(ledger: Ledger, process: subprocess.Popen[bytes], count: int) -> bool:
    """Wait until so many bytes of it have been sent; False when the process ends before."""
    while process.poll() is None:
        if ledger.sent["big.bin"] >= count:
            return True
        time.sleep(0.01)
    return False


def cut_answers(origin: Origin, count: int, times: int | None) -> None:
    """Cut answers with the big object after so many bytes, slowly sent.

    An answer that has begun stays of the old object: that there is a new one is seen at the next request only.
    """
    origin.server.pace.rate = 12e6
    origin.server.faults.add(Fault(cut_after=count), times=times, path="*/big.bin")


@LAYOUTS
@pytest.mark.scenario("Object replaced between two attempts")
@pytest.mark.rounds(4)
def test_an_object_that_changed_between_two_attempts_is_fetched_anew(
    tmp_path: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, scale: Scale, record: Record
) -> None:
    made = bucket(s3_server, f"between-{seed}-{managed:d}", tmp_path) if seed % 2 == 0 else web()
    with made as origin, Ledger(origin) as ledger:
        origin.server.pace.rate = 60e6
        replaced = Replaced(Target(tmp_path, origin, managed), origin, chance)
        for _ in range(scale.replacements):
            mark = ledger.sent["big.bin"] + chance.randrange(1, SIZE - (1 << 20))
            process = replaced.target.start()
            try:
                has_sent(ledger, process, mark)
            finally:
                end(process)
            replaced.check_not_mixed()
            replaced.replace()
        assert replaced.target.run() == 0, replaced.target.said()
        replaced.check_is_the_newest()
        record.add("replacements", scale.replacements)


@LAYOUTS
@pytest.mark.scenario("Object replaced in the middle of an attempt, once")
@pytest.mark.rounds(4)
def test_an_object_that_changes_under_way_starts_again_within_the_run(
    tmp_path: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, record: Record
) -> None:
    made = bucket(s3_server, f"middle-{seed}-{managed:d}", tmp_path) if seed % 2 == 0 else web()
    with made as origin, Ledger(origin) as ledger:
        replaced = Replaced(Target(tmp_path, origin, managed), origin, chance)
        cut_answers(origin, chance.randrange(3 << 20, 7 << 20), times=2)
        process = replaced.target.start()
        try:
            assert has_sent(ledger, process, chance.randrange(1, 2 << 20))
            replaced.replace()
            origin.server.pace.rate = None
            code = ended(process, 60)
        finally:
            end(process)
        replaced.check_not_mixed()
        assert code == 0, f"exit code {code}\n{replaced.target.said()}"
        replaced.check_is_the_newest()
        small = sum(len(data) for name, data in replaced.files.items() if name != "big.bin")
        others = ledger.total - ledger.sent["big.bin"]
        assert others <= 2 * small, "what did not change is not fetched again"
        record.add("replacements", 1)


@LAYOUTS
@pytest.mark.scenario("Object replaced again and again while it is fetched")
@pytest.mark.rounds(2)
def test_an_object_that_keeps_changing_ends_the_run_with_that_reason(
    tmp_path: Path, seed: int, chance: random.Random, managed: bool, s3_server: S3Server, record: Record
) -> None:
    made = bucket(s3_server, f"keeps-{seed}-{managed:d}", tmp_path) if seed % 2 == 0 else web()
    with made as origin, Ledger(origin) as ledger:
        replaced = Replaced(Target(tmp_path, origin, managed), origin, chance)
        cut_answers(origin, 3 << 20, times=None)
        process = replaced.target.start()
        try:
            while has_sent(ledger, process, ledger.sent["big.bin"] + chance.randrange(1, 2 << 20)):
                assert len(replaced.history) < 40, "it never gives up"
                replaced.replace()
            code = ended(process)
        finally:
            end(process)
            origin.server.faults.clear()
            origin.server.pace.rate = None
        assert code == CHANGED, f"exit code {code}\n{replaced.target.said()}"
        assert "big.bin" in replaced.target.said()
        replaced.check_not_mixed()
        assert replaced.target.run() == 0, replaced.target.said()
        replaced.check_is_the_newest()
        record.add("replacements", len(replaced.history) - 1)
