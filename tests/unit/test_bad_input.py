"""Every kind of bad input, and what is said of it: one row of the table each."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.jobfile import load_job_file
from orchestrator.planning import Staging, plan, plan_here
from orchestrator.source_files import open_source
from orchestrator.spec import parse_job
from orchestrator.spec_error import SpecError
from orchestrator.static_checks import check_static
from workers.store_folder import FolderStore

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
PARQUET = io.BytesIO()
pq.write_table(pa.table({"name": ["tent"], "blob": [b"\x00"]}), PARQUET)
BIG = b"".join(b'{"name": "row %d"}\n' % index for index in range(30_000))
ZSTD = pa.compress(b'{"name": "a"}\n' * 100_000, codec="zstd", asbytes=True)


@dataclass(frozen=True)
class Bad:
    """A source's content, or a change to a good job, and what the message must say."""

    says: tuple[str, ...]
    content: bytes | None = None
    name: str = "products.csv"
    job: dict[str, Any] = field(default_factory=dict)
    line: int | None = None
    param: str | None = None


SOURCES = {
    "empty file": Bad(("products.csv", "is empty"), b""),
    "only blank lines": Bad(("is empty",), b"\n\n"),
    "only a header": Bad(("header", "no rows"), b"name,price\n"),
    "an empty JSON lines file": Bad(("is empty",), b"", "rows.jsonl"),
    "bad UTF-8 in CSV": Bad(("line 3", "UTF-8", "0xE9"), b"name\na\nbl\xe9\n", line=3),
    "bad UTF-8 in JSON lines": Bad(
        ("line 2", "UTF-8", "0xFF"), b'{"name": "a"}\n{"name": "\xff"}\n', "r.jsonl", line=2
    ),
    "UTF-16": Bad(("UTF-16", "save it as UTF-8"), "name\na\n".encode("utf-16")),
    "too many cells": Bad(
        ("line 3", "has 3 cells", "has 2 (name, price)", "quotes"), b"name,price\na,1\nb,2,3\n", line=3
    ),
    "too few cells": Bad(("line 2", "has 1 cell,", "has 2"), b"name,price\na\n", line=2),
    "too many cells after a cell of several lines": Bad(("line 4", "3 cells"), b'name,p\n"a\nb",1\nc,1,2\n', line=4),
    "a quote that is never closed": Bad(("line 3", "never closed"), b'name,price\na,1\n"b,2\nc,3\n', line=3),
    "text after a closing quote": Bad(("line 2", "twice"), b'name,price\n"a"b,2\n', line=2),
    "old line ends": Bad(("carriage return",), b"name,price\na\rb,1\n", line=2),
    "a column twice": Bad(("line 1", "'name' twice"), b"name,name\na,b\n", line=1),
    "a column without a name": Bad(("line 1", "column 2", "no name"), b"name,\na,b\n", line=1),
    "a broken line in a large file": Bad(
        ("rows.jsonl, line 30001", "not valid JSON", '{"name": '), BIG + b'{"name": \n' + BIG, "rows.jsonl", line=30_001
    ),
    "a line that is no object": Bad(("line 2", "an array", "object"), b'{"name": 1}\n[1]\n', "r.jsonl", line=2),
    "a line that is a number": Bad(("line 1", "a number"), b"5\n", "r.jsonl", line=1),
    "one JSON array": Bad(("one JSON array", "one object a line"), b'[{"name": 1}]', "r.jsonl"),
    "the same id twice": Bad(
        ("line 4", "custom_id is 'x'", "on line 1"),
        b'{"name": 1, "custom_id": "x"}\n\n{"name": 1, "custom_id": "y"}\n{"name": 2, "custom_id": "x"}\n',
        "r.jsonl",
        line=4,
    ),
    "the same id as number and text": Bad(
        ("line 2", "as on line 1"), b'{"name": 1, "custom_id": "1"}\n{"name": 1, "custom_id": 1}\n', "r.jsonl", line=2
    ),
    "the same id twice in CSV": Bad(
        ("line 4", "sku is 'x'", "line 2"),
        b'name,sku\n"a\nb",x\nc,x\n',
        job={"source": {"custom_id": "sku"}},
        line=4,
        param="source.custom_id",
    ),
    "an id that is missing": Bad(
        ("line 2", "has no 'custom_id'"), b'{"name": 1, "custom_id": 1}\n{"name": 2}\n', "r.jsonl"
    ),
    "an id only later": Bad(("line 2", "first row has none"), b'{"name": 1}\n{"name": 2, "custom_id": 1}\n', "r.jsonl"),
    "an id that is null": Bad(("line 1", "not there"), b'{"name": 1, "custom_id": null}\n', "r.jsonl"),
    "an id that is empty": Bad(("line 2", "sku is empty"), b"name,sku\na,\n", job={"source": {"custom_id": "sku"}}),
    "an id that is too long": Bad(("line 2", "512"), b"name,custom_id\na," + b"x" * 513 + b"\n"),
    "an id column that is not there": Bad(
        ("custom_id is 'skus'", "did you mean 'sku'"), b"name,sku\na,1\n", job={"source": {"custom_id": "skus"}}
    ),
    "a field that is no column": Bad(
        ("line 1", "prompt names the field 'name'", "did you mean 'names'"), b"names\na\n", line=1, param="prompt"
    ),
    "a field that a row lacks": Bad(
        ("line 2", "no field 'name'", "did you mean 'nmae'"), b'{"name": 1}\n{"nmae": 2}\n', "r.jsonl", line=2
    ),
    "a field of system that is no column": Bad(
        ("system names the field 'brand'",), b"name\na\n", job={"system": "You are {{ brand }}"}, param="system"
    ),
    "a field inside of a field": Bad(
        ("line 2", "no 'size'", "width"),
        b'{"name": {"size": 1}}\n{"name": {"width": 1}}\n',
        "r.jsonl",
        {"prompt": "{{ name.size }}"},
        line=2,
    ),
    "arithmetic with text": Bad(("line 2", "prompt"), b"name\na\n", job={"prompt": "{{ name + 1 }}"}, line=2),
    "leaving the sandbox": Bad(
        ("prompt, line 1 of the template", "may not use '__class__'"),
        b"name\na\n",
        job={"prompt": "{{ name.__class__.__mro__ }}"},
        param="prompt",
    ),
    "a template that never ends": Bad(
        ("too many steps",),
        b"name\na\n",
        job={"prompt": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"},
    ),
    "a prompt that is too long": Bad(
        ("line 2", "1,048,576"), b'{"name": "a"}\n{"name": "' + b"x" * 1_100_000 + b'"}\n', "r.jsonl", line=2
    ),
    "a grid over a column": Bad(("'name' is also a field",), b"name\na\n", job={"source": {"grid": {"name": ["x"]}}}),
    "keep of no column": Bad(
        ("keep names 'pric'", "did you mean 'price'"), b"name,price\na,1\n", job={"keep": ["pric"]}
    ),
    "a bound that is no number": Bad(
        ("line 2", "limit is 'many'", "whole number"),
        b"name,limit\na,many\n",
        job={"max_tokens_field": "limit"},
        line=2,
    ),
    "a bound that is no column": Bad(
        ("max_tokens_field is 'limits'", "'limit'"), b"name,limit\na,5\n", job={"max_tokens_field": "limits"}
    ),
    "broken gzip": Bad(("products.csv.gz", "cannot be decompressed", "gzip -t"), b"name\na\n", "products.csv.gz"),
    "gzip that ends early": Bad(
        ("ends too early",), gzip.compress(b"name\n" + b"abc\n" * 9999)[:-20], "products.csv.gz"
    ),
    "broken zstd": Bad(("r.jsonl.zst", "cannot be decompressed", "zstd -t"), b"no zstd at all", "r.jsonl.zst"),
    "zstd that ends early": Bad(("r.jsonl.zst", "zstd -t"), ZSTD[: len(ZSTD) // 2], "r.jsonl.zst"),
    "an error inside of gzip": Bad(
        ("r.jsonl.gz, line 2", "not valid JSON"), gzip.compress(b'{"name":1}\n{\n'), "r.jsonl.gz"
    ),
    "gzip without its ending": Bad(("compressed with gzip", "products.csv.gz"), gzip.compress(b"name\na\n")),
    "a spreadsheet as CSV": Bad(("ZIP archive or a spreadsheet",), b"PK\x03\x04..."),
    "Parquet as CSV": Bad(("is a Parquet file",), PARQUET.getvalue()),
    "no Parquet at all": Bad(("not a Parquet file", "PAR1"), b"name\na\n", "rows.parquet"),
    "Parquet that is cut off": Bad(("not a whole Parquet file",), PARQUET.getvalue()[:-9], "rows.parquet"),
    "Parquet with a broken page": Bad(
        ("row group 0",), PARQUET.getvalue()[:4] + b"\xff" * 30 + PARQUET.getvalue()[34:], "rows.parquet"
    ),
    "raw bytes in a prompt": Bad(("'blob'", "raw bytes"), PARQUET.getvalue(), "rows.parquet", {"prompt": "{{ blob }}"}),
    "a wrong ending": Bad(("'.xlsx'", "known are", "CSV"), b"x", "products.xlsx", param="source.file"),
    "JSON instead of JSON lines": Bad(("'.json'", "one object a line"), b"{}", "rows.json"),
    "no ending": Bad(("no ending", "source.format"), b"x", "products"),
}

JOBS = {
    "an unknown model": Bad(("no model 'ecko'", "did you mean 'echo'"), job={"model": "ecko"}, param="model"),
    "no model": Bad(("model is missing",), job={"model": None, "kind": "text"}),
    "max_tokens 0": Bad(("sampling.max_tokens: 0", "at least 1"), job={"sampling": {"max_tokens": 0}}),
    "max_tokens above the limit": Bad(("at most 32768",), job={"sampling": {"max_tokens": 32769}}),
    "min_tokens above max_tokens": Bad(
        ("min_tokens is 9", "above max_tokens"), job={"sampling": {"max_tokens": 8, "min_tokens": 9}}
    ),
    "an unknown key": Bad(("modle", "did you mean 'model'"), job={"modle": "echo"}, param="modle"),
    "an unknown key further in": Bad(
        ("sampling.temprature", "did you mean 'temperature'"),
        job={"sampling": {"temprature": 1}},
        param="sampling.temprature",
    ),
    "an unknown key of a source": Bad(("source.colour", "there is file, items"), job={"source": {"colour": 1}}),
    "two sources": Bad(("file and count",), job={"source": {"count": 5}}),
    "no prompt": Bad(("no prompt",), job={"prompt": None}),
    "prompt and messages": Bad(("both",), job={"messages": [{"role": "user", "content": "x"}]}),
    "a role that is none": Bad(
        ("messages[0].role: 'bot'", "'assistant'"), job={"prompt": None, "messages": [{"role": "bot", "content": "x"}]}
    ),
    "too much metadata": Bad(("metadata", "at most 16"), job={"metadata": {str(i): "x" for i in range(17)}}),
    "a metadata value that is too long": Bad(("metadata.a", "at most 512"), job={"metadata": {"a": "x" * 513}}),
    "a metadata key that is too long": Bad(("at most 64",), job={"metadata": {"a" * 65: "x"}}),
    "n out of range": Bad(("n: 65", "at most 64"), job={"n": 65}),
    "a seed that is text": Bad(("seed must be a whole number", "'x'"), job={"seed": "x"}),
    "a deadline in the past": Bad(("is in the past", "2031-05-01"), job={"deadline": "2020-01-01T00:00:00Z"}),
    "a deadline without a zone": Bad(("no time zone",), job={"deadline": "2032-01-01T00:00:00"}),
    "a deadline that is none": Bad(("'soon'", "12h"), job={"deadline": "soon"}),
    "a deadline of no time": Bad(("no time at all",), job={"deadline": "0h"}),
    "a deadline in another age": Bad(("ten years",), job={"deadline": "9999d"}),
    "a syntax error": Bad(("prompt, line 2", "{{ name"), job={"prompt": "A\nB {{ name }"}, param="prompt"),
    "a block without an end": Bad(("endif",), job={"prompt": "{% if name %}x"}),
    "an unknown filter": Bad(("no filter 'uper'", "'upper'"), job={"prompt": "{{ name | uper }}"}),
    "an include": Bad(("line 1", "{% include %}"), job={"prompt": "{% include '/etc/passwd' %}"}),
    "a syntax error in a message": Bad(
        ("messages[1].content",),
        job={"prompt": None, "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "{{"}]},
        param="messages[1].content",
    ),
    "an empty schema": Bad(("allows anything",), job={"schema": {}}, param="schema"),
    "a schema of any object": Bad(("any object", "properties"), job={"schema": {"type": "object"}}),
    "a schema of no object": Bad(("object", "array"), job={"schema": {"type": "array", "items": {"type": "string"}}}),
    "an invalid schema": Bad(("not a valid JSON Schema", "'strng'"), job={"schema": {"type": "strng"}}),
    "a keyword that cannot be enforced": Bad(
        ("'uniqueItems'", "cannot be enforced", "/properties/a"),
        job={"schema": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}},
    ),
    "faults that are switched off": Bad(("NIGHTMILL_ALLOW_FAULTS=1",), job={"options": {"fail_rate": 0.5}}),
    "a path in a submitted job": Bad(("path on your machine", "upload"), job={"source": {"file": "/tmp/a.csv"}}),
    "another scheme": Bad(("gs:// is not read",), job={"source": {"file": "gs://b/a.csv"}}),
}


def good_job(path: Path | str, changes: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = {"model": "echo", "prompt": "Describe {{ name }}", "source": {"file": str(path)}}
    source = {**job["source"], **changes.get("source", {})}
    merged = {**job, **changes, "source": source}
    return {name: value for name, value in merged.items() if value is not None}


def refusal(run: Callable[[], object]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        run()
    return caught.value


def check(error: SpecError, bad: Bad) -> None:
    for part in bad.says:
        assert part in str(error), f"{part!r} is not in: {error}"
    if bad.line is not None:
        assert error.line == bad.line
    if bad.param is not None:
        assert error.param == bad.param


@pytest.mark.parametrize("bad", SOURCES.values(), ids=SOURCES.keys())
def test_a_bad_source_is_refused_by_name(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.name
    path.write_bytes(bad.content or b"")
    spec = parse_job(good_job(path, bad.job))
    error = refusal(lambda: plan_here(spec))
    check(error, bad)
    if error.file is not None:
        assert error.file == str(path)


@pytest.mark.parametrize("bad", JOBS.values(), ids=JOBS.keys())
def test_a_bad_job_is_refused_before_its_source_is_read(bad: Bad, tmp_path: Path) -> None:
    def submit() -> None:
        spec = parse_job(good_job("nightmill://inputs/1/p.csv", bad.job))
        check_static(spec, NOW)
        open_source(spec, FolderStore(tmp_path))

    check(refusal(submit), bad)


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("name\na\n")
    spec = parse_job(good_job(tmp_path / "product.csv", {}))
    error = refusal(lambda: plan_here(spec))
    assert "there is no such file; did you mean" in str(error)
    assert "products.csv?" in str(error)


def test_a_directory_is_no_source(tmp_path: Path) -> None:
    spec = parse_job(good_job(tmp_path, {}))
    assert "is a directory" in str(refusal(lambda: plan_here(spec)))


def test_an_upload_that_is_gone_is_called_as_its_owner_calls_it(tmp_path: Path) -> None:
    spec = parse_job(good_job("nightmill://inputs/01J/products.csv", {}))
    error = refusal(lambda: open_source(spec, FolderStore(tmp_path)))
    assert str(error) == "products.csv: there is no such upload"


def test_a_bad_upload_is_called_as_its_owner_calls_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("inputs/01J/products.csv", b"name\na,b\n")
    spec = parse_job(good_job("nightmill://inputs/01J/products.csv", {}))
    staging = Staging(store, "jobs/1/input")
    error = refusal(lambda: plan(spec, open_source(spec, store), staging, on_shards=lambda _shards: None))
    assert str(error).startswith("products.csv, line 2: has 2 cells")


def test_a_bad_item_is_named_by_its_number() -> None:
    spec = parse_job({"model": "echo", "prompt": "{{ a }}", "source": {"items": [{"a": 1}, {"b": 2}]}})
    error = refusal(lambda: plan_here(spec))
    assert "item 2: prompt, line 1 of the template: there is no field 'a'" in str(error)


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"name": ["a", "b", "c"], "custom_id": ["x", "y", "x"]}), path, row_group_size=2)
    spec = parse_job(good_job(path, {}))
    assert "row 3: custom_id is 'x', as on row 1" in str(refusal(lambda: plan_here(spec)))


def test_a_source_that_changes_while_it_is_planned_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"name": "a"}\n')
    spec = parse_job(good_job("nightmill://rows.jsonl", {}))
    source = open_source(spec, FolderStore(tmp_path))
    assert source is not None
    old = type(source)(**{name: getattr(source, name) for name in source.__struct_fields__} | {"etag": "another"})
    error = refusal(lambda: plan(spec, old, Staging(FolderStore(tmp_path), "s"), on_shards=lambda _shards: None))
    assert "changed while it was being read" in str(error)
    assert error.code == "source_changed"


JOB_FILES = {
    "an unknown key": ("model: echo\nprompt: x\nsource: {count: 1}\nsampling:\n  temprature: 1\n", 5, "temperature"),
    "a bad value": ("model: echo\nprompt: x\nsource: {count: 1}\nsampling:\n  max_tokens: 0\n", 5, "at least 1"),
    "no YAML": ("model: echo\nprompt: a: b\n", 2, "quotes"),
    "a key twice": ("model: echo\nmodel: x\n", 2, "given twice"),
    "an empty file": ("", None, "empty"),
    "a list": ("- 1\n", None, "object of fields"),
    "a tag that runs code": ("model: !!python/name:os.system x\n", 1, "not valid YAML"),
    "a control character": ("model: echo\nprompt: \x01\n", 2, "control character"),
}


@pytest.mark.parametrize(("text", "line", "says"), JOB_FILES.values(), ids=JOB_FILES.keys())
def test_a_bad_job_file_is_refused_with_its_line(text: str, line: int | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    error = refusal(lambda: load_job_file(path))
    assert says in str(error)
    assert error.line == line
    assert str(error).startswith(str(path))


def test_a_job_file_must_be_utf8_and_there(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    assert "no such job file" in str(refusal(lambda: load_job_file(path)))
    assert "is a directory" in str(refusal(lambda: load_job_file(tmp_path)))
    path.write_bytes(b"model: echo\nname: \xff\n")
    assert "line 2: is not UTF-8" in str(refusal(lambda: load_job_file(path)))


def test_a_bad_override_is_named_itself(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: echo\nprompt: x\nsource: {count: 1}\n")
    error = refusal(lambda: load_job_file(path, ["sampling.max_tokens=0"]))
    assert str(error).startswith("--set sampling.max_tokens=0: sampling.max_tokens: 0 is not allowed")
    assert "key=value" in str(refusal(lambda: load_job_file(path, ["nothing"])))
    assert "name is not an object" in str(refusal(lambda: load_job_file(path, ["name=x", "name.y=1"])))


LATER = {
    "a field that is missing": ({"name": 1}, {"nam": 1}, "line 5001: prompt, line 1 of the template: there is"),
    "an id that is missing": ({"name": 1, "custom_id": "%d"}, {"name": 1}, "line 5001: has no 'custom_id'"),
    "an id that was there": (
        {"name": 1, "custom_id": "%d"},
        {"name": 1, "custom_id": "4"},
        "line 5001: custom_id is '4', as on line 5;",
    ),
    "an id that is too long": (
        {"name": 1, "custom_id": "%d"},
        {"name": 1, "custom_id": "z" * 600},
        "line 5001: custom_id",
    ),
    "an id of another kind": (
        {"name": 1, "custom_id": "%d"},
        {"name": 1, "custom_id": [1]},
        "line 5001: custom_id must",
    ),
    "an id that others lack": ({"name": 1}, {"name": 1, "custom_id": "x"}, "line 5001: has a custom_id"),
    "a row that is no object": ({"name": 1}, ["name"], "line 5001: holds an array"),
    "a row that is a text": ({"name": 1}, "name", "line 5001: holds a text"),
}


@pytest.mark.parametrize(("usual", "last", "says"), LATER.values(), ids=LATER.keys())
def test_the_last_row_is_looked_at_like_the_first(usual: object, last: object, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(usual).replace("%d", str(number)) for number in range(5000)]
    path.write_text("\n".join([*lines, json.dumps(last), *(json.dumps(usual).replace("%d", "y"),)]))
    spec = parse_job(good_job(path, {}))
    with patch("orchestrator.row_blocks._CHUNK", 1000):
        error = refusal(lambda: plan_here(spec))
    assert says in str(error)
