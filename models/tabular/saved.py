"""A fitted model of tables as the files of a folder: config.json, weights as safetensors, what its family adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from models.errors import FailureKind, ModelError
from models.tabular.columns import Column
from models.tabular.fresh import Fresh
from models.training.settings import FamilyName

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"


class Linked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a model whose rows belong to subjects: a sequence each."""

    foreign_key: str
    parent_key: str | None = None
    """The key of the table of subjects; None where there was no such table."""
    parent_columns: tuple[Column, ...] = ()
    """All of its columns, in its order."""
    order_by: str | None = None
    longest: int
    """Rows that a sequence has at most."""

    @property
    def key(self) -> str:
        """The column of a context that holds the subjects' keys."""
        return self.parent_key or self.foreign_key


class SavedTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What config.json holds."""

    model_type: Literal["nightmill-table"] = "nightmill-table"
    version: Literal[1] = 1
    family: FamilyName
    columns: tuple[Column, ...]
    fresh: dict[str, Fresh]
    """How values of the columns that are not modelled are made, by name."""
    rows: int
    """That it was fitted to."""
    linked: Linked | None = None
    engine: dict[str, Any]  # JSON: the family's own


_configs = msgspec.json.Decoder(SavedTable)


def encode_config(saved: SavedTable) -> bytes:
    """The content of config.json."""
    return msgspec.json.format(msgspec.json.encode(saved)) + b"\n"


def read_config(folder: Path) -> SavedTable:
    """What a folder's config.json says.

    Raises:
        ModelError: kind MODEL, code `model_folder_incomplete` or `model_folder_invalid`.
    """
    try:
        return _configs.decode((folder / CONFIG).read_bytes())
    except OSError as error:
        raise ModelError(
            FailureKind.MODEL, "model_folder_incomplete", f"the model folder {folder} has no readable {CONFIG}: {error}"
        ) from error
    except msgspec.DecodeError as error:
        raise ModelError(
            FailureKind.MODEL,
            "model_folder_invalid",
            f"{folder / CONFIG} is not the config of a model of tables: {error}",
        ) from error
