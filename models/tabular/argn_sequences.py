"""Drawing from TabularARGN's networks: a row for each subject, or a sequence of rows, one step for all at a time.

What the engine's `generate` does, without its frames: the network foretells, with the first row of a sequence, how long
the sequence will be, and after it with each row how many are still to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.tabular.argn_decoding import Codes
from models.tabular.argn_engine import (
    RIDX_SUB_COLUMN_PREFIX,
    SIDX_SUB_COLUMN_PREFIX,
    SLEN_SUB_COLUMN_PREFIX,
    FlatModel,
    SequentialModel,
    decode_positional_column,
    encode_positional_column,
    get_sequence_length_stats,
)

_DEVICE: Final = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How columns are drawn; all under the engine's names of their parts."""

    probabilities: Mapping[str, Mapping[int, float]]
    """Shares of codes that are set from outside."""
    fixed: Mapping[str, int]
    """Codes that every row has."""
    order: list[str]
    """Of the columns."""
    temperature: float


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Rows as codes, those of a subject one after the other."""

    codes: Codes
    subjects: NDArray[np.int64]
    """By row: the number of its subject, from 0."""
    steps: NDArray[np.int64]
    """And which of the subject's rows it is, from 0."""


def build_network(
    stats: dict[str, Any],  # JSON, the engine's
    cardinalities: dict[str, int],
    context_cardinalities: dict[str, int],
    units: dict[str, int],
) -> FlatModel | SequentialModel:
    """The network that fits what the engine has learned of a table, with weights that are to be replaced."""
    shared: dict[str, Any] = {
        "tgt_cardinalities": cardinalities,
        "ctx_cardinalities": context_cardinalities,
        "ctxseq_len_median": {},
        "model_size": units,
        "column_order": None,
        "device": _DEVICE,
    }
    if not stats["is_sequential"]:
        return FlatModel(**shared)
    lengths = get_sequence_length_stats(stats)
    return SequentialModel(tgt_seq_len_median=lengths["median"], tgt_seq_len_max=lengths["max"], **shared)


def longest_sequence(stats: dict[str, Any]) -> int:
    """Rows that a subject has at most."""
    longest: int = get_sequence_length_stats(stats)["max"]
    return longest


def draw_rows(network: FlatModel, subjects: int, context: dict[str, Tensor], drawing: Drawing) -> DrawnRows:
    """A row for each subject."""
    with torch.no_grad():
        codes, _ = network(
            context,
            mode="gen",
            batch_size=subjects,
            fixed_probs=drawing.probabilities,
            fixed_values={name: _filled(subjects, code) for name, code in drawing.fixed.items()},
            temperature=drawing.temperature,
            top_p=1.0,
            column_order=drawing.order,
        )
    return DrawnRows(
        codes={name: values.numpy().astype(np.int64) for name, values in codes.items()},
        subjects=np.arange(subjects),
        steps=np.zeros(subjects, dtype=np.int64),
    )


def draw_sequences(
    network: SequentialModel, stats: dict[str, Any], subjects: int, inputs: dict[str, Tensor], drawing: Drawing
) -> DrawnRows:
    """A sequence for each subject, from no rows up to the longest."""
    lengths = get_sequence_length_stats(stats)
    longest: int = lengths["max"]
    left = np.arange(subjects)
    length = remaining = np.zeros(0, dtype=np.int64)
    history = state = None
    steps: list[tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]] = []
    with torch.no_grad():
        context = network.context_compressor(inputs)
        for step in range(longest):
            if not len(left):
                break
            fixed = _position(SIDX_SUB_COLUMN_PREFIX, np.full(len(left), step), longest)
            if step:
                fixed |= _position(SLEN_SUB_COLUMN_PREFIX, length, longest)
                fixed |= _position(RIDX_SUB_COLUMN_PREFIX, np.maximum(remaining - 1, 0), longest)
            fixed |= {name: _filled(len(left), code).unsqueeze(-1) for name, code in drawing.fixed.items()}
            drawn, history, state = network(
                x=None,
                mode="gen",
                batch_size=len(left),
                fixed_probs=drawing.probabilities,
                fixed_values=fixed,
                temperature=drawing.temperature,
                top_p=1.0,
                history=history,
                history_state=state,
                context=context,
                column_order=drawing.order,
            )
            codes = {name: values.squeeze(-1).numpy().astype(np.int64) for name, values in drawn.items()}
            length = np.maximum(_read_position(SLEN_SUB_COLUMN_PREFIX, codes, longest), lengths["min"])
            remaining = np.clip(_read_position(RIDX_SUB_COLUMN_PREFIX, codes, longest), lengths["min"] - step, longest)
            lives = remaining > 0
            if not lives.all():
                kept = torch.from_numpy(lives)
                left, length, remaining = left[lives], length[lives], remaining[lives]
                codes = {name: values[lives] for name, values in codes.items()}
                context = [
                    part[kept] if isinstance(part, Tensor) else [each[kept] for each in part] for part in context
                ]
                history, state = history[kept], tuple(each[:, kept] for each in state)
            steps.append((codes, left))
    return _joined(steps, network)


def _joined(steps: list[tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]], network: SequentialModel) -> DrawnRows:
    """The rows of all steps, sorted by subject."""
    if not steps:
        nothing = np.zeros(0, dtype=np.int64)
        return DrawnRows(codes=dict.fromkeys(network.tgt_sub_columns, nothing), subjects=nothing, steps=nothing)
    subjects = np.concatenate([left for _, left in steps])
    numbers = np.concatenate([np.full(len(left), step) for step, (_, left) in enumerate(steps)])
    order = np.argsort(subjects, kind="stable")
    codes = {name: np.concatenate([step[name] for step, _ in steps])[order] for name in network.tgt_sub_columns}
    return DrawnRows(codes=codes, subjects=subjects[order], steps=numbers[order])


def _filled(rows: int, code: int) -> Tensor:
    return torch.full((rows,), code, dtype=torch.int)


def _position(prefix: str, numbers: NDArray[np.int64], longest: int) -> dict[str, Tensor]:
    """Numbers of a positional column as the codes of its parts."""
    frame = encode_positional_column(pd.Series(numbers), max_seq_len=longest, prefix=prefix)
    return {
        name: torch.from_numpy(frame[name].to_numpy(copy=True)).type(torch.int).unsqueeze(-1) for name in frame.columns
    }


def _read_position(prefix: str, codes: Codes, longest: int) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = np.asarray(decode_positional_column(codes, longest, prefix=prefix))
    return numbers
