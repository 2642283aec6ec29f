"""Our own GAN and VAE of tables: fitted as training jobs, resumed, saved, and sampled under conditions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from models.backends.training import Signs
from models.backends.training_engine import TrainingStoppedError
from models.errors import ModelError
from models.tabular.columns import find_columns, table_schema
from models.tabular.engine import TableModel, TableRequest
from models.tabular.families import open_table_model, open_trainer
from models.tabular.networks import gumbel
from models.training.settings import FamilyName, TrainingSettings
from models.training_run import TableData, TrainedFiles, TrainingRequest
from tests.support.places import KilledError, MemoryPlace

FAMILIES: tuple[FamilyName, ...] = ("tabular-gan", "tabular-vae")
TINY: dict[str, dict[str, Any]] = {
    "tabular-gan": {"latent": 8, "widths": [32], "critic_widths": [32], "pac": 4},
    "tabular-vae": {"latent": 8, "widths": [32], "judged_every": 5},
}
GONE = 0.2
"""The share of incomes that are missing."""


def people(rows: int = 600, seed: int = 3) -> pa.Table:
    """Who is a manager earns more, and is older; one in five keeps it to himself."""
    draws = np.random.default_rng(seed)
    manager = draws.random(rows) < 0.3
    income = np.where(manager, draws.normal(9000, 500, rows), draws.normal(2000, 200, rows)).round()
    return pa.table({
        "person_id": np.arange(rows),
        "job": np.where(manager, "manager", np.where(draws.random(rows) < 0.5, "clerk", "cook")),
        "grade": pa.array(np.where(manager, 3, draws.integers(1, 3, rows)), pa.int8()),
        "income": pa.array(income, mask=draws.random(rows) < GONE),
        "age": np.where(manager, draws.normal(55, 4, rows), draws.normal(30, 4, rows)).round().astype(np.int64),
    })  # fmt: skip


def fit(
    family: FamilyName,
    folder: Path,
    place: MemoryPlace | None = None,
    *,
    table: pa.Table | None = None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> TrainedFiles:
    table = people() if table is None else table
    given: dict[str, Any] = {
        "steps": 12,
        "batch_size": 64,
        "checkpoint_every": 5,
        "log_every": 4,
        "options": TINY[family],
    }
    request = TrainingRequest(
        model="people",
        settings=TrainingSettings(family=family, **{**given, **settings}),
        data=TableData(table=table, columns=find_columns(table, {}), name="people.csv", license="CC0-1.0"),
        event_folder=folder / "events",
    )
    trained = open_trainer(family).train(request, place or MemoryPlace(), stop=stop or threading.Event(), signs=Signs())
    for name, content in trained.files.items():
        (folder / name).write_bytes(content)
    return trained


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> FamilyName:
    name: FamilyName = request.param
    return name


@pytest.fixture(scope="module")
def model(family: FamilyName, tmp_path_factory: pytest.TempPathFactory) -> TableModel:
    """Fitted well enough to know who earns what."""
    folder = tmp_path_factory.mktemp(family)
    options = {**TINY[family], "widths": [64], **({"judged_every": 100} if family == "tabular-vae" else {})}
    fit(family, folder, steps=400, batch_size=128, learning_rate=3e-3, average=0.99, options=options)
    return open_table_model(folder)


@pytest.fixture(scope="module")
def untrained(family: FamilyName, tmp_path_factory: pytest.TempPathFactory) -> TableModel:
    folder = tmp_path_factory.mktemp(f"{family}-untrained")
    fit(family, folder, steps=1)
    return open_table_model(folder)


def test_files_are_a_whole_model(family: FamilyName, tmp_path: Path) -> None:
    place = MemoryPlace()
    trained = fit(family, tmp_path, place)
    assert sorted(trained.files) == ["README.md", "config.json", "model.safetensors"]
    assert (trained.family, trained.rows, trained.step, trained.finished) == (family, 600, 12, True)
    assert [column.name for column in trained.columns] == people().column_names
    assert trained.losses
    assert [news.step for news in place.news if news.told] == [4, 8, 12]
    assert b"https://arxiv.org/abs/1907.00503" in trained.files["README.md"]
    assert open_table_model(tmp_path).columns == find_columns(people(), {})


def test_a_killed_training_ends_with_the_same_bytes(family: FamilyName, tmp_path: Path) -> None:
    whole = fit(family, tmp_path)
    place = MemoryPlace(dies_at=8)
    with pytest.raises(KilledError):
        fit(family, tmp_path, place)
    assert place.saved[-1].step == 5
    torch.manual_seed(99)  # what it draws is no global generator's
    resumed = fit(family, tmp_path, place)
    assert resumed.files == whole.files
    assert resumed.losses == whole.losses


def test_global_generators_stay_where_they_were(family: FamilyName, tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    fit(family, tmp_path)
    open_table_model(tmp_path).sample(TableRequest(rows=10, seed=1))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_a_training_that_is_stopped_leaves_a_checkpoint(family: FamilyName, tmp_path: Path) -> None:
    stop, place = threading.Event(), MemoryPlace()
    stop.set()
    with pytest.raises(TrainingStoppedError):
        fit(family, tmp_path, place, stop=stop)
    assert place.saved[-1].step == 0


def test_the_time_of_a_training_is_bounded(family: FamilyName, tmp_path: Path) -> None:
    trained = fit(family, tmp_path, minutes=1e-9)
    assert (trained.step, trained.finished) == (1, False)


def test_a_vae_stops_where_it_gets_worse(tmp_path: Path) -> None:
    noise = np.random.default_rng(1)
    table = pa.table({f"x{place}": noise.normal(size=60) for place in range(6)})
    options = {**TINY["tabular-vae"], "patience": 2, "judged": 0.5}
    trained = fit("tabular-vae", tmp_path, table=table, steps=3000, learning_rate=1e-2, average=0.0, options=options)
    assert trained.step < 3000
    assert trained.finished
    assert trained.metrics["held_out_loss"] < trained.losses["held_out"] + 1e-3


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (people(40), "training_data_too_small"),
        (people(60).select(["person_id"]), "table_not_learnable"),
    ],
)
def test_tables_that_cannot_be_learned_say_why(family: FamilyName, table: pa.Table, code: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        fit(family, tmp_path, table=table)
    assert caught.value.code == code
    assert "people.csv" in caught.value.message


def test_a_checkpoint_of_another_table_is_refused(family: FamilyName, tmp_path: Path) -> None:
    place = MemoryPlace()
    fit(family, tmp_path, place)
    with pytest.raises(ModelError, match="other columns") as caught:
        fit(family, tmp_path, place, table=people().select(["job", "age"]))
    assert caught.value.code == "checkpoint_mismatch"


def test_damaged_weights_are_named(family: FamilyName, tmp_path: Path) -> None:
    fit(family, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError) as caught:
        open_table_model(tmp_path)
    assert caught.value.code == "weights_damaged"


def test_rows_are_of_the_sources_types_and_as_many_as_asked(untrained: TableModel) -> None:
    for rows in (0, 1, 37):
        made = untrained.sample(TableRequest(rows=rows, seed=1, first=1000))
        assert made.num_rows == rows
        assert made.schema == table_schema(untrained.columns)
    assert len(set(made["person_id"].to_pylist())) == 37
    assert not set(made["person_id"].to_pylist()) & set(people()["person_id"].to_pylist())


def test_the_same_request_gives_the_same_rows(family: FamilyName, tmp_path: Path) -> None:
    fit(family, tmp_path)
    model = open_table_model(tmp_path)
    request = TableRequest(rows=200, seed=7, where={"job": "cook"}, rebalance={"grade": {"1": 0.5}}, impute=("income",))
    first = model.sample(request)
    assert model.sample(TableRequest(rows=200, seed=8)) != first
    assert model.sample(request) == first
    assert open_table_model(tmp_path).sample(request) == first


def test_conditions_hold_for_every_row(untrained: TableModel) -> None:
    where = {"job": "cook", "grade": 2, "income": None}
    made = untrained.sample(TableRequest(rows=50, seed=1, where=where))
    assert {tuple(row.values()) for row in made.select(list(where)).to_pylist()} == {("cook", 2, None)}


def test_a_number_may_be_a_condition(model: TableModel) -> None:
    made = model.sample(TableRequest(rows=30, seed=1, where={"age": 30}))
    assert made["age"].to_pylist() == [30] * 30
    # Those of thirty are hardly ever managers.
    assert made["job"].to_pylist().count("manager") < 10


def test_shares_are_set_to_the_row_and_the_others_keep_the_rest(untrained: TableModel) -> None:
    made = untrained.sample(TableRequest(rows=200, seed=1, rebalance={"job": {"manager": 0.75}}))
    jobs = made["job"].to_pylist()
    assert jobs.count("manager") == 150
    assert min(jobs.count("cook"), jobs.count("clerk")) > 10


def test_what_is_imputed_is_never_missing(untrained: TableModel) -> None:
    assert untrained.sample(TableRequest(rows=200, seed=1))["income"].null_count
    assert not untrained.sample(TableRequest(rows=200, seed=1, impute=("income",)))["income"].null_count


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"where": {"job": "pope"}}, "it may be cook, clerk, manager|it may be clerk, cook, manager"),
        ({"where": {"pay": 1}}, "there is no column 'pay'"),
        ({"where": {"age": None}}, "never missing"),
        ({"rebalance": {"job": {"pope": 0.5}}}, "never 'pope'"),
        ({"rebalance": {"job": {"cook": 0.5, "clerk": 0.6}}}, "sum up to 1"),
    ],
)
def test_requests_that_cannot_be_met_say_why(untrained: TableModel, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        untrained.sample(TableRequest(rows=10, seed=1, **asked))
    assert caught.value.code == "table_request_invalid"


def test_what_hardly_occurs_is_given_up(untrained: TableModel) -> None:
    with pytest.raises(ModelError, match="age = 1000000") as caught:
        untrained.sample(TableRequest(rows=10, seed=1, where={"age": 1_000_000}))
    assert caught.value.code == "condition_unreachable"


def test_a_fitted_model_knows_what_goes_together(model: TableModel) -> None:
    """Independent columns would say of managers what they say of all."""
    made = model.sample(TableRequest(rows=2000, seed=1))
    manager = pc.equal(made["job"], "manager")
    share = pc.mean(manager.cast(pa.float64())).as_py()
    assert 0.15 < share < 0.45
    rich, old = (pc.greater(made[name], least).cast(pa.float64()) for name, least in (("income", 5000), ("age", 42)))
    for high in (rich, old):
        among = pc.mean(high.filter(manager)).as_py()
        others = pc.mean(high.filter(pc.invert(manager))).as_py()
        assert among > others + 0.5
    assert abs(made["income"].null_count / 2000 - GONE) < 0.1


def test_gumbel_noise_draws_from_a_softmax() -> None:
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    drawn = (logits + gumbel((20_000, 3), torch.Generator().manual_seed(1))).argmax(1)
    shares = torch.bincount(drawn) / len(drawn)
    assert torch.allclose(shares, torch.tensor([0.1, 0.6, 0.3]), atol=0.02)
