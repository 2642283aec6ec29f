"""Texts and keys, made anew by the pattern of their characters: none is taken from the source.

A shape is a length and what stands between letters and digits. Of a shape that enough rows have, each place is learned
as a class of characters (digits, small or capital letters); a character that all its rows share is kept, so that
`SKU-4711` becomes another `SKU-` with four digits. Texts of rare shapes are written by the lengths of their words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.tabular.columns import Column
from models.tabular.heads import LEAST

MOST_SHAPES: Final = 200
LONGEST: Final = 200
"""Characters of a text that is made."""
SHAPED_SHARE: Final = 0.5
"""Texts that have shapes in common at a lower share are written by words."""
KEY_ROOM: Final = 2**40
"""Keys that a shape must have room for, so that none meets one of the source's."""
_DIGITS, _SMALL, _CAPITALS = string.digits, string.ascii_lowercase, string.ascii_uppercase
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_COUNTER: Final = re.compile(r"(.*?)(\d{1,18})(\D*)", re.DOTALL)
_SCRAMBLE: Final = 0x9E3779B97F4A7C15
"""Odd; 2**64 by the golden ratio, so that multiples of it are far apart."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts of one length: at each place, the characters that may stand there."""

    places: tuple[str, ...]
    share: float
    """Of the texts."""

    @property
    def room(self) -> int:
        """How many texts have this shape."""
        room = 1
        for place in self.places:
            room *= len(place)
        return room


class Pattern(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pattern"):
    """A column of texts that a network does not learn."""

    shapes: tuple[Shape, ...]
    missing: float
    """The share of rows that have none; drawn for itself."""

    def draw(self, rows: int, draws: np.random.Generator, *, whole: bool) -> pa.Array:
        """Texts; some missing, as in the source, unless they are to be `whole`."""
        texts = np.empty(rows, dtype=object)
        shares = np.array([shape.share for shape in self.shapes])
        chosen = draws.choice(len(shares), rows, p=shares / shares.sum()) if rows and len(shares) else np.zeros(rows)
        for number, shape in enumerate(self.shapes):
            at = np.flatnonzero(chosen == number)
            picks = [draws.integers(len(place), size=len(at)) for place in shape.places]
            texts[at] = _written(shape, picks, len(at))
        absent = draws.random(rows) < (0.0 if whole else self.missing)
        return pa.array(texts, pa.string(), mask=absent) if len(shares) else pa.nulls(rows, pa.string())


class Keys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="keys"):
    """A column of keys: each is made of its row's number in the dataset, and so no two are equal.

    Keys that count go on beyond the source's highest number; others are spread over a shape with room for many more.
    """

    before: str = ""
    after: str = ""
    """What stands around the number of a key that counts."""
    first: int = 0
    """The number of row 0."""
    shape: Shape | None = None
    """Of keys that do not count."""

    def make(self, first: int, rows: int, column: Column) -> pa.Array:
        """The keys of `rows` rows from row `first` on.

        Raises:
            ValueError: a number that the column's type cannot hold.
        """
        numbers = np.arange(first, first + rows, dtype=np.uint64)
        if self.shape is not None:
            return pa.array(_written(self.shape, _spread(numbers, self.shape), rows), pa.string())
        counted = pa.array(numbers).cast(pa.int64())
        counted = pc.add_checked(counted, pa.scalar(self.first, pa.int64()))
        if pa.types.is_integer(column.arrow_type):
            return counted.cast(column.arrow_type)
        return pc.binary_join_element_wise(self.before, counted.cast(pa.string()), self.after, "")


def find_pattern(values: pa.Array) -> Pattern:
    """The pattern of a column of texts."""
    texts = values.drop_null().to_pylist()
    missing = 1 - len(texts) / len(values) if len(values) else 0.0
    shapes = _shapes(texts)
    if sum(shape.share for shape in shapes) < SHAPED_SHARE:
        shapes = _worded(texts)
    return Pattern(shapes=tuple(shapes), missing=missing)


def find_keys(values: pa.Array) -> Keys:
    """How a column's keys are made."""
    if pa.types.is_integer(values.type):
        highest = pc.max(values).as_py()
        return Keys(first=max(highest, 0) + 1 if highest is not None else 1)
    texts = values.drop_null().to_pylist()
    found = [_COUNTER.fullmatch(text) for text in texts]
    around = Counter((match[1], match[3]) for match in found if match is not None)
    if len(around) == 1 and around.total() == len(texts) >= LEAST:
        [(before, after)] = around
        longest = max(len(match[2]) for match in found if match is not None)
        return Keys(before=before, after=after, first=10**longest)
    shapes = [shape for shape in _shapes(texts) if shape.room >= KEY_ROOM]
    return Keys(shape=shapes[0] if shapes else Shape(places=(_SMALL + _DIGITS,) * 16, share=1.0))


def _shapes(texts: list[str]) -> list[Shape]:
    """Shapes that enough texts have, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        if 0 < len(text) <= LONGEST:
            groups.setdefault("".join("x" if letter.isalnum() else letter for letter in text), []).append(text)
    kept = sorted(((len(group), form) for form, group in groups.items() if len(group) >= LEAST), reverse=True)
    shapes = []
    for count, form in kept[:MOST_SHAPES]:
        group = groups[form]
        several = len(set(group)) >= LEAST
        places = tuple(_place({text[at] for text in group}, keep=several) for at in range(len(form)))
        shapes.append(Shape(places=_as_hex(places, group), share=count / len(texts)))
    return shapes


def _place(seen: set[str], *, keep: bool) -> str:
    """The characters that may stand where these were seen; a single one stays if it is to be kept."""
    [some, *others] = seen
    if not others and (keep or not some.isalnum()):
        return some
    classes = [
        (_DIGITS, any(letter.isdecimal() for letter in seen)),
        (_CAPITALS, any(letter.isupper() for letter in seen)),
        (_SMALL, any(not letter.isdecimal() and not letter.isupper() for letter in seen)),
    ]
    return "".join(letters for letters, there in classes if there)


def _as_hex(places: tuple[str, ...], group: list[str]) -> tuple[str, ...]:
    """Letters only up to f, where there are letters and digits and no others were seen."""
    mixed = any(_DIGITS in place and len(place) > len(_DIGITS) for place in places)
    if not mixed or not all(letter in _HEX for text in group for letter in text if letter.isalnum()):
        return places
    return tuple("".join(letter for letter in place if letter in _HEX) if len(place) > 1 else place for place in places)


def _worded(texts: list[str]) -> list[Shape]:
    """Shapes with as many words, and words as long, as texts have; which of them go together is drawn afresh."""
    if not texts:
        return []
    draws = np.random.default_rng(0)
    words = [text.split() for text in texts]
    counts = np.array([max(1, len(some)) for some in words])
    lengths = np.array([min(len(word), 20) for some in words for word in some] or [5])
    shapes = []
    for _ in range(MOST_SHAPES):
        chosen = draws.choice(lengths, draws.choice(counts))
        places = " ".join("x" * length for length in chosen)[:LONGEST].rstrip()
        shapes.append(Shape(places=tuple(_SMALL if place == "x" else place for place in places), share=1 / MOST_SHAPES))
    return shapes


def _spread(numbers: NDArray[np.uint64], shape: Shape) -> list[NDArray[np.int64]]:
    """Different picks for different numbers, of the first `KEY_ROOM` of them.

    A product modulo `KEY_ROOM` is one-to-one, as its factor is odd, and neighbours look nothing alike; its digits, to
    the base of each place's characters, are the first picks. Places beyond those it needs are filled from it again.
    """
    left = (numbers * np.uint64(_SCRAMBLE)) % np.uint64(KEY_ROOM)
    again = left * np.uint64(_SCRAMBLE)
    picks, room = [], 1
    for place in shape.places:
        base = np.uint64(len(place))
        source = left if room < KEY_ROOM else again
        picks.append((source % base).astype(np.int64))
        source //= base
        room *= len(place)
    return picks


def _written(shape: Shape, picks: Iterable[NDArray[np.int64]], rows: int) -> NDArray[np.object_]:
    """Texts from the place's character that each row picks."""
    letters = np.empty((rows, len(shape.places)), dtype="<U1")
    for at, (place, picked) in enumerate(zip(shape.places, picks, strict=True)):
        letters[:, at] = np.array(list(place))[picked]
    texts: NDArray[np.object_] = letters.view(f"<U{len(shape.places)}").ravel().astype(object)
    return texts
