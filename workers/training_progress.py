"""How far a training is: a part of the wire, and of a job as clients see it. Imports next to nothing."""

from __future__ import annotations

import msgspec


class TrainingProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far a training is."""

    step: int
    steps: int
    losses: dict[str, float] = {}
    """Means over the last steps that were told of."""
    images_per_second: float = 0.0
    seconds_left: float | None = None
    resumed_at: int = 0
    """The step of the checkpoint that this execution went on from."""
    checkpoint: int | None = None
    """The step of the newest one that was kept."""
    samples: str | None = None
    """Key of the newest sheet of samples."""
    history: str | None = None
    """Key of the losses so far, as JSON lines."""
    events: str | None = None
    """Key of the event file for TensorBoard."""
