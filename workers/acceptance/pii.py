"""What gives persons away: e-mail addresses, telephone, card and account numbers by their form, names by a classifier.

That is `models.backends.rampart`. What is found is told by its kind, and never repeated.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from models.text_classifiers import Span, TextClassifiers
from workers.acceptance.ibans import find_ibans
from workers.acceptance.phones import DEFAULT_REGIONS, find_phones
from workers.acceptance.rules import DEFAULT_KINDS, STRICT_KINDS, PiiKind

NAMES: dict[str, str] = {
    "email": "an e-mail address", "phone": "a telephone number", "card": "a card number", "iban": "an account number",
    "ip": "an IP address", "ssn": "a social security number", "url": "a web address", "name": "a person's name",
    "address": "an address", "place": "a place", "bank_account": "an account number", "tax_id": "a tax number",
    "government_id": "the number of a document", "passport": "a passport's number",
    "drivers_license": "a driving licence's number",
}  # fmt: skip
# Before the @ the letters of https://www.rfc-editor.org/rfc/rfc5322#section-3.2.3, Latin ones with accents too; not
# Chinese ones, which may stand before an address without a space.
_LOCAL = r"[0-9A-Za-z\u00c0-\u024f!#$%&'*+/=?^_`{|}~-]"
_EMAIL = re.compile(
    rf"(?<![0-9A-Za-z]){_LOCAL}(?:[.]?{_LOCAL}){{0,63}}@"
    r"(?:[0-9A-Za-z\u00c0-\u024f](?:[0-9A-Za-z\u00c0-\u024f-]{0,61}[0-9A-Za-z\u00c0-\u024f])?\.)+[A-Za-z]{2,24}"
)
_CARD = re.compile(r"(?<![0-9A-Za-z.,+-])\d(?:[ \u00a0-]?\d){11,18}(?![0-9A-Za-z]|[.,]\d)")
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:2131|1800)\d{11}|(?:5[0678]|6\d)\d{10,17}"
    r"|(?:2[2-7]|3[0-9]|5[1-5])\d{14}|81\d{14,17}|0604\d{8,15}"
)
"""How the numbers of the large schemes begin, and how long they are: ISO/IEC 7812."""
_IPV4 = re.compile(r"(?<![0-9A-Za-z.])\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z]|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_SSN = re.compile(r"(?<![0-9A-Za-z-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![0-9A-Za-z-])")
"""https://www.ssa.gov/employer/randomization.html says which numbers are never given."""
_URL = re.compile(
    r"(?<![0-9A-Za-z])(?:https?://|www\.)[^\s<>\"'\uff09\u300d\u300f\uff0c\u3002]*[^\s<>\"'.,;:!?)\]}\uff09\u300d\u300f\uff0c\u3002]",
    re.IGNORECASE,
)


class PiiFinder:
    """Finds what a rule asks for.

    Args:
        classifiers: Asked where a kind is among them that no form gives away.
        kinds: What to look for.
        regions: Countries by whose plans telephone numbers are read.
    """

    def __init__(
        self,
        classifiers: TextClassifiers,
        kinds: Sequence[PiiKind] | None = None,
        regions: Sequence[str] | None = None,
    ) -> None:
        self._classifiers = classifiers
        self._kinds = frozenset(kinds or DEFAULT_KINDS)
        self._regions = regions or DEFAULT_REGIONS
        self._patterns: list[tuple[str, Callable[[str], Iterator[tuple[int, int]]]]] = [
            (kind, find)
            for kind, find in (
                ("url", _matches(_URL)),
                ("email", _matches(_EMAIL)),
                ("iban", find_ibans),
                ("card", _cards),
                ("ip", _addresses),
                ("ssn", _matches(_SSN)),
                ("phone", self._phones),
            )
            if kind in self._kinds or kind in {"card", "iban", "ip", "ssn"}  # or they would be telephone numbers
        ]

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Of each text what is found, in order and without overlaps.

        Raises:
            ModelError: the classifier is needed, and cannot be loaded.
        """
        found = [self._by_form(text) for text in texts]
        if not self._kinds <= STRICT_KINDS:
            for spans, more in zip(found, self._classifiers.entities(texts), strict=True):
                _add(spans, (span for span in more if span.kind not in STRICT_KINDS))
        return [sorted(span for span in spans if span.kind in self._kinds) for spans in found]

    def _by_form(self, text: str) -> list[Span]:
        spans: list[Span] = []
        for kind, find in self._patterns:
            _add(spans, (Span(start, end, kind) for start, end in find(text)))
        return spans

    def _phones(self, text: str) -> Iterator[tuple[int, int]]:
        return find_phones(text, self._regions)


def redact(text: str, spans: Iterable[Span]) -> str:
    """A text with what was found in it replaced by its kind: `[email]`."""
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span.start], f"[{span.kind}]"]
        end = span.end
    return "".join([*pieces, text[end:]])


def describe(spans: Iterable[Span]) -> str:
    """What was found, by kind: `an e-mail address and a telephone number (2 times)`."""
    counts = Counter(span.kind for span in spans)
    return " and ".join(
        NAMES[kind] if times == 1 else f"{NAMES[kind]} ({times} times)" for kind, times in counts.items()
    )


def _add(spans: list[Span], more: Iterable[Span]) -> None:
    """Those that overlap none that is there: what is found first wins."""
    spans += [span for span in more if all(span.end <= other.start or span.start >= other.end for other in spans)]


def _matches(pattern: re.Pattern[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    return lambda text: (match.span() for match in pattern.finditer(text))


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _ISSUED.fullmatch(digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    """Whether the check digit is right: ISO/IEC 7812-1, annex B."""
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(value - 9 * (value > 9) for value in doubled)) % 10 == 0


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue  # a version, a time
            if match[0].strip(":"):
                yield match.span()
