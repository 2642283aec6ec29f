"""LoRA adapters on one loaded base: several at once, others for the next batch, none for the one after that."""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import safetensors

from models import weights
from models.backends.diffusers_device import Pipeline
from models.spec import ItemError

Adapters: TypeAlias = "tuple[tuple[str, float], ...]"
"""(file, weight) of each adapter that takes part, by name of the file: the order in which they are added up."""
MAX_LOADED = 16
"""Adapters that are kept in memory. The one that was not used for longest goes first."""


class AdapterShelf:
    """The adapters that a pipeline has in memory, by file."""

    def __init__(self, pipeline: Pipeline, cache_dir: Path) -> None:
        """A name that is no folder is looked up under `cache_dir/adapters`."""
        self._pipeline = pipeline
        self._folder = cache_dir / "adapters"
        self._numbers = itertools.count()
        self._loaded: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._in_use: Adapters = ()

    def check(self, asked: Mapping[str, float]) -> Adapters | ItemError:
        """What to paint with, once every adapter that is asked for is seen to fit the model."""
        if asked and not hasattr(self._pipeline, "load_lora_weights"):
            message = f"{type(self._pipeline).__name__} takes no LoRA adapters"
            return ItemError("unsupported_setting", message)
        found: dict[str, float] = {}
        for name, weight in asked.items():
            file = self._find(name)
            if isinstance(file, ItemError):
                return file
            failed = self._load(str(file))
            if failed is not None:
                return failed
            if weight != 0:
                found[str(file)] = weight
        return tuple(sorted(found.items()))

    def use(self, adapters: Adapters) -> None:
        """Paint with these from now on.

        Raises:
            ValueError: one of them was changed since it was checked, and does not fit any more.
        """
        for file, _ in adapters:
            failed = self._load(file)
            if failed is not None:
                raise ValueError(failed.message)
        if adapters == self._in_use:
            return
        if adapters:
            self._pipeline.enable_lora()
            names = [self._loaded[file][0] for file, _ in adapters]
            self._pipeline.set_adapters(names, [weight for _, weight in adapters])
        else:
            self._pipeline.disable_lora()
        self._in_use = adapters

    def _find(self, name: str) -> Path | ItemError:
        if not weights.is_folder_name(name) and (not name or Path(name).name != name or name in {".", ".."}):
            return ItemError("adapter_missing", f"{name!r} is no adapter's name and no folder (/path, ./path)")
        path = Path(name).expanduser() if weights.is_folder_name(name) else self._folder / name
        if path.suffix == ".safetensors" and path.is_file():
            return path.resolve()
        if not path.is_dir():
            return ItemError("adapter_missing", f"there is no adapter {name!r}: {path} is neither a folder nor a file")
        files = sorted(path.glob("*.safetensors"))
        if len(files) == 1:
            return files[0].resolve()
        told = f"{len(files)} of them: name one" if files else "none: only safetensors are loaded"
        return ItemError(
            "adapter_missing", f"the adapter folder {name!r} must hold one *.safetensors file, and holds {told}"
        )

    def _load(self, file: str) -> ItemError | None:
        try:
            changed = Path(file).stat().st_mtime_ns
        except OSError as error:
            return ItemError("adapter_missing", f"the adapter {file} is gone: {error}")
        known = self._loaded.get(file)
        if known is not None and known[1] == changed:
            self._loaded.move_to_end(file)
            return None
        if known is not None:
            self._drop(file)
        elif len(self._loaded) >= MAX_LOADED:
            self._drop(next(iter(self._loaded)))
        name = f"adapter{next(self._numbers)}"
        path = Path(file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft wonders at a second adapter
                self._pipeline.load_lora_weights(
                    str(path.parent),
                    weight_name=path.name,
                    adapter_name=name,
                    use_safetensors=True,
                    local_files_only=True,
                )
        except (ValueError, RuntimeError, KeyError, TypeError, OSError, safetensors.SafetensorError) as error:
            return ItemError("adapter_unfit", f"the adapter {file} does not fit the model: {weights.first_line(error)}")
        finally:
            self._quiet()
        self._loaded[file] = name, changed
        return None

    def _drop(self, file: str) -> None:
        name, _ = self._loaded.pop(file)
        self._pipeline.delete_adapters(name)
        self._quiet()

    def _quiet(self) -> None:
        """Loading an adapter also uses it; until `use` is called, none is."""
        if self._pipeline.get_list_adapters():
            self._pipeline.disable_lora()
        self._in_use = ()
