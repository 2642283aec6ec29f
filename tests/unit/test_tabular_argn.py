"""TabularARGN: what is sampled is what its engine would sample, under conditions, in the source's types."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
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
from safetensors.torch import load, load_file

from models.backends.training_engine import TrainingStoppedError
from models.errors import ModelError
from models.tabular.columns import find_columns, plain_table, table_schema
from models.tabular.engine import TableModel, TableRequest
from models.tabular.families import open_table_model
from tests.support.tables import MemoryPlace, fit, staff

TINY = {"epochs": 2, "size": "S", "batch_size": 32}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("argn")
    fit(staff(), folder, options={**TINY, "epochs": 6})
    return folder / "staff" / "01V"


@pytest.fixture(scope="module")
def model(home: Path) -> TableModel:
    return open_table_model(home)


def test_rows_have_the_types_and_ranges_of_the_source(model: TableModel) -> None:
    source = plain_table(staff())
    rows = model.sample(TableRequest(rows=500, seed=1))
    assert rows.schema == source.schema == table_schema(model.columns)
    assert rows.num_rows == 500
    assert set(rows["grade"].to_pylist()) == {"junior", "senior", "head"}
    assert set(rows["children"].to_pylist()) <= {0, 1, 2, 3}
    assert 0 < rows["bonus"].null_count < 200
    assert all(rows[name].null_count == 0 for name in rows.column_names if name != "bonus")
    for name in ("age", "pay", "bonus", "joined", "born"):
        assert pc.min(rows[name]).as_py() >= pc.min(source[name]).as_py(), name
        assert pc.max(rows[name]).as_py() <= pc.max(source[name]).as_py(), name
    assert not set(rows["id"].to_pylist()) & set(source["id"].to_pylist())
    assert all(phone.startswith("+43 660 ") and len(phone) == 15 for phone in rows["phone"].to_pylist())


def test_the_same_request_gives_the_same_rows_in_any_process(model: TableModel, home: Path) -> None:
    request = TableRequest(rows=300, seed=2**80 + 1, first=40)
    rows = model.sample(request)
    model.sample(TableRequest(rows=10, seed=9))
    assert model.sample(request).equals(rows)
    assert not model.sample(TableRequest(rows=300, seed=8)).equals(rows)
    code = (
        "import sys, pathlib, pyarrow.parquet as pq\n"
        "from models.tabular.engine import TableRequest\n"
        "from models.tabular.families import open_table_model\n"
        "model = open_table_model(pathlib.Path(sys.argv[1]))\n"
        "pq.write_table(model.sample(TableRequest(rows=300, seed=2**80 + 1, first=40)), sys.argv[2])\n"
    )
    there = home.parent / "there.parquet"
    # With another number of threads, too.
    threads = {"OMP_NUM_THREADS": "2" if torch.get_num_threads() == 1 else "1"}
    run = [sys.executable, "-W", "ignore", "-c", code, str(home), str(there)]
    subprocess.run(run, check=True, timeout=300, env={**os.environ, **threads})
    assert pq.read_table(there).equals(rows)


def test_fitting_leaves_the_smallest_numbers_to_whoever_comes_after(tmp_path: Path) -> None:
    fit(staff(60), tmp_path, options=TINY)
    assert sys.float_info.min / float("2") > 0  # a compiler would work out "/ 2" before


def test_sampling_leaves_the_global_generators_as_they_were(model: TableModel) -> None:
    before = random.getstate(), numpy_state(), torch.get_rng_state().tolist()
    model.sample(TableRequest(rows=10, seed=9))
    assert (random.getstate(), numpy_state(), torch.get_rng_state().tolist()) == before


def numpy_state() -> list[int]:
    return list(np.random.get_state()[1])  # type: ignore[arg-type]  # noqa: NPY002 - the one that the engine draws from


def test_it_is_what_the_engine_itself_would_generate(
    model: TableModel, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mostlyai.engine._tabular import generation
    from mostlyai.engine._workspace import Workspace

    from models.tabular.argn import engine_seed
    from models.tabular.argn_frames import engine_names, from_series

    workspace = Workspace(tmp_path)
    workspace.model_path.mkdir(parents=True)
    workspace.tgt_stats_path.mkdir(parents=True)
    workspace.tgt_stats.write(orjson.loads((home / "stats.json").read_bytes()))
    workspace.model_configs.write(orjson.loads((home / "config.json").read_bytes())["engine"]["configs"])
    torch.save(load_file(home / "model.safetensors"), workspace.model_tabular_weights_path)
    loading = generation.create_and_load_model

    def loaded(**fields: Any) -> Any:
        network = loading(**fields)
        # Its first weights, which are thrown away, were drawn from the same generator.
        torch.manual_seed(engine_seed(3))
        np.random.seed(engine_seed(3))  # noqa: NPY002
        return network

    monkeypatch.setattr(generation, "create_and_load_model", loaded)
    with torch.random.fork_rng():
        generation.generate(sample_size=400, rare_category_replacement_method="SAMPLE", workspace_dir=tmp_path)
    [file] = workspace.generated_data.fetch_all()
    theirs = pq.read_table(file).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    ours = model.sample(TableRequest(rows=400, seed=3))
    stats = orjson.loads((home / "stats.json").read_bytes())["columns"]
    encodings = set()
    for column in model.columns:
        if (name := engine_names(model.columns).get(column.name)) is None:
            continue
        encodings.add(stats[name]["encoding_type"])
        mine, other = ours[column.name].combine_chunks(), from_series(theirs[name], column)
        if stats[name]["encoding_type"] != "TABULAR_NUMERIC_BINNED":
            assert mine.equals(other), column.name
            continue
        # Drawn inside of the same bins.
        assert mine.is_valid().equals(other.is_valid())
        bins = [np.searchsorted(stats[name]["bins"], values.drop_null(), side="right") for values in (mine, other)]
        assert np.array_equal(*bins)
    assert encodings == {
        "TABULAR_CATEGORICAL",
        "TABULAR_NUMERIC_BINNED",
        "TABULAR_NUMERIC_DIGIT",
        "TABULAR_DATETIME",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grade", "head"),
        ("remote", True),
        ("children", 2),
        ("age", 33),
        ("pay", 2500.0),
        ("bonus", None),
        ("born", "1970-02-03"),
        ("phone", "+43 1"),
    ],
)
def test_a_condition_holds_for_every_row(model: TableModel, name: str, value: Any) -> None:
    rows = model.sample(TableRequest(rows=60, seed=1, where={name: value}))
    [found] = {str(each) for each in rows[name].to_pylist()}
    assert found == str(value)
    assert rows.schema == table_schema(model.columns)


def test_a_condition_shows_in_the_other_columns(model: TableModel) -> None:
    means = [
        pc.mean(model.sample(TableRequest(rows=400, seed=1, where={"grade": grade}))["pay"]).as_py()
        for grade in ("junior", "head")
    ]
    assert means[0] < means[1]


def test_shares_and_missing_values_are_as_asked(model: TableModel) -> None:
    request = TableRequest(
        rows=2000, seed=1, rebalance={"grade": {"head": 0.6}, "children": {"0": 1.0}}, impute=("bonus",)
    )
    rows = model.sample(request)
    assert rows["grade"].to_pylist().count("head") / 2000 == pytest.approx(0.6, abs=0.05)
    assert set(rows["children"].to_pylist()) == {0}
    assert rows["bonus"].null_count == 0


def test_a_low_temperature_makes_the_frequent_more_frequent(model: TableModel) -> None:
    juniors = [
        model.sample(TableRequest(rows=1000, seed=1, temperature=temperature))["grade"].to_pylist().count("junior")
        for temperature in (1.0, 0.2)
    ]
    assert juniors[0] < juniors[1]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"where": {"grad": "head"}}, "no column 'grad'; there are id, grade"),
        ({"where": {"grade": "boss"}}, "'grade' has no value 'boss'.*head, junior, senior"),
        ({"where": {"id": 3}}, "holds keys"),
        ({"where": {"age": "old"}}, "'age' is of type int16, which 'old' is not"),
        ({"where": {"age": 1_000_000}}, "'age' is of type int16"),
        ({"where": {"age": True}}, "which True is not"),
        ({"where": {"pay": None}}, "never missing"),
        ({"where": {"born": "soon"}}, "'born' is of type date32"),
        ({"rebalance": {"age": {"3": 0.5}}}, "'age' is integer; only categorical"),
        ({"rebalance": {"grade": {"boss": 0.5}}}, "no value 'boss'"),
        ({"rebalance": {"grade": {"head": 0.7, "junior": 0.7}}}, "sum up to 1"),
        ({"rebalance": {"grade": {"head": 0.7}}, "where": {"grade": "head"}}, "fixed value"),
        ({"impute": ("x",)}, "no column 'x'"),
        ({"where": {"bonus": None}, "impute": ("bonus",)}, "is not to be missing"),
        ({"temperature": 0.0}, "above 0"),
        ({"rows": -1}, "at least 0"),
    ],
)
def test_what_cannot_be_asked_is_said(model: TableModel, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        model.sample(TableRequest(**{"rows": 5, "seed": 1, **fields}))
    assert caught.value.code == "table_request_invalid"


def test_no_rows_are_an_empty_table(model: TableModel) -> None:
    rows = model.sample(TableRequest(rows=0, seed=1))
    assert (rows.num_rows, rows.schema) == (0, table_schema(model.columns))


def test_a_damaged_model_is_not_opened(home: Path, tmp_path: Path) -> None:
    for name in ("config.json", "stats.json", "model.safetensors"):
        copy = tmp_path / name
        copy.mkdir()
        for path in home.iterdir():
            (copy / path.name).write_bytes(path.read_bytes() if path.name != name else path.read_bytes()[:-40])
        with pytest.raises(ModelError) as caught:
            open_table_model(copy)
        assert caught.value.code in {"model_folder_invalid", "weights_damaged"}


def test_what_rare_values_say_is_in_no_file(tmp_path: Path) -> None:
    table = staff()
    grades = table["grade"].to_pylist()
    grades[3] = "Queen of Graz"
    pay = table["pay"].to_pylist()
    pay[5] = 987654.25
    table = table.set_column(1, "grade", [grades]).set_column(5, "pay", [pay])
    trained = fit(table, tmp_path, options=TINY)
    whole = b"".join(trained.files.values())
    for secret in (b"Queen", b"987654", b"660 1", b"5001"):
        assert secret not in whole
    rows = open_table_model(tmp_path / "staff" / "01V").sample(TableRequest(rows=1000, seed=1))
    assert set(rows["grade"].to_pylist()) <= {"junior", "senior", "head"}
    assert pc.max(rows["pay"]).as_py() < 20_000


def test_a_fitting_goes_on_from_a_checkpoint_with_the_state_that_it_had(tmp_path: Path) -> None:
    place = MemoryPlace()
    options = {"epochs": 4, "size": "S", "batch_size": 8}
    table = staff().select(["grade"])
    table = table.append_column("rank", table["grade"])  # of which much can be learned
    whole = fit(table, tmp_path / "whole", options=options, place=place)
    steps = [saved.step for saved in place.saved]
    assert len(steps) > 1
    assert steps == sorted(set(steps))
    assert whole.finished
    assert whole.step == 4 * 27  # 216 rows to learn from
    again = []
    for name in ("one", "two"):
        resumed = MemoryPlace(place.saved[0])
        fit(table, tmp_path / name, options=options, place=resumed)
        assert resumed.news[0].step == steps[0] + 1
        again.append(resumed)
    # Two resumptions of one checkpoint end alike, and what was saved comes back as it was.
    assert again[0].saved[-1].tensors == again[1].saved[-1].tensors
    first, last = (load(saved.tensors) for saved in (place.saved[0], again[0].saved[-1]))
    assert first.keys() == last.keys()
    counts = {float(tensor) for name, tensor in last.items() if name.endswith("/step")}
    assert counts == {float(again[0].saved[-1].step)}  # the optimiser's own count of steps went on
    json.loads(place.saved[0].state, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_a_worse_epoch_after_a_resumption_does_not_replace_the_best(tmp_path: Path) -> None:
    place = MemoryPlace()
    fit(staff(), tmp_path / "whole", options={**TINY, "epochs": 4}, place=place)
    best = place.saved[-1]
    state = json.loads(best.state)
    state["message"]["val_loss"] = 0.001
    kept = MemoryPlace(type(best)(step=best.step, seconds=1.0, tensors=best.tensors, state=json.dumps(state).encode()))
    trained = fit(staff(), tmp_path / "more", options={**TINY, "epochs": 8}, place=kept)
    assert len(kept.saved) == 1
    assert trained.losses["validation"] == 0.001
    weights = load(best.tensors)
    for name, tensor in load(trained.files["model.safetensors"]).items():
        assert torch.equal(tensor, weights[f"weights/{name}"])


def test_the_time_of_earlier_executions_counts(tmp_path: Path) -> None:
    place = MemoryPlace()
    fit(staff(), tmp_path / "whole", options=TINY, place=place)
    saved = place.saved[0]
    late = MemoryPlace(type(saved)(step=saved.step, seconds=600.0, tensors=saved.tensors, state=saved.state))
    trained = fit(staff(), tmp_path / "late", options={**TINY, "epochs": 50}, place=late, minutes=10)
    assert not trained.finished
    assert trained.step == saved.step + 1
    assert trained.seconds > 600


def test_a_stopped_fitting_leaves_its_checkpoint(tmp_path: Path) -> None:
    stop = threading.Event()
    place = StoppingPlace(stop)
    with pytest.raises(TrainingStoppedError):
        fit(staff(), tmp_path, options={**TINY, "epochs": 50}, place=place, stop=stop)
    assert place.saved


class StoppingPlace(MemoryPlace):
    """Stops the training after its first checkpoint."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self._stop = stop

    def save(self, saved: Any) -> None:
        super().save(saved)
        self._stop.set()


@pytest.fixture
def private() -> dict[str, Any]:
    return {**TINY, "dp": {"max_epsilon": 1000.0, "noise_multiplier": 1.0}}


def test_privacy_that_was_spent_is_told(private: dict[str, Any], tmp_path: Path) -> None:
    place = MemoryPlace()
    trained = fit(staff(), tmp_path, options=private, place=place)
    assert 1 < trained.metrics["epsilon"] < 1000
    assert f"epsilon {trained.metrics['epsilon']:g} at delta 1e-05" in trained.files["README.md"].decode()
    resumed = fit(staff(), tmp_path / "more", options={**private, "epochs": 4}, place=MemoryPlace(place.saved[0]))
    assert resumed.metrics["epsilon"] >= trained.metrics["epsilon"]
    rows = open_table_model(tmp_path / "staff" / "01V").sample(TableRequest(rows=20, seed=1))
    assert rows.num_rows == 20


def test_a_budget_of_privacy_that_no_epoch_fits_is_refused(private: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"max_epsilon is 1\.5") as caught:
        fit(staff(), tmp_path, options={**private, "dp": {"max_epsilon": 1.5, "noise_multiplier": 0.5}})
    assert caught.value.code == "privacy_budget_too_small"


def test_nothing_stays_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    fit(staff(), tmp_path, options=TINY)
    assert cache == datasets.config.HF_DATASETS_CACHE
    assert not cache.exists()


def test_columns_of_texts_and_dates_come_back_as_they_were_written(tmp_path: Path) -> None:
    table = staff().select(["grade", "age"])
    table = table.append_column("day", pa.array([f"0{1 + n % 9}.03.20{10 + n % 13}" for n in range(table.num_rows)]))
    table = table.append_column("at", staff()["joined"].cast(pa.timestamp("ms", "Europe/Vienna")))
    table = table.append_column("ratio", staff()["pay"].cast(pa.float32()))
    places = np.random.default_rng(1).normal((48.2, 16.4), 0.2, (table.num_rows, 2))
    table = table.append_column("place", pa.array([f"{north:.4f}, {east:.4f}" for north, east in places]))
    table = table.append_column('<b>"name"', staff()["remote"])
    kinds = {column.name: column.kind for column in find_columns(table, {})}
    assert (kinds["day"], kinds["at"], kinds["place"]) == ("datetime", "datetime", "geo")
    fit(table, tmp_path, options=TINY)
    rows = open_table_model(tmp_path / "staff" / "01V").sample(
        TableRequest(rows=200, seed=1, where={"day": "05.03.2015"})
    )
    assert rows.schema == table.schema
    assert set(rows["day"].to_pylist()) == {"05.03.2015"}
    assert len(set(rows["place"].to_pylist())) > 50
    rows = open_table_model(tmp_path / "staff" / "01V").sample(TableRequest(rows=200, seed=1))
    assert all(len(day) == 10 and day[2:6] == ".03." for day in rows["day"].to_pylist())
