"""Figures of how different texts are."""

from __future__ import annotations

import pytest

from workers.duplicates.accept_pass import Rejected
from workers.duplicates.diversity import diversity, with_rejected


def test_runs_of_words_are_counted() -> None:
    figures = diversity([(0, "The kettle, the lamp."), (1, "the KETTLE")])
    assert (figures.texts, figures.sampled, figures.words) == (2, 2, 3.0)
    assert figures.distinct_1 == pytest.approx(3 / 6, abs=1e-4)
    assert figures.distinct_2 == pytest.approx(3 / 4, abs=1e-4)
    assert figures.distinct_3 == 1.0
    assert figures.nearest_embedding is None


def test_in_chinese_a_character_counts_as_a_word() -> None:
    figures = diversity([(0, "退货退货 iPhone手机")])
    assert (figures.words, figures.distinct_1) == (7.0, round(5 / 7, 4))


def test_texts_that_are_alike_have_near_neighbours() -> None:
    alike = [(number, f"the parcel of order {number} has not arrived, and i am worried") for number in range(20)]
    other = [
        (number, text) for number, text in enumerate(["a red kettle", "wir liefern nach bonn", "two years", "水壶坏了"])
    ]
    near, far = diversity(alike, embed=True), diversity(other, embed=True)
    assert near.nearest_minhash > 0.8
    assert far.nearest_minhash < 0.2
    assert near.nearest_embedding is not None
    assert far.nearest_embedding is not None
    assert near.nearest_embedding > far.nearest_embedding + 0.2


def test_the_sample_does_not_depend_on_the_order_of_the_texts() -> None:
    texts = [(number, f"text {number} of {number % 7}") for number in range(300)]
    one, other = diversity(texts, sample=50), diversity(reversed(texts), sample=50)
    assert one == other
    assert (one.texts, one.sampled) == (300, 50)
    assert one != diversity(texts, sample=51)


def test_shares_are_of_all_candidates() -> None:
    rejected = [Rejected(1, "exact", 0, 1.0), Rejected(2, "minhash", 0, 0.9), Rejected(3, "exact", 0, 1.0)]
    figures = with_rejected(diversity([(0, "one"), (4, "two")]), rejected)
    assert figures.rejected == {"exact": 0.4, "minhash": 0.2}


def test_of_nothing_there_is_nothing_to_say() -> None:
    figures = with_rejected(diversity([], embed=True), [])
    assert (figures.texts, figures.words, figures.distinct_1, figures.nearest_minhash, figures.rejected) == (
        0,
        0,
        0,
        0,
        {},
    )
