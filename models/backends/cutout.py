"""The back-end for background removal. Its network and onnxruntime are imported by `load`, never by this module."""

from __future__ import annotations

from pathlib import Path

from models.backends.image_backend import EngineImageBackend


class CutoutBackend(EngineImageBackend):
    """Makes all of a request's image transparent but its subject: always four channels."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        super().__init__(name, cache_dir=cache_dir, engine="onnx", module="models.backends.cutout_engine")
