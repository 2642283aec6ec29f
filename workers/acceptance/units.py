"""Units of measurement, as they stand behind a number: what they measure and how they convert.

Factors are exact by definition: https://www.bipm.org/en/publications/si-brochure, and for pounds, inches and gallons
https://www.nist.gov/pml/special-publication-811.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec


class Unit(msgspec.Struct, frozen=True):
    """A unit: `factor` of what its dimension is measured in."""

    dimension: str
    factor: Decimal


_TABLE = {
    "mass": {
        "0.001": "mg milligram milligrams milligramm",
        "1": "g gram grams gramme grammes gramm 克",
        "1000": "kg kilo kilos kilogram kilograms kilogramm 公斤 千克",
        "1000000": "t ton tons tonne tonnes tonnen",
        "453.59237": "lb lbs",
        "28.349523125": "oz ounce ounces",
    },
    "length": {
        "0.001": "mm millimeter millimeters millimetre millimetres",
        "0.01": "cm centimeter centimeters centimetre centimetres zentimeter 厘米",
        "1": "m meter meters metre metres mètres 米",
        "1000": "km kilometer kilometers kilometre kilometres 公里",
        "0.0254": "inch inches zoll",
        "0.3048": "ft foot feet",
        "1609.344": "mi mile miles",
    },
    "volume": {
        "0.001": "ml milliliter milliliters millilitre millilitres 毫升",
        "0.01": "cl",
        "0.1": "dl",
        "1": "l liter liters litre litres 升",
        "3.785411784": "gal gallon gallons",
    },
    "time": {
        "0.001": "ms",
        "1": "sec second seconds sekunde sekunden seconde secondes 秒",
        "60": "min minute minutes minuten 分钟",
        "3600": "h hr hrs hour hours stunde stunden heure heures 小时",
        "86400": "day days tag tage tagen jour jours 天",
        "604800": "week weeks woche wochen semaine semaines",
    },
    "months": {
        "1": "month months monat monate monaten mois 个月",
        "12": "year years jahr jahre jahren an ans années 年",
    },
    "power": {"1": "w watt watts", "1000": "kw kilowatt kilowatts"},
    "energy": {"1": "wh", "1000": "kwh"},
    "charge": {"1": "ah", "0.001": "mah"},
    "voltage": {"1": "v volt volts"},
    "data": {"1": "mb", "1000": "gb", "1000000": "tb"},
    "frequency": {"1": "hz", "1000": "khz", "1000000": "mhz", "1000000000": "ghz"},
    "celsius": {"1": "°c"},
    "fahrenheit": {"1": "°f"},
    "percent": {"1": "% percent prozent"},
    "euros": {"1": "€ eur euro euros"},
    "dollars": {"1": "$ usd dollar dollars"},
    "sterling": {"1": "£ gbp"},
    "yuan": {"1": "元 cny rmb"},
}
UNITS = {
    name: Unit(dimension, Decimal(factor))
    for dimension, factors in _TABLE.items()
    for factor, names in factors.items()
    for name in names.split()
}
"""By its names, folded."""
IDEOGRAPHIC = sorted((name for name in UNITS if name[0] >= "\u4e00"), key=len, reverse=True)
"""Names that no space parts from the word behind them, the longest first."""


def unit_of(word: str | None) -> Unit | None:
    """The unit of a name; None where it is none that is known, and may mean anything."""
    return None if word is None else UNITS.get(word.casefold())


def unit_of_field(name: str) -> Unit | None:
    """The unit that a field's name ends with: of `weight_kg` the kilogram."""
    head, _, tail = name.rpartition("_")
    return unit_of(tail) if head else None
