"""The back-end for style transfer. Its networks and onnxruntime are imported by `load`, never by this module."""

from __future__ import annotations

from pathlib import Path

from models.backends.image_backend import EngineImageBackend


class StylingBackend(EngineImageBackend):
    """Redraws a request's image in one of 26 named styles (`settings.style`), or in that of `style_image`."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        super().__init__(name, cache_dir=cache_dir, engine="onnx", module="models.backends.styling_engine")
