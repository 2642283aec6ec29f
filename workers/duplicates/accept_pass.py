"""One pass over the texts of a job that decides which of them stay.

A text is rejected if it is like one that is accepted and stands before it. Before all others stand the texts of other
jobs that count as well, then those that an earlier round accepted, then the rest, each in order of the index. So an
earlier round's choice stays; and the outcome depends on the texts alone: not on how they are cut into parts, nor on
which process looks at them, nor on how often.

Texts are taken in blocks. A block meets the accepted texts of earlier blocks, which are on disk, set by set, and then
itself. Time grows with the texts, and slowly with the square of the number of blocks; memory does not grow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.duplicates.likeness import NONE, Likeness, TextSet
from workers.duplicates.rules import DuplicateRules, RuleName
from workers.duplicates.shelf import Shelf
from workers.duplicates.signatures import SignatureCache, Signatures
from workers.duplicates.texts import PartTexts

BLOCK: Final = 1 << 16
"""Texts in memory at once: with all rules about 300 MB, whatever the size of the job."""
_AT_ONCE = 8192
_DIRECT_PAIRS = 1 << 21
_SMALL = 512


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A text that does not stay."""

    index: int
    rule: RuleName
    of: int
    """Index of the first accepted text that it is like."""
    similarity: float
    """By that rule, from 0 to 1."""
    job: str = ""
    """Of which job that text is; empty for this one."""


def run(
    parts: Sequence[PartTexts],
    rules: DuplicateRules,
    *,
    fixed: NDArray[np.int64],
    scratch: Path,
    cache: SignatureCache,
    against: Sequence[PartTexts] = (),
    block: int = BLOCK,
) -> Iterator[Rejected]:
    """Yield the texts that do not stay, in order of their index.

    Args:
        parts: All parts of the job, in order of the index. They are gone through twice; their texts are read only where
            their signatures are not in the cache.
        rules: As the cache's.
        fixed: Indexes that an earlier round accepted, ascending; none of them is yielded. May be mapped from disk.
        scratch: A folder of this pass alone. What is in it is removed, at the beginning and at the end.
        cache: Where the signatures of parts are, or are put.
        against: Parts of other jobs, each named, in an order that is always the same.
        block: Texts in memory at once. The outcome does not depend on it.

    Raises:
        ModelError: kind MODEL: the sentence encoder is asked for and not installed.
        StoreError: no room in the scratch folder or the cache.
    """
    jobs = tuple(dict.fromkeys(["", *(part.job for part in against)]))
    judge = _Pass(rules, Shelf(scratch), jobs)
    try:
        for job, of_job in itertools.groupby(against, key=lambda part: part.job):
            known = (texts for part in of_job for texts in cache.blocks(part, min(_AT_ONCE, block)))
            for texts in _gathered(known, block):
                judge.keep(texts, jobs.index(job))
        if len(fixed):
            for texts in _gathered(_candidates(cache, parts, fixed, block, wanted=True), block):
                judge.keep(texts, 0)
        for texts in _gathered(_candidates(cache, parts, fixed, block, wanted=False), block):
            yield from judge.judged(texts)
    finally:
        judge.shelf.close()


def _candidates(
    cache: SignatureCache, parts: Sequence[PartTexts], fixed: NDArray[np.int64], block: int, *, wanted: bool
) -> Iterator[Signatures]:
    """The texts that are fixed, or those that are not, some at a time."""
    last = -1
    for part in parts:
        for texts in cache.blocks(part, min(_AT_ONCE, block)):
            if int(texts.index[0]) <= last:
                raise AssertionError("the parts of a job are not in ascending order of their indexes")
            last = int(texts.index[-1])
            places = np.searchsorted(fixed, texts.index)
            known = np.zeros(len(texts), bool)
            inside = places < len(fixed)
            known[inside] = fixed[places[inside]] == texts.index[inside]
            yield texts.take(known == wanted)


def _gathered(some: Iterable[Signatures], block: int) -> Iterator[Signatures]:
    """Texts in blocks, across parts: each block costs a look at all before it, however few its texts."""
    held: list[Signatures] = []
    count = 0
    for texts in some:
        if count + len(texts) > block:
            yield Signatures.joined(held)
            held, count = [], 0
        if len(texts):
            held.append(texts)
            count += len(texts)
    if held:
        yield Signatures.joined(held)


class _Pass:
    """Judges block after block, and keeps what is accepted."""

    def __init__(self, rules: DuplicateRules, shelf: Shelf, jobs: Sequence[str]) -> None:
        self.shelf = shelf
        self._likeness = Likeness(rules)
        self._jobs = jobs

    def keep(self, texts: Signatures, job: int) -> None:
        """Accept texts without judging them. Of equal ones in a block the first is enough."""
        first, _ = _first_of_equals(texts)
        kept = self._likeness.prepare(texts.take(first == np.arange(len(texts))))
        self.shelf.put(kept, np.full(len(kept), job, np.int32))

    def judged(self, texts: Signatures) -> list[Rejected]:
        """Judge a block of texts that stand behind all that was seen, and accept those that are not rejected."""
        first, distinct = _first_of_equals(texts)
        block = self._likeness.prepare(texts.take(distinct))
        alive = np.ones(len(block), bool)
        found: dict[int, Rejected] = {}
        for shelved in self.shelf:
            known = shelved.texts
            likes = self._likeness.first_alike(block, alive, known, np.ones(len(known), bool))
            self._reject(block, likes, known, [self._jobs[job] for job in shelved.jobs[likes[likes != NONE]]], found)
            alive &= likes == NONE
        self._settle(block, alive, 0, len(block), found)
        accepted = block.signatures.take(alive)
        if len(accepted):
            # Prepared once, for the block: the rest is left out.
            bands = None if block.bands is None else block.bands.of(alive)
            if bands is not None:
                bands = type(bands)(bands.keys, (np.cumsum(alive, dtype=np.int32) - 1)[bands.owners])
            heads = None if block.heads is None else block.heads[alive]
            self.shelf.put(TextSet(accepted, bands, heads), np.zeros(len(accepted), np.int32))
        return self._with_equals(texts, first, distinct, found)

    def _settle(
        self, block: TextSet, alive: NDArray[np.bool_], first: int, end: int, found: dict[int, Rejected]
    ) -> None:
        """Judge the texts `first` to `end` of a block among themselves; `alive` are then those that are accepted.

        Where too many pairs may be alike, the first half is settled, then meets the second: few that are alike remain.
        """
        mask = np.zeros(len(block), bool)
        mask[first:end] = alive[first:end]
        if not mask.any():
            return
        if end - first <= _SMALL or self._likeness.within_few(block, mask, _DIRECT_PAIRS):
            self._settle_pairs(block, mask, alive, found)
            return
        middle = (first + end) // 2
        self._settle(block, alive, first, middle, found)
        known, asking = mask.copy(), mask
        known[middle:] = False
        known &= alive
        asking[:middle] = False
        likes = self._likeness.first_alike(block, asking, block, known)
        self._reject(block, likes, block, None, found)
        alive &= likes == NONE
        self._settle(block, alive, middle, end, found)

    def _settle_pairs(
        self, block: TextSet, mask: NDArray[np.bool_], alive: NDArray[np.bool_], found: dict[int, Rejected]
    ) -> None:
        later, earlier = self._likeness.pairs_within(block, mask)
        likes = np.full(len(block), NONE, np.int64)
        starts = np.flatnonzero(np.diff(later, prepend=NONE)).tolist()
        for start, stop in itertools.pairwise([*starts, len(later)]):
            others = earlier[start:stop]
            accepted = others[alive[others]]
            if len(accepted):
                row = later[start]
                likes[row] = accepted[0]
                alive[row] = False
        self._reject(block, likes, block, None, found)

    def _reject(
        self,
        block: TextSet,
        likes: NDArray[np.int64],
        known: TextSet,
        jobs: list[str] | None,
        found: dict[int, Rejected],
    ) -> None:
        rows = np.flatnonzero(likes != NONE)
        for at in range(0, len(rows), _AT_ONCE):
            some = rows[at : at + _AT_ONCE]
            asked, others = block.signatures.take(some), known.signatures.take(likes[some])
            told = self._likeness.told(asked, others)
            named = [""] * len(some) if jobs is None else jobs[at : at + _AT_ONCE]
            for row, index, of, (rule, similarity), job in zip(
                some.tolist(), asked.index.tolist(), others.index.tolist(), told, named, strict=True
            ):
                found[row] = Rejected(index, rule, of, similarity, job)

    def _with_equals(
        self, texts: Signatures, first: NDArray[np.int64], distinct: NDArray[np.int64], found: dict[int, Rejected]
    ) -> list[Rejected]:
        """What was found of distinct texts, and of those that equal one: it shares the fate, or is rejected for it."""
        by_row = {int(distinct[row]): rejected for row, rejected in found.items()}
        equals = np.flatnonzero(first != np.arange(len(texts)))
        if len(equals):
            told = self._likeness.told(texts.take(equals[:1]), texts.take(first[equals[:1]]))[0]
            for row in equals.tolist():
                leader = int(first[row])
                index = int(texts.index[row])
                fate = by_row.get(leader)
                by_row[row] = (
                    Rejected(index, told[0], int(texts.index[leader]), told[1])
                    if fate is None
                    else msgspec.structs.replace(fate, index=index)
                )
        return [by_row[row] for row in sorted(by_row)]


def _first_of_equals(texts: Signatures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each text the first of its block with the same digest, and the rows that are such a first, in order."""
    order = np.lexsort((texts.digest[:, 1], texts.digest[:, 0]))  # stable: equal ones stay in order
    ordered = texts.digest[order]
    leads = np.ones(len(order), bool)
    leads[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(leads)][np.cumsum(leads) - 1]
    return first, np.flatnonzero(first == np.arange(len(order)))
