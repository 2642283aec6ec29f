"""The families of tables, by the names that job files have for them; an engine is imported when it is opened."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from models.errors import FailureKind, ModelError
from models.tabular.engine import TableModel, TableTrainer, TabularBackend
from models.tabular.saved import read_config
from models.training.settings import FamilyName

TABLE_ENGINE: Final = "table"
"""What the pool knows all models of tables by."""


@dataclass(frozen=True, kw_only=True)
class TableFamily:
    """Where the code of a family is."""

    trainer: str
    """`module:class` of a `TableTrainer` without arguments."""
    model: str
    """`module:function` that opens the model of a folder."""
    needs: tuple[str, ...]
    """Modules that must be installed."""


_NETWORK_NEEDS: Final = ("torch", "safetensors", "tensorboard", "sklearn")
FAMILIES: Final[dict[FamilyName, TableFamily]] = {
    "tabular-argn": TableFamily(
        trainer="models.tabular.argn_training:ArgnTrainer",
        model="models.tabular.argn:open_model",
        needs=("torch", "safetensors", "tensorboard", "pandas", "mostlyai.engine"),
    ),
    "tabular-gan": TableFamily(
        trainer="models.tabular.network_training:GanTrainer",
        model="models.tabular.network_model:open_model",
        needs=_NETWORK_NEEDS,
    ),
    "tabular-vae": TableFamily(
        trainer="models.tabular.network_training:VaeTrainer",
        model="models.tabular.network_model:open_model",
        needs=_NETWORK_NEEDS,
    ),
}


def missing_packages(family: FamilyName) -> tuple[str, ...]:
    """What a family needs and this Python environment has not."""
    return tuple(name for name in _family(family).needs if not _is_installed(name))


def check_table_engine(family: FamilyName) -> None:
    """Raise ModelError, kind MODEL, where a family cannot be used in this Python environment, or is none of tables."""
    if missing := missing_packages(family):
        raise ModelError(
            FailureKind.MODEL,
            "engine_not_installed",
            f"{family} cannot be used here ({', '.join(missing)} missing): pip install 'nightmill[worker]'",
        )


def open_trainer(family: FamilyName) -> TableTrainer:
    """What fits models of a family.

    Raises:
        ModelError: as `check_table_engine`.
    """
    check_table_engine(family)
    return cast("Callable[[], TableTrainer]", _named(_family(family).trainer))()


def open_table_model(folder: Path) -> TableModel:
    """The fitted model of a folder.

    Raises:
        ModelError: kind MODEL: it is incomplete or damaged, or its family cannot be used here.
    """
    family = read_config(folder).family
    check_table_engine(family)
    return cast("Callable[[Path], TableModel]", _named(_family(family).model))(folder)


def open_table_backend(folder: Path) -> TabularBackend:
    """The back-end of a fitted model's folder, `…/NAME/VERSION`; its engine is imported when it is loaded.

    Raises:
        ModelError: as `open_table_model`.
    """
    check_table_engine(read_config(folder).family)
    from models.backends.tabular import ThreadTabularBackend  # noqa: PLC0415 - only in the process that samples

    return ThreadTabularBackend(folder)


def _family(name: FamilyName) -> TableFamily:
    if name not in FAMILIES:
        raise ModelError(
            FailureKind.MODEL, "wrong_kind", f"{name} makes no tables; these families do: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def engine_module(family: FamilyName) -> str:
    """The module that is imported to sample a family's models."""
    return _family(family).model.partition(":")[0]


def _named(place: str) -> object:
    module, _, name = place.partition(":")
    found: object = getattr(importlib.import_module(module), name)
    return found


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False
