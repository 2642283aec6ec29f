"""Tables as codes and scalars, and back: types, grids, missing values, and what is given away."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.tabular.columns import find_columns, table_schema
from models.tabular.encoding import TableEncoding, find_encoding
from models.tabular.heads import LEAST, Levels, Modes

ROWS = 200


def encoding_of(table: pa.Table, **kinds: str) -> TableEncoding:
    return find_encoding(table, find_columns(table, kinds), seed=1)


def there_and_back(table: pa.Table, **kinds: str) -> pa.Table:
    encoding = encoding_of(table, **kinds)
    return encoding.decode(encoding.encode(table, seed=2), first=0, seed=3)


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 10, ROWS)


def with_gaps(values: list[Any]) -> list[Any]:
    return [None if place % 7 == 0 else value for place, value in enumerate(values)]


DAY = dt.date(2024, 1, 1)
MOMENT = dt.datetime(2024, 1, 1, 12, 30, tzinfo=dt.UTC)
HOURS = np.random.default_rng(4).integers(0, 5000, ROWS).tolist()
COLUMNS: dict[str, pa.Array] = {
    "float": pa.array(numbers().round(2).tolist()),
    "float32": pa.array(numbers().round(1).tolist(), pa.float32()),
    "integer": pa.array((50 * numbers().round()).astype(int).tolist(), pa.int32()),
    "whole_floats": pa.array(with_gaps(numbers().round().tolist())),
    "category": pa.array(with_gaps(["a", "b", "c", "d"] * (ROWS // 4))),
    "before_1970": pa.array(
        [MOMENT.replace(year=1950, tzinfo=None) + dt.timedelta(days=h // 24) for h in HOURS], pa.timestamp("ns")
    ),
    "large_numbers": pa.array([(hours - 2500) * 10**14 for hours in HOURS]),
    "truth": pa.array(with_gaps([True, False] * (ROWS // 2))),
    "few_numbers": pa.array([1, 2, 3, 4] * (ROWS // 4), pa.int8()),
    "fifteen_numbers": pa.array([0.5 * (place % 15) for place in range(ROWS)]),
    "day": pa.array(with_gaps([DAY + dt.timedelta(days=hours) for hours in HOURS])),
    "moment": pa.array([MOMENT + dt.timedelta(hours=hours) for hours in HOURS], pa.timestamp("us", tz="UTC")),
    "nanoseconds": pa.array([MOMENT.replace(tzinfo=None) + dt.timedelta(hours=h) for h in HOURS], pa.timestamp("ns")),
    "written_day": pa.array([(DAY + dt.timedelta(days=hours)).strftime("%d.%m.%Y") for hours in HOURS]),
    "dictionary": pa.array(["x", "y"] * (ROWS // 2)).dictionary_encode(),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name: str) -> None:
    table = pa.table({name: COLUMNS[name]})
    back = there_and_back(table)
    assert back.schema == table_schema(find_columns(table, {}))
    found, given = back[name].to_pylist(), table[name].to_pylist()
    assert [value is None for value in found] == [value is None for value in given]
    # All but the ends of the range, which become the LEAST-th lowest and highest.
    same = sum(one == other for one, other in zip(found, given, strict=True))
    assert same >= ROWS - 2 * (LEAST - 1)


def test_numbers_with_long_fractions_come_back_nearly() -> None:
    table = pa.table({"x": numbers() ** 3 / 7})
    given, back = table["x"].to_numpy(), there_and_back(table)["x"].to_numpy()
    inner = (given > np.sort(given)[LEAST - 1]) & (given < np.sort(given)[-LEAST])
    np.testing.assert_allclose(back[inner], given[inner], rtol=1e-4)


def test_huge_numbers_keep_their_range_but_not_their_last_digits() -> None:
    table = pa.table({"x": pa.array([hours * 10**15 + 1 for hours in HOURS], pa.uint64())})
    given, back = (one["x"].to_numpy().astype(float) for one in (table, there_and_back(table)))
    lowest, *_, highest = np.sort(given)[LEAST - 1 : 1 - LEAST]
    np.testing.assert_allclose(back, np.clip(given, lowest, highest), atol=1e-3 * highest)


def test_an_encoding_is_json() -> None:
    encoding = encoding_of(pa.table(COLUMNS))
    assert msgspec.json.decode(msgspec.json.encode(encoding), type=TableEncoding) == encoding


def test_modes_are_found_and_a_number_lies_in_its_own() -> None:
    draws = np.random.default_rng(1)
    values = np.concatenate([draws.normal(0, 1, 300), draws.normal(100, 5, 300), np.zeros(200)])
    encoding = encoding_of(pa.table({"x": values}))
    [modes] = encoding.heads
    assert isinstance(modes, Modes)
    assert modes.points == (0.0,)
    assert all(abs(mean) < 10 or abs(mean - 100) < 20 for mean in modes.means)
    rows = encoding.encode(pa.table({"x": [100.0, 0.0]}), seed=1)
    assert abs(modes.means[rows.codes[0, 0]] - 100) < 20
    assert rows.codes[1, 0] == len(modes.means)
    assert np.abs(rows.scalars).max() <= 1


def test_the_ends_of_a_range_are_nobodys() -> None:
    values = [*range(1000, 1190), *[1_000_000 + place for place in range(LEAST - 1)], -7]
    table = pa.table({"income": values})
    encoding = encoding_of(table)
    [modes] = encoding.heads
    assert isinstance(modes, Modes)
    described = msgspec.json.encode(encoding)
    assert not [end for end in (-7, *values[-LEAST:-1]) if str(end).encode() in described]
    back = there_and_back(table)["income"]
    assert pc.min(back).as_py() == 1003
    assert pc.max(back).as_py() == 1189
    outermost = encoding.encode(table, seed=1)
    outermost.scalars[:] = np.sign(outermost.scalars)
    made = encoding.decode(outermost, first=0, seed=1)["income"]
    assert pc.min(made).as_py() >= 1003
    assert pc.max(made).as_py() <= 1189


def test_rare_categories_are_apart_and_never_shown() -> None:
    table = pa.table({"job": ["clerk"] * 100 + ["cook"] * 90 + ["king"] * (LEAST - 1) + ["pope", "diva"]})
    encoding = encoding_of(table, job="categorical")
    [levels] = encoding.heads
    assert isinstance(levels, Levels)
    assert levels.values == ("clerk", "cook")
    assert levels.rare_code == 2
    assert levels.counts == (100, 90, LEAST + 1)
    assert b"king" not in msgspec.json.encode(encoding)
    with pytest.raises(AssertionError):
        encoding.decode(encoding.encode(table, seed=1), first=0, seed=1)


def test_rare_ones_of_a_few_numbers_become_the_nearest() -> None:
    table = pa.table({"rooms": [*range(1, 13)] * 10 + [40, 41]})
    back = there_and_back(table, rooms="integer")["rooms"].to_pylist()
    assert back == [*range(1, 13)] * 10 + [12, 12]


def test_numbers_that_are_not_finite_are_missing() -> None:
    table = pa.table({"x": [float("nan"), float("inf"), *numbers().round(1).tolist()]})
    back = there_and_back(table)["x"].to_pylist()
    assert back[:2] == [None, None]
    assert None not in back[2:]


def test_columns_without_values_stay_without() -> None:
    table = pa.table({"x": pa.nulls(60, pa.float64()), "y": pa.nulls(60), "z": [1] * 60})
    assert there_and_back(table, x="numeric").to_pydict() == {"x": [None] * 60, "y": [None] * 60, "z": [1] * 60}


def test_places_are_two_numbers() -> None:
    draws = np.random.default_rng(1)
    given = [
        f"{round(lat, 4)}, {round(lon, 4)}"
        for lat, lon in zip(draws.normal(48, 1, 90), draws.normal(-11, 1, 90), strict=True)
    ]
    table = pa.table({"where": [*given, None]})
    encoding = encoding_of(table)
    assert len(encoding.heads) == 2
    back = there_and_back(table)["where"].to_pylist()
    assert back[-1] is None
    assert sum(one == other for one, other in zip(back, given, strict=False)) >= 90 - 4 * (LEAST - 1)


def test_texts_and_keys_are_no_business_of_a_network() -> None:
    table = pa.table({
        "customer_id": list(range(ROWS)),
        "phone": [f"+49 89 {place * 7919 % 10**6:06}" for place in range(ROWS)],
        "x": numbers(),
    })  # fmt: skip
    encoding = encoding_of(table)
    assert encoding.head_places() == {"x": 0}
    back = there_and_back(table)
    assert not set(back["customer_id"].to_pylist()) & set(table["customer_id"].to_pylist())
    assert all(text.startswith("+49 89 ") for text in back["phone"].to_pylist())
    assert b"7919" not in msgspec.json.encode(encoding)


def test_which_mode_is_drawn_from_the_seed_alone() -> None:
    table = pa.table({"x": numbers()})
    encoding = encoding_of(table)
    one, same, other = (encoding.encode(table, seed=seed).codes.tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other
