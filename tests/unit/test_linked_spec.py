"""What a job file says of linked tables: fitted, and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from models.spec import Usage
from orchestrator.jobfile import load_job_file
from orchestrator.planning import Staging, parent_rows, training_rows
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.table_spec import ParentRows
from workers.contracts import (
    CountRange,
    Counts,
    Part,
    ReportWork,
    ShardReport,
    ShardTask,
    Work,
    decode,
    encode,
    lowest_version,
)
from workers.store_folder import FolderStore

PARENT: dict[str, Any] = {"file": "s3://bucket/customers.csv", "key": "id", "columns": {"tier": "categorical"}}
DATA: dict[str, Any] = {
    "file": "s3://bucket/orders.csv",
    "foreign_key": "customer",
    "order_by": "day",
    "parent": PARENT,
}
FIT: dict[str, Any] = {"kind": "train", "model": "orders", "data": DATA, "training": {"family": "tabular-argn"}}
JOB_ID = "01J" + "0" * 23
SAMPLE: dict[str, Any] = {"kind": "tabular", "model": "orders", "table": {"parent": JOB_ID}}


def task(work: Work) -> ShardTask:
    return ShardTask(job="j", shard=0, token=1, first=0, count=1, source=CountRange(start=0, count=1), work=work)


def test_a_fit_becomes_work_and_comes_back_from_json() -> None:
    spec = parse_job(FIT)
    assert parse_job(spec.to_json()) == spec
    assert spec.input_files == {"data.file": DATA["file"], "data.parent.file": PARENT["file"]}
    assert spec.with_input("data.parent.file", "s3://b/x.csv").input_files["data.parent.file"] == "s3://b/x.csv"
    own, subjects = CountRange(start=0, count=1), CountRange(start=0, count=2)
    work = spec.work(None, rows=(own,), parent_rows=(subjects,))
    assert work.train is not None
    fit = work.train.fit
    assert fit is not None
    assert (fit.rows, fit.foreign_key, fit.order_by) == ((own,), "customer", "day")
    assert fit.parent is not None
    assert (fit.parent.rows, fit.parent.key, fit.parent.columns) == ((subjects,), "id", {"tier": "categorical"})
    assert lowest_version(task(work)) == 9
    assert decode(encode(task(work)), ShardTask).work == work
    alone = parse_job({**FIT, "data": {"file": DATA["file"]}})
    assert lowest_version(task(alone.work(None))) == 8


def test_subjects_may_come_out_of_the_database() -> None:
    parent = {"query": "SELECT * FROM customers", "key": "id"}
    spec = parse_job({**FIT, "data": {**DATA, "parent": parent, "database": "shop"}})
    work = spec.work(None)
    assert work.train is not None
    assert work.train.fit is not None
    assert work.train.fit.parent is not None
    assert (work.train.fit.parent.query, work.train.fit.database) == ("SELECT * FROM customers", "shop")
    assert spec.over_parent() is None


@pytest.mark.parametrize(
    ("changed", "param", "says"),
    [
        ({"foreign_key": None}, "data", "order_by is for a linked table; give foreign_key"),
        ({"foreign_key": None, "order_by": None}, "data", "parent is for a linked table; give foreign_key"),
        ({"order_by": "customer"}, "data", "the same in all of a sequence"),
        ({"columns": {"customer": "categorical"}}, "data", "columns.customer: it is the foreign key"),
        ({"parent": {"file": "s3://b/x.csv"}}, "data.parent.key", "key is missing"),
        ({"parent": {"key": "id"}}, "data.parent", "one of file and query"),
        ({"parent": {**PARENT, "query": "SELECT 1"}}, "data.parent", "one of file and query"),
        ({"parent": {**PARENT, "columns": {"id": "text"}}}, "data.parent", "columns.id: it is the key"),
        ({"parent": {"query": "SELECT 1", "key": "id"}}, "data", "query and database go together"),
        ({"database": "shop"}, "data", "query and database go together"),
        (
            {"parent": {"query": "SELECT 1", "key": "id", "format": "csv"}, "database": "shop"},
            "data.parent",
            "format is for a file",
        ),
    ],
)
def test_a_fit_that_does_not_go_together_says_why(changed: dict[str, Any], param: str, says: str) -> None:
    data = {name: value for name, value in {**DATA, **changed}.items() if value is not None}
    with pytest.raises(SpecError, match=says) as caught:
        parse_job({**FIT, "data": data})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("training", "data", "says"),
    [
        ({"family": "tabular-gan"}, DATA, "data.foreign_key: tabular-gan learns rows that stand alone.*tabular-argn"),
        ({"family": "tabular-vae"}, DATA, "data.foreign_key: tabular-vae learns rows that stand alone"),
        ({"family": "vae"}, {"folder": "s3://b/x/", "foreign_key": "a"}, "foreign_key is for rows"),
        (
            {"family": "lora", "base": "smollm2-135m"},
            {"file": "s3://b/x.csv", "foreign_key": "a", "prompt": "x", "completion": "y"},
            "data.foreign_key is for tables",
        ),
    ],
)
def test_only_one_family_learns_sequences(training: dict[str, Any], data: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_job({**FIT, "training": training, "data": data})


def test_a_sampling_becomes_work() -> None:
    spec = parse_job(SAMPLE)
    assert parse_job(spec.to_json()) == spec
    assert spec.table is not None
    work = spec.work(None, subjects=spec.table.work(ParentRows(rows=950, block=300, parts="jobs/x/parts.json")))
    assert work.table is not None
    assert (work.table.linked, work.table.rows, work.table.block) == (True, 950, 300)
    assert (work.table.parent, work.table.most) == ("jobs/x/parts.json", None)
    assert lowest_version(task(work)) == 9
    assert decode(encode(task(work)), ShardTask).work == work
    report = ReportWork(job="j", parts="p", name="n", seed=1, table=work.table)
    none: dict[str, Any] = {"messages": (), "sampling": {}}
    assert lowest_version(task(Work(model="m", engine="e", seed=1, report=report, **none))) == 9
    assert shape_of(spec) == "a parent's blocks"

    subjects = parse_job({**SAMPLE, "table": {"subjects": 2500, "block": 1000}})
    assert subjects.source.count == 3
    own = subjects.work(None).table
    assert own is not None
    assert (own.linked, own.rows, own.parent, own.rows_of(2)) == (True, 2500, None, 500)
    assert shape_of(subjects) == "blocks of 1000 subjects"

    rows = parse_job({**SAMPLE, "table": {"rows": 2500}}).work(None)
    assert lowest_version(task(rows)) == 8


def test_a_report_of_rows_that_were_counted_is_of_the_new_version() -> None:
    part = Part(key="k", bytes=1, sha256="0", counts=Counts(1, 0), usage=Usage(), rows=7)
    report = ShardReport(job="j", shard=0, token=1, execution="e", worker="w", sequence=1, event="finished", part=part)
    assert lowest_version(report) == 9
    assert decode(encode(report), ShardReport).part == part


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "needs rows: how many; of a linked model, parent or subjects"),
        ({"rows": 5, "parent": JOB_ID}, "has rows and parent; give one"),
        ({"rows": 5, "subjects": 5}, "has rows and subjects; give one"),
        ({"parent": "yesterday's"}, "table.parent"),
        ({"parent": JOB_ID, "block": 500}, "block is the parent's"),
        ({"parent": JOB_ID, "subjects": 101}, "with parent it is at most 100"),
        ({"subjects": 0}, "table.subjects"),
        (
            {"parent": JOB_ID, "accept": {"unique": ["amount"]}},
            "accept.unique and accept.dependencies are about all rows",
        ),
        (
            {"subjects": 10, "accept": {"dependencies": [{"from": "a", "to": "b"}]}},
            "accept.unique and accept.dependencies are about all rows",
        ),
    ],
)
def test_a_sampling_that_does_not_go_together_says_why(table: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_job({**SAMPLE, "table": table})


def fit_of_files(folder: Path, **data: Any) -> Any:
    (folder / "orders.csv").write_text("customer,day,amount\n" + "1,2024-01-01,5\n" * 30)
    (folder / "customers.csv").write_text("id,tier\n1,gold\n2,basic\n")
    own = {"file": "orders.csv", "foreign_key": "customer", "parent": {"file": "customers.csv", "key": "id"}, **data}
    job = folder / "job.json"
    job.write_bytes(orjson.dumps({**FIT, "data": own}))
    return load_job_file(job)


def test_paths_of_both_tables_are_relative_to_the_job_file(tmp_path: Path) -> None:
    spec = fit_of_files(tmp_path)
    assert spec.input_files == {
        "data.file": str(tmp_path / "orders.csv"),
        "data.parent.file": str(tmp_path / "customers.csv"),
    }


@pytest.mark.parametrize(
    ("data", "param", "says"),
    [
        ({"foreign_key": "custmer"}, "data.foreign_key", "no column 'custmer'; did you mean 'customer'"),
        ({"order_by": "when"}, "data.order_by", "no column 'when'; there are customer, day, amount"),
        ({"parent": {"file": "customers.csv", "key": "key"}}, "data.parent.key", "no column 'key'; there are id, tier"),
        (
            {"parent": {"file": "customers.csv", "key": "id", "columns": {"teer": "text"}}},
            "data.parent.columns",
            "did you mean 'tier'",
        ),
    ],
)
def test_columns_that_there_are_not_are_found_in_planning(
    tmp_path: Path, data: dict[str, Any], param: str, says: str
) -> None:
    spec = fit_of_files(tmp_path, **data)
    store = FolderStore(tmp_path / "store")
    for field, file in spec.input_files.items():
        key = f"inputs/01X/{Path(file).name}"
        store.put(key, Path(file).read_bytes())
        spec = spec.with_input(field, f"nightmill://{key}")
    staging = Staging(store, "staged")
    find = parent_rows if param.startswith("data.parent") else training_rows
    with pytest.raises(SpecError, match=says) as caught:
        find(spec, store, staging)
    assert caught.value.param == param


def test_both_tables_are_planned_beside_each_other(tmp_path: Path) -> None:
    import gzip

    spec = fit_of_files(tmp_path)
    store = FolderStore(tmp_path / "store")
    for field, file in spec.input_files.items():
        key = f"inputs/01X/{Path(file).name}.gz"
        store.put(key, gzip.compress(Path(file).read_bytes()))
        spec = spec.with_input(field, f"nightmill://{key}")
    staging = Staging(store, "staged")
    own, subjects = training_rows(spec, store, staging), parent_rows(spec, store, staging)
    contents = [store.get(getattr(found[0], "uri")).partition(b"\n")[0] for found in (own, subjects)]  # noqa: B009
    assert contents == [b"customer,day,amount", b"id,tier"]
