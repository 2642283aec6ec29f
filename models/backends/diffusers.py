"""The diffusers back-end: any pipeline from a local folder or the hub, on a GPU or on the processor.

torch and diffusers are imported by `load` or `prewarm`, never by importing this module.
"""

from __future__ import annotations

from pathlib import Path

from models.backends.image_backend import EngineImageBackend
from models.backends.sequences import import_engine

ENGINE_MODULE = "models.backends.diffusers_engine"


def prewarm() -> None:
    """Import all that `load` will need, so that it only has to read the weights. Takes seconds; for an idle process."""
    import_engine(ENGINE_MODULE)


class DiffusersBackend(EngineImageBackend):
    """A pipeline in diffusers."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        """`name` is a local folder with a model_index.json, or a hub id."""
        super().__init__(name, cache_dir=cache_dir, engine="diffusers", module=ENGINE_MODULE)
