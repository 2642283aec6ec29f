"""The back-end of models that were trained here: any family, shipped with the project or in a folder.

torch is imported by `load` or `prewarm`, never by importing this module.
"""

from __future__ import annotations

from pathlib import Path

from models.backends.image_backend import EngineImageBackend
from models.backends.sequences import import_engine

ENGINE_MODULE = "models.backends.trained_engine"


def prewarm() -> None:
    """Import all that `load` will need, so that it only has to read the weights. Takes seconds; for an idle process."""
    import_engine(ENGINE_MODULE)


class TrainedBackend(EngineImageBackend):
    """A model of any family that draws pictures of its classes, or of what a prompt says."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        """`name` is one of the models in `models/trained`, or a local folder as training leaves it."""
        super().__init__(name, cache_dir=cache_dir, engine="trained", module=ENGINE_MODULE)
