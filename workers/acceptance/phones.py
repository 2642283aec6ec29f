"""Telephone numbers, as people write them: `+49 341 1234567`, `(0341) 1234567`, `555-123-4567 x12`, `13812345678`.

A number has to be possible by its country's plan, not in use: what a model invents is as much like one's number. Hence
long numbers that are something else may be taken for one, all the more the more regions are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import phonenumbers

DEFAULT_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "CN", "JP", "IN", "BR")
"""Looked at for numbers without a country's prefix, where a rule names none."""
_CANDIDATE = re.compile(
    r"(?<![0-9A-Za-z@_.,/-])"
    r"(?:\+|00|\(\+?)?\d(?:[ \u00a0.()/\u2010\u2011-]{0,3}\d){5,17}(?:[ ,]{0,2}(?:x|ext\.?|app\.?)[ ]?\d{1,6})?"
    r"(?![0-9A-Za-z@_])",
    re.IGNORECASE,
)
_EXTENSION = re.compile(r"[ ,]*(?:x|ext\.?|app\.?)\s*\d+$", re.IGNORECASE)
_DATE = re.compile(
    r"(?:19|20)\d\d([-./])\d{1,2}\1\d{1,2}(?:[ T]\d\d)?|\d{1,2}([-./])\d{1,2}\2(?:19|20)\d\d(?: \d\d)?"
    r"|(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d"
)
_TRUNK = re.compile(r"\(?0[\d ()/.-]{7,18}")
_AMERICAN = re.compile(r"1?[2-9]\d{2}[2-9]\d{6}")
_FORMS = {"US": _AMERICAN, "CA": _AMERICAN, "CN": re.compile(r"1[3-9]\d{9}")}
"""Plans in which a number without a prefix has a form of its own: https://www.nanpa.com, and China's mobile numbers."""
_MIN_DIGITS = 7
_LONGEST_NATIONAL = 11
"""Digits of a number that is written without any prefix: longer ones are those of articles and the like."""


def find_phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where telephone numbers stand.

    Args:
        text: The text.
        regions: Countries (ISO 3166) by whose plans numbers without a country's prefix are read.
    """
    for match in _CANDIDATE.finditer(text):
        number = match[0]
        bracket = number.startswith("(") and number.count("(") > number.count(
            ")"
        )  # of the sentence, and not of the number
        number = number[bracket:]
        if _is_phone(number, regions) and not _DATE.fullmatch(number):
            yield match.start() + bracket, match.end()


def _is_phone(number: str, regions: Sequence[str]) -> bool:
    bare = _EXTENSION.sub("", number)
    digits = re.sub(r"\D", "", bare)
    if not _MIN_DIGITS <= len(digits) <= 17:
        return False
    if bare.lstrip("(").startswith("+"):
        return _possible(bare.lstrip("("), None)
    if digits.startswith("00") and _possible(f"+{digits[2:]}", None):
        return True
    if _TRUNK.fullmatch(bare):
        return True  # dialled with the trunk prefix; not every plan says how long those are
    return any(_is_national(bare, digits, region) for region in regions)


def _is_national(bare: str, digits: str, region: str) -> bool:
    """Whether a number without any prefix is one of a country, and does not only have the length of one."""
    if len(digits) > _LONGEST_NATIONAL:
        return False
    form = _FORMS.get(region)
    if form is not None:
        return form.fullmatch(digits) is not None
    if not _possible(bare, region):
        return False
    parted = len(digits) <= 11 and any(mark in bare for mark in "-()\u2010\u2011")
    return parted or phonenumbers.is_valid_number(phonenumbers.parse(bare, region))


def _possible(number: str, region: str | None) -> bool:
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return False
    # Local numbers, without their area, are anything.
    return phonenumbers.is_possible_number_with_reason(parsed) == phonenumbers.ValidationResult.IS_POSSIBLE
