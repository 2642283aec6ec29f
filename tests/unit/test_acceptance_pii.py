"""What gives persons away is found by its form, and what only looks like it is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from models.backends.rampart import NETWORK
from models.text_classifiers import Span, TextClassifiers
from tests.support.networks import needs
from workers.acceptance.pii import PiiFinder, describe, redact
from workers.acceptance.rules import PiiKind

STRICT: tuple[PiiKind, ...] = ("email", "phone", "card", "iban", "ip", "ssn", "url")


def found(text: str, kinds: Sequence[PiiKind] = STRICT, regions: Sequence[str] | None = None) -> list[tuple[str, str]]:
    [spans] = PiiFinder(TextClassifiers(), kinds, regions).find([text])
    return [(span.kind, text[span.start : span.end]) for span in spans]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "a.b+c@ex-ample.co.uk"),
        ("email", "jörg@example.de"),
        ("phone", "+49 341 1234567"),
        ("phone", "+49 (0)341 123-4567"),
        ("phone", "(0341) 1234567"),
        ("phone", "0341/1234567"),
        ("phone", "555-234-5678 x123"),
        ("phone", "(555) 234-5678"),
        ("phone", "001-555-234-5678"),
        ("phone", "13812345678"),
        ("phone", "01 23 45 67 89"),
        ("card", "4539 1488 0343 6467"),
        ("card", "4539148803436467"),
        ("card", "3714-496353-98431"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "GB82WEST12345698765432"),
        ("iban", "no9386011117947"),
        ("ip", "192.168.0.1"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("ssn", "078-05-1120"),
        ("url", "https://example.com/a?b=c"),
    ],
)
def test_a_kind_with_a_form_is_found_wherever_it_stands(kind: str, value: str) -> None:
    for text in (value, f"It is {value}.", f"({value}), or", f"联系方式是{value}。", f"a\n{value}\nb"):
        assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "It costs 1,299.00 or 12 000 000 in all, 50 % off.",
        "From 2019-05-01 10:30:12 to 01.06.2020, 12:30:15.",
        "In 1999 2000 2001 2002 and 2003-2004",
        "Version 1.2.3, build 10.2.33, part X200-55-1234",
        "ISBN 978-3-16-148410-0",
        "4539 1488 0343 6468 is one digit off, and so is DE88 3704 0044 0532 0130 00.",
        "a@b, @home, me at example dot com, 5@2",
        "999.999.999.999 and 12:30",
        "我们在2019年5月1日卖出1200件,每件35.50元。",
    ],
)
def test_what_only_looks_like_it_is_not_found(text: str) -> None:
    assert found(text) == []


def test_only_what_is_asked_for_is_told() -> None:
    text = "eve@example.com 192.168.0.1 4539148803436467"
    assert [kind for kind, _ in found(text, ("ip",))] == ["ip"]
    assert found("000-12-3456 and 123-00-4567, 078-05-1120", ("ssn",)) == [("ssn", "078-05-1120")]
    # What is a card's is no telephone number, though nobody asked for cards.
    assert found("4539148803436467", ("phone",)) == []


def test_a_number_without_a_prefix_is_read_by_the_plans_of_the_regions() -> None:
    assert found("call 612 345 678", regions=("ES",)) == [("phone", "612 345 678")]
    assert found("call 612 345 678", regions=("US",)) == []
    assert found("call +34 612 345 678", regions=("US",)) == [("phone", "+34 612 345 678")]


def test_what_was_found_is_replaced_and_told_by_its_kind() -> None:
    text = "Mail a@b.de or c@d.de, call 555-234-5678."
    [spans] = PiiFinder(TextClassifiers(), STRICT).find([text])
    assert redact(text, spans) == "Mail [email] or [email], call [phone]."
    assert describe(spans) == "an e-mail address (2 times) and a telephone number"


def test_names_and_addresses_are_found_by_the_classifier() -> None:
    needs(NETWORK)
    finder = PiiFinder(TextClassifiers(), ("name", "address", "email"))
    told = "My name is Alex Rivera, I live at 12 Baker Street. Mail alex@example.com."
    clean = "The jacket keeps you dry in all weathers."
    spans, none, nothing = finder.find([told, clean, ""])
    kinds = {span.kind: told[span.start : span.end] for span in spans}
    assert kinds == {"name": "Alex Rivera", "address": "12 Baker Street", "email": "alex@example.com"}
    assert none == nothing == []


def test_an_entity_in_a_long_text_is_found_where_it_stands() -> None:
    needs(NETWORK)
    filler = "The jacket keeps you dry in all weathers, and the hood fits over a helmet. " * 12
    text = f"{filler}Ask for Alex Rivera. {filler}"
    [spans] = TextClassifiers().entities([text])
    assert Span(text.index("Alex"), text.index("Alex") + len("Alex Rivera"), "name") in spans
