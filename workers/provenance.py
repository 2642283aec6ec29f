"""How a file came to be, as it says itself. What it takes to make it again, and no prompt: a file travels far."""

from __future__ import annotations

import hashlib

import msgspec

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Source: IPTC's vocabulary of digital source types."""


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


def prompt_digest(prompt: str) -> str:
    """What a file says in place of its prompt."""
    return f"sha256:{hashlib.sha256(prompt.encode()).hexdigest()}"
