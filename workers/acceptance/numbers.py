"""Numbers that a text states, and whether they stand in its row.

A number is read as people write it: `1,200`, `1.200`, `1 200`, `1'200`, `3.5`, `3,5`, `12 %`, `two` to `twelve` (in
English and German). What can be read in two ways counts as either: a text is rejected for a number that no reading
finds in its row. A unit counts where both sides have one, that of a row also by its field's name (`weight_kg`): 2 kg is
2,000 g, and is not 2 l. Not read as numbers: digits behind letters (`X200`, a name), the numbers of a list (`1. …`),
and `one`, which mostly counts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

from workers.acceptance.units import IDEOGRAPHIC, Unit, unit_of, unit_of_field
from workers.contracts import Row

_SPACES = " \u00a0\u2009\u202f"
_LETTERS = "A-Za-z\u00c0-\u024f\u0370-\u04ff"
_NUMBER = re.compile(
    rf"(?<![0-9{_LETTERS}])"
    rf"(?P<number>\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?![\d])(?:[.,]\d+)?|\d+(?:[.,'\u2019]\d+)*)"
    rf"(?:[{_SPACES}]?(?P<sign>°[cCfF]|[%€$£]|{'|'.join(IDEOGRAPHIC)})|[{_SPACES}-]?(?P<word>[{_LETTERS}]+))?"
    rf"|(?<![0-9{_LETTERS}])(?P<spelt>[{_LETTERS}]{{3,}})(?![{_LETTERS}])"
)
_LIST_NUMBER = re.compile(r"^[ \t]*\d{1,3}[.)](?=[ \t])", re.MULTILINE)
_CURRENCIES = frozenset("€$£")
_ENGLISH = "two three four five six seven eight nine ten eleven twelve"
_GERMAN = "zwei drei vier fünf sechs sieben acht neun zehn - zwölf"  # `elf` is an English word, too
_SPELT = {word: Decimal(value) for words in (_ENGLISH, _GERMAN) for value, word in enumerate(words.split(), 2)}
_HUNDRED = Decimal(100)


class Stated(msgspec.Struct, frozen=True):
    """A number that a text states."""

    text: str
    readings: tuple[Decimal, ...]
    """Its value, or what it may be."""
    unit: Unit | None = None
    parts: tuple[Stated, ...] = ()
    """Of what may as well be several numbers side by side: these."""


def numbers_in(text: str) -> Iterator[Stated]:
    """The numbers that a text states, in order."""
    text = _LIST_NUMBER.sub("", text)
    for match in _NUMBER.finditer(text):
        spelt = match["spelt"]
        if spelt is not None:
            value = _SPELT.get(spelt.casefold())
            if value is not None:
                yield Stated(spelt, (value,), unit_of(_word_behind(text, match.end())))
            continue
        unit = unit_of(match["sign"] or match["word"])
        if unit is None:
            before = text[max(0, match.start() - 2) : match.start()].rstrip()[-1:]
            unit = unit_of(before) if before in _CURRENCIES else None
        yield from _read(match["number"], unit)


class RowNumbers:
    """The numbers of a row, to look others up in.

    Args:
        row: The row.
        fields: Where to look; None for all of its fields. One that the row lacks has no numbers.
    """

    def __init__(self, row: Row, fields: Iterable[str] | None = None) -> None:
        names = row if fields is None else [field for field in fields if field in row]
        self._known = [(value, unit) for name in names for value, unit in _values(row[name], unit_of_field(name))]

    def lacks(self, stated: Stated) -> bool:
        """Whether a number stands nowhere in the row."""
        if any(self._holds(value, stated.unit) for value in stated.readings):
            return False
        return not stated.parts or any(self.lacks(part) for part in stated.parts)

    def _holds(self, value: Decimal, unit: Unit | None) -> bool:
        return any(_same(value, unit, known, its_unit) for known, its_unit in self._known)


def _same(value: Decimal, unit: Unit | None, known: Decimal, its_unit: Unit | None) -> bool:
    if unit is not None and its_unit is not None:
        return unit.dimension == its_unit.dimension and value * unit.factor == known * its_unit.factor
    if unit is not None and unit.dimension == "percent" and value == known * _HUNDRED:
        return True  # 12 % of a row that has 0.12
    return value == known


def _values(value: object, unit: Unit | None) -> Iterator[tuple[Decimal, Unit | None]]:
    """The numbers of a field, all readings of each; `unit` is that of its name."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield Decimal(str(value)), unit
    elif isinstance(value, str):
        for stated in numbers_in(value):
            yield from _readings(stated, unit)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _values(inner, unit_of_field(str(name)) or unit)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner, unit)


def _readings(stated: Stated, unit: Unit | None) -> Iterator[tuple[Decimal, Unit | None]]:
    yield from ((reading, stated.unit or unit) for reading in stated.readings)
    for part in stated.parts:
        yield from _readings(part, unit)


def _read(text: str, unit: Unit | None) -> Iterator[Stated]:
    pieces = re.split(rf"([{_SPACES}.,'\u2019])", text)
    digits, marks = pieces[::2], pieces[1::2]
    if not marks:
        yield Stated(text, (Decimal(text),), unit)
        return
    if marks[0] in _SPACES:
        whole = text.translate(dict.fromkeys(map(ord, _SPACES)))
        *before, last = re.split(rf"[{_SPACES}]", text)
        parts = [part for piece in before for part in _read(piece, None)]
        yield Stated(text, _decimals(whole), unit, (*parts, *_read(last, unit)))
        return
    readings = _grouped(digits, marks)
    if readings:
        yield Stated(text, readings, unit)
    else:  # a version, a date, numbers without a space between them
        yield from (Stated(piece, (Decimal(piece),), unit) for piece in digits)


def _grouped(digits: list[str], marks: list[str]) -> tuple[Decimal, ...]:
    """What digits with marks between them may mean; nothing where they are no number."""
    thousands = len(digits[0]) <= 3 and all(len(group) == 3 for group in digits[1:])
    if len(set(marks)) == 1:
        whole = (Decimal("".join(digits)),) if thousands and digits[0] != "0" else ()
        decimal = (Decimal(".".join(digits)),) if len(marks) == 1 and marks[0] in ".," else ()
        return (*whole, *decimal)
    inner = len(digits[0]) <= 3 and all(len(group) == 3 for group in digits[1:-1])
    if len(set(marks[:-1])) == 1 and marks[-1] in ".," and inner:
        return (Decimal("".join(digits[:-1]) + "." + digits[-1]),)
    return ()


def _decimals(text: str) -> tuple[Decimal, ...]:
    return (Decimal(text.replace(",", ".")),)


def _word_behind(text: str, end: int) -> str | None:
    match = re.compile(rf"[{_SPACES}-]([{_LETTERS}]+|[%€$£])").match(text, end)
    return None if match is None else match[1]
