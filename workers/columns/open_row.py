"""A row of a dataset on its way through the columns."""

from __future__ import annotations

from collections import Counter

from models.spec import Message, Usage
from workers.acceptance.figures import ItemChecks
from workers.columns.rules import RowVerdict
from workers.columns.samplers import Place
from workers.contracts import Row

_NO_USAGE = Usage()


class OpenRow:
    """Where a row is, and what became of it so far.

    Args:
        index: The item's.
        source: The fields of its source's row, with those of the grid.
        place: Its first draw.
    """

    def __init__(self, index: int, source: Row, place: Place) -> None:
        self.index = index
        self.values = dict(source)
        self.place = place
        self.at = 0
        """The column that is being filled."""
        self.tries = 0
        """How often that column was answered in this draw."""
        self.draws = 0
        """How often the row was drawn anew."""
        self.again = 0
        """How often a column was asked again."""
        self.repair: tuple[Message, ...] = ()
        """What is said behind the column's messages: its last answer, and why that is not accepted."""
        self.usage = _NO_USAGE
        self.cut = False
        """Whether a text of this draw ended at its most tokens."""
        self._source = source
        self._rejected: Counter[str] = Counter()
        self._found: dict[str, dict[str, int]] = {}
        self._mended = False

    def keep(self, verdict: RowVerdict) -> None:
        """Keep the column's value as the rules left it, and go on to the next."""
        self.note(verdict)
        self._mended |= bool(self.repair)
        self.at, self.tries, self.repair = self.at + 1, 0, ()

    def note(self, verdict: RowVerdict) -> None:
        """Take what rules redacted and noted."""
        self.values |= verdict.values
        self._found |= verdict.found

    def reject(self, verdict: RowVerdict) -> None:
        """Count what was broken."""
        self._rejected.update(problem.rule for problem in verdict.problems)

    def draw_anew(self) -> None:
        """Begin at the first column, with other numbers."""
        self.draws += 1
        self.place = Place(self.place.seed, self.index, self.place.draw + 1)
        self.values = dict(self._source)
        self.at, self.tries, self.repair = 0, 0, ()
        self.cut = self._mended = False
        self._found = {}

    @property
    def checks(self) -> ItemChecks:
        """What there is to say of the rules."""
        return ItemChecks(
            tries=1 + self.again + self.draws,
            repaired=self._mended,
            rules=dict(sorted(self._rejected.items())),
            found=self._found,
        )
