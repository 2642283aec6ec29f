"""What can go wrong in a model, and whose fault it is.

A back-end raises `ModelError` for a fault of the whole model or engine. A fault of one item is never raised: it is a
result, `models.spec.ItemError`, so that it costs that item alone.
"""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """Whose fault a failure is. The kind alone decides what is done about it (see `orchestrator.lifecycle`)."""

    ITEM = "item"
    """The item cannot be answered: too long, or its output is invalid. Terminal for that item."""
    MODEL = "model"
    """The model cannot be loaded: unknown, incomplete, or the wrong kind. No retry can help; the job fails."""
    ENGINE = "engine"
    """The engine broke while it worked: out of memory, crashed, hung. The shard is tried again."""
    PLATFORM = "platform"
    """Store, broker or worker were lost. Counted apart from failures, and tried again."""


class ModelError(Exception):
    """A model or its engine failed: `kind` says whose fault it is, `code` names it for programs."""

    def __init__(self, kind: FailureKind, code: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ModelError], tuple[FailureKind, str, str]]:
        return type(self), (self.kind, self.code, self.message)


class UnknownModelError(ModelError):
    """No model of this name is known, or its name cannot be one."""

    def __init__(self, message: str, code: str = "unknown_model") -> None:
        super().__init__(FailureKind.MODEL, code, message)

    def __reduce__(self) -> tuple[type[ModelError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.code)
