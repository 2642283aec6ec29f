"""How long a text is: its words and sentences, in scripts with spaces and without."""

from __future__ import annotations

import re

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|(?:(?![{_IDEOGRAPH}])[^\W_])+(?:['\u2019.,-](?:(?![{_IDEOGRAPH}])[^\W_])+)*")
# A full stop ends a sentence where white space or the end follows: not that of 3.5, nor that of example.com.
_ENDING = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019»)\]]*(?=\s|$)|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*"
)


def count_words(text: str) -> int:
    """Words: runs of letters and digits, with what joins them (`well-known`, `don't`, `3.5`).

    Chinese and Japanese, which put no spaces, count by the character, as word processors do.
    """
    return sum(1 for _ in _WORD.finditer(text))


def count_sentences(text: str) -> int:
    """Sentences, by their ends; a last one without an end counts. `Dr. Smith` counts as an end, too."""
    count, last = 0, 0
    for ending in _ENDING.finditer(text):
        if _WORD.search(text, last, ending.start()):
            count += 1
        last = ending.end()
    return count + (_WORD.search(text, last) is not None)
