"""The back-end for upscaling. Its network and torch are imported by `load`, never by this module."""

from __future__ import annotations

from pathlib import Path

from models.backends.image_backend import EngineImageBackend


class UpscalingBackend(EngineImageBackend):
    """Makes a request's image `settings.scale` times as wide and as high, with one of Real-ESRGAN's networks."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        super().__init__(name, cache_dir=cache_dir, engine="torch", module="models.backends.upscaling_engine")
