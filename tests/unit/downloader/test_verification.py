"""The checksum of a file that comes in ranges: however they come, it is that of the whole; and what a promise does."""

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datafetch.checksums import new_hasher
from datafetch.records import ManifestFile
from datafetch.sink.directory import Directory
from datafetch.sink.verification import Verification, holds_checksum
from datafetch.sources import Checksum, ChecksumAlgorithm

CONTENT = bytes(range(256)) * 40
ALGORITHMS = [
    ChecksumAlgorithm.CRC32,
    ChecksumAlgorithm.CRC32C,
    ChecksumAlgorithm.CRC64NVME,
    ChecksumAlgorithm.MD5,
    ChecksumAlgorithm.SHA1,
    ChecksumAlgorithm.SHA256,
    ChecksumAlgorithm.GIT_BLOB,
]
Range = tuple[int, int]


def checksum(algorithm: ChecksumAlgorithm, content: bytes = CONTENT) -> Checksum:
    hasher = new_hasher(algorithm, len(content))
    assert hasher is not None
    hasher.update(memoryview(content))
    return Checksum(algorithm, hasher.hexdigest())


class Arriving:
    """A file whose bytes arrive."""

    def __init__(self, content: bytes, promised: Checksum | None, before: bytes = b"") -> None:
        self.content = content
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `arriving`
        self._file.write(before)
        self._file.flush()
        self.descriptor = self._file.fileno()
        self.verification = Verification(self.descriptor, len(content), promised)

    def bring(self, start: int, end: int, step: int = 1 << 20, *, follow: bool = False) -> None:
        """Bring a range in pieces, as a connection does."""
        for position in range(start, end, step):
            data = self.content[position : min(end, position + step)]
            os.pwrite(self.descriptor, data, position)
            # The buffer that bytes come in is used again.
            buffer = memoryview(bytearray(data))
            self.verification.update(buffer, position)
            buffer[:] = bytes(len(data))
            if follow:
                self.verification.follow()

    @property
    def actual(self) -> str | None:
        return self.verification.actual(len(self.content))

    def close(self) -> None:
        self._file.close()


@contextmanager
def arriving(content: bytes, promised: Checksum | None, before: bytes = b"") -> Iterator[Arriving]:
    made = Arriving(content, promised, before)
    try:
        yield made
    finally:
        made.close()


def in_threads(file: Arriving, hands: list[list[Range]], step: int, *, follow: bool) -> None:
    """Let each thread bring its ranges, all at the same time."""
    begin = threading.Barrier(len(hands))
    failures: list[BaseException] = []

    def bring(ranges: list[Range]) -> None:
        try:
            begin.wait(10)
            for start, end in ranges:
                file.bring(start, end, step, follow=follow)
        except BaseException as error:  # noqa: BLE001 - the test's thread asserts that there is none
            failures.append(error)

    threads = [threading.Thread(target=bring, args=(ranges,)) for ranges in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[bytes, list[list[Range]]]:
    """Draw a content, and its ranges in any order, dealt out to a few threads."""
    content = draw(st.binary(min_size=1, max_size=6000))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(content) - 1)), max_size=8)) - {len(content)})
    bounds = [0, *cuts, len(content)]
    ranges = draw(st.permutations(list(itertools.pairwise(bounds))))
    hands = draw(st.integers(1, 4))
    return content, [list(ranges[number::hands]) for number in range(hands)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(arrival=arrivals(), step=st.sampled_from([1, 7, 100, 5000]), follow=st.booleans())
def test_ranges_in_any_order_from_several_threads_make_the_checksum_of_the_whole(
    algorithm: ChecksumAlgorithm, arrival: tuple[bytes, list[list[Range]]], step: int, follow: bool
) -> None:
    content, hands = arrival
    promised = checksum(algorithm, content)
    with arriving(content, promised) as file:
        in_threads(file, hands, max(step, len(content) // 50), follow=follow)
        assert file.actual == promised.value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_byte_that_changed_on_its_way_changes_the_checksum(algorithm: ChecksumAlgorithm) -> None:
    damaged = bytearray(CONTENT)
    damaged[5000] ^= 1
    with arriving(bytes(damaged), checksum(algorithm)) as file:
        file.bring(4000, len(CONTENT))
        file.bring(0, 4000)
        assert file.actual == checksum(algorithm, bytes(damaged)).value != checksum(algorithm).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_an_earlier_run_brought_is_read_again(algorithm: ChecksumAlgorithm) -> None:
    with arriving(CONTENT, checksum(algorithm), before=CONTENT[:3000]) as file:
        file.bring(7000, len(CONTENT))
        file.bring(3000, 7000)
        assert file.actual == checksum(algorithm).value
    # And is what lies there, not what should.
    with arriving(CONTENT, checksum(algorithm), before=bytes(3000)) as file:
        file.bring(3000, len(CONTENT))
        assert file.actual == checksum(algorithm, bytes(3000) + CONTENT[3000:]).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_of_which_everything_came_earlier_is_read(algorithm: ChecksumAlgorithm) -> None:
    with arriving(CONTENT, checksum(algorithm), before=CONTENT) as file:
        assert file.actual == checksum(algorithm).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_range_that_goes_on_where_it_broke_off_counts_once(algorithm: ChecksumAlgorithm) -> None:
    with arriving(CONTENT, checksum(algorithm)) as file:
        file.bring(0, 2000, 700)
        file.bring(6000, 8000, 700)
        file.bring(2000, 6000, 700, follow=True)
        file.bring(8000, len(CONTENT), 700)
        assert file.actual == checksum(algorithm).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_restart_nothing_of_before_counts(algorithm: ChecksumAlgorithm) -> None:
    with arriving(CONTENT[::-1], checksum(algorithm)) as file:
        file.bring(0, 5000)
        file.bring(6000, 7000)
        file.verification.restart()
        file.content = CONTENT
        file.bring(5000, len(CONTENT))
        file.bring(0, 5000)
        assert file.actual == checksum(algorithm).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_file_has_a_checksum(algorithm: ChecksumAlgorithm) -> None:
    with arriving(b"", checksum(algorithm, b"")) as file:
        assert file.actual == checksum(algorithm, b"").value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_file_that_is_shorter_than_it_should_be_has_none(algorithm: ChecksumAlgorithm) -> None:
    with arriving(CONTENT, checksum(algorithm)) as file:
        file.bring(0, 5000)
        assert file.actual is None


# --- promises ---


def test_without_a_promise_nothing_is_computed() -> None:
    with arriving(CONTENT, None) as file:
        file.bring(0, len(CONTENT), follow=True)
        assert file.actual is None


def test_a_promise_that_cannot_be_computed_is_none() -> None:
    with tempfile.TemporaryFile() as file:
        verification = Verification(file.fileno(), None, Checksum(ChecksumAlgorithm.GIT_BLOB, "0" * 40))
        assert verification.actual(0) is None


@pytest.mark.parametrize("listed", ALGORITHMS)
@pytest.mark.parametrize("answered", ALGORITHMS)
def test_what_the_first_answer_promises_takes_the_place_of_what_was_listed(
    listed: ChecksumAlgorithm, answered: ChecksumAlgorithm
) -> None:
    with arriving(CONTENT, Checksum(listed, "of something else")) as file:
        file.verification.expect(checksum(answered))
        file.bring(5000, len(CONTENT))
        file.bring(0, 5000)
        assert file.verification.promised == checksum(answered)
        assert file.actual == checksum(answered).value


def test_an_answer_may_promise_what_the_listing_did_not() -> None:
    with arriving(CONTENT, None) as file:
        file.verification.expect(checksum(ChecksumAlgorithm.CRC32C))
        file.bring(0, len(CONTENT))
        assert file.actual == checksum(ChecksumAlgorithm.CRC32C).value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("after", [0, 5000], ids=["before any byte", "after bytes of another range"])
def test_a_promise_is_taken_back(algorithm: ChecksumAlgorithm, after: int) -> None:
    with arriving(CONTENT, checksum(algorithm)) as file:
        file.bring(0, after)
        file.verification.expect(None)
        file.bring(after, len(CONTENT), follow=True)
        assert file.verification.promised is None
        assert file.actual is None


def test_only_the_first_answer_decides() -> None:
    first = checksum(ChecksumAlgorithm.SHA256)
    with arriving(CONTENT, None) as file:
        file.verification.expect(first)
        file.verification.expect(None)
        file.verification.expect(checksum(ChecksumAlgorithm.CRC32))
        file.bring(0, len(CONTENT))
        assert (file.verification.promised, file.actual) == (first, first.value)
        file.verification.restart()
        file.verification.expect(None)
        file.bring(0, len(CONTENT))
        assert (file.verification.promised, file.actual) == (first, first.value)


# --- a file of a published tree ---


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_published_file_is_held_to_its_manifest(tmp_path: Path, algorithm: ChecksumAlgorithm) -> None:
    promised = checksum(algorithm)
    manifest = ManifestFile("a", len(CONTENT), "", f"{algorithm}:{promised.value}")
    (tmp_path / "a").write_bytes(CONTENT)
    with closing(Directory.open(str(tmp_path))) as found:
        assert holds_checksum(found, "a", manifest)
        (tmp_path / "a").write_bytes(CONTENT[:-1] + b"!")
        assert not holds_checksum(found, "a", manifest)
        assert holds_checksum(found, "a", ManifestFile("a", len(CONTENT), ""))
