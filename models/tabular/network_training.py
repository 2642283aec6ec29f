"""Fitting our own networks of tables as a training job: checkpoints, budget, and an end where nothing is gained.

A training that was killed and goes on from a checkpoint ends with the same weights, bit for bit on a processor with the
same number of threads, as one that ran through: the encoding is part of the checkpoint, and a step is a function of the
state, its number and the settings (see `models.training.loop`).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar, Final

import torch

from models.backends.training import Signs
from models.backends.training_engine import TrainingRun, TrainingStoppedError
from models.errors import FailureKind, ModelError
from models.tabular.cards import TableAbout, table_card
from models.tabular.encoding import Rows, TableEncoding, find_encoding
from models.tabular.gan import TableGan
from models.tabular.network_model import network_files
from models.tabular.networks import TableSubject, kept_encoding
from models.tabular.vae import TableVae
from models.training.cards import CARD
from models.training.loop import Ended, train_subject
from models.training.settings import FamilyName, TabularGanOptions, TabularVaeOptions, TrainingSettings, family_options
from models.training_run import TableData, TrainedFiles, TrainingPlace, TrainingRequest

MIN_ROWS: Final = 50
"""Fewer tell nothing."""


class NetworkTrainer(ABC):
    """A `TableTrainer` (see there); a family says what learns."""

    family: ClassVar[FamilyName]

    def train(
        self, request: TrainingRequest, place: TrainingPlace, *, stop: threading.Event, signs: Signs
    ) -> TrainedFiles:
        """See `TableTrainer`."""
        data = request.data
        if not isinstance(data, TableData):
            raise AssertionError("a model of tables is fitted to a table")  # noqa: TRY004  # no caller's fault
        run = TrainingRun(request.settings, place, stop, signs)
        encoding = _encoding(data, request.settings, run)
        rows = encoding.encode(data.table, request.settings.seed)
        signs.show()
        settings = run.settings_left()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            subject = self.open(encoding, rows, settings)
        ended = train_subject(
            subject,
            settings,
            run,
            watch=run.watch,
            event_folder=request.event_folder,
            each_step=lambda step: run.each_step(step) or subject.settled,
        )
        if stop.is_set() and not (ended.finished or subject.settled):
            raise TrainingStoppedError
        return self._files(request, data, subject, ended, run)

    @abstractmethod
    def open(self, encoding: TableEncoding, rows: Rows, settings: TrainingSettings) -> TableSubject:
        """What learns, with weights drawn from torch's global generator."""

    def _files(
        self, request: TrainingRequest, data: TableData, subject: TableSubject, ended: Ended, run: TrainingRun
    ) -> TrainedFiles:
        finished = ended.finished or subject.settled
        network = subject.finish()
        metrics = subject.metrics()
        losses = {name: round(loss, 4) for name, loss in ended.losses.items()}
        about = TableAbout(
            name=request.model,
            settings=request.settings,
            columns=data.columns,
            source=f"the file {data.name}",
            license=data.license,
            rows=data.table.num_rows,
            held_out=data.held_out,
            step=ended.step,
            losses=losses,
            metrics=metrics,
        )
        options = family_options(self.family, request.settings.options)
        files = network_files(self.family, subject.encoding, network, options, rows=data.table.num_rows)
        return TrainedFiles(
            files={**files, CARD: table_card(about).encode()},
            family=self.family,
            rows=data.table.num_rows,
            columns=data.columns,
            metrics=metrics,
            source=f"the file {data.name}: {data.table.num_rows} rows",
            license=data.license,
            step=ended.step,
            losses=losses,
            seconds=run.seconds,
            finished=finished,
        )


class GanTrainer(NetworkTrainer):
    """Fits the conditional GAN."""

    family = "tabular-gan"

    def open(self, encoding: TableEncoding, rows: Rows, settings: TrainingSettings) -> TableSubject:
        """Generator and critic."""
        return TableGan(encoding, rows, TabularGanOptions.model_validate(settings.options), settings)


class VaeTrainer(NetworkTrainer):
    """Fits the variational autoencoder."""

    family = "tabular-vae"

    def open(self, encoding: TableEncoding, rows: Rows, settings: TrainingSettings) -> TableSubject:
        """Encoder and decoder."""
        return TableVae(encoding, rows, TabularVaeOptions.model_validate(settings.options), settings)


def _encoding(data: TableData, settings: TrainingSettings, run: TrainingRun) -> TableEncoding:
    """That of the checkpoint, or found afresh.

    Raises:
        ModelError: kind MODEL, code `training_data_too_small`, `table_not_learnable` or `checkpoint_mismatch`.
    """
    if data.table.num_rows < MIN_ROWS:
        raise ModelError(
            FailureKind.MODEL,
            "training_data_too_small",
            f"{data.name} has {data.table.num_rows} rows to learn from; a model of tables needs {MIN_ROWS}",
        )
    checkpoint = run.latest()
    if checkpoint is None:
        encoding = find_encoding(data.table, data.columns, settings.seed)
    else:
        encoding = kept_encoding(checkpoint)
        if encoding.columns != data.columns:
            raise ModelError(
                FailureKind.MODEL,
                "checkpoint_mismatch",
                f"the checkpoint of step {checkpoint.step} is of a table with other columns than {data.name}",
            )
    if not encoding.heads:
        raise ModelError(
            FailureKind.MODEL,
            "table_not_learnable",
            f"every column of {data.name} holds keys or texts, which are made anew: there is nothing to learn",
        )
    return encoding
