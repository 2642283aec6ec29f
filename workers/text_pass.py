"""A pass over texts: which of them are too like another that stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from workers.dataset_engine import PartList, PartOf
from workers.duplicates.accept_pass import run
from workers.duplicates.rules import DuplicateRules
from workers.duplicates.signatures import SignatureCache
from workers.duplicates.texts import PartTexts, record_texts
from workers.rejections import Rejection
from workers.store import ObjectStore


def judge_texts(
    rules: Mapping[str, Any],
    parts: PartList,
    before: Mapping[int, Rejection] | None,
    folder: Path,
    cache: Path,
    store: ObjectStore,
) -> tuple[int, dict[int, Rejection]]:
    """How many texts there are, and by item, which of them do not stay.

    Args:
        rules: A `DuplicateRules` as JSON.
        parts: Those of the job, and of earlier jobs that count as well.
        before: By item, what the pass before rejected: these texts are new, and all others stayed. None in the first.
        folder: Of this pass alone.
        cache: Where signatures of parts are kept, from one pass to the next.
        store: Where the parts lie.

    Raises:
        StoreError: the store failed, or the cache cannot be written.
        ModelError: the sentence encoder is asked for, and not installed.
    """
    asked = DuplicateRules.model_validate(rules)
    fixed = np.empty(0, np.int64)
    if before is not None:
        items = max((part.first + part.count for part in parts.parts), default=0)
        fixed = np.delete(np.arange(items, dtype=np.int64), np.fromiter(before, np.int64, len(before)))
    texts = partial(_texts, rules=asked, folder=folder, store=store)
    found = run(
        [texts(part) for part in parts.parts],
        asked,
        fixed=fixed,
        scratch=folder / "shelf",
        cache=SignatureCache(cache, asked),
        against=[texts(part, job=job) for job, theirs in sorted(parts.against.items()) for part in theirs],
    )
    rejected = {
        each.index: Rejection(
            index=each.index, rules={each.rule: 1}, like=each.of, job=each.job, similarity=round(each.similarity, 4)
        )
        for each in found
    }
    return sum(part.ok for part in parts.parts), rejected


def _texts(part: PartOf, *, rules: DuplicateRules, folder: Path, store: ObjectStore, job: str = "") -> PartTexts:
    def read() -> Iterator[tuple[int, str]]:
        path = folder / f"{part.sha256}.jsonl"
        with path.open("wb") as file:
            file.writelines(store.stream(part.key))
        yield from record_texts(path, rules.field)
        path.unlink()

    return PartTexts(sha256=part.sha256, texts=read, job=job)
