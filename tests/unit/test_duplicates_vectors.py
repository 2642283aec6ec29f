"""Vectors of whole texts as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.text_vectors import TextVectors
from models.training.sentences import WIDTH, SentenceEncoder


@pytest.fixture(scope="module")
def vectors() -> TextVectors:
    return TextVectors()


def _cosines(codes: NDArray[np.int8]) -> NDArray[np.float64]:
    wide = codes.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines: NDArray[np.float64] = wide @ wide.T
    return cosines


def test_the_bytes_of_a_text_are_the_same_in_any_company(vectors: TextVectors) -> None:
    rng = np.random.default_rng(2)
    words = [
        "the",
        "kettle",
        "is",
        "broken",
        "and",
        "i",
        "want",
        "my",
        "money",
        "back",
        "please",
        "send",
        "another",
        "one",
    ]
    texts = [" ".join(rng.choice(words, rng.integers(1, 90))) for _ in range(40)]
    texts += ["", "我想退货。" * 40, " ".join(words * 60)]
    together = vectors.codes(texts)
    assert together.shape == (43, WIDTH)
    order = rng.permutation(len(texts))
    for size in (1, 5, 17):
        again = np.empty_like(together)
        for at in range(0, len(order), size):
            some = order[at : at + size]
            again[some] = vectors.codes([texts[place] for place in some])
            if at > 15:
                break
        seen = order[: at + size]
        assert np.array_equal(again[seen], together[seen]), size


def test_bytes_say_what_the_vectors_say(vectors: TextVectors) -> None:
    texts = ["a broken kettle", "the kettle does not work", "a warm jacket", "水壶坏了", "two years of warranty"]
    exact = SentenceEncoder().vectors(texts).numpy()
    assert np.abs(_cosines(vectors.codes(texts)) - exact @ exact.T).max() < 0.005


def test_the_end_of_a_long_text_counts(vectors: TextVectors) -> None:
    beginning = "The parcel was sent on Monday. " * 100
    same, other = beginning + "It has arrived. " * 50, beginning + "Der Wasserkocher ist kaputt! " * 50
    cosines = _cosines(vectors.codes([same, other, same]))
    assert cosines[0, 2] > 0.9999
    assert cosines[0, 1] < 0.95
