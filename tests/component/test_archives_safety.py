"""Archives that nobody should make: one clear error, nothing published, nothing written beside the target."""

import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from component.archives import FORMATS, Yard, member, tar, zipped, zstd
from component.commands import Run, tree
from component.folding_volume import folding_volume
from component.prefork import Prefork, prefork
from servers.http import StaticServer

ZEROS = bytes(1 << 20)


@pytest.fixture(scope="module")
def runs() -> Iterator[Prefork]:
    with prefork() as running:
        yield running


@pytest.fixture(params=[True, False], ids=["managed", "in-place"])
def yard(request: pytest.FixtureRequest, runs: Prefork, tmp_path: Path) -> Iterator[Yard]:
    with StaticServer() as server:
        yield Yard(server, tmp_path / "outside" / "place", managed=request.param, runs=runs)


@pytest.fixture
def in_place(runs: Prefork, tmp_path: Path) -> Iterator[Yard]:
    with StaticServer() as server:
        yield Yard(server, tmp_path / "outside" / "place", managed=False, runs=runs)


def refused(yard: Yard, *names: str, code: int, left: tuple[str, ...] = ()) -> str:
    """Fetch in vain, and return the sentence: nothing is published, nothing of a bad archive but `left` is there."""
    done: Run = yard.fetch(*names)
    assert done.code == code, done.stderr
    assert yard.published == {}
    assert set(yard.staged) <= {*names, *left}, "what came out of an archive is left"
    outside = {name for name in tree(yard.base.parent) if not name.startswith("place")}
    assert outside == set(), "something was written beside the volume"
    return done.sentence


UNSAFE = {
    "up": "../../../evil",
    "up inside": "a/../../evil",
    "absolute": "/etc/evil",
    "dot": "a/./b",
    "empty segment": "a//b",
    "control": "a\nb",
    "ours": ".datafetch/lock",
    "long": "x" * 256,
    "no UTF-8": b"caf\xe9".decode("utf-8", "surrogateescape"),
}


@pytest.mark.parametrize("name", UNSAFE.values(), ids=UNSAFE)
@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_a_member_whose_name_cannot_be_a_path_is_refused(in_place: Yard, name: str, suffix: str) -> None:
    if suffix == "zip" and name == UNSAFE["no UTF-8"]:
        name = "caf\udce9"
        archive = zipped({"good": b"g", "cafe": b"x"}).replace(b"cafe", b"caf\xe9")
        flagged = archive.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\0\x08")
        in_place.put({"a.zip": flagged})
    else:
        in_place.put({f"a.{suffix}": FORMATS[f".{suffix}"]({"good": b"g", name: b"x"})})
    sentence = refused(in_place, f"a.{suffix}", code=18)
    assert "a." + suffix in sentence
    assert repr(name)[1:60] in sentence


def test_a_zips_name_does_not_end_at_a_nul(in_place: Yard) -> None:
    in_place.put({"a.zip": zipped({"good": b"g", "safe?/../evil": b"x"}).replace(b"safe?", b"safe\0")})
    assert "control character" in refused(in_place, "a.zip", code=18)


LINKS = {
    "symlink out": (member("link", tarfile.SYMTYPE, linkname="../../evil"), b""),
    "symlink in": (member("link", tarfile.SYMTYPE, linkname="good"), b""),
    "hard link out": (member("link", tarfile.LNKTYPE, linkname="../../../../../../etc/passwd"), b""),
    "hard link to nothing": (member("link", tarfile.LNKTYPE, linkname="not there"), b""),
    "hard link to a neighbour": (member("link", tarfile.LNKTYPE, linkname="b.txt"), b""),
    "character device": (member("dev", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    "block device": (member("dev", tarfile.BLKTYPE, devmajor=8, devminor=0), b""),
    "pipe": (member("pipe", tarfile.FIFOTYPE), b""),
}


@pytest.mark.parametrize("what", LINKS)
def test_links_and_devices_are_refused(in_place: Yard, what: str) -> None:
    in_place.put({"a.tar": tar({"good": b"g"}, LINKS[what]), "b.txt": b"b"})
    sentence = refused(in_place, "a.tar", "b.txt", code=18)
    assert repr(LINKS[what][0].name) in sentence or "etc/passwd" in sentence


def test_a_link_in_a_zip_is_refused(in_place: Yard) -> None:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    in_place.put({"a.zip": zipped({"good": b"g"}, zipfile.ZIP_STORED, (link, b"/etc/passwd"))})
    assert "symbolic link" in refused(in_place, "a.zip", code=18)


def test_members_are_not_written_through_a_link_that_lies_on_the_volume(in_place: Yard) -> None:
    secret = in_place.base.parent / "elsewhere"
    secret.mkdir(parents=True)
    (in_place.volume / "data").mkdir(parents=True)
    (in_place.volume / "data" / "sub").symlink_to(secret)
    in_place.put({"a.tar": tar({"sub/evil": b"x"})})
    done = in_place.fetch("a.tar")
    assert done.code == 19, done.stderr
    assert list(secret.iterdir()) == []


COLLISIONS: dict[str, tuple[dict[str, bytes], str]] = {
    "twice in one": ({"a.tar": tar({"x": b"1"}, (member("x", size=1), b"2"))}, "x"),
    "file and directory": ({"a.tar": tar({"x": b"1", "x/y": b"2"})}, "x"),
    "two archives": ({"a.tar": tar({"x": b"1"}), "b.zip": zipped({"x": b"2"})}, "x"),
    "beside a file": ({"a.tar": tar({"d/x": b"1"}), "d": b"2"}, "d"),
    "the archive itself": ({"a.tar": tar({"a.tar": b"1"})}, "a.tar"),
}


@pytest.mark.parametrize("what", COLLISIONS)
def test_members_that_collide_are_refused_with_both_names(in_place: Yard, what: str) -> None:
    files, shown = COLLISIONS[what]
    in_place.put(files)
    sentence = refused(in_place, *files, code=18, left=("x",) if what == "two archives" else ())
    assert "collide" in sentence
    assert shown in sentence


# --- limits ----------------------------------------------------------------------------------------------------------


BOMBS = [".tar.gz", ".zip"]


def bomb(suffix: str, size: int) -> bytes:
    """Return an archive that is small, and holds so many zeros."""
    return FORMATS[suffix]({"zeros": bytes(size)})


@pytest.mark.parametrize("suffix", BOMBS)
def test_a_bomb_is_refused_before_it_is_written(yard: Yard, suffix: str) -> None:
    name = f"a{suffix}"
    yard.put({name: bomb(suffix, 64 << 20)})
    yard.unpack = {"max_ratio": 100}
    assert "max_ratio" in refused(yard, name, code=18)
    assert yard.runs is not None
    assert yard.runs.peak < 250 << 20
    written = sum(path.stat().st_size for path in yard.volume.rglob("*") if path.is_file())
    assert written < 2 << 20


def test_a_zip_whose_members_share_their_bytes_is_refused(in_place: Yard) -> None:
    """As the overlapping bomb of David Fifield: many entries, all of one and the same member."""
    one = zipped({"x" * 8: bytes(10 << 20)})
    end = one.rindex(b"PK\5\6")
    start = one.index(b"PK\1\2")
    directory = one[start:end]
    more = b"".join(directory for _ in range(1000))
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(more), start, 0)
    in_place.put({"a.zip": one[:start] + more + tail})
    assert "max_ratio" in refused(in_place, "a.zip", code=18)


def test_a_million_members_are_as_many_as_are_allowed(in_place: Yard) -> None:
    header = member("d/x", size=0).tobuf()
    in_place.put({"a.tar.gz": gzip.compress(header * 200_000, 1)})
    in_place.unpack = {"max_files": 1}
    assert "max_files" in refused(in_place, "a.tar.gz", code=18)


def test_directories_count_as_members(in_place: Yard) -> None:
    in_place.put({"a.tar": member("d", tarfile.DIRTYPE).tobuf() * 2000})
    in_place.unpack = {"max_files": 1999}
    assert "max_files" in refused(in_place, "a.tar", code=18)


def test_the_bytes_of_all_members_together_are_limited(in_place: Yard) -> None:
    files = {f"{number}": os.urandom(1000) for number in range(20)}
    in_place.put({"a.tar": tar(files), "b.zip": zipped(files)})
    in_place.unpack = {"max_bytes": 19_999}
    assert "max_bytes" in refused(in_place, "a.tar", code=18)
    assert "max_bytes" in refused(in_place, "b.zip", code=18, left=("a.tar",))


def test_what_hard_links_copy_counts(in_place: Yard) -> None:
    links = [(member(f"link-{number}", tarfile.LNKTYPE, linkname="big"), b"") for number in range(100)]
    in_place.put({"a.tar": tar({"big": os.urandom(100_000)}, *links)})
    in_place.unpack = {"max_ratio": 50}
    assert "max_ratio" in refused(in_place, "a.tar", code=18)


def test_a_header_that_claims_terabytes_is_refused_by_what_it_claims(in_place: Yard) -> None:
    in_place.put({"a.tar": member("huge", size=1 << 50).tobuf(tarfile.GNU_FORMAT) + ZEROS})
    assert "max_bytes" in refused(in_place, "a.tar", code=18)


def test_a_sparse_file_is_refused(in_place: Yard) -> None:
    sparse = member("sparse", tarfile.GNUTYPE_SPARSE, size=512)
    in_place.put({"a.tar": sparse.tobuf(tarfile.GNU_FORMAT) + bytes(2048)})
    assert "sparse" in refused(in_place, "a.tar", code=2)
    pax = tar({}, (member("s", size=0, pax_headers={"GNU.sparse.realsize": "1"}), b""), format=tarfile.PAX_FORMAT)
    in_place.put({"b.tar": pax})
    assert "sparse" in refused(in_place, "b.tar", code=2, left=("a.tar",))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_headers_take_bounded_memory(in_place: Yard, kind: bytes) -> None:
    large = member("h", kind, size=1 << 30).tobuf(tarfile.GNU_FORMAT)
    compressor = zlib.compressobj(1, wbits=31)
    body = compressor.compress(large) + b"".join(compressor.compress(ZEROS) for _ in range(64)) + compressor.flush()
    in_place.put({"a.tar.gz": body, "b.tar": member("h", kind, size=0).tobuf() * 100_000})
    assert "header" in refused(in_place, "a.tar.gz", code=12)
    assert in_place.runs is not None
    assert in_place.runs.peak < 250 << 20
    assert "headers" in refused(in_place, "b.tar", code=12)


def test_a_window_that_needs_much_memory_is_refused(in_place: Yard) -> None:
    options = {int(zstd.CompressionParameter.window_log): 30}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(tar({"a": b"a" * 100})) + compressor.flush()
    in_place.put({"a.tar.zst": data})
    assert "memory" in refused(in_place, "a.tar.zst", code=2)


# --- damage ----------------------------------------------------------------------------------------------------------

DATA = {"one": os.urandom(50_000), "two": os.urandom(50_000)}
WHOLE = {
    "a.tar": tar(DATA),
    "a.tar.gz": gzip.compress(tar(DATA)),
    "a.tar.zst": zstd.compress(tar(DATA), options={int(zstd.CompressionParameter.checksum_flag): 1}),
    "a.zip": zipped(DATA),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("left", [0, 0.5, -1], ids=str)
def test_half_an_archive_is_no_archive(in_place: Yard, name: str, left: float) -> None:
    whole = WHOLE[name]
    if name == "a.tar" and left == -1:
        return  # the padding of a tar's end is nothing that could be missed
    length = int(left) if left >= 1 or left == 0 else len(whole) - 1 if left < 0 else int(len(whole) * left)
    in_place.put({name: whole[:length]})
    refused(in_place, name, code=12)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst", "a.zip"])
def test_a_flipped_bit_is_found_by_the_archives_own_checksums(in_place: Yard, name: str) -> None:
    damaged = bytearray(WHOLE[name])
    damaged[len(damaged) // 2] ^= 4
    in_place.put({name: bytes(damaged)})
    refused(in_place, name, code=12)
    in_place.put({name: WHOLE[name]})
    assert in_place.fetch(name).code == 0
    assert in_place.published == DATA


def test_archives_that_were_put_together_are_not_cut_short(in_place: Yard) -> None:
    in_place.put({"a.tar": tar({"a": b"1"}) + tar({"b": b"2"})})
    assert "put together" in refused(in_place, "a.tar", code=12)


def test_compressed_streams_that_were_put_together_are_one(in_place: Yard) -> None:
    whole = tar(DATA)
    halves = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    in_place.put({"a.tgz": b"".join(map(gzip.compress, halves)) + bytes(100)})
    assert in_place.fetch("a.tgz").code == 0
    assert in_place.published == DATA


def test_an_encrypted_zip_says_so(in_place: Yard) -> None:
    archive = zipped({"secret": b"s"}, zipfile.ZIP_STORED)
    encrypted = archive.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")
    assert encrypted != archive
    in_place.put({"a.zip": encrypted})
    assert "is encrypted" in refused(in_place, "a.zip", code=2)


def test_a_zip_whose_two_directories_disagree_is_refused(in_place: Yard) -> None:
    archive = zipped({"shown": b"s"})
    in_place.put({"a.zip": archive.replace(b"shown", b"other", 1)})
    assert "'shown'" in refused(in_place, "a.zip", code=12)


def test_a_method_that_nobody_knows_is_named(in_place: Yard) -> None:
    in_place.put({"a.zip": zipped({"x": b"x" * 99}, zipfile.ZIP_LZMA)})
    assert "method 14" in refused(in_place, "a.zip", code=2)


# --- space -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_what_does_not_fit_is_told_before_it_is_written(yard: Yard, suffix: str) -> None:
    name = f"a{suffix}"
    yard.put({name: bomb(suffix, 40 << 20)})
    yard.unpack = {"max_ratio": 10_000}
    config = yard.config([name], capacity_bytes=20 << 20)
    done = yard.datafetch("run", config, "--json")
    assert done.code == 13, done.stderr
    assert yard.published == {}
    assert set(yard.staged) == {name}, "the archive stays: on a larger volume it need not come again"


def test_on_a_volume_that_folds_names_so_do_members(in_place: Yard) -> None:
    in_place.put({"a.tar": tar({"Read": b"1", "read": b"2"})})
    in_place.base.mkdir(parents=True)
    with folding_volume(in_place.volume):
        done = in_place.fetch("a.tar")
    assert done.code == 18
    assert "collide" in done.sentence
