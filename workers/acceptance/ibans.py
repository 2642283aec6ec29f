"""Bank account numbers: ISO 13616, whose register is https://www.swift.com/standards/data-standards/iban."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LENGTHS = """
15 NO; 16 BE; 18 DK FI FO GL NL SD FK; 19 MK SI; 20 AT BA EE KZ LT LU XK MN; 21 CH HR LI LV;
22 BG BH CR DE GB GE IE ME RS VA; 23 AE GI IL IQ OM SO TL; 24 AD CZ ES MD PK RO SA SE SK TN VG; 25 LY PT ST; 26 IS TR;
27 BI DJ FR GR IT MC MR SM; 28 AL AZ BY CY DO GT HU LB NI PL SV; 29 BR EG PS QA UA; 30 JO KW MU YE;
31 MT SC; 32 LC; 33 RU
"""
_LENGTH = {
    country: int(length)
    for length, *countries in (group.split() for group in _LENGTHS.replace("\n", " ").split(";"))
    for country in countries
}
_START = re.compile(r"(?<![0-9A-Za-z])([A-Za-z]{2})(\d{2})(?=[ \u00a0-]?[0-9A-Za-z])")
_GAP = " \u00a0-"
_WHOLE = re.compile(r"[0-9A-Za-z]{15,34}(?![0-9A-Za-z])")


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """Where account numbers stand, with or without spaces; those alone whose check digits are right.

    One whose country's length is not known, or is another, ends where its letters and digits do.
    """
    for match in _START.finditer(text):
        length = _LENGTH.get(match[1].upper())
        for found in ((_take(text, match.start(), length) if length else None), _WHOLE.match(text, match.start())):
            if found is not None and _checks(re.sub(r"[^0-9A-Z]", "", found[0].upper())):
                yield found.span()
                break


def _take(text: str, start: int, length: int) -> re.Match[str] | None:
    """So many letters and digits, with single gaps between them, and none more behind them."""
    form = rf"[0-9A-Za-z](?:[{_GAP}]?[0-9A-Za-z]){{{length - 1}}}(?![0-9A-Za-z])"
    return re.compile(form).match(text, start)


def _checks(account: str) -> bool:
    """Whether the check digits are right: ISO 7064, MOD 97-10."""
    moved = account[4:] + account[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1
