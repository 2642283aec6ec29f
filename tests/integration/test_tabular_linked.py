"""TabularARGN over linked tables: sequences that belong to subjects, keys that are kept, what depends on the parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from models.errors import ModelError
from models.tabular.columns import table_schema
from models.tabular.engine import TableModel, TableRequest
from models.tabular.families import open_table_model
from models.tabular.saved import Linked
from tests.support.tables import fit, orders, shops, staff

SMALL = {"epochs": 40, "size": "S", "batch_size": 16}
TINY = {"epochs": 2, "size": "S", "batch_size": 32}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, parents = tmp_path_factory.mktemp("linked"), shops(400)
    fit(orders(parents), folder, options=SMALL, foreign_key="shop", order_by="day", parent=parents)
    return folder / "staff" / "01V"


@pytest.fixture(scope="module")
def model(home: Path) -> TableModel:
    return open_table_model(home)


def new_shops(count: int) -> pa.Table:
    """Other shops, of either size by turns."""
    return pa.table(
        {
            "shop": [f"N-{number}" for number in range(count)],
            "size": [("small", "large")[number % 2] for number in range(count)],
            "staff": [5 + number % 40 for number in range(count)],
        }
    )


def test_rows_belong_to_the_subjects_and_depend_on_them(model: TableModel) -> None:
    parents = new_shops(300)
    rows = model.sample(TableRequest(rows=300, seed=1, context=parents))
    assert rows.schema == table_schema(model.columns)
    assert set(rows["shop"].to_pylist()) <= set(parents["shop"].to_pylist())
    assert rows["shop"].to_pylist() == sorted(rows["shop"].to_pylist(), key=lambda shop: int(shop[2:]))
    joined = rows.join(parents, "shop").group_by("size").aggregate([([], "count_all"), ("amount", "mean")])
    by_size = {row["size"]: row for row in joined.to_pylist()}
    # In the source 5 and 1 orders a shop, of 900 and 100.
    assert 4 < by_size["large"]["count_all"] / 150 < 6
    assert 0.4 < by_size["small"]["count_all"] / 150 < 1.8
    assert by_size["large"]["amount_mean"] > 600
    assert by_size["small"]["amount_mean"] < 400


def test_some_subjects_have_no_rows_and_none_has_more_than_the_longest(model: TableModel) -> None:
    parents = new_shops(300)
    rows = model.sample(TableRequest(rows=300, seed=2, context=parents))
    counts = [count["counts"] for count in pc.value_counts(rows["shop"]).to_pylist()]
    assert model.linked is not None
    assert max(counts) <= model.linked.longest == 6
    assert len(counts) < 300


def test_sequences_are_in_order(model: TableModel) -> None:
    rows = model.sample(TableRequest(rows=100, seed=3, context=new_shops(100)))
    days: dict[str, list[Any]] = {}
    for row in rows.to_pylist():
        days.setdefault(row["shop"], []).append(row["day"])
    assert all(each == sorted(each) for each in days.values())
    assert any(len(set(each)) > 2 for each in days.values())


def test_keys_of_rows_are_unique_over_blocks(model: TableModel) -> None:
    blocks = [
        model.sample(TableRequest(rows=50, seed=4, first=50 * block, context=new_shops(100).slice(50 * block, 50)))
        for block in range(2)
    ]
    keys = pa.concat_tables(blocks)["order_id"].to_pylist()
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(orders(shops(400))["order_id"].to_pylist())


def test_the_same_request_gives_the_same_rows(model: TableModel, home: Path) -> None:
    request = TableRequest(rows=60, seed=5, context=new_shops(60))
    rows = model.sample(request)
    assert open_table_model(home).sample(request).equals(rows)
    assert not model.sample(TableRequest(rows=60, seed=6, context=new_shops(60))).equals(rows)


def test_conditions_hold_in_every_row(model: TableModel) -> None:
    request = TableRequest(rows=60, seed=7, where={"express": True}, context=new_shops(60))
    assert pc.all(model.sample(request)["express"]).as_py()


def test_no_subjects_give_no_rows(model: TableModel) -> None:
    rows = model.sample(TableRequest(rows=0, seed=1, context=new_shops(1).slice(0, 0)))
    assert rows.num_rows == 0
    assert rows.schema == table_schema(model.columns)


def test_it_is_what_the_engine_itself_would_generate(
    model: TableModel, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mostlyai.engine._tabular import generation
    from mostlyai.engine._workspace import Workspace

    from models.tabular.argn import engine_seed
    from models.tabular.argn_frames import engine_names, from_series, to_frame
    from models.tabular.argn_links import SUBJECT

    config = orjson.loads((home / "config.json").read_bytes())
    workspace = Workspace(tmp_path)
    for folder in (workspace.model_path, workspace.tgt_stats_path, workspace.ctx_stats_path):
        folder.mkdir(parents=True)
    workspace.tgt_stats.write(orjson.loads((home / "stats.json").read_bytes()))
    workspace.ctx_stats.write(orjson.loads((home / "parent-stats.json").read_bytes()))
    workspace.model_configs.write(config["engine"]["configs"])
    torch.save(load_file(home / "model.safetensors"), workspace.model_tabular_weights_path)
    loading = generation.create_and_load_model

    def loaded(**fields: Any) -> Any:
        network = loading(**fields)
        torch.manual_seed(engine_seed(3))
        np.random.seed(engine_seed(3))  # noqa: NPY002
        return network

    monkeypatch.setattr(generation, "create_and_load_model", loaded)
    parents = new_shops(80)
    assert model.linked is not None
    context = to_frame(parents, model.linked.parent_columns).assign(**{SUBJECT: range(80)})
    with torch.random.fork_rng():
        generation.generate(ctx_data=context, rare_category_replacement_method="SAMPLE", workspace_dir=tmp_path)
    [file] = workspace.generated_data.fetch_all()
    theirs = pq.read_table(file).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    theirs = theirs.sort_values(SUBJECT, kind="stable", ignore_index=True)
    unordered = open_table_model(home)
    unordered._saved = _without_order(unordered)  # type: ignore[attr-defined]  # the engine does not sort
    ours = unordered.sample(TableRequest(rows=80, seed=3, context=parents))
    assert [int(shop[2:]) for shop in ours["shop"].to_pylist()] == theirs[SUBJECT].tolist()
    names = engine_names(model.columns)
    compared = 0
    for column in model.columns:
        if column.name in names and column.name != "amount":  # numbers inside a bin are drawn in another order
            assert ours[column.name].combine_chunks().equals(from_series(theirs[names[column.name]], column))
            compared += 1
    assert compared == 2


def _without_order(model: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(model._saved, linked=msgspec.structs.replace(model._saved.linked, order_by=None))


def test_sequences_need_no_parent(tmp_path: Path) -> None:
    fit(orders(shops(120)), tmp_path, options=TINY, foreign_key="shop", order_by="day")
    model = open_table_model(tmp_path / "staff" / "01V")
    assert model.linked == Linked(foreign_key="shop", order_by="day", longest=6)
    rows = model.sample(TableRequest(rows=40, seed=1, first=100))
    keys = rows["shop"].unique()
    assert 0 < len(keys) <= 40
    assert not set(keys.to_pylist()) & set(shops(120)["shop"].to_pylist())
    more = model.sample(TableRequest(rows=40, seed=1, first=140))
    assert not set(more["shop"].to_pylist()) & set(keys.to_pylist())
    again = model.sample(TableRequest(rows=len(keys), seed=2, context=pa.table({"shop": keys})))
    assert set(again["shop"].to_pylist()) <= set(keys.to_pylist())


def test_a_row_for_each_subject_is_a_sequence_too(tmp_path: Path) -> None:
    parents = shops(120)
    details = parents.select(["shop"]).append_column("rent", pa.array([float(30 * n) for n in range(120)]))
    fit(details, tmp_path, options=TINY, foreign_key="shop", parent=parents)
    model = open_table_model(tmp_path / "staff" / "01V")
    rows = model.sample(TableRequest(rows=30, seed=1, context=new_shops(30)))
    assert rows["shop"].to_pylist() == new_shops(30)["shop"].to_pylist()


@pytest.mark.parametrize(
    ("context", "rows", "message"),
    [
        (None, 5, "a table with the key 'shop', and there is none"),
        (new_shops(5).drop_columns(["size"]), 5, "the parent table has no column 'size'"),
        (new_shops(5), 6, "6 subjects are asked for, and the parent table has 5"),
        (
            new_shops(5).set_column(2, "staff", pa.array(["a", "b", "c", "d", "e"])),
            5,
            "'staff' is of type string; the model has learned it as int64",
        ),
        (
            new_shops(5).set_column(0, "shop", pa.array(["a", None, "c", "d", "e"])),
            5,
            "'shop' is a key, and is missing",
        ),
    ],
)
def test_a_parent_that_does_not_fit_is_refused(
    model: TableModel, context: pa.Table | None, rows: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        model.sample(TableRequest(rows=rows, seed=1, context=context))
    assert caught.value.code == "table_request_invalid"


def test_a_model_without_subjects_takes_none(tmp_path: Path) -> None:
    fit(staff(), tmp_path, options=TINY)
    with pytest.raises(ModelError, match="the model has no foreign key"):
        open_table_model(tmp_path / "staff" / "01V").sample(TableRequest(rows=5, seed=1, context=new_shops(5)))


def test_few_subjects_tell_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="belong to 40 subjects, by 'shop'"):
        fit(orders(shops(40)), tmp_path, options=TINY, foreign_key="shop", parent=shops(40))
