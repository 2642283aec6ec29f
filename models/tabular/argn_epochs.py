"""The epochs of a training in mostlyai-engine: what it tells of them, and which of them is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from models.backends.training_engine import TrainingRun
from models.errors import FailureKind, ModelError
from models.tabular.argn_checkpoints import read_workspace, write_workspace
from models.tabular.argn_engine import Workspace
from models.training.checkpoints import Checkpoint
from models.training.loop import Progress
from models.training.settings import TrainingSettings


class EpochWatch:
    """Stands between the engine and the training's place: hears each step, keeps the best epoch, ends on time."""

    def __init__(
        self, run: TrainingRun, workspace: Workspace, settings: TrainingSettings, events: Path, *, max_epsilon: float
    ) -> None:
        self.best: Checkpoint | None = run.latest()
        """The epoch with the lowest loss, of earlier executions too."""
        self.step = 0 if self.best is None else self.best.step
        self.losses: dict[str, float] = {}
        self.finished = True
        self.epsilon = 0.0
        """That `best` has spent."""
        self._run = run
        self._workspace = workspace
        self._settings = settings
        self._max_epsilon = max_epsilon
        self._events = SummaryWriter(str(events), purge_step=self.step)
        self._lowest = math.inf
        if self.best is not None:
            write_workspace(workspace, self.best)
            self._take(self.best)

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, *_: object) -> None:
        """Close the event file."""
        self._events.close()

    def hear(self, *, total: int | None = None, message: dict[str, Any] | None = None, **_: object) -> dict[str, bool]:
        """Called by the engine when it begins, after each step, and when it ends."""
        if message is None and total == 1:
            return {}  # the beginning or the end: a training of one step has something to tell of it
        self.step = self.step + 1 if message is None else int(message["steps"])
        if message is not None:
            self._tell(message)
            self._keep(message)
        stops = self._run.each_step(self.step)
        late = self._settings.minutes is not None and self._run.seconds >= 60 * self._settings.minutes
        if stops or late:
            self.finished = False
        return {"stopExecution": stops or late}

    def _tell(self, message: dict[str, Any]) -> None:
        names = {"trn_loss": "training", "val_loss": "validation", "dp_eps": "epsilon"}
        losses = {shown: float(message[name]) for name, shown in names.items() if message[name] is not None}
        for name, loss in losses.items():
            self._events.add_scalar(f"loss/{name}", loss, self.step)
        self._events.flush()
        self._run.watch(
            Progress(step=self.step, steps=self._settings.steps, losses=losses, seconds=self._run.seconds, grid=None)
        )

    def _keep(self, message: dict[str, Any]) -> None:
        """Keep the epoch, if it is better than all before it, in this process or an earlier one."""
        loss = math.inf if message["val_loss"] is None else message["val_loss"]
        if not message["is_checkpoint"] or (self.best is not None and loss >= self._lowest):
            return
        epsilon = message["dp_eps"]
        if epsilon is not None and epsilon > self._max_epsilon:
            if self.best is not None:
                return
            raise ModelError(
                FailureKind.MODEL,
                "privacy_budget_too_small",
                f"the first epoch spends an epsilon of {epsilon:g}, and max_epsilon is {self._max_epsilon:g}; raise it "
                "or noise_multiplier, or take a smaller batch_size",
            )
        self.best = read_workspace(self._workspace, message)
        self._take(self.best)
        self._run.save(self.best)

    def _take(self, checkpoint: Checkpoint) -> None:
        kept: Any = checkpoint.state  # JSON, as `read_workspace` made it
        message = kept["message"]
        self._lowest = math.inf if message["val_loss"] is None else message["val_loss"]
        self.epsilon = kept["epsilon"] or 0.0
        names = {"trn_loss": "training", "val_loss": "validation"}
        self.losses = {shown: message[name] for name, shown in names.items() if message[name] is not None}
