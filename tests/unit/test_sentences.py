"""Sentence vectors: what means the same lies near, and a vector depends on its text alone."""

from __future__ import annotations

import pytest
import torch

from models.training.sentences import MOST_PIECES, WIDTH, SentenceEncoder


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_the_same_thing_in_other_languages_is_nearest(encoder: SentenceEncoder) -> None:
    english = encoder.vectors(["apple", "car", "dog", "house", "guitar"])
    for others in (
        ["Apfel", "Auto", "Hund", "Haus", "Gitarre"],
        ["pomme", "voiture", "chien", "maison", "guitare"],
        ["リンゴ", "車", "犬", "家", "ギター"],
    ):
        assert (encoder.vectors(others) @ english.T).argmax(dim=1).tolist() == [0, 1, 2, 3, 4], others


def test_a_vector_is_that_of_its_text_in_any_company(encoder: SentenceEncoder) -> None:
    texts = ["cup", "a small red cup of tea on a wooden table", "", "ไทย", "cup cup " * 400]
    alone = torch.stack([encoder.vector(text) for text in texts])
    assert alone.shape == (5, WIDTH)
    assert torch.allclose(alone.norm(dim=1), torch.ones(5), atol=1e-5)
    assert torch.allclose(encoder.vectors(texts), alone, atol=1e-5)
    assert torch.equal(encoder.vector(texts[1]), alone[1])
    assert torch.equal(encoder.vector("cup cup " * MOST_PIECES), alone[4])  # what is too long is cut


def test_the_order_of_words_counts(encoder: SentenceEncoder) -> None:
    """The convolutions look at words beside each other: without them a sentence would be a bag of words."""
    one, other = encoder.vectors(["a dog bites a man with a hat", "a man with a hat bites a dog"])
    assert one @ other < 0.999
