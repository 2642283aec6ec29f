"""What we use of `mostlyai-engine`, all of it in one place, and imported without the rest.

The package imports first of all its language models, with transformers, and a class for notebooks, with scikit-learn:
most of the time that it takes, each time that an actor starts, for nothing that is used here. Placeholders stand in for
these two modules while the package is imported.

The names with an underscore are not its public ones. tests/unit/test_tabular_argn.py holds what we make of them
against what the package itself generates, and requirements/ pins its version.
"""

# ruff: noqa: E402 - the placeholders come before the package

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_UNUSED = {"mostlyai.engine._language.interface": "LanguageModel", "mostlyai.engine._tabular.interface": "TabularARGN"}
"""Modules that the package imports for one class each."""


def _import_what_is_used() -> None:
    if "mostlyai.engine" in sys.modules:
        return
    for module, name in _UNUSED.items():
        placeholder = ModuleType(module, "A placeholder.")
        setattr(placeholder, name, None)
        sys.modules[module] = placeholder
    try:
        importlib.import_module("mostlyai.engine")
    finally:
        for module in _UNUSED:
            del sys.modules[module]


_import_what_is_used()

from mostlyai.engine import analyze, encode, split
from mostlyai.engine._common import (
    ARGN_COLUMN,
    ARGN_PROCESSOR,
    ARGN_TABLE,
    POSITIONAL_COLUMN,
    RIDX_SUB_COLUMN_PREFIX,
    SIDX_SUB_COLUMN_PREFIX,
    SLEN_SUB_COLUMN_PREFIX,
    decode_positional_column,
    encode_positional_column,
    get_argn_name,
    get_cardinalities,
    get_columns_from_cardinalities,
    get_sequence_length_stats,
)
from mostlyai.engine._encoding_types.tabular.categorical import (
    CATEGORICAL_ESCAPE_CHAR,
    CATEGORICAL_NULL_TOKEN,
    CATEGORICAL_UNKNOWN_TOKEN,
)
from mostlyai.engine._encoding_types.tabular.numeric import NUMERIC_BINNED_MAX_TOKEN, NUMERIC_BINNED_MIN_TOKEN
from mostlyai.engine._tabular.argn import FlatModel, SequentialModel
from mostlyai.engine._tabular.common import (
    fix_rare_token_probs,
    get_argn_column_names,
    prepare_context_inputs,
    translate_fixed_probs,
)
from mostlyai.engine._tabular.encoding import encode_df
from mostlyai.engine._tabular.generation import _decode_col as decode_column
from mostlyai.engine._tabular.generation import _deepmerge as merge_probabilities
from mostlyai.engine._tabular.generation import _fix_imputation_probs as fix_imputation_probs
from mostlyai.engine._workspace import Workspace
from mostlyai.engine.domain import (
    DifferentialPrivacyConfig,
    ImputationConfig,
    ModelStateStrategy,
    RareCategoryReplacementMethod,
)

__all__ = [
    "ARGN_COLUMN",
    "ARGN_PROCESSOR",
    "ARGN_TABLE",
    "CATEGORICAL_ESCAPE_CHAR",
    "CATEGORICAL_NULL_TOKEN",
    "CATEGORICAL_UNKNOWN_TOKEN",
    "NUMERIC_BINNED_MAX_TOKEN",
    "NUMERIC_BINNED_MIN_TOKEN",
    "POSITIONAL_COLUMN",
    "RIDX_SUB_COLUMN_PREFIX",
    "SIDX_SUB_COLUMN_PREFIX",
    "SLEN_SUB_COLUMN_PREFIX",
    "DifferentialPrivacyConfig",
    "FlatModel",
    "ImputationConfig",
    "ModelStateStrategy",
    "RareCategoryReplacementMethod",
    "SequentialModel",
    "Workspace",
    "analyze",
    "decode_column",
    "decode_positional_column",
    "encode",
    "encode_df",
    "encode_positional_column",
    "fix_imputation_probs",
    "fix_rare_token_probs",
    "get_argn_column_names",
    "get_argn_name",
    "get_cardinalities",
    "get_columns_from_cardinalities",
    "get_sequence_length_stats",
    "merge_probabilities",
    "prepare_context_inputs",
    "split",
    "translate_fixed_probs",
]
