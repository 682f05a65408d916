"""What is read of archives, whatever their bytes and names are: their content, or one of the errors that are ours."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datafetch.errors import UnsafePathError
from datafetch.unpacking.formats import Compression, archive_format
from datafetch.unpacking.members import DamagedError, MemberKind, Reader, UnsupportedError
from datafetch.unpacking.streams import open_stream
from datafetch.unpacking.tar import TarReader
from datafetch.unpacking.zip import ZipReader
from unit.downloader.memory_source import Fetch, MemoryBucket, item
from unit.downloader.test_keys_properties import ANY_KEYS, SAFE_KEYS
from unit.downloader.tree import tree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from datafetch_api.config import DownloadConfig

few = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
COMPRESSORS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: zstd.compress,
}


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def decompressed(data: bytes, compression: Compression, most: int = 1 << 20) -> bytes:
    with opened(data) as descriptor:
        stream = open_stream(descriptor, compression)
        return b"".join(iter(lambda: stream.read(most), b""))


def contents(reader: Reader) -> dict[str, bytes]:
    found = {}
    for member in reader:
        if member.kind is MemberKind.FILE:
            found[member.name] = b"".join(bytes(piece) for piece in iter(lambda: reader.read(1 << 20), b""))
    return found


def make_tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.tar", "tar"), ("a/b.TAR.GZ", "gzip"), ("x.tgz", "gzip"), ("x.tar.zst", "zstd"), ("x.Zip", "zip"),
        ("x.tar.xz", "xz"), ("x.tbz2", "bzip2"), ("x.gz", None), ("tar", None), (".zip", None), ("a.zip/b", None),
        ("model.npz", None), ("x.tar.gz.part", None),
    ],
)  # fmt: skip
def test_archives_are_known_by_the_end_of_their_names(path: str, name: str | None) -> None:
    found = archive_format(path)
    assert (found and found.name) == name


def fetch(archive: str, data: bytes, root: Path) -> tuple[UnsafePathError | None, dict[str, bytes]]:
    unpacking = {**item(), "unpack": {}}
    config = DownloadConfig.model_validate({"download_root": str(root / "in/target"), "download_items": [unpacking]})
    try:
        Fetch(MemoryBucket.of({archive: data}), config).run()
    except UnsafePathError as error:
        return error, tree(root / "in/target")
    return None, tree(root / "in/target")


@few
@example(names=["a/a", "a"], as_zip=False)
@example(names=["a", "a/a"], as_zip=True)
@given(names=st.lists(st.one_of(SAFE_KEYS, ANY_KEYS), min_size=1, max_size=5), as_zip=st.booleans())
def test_whatever_members_are_called_they_are_all_there_or_none(names: list[str], as_zip: bool) -> None:
    names = [name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape") for name in names]
    files = {name: os.urandom(20) for name in names if not name.endswith("/")}
    try:
        data = make_zip(files) if as_zip else make_tar(files)
    except (UnicodeEncodeError, ValueError):
        return  # no tool writes such an archive
    # What a tool has made of the names, NULs above all, is what counts.
    with opened(data) as descriptor:
        reader = ZipReader(descriptor, len(data)) if as_zip else TarReader(open_stream(descriptor, Compression.NONE))
        written = contents(reader)
    with tempfile.TemporaryDirectory() as directory:
        error, found = fetch(f"it.{'zip' if as_zip else 'tar'}", data, Path(directory))
        assert os.listdir(directory) == ["in"]
        assert set(os.listdir(f"{directory}/in")) <= {"target"}
    if error is None:
        assert found == {name.removeprefix("./"): content for name, content in written.items()}
    else:
        assert found == {}
        assert "it." in str(error)


def test_in_place_nothing_has_its_name_while_an_archive_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datafetch.sink.sink.FLUSH_SECONDS", 0.02)
    config = DownloadConfig.model_validate(
        {"download_root": str(tmp_path), "download_items": [{**item(), "unpack": {}}]}
    )
    late = make_tar({"x": b"2"})
    bucket = MemoryBucket.of({"a.tar": make_tar({"x": b"1"}), "plain": b"p", "late.tar": late})
    bucket.before_read = lambda key, position: time.sleep(0.3 if key == "late.tar" else 0)
    with pytest.raises(UnsafePathError, match="collide"):
        Fetch(bucket, config).run()
    assert tree(tmp_path) == {}


# --- content ---------------------------------------------------------------------------------------------------------


@few
@given(
    parts=st.lists(st.binary(max_size=5000), min_size=1, max_size=3),
    most=st.integers(1, 5000),
    compression=st.sampled_from(list(COMPRESSORS)),
    padding=st.sampled_from([0, 4, 512]),
)
def test_streams_give_the_bytes_that_went_in_however_they_are_read(
    parts: list[bytes], most: int, compression: Compression, padding: int
) -> None:
    data = b"".join(map(COMPRESSORS[compression], parts)) + bytes(padding)
    assert decompressed(data, compression, most) == b"".join(parts)


@few
@given(
    size=st.integers(0, 30_000), share=st.floats(0, 1, exclude_max=True), compression=st.sampled_from(list(COMPRESSORS))
)
def test_a_stream_that_was_cut_is_damaged(size: int, share: float, compression: Compression) -> None:
    whole = COMPRESSORS[compression](random.Random(size).randbytes(size))
    with pytest.raises(DamagedError, match="ends in the middle"):
        decompressed(whole[: int(len(whole) * share)], compression)


def test_much_comes_out_of_little_in_pieces_of_bounded_size() -> None:
    for compression, compress in COMPRESSORS.items():
        with opened(compress(bytes(20 << 20))) as descriptor:
            stream = open_stream(descriptor, compression)
            lengths = []
            while piece := stream.read(1 << 20):
                lengths.append(len(piece))
        assert (sum(lengths), max(lengths)) == (20 << 20, 1 << 20)


@few
@given(
    files=st.dictionaries(SAFE_KEYS, st.binary(max_size=2000), max_size=6),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_readers_read_what_the_standard_library_writes(files: dict[str, bytes], form: int) -> None:
    data = make_tar(files, form)
    with opened(data) as descriptor:
        assert contents(TarReader(open_stream(descriptor, Compression.NONE))) == files
    data = make_zip(files)
    with opened(data) as descriptor:
        reader = ZipReader(descriptor, len(data))
        assert reader.promised == (len(files), sum(map(len, files.values())))
        assert contents(reader) == files


def test_long_names_and_large_sizes_are_read_in_every_dialect() -> None:
    files = {f"{'long' * 60}/{'name' * 50}": b"x" * 700, "short": b"y"}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with opened(make_tar(files, form)) as descriptor:
            assert contents(TarReader(open_stream(descriptor, Compression.NONE))) == files
    with opened(make_tar({"prefix" * 20 + "/name": b"z"}, tarfile.USTAR_FORMAT)) as descriptor:
        assert contents(TarReader(open_stream(descriptor, Compression.NONE))) == {"prefix" * 20 + "/name": b"z"}


def test_a_zip64_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(0x10001):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
        with archive.open(zipfile.ZipInfo("wide"), "w", force_zip64=True) as file:
            file.write(b"wide")
    data = buffer.getvalue()
    with opened(data) as descriptor:
        reader = ZipReader(descriptor, len(data))
        assert reader.promised == (0x10002, 4)
        assert contents(reader)["wide"] == b"wide"


FILES = {"a": b"first" * 300, "dir/b": os.urandom(3000), "c": b""}


@settings(few, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    as_zip=st.booleans(),
)
def test_whatever_the_bytes_are_only_our_errors_come_of_them(changes: list[tuple[int, bytes]], as_zip: bool) -> None:
    data = bytearray(make_zip(FILES) if as_zip else make_tar(FILES, tarfile.GNU_FORMAT))
    for offset, value in changes:
        at = offset % len(data)
        data[at : at + len(value)] = value
    with opened(bytes(data)) as descriptor, contextlib.suppress(DamagedError, UnsupportedError):
        if as_zip:
            contents(ZipReader(descriptor, len(data)))
        else:
            contents(TarReader(open_stream(descriptor, Compression.NONE)))
