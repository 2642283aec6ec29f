"""The one error for a rule that cannot be kept."""

from __future__ import annotations


class TableRuleError(ValueError):
    """A rule is not as it must be, or cannot be computed. The message says which, and what would be right.

    Attributes:
        label: The rule's name; empty where it is no single rule's fault.
    """

    def __init__(self, message: str, label: str = "") -> None:
        super().__init__(f"rule {label!r}: {message}" if label else message)
        self.label = label
