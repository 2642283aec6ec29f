"""Planning and reading on both object stores."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.planning import PlannedShard, PlanSummary, Staging, plan
from orchestrator.source_files import open_source
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from workers.sources import read_rows
from workers.store import UPLOAD_SCHEME, ChangedObjectError, ObjectStore, open_store

ROWS = [{"name": f"product {number}", "custom_id": str(number)} for number in range(3000)]
LINES = b"".join(b'{"name": "product %d", "custom_id": "%d"}\n' % (number, number) for number in range(3000))


@dataclass
class Bench:
    """A store, and where a source lies in it: as an upload, or as a foreign S3 object."""

    store: ObjectStore
    planned: list[PlannedShard] = field(default_factory=list)

    def job(self, key: str) -> JobSpec:
        foreign = self.store.url.startswith("s3://")
        uri = f"{self.store.url}/{key}" if foreign else f"{UPLOAD_SCHEME}{key}"
        return parse_job({"model": "echo", "prompt": "{{ name }}", "source": {"file": uri}})

    def plan(self, key: str) -> PlanSummary:
        spec = self.job(key)
        source = open_source(spec, self.store)
        return plan(
            spec, source, Staging(self.store, "jobs/1/input/2"), on_shards=self.planned.extend, items_per_shard=700
        )

    def read(self) -> list[dict[str, str]]:
        return [row for shard in self.planned for row in read_rows(shard.source, self.store)]


@pytest.fixture
def bench(store_url: str) -> Bench:
    return Bench(open_store(store_url))


def parquet(groups: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=groups)
    return file.getvalue()


SOURCES = {
    "rows.jsonl": LINES,
    "rows.csv": b"name,custom_id\n" + b"".join(f"{row['name']},{row['custom_id']}\n".encode() for row in ROWS),
    "rows.jsonl.gz": gzip.compress(LINES, mtime=0),
    "rows.jsonl.zst": pa.compress(LINES, codec="zstd", asbytes=True),
    "rows.parquet": parquet(1000),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_planned_and_read_back(name: str, bench: Bench) -> None:
    bench.store.put(f"inputs/01J/{name}", SOURCES[name])
    summary = bench.plan(f"inputs/01J/{name}")
    assert (summary.rows, summary.custom_id) == (3000, "custom_id")
    assert bench.read() == ROWS
    staged = [key for key in bench.store.list("jobs/") if key]
    assert bool(staged) == name.endswith((".gz", ".zst"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "ends too early"),
        ("rows.jsonl.gz", b"nothing", "cannot be decompressed"),
        ("rows.jsonl.zst", b"nothing", "cannot be decompressed"),
        ("rows.parquet", parquet(1000)[:-20], "not a whole Parquet file"),
        ("rows.parquet", parquet(1000)[:100] + bytes(2000) + parquet(1000)[2100:], "row group 0"),
        ("rows.jsonl", b"", "is empty"),
    ],
)
def test_a_broken_source_is_told_as_such_and_leaves_nothing(name: str, content: bytes, says: str, bench: Bench) -> None:
    bench.store.put(f"inputs/01J/{name}", content)
    with pytest.raises(SpecError, match=says) as caught:
        bench.plan(f"inputs/01J/{name}")
    assert name in str(caught.value)
    assert list(bench.store.list("jobs/")) == []


def test_a_source_that_does_not_exist_is_named(bench: Bench) -> None:
    with pytest.raises(SpecError, match=r"rows\.csv: there is no such (object|upload)"):
        bench.plan("inputs/01J/rows.csv")


def test_a_foreign_object_is_pinned_to_the_version_that_was_planned(s3_url: str) -> None:
    bench = Bench(open_store(s3_url))
    bench.store.put("rows.jsonl", LINES)
    bench.plan("rows.jsonl")
    bench.store.put("rows.jsonl", LINES.replace(b"product", b"PRODUCT"))
    with pytest.raises(ChangedObjectError, match=r"rows\.jsonl"):
        bench.read()


def test_a_folder_of_s3_is_no_source(s3_url: str) -> None:
    with pytest.raises(SpecError, match="is a folder"):
        Bench(open_store(s3_url)).plan("folder/")
