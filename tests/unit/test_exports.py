from __future__ import annotations

import csv
import io
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from orchestrator.exports import ROWS_PER_GROUP, columns, to_csv, to_parquet

OK = {
    "index": 0,
    "custom_id": "sku-1",
    "status": "ok",
    "output": 'a "warm"\nblanket, soft',
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    "seed": (1 << 63) - 1,
    "input": {"tone": "warm", "price": -3.5},
    "attempts": 1,
}
FAILED = {"index": 1, "status": "failed", "error": {"code": "invalid_prompt", "message": "no field"}, "attempts": 2}


def _lines(*records: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def _csv(data: bytes, kept: tuple[str, ...] = ("tone", "price"), outputs: int = 1) -> list[dict[str, str]]:
    text = b"".join(to_csv([data], kept, outputs)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_a_row_for_every_record_with_the_input_beside_the_output() -> None:
    first, second = _csv(_lines(OK, FAILED))
    assert list(first) == columns(("tone", "price"), 1)
    assert (first["custom_id"], first["input.tone"], first["output"]) == ("sku-1", "warm", OK["output"])
    assert (first["completion_tokens"], first["seed"]) == ("4", str(OK["seed"]))
    assert (second["status"], second["output"], second["error_code"]) == ("failed", "", "invalid_prompt")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_csv_cell_runs_as_a_formula(start: str) -> None:
    text = f"{start}HYPERLINK(1)"
    row = _csv(_lines({**OK, "output": text, "custom_id": text, "input": {"tone": text}}))[0]
    assert {row["output"], row["custom_id"], row["input.tone"]} == {"'" + text}


def test_numbers_in_csv_stay_numbers() -> None:
    assert _csv(_lines(OK))[0]["input.price"] == "-3.5"


def test_csv_of_several_outputs_has_a_column_each() -> None:
    samples = [{"text": text, "finish_reason": "stop", "seed": 1} for text in ("one", "two")]
    record = {key: value for key, value in OK.items() if key != "output"} | {"outputs": samples}
    row = _csv(_lines(record), outputs=2)[0]
    assert (row["output_1"], row["output_2"], row["finish_reason"]) == ("one", "two", "stop,stop")


def test_an_output_with_a_schema_is_json_text() -> None:
    assert orjson.loads(_csv(_lines({**OK, "output": {"name": "x"}}))[0]["output"]) == {"name": "x"}


def test_chunks_may_end_anywhere() -> None:
    data = _lines(OK, FAILED, OK)
    whole = b"".join(to_csv([data], ("tone",), 1))
    assert all(b"".join(to_csv([data[:cut], data[cut:]], ("tone",), 1)) == whole for cut in range(0, len(data), 7))


def test_parquet_has_the_same_rows_with_types() -> None:
    data = b"".join(to_parquet([_lines(OK, FAILED)], ("tone", "price"), 1))
    first, second = pq.read_table(io.BytesIO(data)).to_pylist()
    assert (first["index"], first["seed"], first["output"]) == (0, OK["seed"], OK["output"])
    assert (first["input.price"], second["error_code"], second["output"]) == ("-3.5", "invalid_prompt", None)


def test_parquet_comes_in_row_groups() -> None:
    count = ROWS_PER_GROUP + 1
    data = _lines(*({"index": index, "status": "ok", "output": "x", "attempts": 1} for index in range(count)))
    blocks = list(to_parquet([data], (), 1))
    file = pq.ParquetFile(io.BytesIO(b"".join(blocks)))
    assert (file.metadata.num_row_groups, file.metadata.num_rows) == (2, count)
    assert len(blocks) == 2


def test_no_record_still_makes_a_file() -> None:
    assert b"".join(to_csv([], (), 1)).startswith(b"index,")
    assert pq.read_table(io.BytesIO(b"".join(to_parquet([], (), 1)))).num_rows == 0
