"""Files of `datafetch.source(...).open(...)` in the hands of pandas and pyarrow: the right data, by ranges."""

import io
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pandas as pd  # type: ignore[import-untyped]  # its types are a package of their own
import pyarrow as pa  # type: ignore[import-untyped]  # it has none
import pytest
from pyarrow import parquet

import datafetch
from component.places import S3Place
from datafetch.reading import BUFFER_BYTES
from servers.faults import FaultProxy

ROWS, GROUPS = 400_000, 8


@pytest.fixture
def proxy(s3: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that sees every request for a bucket with a table, where AWS's own variables lead to."""
    table = pa.table({"id": range(ROWS), "noise": [os.urandom(8) for _ in range(ROWS)]})
    stream = io.BytesIO()
    parquet.write_table(table, stream, row_group_size=ROWS // GROUPS)
    text = b"id,name\n" + b"".join(b"%d,name %d\n" % (number, number) for number in range(20_000))
    s3.fill({"tables/t.parquet": stream.getvalue(), "tables/t.csv": text})
    upstream = urlsplit(s3.server.url)
    with FaultProxy(upstream.hostname or "", upstream.port or 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.server.secret_key)
        yield proxy


def ranges(proxy: FaultProxy) -> list[tuple[int, int]]:
    """What was asked for of the table, and sent: first byte and end."""
    found = []
    for exchange in proxy.traffic.exchanges:
        if exchange.method == "GET" and exchange.path.endswith(".parquet"):
            start = int(exchange.headers["range"].removeprefix("bytes=").partition("-")[0])
            found.append((start, start + exchange.sent))
    return found


def test_pandas_reads_a_csv(proxy: FaultProxy, s3: S3Place) -> None:
    with datafetch.source(f"s3://{s3.bucket}/tables/") as tables, tables.open("t.csv") as file:
        frame = pd.read_csv(file)

    assert len(frame) == 20_000
    assert frame["name"].iloc[-1] == "name 19999"


def test_pandas_reads_a_column_of_a_parquet_file_without_the_others(proxy: FaultProxy, s3: S3Place) -> None:
    with datafetch.source(f"s3://{s3.bucket}/tables/") as tables, tables.open("t.parquet") as file:
        frame = pd.read_parquet(file, columns=["id"])
        size = tables.stat("t.parquet").size or 0

    assert frame["id"].sum() == ROWS * (ROWS - 1) // 2
    assert sum(end - start for start, end in ranges(proxy)) < size / 2


def test_pyarrow_reads_one_row_group_by_its_ranges(proxy: FaultProxy, s3: S3Place) -> None:
    with datafetch.source(f"s3://{s3.bucket}/tables/") as tables, tables.open("t.parquet") as file:
        opened = parquet.ParquetFile(file)
        footer = ranges(proxy)
        group = opened.read_row_group(5, columns=["noise"])
        column = opened.metadata.row_group(5).column(1)
        size = tables.stat("t.parquet").size or 0

    assert group.num_rows == ROWS // GROUPS
    assert all(start >= size - 2 * BUFFER_BYTES for start, _ in footer), "the footer alone tells what is where"
    first = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    last = first + column.total_compressed_size
    asked = ranges(proxy)[len(footer) :]
    assert asked
    assert all(first - BUFFER_BYTES <= start and end <= last + BUFFER_BYTES for start, end in asked), (
        first,
        last,
        asked,
    )
    assert sum(end - start for start, end in asked) <= last - first + 2 * BUFFER_BYTES
    assert last - first < size / 6


def test_pyarrow_reads_the_whole_table(proxy: FaultProxy, s3: S3Place) -> None:
    with datafetch.source(f"s3://{s3.bucket}/tables/") as tables, tables.open("t.parquet") as file:
        table = parquet.read_table(pa.PythonFile(file, mode="r"))

    assert table.column("id").to_pylist() == list(range(ROWS))
