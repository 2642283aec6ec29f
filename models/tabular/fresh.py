"""Values that are made anew, and never copied from a source: keys, and texts by their patterns.

A pattern is what a text looks like: which characters are digits, small or capital letters, and what stands between
them. Only patterns that several rows share are kept, and of their characters those alone that all of these rows have.
Texts of many shapes (names, remarks) are known by how many words they have, and how long those are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import FailureKind, ModelError
from models.tabular.columns import Column, Values

MIN_ROWS = 5
"""So many rows must share a pattern, or nothing is told of it."""
MIN_FIXED = 20
"""So many rows must share a character at a place of their pattern, and all of them do, or it is drawn."""
MOST_PATTERNS = 200
LEAST_COVERED = 0.5
"""Patterns that cover a smaller share of the values say little: their words are counted instead."""
LONGEST_PATTERN = 200
_QUANTILES: Final = np.linspace(0.05, 0.95, 19)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_KEY_DIGITS = 12
_CAPITALS: Final = np.arange(ord("A"), ord("Z") + 1, dtype=np.uint32)
_ALPHABETS: Final[dict[str, NDArray[np.uint32]]] = {
    "A": _CAPITALS,
    "a": _CAPITALS + 32,
    "9": np.arange(ord("0"), ord("9") + 1, dtype=np.uint32),
    "x": np.arange(0x4E00, 0x9FA6, dtype=np.uint32),  # letters without case: drawn from the common Chinese ones
}


class Pattern(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shape that texts have."""

    shape: str
    """`A`, `a`, `x`, `9` are a capital, a small letter, one without case, and a digit; the rest stands for itself."""
    fixed: dict[int, str]
    """Characters, by place, that are always the same."""
    count: int
    """Rows of the source that have it."""


class FreshTexts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="texts"):
    """How texts of a column are made."""

    patterns: tuple[Pattern, ...] = ()
    words: tuple[int, ...] = ()
    """Without patterns: quantiles of the number of words in a text."""
    lengths: tuple[int, ...] = ()
    """And of the characters in a word."""
    missing: float = 0.0
    """Share of rows without a value."""


class FreshKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="keys"):
    """How keys of a column are made."""

    form: Literal["number", "uuid", "plain"]
    start: int = 0
    """Of numbers: the first, above all keys of the source."""
    prefix: str = ""
    """Of plain keys: what none of the source begins with."""
    dashes: bool = True
    """Of UUIDs."""


Fresh: TypeAlias = FreshTexts | FreshKeys


def learn_fresh(column: Column, values: Values) -> Fresh:
    """How values of a `text` or `id` column are made anew.

    Raises:
        ModelError: kind MODEL, code `table_not_learnable`: its type has no room for new keys.
    """
    given: Values = pc.drop_null(values)
    if column.kind == "id":
        return _learn_keys(column, given)
    missing = 1 - len(given) / max(1, len(values))
    texts: list[str] = given.to_pylist()
    patterns = _learn_patterns(texts)
    if patterns:
        return FreshTexts(patterns=patterns, missing=missing)
    words = [text.split() for text in texts]
    return FreshTexts(
        words=_quantiles([len(each) for each in words]),
        lengths=_quantiles([len(word) for each in words for word in each]),
        missing=missing,
    )


def make_fresh(
    fresh: Fresh, column: Column, *, numbers: Sequence[int], seed: Sequence[int], complete: bool = False
) -> Values:
    """New values of a column, of its type. The same arguments make the same.

    Args:
        fresh: How they are made.
        column: The column.
        numbers: Of the rows in the dataset: keys are made of them.
        seed: Numbers of at least 0 that stand for this block and this column.
        complete: Whether none is to be missing.
    """
    generator = np.random.default_rng(list(seed))
    rows = len(numbers)
    if isinstance(fresh, FreshKeys):
        return _make_keys(fresh, column, numbers, generator)
    missing = generator.random(rows) < (0.0 if complete else fresh.missing)
    texts = _make_patterned(fresh.patterns, rows, generator) if fresh.patterns else _make_words(fresh, rows, generator)
    return pa.array(texts, type=column.arrow_type, mask=missing)


def _learn_keys(column: Column, values: Values) -> FreshKeys:
    if pa.types.is_integer(values.type):
        highest = abs(pc.max(values).as_py() or 0)
        start: int = 10 ** len(str(highest))
        bits = values.type.bit_width - (not str(values.type).startswith("u"))
        if start > 2**bits // 2:
            raise ModelError(
                FailureKind.MODEL,
                "table_not_learnable",
                f"column {column.name!r}: {values.type} has no room for keys above {highest}; give it a wider type",
            )
        return FreshKeys(form="number", start=start)
    texts = values.to_pylist()
    found = _UUID.fullmatch(texts[0]) if texts else None
    if found is not None and all(_UUID.fullmatch(text) for text in texts):
        return FreshKeys(form="uuid", dashes=bool(found[1]))
    number = 1
    while any(text.startswith(f"SYN{number}-") for text in texts):
        number += 1
    return FreshKeys(form="plain", prefix=f"SYN{number}-")


def _make_keys(fresh: FreshKeys, column: Column, numbers: Sequence[int], generator: np.random.Generator) -> Values:
    if fresh.form == "number":
        return pa.array([fresh.start + number for number in numbers], type=column.arrow_type)
    if fresh.form == "plain":
        return pa.array([f"{fresh.prefix}{number:0{_KEY_DIGITS}}" for number in numbers])
    rows = len(numbers)
    bits = np.frombuffer(generator.bytes(16 * rows), dtype=np.uint8).reshape(rows, 16).copy()
    bits[:, 6] = (bits[:, 6] & 0x0F) | 0x40  # RFC 9562, version 4
    bits[:, 8] = (bits[:, 8] & 0x3F) | 0x80
    digits = bits.tobytes().hex()
    whole = [digits[at : at + 32] for at in range(0, 32 * rows, 32)]
    if fresh.dashes:
        whole = [f"{each[:8]}-{each[8:12]}-{each[12:16]}-{each[16:20]}-{each[20:]}" for each in whole]
    return pa.array(whole, type=pa.string())


def _learn_patterns(texts: Sequence[str]) -> tuple[Pattern, ...]:
    """The patterns that several texts share; none where they cover too little."""
    shapes = [_shape(text) for text in texts]
    common = [
        (shape, count)
        for shape, count in Counter(shapes).most_common(MOST_PATTERNS)
        if count >= MIN_ROWS and len(shape) <= LONGEST_PATTERN
    ]
    if not texts or sum(count for _, count in common) < LEAST_COVERED * len(texts):
        return ()
    by_shape: dict[str, list[str]] = {shape: [] for shape, _ in common}
    for shape, text in zip(shapes, texts, strict=True):
        if shape in by_shape:
            by_shape[shape].append(text)
    return tuple(Pattern(shape=shape, fixed=_fixed(by_shape[shape]), count=count) for shape, count in common)


def _shape(text: str) -> str:
    return "".join(map(_class_of, text))


def _class_of(character: str) -> str:
    if character.isdecimal():
        return "9"
    if character.isupper():
        return "A"
    if character.islower():
        return "a"
    return "x" if character.isalpha() else character


def _fixed(texts: Sequence[str]) -> dict[int, str]:
    """What all texts of a shape have at the same place; of a text that comes again and again nothing is kept."""
    if len(set(texts)) < MIN_FIXED:
        return {}
    return {
        place: characters[0]
        for place, characters in enumerate(zip(*texts, strict=True))
        if _class_of(characters[0]) in _ALPHABETS and len(set(characters)) == 1
    }


def _make_patterned(patterns: Sequence[Pattern], rows: int, generator: np.random.Generator) -> NDArray[np.object_]:
    counts = np.array([pattern.count for pattern in patterns], dtype=np.float64)
    chosen = generator.choice(len(patterns), size=rows, p=counts / counts.sum())
    texts = np.empty(rows, dtype=object)
    for number, pattern in enumerate(patterns):
        places = np.flatnonzero(chosen == number)
        if len(places):
            texts[places] = _of_shape(pattern, len(places), generator)
    return texts


def _of_shape(pattern: Pattern, rows: int, generator: np.random.Generator) -> NDArray[np.object_]:
    width = len(pattern.shape)
    if not width:
        return np.full(rows, "", dtype=object)
    codes = np.empty((rows, width), dtype=np.uint32)
    for place, kind in enumerate(pattern.shape):
        alphabet = _ALPHABETS.get(kind)
        if place in pattern.fixed or alphabet is None:
            codes[:, place] = ord(pattern.fixed.get(place, kind))
        else:
            codes[:, place] = generator.choice(alphabet, size=rows)
    return codes.view(f"<U{width}").reshape(rows).astype(object)


def _make_words(fresh: FreshTexts, rows: int, generator: np.random.Generator) -> list[str]:
    if not fresh.words or not fresh.lengths:
        return [""] * rows
    counts = generator.choice(np.array(fresh.words), size=rows)
    lengths = generator.choice(np.array(fresh.lengths), size=int(counts.sum()))
    letters = "".join(map(chr, generator.choice(_ALPHABETS["a"], size=int(lengths.sum()))))
    ends = np.cumsum(lengths).tolist()
    words = [letters[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
    stops = np.cumsum(counts).tolist()
    return [" ".join(words[begin:end]).capitalize() for begin, end in zip([0, *stops[:-1]], stops, strict=True)]


def _quantiles(numbers: Sequence[int]) -> tuple[int, ...]:
    """Without the extremes, which are somebody's."""
    return tuple(int(number) for number in np.quantile(numbers, _QUANTILES).round()) if numbers else ()
