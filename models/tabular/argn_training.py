"""Fitting TabularARGN with `mostlyai-engine`, as a training job: checkpoints, budget, early stopping, privacy.

The engine trains in epochs, and keeps the weights whose loss on a tenth of the rows, which it sets apart, is lowest.
After each epoch that is better than those before there is a checkpoint. A training that goes on from one has the
weights, the optimiser, the learning rate and the spent ε of that epoch, exactly; the order of rows and columns after it
is drawn anew, from the seed and the step. So two resumptions of one checkpoint end alike, but not like a training that
was never interrupted, bit for bit; nor does the count of epochs without progress outlive a kill.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import datasets
import joblib
import orjson
import pyarrow.compute as pc
import torch
from mostlyai.engine._tabular.training import train as train_network
from safetensors.torch import save

from models.backends.training import Signs
from models.backends.training_engine import TrainingRun, TrainingStoppedError
from models.errors import FailureKind, ModelError
from models.tabular.argn import PARENT_STATS, STATS, seeded
from models.tabular.argn_checkpoints import weights_of
from models.tabular.argn_engine import DifferentialPrivacyConfig, ModelStateStrategy, Workspace, analyze, encode, split
from models.tabular.argn_epochs import EpochWatch
from models.tabular.argn_frames import ENCODINGS, engine_names
from models.tabular.argn_links import linked_frames
from models.tabular.argn_sequences import longest_sequence
from models.tabular.cards import TableAbout, table_card
from models.tabular.columns import Column
from models.tabular.fresh import learn_fresh
from models.tabular.saved import CONFIG, WEIGHTS, Linked, SavedTable, encode_config
from models.training.cards import CARD
from models.training.data import seed_of
from models.training.settings import PrivacyOptions, TabularArgnOptions
from models.training_run import TableData, TrainedFiles, TrainingPlace, TrainingRequest

MIN_ROWS: Final = 50
"""Fewer tell nothing: the engine protects the ends of all ranges, and whatever fewer than five to eight rows share."""
JUDGED_SHARE: Final = 0.1
"""Of the rows: by the loss on them the epochs are compared."""
BATCHES: Final = 64
SMALLEST_BATCH, LARGEST_BATCH = 8, 1024
_SIZES: Final = {"S": "MOSTLY_AI/Small", "M": "MOSTLY_AI/Medium", "L": "MOSTLY_AI/Large"}
_NO_LIMIT = 1e9
"""Minutes: the time is kept here, not by the engine."""


class ArgnTrainer:
    """A `TableTrainer` (see there)."""

    def train(
        self, request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs
    ) -> TrainedFiles:
        """See `TableTrainer`."""
        data = request.data
        if not isinstance(data, TableData):
            raise AssertionError("a model of tables is fitted to a table")  # noqa: TRY004  # no caller's fault
        check_learnable(data)
        options = TabularArgnOptions.model_validate(request.settings.options)
        learned = round((1 - JUDGED_SHARE) * _subjects(data))
        batch = min(learned, options.batch_size or _batch_size(learned))
        an_epoch = max(1, learned // batch)
        epochs = min(options.epochs, request.settings.steps / an_epoch)
        settings = request.settings.model_copy(
            update={"batch_size": batch, "steps": max(1, math.ceil(epochs * an_epoch))}
        )
        run = TrainingRun(settings, place, stop, signs)
        with tempfile.TemporaryDirectory(prefix="nightmill-table-") as home, _at_home(Path(home)):
            workspace = Workspace(Path(home) / "workspace")
            with seeded(settings.seed):
                self._prepare(workspace, data, options.dp)
            watch = EpochWatch(run, workspace, settings, request.event_folder, max_epsilon=_max_epsilon(options.dp))
            signs.show()
            with watch, seeded(seed_of(settings.seed, watch.step)):
                self._fit(workspace, watch, options, batch=batch, epochs=epochs)
            if stop.is_set() and not watch.finished:
                raise TrainingStoppedError
            outcome = _Outcome(
                stats=workspace.tgt_stats.read(),
                parent_stats=workspace.ctx_stats.read() if data.foreign_key is not None else None,
                configs=workspace.model_configs.read(),
            )
        return self._files(request, data, run, watch, outcome)

    def _prepare(self, workspace: Workspace, data: TableData, private: PrivacyOptions | None) -> None:
        """Put the table into the workspace as the engine's codes: the same each time, so that a checkpoint fits."""
        names = engine_names(data.columns)
        split(
            **linked_frames(data),
            tgt_encoding_types=_encodings(data.columns),
            trn_val_split=1 - JUDGED_SHARE,
            workspace_dir=_folder(workspace),
        )
        analyze(differential_privacy=_engine_privacy(private), workspace_dir=_folder(workspace))
        _check_categories(workspace.tgt_stats.read(), data.columns, names)
        if data.parent is not None:
            _check_categories(workspace.ctx_stats.read(), data.parent.columns, engine_names(data.parent.columns))
        encode(workspace_dir=_folder(workspace))

    def _fit(
        self, workspace: Workspace, watch: EpochWatch, options: TabularArgnOptions, *, batch: int, epochs: float
    ) -> None:
        resumes = watch.best is not None
        try:
            train_network(
                model=_SIZES[options.size],
                max_training_time=_NO_LIMIT,
                # It stops after the epoch that is higher than this.
                max_epochs=max(0.0, epochs - 1e-9),
                batch_size=batch,
                differential_privacy=_engine_privacy(options.dp),
                model_state_strategy=ModelStateStrategy.resume if resumes else ModelStateStrategy.reset,
                workspace_dir=_folder(workspace),
                update_progress=watch.hear,
            )
        finally:
            torch.set_flush_denormal(False)  # the engine has this thread take the smallest numbers for 0

    def _files(
        self,
        request: TrainingRequest,
        data: TableData,
        run: TrainingRun,
        watch: EpochWatch,
        outcome: _Outcome,
    ) -> TrainedFiles:
        if watch.best is None:
            raise AssertionError("the engine ends with a checkpoint")
        options = TabularArgnOptions.model_validate(request.settings.options)
        losses = {name: round(loss, 4) for name, loss in watch.losses.items()}
        metrics = {} if options.dp is None else {"epsilon": watch.epsilon, "delta": options.dp.delta}
        source = f"the file {data.name}: {data.table.num_rows} rows"
        saved = SavedTable(
            family="tabular-argn",
            columns=data.columns,
            fresh={
                column.name: learn_fresh(column, data.table.column(column.name))
                for column in data.columns
                if column.kind not in ENCODINGS and (data.parent is None or column.name != data.foreign_key)
            },
            rows=data.table.num_rows,
            linked=_linked(data, outcome.stats),
            engine={"configs": outcome.configs, "options": options.model_dump(mode="json")},
        )
        about = TableAbout(
            name=request.model,
            settings=request.settings,
            columns=data.columns,
            source=f"the file {data.name}",
            license=data.license,
            rows=data.table.num_rows,
            held_out=data.held_out,
            step=watch.step,
            losses=losses,
            metrics=metrics,
            remarks="" if options.dp is None else _privacy_remarks(options.dp, watch.epsilon),
            linked=saved.linked,
        )
        parent = {} if outcome.parent_stats is None else {PARENT_STATS: _json(outcome.parent_stats)}
        return TrainedFiles(
            files={
                WEIGHTS: save(weights_of(watch.best), metadata={"format": "pt"}),
                CONFIG: encode_config(saved),
                STATS: _json(outcome.stats),
                **parent,
                CARD: table_card(about).encode(),
            },
            family="tabular-argn",
            rows=data.table.num_rows,
            columns=data.columns,
            metrics=metrics,
            source=source,
            license=data.license,
            linked=saved.linked,
            step=watch.step,
            losses=losses,
            seconds=run.seconds,
            finished=watch.finished,
        )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What the engine leaves beside the weights; all of it JSON."""

    stats: dict[str, Any]
    parent_stats: dict[str, Any] | None
    """Of the subjects' table; None where rows belong to no subjects."""
    configs: dict[str, Any]


def check_learnable(data: TableData) -> None:
    """Raise ModelError, kind MODEL, where a table cannot be learned from."""
    if data.table.num_rows < MIN_ROWS:
        raise ModelError(
            FailureKind.MODEL,
            "training_data_too_small",
            f"{data.name} has {data.table.num_rows} rows to learn from; a model of tables needs {MIN_ROWS}",
        )
    if _subjects(data) < MIN_ROWS:
        raise ModelError(
            FailureKind.MODEL,
            "training_data_too_small",
            f"the rows of {data.name} belong to {_subjects(data)} subjects, by {data.foreign_key!r}; a model of "
            f"sequences needs {MIN_ROWS}",
        )
    if not any(column.kind in ENCODINGS for column in data.columns):
        raise ModelError(
            FailureKind.MODEL,
            "table_not_learnable",
            f"every column of {data.name} holds keys or texts, which are made anew: there is nothing to learn",
        )


def _encodings(columns: Sequence[Column]) -> dict[str, str]:
    names = engine_names(columns)
    return {names[column.name]: ENCODINGS[column.kind] for column in columns if column.name in names}


def _subjects(data: TableData) -> int:
    """How many examples a table holds: rows, or sequences."""
    if data.parent is not None:
        return data.parent.table.num_rows
    if data.foreign_key is not None:
        return len(pc.unique(data.table.column(data.foreign_key)))
    return data.table.num_rows


def _linked(data: TableData, stats: dict[str, Any]) -> Linked | None:
    if data.foreign_key is None:
        return None
    return Linked(
        foreign_key=data.foreign_key,
        parent_key=None if data.parent is None else data.parent.key,
        parent_columns=() if data.parent is None else data.parent.columns,
        order_by=data.order_by,
        longest=longest_sequence(stats),
    )


def _json(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def _check_categories(stats: dict[str, Any], columns: Sequence[Column], names: dict[str, str]) -> None:
    """See that of each categorical column something is left when what is rare is taken out."""
    for column in columns:
        found = stats["columns"].get(names.get(column.name, ""), {})
        if column.kind == "categorical" and found.get("no_of_rare_categories", 0) and len(found["codes"]) == 1:
            raise ModelError(
                FailureKind.MODEL,
                "table_not_learnable",
                f"column {column.name!r}: each of its {found['no_of_rare_categories']} values is rare, and would give "
                "its row away; take text or id as its kind in data.columns, or leave it out",
            )


def _batch_size(rows: int) -> int:
    power: int = 2 ** int(math.log2(max(1, rows / BATCHES)))
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, power))


def _engine_privacy(private: PrivacyOptions | None) -> DifferentialPrivacyConfig | None:
    if private is None:
        return None
    return DifferentialPrivacyConfig(
        maxEpsilon=private.max_epsilon,
        delta=private.delta,
        noiseMultiplier=private.noise_multiplier,
        maxGradNorm=private.max_grad_norm,
        valueProtectionEpsilon=private.value_epsilon,
    )


def _max_epsilon(private: PrivacyOptions | None) -> float:
    return math.inf if private is None else private.max_epsilon


def _privacy_remarks(private: PrivacyOptions, epsilon: float) -> str:
    return (
        f"## Differential privacy\n\nIt was trained with DP-SGD: epsilon {epsilon:g} at delta {private.delta:g} was "
        f"spent (noise {private.noise_multiplier:g}, gradients cut to {private.max_grad_norm:g}), that on the values' "
        f"ranges ({private.value_epsilon:g}) included. Not counted: the kinds of the columns and the shapes of texts, "
        "which are looked up in the table itself, and the choice of the epoch by its loss."
    )


def _folder(workspace: Workspace) -> Path:
    path: Path = workspace.model_path
    return path.parent.parent


@contextmanager
def _at_home(home: Path) -> Iterator[None]:
    """Keep all that the engine writes under `home`, and its work in this process.

    It reads its rows through `datasets`, which copies them into a cache in the user's home, where they would stay.
    """
    cache = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = home / "cache"
    try:
        with joblib.parallel_config(backend="threading"):
            yield
    finally:
        datasets.config.HF_DATASETS_CACHE = cache
