"""How a file came to be, as it says itself. What it takes to make it again, and no prompt: a file travels far."""

from __future__ import annotations

import hashlib

import msgspec

from models.images import StepName

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_SOURCE_TYPE_OF: dict[StepName, str] = {
    "generate": "trainedAlgorithmicMedia",
    "edit": "compositeWithTrainedAlgorithmicMedia",
    "inpaint": "compositeWithTrainedAlgorithmicMedia",
}


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture or a sound was made."""

    prompt: str
    model: str
    revision: str
    seed: int
    job: str
    index: int
    image: int = 0
    """Which of its item's, from 0."""
    first_step: StepName = "generate"
    """What it came from: nothing but a model, or a picture that the model or a network went on with."""

    @property
    def fields(self) -> dict[str, str]:
        """What a file tells, by the names that it tells it under."""
        return {
            "promptDigest": prompt_digest(self.prompt),
            "model": self.model,
            "modelRevision": self.revision,
            "seed": str(self.seed),
            "job": self.job,
            "item": str(self.index),
            "image": str(self.image),
        }

    @property
    def source_type(self) -> str:
        """IPTC's word for such a file, a URL of its vocabulary of digital source types."""
        return _SOURCE_TYPES + _SOURCE_TYPE_OF.get(self.first_step, "algorithmicallyEnhanced")


def prompt_digest(prompt: str) -> str:
    """What a file says in place of its prompt."""
    return f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}"
