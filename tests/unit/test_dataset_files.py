"""A dataset's files: types that fit all rows, splits, a card that holds what it is given, and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator import dataset_files
from orchestrator.dataset_card import card
from orchestrator.dataset_files import ROWS_PER_GROUP, DatasetFigures, write_dataset
from orchestrator.dataset_splits import Splits
from orchestrator.views import DatasetView
from tests.support.views import job_view

ONE = Splits(None, 0)


def lines(*rows: dict[str, Any] | None) -> Any:
    def read() -> Iterator[bytes]:
        for index, row in enumerate(rows):
            record = {"index": index, "status": "ok", "output": row, "model_revision": "sha256:1"}
            failed = {"index": index, "status": "failed", "error": {"code": "rejected", "message": "m"}}
            yield orjson.dumps(record if row is not None else failed) + b"\n"

    return read


def written(tmp_path: Path, *rows: dict[str, Any] | None, columns: tuple[str, ...] = ("a",)) -> tuple[str, list[Any]]:
    figures = write_dataset(lines(*rows), tmp_path, columns, ONE, None)
    table = pq.read_table(tmp_path / "data" / "train-00000.parquet")
    return figures.types["a"], table.column("a").to_pylist()


TYPES: dict[str, tuple[list[Any], str, list[Any]]] = {
    "numbers": ([1, 2.5, None], "double", [1.0, 2.5, None]),
    "whole numbers": ([1, 2], "int64", [1, 2]),
    "texts and numbers": (["x", 1, None], "string", ["x", "1", None]),
    "nothing": ([None, None], "string", [None, None]),
    "an object without fields": ([{}, {}], "string", ["{}", "{}"]),
    "empty lists": ([[], []], "string", ["[]", "[]"]),
    "objects that differ": (
        [{"b": 1}, {"c": "x"}],
        "struct<b: int64, c: string>",
        [{"b": 1, "c": None}, {"b": None, "c": "x"}],
    ),
    "a number that is too large": ([1, (1 << 64) - 1, -1], "string", ["1", str((1 << 64) - 1), "-1"]),
    "truth": ([True, None], "bool", [True, None]),
    "objects and texts": ([{"b": 1}, "x"], "string", ['{"b":1}', "x"]),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_column_has_the_type_that_fits_all_of_its_values(name: str, tmp_path: Path) -> None:
    values, kind, read = TYPES[name]
    assert written(tmp_path, *({"a": value} for value in values)) == (kind, read)


def test_a_type_widens_over_blocks(tmp_path: Path) -> None:
    rows = [{"a": 1} for _ in range(ROWS_PER_GROUP)] + [{"a": 1.5}] * ROWS_PER_GROUP
    kind, values = written(tmp_path, *rows)
    assert kind == "double"
    assert sum(values) == 2.5 * ROWS_PER_GROUP
    rows.append({"a": "late"})
    (tmp_path / "again").mkdir()
    kind, values = written(tmp_path / "again", *rows)
    assert (kind, values[0], values[-1]) == ("string", "1", "late")


def test_a_split_goes_on_in_further_files_and_one_without_rows_has_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_files, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(dataset_files, "ROWS_PER_FILE", 20)
    splits = Splits({"train": 1 - 1e-9, "test": 1e-9}, 0)
    figures = write_dataset(lines(*({"a": number} for number in range(45)), None), tmp_path, ("a",), splits, None)
    assert figures.rows == {"train": 45, "test": 0}
    assert figures.failed == {"rejected": 1}
    files = sorted((tmp_path / "data").iterdir())
    sizes = {file.name: pq.read_metadata(file).num_rows for file in files}
    assert sizes == {
        "test-00000.parquet": 0,
        "train-00000.parquet": 20,
        "train-00001.parquet": 20,
        "train-00002.parquet": 5,
    }
    found = [row for file in files for row in pq.read_table(file).column("a").to_pylist()]
    assert found == list(range(45))


def test_a_card_holds_what_it_is_given(tmp_path: Path) -> None:
    view = DatasetView(
        columns={"a": "one of x | y, <script>"}, output=("a",), seed=3, source="rows.csv", asks_model=True, split_by="a"
    )
    figures = DatasetFigures(rows={"train": 2}, types={"a": "string"}, failed={"rejected": 1}, revisions=("sha256:1",))
    text = card(job_view(name="a: b\n# <b>x", kind="dataset", items=3), view, figures)
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert (header["license"], header["pretty_name"]) == ("unknown", "a: b\n# <b>x")
    assert "# a: b # &lt;b>x" in text
    assert r"| a | `string` | one of x \| y, &lt;script> |" in text
    assert "<script>" not in text
