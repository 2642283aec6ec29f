"""Which class a prompt means."""

from __future__ import annotations

import pytest

from models.class_prompts import ClassPrompts

FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("T-shirt", "T-shirt"),
        ("t shirt", "T-shirt"),
        ("two T-shirts", "T-shirt"),
        ("shirt", "shirt"),
        ("a dress shirt", "shirt"),
        ("a shirt dress", "dress"),
        ("DRESSES", "dress"),
        ("9", "ankle boot"),
        (" 0 ", "T-shirt"),
        ("ankle boot", "ankle boot"),
        ("ankle_boots", "ankle boot"),
        ("a boot", "ankle boot"),
        ("a sneaker", "sneaker"),
        ("a pair of running shoes", "sneaker"),
        ("handbag", "bag"),
        ("blue jeans", "trouser"),
        ("the women's coat", "coat"),
        ("a photo of a sandal, on white", "sandal"),
        ("a bag for sneakers", "bag"),
        ("for summer: a sandal", "sandal"),
        ("Sweaters!", "pullover"),
    ],
)
def test_names_indexes_and_plain_words(prompt: str, name: str) -> None:
    assert ClassPrompts(FASHION).find(prompt) == FASHION.index(name)


@pytest.mark.parametrize("prompt", ["", "  ", "10", "99999999999", "-1", "a toaster", "bootstrap", "shirtless", "¹"])
def test_what_is_no_class(prompt: str) -> None:
    assert ClassPrompts(FASHION).find(prompt) is None


def test_the_message_names_the_classes() -> None:
    told = ClassPrompts(FASHION).unknown("a toaster" + "!" * 1000)
    assert "'a toaster!" in told
    assert "0 T-shirt, 1 trouser" in told
    assert len(told) < 400


def test_synonyms_are_only_for_classes_that_are_there() -> None:
    prompts = ClassPrompts(("red_mug", "boot", "Straße"))
    assert prompts.find("a red mug") == 0
    assert prompts.find("a boot") == 1
    assert prompts.find("STRASSE") == 2
    assert prompts.find("handbag") is None


def test_a_class_whose_name_is_no_word_means_nothing_by_accident() -> None:
    prompts = ClassPrompts(("-", "the", "cup"))
    assert prompts.find("a cup") == 2
    assert prompts.find("the") is None
    assert prompts.find("1") == 1
