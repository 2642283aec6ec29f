"""Adapters of a transformers model: several in memory beside one base, and one of them, or none, in use."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from models.spec import Adapter

MAX_LOADED: Final = 16
"""The one that was not used for longest goes first."""


class TextAdapters:
    """The adapters that a model has in memory, by revision. Only for the thread that runs the model."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401  # a PreTrainedModel, of any class
        self._model = model
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._count = 0

    @contextmanager
    def used(self, adapter: Adapter | None) -> Iterator[None]:
        """The model as an adapter changes it, for the time of the context; afterwards it is the base again."""
        if adapter is None:
            yield
            return
        name = self._name(adapter)
        self._model.set_adapter(name)
        self._model.enable_adapters()
        try:
            yield
        finally:
            self._model.disable_adapters()

    def _name(self, adapter: Adapter) -> str:
        """What the model knows an adapter by, once it has it."""
        name = self._loaded.get(adapter.revision)
        if name is not None:
            self._loaded.move_to_end(adapter.revision)
            return name
        if len(self._loaded) >= MAX_LOADED:
            self._model.delete_adapter(self._loaded.popitem(last=False)[1])
        self._count += 1
        name = f"adapter{self._count}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft wonders at a second adapter
                self._model.load_adapter(adapter.folder, adapter_name=name, hotswap=False)
        finally:
            if self._model._hf_peft_config_loaded:  # half loaded, it would be in use
                self._model.disable_adapters()
        self._loaded[adapter.revision] = name
        return name
