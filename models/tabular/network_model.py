"""A fitted network and its encoding as a model that rows are sampled from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from models.errors import FailureKind, ModelError
from models.tabular.asked import Asked, understand
from models.tabular.columns import Column
from models.tabular.encoding import Place, Rows, TableEncoding
from models.tabular.engine import TableRequest
from models.tabular.fresh import FreshKeys, FreshTexts
from models.tabular.gan import Generator
from models.tabular.heads import Levels, Modes
from models.tabular.networks import TableNetwork
from models.tabular.saved import CONFIG, WEIGHTS, SavedTable, encode_config, read_config
from models.tabular.vae import VaeNetwork
from models.training.settings import FamilyName, Options, TabularGanOptions, TabularVaeOptions, family_options

CHUNK: Final = 10_000
"""Candidates that are made at once."""
MOST_CANDIDATES: Final = 500
"""For each row that is asked for, on the average."""
LEAST_CANDIDATES: Final = 200_000
"""So many are tried even for a few rows."""
_SEED_BITS: Final = 2**63 - 1


class NetworkModel:
    """Samples rows. Candidates that are not as asked are drawn again, so many times and no more."""

    def __init__(self, encoding: TableEncoding, network: TableNetwork) -> None:
        self._encoding = encoding
        self._network = network.eval()

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the source, in its order."""
        return self._encoding.columns

    @property
    def linked(self) -> None:
        """None: these models draw every row by itself."""

    def sample(self, request: TableRequest) -> pa.Table:
        """See `models.tabular.engine.TableModel`."""
        asked = understand(request, self._encoding)
        generator = torch.Generator().manual_seed(request.seed & _SEED_BITS)
        with torch.inference_mode():
            rows = self._drawn(asked, request, generator)
        table = self._encoding.decode(rows, first=request.first, seed=request.seed, impute=request.impute)
        for name, values in asked.set.items():
            table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
        return table

    def _drawn(self, asked: Asked, request: TableRequest, generator: torch.Generator) -> Rows:
        heads = len(self._encoding.heads)
        rows = Rows(np.zeros((asked.rows, heads), np.int64), np.zeros((asked.rows, heads), np.float32))
        missing, tried = np.arange(asked.rows), 0
        most = max(LEAST_CANDIDATES, MOST_CANDIDATES * asked.rows)
        while len(missing):
            if tried >= most:
                raise _unreachable(request, asked.rows - len(missing), tried)
            # The first rows that are missing, each several times where few are.
            which = np.resize(missing[:CHUNK], max(len(missing[:CHUNK]), CHUNK if tried else 0))
            made = self._candidates(asked, which, request, generator)
            tried += len(made)
            good = np.flatnonzero(asked.fulfilled(self._encoding, made, which))
            filled, firsts = np.unique(which[good], return_index=True)
            rows.codes[filled] = made.codes[good[firsts]]
            rows.scalars[filled] = made.scalars[good[firsts]]
            missing = np.setdiff1d(missing, filled, assume_unique=True)
        return rows

    def _candidates(
        self, asked: Asked, which: NDArray[np.int64], request: TableRequest, generator: torch.Generator
    ) -> Rows:
        wanted = {place: torch.from_numpy(codes) for place, codes in asked.wanted(self._encoding, which).items()}
        codes, scalars = self._network.draw(len(which), wanted, asked.barred, request.temperature, generator)
        return Rows(codes.numpy(), scalars.numpy())


class _Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What config.json holds beside what all families have."""

    options: dict[str, Any]  # JSON
    codes: dict[str, Levels | Modes | Place]
    """Of the columns that are modelled, by name."""


def network_files(
    family: FamilyName, encoding: TableEncoding, network: TableNetwork, options: Options, *, rows: int
) -> dict[str, bytes]:
    """The files of a fitted model's folder, its card apart."""
    named = [(column.name, code) for column, code in zip(encoding.columns, encoding.codes, strict=True)]
    saved = SavedTable(
        family=family,
        columns=encoding.columns,
        fresh={name: code for name, code in named if isinstance(code, FreshTexts | FreshKeys)},
        rows=rows,
        engine=msgspec.to_builtins(
            _Engine(
                options=options.model_dump(mode="json"),
                codes={name: code for name, code in named if isinstance(code, Levels | Modes | Place)},
            )
        ),
    )
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: encode_config(saved)}


def open_model(folder: Path) -> NetworkModel:
    """The model of a folder, on the processor.

    Raises:
        ModelError: kind MODEL, code `model_folder_incomplete`, `model_folder_invalid` or `weights_damaged`.
    """
    saved = read_config(folder)
    try:
        engine = msgspec.convert(saved.engine, _Engine)
        codes = tuple(engine.codes.get(column.name) or saved.fresh[column.name] for column in saved.columns)
        options = family_options(saved.family, engine.options)
    except (msgspec.ValidationError, ValidationError, KeyError) as error:
        raise ModelError(
            FailureKind.MODEL, "model_folder_invalid", f"{folder / CONFIG} is not that of a network of tables: {error}"
        ) from error
    encoding = TableEncoding(columns=saved.columns, codes=codes)
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        network = _network(encoding, options)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            FailureKind.MODEL, "weights_damaged", f"{folder / WEIGHTS} do not hold the model's weights: {error}"
        ) from error
    return NetworkModel(encoding, network)


def _network(encoding: TableEncoding, options: Options) -> TableNetwork:
    if isinstance(options, TabularGanOptions):
        return Generator(encoding.heads, options)
    if isinstance(options, TabularVaeOptions):
        return VaeNetwork(encoding.heads, options)
    raise AssertionError(f"a family without a network: {options!r}")


def _unreachable(request: TableRequest, found: int, tried: int) -> ModelError:
    conditions = ", ".join([*(f"{name} = {value!r}" for name, value in request.where.items()), *request.rebalance])
    return ModelError(
        FailureKind.MODEL,
        "condition_unreachable",
        f"of {tried} rows that were made, {found} were as asked ({conditions}), and {request.rows} are wanted: such "
        "rows hardly occur in what the model has learned; ask for fewer conditions at once, or for broader ones",
    )
