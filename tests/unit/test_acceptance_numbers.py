"""Numbers in texts, and whether they come from the row."""

from __future__ import annotations

from typing import Any

import pytest

from workers.acceptance.numbers import RowNumbers, numbers_in

ROW: dict[str, Any] = {
    "name": "X200 jug",
    "capacity_l": 2,
    "weight": "1,2 kg",
    "price": 12.5,
    "recycled": 0.12,
    "layers": "three",
    "since": "2019-05-01",
    "stock": "12,500",
    "sizes": [38, {"largest": 46}],
    "waterproof": True,
}


def strange(text: str, row: dict[str, Any] = ROW) -> list[str]:
    known = RowNumbers(row)
    return [number.text for number in numbers_in(text) if known.lacks(number)]


@pytest.mark.parametrize(
    "text",
    [
        "A 2-litre jug", "holds 2 l", "holds 2,000 ml", "2L", "two litres", "zwei Liter",
        "weighs 1.2 kg", "weighs 1,200 g", "wiegt 1.200 g", "1 200 grams", "1\u202f200 g",
        "for $12.50", "für 12,50 €", "12.5 euros", "12 % recycled", "12% recycled", "12 percent recycled",
        "3 layers", "three layers", "drei Lagen", "since 2019", "on 1 May 2019", "since 5/2019",
        "12,500 in stock", "12.500 auf Lager", "12 500 in stock", "12'500", "sizes 38-46",
        "the X200", "the best one of all", "1. Light\n2. Strong\n3. Cheap", "容量2升,重1.2公斤", "no numbers",
    ],
)  # fmt: skip
def test_a_number_of_the_row_may_be_written_in_many_ways(text: str) -> None:
    assert strange(text) == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("A 5-litre jug", ["5"]),
        ("holds 2.5 l", ["2.5"]),
        ("weighs 2 kg", ["2"]),  # two are litres
        ("weighs 1.3 kg", ["1.3"]),
        ("for $125", ["125"]),
        ("13 % recycled", ["13"]),
        ("four layers", ["four"]),
        ("vier Lagen", ["vier"]),
        ("since 2018", ["2018"]),
        ("12,501 in stock, 38 left", ["12,501"]),
        ("size 1", ["1"]),
        ("售价300元", ["300"]),
    ],
)
def test_a_number_that_is_not_the_rows_is_found(text: str, numbers: list[str]) -> None:
    assert strange(text, {**ROW, "layers": "3 layers", "since": "2019"}) == numbers


def test_only_the_fields_that_are_named_are_looked_at() -> None:
    known = RowNumbers(ROW, ["price", "nothing"])
    assert [number.text for number in numbers_in("12.5 for 2 litres") if known.lacks(number)] == ["2"]


def test_a_point_may_part_thousands_or_decimals_and_both_count() -> None:
    [number] = numbers_in("1.200 pieces")
    assert [str(reading) for reading in number.readings] == ["1200", "1.200"]
    [number] = numbers_in("1,234,567.89")
    assert [str(reading) for reading in number.readings] == ["1234567.89"]
    assert [part.text for part in numbers_in("version 1.2.3")] == ["1", "2", "3"]
