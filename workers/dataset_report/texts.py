"""Columns of free text: how long they are, and how much they repeat themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.neighbors import NearestNeighbors

from workers.dataset_report.bins import LEAST_SHARED
from workers.dataset_report.curves import histogram
from workers.dataset_report.figures import Phrase, TextFigures

MOST_TEXTS: Final = 2000
"""Texts whose words are compared, so that figures of datasets of different sizes can be."""
MOST_CHARACTERS: Final = 5000
"""Of a text, that are compared."""
NEAR: Final = 0.9
_RUNS: Final = (1, 2, 3)
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word, or a Chinese or Japanese character, which are not written in words."""
_POSITIONS: Final = 1 << 18


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; each Chinese or Japanese character is one."""
    return _WORD.findall(text.lower())


def describe_texts(column: str, values: Sequence[str | None], seed: int) -> TextFigures:
    """The figures of a column's values, in any order."""
    there = [value for value in values if value is not None and value.strip()]
    characters = np.array([len(text) for text in there], np.float64)
    words = np.array([len(_WORD.findall(text)) for text in there], np.float64)
    chosen = np.random.default_rng(seed).permutation(len(there))[:MOST_TEXTS]
    drawn = [there[place][:MOST_CHARACTERS] for place in chosen]
    tokens = [words_of(text) for text in drawn]
    counts = Counter(there)
    similar = _similarities(drawn)
    openings = Counter(tuple(found[:3]) for found in tokens if len(found) >= 3)
    return TextFigures(
        column=column,
        rows=len(values),
        empty=1 - len(there) / len(values) if values else 0.0,
        characters=_phrase(characters),
        words=_phrase(words),
        lengths=histogram([characters], LEAST_SHARED),
        distinct=tuple(_distinct(tokens, run) for run in _RUNS),
        distinct_rows=len(drawn),
        repeated=sum(number for number in counts.values() if number > 1) / len(there) if there else 0.0,
        similarity=None if similar is None else float(similar.mean()),
        near=None if similar is None else float((similar >= NEAR).mean()),
        openings=max(openings.values()) / len(drawn) if openings else 0.0,
    )


def _phrase(lengths: NDArray[np.float64]) -> Phrase:
    if not len(lengths):
        return Phrase(least=0.0, median=0.0, high=0.0, most=0.0)
    least, median, high, most = (float(value) for value in np.percentile(lengths, [0, 50, 95, 100]))
    return Phrase(least=least, median=median, high=high, most=most)


def _distinct(texts: Sequence[Sequence[str]], run: int) -> float:
    runs = [tuple(words[place : place + run]) for words in texts for place in range(len(words) - run + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _similarities(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Of each text the cosine similarity to the nearest other one; None of fewer than two."""
    if len(texts) < 2:
        return None
    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=_POSITIONS, alternate_sign=False)
    points = vectors.transform(texts)
    index = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(points)
    distances, _ = index.kneighbors(points)
    similar: NDArray[np.float64] = (1 - distances[:, 1]).clip(0, 1)
    return similar
