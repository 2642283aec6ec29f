"""What follows a job's own shards, as a plan, and what was found there, as far as it is."""

from __future__ import annotations

from typing import Any

import msgspec

from workers.records import StoredReport


class Passes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What follows the shards of a job."""

    rounds: int = 0
    """Passes over all rows at most; what the last one rejects is not drawn again. None asks for no pass."""
    duplicates: dict[str, Any] | None = None  # workers.duplicates.DuplicateRules as JSON
    """Of a job that writes text."""
    report: bool = False
    target: str | None = None
    gate: dict[str, float] = {}

    def encoded(self) -> str:
        """As it stands in SQL."""
        return msgspec.json.encode(self).decode()

    def may_change(self, at: str | None) -> bool:
        """Whether a record that is there may still be drawn again, or held back; `at` is how far the job is."""
        judged = at in {"settled", "report", "over"}
        return (self.rounds > 0 and not judged) or (bool(self.gate) and at != "over")


class Findings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What passes and the report have found."""

    rounds: int = 0
    """Passes that have ended."""
    drawn_again: int = 0
    """Rows that they rejected, over all rounds."""
    rejected: dict[str, int] = {}
    """The same by rule."""
    given_up: int = 0
    """Rows of these for which no round was left."""
    last_pass: str | None = None
    """Key of the part of the last pass: the next one reads what it rejected."""
    report: StoredReport | None = None

    def encoded(self) -> str:
        """As it stands in SQL."""
        return msgspec.json.encode(self).decode()


def decode_passes(text: str) -> Passes:
    """A plan as it stands in SQL."""
    return msgspec.json.decode(text, type=Passes)


def decode_findings(text: str | None) -> Findings:
    """Findings as they stand in SQL; nothing found where there are none yet."""
    return Findings() if text is None else msgspec.json.decode(text, type=Findings)
