"""The transformers back-end: runs wherever torch does, for hosts on which vLLM is not installed.

transformers itself is imported by `load` or `prewarm`, never by importing this module.
"""

from __future__ import annotations

from pathlib import Path

from models.backends.sequences import SequenceBackend, import_engine

ENGINE_MODULE = "models.backends.transformers_engine"


def prewarm() -> None:
    """Import all that `load` will need, so that it only has to read the weights. Takes seconds; for an idle process."""
    import_engine(ENGINE_MODULE)
    import_engine("transformers.models.llama.modeling_llama")


class TransformersBackend(SequenceBackend):
    """A model in transformers."""

    def __init__(self, name: str, *, cache_dir: Path) -> None:
        super().__init__(name, cache_dir=cache_dir, engine="transformers", module=ENGINE_MODULE)
