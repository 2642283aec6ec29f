"""Rows by range: what planning cut is what workers read, once each and in order, whatever the content."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import gzip
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.planning import PlannedShard, PlanSummary, Staging, plan
from orchestrator.source_files import open_local
from orchestrator.spec import parse_job
from workers.contracts import ByteRange, CountRange, Row, RowGroupRange
from workers.sources import RangedFile, SourceError, read_rows, sniff_delimiter
from workers.store import ChangedObjectError
from workers.store_folder import FolderStore

# Each example gets names of its own in the one folder.
ANY_CONTENT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Few bytes make a block of every row or two, so that what lies across blocks is met.
CHUNKS = st.sampled_from([1, 16, 64, 1 << 17])
SHARD_SIZES = st.integers(1, 40)
# Text as files hold it: surrogates have no UTF-8, and a carriage return alone ends a line for old readers.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)
NAMES = st.text(max_size=5).filter(lambda name: name != "custom_id")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def planned(path: Path, size: int | None = None, **source: Any) -> tuple[PlanSummary, list[PlannedShard]]:
    spec = parse_job({"model": "echo", "prompt": "x", "source": {"file": str(path), **source}})
    shards: list[PlannedShard] = []
    staging = Staging(FolderStore(path.parent), "staged")
    summary = plan(spec, open_local(spec), staging, on_shards=shards.extend, items_per_shard=size)
    return summary, shards


def rows_of(path: Path, shards: list[PlannedShard]) -> list[Row]:
    store = FolderStore(path.parent)
    read = [list(read_rows(shard.source, store)) for shard in shards]
    assert [len(rows) for rows in read] == [shard.count for shard in shards]
    return [row for rows in read for row in rows]


def assert_in_order(shards: list[PlannedShard], items: int) -> None:
    assert [shard.number for shard in shards] == list(range(len(shards)))
    ends = [shard.first + shard.count for shard in shards]
    assert [shard.first for shard in shards] == [0, *ends[:-1]]
    assert ends[-1] == items


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=60),
    size=SHARD_SIZES,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    blank=st.booleans(),
    last=st.booleans(),
    chunk=CHUNKS,
)
@example(
    rows=[("a\n\nb", '"'), ("", "\x1c\u2028\x85")],
    size=1,
    delimiter=",",
    line_end="\r\n",
    mark=True,
    blank=True,
    last=False,
    chunk=1,
)
@ANY_CONTENT
def test_any_csv_is_read_back_once_in_order(
    rows: list[tuple[str, str]],
    size: int,
    delimiter: str,
    line_end: str,
    mark: bool,
    blank: bool,
    last: bool,
    chunk: int,
    tmp_path: Path,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    writer.writerow(["name", "other"])
    for row in rows:
        writer.writerow(row)
        if blank:
            text.write(line_end)
    content = ("\ufeff" if mark else "") + text.getvalue()
    if not last:
        content = content.removesuffix(line_end)
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    with patch("orchestrator.row_blocks._CHUNK", chunk):
        summary, shards = planned(path, size)
    assert rows_of(path, shards) == [{"name": name, "other": other} for name, other in rows]
    assert_in_order(shards, len(rows))
    assert summary.items == summary.rows == len(rows)


@given(
    rows=st.lists(st.dictionaries(NAMES, JSON, max_size=4), min_size=1, max_size=60),
    size=SHARD_SIZES,
    line_end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \n"]),
    mark=st.booleans(),
    last=st.booleans(),
    chunk=CHUNKS,
)
@ANY_CONTENT
def test_any_json_lines_are_read_back_once_in_order(
    rows: list[Row], size: int, line_end: bytes, mark: bool, last: bool, chunk: int, tmp_path: Path
) -> None:
    content = line_end.join(json.dumps(row).encode() for row in rows) + (line_end if last else b"")
    path = tmp_path / "rows.jsonl"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + content)
    with patch("orchestrator.row_blocks._CHUNK", chunk):
        _, shards = planned(path, size)
    assert rows_of(path, shards) == rows
    assert_in_order(shards, len(rows))


@given(count=st.integers(1, 40), groups=st.integers(5, 50), size=SHARD_SIZES, grid=st.integers(1, 20))
@settings(ANY_CONTENT, max_examples=25)
def test_any_parquet_is_read_back_once_in_order(count: int, groups: int, size: int, grid: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"number": list(range(count))}), path, row_group_size=groups)
    summary, shards = planned(path, size, grid={"tone": list(range(grid))})
    assert summary.items == count * grid
    assert_in_order(shards, count * grid)
    store = FolderStore(path.parent)
    for shard in shards:
        numbers = [row["number"] for row in read_rows(shard.source, store)]
        assert numbers == list(range(shard.first // grid, (shard.first + shard.count - 1) // grid + 1))
        assert shard.count <= size or len(numbers) == 1


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.csv.gz"])
def test_compressed_sources_are_staged_and_read_back(name: str, tmp_path: Path) -> None:
    if ".csv" in name:
        plain = b"number\n" + b"".join(b"%d\n" % number for number in range(5000))
    else:
        plain = b"".join(b'{"number": "%d"}\n' % number for number in range(5000))
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain) if name.endswith("gz") else pa.compress(plain, codec="zstd", asbytes=True))
    summary, shards = planned(path, 700)
    assert rows_of(path, shards) == [{"number": str(number)} for number in range(5000)]
    assert all(isinstance(shard.source, ByteRange) and shard.source.uri.startswith("staged/") for shard in shards)
    assert summary.bytes == len(plain)


def test_several_gzip_and_zstd_members_are_one_file(tmp_path: Path) -> None:
    first, second = b'{"a": 1}\n', b'{"a": 2}\n'
    zipped = tmp_path / "rows.jsonl.gz"
    zipped.write_bytes(gzip.compress(first) + gzip.compress(second))
    frames = tmp_path / "frames.jsonl.zst"
    frames.write_bytes(b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in (first, second)))
    for path in (zipped, frames):
        _, shards = planned(path)
        assert rows_of(path, shards) == [{"a": 1}, {"a": 2}]


def test_large_row_groups_are_staged_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    texts = [f"{number:05d}" * 200 for number in range(10_000)]
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 8 << 20
    _, shards = planned(path, 1000)
    assert all(isinstance(shard.source, ByteRange) for shard in shards)
    assert [row["text"] for row in rows_of(path, shards)] == texts


def test_small_row_groups_are_read_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(10))}), path, row_group_size=4)
    _, shards = planned(path, 3)
    places = [(s.source.group, s.source.offset, s.source.count) for s in shards if isinstance(s.source, RowGroupRange)]
    assert places == [(0, 0, 3), (0, 3, 1), (1, 0, 3), (1, 3, 1), (2, 0, 2)]


def test_parquet_values_become_json_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "day": [dt.date(2031, 5, 1)],
            "at": [dt.datetime(2031, 5, 1, 12, tzinfo=dt.UTC)],
            "price": [decimal.Decimal("19.90")],
            "nothing": pa.array([float("nan")]),
            "tags": [["a", "b"]],
            "size": [{"width": 2.5}],
            "raw": [b"\x00"],
        }
    )
    pq.write_table(table, path)
    _, shards = planned(path)
    (row,) = rows_of(path, shards)
    assert row == {
        "day": "2031-05-01",
        "at": "2031-05-01T12:00:00+00:00",
        "price": "19.90",
        "nothing": None,
        "tags": ["a", "b"],
        "size": {"width": 2.5},
    }
    assert orjson.loads(orjson.dumps(row)) == row


def test_numbered_rows_hold_their_index(tmp_path: Path) -> None:
    rows = list(read_rows(CountRange(start=3, count=2), FolderStore(tmp_path)))
    assert rows == [{"index": 3}, {"index": 4}]


def test_a_source_that_changed_after_planning_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    _, shards = planned(path)
    path.write_bytes(b'{"a": 2}\n{"a": 3}\n')
    with pytest.raises(ChangedObjectError, match=r"rows\.jsonl changed"):
        rows_of(path, shards)


def test_a_range_that_does_not_hold_what_was_planned_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("rows.jsonl", b'{"a": 1}\n{"a": 2\n')
    short = ByteRange(uri="rows.jsonl", etag=None, format="jsonl", offset=9, length=100)
    with pytest.raises(SourceError, match="ends at byte 17"):
        read_rows(short, store)
    broken = ByteRange(uri="rows.jsonl", etag=None, format="jsonl", offset=9, length=8)
    with pytest.raises(SourceError, match="not what was planned"):
        read_rows(broken, store)
    store.put("rows.parquet", b"PAR1")
    with pytest.raises(SourceError, match="row group 0"):
        read_rows(RowGroupRange(uri="rows.parquet", etag=None, group=0, offset=0, count=1), store)


def test_the_delimiter_is_found_outside_of_quotes() -> None:
    assert sniff_delimiter('"a;b;c",d') == ","
    assert sniff_delimiter("a;b") == ";"
    assert sniff_delimiter("a\tb,c\td") == "\t"
    assert sniff_delimiter("single") == ","


def test_a_ranged_file_reads_what_is_asked(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a", b"0123456789")
    file = RangedFile(store, "a", None)
    assert file.seek(-3, io.SEEK_END) == 7
    assert file.read(2) == b"78"
    assert file.read() == b"9"
    assert file.read(1) == b""
    assert (file.tell(), file.seekable(), file.readable()) == (10, True, True)
